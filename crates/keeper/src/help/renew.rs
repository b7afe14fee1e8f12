//! `help renew HEX`: gives a guest that runs the files of an lxcfs, in place of those of one that died.
//!
//! It enters the guest's mount namespace with the host's rights, and there does nothing that the guest could not do to itself:
//! dead mounts at known paths are taken away, and new ones bound, without following any link.

use std::os::fd::AsFd;
use std::process::ExitCode;

use kernel::Errno;
use kernel::process::{Namespaces, SingleThread};
use runtime::launch::root;
use runtime::launch::view::{self, RenewOrder};
use runtime::protocol::Failure;
use rustix::fs::{Mode, OFlags};

/// Longest that it takes: a thousand times what a dozen mounts do, should an lxcfs not answer.
const SECONDS: u32 = 10;

fn failed(call: &'static str, target: &str) -> impl FnOnce(Errno) -> Failure {
    let target = target.to_owned();
    move |errno| Failure::new("renew", call, target, errno)
}

/// Runs the helper.
pub(crate) fn run(proof: SingleThread, words: &[&str]) -> ExitCode {
    kernel::signal::deadline(SECONDS);
    super::obey("renew", words, |order| renew(proof, order))
}

fn renew(proof: SingleThread, order: &RenewOrder) -> Result<(), Failure> {
    let name = format!("process {}", order.pid);
    let init = root::open_process(order.pid, order.start).map_err(failed("pidfd_open", &name))?;
    let copies = match &order.view {
        Some(view) => view::copies(proof, view),
        None => Ok(view::Copies::new()),
    };
    kernel::process::enter(proof, init.as_fd(), Namespaces::MOUNT).map_err(failed("setns(mnt)", &name))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty()).map_err(failed("open", "/"))?;
    view::detach_dead();
    view::attach(root.as_fd(), &copies?)
}
