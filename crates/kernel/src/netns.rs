//! Network namespaces of single threads.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};

use crate::{Result, checked};

/// Gives the calling thread, and no other, a new and empty network namespace.
///
/// Only devices, addresses, routes, sockets made from now on and `/proc/sys/net` are affected, and only as this thread
/// sees them: the thread's memory, descriptors and working directory stay shared with the process.
pub fn enter_new() -> Result<()> {
    // SAFETY: plain integers. CLONE_NEWNET changes nothing but the calling thread's own namespace, so it is sound in a
    // process with threads, unlike CLONE_FILES or CLONE_FS.
    checked(unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_NEWNET) }).map(drop)
}

/// The calling thread's network namespace, which lives at least as long as the descriptor.
pub fn current() -> Result<OwnedFd> {
    rustix::fs::open("/proc/thread-self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}
