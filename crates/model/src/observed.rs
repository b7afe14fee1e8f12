//! What is: one look at the host for one instance.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::id::{BootGen, RootGen};
use crate::knob::Settings;
use crate::name::DeviceName;
use crate::net::{Mac, NicLimits, WireSeen};
use crate::pin::PinSeen;
use crate::sandbox::NamespaceKind;

/// How an init ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// The guest asked for a reboot.
    Reboot,
    /// The guest halted or powered off.
    Halt,
    /// Init exited by itself with this code.
    Exit(i32),
    /// Init was killed by this signal.
    Signal(i32),
    /// Nobody who could know the cause saw it.
    Unknown,
}

/// The guest of one boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuestSeen {
    /// There is none (yet).
    Absent,
    /// Init is made and waits to be let go.
    Prepared {
        /// Pid of the waiting init on the host.
        pid: u32,
    },
    /// Init runs.
    Running {
        /// Pid of init on the host.
        pid: u32,
    },
    /// Init is gone.
    Ended(End),
}

/// A control group of one boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSeen {
    /// Its processes are held still (or will be at once).
    pub frozen: bool,
    /// What its knobs are set to.
    pub settings: Settings,
    /// All of it was made; else its making was cut short.
    pub complete: bool,
}

/// A NIC of one boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicSeen {
    /// Name of the host's end; empty for a wire, which has none.
    pub host_name: String,
    /// Hardware address of the guest's end, where it can be told.
    pub mac: Option<Mac>,
    /// It is all that it should be; a link of a former daemon that is not gets made again.
    pub complete: bool,
    /// Which wire it is, when it is one.
    pub wire: Option<WireSeen>,
    /// It is no port of a bridge, but has a part in a chain.
    pub chained: bool,
    /// Its limits, as the kernel keeps them.
    pub limits: NicLimits,
}

/// Everything on the host that belongs to one boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootSeen {
    /// A keeper answers for it.
    pub keeper: bool,
    /// Its guest.
    pub guest: GuestSeen,
    /// Its control group.
    pub group: Option<GroupSeen>,
    /// Its links.
    pub nics: BTreeMap<DeviceName, NicSeen>,
}

/// Everything on the host that belongs to one instance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Observed {
    /// Root file systems in the pool.
    pub roots: BTreeSet<RootGen>,
    /// Boots of which something is left.
    pub boots: BTreeMap<BootGen, BootSeen>,
    /// Namespaces of its own that outlive its boots.
    pub pins: BTreeMap<NamespaceKind, PinSeen>,
}
