//! Router advertisements (RFC 4861, with DNS by RFC 8106).
//!
//! They tell guests the default route, the name server, the domain, the packet size and which addresses are on the
//! link. By default they tell them *not* to make addresses of their own: flags M and O and the prefix's A are off,
//! because the address that we set in the guest before its init runs is the one that the firewall lets pass and DNS
//! knows. [`Router::autonomous`] switches A on for networks whose NICs were given the very address that a guest makes
//! of the prefix and its hardware address (EUI-64, RFC 4291): then both agree.

use std::net::Ipv6Addr;

use model::{Cidr, Mac};

use crate::directory::Domain;
use crate::frame::{Icmp6, group_mac};

const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
const OPTION_SOURCE_MAC: u8 = 1;
const OPTION_PREFIX: u8 = 3;
const OPTION_MTU: u8 = 5;
const OPTION_DNS: u8 = 25;
const OPTION_DOMAINS: u8 = 31;
const ON_LINK: u8 = 0x80;
const AUTONOMOUS: u8 = 0x40;

/// Everybody on the link.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Seconds between advertisements that nobody asked for.
pub const INTERVAL_S: u64 = 300;
/// Seconds for which guests may rely on what they were told: six intervals.
const LIFETIME_S: u16 = 1800;
/// Seconds for which a prefix is on the link: long, as it does not change while the network exists.
const PREFIX_LIFETIME_S: u32 = 86_400;

/// What a router tells its link.
#[derive(Debug, Clone, Copy)]
pub struct Router<'a> {
    /// The router's hardware address; its link-local address is derived from it.
    pub mac: Mac,
    /// An address of the network, with its prefix length.
    pub prefix: Cidr,
    /// Guests may make themselves an address in the prefix.
    pub autonomous: bool,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Name server.
    pub dns: Option<Ipv6Addr>,
    /// Domain of the guests.
    pub domain: &'a Domain,
}

/// Answers a router solicitation, to the hardware address that asked; `None` for any other frame.
pub fn answer(frame: &[u8], router: &Router<'_>) -> Option<Vec<u8>> {
    let asked = Icmp6::parse(frame)?;
    let is_solicitation = asked.message.first() == Some(&SOLICITATION) && asked.message.get(1) == Some(&0);
    // One without an address cannot have told its hardware address (RFC 4861, 6.1.1).
    let options = asked.message.get(8..)?;
    let anonymous = asked.from.is_unspecified();
    if !is_solicitation || !are_options(options) || (anonymous && has_source_mac(options)) {
        return None;
    }
    // An answer to nobody in particular is read by everybody; only the frame goes to the one who asked.
    let to = if anonymous { ALL_NODES } else { asked.from };
    advertise(router, asked.from_mac, to)
}

/// An advertisement to everybody.
pub fn unsolicited(router: &Router<'_>) -> Option<Vec<u8>> {
    advertise(router, group_mac(ALL_NODES), ALL_NODES)
}

fn advertise(router: &Router<'_>, to_mac: Mac, to: Ipv6Addr) -> Option<Vec<u8>> {
    let mut message = vec![ADVERTISEMENT, 0, 0, 0];
    message.extend([64, 0]); // hop limit that guests use; neither M nor O
    message.extend(LIFETIME_S.to_be_bytes());
    message.extend([0; 8]); // reachable time, retransmission: the guest's own
    message.extend([OPTION_SOURCE_MAC, 1]);
    message.extend(router.mac.0);
    message.extend([OPTION_MTU, 1, 0, 0]);
    message.extend(router.mtu.to_be_bytes());
    message.extend(prefix(router));
    if let Some(dns) = router.dns {
        message.extend([OPTION_DNS, 3, 0, 0]);
        message.extend(u32::from(LIFETIME_S).to_be_bytes());
        message.extend(dns.octets());
    }
    let mut names = router.domain.wire();
    names.resize(names.len().next_multiple_of(8), 0);
    message.extend([OPTION_DOMAINS, (1 + names.len() / 8) as u8, 0, 0]);
    message.extend(u32::from(LIFETIME_S).to_be_bytes());
    message.extend(names);
    Icmp6 { to_mac, from_mac: router.mac, to, from: router.mac.link_local(), message: &message }.write()
}

/// Prefix information (RFC 4861, 4.6.2).
fn prefix(router: &Router<'_>) -> Vec<u8> {
    let mut option = vec![OPTION_PREFIX, 4, router.prefix.prefix];
    option.push(ON_LINK | if router.autonomous { AUTONOMOUS } else { 0 });
    option.extend(PREFIX_LIFETIME_S.to_be_bytes());
    option.extend(PREFIX_LIFETIME_S.to_be_bytes());
    option.extend([0; 4]);
    match router.prefix.nth(0) {
        std::net::IpAddr::V6(network) => option.extend(network.octets()),
        // A network without IPv6 does not advertise; no prefix of ours covers this.
        std::net::IpAddr::V4(_) => option.extend([0; 16]),
    }
    option
}

