use std::net::{Ipv4Addr, Ipv6Addr};

use model::Mac;
use proptest::prelude::*;

use super::*;
use crate::directory::Host;

const UDP: Transport = Transport::Udp { largest: 1472 };

fn with_zone<T>(act: impl FnOnce(&Zone<'_>) -> T) -> T {
    let host = |name: &str, n: u8, v6: bool| Host {
        name: name.parse().expect(name),
        mac: Mac([2, 0, 0, 0, 0, n]),
        ipv4: Some(Ipv4Addr::new(10, 9, 1, n)),
        ipv6: v6.then(|| Ipv6Addr::new(0xfd00, 9, 1, 0, 0, 0, 0, u16::from(n))),
    };
    let directory = Directory::new([host("web1", 2, true), host("db", 3, false)]);
    let subnets = ["10.9.1.1/24".parse().expect("valid"), "fd00:9:1::1/64".parse().expect("valid")];
    let domain = "lab.test".parse().expect("valid");
    act(&Zone { domain: &domain, subnets: &subnets, directory: &directory })
}

/// A question as a resolver sends it: number 0x1234, recursion desired.
fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

fn with_edns(mut bytes: Vec<u8>, size: u16, version: u8) -> Vec<u8> {
    bytes[11] = 1;
    bytes.extend([0, 0, 41]);
    bytes.extend(size.to_be_bytes());
    bytes.extend([0, version, 0, 0, 0, 0]);
    bytes
}

fn decided(message: &[u8]) -> Decision {
    with_zone(|zone| decide(message, zone, UDP))
}

/// The answer in one line: code, then records.
fn told(name: &str, kind: u16) -> String {
    match decided(&question(name, kind)) {
        Decision::Reply(bytes) => {
            let reply = Message::from_vec(&bytes).expect("decodes");
            assert_eq!(reply.metadata.id, 0x1234);
            assert!(reply.metadata.recursion_desired && reply.metadata.message_type == MessageType::Response);
            let mut line = format!("{:?}", reply.metadata.response_code);
            for record in &reply.answers {
                line.push_str(&format!(" {}", record.data));
            }
            if let [soa] = reply.authorities.as_slice() {
                line.push_str(&format!(" [{}]", soa.name));
            }
            line
        }
        Decision::Forward(_) => "forward".to_owned(),
        Decision::Ignore => "nothing".to_owned(),
    }
}

const KIND_A: u16 = 1;
const KIND_NS: u16 = 2;
const KIND_PTR: u16 = 12;
const KIND_MX: u16 = 15;
const KIND_AAAA: u16 = 28;
const KIND_ANY: u16 = 255;

#[test]
fn names_of_instances_are_answered_and_only_ours_can_be_missing() {
    for (name, kind, expected) in [
        ("web1", KIND_A, "NoError 10.9.1.2"),
        ("WEB1.Lab.Test", KIND_A, "NoError 10.9.1.2"),
        ("web1.lab.test", KIND_AAAA, "NoError fd00:9:1::2"),
        ("web1.lab.test", KIND_ANY, "NoError 10.9.1.2 fd00:9:1::2"),
        // The name is there, the kind is not.
        ("db", KIND_AAAA, "NoError [lab.test.]"),
        ("db.lab.test", KIND_AAAA, "NoError [lab.test.]"),
        ("web1.lab.test", KIND_MX, "NoError [lab.test.]"),
        ("lab.test", KIND_A, "NoError [lab.test.]"),
        ("lab.test", KIND_NS, "NoError [lab.test.]"),
        // The name is not there.
        ("gone.lab.test", KIND_A, "NXDomain [lab.test.]"),
        ("a.web1.lab.test", KIND_A, "NXDomain [lab.test.]"),
        // Not ours.
        ("gone", KIND_A, "forward"),
        ("example.org", KIND_A, "forward"),
        ("web1.example.org", KIND_A, "forward"),
        ("test", KIND_NS, "forward"),
        ("notlab.test", KIND_A, "forward"),
        ("", KIND_NS, "forward"),
    ] {
        assert_eq!(told(name, kind), expected, "{name} {kind}");
    }
}

#[test]
fn addresses_of_the_network_have_names_and_others_are_not_ours() {
    let zeros = "0.0.0.0.0.0.0.0.0.0.0.0";
    for (name, kind, expected) in [
        ("2.1.9.10.in-addr.arpa", KIND_PTR, "NoError web1.lab.test."),
        ("2.1.9.10.in-addr.arpa", KIND_A, "NoError [1.9.10.in-addr.arpa.]"),
        ("9.1.9.10.in-addr.arpa", KIND_PTR, "NXDomain [1.9.10.in-addr.arpa.]"),
        ("1.9.10.in-addr.arpa", KIND_NS, "NoError [9.10.in-addr.arpa.]"),
        ("9.10.in-addr.arpa", KIND_NS, "forward"),
        ("2.2.9.10.in-addr.arpa", KIND_PTR, "forward"),
        ("in-addr.arpa", KIND_NS, "forward"),
        ("x.1.9.10.in-addr.arpa", KIND_PTR, "forward"),
        (&format!("2.0.0.0.{zeros}.0.0.0.0.1.0.0.0.9.0.0.0.0.0.d.f.ip6.arpa"), KIND_PTR, "NoError web1.lab.test."),
        (
            &format!("9.0.0.0.{zeros}.0.0.0.0.1.0.0.0.9.0.0.0.0.0.d.f.ip6.arpa"),
            KIND_PTR,
            &format!("NXDomain [0.0.0.{zeros}.0.0.0.0.1.0.0.0.9.0.0.0.0.0.d.f.ip6.arpa.]"),
        ),
        ("1.0.0.0.9.0.0.0.0.0.d.f.ip6.arpa", KIND_PTR, "forward"),
    ] {
        assert_eq!(told(name, kind), expected, "{name} {kind}");
    }
}

#[test]
fn an_answer_has_the_bytes_of_the_standard() {
    let Decision::Reply(reply) = decided(&question("web1", KIND_A)) else { panic!("a reply") };
    let mut expected = question("web1", KIND_A);
    expected[2..4].copy_from_slice(&[0x85, 0x80]);
    expected[7] = 1;
    expected.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 10, 0, 4, 10, 9, 1, 2]);
    assert_eq!(reply, expected);
}

