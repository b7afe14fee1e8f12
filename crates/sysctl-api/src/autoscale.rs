//! Limits that follow the need: extension `sysctl_autoscale`.

use serde::{Deserialize, Serialize};

/// `GET /1.0/instances/NAME/autoscale`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Autoscaling {
    /// `on`, `observe` or `off`.
    pub mode: String,
    /// Bytes of memory; absent when they do not follow.
    pub memory: Option<ScaleLevel>,
    /// Hundredths of one CPU; absent when they do not follow.
    pub cpu: Option<ScaleLevel>,
    /// The newest moves, the last one at the end.
    pub history: Vec<ScaleMove>,
}

/// Where a limit may be, and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct ScaleLevel {
    /// Least.
    pub min: u64,
    /// Most.
    pub max: u64,
    /// Now.
    pub level: u64,
}

/// One move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct ScaleMove {
    /// When.
    pub at: String,
    /// `memory` or `cpu`.
    pub resource: String,
    /// From this level.
    pub from: u64,
    /// To this one.
    pub to: u64,
    /// Why.
    pub cause: String,
    /// Microseconds from the kernel's word until the limit held; 0 when it was only observed.
    pub us: u64,
}