/// Whether the bytes are whole options, none of length zero.
fn are_options(mut bytes: &[u8]) -> bool {
    while let Some(&length) = bytes.get(1) {
        match bytes.get(usize::from(length) * 8..) {
            Some(rest) if length > 0 => bytes = rest,
            _ => return false,
        }
    }
    bytes.is_empty()
}

/// Whether one of these whole options tells the sender's hardware address.
fn has_source_mac(mut bytes: &[u8]) -> bool {
    while let [kind, length, ..] = bytes {
        if *kind == OPTION_SOURCE_MAC {
            return true;
        }
        bytes = bytes.get(usize::from(*length).max(1) * 8..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) const GUEST: Mac = Mac([0x0a, 0x5c, 0x71, 0, 1, 2]);

    /// What anybody sends, answered or not.
    pub(crate) fn offer(from: Ipv6Addr, message: &[u8]) {
        let _ = answered(from, message);
    }

    fn answered(from: Ipv6Addr, message: &[u8]) -> Option<Vec<u8>> {
        let domain = "lab.test".parse().expect("valid");
        let router = Router {
            mac: Mac([0x0a, 0x5c, 0x71, 0, 0, 1]),
            prefix: "fd00:9:1::1/64".parse().expect("valid"),
            autonomous: false,
            mtu: 1400,
            dns: Some("fd00:9:1::1".parse().expect("address")),
            domain: &domain,
        };
        let to: Ipv6Addr = "ff02::2".parse().expect("address");
        let frame = Icmp6 { to_mac: group_mac(to), from_mac: GUEST, to, from, message }.write()?;
        answer(&frame, &router)
    }

    #[test]
    fn an_advertisement_has_the_bytes_of_the_standards() {
        let reply = answered(GUEST.link_local(), &[133, 0, 0, 0, 0, 0, 0, 0]).expect("an answer");
        let read = Icmp6::parse(&reply).expect("a right checksum and hop limit");
        assert_eq!((read.to_mac, read.to), (GUEST, GUEST.link_local()));
        assert_eq!(read.from.to_string(), "fe80::85c:71ff:fe00:1");
        let mut expected = vec![134, 0, read.message[2], read.message[3], 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
        expected.extend([1, 1, 0x0a, 0x5c, 0x71, 0, 0, 1]);
        expected.extend([5, 1, 0, 0, 0, 0, 0x05, 0x78]);
        expected.extend([3, 4, 64, 0x80, 0, 1, 0x51, 0x80, 0, 1, 0x51, 0x80, 0, 0, 0, 0]);
        expected.extend([0xfd, 0, 0, 9, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend([25, 3, 0, 0, 0, 0, 0x07, 0x08]);
        expected.extend([0xfd, 0, 0, 9, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        expected.extend([31, 3, 0, 0, 0, 0, 0x07, 0x08]);
        expected.extend(b"\x03lab\x04test\0\0\0\0\0\0\0");
        assert_eq!(read.message, expected);
    }

    #[test]
    fn who_has_no_address_yet_is_answered_by_a_message_to_all() {
        let reply = answered(Ipv6Addr::UNSPECIFIED, &[133, 0, 0, 0, 0, 0, 0, 0]).expect("an answer");
        let read = Icmp6::parse(&reply).expect("whole");
        assert_eq!((read.to_mac, read.to), (GUEST, ALL_NODES));
    }

    #[test]
    fn unsound_solicitations_are_not_answered() {
        let own = GUEST.link_local();
        let with_mac = [133, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 1];
        assert!(answered(own, &with_mac).is_some());
        assert!(answered(Ipv6Addr::UNSPECIFIED, &with_mac).is_none());
        assert!(answered(own, &[134, 0, 0, 0, 0, 0, 0, 0]).is_none());
        assert!(answered(own, &[133, 1, 0, 0, 0, 0, 0, 0]).is_none());
        assert!(answered(own, &[133, 0, 0, 0, 0, 0, 0]).is_none());
        // An option of length zero, and one that is longer than the message.
        assert!(answered(own, &[133, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]).is_none());
        assert!(answered(own, &[133, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0]).is_none());
    }

    proptest! {
        #[test]
        fn any_message_can_be_offered(message in proptest::collection::vec(any::<u8>(), 4..100), anonymous: bool) {
            let from = if anonymous { Ipv6Addr::UNSPECIFIED } else { GUEST.link_local() };
            let mut message = message;
            message[..2].copy_from_slice(&[133, 0]);
            let _ = answered(from, &message);
        }
    }
}
