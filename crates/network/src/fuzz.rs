//! What guests and the kernel could send: whole frames that get past the first checks, and messages in them.

use std::net::Ipv6Addr;

use proptest::collection::vec;
use proptest::prelude::*;
use testkit::fuzz::feed;

use crate::frame::{Datagram, Icmp6};
use crate::netlink::Reader;
use crate::{dhcp, dns, ra};

/// Fields with lengths of their own, which may lie: options of DHCP, of router solicitations, attributes of netlink.
fn options() -> impl Strategy<Value = Vec<u8>> {
    let option = (any::<u8>(), prop::option::weighted(0.2, any::<u8>()), vec(any::<u8>(), 0..20))
        .prop_map(|(code, lie, value)| [&[code, lie.unwrap_or(value.len() as u8)][..], &value].concat());
    vec(option, 0..20).prop_map(|options| options.concat())
}

#[test]
fn any_request_can_be_sent_for_an_address() {
    let changes = vec((0usize..240, any::<u8>()), 0..8);
    feed("DHCP requests", &(1u8..9, options(), changes, 200usize..600), |(kind, options, changes, length)| {
        dhcp::tests::offer(kind, &options, &changes, length);
    });
}

#[test]
fn any_question_can_be_asked() {
    let name = "([a-z0-9]{0,5}\\.){0,3}(lab\\.test|in-addr\\.arpa|ip6\\.arpa|org)";
    let changes = vec((0usize..60, any::<u8>()), 0..6);
    feed("DNS questions", &(name, any::<u16>(), changes, vec(any::<u8>(), 0..80)), |(name, kind, changes, reply)| {
        dns::tests::offer(&name, kind, &changes, reply);
    });
}

#[test]
fn any_neighbour_message_can_be_sent() {
    feed("RA and NDP messages", &(vec(any::<u8>(), 6), options(), any::<bool>()), |(head, options, anonymous)| {
        let message = [&[133, 0][..], &head, &options].concat();
        ra::tests::offer(if anonymous { Ipv6Addr::UNSPECIFIED } else { ra::tests::GUEST.link_local() }, &message);
    });
}

#[test]
fn any_frame_can_be_sent() {
    feed("frames", &(vec(any::<u8>(), 0..200), 0usize..3), |(mut bytes, kind)| {
        if let Some(at) = bytes.get_mut(12..15) {
            at.copy_from_slice(&[[8, 0, 0x45], [0x86, 0xdd, 0x60], [8, 0, 0x4f]][kind]);
        }
        let _ = Datagram::parse(&bytes);
        let _ = Icmp6::parse(&bytes);
    });
}

#[test]
fn any_answer_can_come_from_netlink() {
    let attribute = (0u16..24, prop::option::weighted(0.1, any::<u16>()), vec(any::<u8>(), 0..24)).prop_map(
        |(kind, lie, value)| {
            let length = lie.unwrap_or(value.len() as u16 + 4);
            let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &value].concat();
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        },
    );
    // Elements of sets: lists in lists, down to a key.
    let nested = (vec(any::<u8>(), 0..24), any::<bool>()).prop_map(|(key, whole)| {
        let wrap = |kind: u16, inner: &[u8]| {
            let length = inner.len() as u16 + 4 - u16::from(!whole && inner.len() > 1);
            let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), inner].concat();
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        wrap(3, &wrap(1, &wrap(1, &wrap(1, &key))))
    });
    let attribute = prop_oneof![attribute, nested];
    let message = (any::<u16>(), prop::option::weighted(0.1, any::<u32>()), vec(attribute, 0..8));
    feed("netlink and nftables answers", &vec(message, 0..4), |messages| {
        let mut bytes = Vec::new();
        for (kind, lie, attributes) in messages {
            let body = [&[0u8; 4][..], &attributes.concat()].concat();
            bytes.extend(lie.unwrap_or(body.len() as u32 + 16).to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend([0u8; 10]);
            bytes.extend(body);
        }
        let mut rest = bytes.as_slice();
        while let Some((message, after)) = Reader::split(rest) {
            message.attributes(4).for_each(|(_, list)| crate::nft::offer(list));
            assert!(after.len() < rest.len());
            rest = after;
        }
    });
}
