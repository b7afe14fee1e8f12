//! Making a guest: from a [`LaunchSpec`] to an init that has exec'd.
//!
//! ```text
//! keeper ──clone3──▶ stage   host's user ns, a mount ns of its own (M0)
//!                     │  clone3(NEWUSER|NEWPID|NEWNET|…, CLONE_PARENT)
//!                     ├────────────────────────▶ init   child of the keeper, still in M0, waits
//!                     │  maps, overlay, joins init's net, ipc and cgroup ns,
//!                     │  mounts / /proc /sys /dev, pivots, drops the old root
//!                     │  "tree" ─────────────────▶ │ unshares the mount ns: its copy of M0 is owned by another
//!                     ▼ exits                     │ user ns, so the kernel locks every mount in it
//! keeper ◀── Prepared, Console, Ready ─────────── │ mounts the children that need no lock
//! keeper ─── "go" ──────────────────────────────▶ │ execs /sbin/init
//! ```
//!
//! The order is the boundary: a mount made inside the guest's own user namespace could be undone by the guest's root.
//! Whoever dies, the others see their socket close and end: nothing is left behind before the exec.

mod clocks;
mod confine;
mod init;
mod join;
mod overlay;
mod report;
pub mod root;
mod stage;
mod tree;
pub mod view;

use std::os::fd::{AsFd, OwnedFd};

use kernel::process::{Clone, Side, SingleThread};

use crate::protocol::{Failure, LaunchSpec};

pub use clocks::make as make_clocks;
pub(crate) use confine::{confine, raise_rlimits};
pub use report::{Report, read};

/// A launch under way.
#[derive(Debug)]
pub struct Launch {
    /// Becomes readable when there is a [`Report`].
    pub report: OwnedFd,
    /// Becomes readable when the stage has exited.
    pub stage: OwnedFd,
    go: OwnedFd,
}

/// Starts to make a guest. Its init becomes a child of the calling process.
///
/// The caller's working directory must be `/`, because `pivot_root` moves only processes that stand in the old root.
pub fn begin(proof: SingleThread, spec: &LaunchSpec) -> Result<Launch, Failure> {
    let failed = |call: &'static str| move |errno| Failure::new("begin", call, "", errno);
    let (report, report_child) = kernel::scm::pair().map_err(failed("socketpair"))?;
    let (go_child, go) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed("pipe2"))?;
    match Clone::default().clone3(proof).map_err(failed("clone3"))? {
        Side::Child => stage::run(proof, spec, report_child, go_child),
        Side::Parent(_, stage) => Ok(Launch { report, stage, go }),
    }
}

impl Launch {
    /// Lets init exec. Whether it did is told by [`Report::Closed`] (it did) or [`Report::Failed`].
    pub fn go(&self) -> kernel::Result<()> {
        rustix::io::write(self.go.as_fd(), b"g").map(drop)
    }
}
