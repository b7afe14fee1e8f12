//! Init in namespaces that exist already: a neighbour's, a pinned one.
//!
//! ```text
//! stage ──clone3(INTO_CGROUP)──▶ joiner   host root: enters the shared namespaces, the user namespace last
//!   ◀── pid, pidfd ───────────── ├──clone3(the private ones)──▶ init   what it gets new belongs to the user namespace
//!                                ▼ exits                               that the joiner stands in
//! keeper: as the nearest subreaper it becomes init's parent when the joiner has gone
//! ```
//!
//! The joiner is a process of its own because there is no way back: who entered a guest's user namespace has no rights over
//! the host's any more, and the stage still has mounts to make.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kernel::Errno;
use kernel::process::{Clone, Namespaces, Side, SingleThread};
use rustix::fs::{Mode, OFlags};
use rustix::process::{WaitId, WaitIdOptions};

use super::report;
use super::root::open_process;
use crate::protocol::{Failure, Join};

fn failed(call: &'static str, target: &str) -> impl Fn(Errno) -> Failure {
    let target = target.to_owned();
    move |errno| Failure::new("join", call, target.clone(), errno)
}

/// A namespace to enter, held open.
#[derive(Debug)]
pub(super) struct Shared {
    kind: Namespaces,
    name: String,
    /// A pidfd of a process that is in it, or the file that it is pinned at: setns(2) takes both.
    file: OwnedFd,
}

/// Opens all of them. To be called before clocks of the guest's own are made: start times of processes, by which a pid is
/// known to be the same, look different from there.
pub(super) fn open(joins: &[Join]) -> Result<Vec<Shared>, Failure> {
    let open = |join: &Join| {
        let kind = Namespaces::from_bits_truncate(join.kind);
        if join.pid == 0 {
            return Ok(Shared { kind, name: join.path.clone(), file: open_pin(&join.path)? });
        }
        let name = format!("{kind:?} of process {}", join.pid);
        let file = open_process(join.pid, join.start).map_err(failed("pidfd_open", &name))?;
        Ok(Shared { kind, name, file })
    };
    joins.iter().map(open).collect()
}

/// Makes init in shared namespaces; `init` runs in it and never returns. The pid of init and a pidfd.
pub(super) fn make(
    proof: SingleThread,
    shared: &[Shared],
    namespaces: Namespaces,
    group: BorrowedFd<'_>,
    report: &OwnedFd,
    init: impl FnOnce() -> std::convert::Infallible,
) -> Result<(u32, OwnedFd), Failure> {
    let (ours, theirs) = kernel::scm::pair().map_err(failed("socketpair", ""))?;
    // Born in the guest's group, which the joiner could not enter later: by then it has no rights over the host's groups.
    let clone = Clone { into_cgroup: Some(group), ..Clone::default() };
    match clone.clone3(proof).map_err(failed("clone3", "joiner"))? {
        Side::Child => {
            drop(ours);
            let done = enter_all(proof, shared).and_then(|()| {
                let made = Clone { namespaces, ..Clone::default() }.clone3(proof);
                match made.map_err(|errno| unmade(shared, errno))? {
                    Side::Child => match init() {},
                    Side::Parent(pid, pidfd) => {
                        let pid = pid.as_raw_nonzero().get().to_le_bytes();
                        kernel::scm::send(theirs.as_fd(), &pid, &[pidfd.as_fd()], true)
                            .map_err(failed("sendmsg", "stage"))
                    }
                }
            });
            if let Err(failure) = &done {
                report::failed(report.as_fd(), failure);
            }
            kernel::process::exit(i32::from(done.is_err()))
        }
        Side::Parent(_, joiner) => {
            drop(theirs);
            let mut pid = [0u8; 4];
            let received = kernel::scm::receive(ours.as_fd(), &mut pid, true).map_err(failed("recvmsg", "joiner"));
            // Init is the keeper's child from here on.
            let _ = rustix::process::waitid(WaitId::PidFd(joiner.as_fd()), WaitIdOptions::EXITED);
            match received? {
                (4, fds) => {
                    let pidfd = fds.into_iter().next().ok_or_else(|| failed("recvmsg", "joiner")(Errno::BADF))?;
                    Ok((u32::from_le_bytes(pid), pidfd))
                }
                // It has told why.
                _ => Err(failed("wait", "joiner")(Errno::CHILD)),
            }
        }
    }
}

/// Why init could not be made there.
fn unmade(shared: &[Shared], errno: Errno) -> Failure {
    // This is how the kernel says it (pid_namespaces(7)).
    match shared.iter().find(|shared| shared.kind == Namespaces::PID) {
        Some(pid) if errno == Errno::NOMEM => {
            Failure::new("join", "clone3: the pid namespace has ended", pid.name.clone(), Errno::SRCH)
        }
        _ => failed("clone3", "init")(errno),
    }
}

/// Enters all of them, the user namespace last: entering it gives up the rights that the others need.
fn enter_all(proof: SingleThread, shared: &[Shared]) -> Result<(), Failure> {
    let (users, others): (Vec<&Shared>, Vec<&Shared>) = shared.iter().partition(|s| s.kind == Namespaces::USER);
    others.into_iter().chain(users).try_for_each(|Shared { kind, name, file }| {
        kernel::process::enter_namespace(proof, file.as_fd(), *kind).map_err(failed("setns", name))
    })
}

/// The user namespace that init will live in, when it is not a new one.
pub(super) fn user_namespace(joins: &[Join]) -> Result<Option<OwnedFd>, Failure> {
    let Some(join) = joins.iter().find(|join| Namespaces::from_bits_truncate(join.kind) == Namespaces::USER) else {
        return Ok(None);
    };
    if join.pid == 0 {
        return open_pin(&join.path).map(Some);
    }
    let path = format!("/proc/{}/ns/user", join.pid);
    let fd =
        rustix::fs::open(&*path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed("open", &path))?;
    // Looked at after opening: the pid was not given to another process meanwhile.
    open_process(join.pid, join.start).map_err(failed("pidfd_open", &path))?;
    Ok(Some(fd))
}

fn open_pin(path: &str) -> Result<OwnedFd, Failure> {
    // Not NOFOLLOW: /var/run is a link on every host. What it leads to must be a namespace of the right kind, or setns refuses it.
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed("open", path))
}
