//! The answers of DHCPv4 (RFC 2131, options RFC 2132, rapid commit RFC 4039).
//!
//! Addresses are not given out here: each NIC has the one that the caller decided on before the guest started, and a
//! question from any other hardware address gets no answer. So there is no lease to remember, no pool to exhaust, and a
//! restart changes nothing.

mod message;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use model::{Cidr, Mac};

use crate::directory::Domain;
use crate::frame::Datagram;
use message::{Answer, Kind, Question};

/// Port that servers listen on.
pub const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;

// Options of RFC 2132.
const MASK: u8 = 1;
const ROUTERS: u8 = 3;
const NAME_SERVERS: u8 = 6;
const HOST_NAME: u8 = 12;
const DOMAIN_NAME: u8 = 15;
const MTU: u8 = 26;
const BROADCAST: u8 = 28;
const LEASE_S: u8 = 51;
const RENEWAL_S: u8 = 58;
const REBINDING_S: u8 = 59;

/// What a network tells its guests.
#[derive(Debug, Clone, Copy)]
pub struct Pool<'a> {
    /// Hardware address of the server.
    pub mac: Mac,
    /// The server's address with the network's prefix length.
    pub server: Cidr,
    /// Default gateway.
    pub router: Option<Ipv4Addr>,
    /// Name server.
    pub dns: Option<Ipv4Addr>,
    /// Domain of the guests.
    pub domain: &'a Domain,
    /// Largest packet in bytes.
    pub mtu: u16,
    /// How long an answer may be relied on, in seconds.
    pub lease_s: u32,
}

/// What a NIC gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Its address.
    pub address: Ipv4Addr,
    /// The name that the guest may take.
    pub host_name: String,
}

/// Answers a frame with a frame; `None` for whatever wants no answer or is no sound question.
///
/// The answer goes to the hardware address that asked, also where its IP address is the broadcast one.
pub fn answer(frame: &[u8], pool: &Pool<'_>, lookup: impl FnOnce(Mac) -> Option<Lease>) -> Option<Vec<u8>> {
    let asked = Datagram::parse(frame)?;
    let (IpAddr::V4(server), IpAddr::V4(to)) = (pool.server.address, asked.to.ip()) else { return None };
    if asked.to.port() != SERVER_PORT || (to != Ipv4Addr::BROADCAST && to != server) {
        return None;
    }
    let question = Question::read(asked.payload).filter(|question| question.mac == asked.from_mac)?;
    let lease = lookup(question.mac)?;
    let kind = decide(&question, server, lease.address)?;
    let payload = write(&question, kind, pool, server, &lease);
    let to = SocketAddr::new(receiver(&question, kind, lease.address).into(), CLIENT_PORT);
    let from = SocketAddr::new(server.into(), SERVER_PORT);
    Datagram { to_mac: asked.from_mac, from_mac: pool.mac, to, from, payload: &payload }.write()
}

/// Which answer a question gets.
fn decide(question: &Question<'_>, server: Ipv4Addr, address: Ipv4Addr) -> Option<Kind> {
    match question.kind {
        Kind::Discover if question.rapid_commit => Some(Kind::Ack),
        Kind::Discover => Some(Kind::Offer),
        Kind::Inform => Some(Kind::Ack),
        // The guest chose another server.
        Kind::Request if question.server.is_some_and(|chosen| chosen != server) => None,
        Kind::Request => {
            // Selecting and after a reboot the address is in the option, renewing and rebinding in the header.
            let wanted = question.requested.unwrap_or(question.current);
            Some(if wanted == address { Kind::Ack } else { Kind::Nak })
        }
        Kind::Offer | Kind::Ack | Kind::Nak => None,
    }
}

/// The IP address of the answer's receiver (RFC 2131, 4.1).
fn receiver(question: &Question<'_>, kind: Kind, address: Ipv4Addr) -> Ipv4Addr {
    match kind {
        Kind::Nak => Ipv4Addr::BROADCAST,
        _ if !question.current.is_unspecified() => question.current,
        _ if question.wants_broadcast => Ipv4Addr::BROADCAST,
        _ => address,
    }
}

fn write(question: &Question<'_>, kind: Kind, pool: &Pool<'_>, server: Ipv4Addr, lease: &Lease) -> Vec<u8> {
    let gives = kind != Kind::Nak && question.kind != Kind::Inform;
    let mut answer = Answer::new(question, kind, gives.then_some(lease.address));
    answer.option(message::SERVER, &server.octets());
    if let Some(id) = question.client_id {
        // RFC 6842: a client tells its answers by it.
        answer.option(message::CLIENT_ID, id);
    }
    if gives {
        answer.option(LEASE_S, &pool.lease_s.to_be_bytes());
        answer.option(RENEWAL_S, &(pool.lease_s / 2).to_be_bytes());
        answer.option(REBINDING_S, &(pool.lease_s - pool.lease_s / 8).to_be_bytes());
    }
    if question.kind == Kind::Discover && kind == Kind::Ack {
        answer.option(message::RAPID_COMMIT, &[]);
    }
    if kind != Kind::Nak {
        settings(&mut answer, pool, lease);
    }
    answer.finish()
}

/// What a guest is told besides its address.
fn settings(answer: &mut Answer, pool: &Pool<'_>, lease: &Lease) {
    let mask = u32::MAX.checked_shl(32 - u32::from(pool.server.prefix.min(32))).unwrap_or(0);
    answer.option(MASK, &mask.to_be_bytes());
    answer.option(BROADCAST, &(u32::from(lease.address) | !mask).to_be_bytes());
    if let Some(router) = pool.router {
        answer.option(ROUTERS, &router.octets());
    }
    if let Some(dns) = pool.dns {
        answer.option(NAME_SERVERS, &dns.octets());
    }
    answer.option(DOMAIN_NAME, pool.domain.as_str().as_bytes());
    answer.option(HOST_NAME, lease.host_name.as_bytes());
    answer.option(MTU, &pool.mtu.to_be_bytes());
}

#[cfg(test)]
pub(crate) mod tests;
