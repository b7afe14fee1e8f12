//! What should be: the part of a definition that the loop works towards.

use serde::{Deserialize, Serialize};

use crate::id::{BootGen, Fingerprint, InstanceId, RootGen};
use crate::limits::Limits;
use crate::name::{InstanceName, PoolName};
use crate::net::NicSpec;
use crate::sandbox::SandboxSpec;

/// What a root file system is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RootSource {
    /// Nothing.
    Empty,
    /// An image.
    Image(Fingerprint),
}

/// A file that the guest gets before the first boot of a root generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstBootFile {
    /// Absolute path in the guest; its directory must exist, else the file is left out.
    pub path: String,
    /// Content.
    pub content: String,
    /// Permission bits.
    pub mode: u32,
}

/// A definition with everything decided: profiles merged, keys typed, ids and addresses given out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceSpec {
    /// Name, also the guest's host name.
    pub name: InstanceName,
    /// Pool that holds the root file system.
    pub pool: PoolName,
    /// Isolation.
    pub sandbox: SandboxSpec,
    /// Limits.
    pub limits: Limits,
    /// NICs.
    pub nics: Vec<NicSpec>,
    /// Files written at the first boot of each root generation.
    pub first_boot: Vec<FirstBootFile>,
    /// Environment of init beyond the daemon's own variables.
    pub environment: Vec<(String, String)>,
    /// The program that becomes init.
    pub init: String,
}

/// The program that becomes init where no other is named.
pub const INIT: &str = "/sbin/init";

/// A storage pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolSpec {
    /// Its name.
    pub name: PoolName,
    /// Driver: `overlay`.
    pub driver: String,
    /// Directory on the host; below the state directory when empty.
    pub source: String,
}

/// How running boots that are not wished for are ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StopKind {
    /// Init is asked to halt and killed when it has not after so many seconds.
    Clean {
        /// Seconds.
        timeout_s: u32,
    },
    /// Killed at once.
    Force,
}

/// Whether an instance runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Power {
    /// It does not.
    Off,
    /// This boot of it does.
    On {
        /// Which boot.
        boot: BootGen,
        /// Its processes are held still.
        frozen: bool,
    },
}

impl Power {
    /// The boot that should run.
    pub fn boot(self) -> Option<BootGen> {
        match self {
            Power::Off => None,
            Power::On { boot, .. } => Some(boot),
        }
    }

    /// Whether a boot's processes are held still.
    pub fn is_frozen(self) -> bool {
        matches!(self, Power::On { frozen: true, .. })
    }
}

/// What should be true of one instance on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// Whose wish.
    pub id: InstanceId,
    /// Whether the instance exists at all.
    pub exists: bool,
    /// Whether it runs.
    pub power: Power,
    /// How other boots are ended.
    pub stop: StopKind,
    /// Which root file system it has.
    pub root: RootGen,
    /// What that is made from.
    pub source: RootSource,
    /// How it is made up.
    pub spec: InstanceSpec,
}
