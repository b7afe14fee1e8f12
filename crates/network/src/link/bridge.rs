//! The bridge of a network.

use std::net::IpAddr;

use model::{Cidr, Mac};

use super::{ALIAS, Alias, IFF_UP, IFNAME, Link, LinkName, MTU, NEW_LINK, address, addresses};
use crate::netlink::{Batch, CREATE, EXCLUSIVE, Socket};
use crate::{Error, Result, tunable};

const STP_STATE: u16 = 5;
const MULTICAST_SNOOPING: u16 = 23;

/// A bridge as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeSpec {
    /// Its name.
    pub name: LinkName,
    /// What tells that it is ours.
    pub alias: Alias,
    /// Its hardware address, which must not change when ports come and go, as guests remember it.
    pub mac: Mac,
    /// The gateway's addresses. With an IPv6 one comes the link-local address that belongs to `mac`.
    pub addresses: Vec<Cidr>,
    /// Largest packet in bytes.
    pub mtu: u32,
}

/// Makes the bridge as specified, or brings the one that is there to that state; returns its index.
///
/// Addresses that the specification does not name are removed. Spanning tree is off: a guest could otherwise become the
/// root. Multicast snooping is off: the table of groups would grow at guests' wish, and a bridge of one host has
/// nothing to save. IPv6 is off on a bridge without an IPv6 address, so that no guest can use the host as a router over
/// it. The host never takes routes from advertisements on it.
///
/// [`Error::Taken`] when the name belongs to a link that is no bridge of ours.
pub fn ensure_bridge(socket: &mut Socket, spec: &BridgeSpec) -> Result<u32> {
    let mut wanted = spec.addresses.clone();
    let with_ipv6 = wanted.iter().any(|cidr| cidr.address.is_ipv6());
    if with_ipv6 {
        // We give it ourselves because the kernel would only do so when the first port is up, and then wait a second
        // to see whether somebody else has it.
        wanted.push(Cidr { address: IpAddr::V6(spec.mac.link_local()), prefix: 64 });
    }

    let found = super::find(socket, &spec.name)?;
    if let Some(link) = &found
        && !is_ours(link, spec)
    {
        return Err(super::taken(&spec.name, link));
    }
    let index = make(socket, spec, found.as_ref())?;
    if tunable::set_ipv6(&spec.name, "accept_ra", "0")? {
        tunable::set_ipv6(&spec.name, "disable_ipv6", if with_ipv6 { "0" } else { "1" })?;
    }

    let present = addresses(socket, Some(index))?;
    let mut batch = Batch::about(spec.name.as_str());
    batch.request("bring up link", NEW_LINK, 0, &super::header(index, IFF_UP));
    for foreign in present.iter().filter(|present| !wanted.contains(&present.cidr)) {
        address::remove(&mut batch, index, foreign.cidr);
    }
    for missing in wanted.iter().filter(|wanted| !present.iter().any(|present| present.cidr == **wanted)) {
        address::add(&mut batch, index, *missing);
    }
    socket.run(batch)?;
    Ok(index)
}

/// Creates the bridge or sets its properties anew. Created and labelled in one send, so that no end of ours can come
/// between the two.
fn make(socket: &mut Socket, spec: &BridgeSpec, found: Option<&Link>) -> Result<u32> {
    let mut batch = Batch::about(spec.name.as_str());
    // By its name alone: before Linux 6.2, index and name together are a renaming, refused while the link is up.
    let (act, flags) = if found.is_some() { ("set up bridge", 0) } else { ("create bridge", CREATE | EXCLUSIVE) };
    let mut writer = batch.request(act, NEW_LINK, flags, &super::header(0, 0));
    writer.text(IFNAME, spec.name.as_str()).bytes(super::ADDRESS, &spec.mac.0).u32(MTU, spec.mtu);
    super::info(&mut writer, "bridge", |data| {
        data.u32(STP_STATE, 0).u8(MULTICAST_SNOOPING, 0);
    });
    batch
        .request("label bridge", NEW_LINK, 0, &super::header(0, 0))
        .text(IFNAME, spec.name.as_str())
        .text(ALIAS, spec.alias.as_str());
    super::ask_for(&mut batch, &spec.name);
    let mut made = None;
    socket.ask(batch, |message| made = super::parse(message))?;
    let link = made.ok_or_else(|| Error::NoLink { name: spec.name.to_string() })?;

    let mut batch = Batch::about(spec.name.as_str());
    super::forbid_own_address(&mut batch, link.index);
    socket.run(batch)?;
    Ok(link.index)
}

fn is_ours(link: &Link, spec: &BridgeSpec) -> bool {
    link.kind.as_deref() == Some("bridge") && link.alias.as_deref() == Some(spec.alias.as_str())
}
