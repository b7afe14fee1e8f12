//! What callers may reach on the host without changing what is wished: files of images, logs, streams, an inventory.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use model::{Boot, DeviceName, Fingerprint, InstanceId, NamespaceKind, PinId, PoolName, RootGen, RootSource};

use crate::host::{BoxFuture, ImageFacts, LinkUsage, StepError};

/// Space of a pool's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolUsage {
    /// Bytes in use.
    pub used_bytes: u64,
    /// All bytes.
    pub total_bytes: u64,
    /// Inodes in use.
    pub used_inodes: u64,
    /// All inodes.
    pub total_inodes: u64,
}

/// Something on the host that is ours, or looks as if it were.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    /// Control groups of a boot.
    Group(Boot),
    /// A keeper's directory.
    Keeper(Boot),
    /// A link: of which device, and by name.
    Link(Boot, DeviceName, String),
    /// A link that the firewall guards.
    Guarded(String),
    /// A root file system.
    Root(InstanceId, RootGen),
    /// A layer.
    Layer(Fingerprint, PoolName),
    /// Files of an image.
    Image(Fingerprint),
    /// A bridge.
    Bridge(String),
    /// Logs of an instance.
    Logs(InstanceId),
    /// A pinned namespace.
    Pin(PinId),
    /// Something of which nobody knows what it is for.
    Stray {
        /// What kind of thing.
        kind: &'static str,
        /// Which one.
        name: String,
    },
}

/// Something that is ours and not as it should be, whatever is wished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// What kind of thing.
    pub kind: &'static str,
    /// Which one.
    pub object: String,
    /// What about it.
    pub text: String,
    /// Whose it is; what belongs to an instance that is doing something is on its way.
    pub of: Option<InstanceId>,
    /// What puts it right.
    pub cure: Cure,
}

/// What puts something right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cure {
    /// The loop that makes everything.
    Loop,
    /// Only people, like this.
    People(String),
    /// A file or directory that nobody works on is removed.
    Remove(PathBuf),
    /// A process of ours that serves nobody is ended: pid and start time.
    End(u32, u64),
    /// Another keeper takes over the guest of one whose directory is gone: its boot, its pid and start time.
    Replace(Boot, u32, u64),
    /// A guest's init is put back into its control groups.
    Regroup(Boot),
    /// The root file system is made again around what is there.
    Remake(model::Step),
    /// What is claimed in the database is brought to what is remembered.
    Claims(Vec<store::Op>),
}

/// A volume as it is on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeSeen {
    /// Whose.
    pub id: InstanceId,
    /// In which pool.
    pub pool: PoolName,
    /// Root file systems without their work directory.
    pub workless: Vec<RootGen>,
    /// Work directories without a root file system.
    pub rootless: Vec<RootGen>,
    /// The layer below, as noted beside it.
    pub layer: String,
}

/// What the firewall lets a link send as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// Name of the link.
    pub port: String,
    /// Hardware address; `None` for any.
    pub mac: Option<model::Mac>,
    /// IPv4 address.
    pub ipv4: Option<std::net::Ipv4Addr>,
    /// IPv6 address.
    pub ipv6: Option<std::net::Ipv6Addr>,
}

/// Everything of ours on the host, and what is worth knowing about the host itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    /// Objects.
    pub objects: Vec<Object>,
    /// Volumes.
    pub volumes: Vec<VolumeSeen>,
    /// What the firewall lets send; `None` where there is no firewall.
    pub guards: Option<Vec<Guard>>,
    /// Things that are ours and not as they should be.
    pub damage: Vec<Damage>,
    /// How many there are of what is only looked at for damage.
    pub looked_at: Vec<(&'static str, usize)>,
    /// Limits of the host that are near, features that it lacks: what, and what to do.
    pub notes: Vec<(String, String)>,
}

/// Where a root file system lies.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RootFiles {
    /// Its directories, topmost first.
    pub layers: Vec<PathBuf>,
    /// The lock that whoever has it mounted holds.
    pub lock: PathBuf,
}

/// The way to such things.
pub trait Access: Send + Sync + 'static {
    /// A new directory for what a client sends, with this name.
    fn upload(&self, name: &str) -> Result<PathBuf, StepError>;

    /// Throws an upload away.
    fn drop_upload(&self, name: &str);

    /// The files of an image: one, or metadata and root file system.
    fn image_files(&self, facts: &ImageFacts) -> Vec<PathBuf>;

    /// What an instance wrote to its console.
    fn console_log(&self, id: InstanceId) -> BoxFuture<'_, Vec<u8>>;

    /// Forgets that.
    fn clear_console_log(&self, id: InstanceId) -> BoxFuture<'_, ()>;

    /// Space of a pool.
    fn pool_usage(&self, pool: &PoolName) -> Result<PoolUsage, StepError>;

    /// Directory of a pool.
    fn pool_source(&self, pool: &PoolName) -> Option<PathBuf>;

    /// The directories of a root file system, topmost first, and the lock that whoever has it mounted holds.
    fn root_files(&self, pool: &PoolName, root: (InstanceId, RootGen, RootSource)) -> Result<RootFiles, StepError>;

    /// The inode number of each namespace that a process lives in; by it two of a kind are told apart.
    fn namespaces(&self, pid: u32) -> Result<BTreeMap<NamespaceKind, u64>, StepError>;

    /// The same of the init of a boot that runs, as it was when that was first asked: an init stays where it was made.
    fn namespaces_of(&self, boot: Boot) -> Result<BTreeMap<NamespaceKind, u64>, StepError>;

    /// The file that a namespace is pinned at.
    fn pin_file(&self, pin: PinId) -> PathBuf;

    /// All links of the host.
    fn links(&self) -> Result<Vec<LinkUsage>, StepError>;

    /// A stream that speaks SFTP over an instance's files: of the boot that runs, or of the root file system at rest.
    fn files<'a>(
        &'a self,
        boot: Option<Boot>,
        root: (InstanceId, RootGen, RootSource),
        pool: &'a PoolName,
        ids: model::IdMap,
    ) -> BoxFuture<'a, Result<OwnedFd, StepError>>;

    /// Everything of ours on the host. Blocks nobody else, enters no guest and starts nothing.
    fn inventory(&self) -> BoxFuture<'_, Result<Inventory, StepError>>;

    /// Takes up boots that were found on the host and that nobody wants, so that the loop sees and ends them; and whatever
    /// else the daemon itself should have.
    fn search<'a>(&'a self, boots: &'a BTreeSet<Boot>) -> BoxFuture<'a, Result<(), StepError>>;

    /// Puts something right that no step is about.
    fn cure<'a>(&'a self, cure: &'a Cure) -> BoxFuture<'a, Result<(), StepError>>;

    /// Removes something of which nobody knows what it is for.
    fn discard<'a>(&'a self, object: &'a Object) -> BoxFuture<'a, Result<(), StepError>>;

    /// Where this daemon keeps things, for people.
    fn state_dir(&self) -> &Path;
}
