//! What callers may reach on the host without changing what is wished: files of images, logs, streams, an inventory.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use model::{Boot, Fingerprint, InstanceId, PoolName, RootGen, RootSource};

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
    /// A link, by name.
    Link(Boot, String),
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
    /// Something of which nobody knows what it is for.
    Stray {
        /// What kind of thing.
        kind: &'static str,
        /// Which one.
        name: String,
    },
}

/// Everything of ours on the host, and what is worth knowing about the host itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    /// Objects.
    pub objects: Vec<Object>,
    /// Things that are ours and not as they should be: kind, which one, what about it.
    pub damage: Vec<(&'static str, String, String)>,
    /// Limits of the host that are near, features that it lacks: what, and what to do.
    pub notes: Vec<(String, String)>,
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

    /// Of each kind of namespace, whether a process has another than the host.
    fn namespaces(&self, pid: u32) -> Result<BTreeMap<String, bool>, StepError>;

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

    /// Everything of ours on the host.
    fn inventory(&self) -> BoxFuture<'_, Result<Inventory, StepError>>;

    /// Where this daemon keeps things, for people.
    fn state_dir(&self) -> &Path;
}
