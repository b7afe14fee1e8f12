//! Links: which there are, making and removing them.

mod address;
mod bridge;
mod guest;
mod limits;
mod name;
mod uplink;
mod veth;
mod wire;

pub use address::{Address, addresses};
pub use bridge::{BridgeSpec, ensure_bridge};
pub use guest::{LinkState, configure_guest, guest_state, settle};
pub use limits::{can_limit, can_load, limits, put_limits};
pub use name::{Alias, LinkName};
pub use uplink::{UplinkSpec, ensure_uplink};
pub use veth::{VethSpec, attach_veth};
pub use wire::{WireSide, join_guests, marked, remove_guests, remove_stale};

use kernel::Errno;
use model::Mac;

use crate::netlink::{Attributes, Batch, Reader, Socket, Writer, read};
use crate::{Error, Result};

// Kinds of messages and attributes, from linux/rtnetlink.h and linux/if_link.h.
const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const ADDRESS: u16 = 1;
const IFNAME: u16 = 3;
const MTU: u16 = 4;
const LINK: u16 = 5;
const MASTER: u16 = 10;
const LINK_INFO: u16 = 18;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const ALIAS: u16 = 20;
const STATISTICS: u16 = 23;
const AF_SPEC: u16 = 26;
const LINK_NETNSID: u16 = 37;
const AF_INET6: u16 = 10;
const INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_MODE_NONE: u8 = 1;
const IFF_UP: u32 = 1;
const IFF_RUNNING: u32 = 0x40;
/// Length of `struct ifinfomsg`.
const LINK_HEADER: usize = 16;

/// What went through a link, as `struct rtnl_link_stats64` begins. In and out are the host's view of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Packets in.
    pub rx_packets: u64,
    /// Packets out.
    pub tx_packets: u64,
    /// Bytes in.
    pub rx_bytes: u64,
    /// Bytes out.
    pub tx_bytes: u64,
    /// Bad packets in.
    pub rx_errors: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Packets in that there was no room for.
    pub rx_dropped: u64,
    /// Packets out that there was no room for.
    pub tx_dropped: u64,
}

/// A link as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number of it, unique in its network namespace until the link is gone.
    pub index: u32,
    /// Name.
    pub name: String,
    /// `bridge`, `veth`, …; `None` for hardware and loopback.
    pub kind: Option<String>,
    /// Index of the bridge that it is a port of.
    pub master: Option<u32>,
    /// Hardware address, when it is one of six bytes.
    pub mac: Option<Mac>,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Somebody wants it up.
    pub up: bool,
    /// It is up, its other end is too, and the kernel has taken note: a bridge passes frames of the port from then on.
    /// That is some 10 µs after both ends are up, as the kernel does it in another thread.
    pub running: bool,
    /// What its maker wrote on it.
    pub alias: Option<String>,
    /// Index of the other end of a veth, in that end's namespace.
    pub peer: Option<u32>,
    /// Number that this namespace gave the one in which the other end lies; `None` when both lie in the same.
    pub peer_namespace: Option<u32>,
    /// Counters.
    pub statistics: Statistics,
}

/// More links than that are never listed: 16 for each of 4,000 instances. A bound for the daemon's memory.
const MOST_LINKS: usize = 1 << 16;

/// All links of the socket's network namespace.
pub fn list(socket: &mut Socket) -> Result<Vec<Link>> {
    list_some(socket, MOST_LINKS)
}

fn list_some(socket: &mut Socket, most: usize) -> Result<Vec<Link>> {
    let request = || {
        let mut batch = Batch::about("links");
        batch.request("list the", GET_LINK, 0, &header(0, 0));
        batch
    };
    socket.dump(most, request, parse)
}

/// The link of that name, if there is one.
pub fn find(socket: &mut Socket, name: &LinkName) -> Result<Option<Link>> {
    let mut batch = Batch::about(name.as_str());
    ask_for(&mut batch, name);
    let mut link = None;
    socket.ask(batch, |message| link = parse(message))?;
    Ok(link)
}

/// Removes the link of that name and alias; done when there is none. [`Error::Taken`] when the alias is another.
///
/// The other end of a veth goes with it, as do addresses, routes and forwarding entries.
pub fn remove(socket: &mut Socket, name: &LinkName, alias: &Alias) -> Result<()> {
    let Some(link) = find(socket, name)? else { return Ok(()) };
    if link.alias.as_deref() != Some(alias.as_str()) {
        return Err(taken(name, &link));
    }
    remove_guests(socket, &link)
}

