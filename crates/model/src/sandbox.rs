//! What isolates a guest: namespaces, ids, capabilities, system calls, device nodes, resource limits.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::id::{IdMap, InstanceId};
use crate::pin::PinId;

/// The kinds of namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamespaceKind {
    /// View of the cgroup tree.
    Cgroup,
    /// System V IPC, POSIX message queues.
    Ipc,
    /// Mounts.
    Mnt,
    /// Network.
    Net,
    /// Process ids.
    Pid,
    /// Monotonic and boot-time clocks.
    Time,
    /// User and group ids, capabilities.
    User,
    /// Host name.
    Uts,
}

impl NamespaceKind {
    /// Every kind, in alphabetical order.
    pub const ALL: [NamespaceKind; 8] = [
        NamespaceKind::Cgroup,
        NamespaceKind::Ipc,
        NamespaceKind::Mnt,
        NamespaceKind::Net,
        NamespaceKind::Pid,
        NamespaceKind::Time,
        NamespaceKind::User,
        NamespaceKind::Uts,
    ];

    /// The kind of a name.
    pub fn named(name: &str) -> Option<NamespaceKind> {
        NamespaceKind::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// The name under `/proc/PID/ns` and in configuration keys.
    pub fn as_str(self) -> &'static str {
        match self {
            NamespaceKind::Cgroup => "cgroup",
            NamespaceKind::Ipc => "ipc",
            NamespaceKind::Mnt => "mnt",
            NamespaceKind::Net => "net",
            NamespaceKind::Pid => "pid",
            NamespaceKind::Time => "time",
            NamespaceKind::User => "user",
            NamespaceKind::Uts => "uts",
        }
    }
}

/// Whose namespace of a kind a guest lives in.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Share {
    /// A new one of its own.
    #[default]
    Private,
    /// The host's.
    Host,
    /// That of another instance, as long as that runs.
    Instance(InstanceId),
    /// One that is pinned at this path of the host.
    Path(String),
    /// One that we keep: a namespace object, or the instance's own that outlives its boots.
    Pin(PinId),
}

/// What a guest's clocks show when it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Clocks {
    /// Nothing yet: it has been up for as long as it runs.
    FromZero,
    /// The host's monotonic and boot-time clocks and so many seconds more.
    Offset(i64),
}

/// The namespaces of a guest: whose they are, and what follows from that.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Namespaces {
    /// Whose; a kind that is missing is [`Share::Private`].
    pub shares: BTreeMap<NamespaceKind, Share>,
    /// Kinds whose namespace does not belong to the guest's user namespace, so that its root has no rights over it.
    pub foreign: BTreeSet<NamespaceKind>,
    /// Units of systemd that cannot work then; they are masked for each boot.
    pub masked_units: Vec<String>,
    /// Clocks, with a time namespace of its own.
    pub clocks: Option<Clocks>,
}

impl Namespaces {
    /// Whose namespace of a kind it is.
    pub fn of(&self, kind: NamespaceKind) -> &Share {
        self.shares.get(&kind).unwrap_or(&Share::Private)
    }

    /// Whether its init is the first process of its pid namespace, with which all others there end.
    pub fn is_first(&self) -> bool {
        *self.of(NamespaceKind::Pid) == Share::Private
    }

    /// Pins that it lives at.
    pub fn pins(&self) -> impl Iterator<Item = PinId> {
        self.shares.values().filter_map(|share| if let Share::Pin(pin) = share { Some(*pin) } else { None })
    }

    /// Instances that must run for this one to start.
    pub fn owners(&self) -> BTreeSet<InstanceId> {
        self.shares
            .values()
            .filter_map(|share| if let Share::Instance(id) = share { Some(*id) } else { None })
            .collect()
    }
}

/// How far the guest's mount tree is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountMode {
    /// `/`, `/proc`, `/sys` and `/dev` are locked and nothing is locked over `/proc`: nested sandboxes keep working.
    #[default]
    Lean,
    /// Masks over `/proc` and all children are locked too; the price is that every fresh proc mount is refused.
    Strict,
}

/// A character device node that the guest gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    /// Path below `/dev`.
    pub path: String,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// Which system calls are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seccomp {
    /// None.
    Off,
    /// Those that reach the host's kernel as a whole or have a bad history.
    #[default]
    Base,
}

/// A resource limit of init and of every exec'd process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceLimit {
    /// Number of the resource as in `setrlimit(2)`.
    pub resource: u32,
    /// Soft limit; `u64::MAX` for none.
    pub soft: u64,
    /// Hard limit; `u64::MAX` for none.
    pub hard: u64,
}

/// Everything that stands between a guest and its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Ids of the guest's user namespace.
    pub ids: IdMap,
    /// Namespaces.
    pub namespaces: Namespaces,
    /// Mount tree.
    pub mounts: MountMode,
    /// `/sys` can be written (a guest with udev and nested containers wants it); by default it is read-only.
    pub sys_writable: bool,
    /// Numbers of the capabilities that stay in the bounding set.
    pub capabilities: BTreeSet<u8>,
    /// System calls.
    pub seccomp: Seccomp,
    /// Nodes in `/dev`.
    pub devices: Vec<DeviceNode>,
    /// Resource limits.
    pub rlimits: Vec<ResourceLimit>,
    /// Init gets a session keyring of its own.
    pub keyring: bool,
    /// Most nested user namespaces.
    pub max_user_namespaces: u32,
}

/// What [`MountMode::Strict`] covers of `/proc`: it tells of the host as a whole.
pub const COVERED: [&str; 8] =
    ["kcore", "keys", "sysrq-trigger", "timer_list", "latency_stats", "sched_debug", "kallsyms", "kmsg"];

/// What [`MountMode::Strict`] makes read-only of `/proc`.
pub const READ_ONLY: [&str; 4] = ["bus", "fs", "irq", "sys"];

/// What stays writable of that: these files belong to the guest's own network and user namespaces.
pub const OWN_OF_READ_ONLY: [&str; 2] = ["sys/net", "sys/user"];

/// Names of the capabilities, by number (`linux/capability.h`).
pub const CAPABILITIES: [&str; 41] = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];
