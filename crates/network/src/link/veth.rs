//! The pair of links that connects a guest to a bridge.

use std::os::fd::{AsRawFd, BorrowedFd};

use kernel::Errno;
use model::Mac;

use super::{ALIAS, Alias, IFF_UP, IFNAME, LINK_INFO, LinkName, MASTER, MTU, NEW_LINK};
use crate::netlink::{Batch, CREATE, EXCLUSIVE, REPLACE, Socket, Writer};
use crate::{Error, Result};

// From linux/if_link.h, linux/veth.h and linux/neighbour.h.
pub(super) const NETNS_FD: u16 = 28;
const TX_QUEUES: u16 = 31;
const RX_QUEUES: u16 = 32;
pub(super) const VETH_PEER: u16 = 1;
const PORT_KIND: u16 = 4;
const PORT_DATA: u16 = 5;
const PORT_HAIRPIN: u16 = 4;
const PORT_LEARNING: u16 = 8;
const PORT_UNICAST_FLOOD: u16 = 9;
const PORT_ISOLATED: u16 = 33;
/// A link with this master is a port of no bridge.
const NO_MASTER: u32 = 0;
const NEW_NEIGHBOUR: u16 = 28;
const NEIGHBOUR_MAC: u16 = 2;
const AF_BRIDGE: u8 = 7;
const STATE_STATIC: u16 = 0x40;
/// The entry belongs to the bridge, not to the port.
const OF_MASTER: u8 = 0x04;
/// The entry stays at its port even when the address shows up at another.
const STICKY: u8 = 0x40;

/// A pair of links: the host's end is a port of a bridge, the guest's end lies in the guest's network namespace.
#[derive(Debug, Clone)]
pub struct VethSpec<'a> {
    /// Name of the host's end.
    pub host_name: LinkName,
    /// What tells that the host's end is ours.
    pub alias: Alias,
    /// Index of the bridge; none for a link that is no port of one.
    pub bridge: Option<u32>,
    /// The guest's network namespace.
    pub guest_netns: BorrowedFd<'a>,
    /// Name of the guest's end.
    pub guest_name: LinkName,
    /// Hardware address of the guest's end.
    pub mac: Mac,
    /// Largest packet in bytes, for both ends.
    pub mtu: u32,
    /// The guest may use other hardware addresses too (nested bridges), so the bridge learns them. Otherwise the bridge
    /// knows exactly one address behind this port, and nothing sent to unknown addresses reaches the guest.
    pub learns: bool,
    /// The guest reaches the gateway only, no other isolated port.
    pub isolated: bool,
}

/// Makes the pair and connects it; returns the index of the host's end. Done when a link of that name and alias exists
/// (its properties are set anew).
///
/// Two sends: the first makes both ends at once, the guest's straight in its namespace, and asks for the index of the
/// host's end; the second makes it a port, fixes the guest's hardware address to that port and, as the last act, brings
/// it up. So a link that is up is complete.
///
/// [`Error::Taken`] when the name belongs to a link of another kind or alias.
pub fn attach_veth(socket: &mut Socket, spec: &VethSpec<'_>) -> Result<u32> {
    let mut batch = Batch::about(spec.host_name.as_str());
    create(&mut batch, spec);
    super::ask_for(&mut batch, &spec.host_name);
    let mut found = None;
    let created = socket.ask(batch, |message| found = super::parse(message));
    let link = match (created, found) {
        (Ok(()), Some(link)) => link,
        (Ok(()), None) => return Err(Error::NoLink { name: spec.host_name.to_string() }),
        // It was there before. (When the guest has a link called `guest_name`, the refusal is the same but nothing of
        // our name is found.)
        (Err(Error::Refused { errno: Errno::EXIST, .. }), Some(link)) => {
            let ours = link.alias.as_ref().is_none_or(|alias| alias == spec.alias.as_str());
            if link.kind.as_deref() != Some("veth") || !ours {
                return Err(super::taken(&spec.host_name, &link));
            }
            link
        }
        (Err(error), _) => return Err(error),
    };

    let mut batch = Batch::about(spec.host_name.as_str());
    connect(&mut batch, spec, link.index);
    socket.run(batch)?;
    Ok(link.index)
}

fn create(batch: &mut Batch, spec: &VethSpec<'_>) {
    let mut writer = batch.request("create veth", NEW_LINK, CREATE | EXCLUSIVE, &super::header(0, 0));
    end(&mut writer, &spec.host_name, spec.mtu);
    super::info(&mut writer, "veth", |data| {
        data.nest(VETH_PEER, |peer| {
            peer.fixed(&super::header(0, 0));
            end(peer, &spec.guest_name, spec.mtu);
            peer.bytes(super::ADDRESS, &spec.mac.0).u32(NETNS_FD, spec.guest_netns.as_raw_fd() as u32);
        });
    });
}

/// One queue each way: the kernel would otherwise reserve one per possible CPU, with a directory in sysfs each, and use
/// only the first.
pub(super) fn end(writer: &mut Writer<'_>, name: &LinkName, mtu: u32) {
    writer.text(IFNAME, name.as_str()).u32(MTU, mtu).u32(TX_QUEUES, 1).u32(RX_QUEUES, 1);
}

fn connect(batch: &mut Batch, spec: &VethSpec<'_>, index: u32) {
    super::forbid_own_address(batch, index);
    batch
        .request("connect link", NEW_LINK, 0, &super::header(index, 0))
        .text(ALIAS, spec.alias.as_str())
        .u32(MASTER, spec.bridge.unwrap_or(NO_MASTER));
    if spec.bridge.is_some() {
        as_port(batch, spec, index);
    }
    batch.request("bring up link", NEW_LINK, 0, &super::header(index, IFF_UP));
}

fn as_port(batch: &mut Batch, spec: &VethSpec<'_>, index: u32) {
    batch.request("set up the bridge port of link", NEW_LINK, 0, &super::header(index, 0)).nest(LINK_INFO, |info| {
        info.text(PORT_KIND, "bridge").nest(PORT_DATA, |port| {
            port.u8(PORT_HAIRPIN, 0)
                .u8(PORT_LEARNING, u8::from(spec.learns))
                .u8(PORT_UNICAST_FLOOD, u8::from(spec.learns))
                .u8(PORT_ISOLATED, u8::from(spec.isolated));
        });
    });
    // `struct ndmsg`
    let mut neighbour = [0; 12];
    neighbour[0] = AF_BRIDGE;
    neighbour[4..8].copy_from_slice(&index.to_ne_bytes());
    neighbour[8..10].copy_from_slice(&STATE_STATIC.to_ne_bytes());
    neighbour[10] = OF_MASTER | STICKY;
    batch
        .request("fix the hardware address behind link", NEW_NEIGHBOUR, CREATE | REPLACE, &neighbour)
        .bytes(NEIGHBOUR_MAC, &spec.mac.0);
}