#[test]
fn what_is_no_plain_question_is_refused_with_its_reason() {
    let code = |message: &[u8]| match decided(message) {
        Decision::Reply(bytes) => Message::from_vec(&bytes).expect("decodes").metadata.response_code,
        other => panic!("{other:?}"),
    };
    assert_eq!(code(&question("web1", 252)), ResponseCode::Refused);
    let mut chaos = question("version.bind", 16);
    *chaos.last_mut().expect("a byte") = 3;
    assert_eq!(code(&chaos), ResponseCode::Refused);
    let mut notify = question("web1", KIND_A);
    notify[2] = 0x20;
    assert_eq!(code(&notify), ResponseCode::NotImp);
    let mut two = question("web1", KIND_A);
    two[5] = 2;
    two.extend([0, 0, 1, 0, 1]);
    assert_eq!(code(&two), ResponseCode::FormErr);
    let mut cut = question("web1", KIND_A);
    cut.pop();
    assert_eq!(code(&cut), ResponseCode::FormErr);
    let mut reply = question("web1", KIND_A);
    reply[2] |= 0x80;
    assert_eq!(decided(&reply), Decision::Ignore);
    assert_eq!(decided(&[0; 11]), Decision::Ignore);

    // An EDNS of the future.
    assert_eq!(u16::from(code(&with_edns(question("web1", KIND_A), 4096, 1))), 16);
}

#[test]
fn answers_fit_into_what_the_client_takes() {
    let directory = Directory::new((0..60).map(|n| Host {
        name: "many".parse().expect("valid"),
        mac: Mac([2, 0, 0, 0, 0, n]),
        ipv4: Some(Ipv4Addr::new(10, 9, 1, n)),
        ipv6: None,
    }));
    let domain = "lab.test".parse().expect("valid");
    let zone = Zone { domain: &domain, subnets: &[], directory: &directory };
    for (message, transport, fits) in [
        (question("many", KIND_A), UDP, false),
        (with_edns(question("many", KIND_A), 100, 0), UDP, false),
        (with_edns(question("many", KIND_A), 1232, 0), UDP, true),
        (with_edns(question("many", KIND_A), 4096, 0), Transport::Udp { largest: 600 }, false),
        (question("many", KIND_A), Transport::Tcp, true),
    ] {
        let Decision::Reply(bytes) = decide(&message, &zone, transport) else { panic!("a reply") };
        let reply = Message::from_vec(&bytes).expect("decodes");
        assert_eq!((reply.metadata.truncation, reply.answers.len()), (!fits, if fits { 60 } else { 0 }));
        assert_eq!(reply.edns.is_some(), message[11] == 1);
    }
}

