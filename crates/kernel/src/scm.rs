//! Datagrams with descriptors over Unix `SOCK_SEQPACKET` sockets.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use crate::{Errno, Result};

/// The most descriptors one datagram may carry.
pub const MAX_FDS: usize = 16;

/// A connected pair of close-on-exec `SOCK_SEQPACKET` sockets.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Sends one datagram, whole or not at all. `AGAIN` when the peer's queue is full and `wait` is false.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>], wait: bool) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::TOOBIG);
    }
    let flags = if wait { SendFlags::NOSIGNAL } else { SendFlags::NOSIGNAL | SendFlags::DONTWAIT };
    loop {
        match rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags) {
            Err(Errno::INTR) => {}
            Ok(n) if n == bytes.len() => return Ok(()),
            Ok(_) => return Err(Errno::MSGSIZE),
            Err(e) => return Err(e),
        }
    }
}

/// Receives one datagram of at most `limit` bytes, in no more memory than it takes: its bytes and descriptors; no bytes mean
/// that the peer is gone. Errors are those of [`receive`].
pub fn receive_whole(socket: BorrowedFd<'_>, limit: usize, wait: bool) -> Result<(Vec<u8>, Vec<OwnedFd>)> {
    let flags = RecvFlags::PEEK | RecvFlags::TRUNC;
    let flags = if wait { flags } else { flags | RecvFlags::DONTWAIT };
    let length = loop {
        match rustix::net::recv(socket, &mut [0u8; 0], flags) {
            Err(Errno::INTR) => {}
            other => break other?.1,
        }
    };
    let mut bytes = vec![0u8; length.min(limit)];
    let (_, fds) = receive(socket, &mut bytes, wait)?;
    Ok((bytes, fds))
}

/// Receives one datagram into `buffer`: its length and descriptors; length 0 means that the peer is gone.
///
/// `MSGSIZE` when the datagram or its descriptors did not fit. `AGAIN` when there is none and `wait` is false.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], wait: bool) -> Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = if wait { RecvFlags::CMSG_CLOEXEC } else { RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT };
    let message = loop {
        match rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    if message.flags.contains(ReturnFlags::TRUNC) {
        return Err(Errno::MSGSIZE);
    }
    // There is room for as many as anybody sends: the kernel could not give us another descriptor.
    if message.flags.contains(ReturnFlags::CTRUNC) {
        return Err(Errno::MFILE);
    }
    Ok((message.bytes, fds))
}
