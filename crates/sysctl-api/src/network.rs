//! Networks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Config, or_default};

/// A network: a managed bridge, or a link of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Network {
    /// Keys.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// Words about it.
    pub description: String,
    /// Name.
    pub name: String,
    /// `bridge`, `chain`, `physical` or `loopback`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Paths of what uses it.
    #[serde(deserialize_with = "or_default")]
    pub used_by: Vec<String>,
    /// It is ours.
    pub managed: bool,
    /// `Created`, or empty for links of the host.
    pub status: String,
    /// Members of the cluster that have it.
    #[serde(deserialize_with = "or_default")]
    pub locations: Vec<String>,
    /// Project.
    pub project: String,
}

/// An address that was given out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct NetworkLease {
    /// Name of the instance.
    pub hostname: String,
    /// Hardware address.
    pub hwaddr: String,
    /// The address.
    pub address: String,
    /// `gateway`, `static` or `dynamic`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `none`.
    pub location: String,
    /// Project of the instance.
    pub project: String,
}

/// `GET /1.0/networks/NAME/state`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct NetworkState {
    /// Addresses of the host on it.
    #[serde(deserialize_with = "or_default")]
    pub addresses: Vec<NetworkStateAddress>,
    /// Counters.
    pub counters: NetworkStateCounters,
    /// Hardware address.
    pub hwaddr: String,
    /// Largest packet.
    pub mtu: u32,
    /// `up` or `down`.
    pub state: String,
    /// `broadcast` or `loopback`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Of a bridge.
    pub bridge: Option<NetworkStateBridge>,
    /// Of a chain: extension `sysctl_chains`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain: Option<ChainState>,
}

/// The hops of a chain, from the network to the instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct ChainState {
    /// The network, the functions, the NIC at the end.
    #[serde(deserialize_with = "or_default")]
    pub hops: Vec<ChainHop>,
}

/// One stop of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct ChainHop {
    /// Name of the network, of the instance, or `INSTANCE:DEVICE` at the end.
    pub name: String,
    /// It has all of its links.
    pub up: bool,
    /// Packets pass it by.
    pub bypassed: bool,
    /// Its links: of a function that on the side of the network first.
    #[serde(deserialize_with = "or_default")]
    pub links: Vec<ChainLink>,
}

/// A link of a chain, as its guest counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct ChainLink {
    /// Name in the guest; of the uplink its name on the host.
    pub name: String,
    /// Bytes received.
    pub bytes_received: i64,
    /// Bytes sent.
    pub bytes_sent: i64,
    /// Packets received.
    pub packets_received: i64,
    /// Packets sent.
    pub packets_sent: i64,
    /// Packets that there was no room for, either way.
    pub packets_dropped: i64,
}

/// `POST /1.0/networks`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct NetworksPost {
    /// Name.
    pub name: String,
    /// `chain`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Keys.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// Words about it.
    pub description: String,
}

/// `PUT /1.0/networks/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct NetworkPut {
    /// Keys.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// Words about it.
    pub description: String,
}

/// An address of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct NetworkStateAddress {
    /// `inet` or `inet6`.
    pub family: String,
    /// The address.
    pub address: String,
    /// Length of the prefix, as text.
    pub netmask: String,
    /// `global` or `link`.
    pub scope: String,
}

/// Counters of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct NetworkStateCounters {
    /// Bytes received.
    pub bytes_received: i64,
    /// Bytes sent.
    pub bytes_sent: i64,
    /// Packets received.
    pub packets_received: i64,
    /// Packets sent.
    pub packets_sent: i64,
}

/// State of a bridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct NetworkStateBridge {
    /// Its id.
    pub id: String,
    /// Spanning tree.
    pub stp: bool,
    /// Forward delay.
    pub forward_delay: u64,
    /// Default VLAN.
    pub vlan_default: u64,
    /// VLANs are told apart.
    pub vlan_filtering: bool,
    /// Links on it.
    #[serde(deserialize_with = "or_default")]
    pub upper_devices: Vec<String>,
    /// More.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rest: BTreeMap<String, String>,
}
