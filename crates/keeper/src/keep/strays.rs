//! Children that nobody waits for: a stage that gave up, and what a stage made of which it could not tell any more, as it was
//! killed between the making of an exec's process and its report. And where the guest's init is not the first process of its
//! pid namespace, what exec'd processes leave behind.
//!
//! Such a process is our child and in the guest's pid namespace. Until we have waited for it, the kernel does not let the
//! guest's init end, however often it is killed (pid_namespaces(7)).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

/// Nothing is watched until there may be one: all other children end by descriptors of their own.
#[derive(Debug, Default)]
pub(crate) struct Strays {
    deaths: Option<OwnedFd>,
}

impl Strays {
    /// A stage gave up, or died without a report: it is to be waited for, and whatever it has made in its group is to die.
    pub(crate) fn expect(&mut self, leaf: &Path) {
        // A group that is gone has nobody in it.
        let _ = std::fs::write(leaf.join("cgroup.kill"), "1");
        self.watch();
    }

    /// From here on there may be some.
    pub(crate) fn watch(&mut self) {
        if self.deaths.is_none() {
            self.deaths = kernel::signal::descriptor(&[Signal::CHILD]).ok();
        }
    }

    /// Becomes readable when a child has ended.
    pub(crate) fn watched(&self) -> Option<BorrowedFd<'_>> {
        self.deaths.as_ref().map(AsFd::as_fd)
    }

    /// Waits for those that have ended. One that `is_known` is left to whoever knows it, and those behind it for the next
    /// time.
    pub(crate) fn reap(&self, is_known: impl Fn(Pid) -> bool) {
        let Some(deaths) = &self.deaths else { return };
        kernel::signal::drain(deaths.as_fd());
        while let Ok(Some(child)) = kernel::process::ended_child() {
            if is_known(child) {
                return;
            }
            let _ = rustix::process::waitid(WaitId::Pid(child), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        }
    }
}
