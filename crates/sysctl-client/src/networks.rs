//! Networks.

use sysctl_api::{Network, NetworkLease, NetworkState};

use crate::client::{Client, Tagged};
use crate::error::Result;
use crate::instances::ListOptions;
use crate::uri::Uri;

const NETWORKS: &str = "/1.0/networks";

impl Client {
    /// Managed networks, and the host's own links.
    pub async fn get_networks(&self, options: &ListOptions) -> Result<Vec<Network>> {
        self.get(options.apply(Uri::new(NETWORKS), "1")).await
    }

    /// A network.
    pub async fn get_network(&self, name: &str) -> Result<Tagged<Network>> {
        self.get_tagged(Uri::new(NETWORKS).part(name)).await
    }

    /// Addresses and counters of a network.
    pub async fn get_network_state(&self, name: &str) -> Result<NetworkState> {
        self.get(Uri::new(NETWORKS).part(name).part("state")).await
    }

    /// Addresses that a network has given out.
    pub async fn get_network_leases(&self, name: &str) -> Result<Vec<NetworkLease>> {
        self.get(Uri::new(NETWORKS).part(name).part("leases")).await
    }
}