fn pending(message: &[u8]) -> Pending {
    match decided(message) {
        Decision::Forward(pending) => pending,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_forwarded_question_changes_its_number_only_and_takes_only_its_own_answer() {
    let asked = with_edns(question("example.org", KIND_A), 1232, 0);
    let pending = pending(&asked);
    let sent = pending.with_id(0xbeef);
    assert_eq!((&sent[..2], &sent[2..]), (&[0xbe, 0xef][..], &asked[2..]));

    let mut reply = sent.clone();
    reply[2] |= 0x80;
    reply[13] = b'E';
    assert!(pending.is_answered_by(0xbeef, &reply));
    let changes: [(usize, u8); 5] = [(0, 0), (2, 1), (5, 2), (14, b'y'), (26, 28)];
    for (at, value) in changes {
        let mut wrong = reply.clone();
        wrong[at] = value;
        assert!(!pending.is_answered_by(0xbeef, &wrong), "{at}");
    }
    assert!(!pending.is_answered_by(0xbeef, &reply[..20]));
    let delivered = pending.deliver(reply.clone());
    assert_eq!((&delivered[..2], &delivered[2..]), (&[0x12, 0x34][..], &reply[2..]));
}

#[test]
fn a_long_answer_is_cut_off_and_says_so() {
    let pending = pending(&with_edns(question("example.org", KIND_A), 600, 0));
    let mut reply = pending.with_id(1);
    reply[2] |= 0x80;
    reply.resize(601, 0);
    let cut = Message::from_vec(&pending.deliver(reply)).expect("decodes");
    assert!(cut.metadata.truncation && cut.answers.is_empty() && cut.edns.is_some());
    assert_eq!((cut.metadata.id, cut.queries.len()), (0x1234, 1));
    let failed = Message::from_vec(&pending.failure()).expect("decodes");
    assert_eq!(failed.metadata.response_code, ResponseCode::ServFail);
    assert!(Pending::is_failure(&pending.failure()));
}

/// A question that may be broken, and a reply to it that may be anything.
pub(crate) fn offer(name: &str, kind: u16, changes: &[(usize, u8)], reply: Vec<u8>) {
    let mut message = with_edns(question(name, kind), 1232, 0);
    for (at, value) in changes {
        message.get_mut(*at).into_iter().for_each(|byte| *byte = *value);
    }
    for transport in [UDP, Transport::Tcp] {
        if let Decision::Forward(pending) = with_zone(|zone| decide(&message, zone, transport)) {
            let _ = pending.is_answered_by(0, &reply);
            assert!(pending.deliver(reply.clone()).len() >= 12 && pending.failure().len() >= 12);
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_can_make_it_fail(bytes in proptest::collection::vec(any::<u8>(), 0..100), tcp: bool) {
        let transport = if tcp { Transport::Tcp } else { UDP };
        let _ = with_zone(|zone| decide(&bytes, zone, transport));
    }

    #[test]
    fn no_change_to_a_question_can_either(
        name in "([a-z0-9]{0,5}\\.){0,3}(lab\\.test|in-addr\\.arpa|ip6\\.arpa|org)",
        kind: u16,
        changes in proptest::collection::vec((0usize..60, any::<u8>()), 0..4),
        reply in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let mut message = with_edns(question(&name, kind), 1232, 0);
        for (at, value) in changes {
            if let Some(byte) = message.get_mut(at) {
                *byte = value;
            }
        }
        if let Decision::Forward(pending) = with_zone(|zone| decide(&message, zone, UDP)) {
            let _ = pending.is_answered_by(0, &reply);
            prop_assert!(pending.deliver(reply).len() >= 12);
            prop_assert!(pending.failure().len() >= 12);
        }
    }
}
