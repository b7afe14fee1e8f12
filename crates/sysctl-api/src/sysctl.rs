//! Our own additions to the wire.

use std::collections::BTreeMap;

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

/// `GET /1.0/instances/NAME/explain`: what isolates a running instance, and from what. Extension `sysctl_explain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Explanation {
    /// Name of the instance.
    pub name: String,
    /// Pid of its init on the host.
    pub pid: i64,
    /// By kind, as the kernel tells: `its own` or `the host's`.
    pub namespaces: BTreeMap<String, String>,
    /// Its ids and the host's.
    pub ids: String,
    /// Capabilities that its root may have.
    pub capabilities: Vec<String>,
    /// Those that nobody in it can have.
    pub capabilities_dropped: Vec<String>,
    /// System calls.
    pub seccomp: String,
    /// Its mount tree.
    pub mounts: String,
    /// `/sys` can be written.
    pub sys_writable: bool,
    /// Device nodes.
    pub devices: Vec<String>,
    /// Limits as they were last seen on the host, by knob.
    pub limits: BTreeMap<String, String>,
    /// By device: the host's end, the network, and what the firewall lets it send as.
    pub links: BTreeMap<String, String>,
    /// What is shared with the host, in sentences.
    pub exposed: Vec<String>,
}

/// A namespace that running instances live in: `GET /1.0/namespaces?recursion=1`. Extension `sysctl_namespaces`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct NamespaceView {
    /// Its kind, as under `/proc/PID/ns`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its inode number on the host's nsfs: what tells it from others of its kind.
    pub inode: u64,
    /// `host`, the name of the instance that it was made for, or the path that it is pinned at.
    pub owner: String,
    /// Names of the instances that live in it.
    pub holders: Vec<String>,
}

/// Whose namespace of one kind an instance lives in: `GET /1.0/instances/NAME/namespaces`. Extension `sysctl_namespaces`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct InstanceNamespace {
    /// Its kind, as under `/proc/PID/ns`.
    #[serde(rename = "type")]
    pub kind: String,
    /// As the key `namespaces.KIND` has it: `private`, `host`, `instance:NAME` or `path:FILE`.
    pub mode: String,
    /// Its inode number; 0 when the instance does not run.
    pub inode: u64,
    /// Names of others that live in it; `host` is the host itself.
    pub shared_with: Vec<String>,
    /// The instance's root has rights over it.
    pub own: bool,
}
