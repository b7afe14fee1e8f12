//! The types of the `/1.0` wire: bodies, envelope, errors, events, extensions.
//!
//! Plain data as stock clients send and expect it, in the field order that they know. No input or output, no logic. Request
//! types take missing fields and `null` as the zero value, and ignore fields that they do not know, as Go's decoder does.

mod autoscale;
mod envelope;
mod event;
mod exec;
mod extensions;
mod image;
mod instance;
mod limits;
mod network;
mod operation;
mod project;
mod server;
mod storage;
mod sysctl;

pub use autoscale::{Autoscaling, ScaleLevel, ScaleMove};
pub use envelope::{Envelope, ErrorBody, code};
pub use event::{Event, LifecycleEvent, LoggingEvent, Requestor};
pub use exec::{ConsolePost, ExecControl, ExecPost, StreamNote, WindowSize};
pub use extensions::{EXTENSIONS, OWN_EXTENSIONS};
pub use image::{Image, ImageAlias, ImageAliasEntry, ImageAliasPost, ImagePost, ImagePut, ImageSource};
pub use instance::{
    Instance, InstanceFull, InstancePut, InstanceSource, InstanceState, InstancesPost, InstancesPutState, StateAddress,
    StateCounters, StateCpu, StateDisk, StateMemory, StateNetwork, StatePut,
};
pub use limits::{
    AppliedKnob, InstanceLoad, LimitHits, LimitKnob, LimitsApplied, LimitsPatch, Pressure, Stall, Stalls,
};
pub use network::{
    ChainHop, ChainLink, ChainState, Network, NetworkLease, NetworkPut, NetworkState, NetworkStateAddress,
    NetworkStateBridge, NetworkStateCounters, NetworksPost,
};
pub use operation::Operation;
pub use project::{Profile, ProfilePut, ProfilesPost, Project, ProjectPut};
pub use server::{Environment, Server, StorageDriver};
pub use storage::{PoolInodes, PoolResources, PoolSpace, StoragePool};
pub use sysctl::{
    CONSEQUENCE, DoctorReport, Explanation, Finding, InstanceNamespace, NamespaceAdoption, NamespacePatch,
    NamespaceView, NamespacesGc, NamespacesGcPost, NamespacesPost, PlanStep,
};

use std::collections::BTreeMap;

/// Configuration: keys and values, both text.
pub type Config = BTreeMap<String, String>;

/// Devices: name to keys and values.
pub type Devices = BTreeMap<String, BTreeMap<String, String>>;

/// Takes `null` as the zero value.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: serde::Deserialize<'de> + Default,
{
    use serde::Deserialize;
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// "Never", as Go writes a time that was not set.
pub const NEVER: &str = "0001-01-01T00:00:00Z";
