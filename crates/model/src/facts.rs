//! What this host can do, found out once at the daemon's start.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::knob::{BlockDevice, Knob};

/// How the host's control groups are laid out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CgroupLayout {
    /// One tree at `root` with the given controllers.
    Unified {
        /// Where cgroup2 is mounted.
        root: String,
    },
    /// A cgroup2 tree without controllers, and v1 hierarchies beside it.
    Hybrid {
        /// Where cgroup2 is mounted.
        root: String,
        /// The v1 hierarchies: mount point and the controllers in it (`name=` hierarchies carry none).
        v1: Vec<V1Hierarchy>,
    },
}

/// One mounted cgroup v1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct V1Hierarchy {
    /// Where it is mounted.
    pub root: String,
    /// Its controllers, like `memory`, or `name=systemd` for one that only groups.
    pub controllers: Vec<String>,
}

/// The three ways in which kernels take the layers of an overlay whose layers are idmapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OverlayWay {
    /// Layers as descriptors of detached mounts (Linux 6.13 and newer).
    Descriptors,
    /// Layers attached in a private mount namespace, each given by `lowerdir+` (6.8 to 6.12).
    AttachedAppend,
    /// Layers attached in a private mount namespace, given as one string of short relative names (6.1).
    AttachedString,
}

/// The facts on which `plan` decides and which `explain` and `doctor` show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Kernel release as `uname -r` prints it.
    pub kernel: String,
    /// Machine as `uname -m` prints it.
    pub machine: String,
    /// Cgroup layout.
    pub cgroups: CgroupLayout,
    /// Knobs that this kernel has for a guest's group.
    pub knobs: BTreeSet<Knob>,
    /// The disk under the state directory, which pools are on unless they say otherwise; `None` when it is no one disk.
    pub disk: Option<BlockDevice>,
    /// How overlays are made.
    pub overlay: OverlayWay,
    /// `/proc` of any pid namespace can be mounted by descriptor (Linux 6.17 and newer).
    pub proc_by_descriptor: bool,
    /// The kernel has time namespaces.
    pub time_namespaces: bool,
    /// Pressure stall information is kept per cgroup.
    pub pressure: bool,
    /// Ids of the CPUs that are online.
    pub cpus: BTreeSet<u32>,
    /// Memory of the host in bytes.
    pub memory_bytes: u64,
    /// Landlock version; 0 where there is none.
    pub landlock: u32,
    /// Names of device nodes under `/dev` that guests get when the host has them (`fuse`, `net/tun`).
    pub devices: BTreeSet<String>,
    /// Links can be held to limits: the kernel has classifiers (clsact) that ask programs (cls_bpf), and we may load some.
    pub link_limits: bool,
    /// There is an lxcfs, by which guests see their limits in `/proc`.
    pub lxcfs: bool,
    /// Our own limits: `CAP_SYS_RESOURCE` is held (resource limits and OOM scores can be raised).
    pub may_raise_limits: bool,
}
