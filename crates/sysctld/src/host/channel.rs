//! A datagram socket to a keeper or to the spawn process, for async code.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kernel::{Errno, Result};
use runtime::protocol::{Message, Received, receive, to_bytes};
use rustix::fs::OFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Has the event loop watch a descriptor.
#[expect(
    deprecated,
    reason = "its successor is unsafe for descriptors that may be closed meanwhile; this one is owned"
)]
pub(crate) fn watch(fd: OwnedFd, interest: Interest) -> Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, interest).map_err(|_| Errno::NFILE)
}

#[derive(Debug)]
pub(crate) struct Channel {
    socket: AsyncFd<OwnedFd>,
}

impl Channel {
    pub(crate) fn new(socket: OwnedFd) -> Result<Channel> {
        rustix::fs::fcntl_setfl(&socket, OFlags::NONBLOCK)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        watch(socket, interest).map(|socket| Channel { socket })
    }

    /// Sends a message; waits while the peer does not read.
    pub(crate) async fn send<M: Message>(&self, sequence: u32, message: &M, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let bytes = to_bytes(sequence, message);
        loop {
            match kernel::scm::send(self.socket.get_ref().as_fd(), &bytes, fds, false) {
                Err(Errno::AGAIN) => {}
                other => return other,
            }
            let Ok(mut guard) = self.socket.writable().await else { return Err(Errno::IO) };
            guard.clear_ready();
        }
    }

    /// The next message; `CONNRESET` when the peer is gone.
    pub(crate) async fn receive<M: Message>(&self) -> Result<Received<M>> {
        loop {
            let Ok(mut guard) = self.socket.readable().await else { return Err(Errno::IO) };
            match receive(self.socket.get_ref(), false) {
                Err(Errno::AGAIN) => guard.clear_ready(),
                other => return other,
            }
        }
    }
}