/// Removes the veth of that name if nothing is written on it: one that was being made when its maker died.
pub fn remove_unmarked(socket: &mut Socket, name: &LinkName) -> Result<()> {
    match find(socket, name)? {
        Some(link) if link.alias.is_none() && link.kind.as_deref() == Some("veth") => remove_guests(socket, &link),
        _ => Ok(()),
    }
}

/// Appends a request for the link called `name`; that there is none is no failure.
fn ask_for(batch: &mut Batch, name: &LinkName) {
    batch.request("look for link", GET_LINK, 0, &header(0, 0)).tolerating(&[Errno::NODEV]).text(IFNAME, name.as_str());
}

/// Appends a request that forbids IPv6 to give the link a link-local address by itself.
fn forbid_own_address(batch: &mut Batch, index: u32) {
    // A host without IPv6 gives no such addresses anyway.
    batch
        .request("set up IPv6 on link", NEW_LINK, 0, &header(index, 0))
        .tolerating(&[Errno::AFNOSUPPORT, Errno::OPNOTSUPP])
        .nest(AF_SPEC, |families| {
            families.nest(AF_INET6, |settings| {
                settings.u8(INET6_ADDR_GEN_MODE, ADDR_GEN_MODE_NONE);
            });
        });
}

/// The error for a name whose link we did not make.
fn taken(name: &LinkName, found: &Link) -> Error {
    let kind = found.kind.as_deref().unwrap_or("a device");
    let found = match &found.alias {
        Some(alias) => format!("{kind}, alias {alias:?}"),
        None => format!("{kind}, no alias"),
    };
    Error::Taken { name: name.to_string(), found }
}

/// `struct ifinfomsg`; `flags` are those to be set.
fn header(index: u32, flags: u32) -> [u8; LINK_HEADER] {
    let mut bytes = [0; LINK_HEADER];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&flags.to_ne_bytes());
    bytes
}

/// Appends the kind of a link, and what is particular to that kind.
fn info(writer: &mut Writer<'_>, kind: &str, data: impl FnOnce(&mut Writer<'_>)) {
    writer.nest(LINK_INFO, |info| {
        info.text(INFO_KIND, kind).nest(INFO_DATA, data);
    });
}

/// The name of the link that a message tells of: that it came, changed, went, or is no port of a bridge any more.
pub(crate) fn told(message: Reader<'_>) -> Option<String> {
    if !matches!(message.kind, NEW_LINK | DELETE_LINK) {
        return None;
    }
    message.attributes(LINK_HEADER).find(|(kind, _)| *kind == IFNAME).map(|(_, name)| read::text(name))
}

fn parse(message: Reader<'_>) -> Option<Link> {
    if message.kind != NEW_LINK {
        return None;
    }
    let flags = read::u32_at(message.body, 8)?;
    let mut link = Link {
        index: read::u32_at(message.body, 4)?,
        name: String::new(),
        kind: None,
        master: None,
        mac: None,
        mtu: 0,
        up: flags & IFF_UP != 0,
        running: flags & IFF_RUNNING != 0,
        alias: None,
        peer: None,
        peer_namespace: None,
        statistics: Statistics::default(),
    };
    for (kind, value) in message.attributes(LINK_HEADER) {
        match kind {
            ADDRESS => link.mac = value.try_into().ok().map(Mac),
            IFNAME => link.name = read::text(value),
            MTU => link.mtu = read::u32_at(value, 0)?,
            LINK => link.peer = read::u32_at(value, 0),
            MASTER => link.master = read::u32_at(value, 0),
            LINK_INFO => link.kind = Attributes::find(value, INFO_KIND).map(read::text),
            ALIAS => link.alias = Some(read::text(value)),
            STATISTICS => link.statistics = statistics(value),
            LINK_NETNSID => link.peer_namespace = read::u32_at(value, 0),
            _ => {}
        }
    }
    Some(link)
}

fn statistics(value: &[u8]) -> Statistics {
    let nth = |n: usize| read::u64_at(value, n * 8).unwrap_or_default();
    Statistics {
        rx_packets: nth(0),
        tx_packets: nth(1),
        rx_bytes: nth(2),
        tx_bytes: nth(3),
        rx_errors: nth(4),
        tx_errors: nth(5),
        rx_dropped: nth(6),
        tx_dropped: nth(7),
    }
}
