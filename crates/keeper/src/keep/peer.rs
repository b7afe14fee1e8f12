//! The connection to the daemon.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kernel::{Errno, Result};
use runtime::protocol::{KeepEvent, KeepRequest, Received, receive, to_bytes};
use rustix::event::PollFlags;

/// Events that wait because the daemon does not read: answers to its own requests and one round of news. A daemon that is
/// further behind is cut off, connects again and is told the state.
const MAX_QUEUE: usize = 1024;

#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) socket: OwnedFd,
    queue: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    lost: bool,
}

impl Peer {
    pub(crate) fn new(socket: OwnedFd) -> Peer {
        Peer { socket, queue: VecDeque::new(), lost: false }
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(crate) fn interest(&self) -> PollFlags {
        if self.queue.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT }
    }

    /// The daemon is gone or too far behind.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost
    }

    /// Something waits to be sent.
    pub(crate) fn is_behind(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(crate) fn send(&mut self, sequence: u32, event: &KeepEvent, fds: &[BorrowedFd<'_>]) {
        let bytes = to_bytes(sequence, event);
        if self.queue.is_empty() {
            match kernel::scm::send(self.socket.as_fd(), &bytes, fds, false) {
                Ok(()) => return,
                Err(Errno::AGAIN) => {}
                Err(_) => {
                    self.lost = true;
                    return;
                }
            }
        }
        let copies: Result<Vec<OwnedFd>> = fds.iter().map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 3)).collect();
        match copies {
            Ok(copies) if self.queue.len() < MAX_QUEUE => self.queue.push_back((bytes, copies)),
            _ => self.lost = true,
        }
    }

    /// Sends what waits, as far as the daemon reads.
    pub(crate) fn flush(&mut self) {
        while let Some((bytes, fds)) = self.queue.front() {
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            match kernel::scm::send(self.socket.as_fd(), bytes, &fds, false) {
                Ok(()) => drop(self.queue.pop_front()),
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    self.lost = true;
                    return;
                }
            }
        }
    }

    /// One request, when there is one.
    pub(crate) fn receive(&mut self) -> Option<Received<KeepRequest>> {
        match receive(&self.socket, false) {
            Ok(received) => Some(received),
            Err(Errno::AGAIN) => None,
            Err(_) => {
                self.lost = true;
                None
            }
        }
    }
}
