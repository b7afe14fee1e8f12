//! Our own additions to the wire.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Name in a plan of what is no step of it, but what it means for somebody else; `detail` has the path of that one as `object`.
pub const CONSEQUENCE: &str = "consequence";

/// One step of a plan: extension `sysctl_plan`, `?plan=1` on changes of instances, their state, their limits, and of networks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanStep {
    /// Name of the step, or [`CONSEQUENCE`].
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

/// A namespace that running instances live in, or that is an object: `GET /1.0/namespaces?recursion=1`. Extension
/// `sysctl_namespaces`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct NamespaceView {
    /// Its kind, as under `/proc/PID/ns`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its inode number on the host's nsfs: what tells it from others of its kind.
    pub inode: u64,
    /// As a key has it: `host`, `instance:NAME` that it was made for, `named:OBJECT`, or `path:FILE` that it is pinned at;
    /// `gone` where its maker is.
    pub owner: String,
    /// Names of the instances that live in it.
    pub holders: Vec<String>,
    /// Name of the object; empty for one that ends with who lives in it, which has none of the following either.
    pub name: String,
    /// Words about it.
    pub description: String,
    /// The file of the host that it is pinned at, for `nsenter` and others.
    pub pin: String,
    /// It is at `/run/netns`, too.
    pub netns: bool,
    /// The user namespace object whose users have rights over it.
    pub user_namespace: String,
    /// Of a user namespace: first id on the host, and how many.
    pub ids: String,
    /// Paths of what uses it.
    pub used_by: Vec<String>,
}

/// `POST /1.0/namespaces`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct NamespacesPost {
    /// Its kind: `net`, `ipc`, `uts`, `user` or `time`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its name among those of its kind.
    pub name: String,
    /// Words about it.
    pub description: String,
    /// It is at `/run/netns` by its name, too.
    pub netns: bool,
    /// The user namespace object in which it is made.
    pub user_namespace: String,
    /// It is one that there is already.
    pub adopt: Option<NamespaceAdoption>,
}

/// A namespace that there is already: one of both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct NamespaceAdoption {
    /// A running instance that lives in it.
    pub instance: String,
    /// The file that it is at.
    pub path: String,
}

/// `PATCH /1.0/namespaces/TYPE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct NamespacePatch {
    /// Words about it.
    pub description: Option<String>,
    /// It is at `/run/netns`, too.
    pub netns: Option<bool>,
}

/// `POST /1.0/namespaces/gc`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct NamespacesGcPost {
    /// Only tell.
    pub dry_run: bool,
}

/// What `gc` removed, or would remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct NamespacesGc {
    /// Paths of objects that nobody uses.
    pub namespaces: Vec<String>,
    /// Files of pins that belong to nothing.
    pub pins: Vec<String>,
}

/// Whose namespace of one kind an instance lives in: `GET /1.0/instances/NAME/namespaces`. Extension `sysctl_namespaces`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct InstanceNamespace {
    /// Its kind, as under `/proc/PID/ns`.
    #[serde(rename = "type")]
    pub kind: String,
    /// As the key `namespaces.KIND` has it: `private`, `host`, `instance:NAME`, `named:OBJECT` or `path:FILE`.
    pub mode: String,
    /// Its inode number; 0 when the instance does not run.
    pub inode: u64,
    /// Others that live in it, as a key has them: `host`, `instance:NAME`.
    pub shared_with: Vec<String>,
    /// The instance's root has rights over it.
    pub own: bool,
}
