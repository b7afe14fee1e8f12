//! What the daemon tells `sysctl-keeper help pin`: a record, in hexadecimal digits as an argument. And how both tell whether a namespace is pinned.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::record;

/// What statfs(2) says of a namespace's file (`linux/magic.h`).
pub const NSFS_MAGIC: u32 = 0x6e73_6673;

/// Number of the namespace that is bound to a file; `None` when none is.
pub fn namespace_at(path: impl AsRef<Path>) -> Option<u64> {
    let path = path.as_ref();
    let is_namespace = rustix::fs::statfs(path).ok()?.f_type as u32 == NSFS_MAGIC;
    is_namespace.then(|| std::fs::symlink_metadata(path).ok().map(|found| found.ino()))?
}

record! {
    /// What `help pin` does with the file that a namespace is pinned at. What is left empty or 0 is not asked for.
    pub struct PinOrder {
        /// The file; its directory exists.
        1 => file: String,
        /// Kind of the namespace: one bit, as in `clone(2)`.
        2 => kind: u64,
        /// A new user namespace: host id of its root.
        3 => id_base: u32,
        /// How many ids.
        4 => id_count: u32,
        /// A new one of another kind: the file that the user namespace is pinned at in which it is made.
        5 => users: String,
        /// The namespace of this process.
        6 => pid: u32,
        /// Start time of that process in clock ticks, as in `/proc/PID/stat`.
        7 => start: u64,
        /// The namespace at this path.
        8 => path: String,
        /// Another file where it is to be bound, too.
        9 => link: String,
        /// A file where it is to be bound no longer.
        10 => unlink: String,
        /// Number of the namespace that may be at `unlink`; another one stays there.
        11 => inode: u64,
        /// The namespace is let go, and the file removed.
        12 => remove: bool,
    }
}
