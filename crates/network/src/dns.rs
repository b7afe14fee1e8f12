//! DNS (RFC 1035, EDNS RFC 6891): which questions are ours, their answers, and the handling of those that others
//! answer.
//!
//! Ours are the names of the instances, alone (`web1`) and in the network's domain (`web1.<domain>`), everything else
//! in that domain, and the reverse names of the network's addresses. All other questions go to the host's name servers
//! as they came, byte for byte, but for their number.

mod pending;

pub use pending::Pending;

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use model::Cidr;

use crate::directory::{Directory, Domain};

/// Port of name servers.
pub const PORT: u16 = 53;
/// Seconds for which an answer of ours may be kept: short, as a name may get another address when its instance is made
/// anew.
const TTL_S: u32 = 10;
/// What every client takes by UDP.
const PLAIN_UDP: usize = 512;
/// What we offer to take by UDP: the size that passes everywhere without fragments (DNS flag day 2020).
const OUR_UDP: u16 = 1232;

/// What is ours.
#[derive(Debug, Clone, Copy)]
pub struct Zone<'a> {
    /// The network's domain.
    pub domain: &'a Domain,
    /// The network's prefixes.
    pub subnets: &'a [Cidr],
    /// Names and addresses.
    pub directory: &'a Directory,
}

/// How a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// In one datagram; `largest` is what fits into one on the link, in bytes.
    Udp {
        /// In bytes.
        largest: usize,
    },
    /// Over a connection.
    Tcp,
}

/// What to do with a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Send this back.
    Reply(Vec<u8>),
    /// Ask a name server of the host.
    Forward(Pending),
    /// Nothing: it is no question.
    Ignore,
}

/// Where a name leads.
enum Found {
    Addresses(Vec<IpAddr>),
    Pointer(Name),
    /// The name is ours and has nothing of its own.
    Empty,
    /// The name would be ours and does not exist.
    Nothing,
    Elsewhere,
}

/// Decides on one message from a guest.
pub fn decide(message: &[u8], zone: &Zone<'_>, transport: Transport) -> Decision {
    // An answer must never be answered: two servers could go on for ever.
    if message.get(2).is_none_or(|flags| flags & 0x80 != 0) || message.len() < 12 {
        return Decision::Ignore;
    }
    let Ok(asked) = Message::from_vec(message) else { return Decision::Reply(pending::format_error(message)) };
    let room = match transport {
        Transport::Tcp => usize::from(u16::MAX),
        Transport::Udp { largest } => {
            let taken = asked.edns.as_ref().map_or(PLAIN_UDP, |edns| usize::from(edns.max_payload()));
            taken.max(PLAIN_UDP).min(largest)
        }
    };
    let refuse = |code| write(&asked, room, |reply| reply.metadata.response_code = code);
    if asked.metadata.op_code != OpCode::Query {
        return refuse(ResponseCode::NotImp);
    }
    let [question] = asked.queries.as_slice() else { return refuse(ResponseCode::FormErr) };
    if asked.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return refuse(ResponseCode::BADVERS);
    }
    let transfer = matches!(question.query_type(), RecordType::AXFR | RecordType::IXFR);
    if question.query_class() != DNSClass::IN || transfer {
        return refuse(ResponseCode::Refused);
    }
    let Some(found) = find(question.name(), zone) else { return refuse(ResponseCode::ServFail) };
    if matches!(found, Found::Elsewhere) {
        return match Pending::new(message, room, asked.edns.is_some()) {
            Some(pending) => Decision::Forward(pending),
            None => refuse(ResponseCode::FormErr),
        };
    }
    write(&asked, room, |reply| fill(reply, question, found, zone))
}

/// Where `name` leads; `None` when a name that we would have to write is too long.
fn find(name: &Name, zone: &Zone<'_>) -> Option<Found> {
    let labels: Vec<String> = name.iter().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect();
    if let [host] = labels.as_slice()
        && let Some(addresses) = zone.directory.by_name(host)
    {
        return Some(Found::Addresses(addresses));
    }
    let domain: Vec<&str> = zone.domain.as_str().split('.').collect();
    if let Some(inside) = labels.len().checked_sub(domain.len())
        && labels[inside..] == domain
    {
        return Some(match &labels[..inside] {
            [] => Found::Empty,
            [host] => zone.directory.by_name(host).map_or(Found::Nothing, Found::Addresses),
            _ => Found::Nothing,
        });
    }
    reverse(name, zone)
}

