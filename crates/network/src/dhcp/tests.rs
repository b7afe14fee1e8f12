use proptest::prelude::*;

use super::*;

const GUEST: Mac = Mac([0x0a, 0x5c, 0x71, 0, 1, 2]);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 1, 1);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 1, 2);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 9, 1, 77);

/// A DISCOVER as a small client sends it, from the first byte of its frame to its last option.
fn discover_bytes() -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend([0xff; 6]);
    bytes.extend(GUEST.0);
    bytes.extend([0x08, 0x00, 0x45, 0, 1, 21, 0, 0, 0, 0, 64, 17, 0x79, 0xd9, 0, 0, 0, 0, 255, 255, 255, 255]);
    bytes.extend([0, 68, 0, 67, 1, 1, 0, 0]); // UDP, no checksum
    bytes.extend([1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 0]);
    bytes.extend([0; 16]);
    bytes.extend(GUEST.0);
    bytes.extend([0; 10 + 64 + 128]);
    bytes.extend([0x63, 0x82, 0x53, 0x63, 53, 1, 1, 61, 3, 9, 9, 9, 255]);
    bytes
}

/// A question with these options; `change` may alter the message's fixed part.
fn ask(kind: u8, options: &[(u8, &[u8])], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let whole = discover_bytes();
    let asked = Datagram::parse(&whole).expect("the fixture");
    let mut payload = asked.payload[..240].to_vec();
    payload.extend([53, 1, kind]);
    for (code, value) in options {
        payload.extend([*code, value.len() as u8]);
        payload.extend(*value);
    }
    payload.push(255);
    change(&mut payload);
    Datagram { payload: &payload, ..asked }.write().expect("short enough")
}

struct Read {
    to: SocketAddr,
    message: Vec<u8>,
}

impl Read {
    fn options(&self) -> Vec<(u8, Vec<u8>)> {
        let mut rest = &self.message[240..];
        let mut options = Vec::new();
        while let [code, length, after @ ..] = rest {
            if *code == 255 {
                break;
            }
            options.push((*code, after[..usize::from(*length)].to_vec()));
            rest = &after[usize::from(*length)..];
        }
        options
    }

    fn option(&self, code: u8) -> Option<Vec<u8>> {
        self.options().into_iter().find_map(|(found, value)| (found == code).then_some(value))
    }

    fn given(&self) -> Ipv4Addr {
        <[u8; 4]>::try_from(&self.message[16..20]).expect("four bytes").into()
    }
}

fn answered(frame: &[u8]) -> Option<Read> {
    let domain = "lab.test".parse().expect("valid");
    let pool = Pool {
        mac: Mac([2, 0, 0, 0, 0, 1]),
        server: "10.9.1.1/24".parse().expect("valid"),
        router: Some(SERVER),
        dns: Some(SERVER),
        domain: &domain,
        mtu: 1400,
        lease_s: 3600,
    };
    let lookup = |mac| (mac == GUEST).then(|| Lease { address: ADDRESS, host_name: "web1".to_owned() });
    let reply = answer(frame, &pool, lookup)?;
    let datagram = Datagram::parse(&reply).expect("a whole datagram");
    assert_eq!((datagram.to_mac, datagram.from_mac), (GUEST, pool.mac));
    assert_eq!(datagram.from, SocketAddr::new(SERVER.into(), 67));
    assert!(datagram.payload.len() >= 300);
    Some(Read { to: datagram.to, message: datagram.payload.to_vec() })
}

fn kind_of(frame: &[u8]) -> Option<u8> {
    answered(frame).and_then(|read| read.option(53)).map(|value| value[0])
}

const OFFER: Option<u8> = Some(2);
const ACK: Option<u8> = Some(5);
const NAK: Option<u8> = Some(6);

#[test]
fn a_known_guest_is_offered_its_address_and_all_it_needs() {
    let offer = answered(&discover_bytes()).expect("an offer");
    assert_eq!(offer.to, SocketAddr::new(ADDRESS.into(), 68));
    assert_eq!(offer.message[..12], [2, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 0]);
    assert_eq!((offer.given(), &offer.message[28..34]), (ADDRESS, &GUEST.0[..]));
    let expected: Vec<(u8, &[u8])> = vec![
        (53, &[2]),
        (54, &[10, 9, 1, 1]),
        (61, &[9, 9, 9]),
        (51, &[0, 0, 0x0e, 0x10]),
        (58, &[0, 0, 0x07, 0x08]),
        (59, &[0, 0, 0x0c, 0x4e]),
        (1, &[255, 255, 255, 0]),
        (28, &[10, 9, 1, 255]),
        (3, &[10, 9, 1, 1]),
        (6, &[10, 9, 1, 1]),
        (15, b"lab.test"),
        (12, b"web1"),
        (26, &[0x05, 0x78]),
    ];
    let expected: Vec<_> = expected.into_iter().map(|(code, value)| (code, value.to_vec())).collect();
    assert_eq!(offer.options(), expected);
}

#[test]
fn a_guest_in_a_hurry_gets_its_address_in_one_exchange() {
    let ack = answered(&ask(1, &[(80, &[])], |_| {})).expect("an answer");
    assert_eq!((ack.option(53), ack.option(80), ack.given()), (Some(vec![5]), Some(vec![]), ADDRESS));
}

