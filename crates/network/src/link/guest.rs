//! A guest's own links, through a socket that was made in its network namespace.

use std::net::IpAddr;

use kernel::Errno;
use model::{Cidr, NicSpec};

use super::{Address, IFF_UP, Link, LinkName, NEW_LINK, address};
use crate::netlink::{Batch, CREATE, EXCLUSIVE, Socket};
use crate::{Error, Result};

// From linux/rtnetlink.h.
const NEW_ROUTE: u16 = 24;
const OUT_INTERFACE: u16 = 4;
const GATEWAY: u16 = 5;
const TABLE_MAIN: u8 = 254;
const PROTOCOL_STATIC: u8 = 4;
const TYPE_UNICAST: u8 = 1;
/// The gateway is on the link though no address of ours says so.
const ON_LINK: u32 = 4;
/// The loopback link is the first of every network namespace.
const LOOPBACK: u32 = 1;
/// A guest may make links and addresses without end; somebody who looks at its state wants no more than so many.
pub(super) const MOST_LINKS: usize = 256;
const MOST_ADDRESSES: usize = 1024;

/// A link with its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkState {
    /// The link.
    pub link: Link,
    /// Its addresses, IPv4 first.
    pub addresses: Vec<Address>,
}

/// Gives the guest's end of a NIC its addresses and default routes and brings it and loopback up.
///
/// What is there already stays. The guest may change all of it later; it is its own. When this returns, and the other
/// end was up before, the link carries frames.
pub fn configure_guest(socket: &mut Socket, nic: &NicSpec) -> Result<()> {
    let name: LinkName = nic.guest_name.parse()?;
    let link = super::find(socket, &name)?.ok_or_else(|| Error::NoLink { name: name.to_string() })?;
    let mut batch = Batch::about(name.as_str());
    batch.request("bring up the guest's loopback beside link", NEW_LINK, 0, &super::header(LOOPBACK, IFF_UP));
    batch.request("bring up the guest's link", NEW_LINK, 0, &super::header(link.index, IFF_UP));
    for cidr in nic.ipv4.into_iter().chain(nic.ipv6) {
        address::add(&mut batch, link.index, cidr);
    }
    if let Some(gateway) = nic.gateway4 {
        default_route(&mut batch, link.index, gateway.into(), nic.ipv4);
    }
    if let Some(gateway) = nic.gateway6 {
        default_route(&mut batch, link.index, gateway.into(), nic.ipv6);
    }
    // See `settle`.
    super::ask_for(&mut batch, &name);
    socket.ask(batch, |_| {})
}

/// Makes the kernel take note of a link that has just got its carrier; done when there is no such link.
///
/// Until it has taken note, each frame to the link is dropped, and on a busy host that lasts. Since Linux 6.8 it does so
/// before it answers a question about the link; an older one does it within a few milliseconds of its own.
pub fn settle(socket: &mut Socket, name: &LinkName) -> Result<()> {
    super::find(socket, name).map(drop)
}

/// The links with their addresses and counters, by one dump each; at most 256 links and 1,024 addresses.
pub fn guest_state(socket: &mut Socket) -> Result<Vec<LinkState>> {
    let links = super::list_some(socket, MOST_LINKS)?;
    let addresses = address::some(socket, None, MOST_ADDRESSES)?;
    let of = |link: &Link| addresses.iter().filter(|a| a.index == link.index).copied().collect();
    Ok(links.into_iter().map(|link| LinkState { addresses: of(&link), link }).collect())
}

/// Appends a request for a default route; that one to this gateway is there already is no failure.
fn default_route(batch: &mut Batch, index: u32, gateway: IpAddr, own: Option<Cidr>) {
    // A link-local gateway is on every link; any other that our prefix does not cover must be declared to be there.
    let covered = match gateway {
        IpAddr::V6(address) if address.is_unicast_link_local() => true,
        _ => own.is_some_and(|own| own.contains(gateway)),
    };
    // `struct rtmsg`
    let mut route = [0; 12];
    route[0] = if gateway.is_ipv4() { 2 } else { 10 };
    route[4] = TABLE_MAIN;
    route[5] = PROTOCOL_STATIC;
    route[7] = TYPE_UNICAST;
    route[8..12].copy_from_slice(&(if covered { 0 } else { ON_LINK }).to_ne_bytes());
    let mut writer = batch.request("add a default route over link", NEW_ROUTE, CREATE | EXCLUSIVE, &route);
    writer.tolerating(&[Errno::EXIST]).u32(OUT_INTERFACE, index);
    match gateway {
        IpAddr::V4(address) => writer.bytes(GATEWAY, &address.octets()),
        IpAddr::V6(address) => writer.bytes(GATEWAY, &address.octets()),
    };
}
