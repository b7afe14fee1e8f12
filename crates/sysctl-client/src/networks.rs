//! Networks.

use hyper::Method;
use sysctl_api::{Network, NetworkLease, NetworkPut, NetworkState, NetworksPost, PlanStep};

use crate::client::{Client, Nothing, Tagged};
use crate::error::Result;
use crate::instances::{ListOptions, plan};
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

    /// Makes a chain.
    pub async fn create_network(&self, post: &NetworksPost) -> Result<()> {
        self.send::<Nothing>(Method::POST, Uri::new(NETWORKS), post, None).await.map(drop)
    }

    /// What [`Client::create_network`] would do.
    pub async fn plan_create_network(&self, post: &NetworksPost) -> Result<Vec<PlanStep>> {
        self.send(Method::POST, plan(Uri::new(NETWORKS)), post, None).await
    }

    /// Changes a chain.
    pub async fn update_network(&self, name: &str, put: &NetworkPut, etag: Option<&str>) -> Result<()> {
        self.send::<Nothing>(Method::PUT, Uri::new(NETWORKS).part(name), put, etag).await.map(drop)
    }

    /// What [`Client::update_network`] would do.
    pub async fn plan_update_network(&self, name: &str, put: &NetworkPut, etag: Option<&str>) -> Result<Vec<PlanStep>> {
        self.send(Method::PUT, plan(Uri::new(NETWORKS).part(name)), put, etag).await
    }

    /// Deletes a chain.
    pub async fn delete_network(&self, name: &str) -> Result<()> {
        self.delete::<Nothing>(Uri::new(NETWORKS).part(name)).await.map(drop)
    }

    /// What [`Client::delete_network`] would do.
    pub async fn plan_delete_network(&self, name: &str) -> Result<Vec<PlanStep>> {
        self.delete(plan(Uri::new(NETWORKS).part(name))).await
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
