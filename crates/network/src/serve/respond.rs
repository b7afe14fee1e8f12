//! Which answer a frame from the packet socket gets.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use model::Mac;

use super::slots::Slot;
use super::state::{Shared, count};
use crate::dhcp::{self, Lease, Pool};
use crate::dns::{self, Decision, Pending, Transport};
use crate::frame::Datagram;
use crate::ra::{self, Router};
use crate::rate::Limiter;

/// What to do after a frame.
#[derive(Debug)]
pub(super) enum Response {
    /// Send this frame.
    Frame(Vec<u8>),
    /// Ask a name server of the host.
    Ask(Question),
    /// Nothing.
    Nothing,
}

/// A question for a name server of the host, and the way back.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) pending: Pending,
    /// The place that it takes while it is under way.
    _slot: Slot,
    own_mac: Mac,
    to_mac: Mac,
    to: SocketAddr,
    from: SocketAddr,
}

impl Question {
    /// The frame that carries the answer.
    pub(super) fn frame(&self, answer: &[u8]) -> Option<Vec<u8>> {
        let Question { own_mac, to_mac, to, from, .. } = *self;
        Datagram { to_mac, from_mac: own_mac, to, from, payload: answer }.write()
    }
}

/// How often each guest may ask.
#[derive(Debug)]
pub(super) struct Limits {
    names: Limiter<Mac>,
    addresses: Limiter<Mac>,
}

impl Limits {
    pub(super) fn new() -> Limits {
        Limits { names: names_limit(), addresses: Limiter::new(20, Duration::from_secs(1)) }
    }
}

/// For DNS: 500 questions a second and 1,000 at once, more than a busy mail server asks.
pub(super) fn names_limit<K: Eq + std::hash::Hash + Copy>() -> Limiter<K> {
    Limiter::new(1000, Duration::from_millis(2))
}

/// Answers one frame.
pub(super) fn respond(shared: &Shared, limits: &mut Limits, frame: &[u8], now: Instant) -> Response {
    let datagram = Datagram::parse(frame);
    let from_mac = frame.get(6..12).and_then(|mac| mac.try_into().ok()).map(Mac);
    let Some(from_mac) = from_mac else { return Response::Nothing };
    let is_name = datagram.is_some_and(|datagram| datagram.to.port() == dns::PORT);
    let limiter = if is_name { &mut limits.names } else { &mut limits.addresses };
    if !limiter.allow(from_mac, now) {
        count(&shared.counts.limited);
        return Response::Nothing;
    }
    match datagram {
        Some(datagram) if is_name => name(shared, &datagram),
        Some(_) => address(shared, frame),
        None => route(shared, frame),
    }
}

fn name(shared: &Shared, datagram: &Datagram<'_>) -> Response {
    let to = datagram.to.ip();
    // The filter let only questions to these through; here the same is said again, as the filter is the kernel's.
    if !shared.config.dns || !shared.subnets.iter().any(|subnet| subnet.address == to) {
        return Response::Nothing;
    }
    let headers = if to.is_ipv4() { 28 } else { 48 };
    let largest = (shared.config.mtu as usize).saturating_sub(headers);
    match dns::decide(datagram.payload, &shared.zone(), Transport::Udp { largest }) {
        Decision::Reply(answer) => {
            count(&shared.counts.answered);
            datagram.reply(shared.config.mac, &answer).map_or(Response::Nothing, Response::Frame)
        }
        Decision::Forward(pending) => match shared.questions.take(datagram.from.ip()) {
            Some(slot) => Response::Ask(Question {
                pending,
                _slot: slot,
                own_mac: shared.config.mac,
                to_mac: datagram.from_mac,
                to: datagram.from,
                from: datagram.to,
            }),
            None => {
                count(&shared.counts.limited);
                Response::Nothing
            }
        },
        Decision::Ignore => Response::Nothing,
    }
}

fn address(shared: &Shared, frame: &[u8]) -> Response {
    let config = &shared.config;
    let Some(server) = config.ipv4.filter(|_| config.dhcp) else { return Response::Nothing };
    let IpAddr::V4(own) = server.address else { return Response::Nothing };
    let pool = Pool {
        mac: config.mac,
        server,
        router: Some(own),
        dns: config.dns.then_some(own),
        domain: &config.domain,
        mtu: u16::try_from(config.mtu).unwrap_or(u16::MAX),
        lease_s: config.lease_s,
    };
    let lease = |mac| {
        let host = shared.directory.by_mac(mac)?;
        Some(Lease { address: host.ipv4?, host_name: host.name.as_str().to_owned() })
    };
    let answer = dhcp::answer(frame, &pool, lease);
    answer.map_or(Response::Nothing, |frame| {
        count(&shared.counts.dhcp);
        Response::Frame(frame)
    })
}

fn route(shared: &Shared, frame: &[u8]) -> Response {
    let answer = router(shared).and_then(|router| ra::answer(frame, &router));
    answer.map_or(Response::Nothing, |frame| {
        count(&shared.counts.advertisements);
        Response::Frame(frame)
    })
}

/// What this gateway advertises, if it does.
pub(super) fn router(shared: &Shared) -> Option<Router<'_>> {
    let config = &shared.config;
    let prefix = config.ipv6.filter(|_| config.advertise)?;
    let dns = match prefix.address {
        IpAddr::V6(address) => config.dns.then_some(address),
        IpAddr::V4(_) => return None,
    };
    Some(Router {
        mac: config.mac,
        prefix,
        autonomous: config.autonomous,
        mtu: config.mtu,
        dns,
        domain: &config.domain,
    })
}
