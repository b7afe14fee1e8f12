//! Packet sockets: Ethernet frames of one interface, in and out, before any firewall chain sees them.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::seccomp::Instruction;
use crate::{Errno, Result, checked};

/// The EtherType that stands for all of them (`ETH_P_ALL`).
pub const EVERY_TYPE: u16 = 0x0003;

/// As in `linux/if_packet.h`; since Linux 4.20.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

/// Which way frames go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// In. What this host itself sends is not among them, so it costs nothing.
    In,
    /// In and out.
    Both,
}

/// Opens a non-blocking socket for the frames of one EtherType (host byte order) of interface `index`.
///
/// `filter` is a classic BPF program over the frame; frames for which it returns 0 never reach the socket.
pub fn open(index: u32, ether_type: u16, side: Side, filter: &[Instruction]) -> Result<OwnedFd> {
    // Protocol 0 receives nothing until bind, so no frame can slip in before the filter is attached.
    // SAFETY: returns a new descriptor.
    let socket = unsafe {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        OwnedFd::from_raw_fd(checked(i64::from(libc::socket(libc::AF_PACKET, kind, 0)))? as i32)
    };
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| Errno::INVAL)?,
        filter: filter.as_ptr().cast_mut().cast(),
    };
    // SAFETY: `Instruction` has the layout of sock_filter; the kernel copies the program during the call.
    checked(i64::from(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as u32,
        )
    }))?;
    let on = libc::c_int::from(side == Side::In);
    // SAFETY: `on` is an int of the length given.
    checked(i64::from(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            PACKET_IGNORE_OUTGOING,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as u32,
        )
    }))?;
    let address = link_address(index, ether_type, [0; 6]);
    // SAFETY: `address` is a sockaddr_ll of the size given.
    checked(i64::from(unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as u32)
    }))?;
    Ok(socket)
}

/// Sends one whole Ethernet frame out of interface `index`.
pub fn send(socket: BorrowedFd<'_>, index: u32, frame: &[u8]) -> Result<()> {
    let destination = frame.get(..6).and_then(|mac| mac.try_into().ok()).ok_or(Errno::INVAL)?;
    let address = link_address(index, 0, destination);
    // SAFETY: buffer and address are valid for the lengths given.
    checked(unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            libc::MSG_NOSIGNAL,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as u32,
        ) as libc::c_long
    })
    .map(drop)
}

fn link_address(index: u32, ether_type: u16, mac: [u8; 6]) -> libc::sockaddr_ll {
    let mut bytes = [0u8; 8];
    bytes[..6].copy_from_slice(&mac);
    libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: ether_type.to_be(),
        sll_ifindex: index as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: bytes,
    }
}
