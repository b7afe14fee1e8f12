//! Instances and their state.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Config, Devices, or_default};

/// `GET /1.0/instances/NAME`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Instance {
    /// Architecture.
    pub architecture: String,
    /// Its own keys, and those that the daemon writes (`volatile.`).
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// Its own devices.
    #[serde(deserialize_with = "or_default")]
    pub devices: Devices,
    /// It is deleted when it stops.
    pub ephemeral: bool,
    /// Profiles.
    #[serde(deserialize_with = "or_default")]
    pub profiles: Vec<String>,
    /// Its state is kept while it is stopped.
    pub stateful: bool,
    /// Words about it.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
    /// RFC 3339.
    pub created_at: String,
    /// Keys with its profiles laid over.
    #[serde(deserialize_with = "or_default")]
    pub expanded_config: Config,
    /// Devices with its profiles laid over.
    #[serde(deserialize_with = "or_default")]
    pub expanded_devices: Devices,
    /// Name.
    pub name: String,
    /// In words.
    pub status: String,
    /// See [`crate::code`].
    pub status_code: u16,
    /// RFC 3339.
    pub last_used_at: String,
    /// `none`.
    pub location: String,
    /// `container`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Project.
    pub project: String,
}

/// An instance with everything about it: `recursion=2` on lists, `recursion=1` on one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct InstanceFull {
    /// The instance.
    #[serde(flatten)]
    pub instance: Instance,
    /// Backups.
    pub backups: Option<Vec<Value>>,
    /// What it uses.
    pub state: Option<InstanceState>,
    /// Snapshots.
    pub snapshots: Option<Vec<Value>>,
}

/// `PUT` and `PATCH /1.0/instances/NAME`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct InstancePut {
    /// Architecture.
    pub architecture: Option<String>,
    /// Keys.
    pub config: Option<Config>,
    /// Devices.
    pub devices: Option<Devices>,
    /// It is deleted when it stops.
    pub ephemeral: Option<bool>,
    /// Profiles.
    pub profiles: Option<Vec<String>>,
    /// Name of a snapshot to go back to.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub restore: String,
    /// Its state is kept while it is stopped.
    pub stateful: Option<bool>,
    /// Words about it.
    pub description: Option<String>,
}

/// `POST /1.0/instances`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct InstancesPost {
    /// Architecture.
    #[serde(deserialize_with = "or_default")]
    pub architecture: String,
    /// Keys.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// Devices.
    #[serde(deserialize_with = "or_default")]
    pub devices: Devices,
    /// It is deleted when it stops.
    #[serde(deserialize_with = "or_default")]
    pub ephemeral: bool,
    /// Profiles; `null` takes the default one.
    pub profiles: Option<Vec<String>>,
    /// Its state is kept while it is stopped.
    #[serde(deserialize_with = "or_default")]
    pub stateful: bool,
    /// Words about it.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
    /// Name; one is made up when empty.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// What it is made from.
    #[serde(deserialize_with = "or_default")]
    pub source: InstanceSource,
    /// A size by another cloud's name.
    #[serde(deserialize_with = "or_default")]
    pub instance_type: String,
    /// `container`.
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    /// Start it at once.
    #[serde(deserialize_with = "or_default")]
    pub start: bool,
}

/// What an instance is made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct InstanceSource {
    /// `image`, `none`, `copy` or `migration`.
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    /// Alias of an image.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub alias: String,
    /// Fingerprint of an image.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub fingerprint: String,
    /// Properties that an image must have.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: Config,
    /// Another server.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub server: String,
    /// Name of the instance to copy.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Project of the instance to copy.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub project: String,
    /// Without snapshots.
    #[serde(deserialize_with = "or_default")]
    pub instance_only: bool,
}

/// `PUT /1.0/instances/NAME/state`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct StatePut {
    /// `start`, `stop`, `restart`, `freeze` or `unfreeze`.
    #[serde(deserialize_with = "or_default")]
    pub action: String,
    /// Seconds until a clean stop is given up; -1 for the default.
    #[serde(deserialize_with = "or_default")]
    pub timeout: i64,
    /// Do not wait for a clean stop.
    #[serde(deserialize_with = "or_default")]
    pub force: bool,
    /// Keep the state of its processes.
    #[serde(deserialize_with = "or_default")]
    pub stateful: bool,
}

/// `PUT /1.0/instances`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct InstancesPutState {
    /// What all instances shall do.
    pub state: Option<StatePut>,
}

/// `GET /1.0/instances/NAME/state`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct InstanceState {
    /// In words.
    pub status: String,
    /// See [`crate::code`].
    pub status_code: u16,
    /// By device.
    #[serde(deserialize_with = "or_default")]
    pub disk: BTreeMap<String, StateDisk>,
    /// Memory.
    pub memory: StateMemory,
    /// By link; `null` when stopped.
    pub network: Option<BTreeMap<String, StateNetwork>>,
    /// Pid of init on the host; 0 when stopped.
    pub pid: i64,
    /// Processes and threads.
    pub processes: i64,
    /// CPU.
    pub cpu: StateCpu,
    /// RFC 3339.
    pub started_at: String,
    /// What an agent in the guest tells; there is none.
    pub os_info: Option<Value>,
}

/// Use of a disk in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct StateDisk {
    /// Its own.
    pub usage: i64,
    /// What it may use; 0 for no limit.
    pub total: i64,
}

/// Use of memory in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct StateMemory {
    /// Now.
    pub usage: i64,
    /// The most so far.
    pub usage_peak: i64,
    /// What it may use.
    pub total: i64,
    /// Swapped out now.
    pub swap_usage: i64,
    /// The most so far.
    pub swap_usage_peak: i64,
}

/// Use of CPU time in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct StateCpu {
    /// So far.
    pub usage: i64,
    /// What it may use in each second; 0 for no limit.
    pub allocated_time: i64,
}

/// A link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct StateNetwork {
    /// Addresses.
    #[serde(deserialize_with = "or_default")]
    pub addresses: Vec<StateAddress>,
    /// Counters.
    pub counters: StateCounters,
    /// Hardware address.
    pub hwaddr: String,
    /// Name of the host's end.
    pub host_name: String,
    /// Largest packet.
    pub mtu: u32,
    /// `up` or `down`.
    pub state: String,
    /// `broadcast` or `loopback`.
    #[serde(rename = "type")]
    pub kind: String,
}

/// An address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct StateAddress {
    /// `inet` or `inet6`.
    pub family: String,
    /// The address.
    pub address: String,
    /// Length of the prefix, as text.
    pub netmask: String,
    /// `global`, `link` or `local`.
    pub scope: String,
}

/// Counters of a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct StateCounters {
    /// Bytes received.
    pub bytes_received: i64,
    /// Bytes sent.
    pub bytes_sent: i64,
    /// Packets received.
    pub packets_received: i64,
    /// Packets sent.
    pub packets_sent: i64,
    /// Received with errors.
    pub errors_received: i64,
    /// Not sent for errors.
    pub errors_sent: i64,
    /// Dropped on the way out.
    pub packets_dropped_outbound: i64,
    /// Dropped on the way in.
    pub packets_dropped_inbound: i64,
}