#[test]
fn requests_are_granted_for_the_own_address_only_in_every_state_of_the_client() {
    let request = |options: &[(u8, Ipv4Addr)], current: Ipv4Addr| {
        let octets: Vec<_> = options.iter().map(|(code, address)| (*code, address.octets())).collect();
        let options: Vec<_> = octets.iter().map(|(code, value)| (*code, &value[..])).collect();
        kind_of(&ask(3, &options, |message| message[12..16].copy_from_slice(&current.octets())))
    };
    let none = Ipv4Addr::UNSPECIFIED;
    // Selecting.
    assert_eq!(request(&[(50, ADDRESS), (54, SERVER)], none), ACK);
    assert_eq!(request(&[(50, OTHER), (54, SERVER)], none), NAK);
    assert_eq!(request(&[(50, ADDRESS), (54, OTHER)], none), None);
    // After a reboot.
    assert_eq!(request(&[(50, ADDRESS)], none), ACK);
    assert_eq!(request(&[(50, OTHER)], none), NAK);
    // Renewing and rebinding.
    assert_eq!(request(&[], ADDRESS), ACK);
    assert_eq!(request(&[], OTHER), NAK);
    assert_eq!(request(&[], none), NAK);
}

#[test]
fn a_refusal_gives_nothing() {
    let nak = answered(&ask(3, &[(50, &OTHER.octets())], |_| {})).expect("an answer");
    assert_eq!(nak.given(), Ipv4Addr::UNSPECIFIED);
    assert_eq!(nak.options(), [(53, vec![6]), (54, SERVER.octets().to_vec())]);
}

#[test]
fn answers_go_where_the_client_can_hear_them() {
    let to = |frame: &[u8]| answered(frame).expect("an answer").to.ip();
    let current = |address: Ipv4Addr| move |message: &mut [u8]| message[12..16].copy_from_slice(&address.octets());
    assert_eq!(to(&ask(1, &[], |_| {})), IpAddr::V4(ADDRESS));
    assert_eq!(to(&ask(1, &[], |message| message[10] = 0x80)), IpAddr::V4(Ipv4Addr::BROADCAST));
    assert_eq!(to(&ask(3, &[], current(ADDRESS))), IpAddr::V4(ADDRESS));
    assert_eq!(to(&ask(3, &[], current(OTHER))), IpAddr::V4(Ipv4Addr::BROADCAST));
}

#[test]
fn a_guest_with_an_address_is_informed_without_a_lease() {
    let ack = answered(&ask(8, &[], |m| m[12..16].copy_from_slice(&ADDRESS.octets()))).expect("an answer");
    assert_eq!((ack.option(53), ack.given(), ack.option(51)), (Some(vec![5]), Ipv4Addr::UNSPECIFIED, None));
    assert!(ack.option(6).is_some());
}

#[test]
fn strangers_relays_and_servers_get_no_answer() {
    for kind in [0, 2, 4, 5, 6, 7, 9, 255] {
        assert_eq!(kind_of(&ask(kind, &[], |_| {})), None);
    }
    assert_eq!(kind_of(&ask(1, &[], |_| {})), OFFER);
    let changes: [(usize, u8); 6] = [(0, 2), (1, 6), (2, 255), (24, 10), (33, 9), (236, 0)];
    for (at, value) in changes {
        assert_eq!(kind_of(&ask(1, &[], |message| message[at] = value)), None, "{at}");
    }
    // One that the directory does not know.
    let mut stranger = ask(1, &[], |message| message[33] = 9);
    stranger[11] = 9;
    assert_eq!(kind_of(&stranger), None);
    // One that asks a server somewhere else.
    let asked = ask(1, &[], |_| {});
    let asked = Datagram::parse(&asked).expect("the fixture");
    let elsewhere = Datagram { to: "192.0.2.1:67".parse().expect("address"), ..asked }.write().expect("a frame");
    assert_eq!(kind_of(&elsewhere), None);
}

/// A request with options that may not be in order, cut off somewhere.
pub(crate) fn offer(kind: u8, options: &[u8], changes: &[(usize, u8)], length: usize) {
    let whole = ask(kind, &[], |_| {});
    let asked = Datagram::parse(&whole).expect("the fixture");
    let mut payload = asked.payload[..243.min(asked.payload.len())].to_vec();
    payload.extend(options);
    changes.iter().for_each(|(at, value)| payload[*at] = *value);
    payload.truncate(length);
    let frame = Datagram { payload: &payload, ..asked }.write().expect("short enough");
    let _ = answered(&frame);
}

proptest! {
    #[test]
    fn no_bytes_can_make_it_fail(
        options in proptest::collection::vec(any::<u8>(), 0..300),
        head in proptest::collection::vec((0usize..240, any::<u8>()), 0..8),
        length in 0usize..540,
    ) {
        let whole = discover_bytes();
        let asked = Datagram::parse(&whole).expect("the fixture");
        let mut payload = asked.payload[..240].to_vec();
        payload.extend(options);
        for (at, value) in head {
            payload[at] = value;
        }
        payload.truncate(length);
        let frame = Datagram { payload: &payload, ..asked }.write().expect("short enough");
        let _ = answered(&frame);
    }

    #[test]
    fn options_we_do_not_know_change_nothing(
        options in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..20)), 0..20),
    ) {
        let known = [0, 50, 53, 54, 61, 80, 255];
        let options: Vec<_> =
            options.iter().filter(|(code, _)| !known.contains(code)).map(|(code, value)| (*code, &value[..])).collect();
        let plain = answered(&ask(1, &[], |_| {})).expect("an answer").message;
        prop_assert_eq!(answered(&ask(1, &options, |_| {})).expect("an answer").message, plain);
    }
}
