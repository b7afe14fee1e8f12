//! The steps that change a host. Each is idempotent by name, observable, and all or nothing.

use serde::{Deserialize, Serialize};

use crate::id::{Boot, Fingerprint, InstanceId, RootGen};
use crate::knob::Settings;
use crate::name::{DeviceName, NetworkName, PoolName};
use crate::net::{NetworkSpec, NicSpec};
use crate::pin::{PinId, PinSpec};
use crate::wish::{InstanceSpec, PoolSpec, RootSource};

/// One step for one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// Have the image unpacked as a layer of the pool.
    EnsureImage {
        /// Which image.
        fingerprint: Fingerprint,
        /// Which pool.
        pool: PoolName,
    },
    /// Make the directories of a root file system.
    CreateRoot {
        /// Whose.
        id: InstanceId,
        /// Which generation.
        root: RootGen,
        /// Where.
        pool: PoolName,
        /// From what.
        source: RootSource,
    },
    /// Make the control groups of a boot and set their knobs.
    CreateGroup {
        /// Which boot.
        boot: Boot,
        /// The knobs.
        settings: Settings,
        /// Host id of the guest's root, who owns the delegated part.
        owner: u32,
    },
    /// Make init and everything around it, up to the moment before its exec.
    Spawn {
        /// Which boot.
        boot: Boot,
        /// Which root file system.
        root: RootGen,
        /// What that is based on.
        source: RootSource,
        /// How it is made up.
        spec: Box<InstanceSpec>,
    },
    /// Make a link into the guest and give it its addresses.
    AttachNic {
        /// Which boot.
        boot: Boot,
        /// The NIC.
        nic: NicSpec,
    },
    /// Let init run.
    Start {
        /// Which boot.
        boot: Boot,
    },
    /// Set knobs of a running boot, all or none.
    SetLimits {
        /// Which boot.
        boot: Boot,
        /// Those that are to change.
        settings: Settings,
    },
    /// Hold all processes of a boot still.
    Freeze {
        /// Which boot.
        boot: Boot,
    },
    /// Let them go on.
    Thaw {
        /// Which boot.
        boot: Boot,
    },
    /// Ask init to halt and wait until it has.
    Halt {
        /// Which boot.
        boot: Boot,
        /// Give up waiting after so many seconds.
        timeout_s: u32,
    },
    /// Kill all processes of a boot and wait for their end.
    Kill {
        /// Which boot.
        boot: Boot,
    },
    /// Remove a link.
    DetachNic {
        /// Which boot.
        boot: Boot,
        /// Which NIC.
        device: DeviceName,
        /// Name of the host's end.
        host_name: String,
    },
    /// Let the keeper of an ended boot go.
    ReleaseKeeper {
        /// Which boot.
        boot: Boot,
    },
    /// Remove the control groups of a boot.
    RemoveGroup {
        /// Which boot.
        boot: Boot,
    },
    /// Throw a root file system away.
    DiscardRoot {
        /// Whose.
        id: InstanceId,
        /// Which generation.
        root: RootGen,
        /// Where.
        pool: PoolName,
    },
    /// Take a finished upload as an image, under the fingerprint of its content.
    AdoptImage {
        /// Name of the upload.
        upload: String,
    },
    /// Build an image from a recipe.
    BuildImage {
        /// Fingerprint of the recipe.
        recipe: Fingerprint,
    },
    /// Unpack an image as a layer of a pool.
    UnpackLayer {
        /// Which image.
        fingerprint: Fingerprint,
        /// Which pool.
        pool: PoolName,
    },
    /// Remove a layer that no instance is based on.
    RemoveLayer {
        /// Which image.
        fingerprint: Fingerprint,
        /// Which pool.
        pool: PoolName,
    },
    /// Remove an image's files.
    RemoveImage {
        /// Which image.
        fingerprint: Fingerprint,
    },
    /// Make a pool's directories.
    EnsurePool {
        /// The pool.
        pool: PoolSpec,
    },
    /// Make a bridge with its addresses, firewall and answers.
    EnsureNetwork {
        /// The network.
        network: NetworkSpec,
    },
    /// Remove a bridge and all that belongs to it.
    RemoveNetwork {
        /// Its name.
        name: NetworkName,
    },
    /// Have a namespace live on without a process in it.
    PinNamespace {
        /// Which, and where it comes from.
        spec: PinSpec,
    },
    /// Let a pinned namespace go: it ends with the last process in it.
    UnpinNamespace {
        /// Which.
        pin: PinId,
    },
}

impl Step {
    /// The step's name, as the crash table and the API call it.
    pub fn name(&self) -> &'static str {
        match self {
            Step::EnsureImage { .. } => "ensure_image",
            Step::CreateRoot { .. } => "create_root",
            Step::CreateGroup { .. } => "create_group",
            Step::Spawn { .. } => "spawn",
            Step::AttachNic { .. } => "attach_nic",
            Step::Start { .. } => "start",
            Step::SetLimits { .. } => "set_limits",
            Step::Freeze { .. } => "freeze",
            Step::Thaw { .. } => "thaw",
            Step::Halt { .. } => "halt",
            Step::Kill { .. } => "kill",
            Step::DetachNic { .. } => "detach_nic",
            Step::ReleaseKeeper { .. } => "release_keeper",
            Step::RemoveGroup { .. } => "remove_group",
            Step::DiscardRoot { .. } => "discard_root",
            Step::AdoptImage { .. } => "adopt_image",
            Step::BuildImage { .. } => "build_image",
            Step::UnpackLayer { .. } => "unpack_layer",
            Step::RemoveLayer { .. } => "remove_layer",
            Step::RemoveImage { .. } => "remove_image",
            Step::EnsurePool { .. } => "ensure_pool",
            Step::EnsureNetwork { .. } => "ensure_network",
            Step::RemoveNetwork { .. } => "remove_network",
            Step::PinNamespace { .. } => "pin_namespace",
            Step::UnpinNamespace { .. } => "unpin_namespace",
        }
    }
}
