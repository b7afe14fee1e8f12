//! Chains: functions, which are instances, between a network and an instance.

use serde::{Deserialize, Serialize};

use crate::id::InstanceId;
use crate::name::{DeviceName, NetworkName};
use crate::net::NicId;

/// What becomes of packets for a function that does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// They are thrown away: nothing passes a firewall that is down.
    #[default]
    Block,
    /// They pass it by.
    Bypass,
}

/// A function of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// The instance.
    pub function: InstanceId,
    /// Its NIC on the side of the network.
    pub inward: DeviceName,
    /// Its NIC on the side of the instance at the end.
    pub outward: DeviceName,
    /// Packets pass it by. What it sends itself goes on its way.
    pub bypassed: bool,
}

impl Hop {
    /// Its NICs: that on the side of the network, and the other.
    pub fn nics(&self) -> [NicId; 2] {
        [&self.inward, &self.outward].map(|device| NicId { id: self.function, device: device.clone() })
    }
}

/// A chain as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainSpec {
    /// The managed bridge that it begins at.
    pub from: NetworkName,
    /// The NIC that it ends at; without a chain that is a port of the bridge.
    pub to: NicId,
    /// Functions, from the network to the instance.
    pub hops: Vec<Hop>,
    /// What becomes of packets for one that does not run.
    pub on_failure: OnFailure,
}

impl ChainSpec {
    /// Every NIC that has a part in it.
    pub fn nics(&self) -> impl Iterator<Item = NicId> {
        self.hops.iter().flat_map(Hop::nics).chain([self.to.clone()])
    }
}
