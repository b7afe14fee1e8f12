//! Our own additions to the wire.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One step of a plan: extension `sysctl_plan`, `?plan=1` on create and change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanStep {
    /// Name of the step.
    pub step: String,
    /// What it does, in words.
    pub text: String,
    /// All of it.
    pub detail: Value,
}

/// `GET /1.0/doctor`: every object on the host against everything that is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct DoctorReport {
    /// What was looked at, with how many there were.
    pub checks: Vec<Finding>,
    /// What is wrong. Empty when all is well.
    pub findings: Vec<Finding>,
    /// What is not wrong but worth knowing (limits of the host, features it lacks).
    pub notes: Vec<Finding>,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Finding {
    /// Kind of object, like `cgroup`.
    pub kind: String,
    /// Which one; or how many for a check.
    pub object: String,
    /// What about it.
    pub text: String,
    /// What to do about it.
    pub fix: String,
}
