//! Addresses of links.

use std::net::{IpAddr, Ipv4Addr};

use kernel::Errno;
use model::Cidr;

use crate::Result;
use crate::netlink::{Batch, CREATE, EXCLUSIVE, Reader, Socket, read};

// From linux/rtnetlink.h and linux/if_addr.h.
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const BROADCAST: u16 = 4;
const FLAGS: u16 = 8;
/// No duplicate address detection: the address can be used at once.
const NODAD: u32 = 0x02;
const SCOPE_LINK: u8 = 253;
/// Length of `struct ifaddrmsg`.
const ADDRESS_HEADER: usize = 8;

/// An address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// Index of the link.
    pub index: u32,
    /// The address.
    pub cidr: Cidr,
    /// It is only valid on its link (or, for loopback, on its host).
    pub local_scope: bool,
}

/// More addresses than that are never listed: a bound for the daemon's memory.
const MOST_ADDRESSES: usize = 1 << 16;

/// All addresses of the socket's network namespace, or those of the link with the given index.
pub fn addresses(socket: &mut Socket, index: Option<u32>) -> Result<Vec<Address>> {
    some(socket, index, MOST_ADDRESSES)
}

pub(super) fn some(socket: &mut Socket, index: Option<u32>, most: usize) -> Result<Vec<Address>> {
    let request = || {
        let mut batch = Batch::about("addresses");
        batch.request("list the", GET_ADDRESS, 0, &header(None, index.unwrap_or_default()));
        batch
    };
    // Kernels before 4.20 ignore the index.
    socket.dump(most, request, |message| parse(message).filter(|a| index.is_none_or(|index| a.index == index)))
}

/// Appends a request for an address that can be used at once; that it is there already is no failure.
pub(super) fn add(batch: &mut Batch, index: u32, cidr: Cidr) {
    let mut writer =
        batch.request("add an address to link", NEW_ADDRESS, CREATE | EXCLUSIVE, &header(Some(cidr), index));
    writer.tolerating(&[Errno::EXIST]);
    match cidr.address {
        IpAddr::V4(address) => {
            writer.bytes(LOCAL, &address.octets()).bytes(ADDRESS, &address.octets());
            if cidr.prefix < 31 {
                let hosts = u32::MAX.checked_shr(u32::from(cidr.prefix)).unwrap_or(0);
                writer.bytes(BROADCAST, &Ipv4Addr::from(u32::from(address) | hosts).octets());
            }
        }
        IpAddr::V6(address) => {
            writer.bytes(LOCAL, &address.octets()).bytes(ADDRESS, &address.octets()).u32(FLAGS, NODAD);
        }
    }
}

/// Appends a request to take an address away; that it is gone already is no failure.
pub(super) fn remove(batch: &mut Batch, index: u32, cidr: Cidr) {
    let mut writer = batch.request("remove an address from link", DELETE_ADDRESS, 0, &header(Some(cidr), index));
    writer.tolerating(&[Errno::ADDRNOTAVAIL]);
    match cidr.address {
        IpAddr::V4(address) => writer.bytes(LOCAL, &address.octets()),
        IpAddr::V6(address) => writer.bytes(LOCAL, &address.octets()),
    };
}

/// `struct ifaddrmsg`.
fn header(cidr: Option<Cidr>, index: u32) -> [u8; ADDRESS_HEADER] {
    let mut bytes = [0; ADDRESS_HEADER];
    if let Some(cidr) = cidr {
        bytes[0] = if cidr.address.is_ipv4() { 2 } else { 10 };
        bytes[1] = cidr.prefix;
        bytes[3] = if is_link_local(cidr.address) { SCOPE_LINK } else { 0 };
    }
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn parse(message: Reader<'_>) -> Option<Address> {
    if message.kind != NEW_ADDRESS {
        return None;
    }
    let (mut local, mut address) = (None, None);
    for (kind, value) in message.attributes(ADDRESS_HEADER) {
        let ip = || {
            let v4 = <[u8; 4]>::try_from(value).ok().map(IpAddr::from);
            v4.or_else(|| <[u8; 16]>::try_from(value).ok().map(IpAddr::from))
        };
        match kind {
            LOCAL => local = ip(),
            ADDRESS => address = ip(),
            _ => {}
        }
    }
    Some(Address {
        index: read::u32_at(message.body, 4)?,
        // On a point-to-point link ADDRESS is the other side's.
        cidr: Cidr { address: local.or(address)?, prefix: read::u8_at(message.body, 1)? },
        local_scope: read::u8_at(message.body, 3)? >= SCOPE_LINK,
    })
}
