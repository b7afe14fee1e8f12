//! What somebody does to links and tables of this network namespace, as the kernel tells it: nobody has to look for it.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;

use kernel::Errno;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::netlink::Reader;
use crate::{Error, Result, link, nft};

/// Links come, change and go (`RTNLGRP_LINK`, the first group), and settings like forwarding change
/// (`RTNLGRP_IPV4_NETCONF` and `RTNLGRP_IPV6_NETCONF`, groups 24 and 25).
const LINKS: u32 = 1 | 1 << 23 | 1 << 24;

/// The message about a setting (`RTM_NEWNETCONF`).
const NEW_SETTING: u16 = 80;

/// Tables and what is in them come, change and go (`NFNLGRP_NFTABLES`, the seventh group).
const TABLES: u32 = 1 << 6;

/// No message of a group is larger.
const READ_SIZE: usize = 64 << 10;

/// Datagrams that are read before what they tell is handed on, so that a busy host cannot keep us reading for ever.
const AT_ONCE: usize = 256;

/// What changed since the last look.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Names of links that came, changed or went.
    pub links: BTreeSet<String>,
    /// Names of tables that somebody else changed.
    pub tables: BTreeSet<String>,
    /// Settings of links or of the whole host changed.
    pub settings: bool,
    /// More happened than could be told: anything may have changed.
    pub overrun: bool,
}

/// Two sockets that hear of changes.
#[derive(Debug)]
pub struct Watch {
    links: AsyncFd<OwnedFd>,
    tables: AsyncFd<OwnedFd>,
    /// The port whose changes are our own.
    own: u32,
    buffer: Vec<u8>,
}

impl Watch {
    /// Hears of everything from now on, but for tables that the socket with port `own` changes. Must be called inside a tokio
    /// runtime.
    pub fn start(own: u32) -> Result<Watch> {
        let links = listen("links", None, LINKS)?;
        let tables = listen("tables", Some(NETFILTER), TABLES)?;
        Ok(Watch { links, tables, own, buffer: vec![0; READ_SIZE] })
    }

    /// Waits for changes; all of those that are told by then.
    pub async fn next(&mut self) -> io::Result<Changes> {
        let mut changes = Changes::default();
        tokio::select! {
            ready = self.links.readable() => drop(ready?),
            ready = self.tables.readable() => drop(ready?),
        }
        let own = self.own;
        read(&self.links, &mut self.buffer, &mut changes, |message, changes| {
            changes.settings |= message.kind == NEW_SETTING;
            changes.links.extend(link::told(message));
        })?;
        read(&self.tables, &mut self.buffer, &mut changes, |message, changes| {
            if message.port != own {
                changes.tables.extend(nft::told(message));
            }
        })?;
        Ok(changes)
    }
}

fn listen(what: &'static str, protocol: Option<Protocol>, groups: u32) -> Result<AsyncFd<OwnedFd>> {
    let failed = |errno| Error::Socket { what, errno };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol).map_err(failed)?;
    // Room for some 4,000 changes at once; the memory is only used while they wait. A smaller one will do.
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&fd, 4 << 20);
    rustix::net::bind(&fd, &SocketAddrNetlink::new(0, groups)).map_err(failed)?;
    watch(fd).map_err(|source| Error::Serving { act: "watch the socket of", object: what.to_owned(), source })
}

#[allow(
    deprecated,
    reason = "the successor is unsafe because of types that may close their descriptor; OwnedFd does not"
)]
fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}

/// Reads what waits in a socket.
fn read(
    socket: &AsyncFd<OwnedFd>,
    buffer: &mut [u8],
    changes: &mut Changes,
    mut each: impl FnMut(Reader<'_>, &mut Changes),
) -> io::Result<()> {
    for _ in 0..AT_ONCE {
        let received =
            socket.try_io(Interest::READABLE, |fd| Ok(rustix::net::recv(fd, &mut *buffer, RecvFlags::empty())?));
        let length = match received {
            Ok((_, length)) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {
                changes.overrun = true;
                continue;
            }
            Err(error) => return Err(error),
        };
        let mut rest = buffer.get(..length).unwrap_or_default();
        while let Some((message, after)) = Reader::split(rest) {
            rest = after;
            each(message, changes);
        }
    }
    Ok(())
}