/// Where a name below `in-addr.arpa` or `ip6.arpa` leads.
fn reverse(name: &Name, zone: &Zone<'_>) -> Option<Found> {
    let Ok(network) = name.parse_arpa_name() else { return Some(Found::Elsewhere) };
    let (address, prefix) = (network.addr(), network.prefix_len());
    if !zone.subnets.iter().any(|subnet| subnet.prefix <= prefix && subnet.contains(address)) {
        return Some(Found::Elsewhere);
    }
    let whole = if address.is_ipv4() { 32 } else { 128 };
    if prefix < whole {
        return Some(Found::Empty);
    }
    match zone.directory.by_address(address) {
        Some(host) => Some(Found::Pointer(Name::from_ascii(format!("{host}.{}.", zone.domain)).ok()?)),
        None => Some(Found::Nothing),
    }
}

/// Puts what was found into the answer: records, or the note that says for how long "nothing" holds (RFC 2308).
fn fill(reply: &mut Message, question: &Query, found: Found, zone: &Zone<'_>) {
    reply.metadata.authoritative = true;
    let kind = question.query_type();
    let wanted = |is: RecordType| kind == is || kind == RecordType::ANY;
    let data: Vec<RData> = match &found {
        Found::Addresses(addresses) => addresses
            .iter()
            .filter_map(|address| match address {
                IpAddr::V4(address) => wanted(RecordType::A).then_some(RData::A(A(*address))),
                IpAddr::V6(address) => wanted(RecordType::AAAA).then_some(RData::AAAA(AAAA(*address))),
            })
            .collect(),
        Found::Pointer(name) => wanted(RecordType::PTR).then(|| RData::PTR(PTR(name.clone()))).into_iter().collect(),
        Found::Empty | Found::Nothing | Found::Elsewhere => Vec::new(),
    };
    if data.is_empty() {
        if matches!(found, Found::Nothing) {
            reply.metadata.response_code = ResponseCode::NXDomain;
        }
        reply.authorities.extend(authority(question.name(), zone));
    }
    let name = question.name();
    reply.answers.extend(data.into_iter().map(|data| Record::from_rdata(name.clone(), TTL_S, data)));
}

/// The record of authority for a name of ours.
fn authority(name: &Name, zone: &Zone<'_>) -> Option<Record> {
    let domain = Name::from_ascii(format!("{}.", zone.domain)).ok()?;
    // Reverse names have no apex of their own where the prefix ends inside a label; the name's parent will do.
    let owner = if name.parse_arpa_name().is_ok() { name.base_name() } else { domain.clone() };
    let contact = domain.prepend_label("hostmaster").ok()?;
    // The times are for secondary servers, which there are none of; the last is how long "nothing" may be kept.
    let soa = SOA::new(domain, contact, 1, 3600, 600, 86_400, TTL_S);
    Some(Record::from_rdata(owner, TTL_S, RData::SOA(soa)))
}

/// Writes an answer to `asked` with what `fill` puts into it, in no more than `room` bytes.
fn write(asked: &Message, room: usize, fill: impl FnOnce(&mut Message)) -> Decision {
    let mut reply = Message::new(asked.metadata.id, MessageType::Response, asked.metadata.op_code);
    reply.metadata = Metadata::response_from_request(&asked.metadata);
    reply.metadata.recursion_available = true;
    reply.queries.clone_from(&asked.queries);
    if asked.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(OUR_UDP);
        reply.edns = Some(edns);
    }
    fill(&mut reply);
    // Codes above 15 are split between header and EDNS.
    let high = reply.metadata.response_code.high();
    if let Some(edns) = &mut reply.edns {
        edns.set_rcode_high(high);
    }
    match reply.to_vec() {
        Ok(bytes) if bytes.len() <= room => Decision::Reply(bytes),
        _ => reply.truncate().to_vec().map_or(Decision::Ignore, Decision::Reply),
    }
}

#[cfg(test)]
pub(crate) mod tests;
