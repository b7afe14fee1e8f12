//! The one table of configuration keys, and the way from what users wrote to typed values.
//!
//! It does no input or output and does not know who uses a key.

mod chain;
mod device_rules;
mod devices;
mod grain;
mod instance;
mod keys;
mod limits;
mod written;

pub use chain::{ChainChoice, FunctionChoice, chain};
pub use devices::{DeviceKind, NicChoice, RootChoice, WireChoice, is_wire, wires};
pub use grain::{GrainChoice, JoinPolicy, ShareChoice, parse as grain};
pub use instance::{InstanceConfig, SandboxChoice, check_profile, parse_instance};
pub use keys::{INSTANCE_KEYS, Key, Kind, Live, describe_kind, find_key};
pub use limits::{actions, autoscale, idle_freeze_ms, limits, told};
pub use written::{Expanded, Map, Maps, Written, expand};

/// A key or value that is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}{}: {reason}", if value.is_empty() { String::new() } else { format!(" = {value:?}") })]
pub struct Invalid {
    /// The key, or `device.key`.
    pub key: String,
    /// The value that was given.
    pub value: String,
    /// What is wrong, what is allowed, and what to do.
    pub reason: String,
}

impl Invalid {
    pub(crate) fn new(key: impl Into<String>, value: impl Into<String>, reason: impl Into<String>) -> Invalid {
        let value: String = value.into();
        Invalid { key: key.into(), value: value.chars().take(120).collect(), reason: reason.into() }
    }
}
