//! What stage and init tell the keeper that made them. Same program on both ends, so the format may change freely.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kernel::Errno;

use crate::protocol::Failure;
use crate::wire::Field;

/// One report.
#[derive(Debug)]
pub enum Report {
    /// Init exists.
    Prepared {
        /// Its pid on the host.
        pid: u32,
        /// A pidfd of it.
        pidfd: OwnedFd,
        /// Its network namespace.
        netns: OwnedFd,
        /// A netlink socket in it.
        netlink: OwnedFd,
        /// The lock of its root file system, to be held for as long as it runs.
        lock: OwnedFd,
    },
    /// The master of the guest's console.
    Console(OwnedFd),
    /// Init waits to be let go.
    Ready,
    /// Something failed; everything made so far goes away by itself.
    Failed(Failure),
    /// Nobody will report any more: init has exec'd, or died.
    Closed,
}

pub(super) fn prepared(to: BorrowedFd<'_>, pid: u32, fds: [BorrowedFd<'_>; 4]) -> kernel::Result<()> {
    let mut bytes = vec![b'P'];
    bytes.extend_from_slice(&pid.to_le_bytes());
    kernel::scm::send(to, &bytes, &fds, true)
}

pub(super) fn console(to: BorrowedFd<'_>, master: BorrowedFd<'_>) -> kernel::Result<()> {
    kernel::scm::send(to, b"C", &[master], true)
}

pub(super) fn ready(to: BorrowedFd<'_>) -> kernel::Result<()> {
    kernel::scm::send(to, b"R", &[], true)
}

pub(super) fn failed(to: BorrowedFd<'_>, failure: &Failure) {
    let mut bytes = vec![b'F'];
    failure.put(&mut bytes);
    // When nobody listens any more there is nobody to tell.
    let _ = kernel::scm::send(to, &bytes, &[], true);
}

/// Reads one report without waiting; `None` when there is none now.
pub fn read(from: impl AsFd) -> Option<Report> {
    let mut buffer = [0u8; 8192];
    let broken = |errno| Some(Report::Failed(Failure::new("report", "recvmsg", "launcher", errno)));
    let (length, fds) = match kernel::scm::receive(from.as_fd(), &mut buffer, false) {
        Ok(received) => received,
        Err(Errno::AGAIN) => return None,
        Err(errno) => return broken(errno),
    };
    let mut fds = fds.into_iter();
    match &buffer[..length] {
        [] => Some(Report::Closed),
        [b'P', a, b, c, d] => match (fds.next(), fds.next(), fds.next(), fds.next()) {
            (Some(pidfd), Some(netns), Some(netlink), Some(lock)) => {
                Some(Report::Prepared { pid: u32::from_le_bytes([*a, *b, *c, *d]), pidfd, netns, netlink, lock })
            }
            _ => broken(Errno::BADF),
        },
        [b'C'] => match fds.next() {
            Some(master) => Some(Report::Console(master)),
            None => broken(Errno::BADF),
        },
        [b'R'] => Some(Report::Ready),
        [b'F', record @ ..] => match Failure::take(record) {
            Some(failure) => Some(Report::Failed(failure)),
            None => broken(Errno::PROTO),
        },
        _ => broken(Errno::PROTO),
    }
}
