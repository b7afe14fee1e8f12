//! What a hostile guest sends, frame by frame, and what of it reaches another guest.

mod lab;

use std::net::{Ipv6Addr, SocketAddr};

use lab::{Host, Wire, host_name, mac};
use model::Mac;
use network::frame::{Datagram, Icmp6, group_mac};
use network::nft::{self, NicRules, TableName};

const BROADCAST: Mac = Mac([0xff; 6]);

fn table() -> TableName {
    "sysctl-test".parse().expect("valid")
}

fn rules(n: u8, spoofing: bool) -> NicRules {
    NicRules::of(host_name(n), &model::NicSpec { spoofing, ..lab::nic(n) })
}

fn udp(from_mac: Mac, from: &str, to: &str, token: &str) -> Vec<u8> {
    let address = |text: &str| -> SocketAddr { text.parse().expect(text) };
    let datagram =
        Datagram { to_mac: mac(3), from_mac, to: address(to), from: address(from), payload: token.as_bytes() };
    datagram.write().expect("a frame")
}

fn icmp6(from: &str, kind: u8, target: &str, token: &str) -> Vec<u8> {
    let group: Ipv6Addr = "ff02::1".parse().expect("address");
    let target: Ipv6Addr = target.parse().expect("address");
    let mut message = vec![kind, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend_from_slice(&target.octets());
    message.extend_from_slice(token.as_bytes());
    let from = from.parse().expect("address");
    let message = Icmp6 { to_mac: group_mac(group), from_mac: mac(2), to: group, from, message: &message };
    message.write().expect("a frame")
}

fn ethernet(to: Mac, kind: [u8; 2], body: &[u8], token: &str) -> Vec<u8> {
    [&to.0[..], &mac(2).0, &kind, body, token.as_bytes()].concat()
}

fn arp(format: [u8; 6], sender: Mac, ip: [u8; 4], token: &str) -> Vec<u8> {
    let body = [&format[..], &[0, 2], &sender.0, &ip, &[0; 6], &[10, 9, 1, 3]].concat();
    ethernet(BROADCAST, [8, 6], &body, token)
}

/// Puts a tag between the addresses and the type.
fn tagged(kind: [u8; 2], mut frame: Vec<u8>) -> Vec<u8> {
    frame.splice(12..12, [kind[0], kind[1], 0, 5]);
    frame
}

/// A router advertisement that hides behind a hop-by-hop header.
fn hidden_advertisement(token: &str) -> Vec<u8> {
    let mut frame = icmp6(&mac(2).link_local().to_string(), 134, "::", token);
    frame.splice(54..54, [58, 0, 1, 4, 0, 0, 0, 0]);
    frame[20] = 0;
    frame[19] += 8;
    frame
}

/// What a guest may always send, what only with `spoofing`, and what never; each with a token that tells it apart.
fn frames() -> [Vec<(&'static str, Vec<u8>)>; 3] {
    const ARP: [u8; 6] = [0, 1, 8, 0, 6, 4];
    let own = mac(2).link_local().to_string();
    let mut all: [Vec<(&'static str, Vec<u8>)>; 3] = Default::default();
    let mut put =
        |class: usize, token: &'static str, make: &dyn Fn(&str) -> Vec<u8>| all[class].push((token, make(token)));

    put(0, "<own IPv4>", &|t| udp(mac(2), "10.9.1.2:9", "10.9.1.3:9", t));
    put(0, "<own IPv6>", &|t| udp(mac(2), "[fd00:9:1::2]:9", "[fd00:9:1::3]:9", t));
    put(0, "<own link-local>", &|t| udp(mac(2), &format!("[{own}]:9"), "[fd00:9:1::3]:9", t));
    put(0, "<DHCP discover>", &|t| udp(mac(2), "0.0.0.0:68", "255.255.255.255:67", t));
    put(0, "<ARP of own address>", &|t| arp(ARP, mac(2), [10, 9, 1, 2], t));
    put(0, "<ARP probe>", &|t| arp(ARP, mac(2), [0; 4], t));
    put(0, "<duplicate detection>", &|t| icmp6("::", 135, "fd00:9:1::2", t));
    put(0, "<router solicitation>", &|t| icmp6("::", 133, "::", t));
    put(0, "<own neighbour advertisement>", &|t| icmp6(&own, 136, "fd00:9:1::2", t));

    put(1, "<other hardware address>", &|t| udp(mac(9), "10.9.1.2:9", "10.9.1.3:9", t));
    put(1, "<other IPv4>", &|t| udp(mac(2), "10.9.1.9:9", "10.9.1.3:9", t));
    put(1, "<gateway's IPv4>", &|t| udp(mac(2), "10.9.1.1:53", "10.9.1.3:9", t));
    put(1, "<other IPv6>", &|t| udp(mac(2), "[fd00:9:1::9]:9", "[fd00:9:1::3]:9", t));
    put(1, "<other link-local>", &|t| udp(mac(2), "[fe80::9]:9", "[fd00:9:1::3]:9", t));
    put(1, "<no IPv4, not DHCP>", &|t| udp(mac(2), "0.0.0.0:68", "255.255.255.255:9", t));
    put(1, "<no IPv6, not discovery>", &|t| udp(mac(2), "[::]:9", "[fd00:9:1::3]:9", t));
    put(1, "<ARP of the gateway's address>", &|t| arp(ARP, mac(2), [10, 9, 1, 1], t));
    put(1, "<ARP of other hardware address>", &|t| arp(ARP, mac(9), [10, 9, 1, 2], t));
    put(1, "<ARP of odd format>", &|t| arp([0, 1, 8, 0, 8, 4], mac(2), [10, 9, 1, 2], t));
    put(1, "<other's neighbour advertisement>", &|t| icmp6(&own, 136, "fd00:9:1::1", t));
    put(1, "<other EtherType>", &|t| ethernet(BROADCAST, [0x90, 0], &[0; 40], t));

    put(2, "<DHCP answer>", &|t| udp(mac(2), "10.9.1.2:67", "10.9.1.3:68", t));
    put(2, "<DHCPv6 answer>", &|t| udp(mac(2), "[fd00:9:1::2]:547", "[fd00:9:1::3]:546", t));
    put(2, "<router advertisement>", &|t| icmp6(&own, 134, "::", t));
    put(2, "<hidden router advertisement>", &hidden_advertisement);
    put(2, "<redirect>", &|t| icmp6(&own, 137, "fd00:9:1::9", t));
    put(2, "<tagged>", &|t| tagged([0x81, 0], udp(mac(2), "10.9.1.2:9", "10.9.1.3:9", t)));
    put(2, "<tagged by provider>", &|t| tagged([0x88, 0xa8], udp(mac(2), "10.9.1.2:9", "10.9.1.3:9", t)));
    put(2, "<tagged twice>", &|t| tagged([0x81, 0], tagged([0x81, 0], udp(mac(2), "10.9.1.2:9", "10.9.1.3:9", t))));
    put(2, "<spanning tree>", &|t| {
        ethernet(Mac([1, 0x80, 0xc2, 0, 0, 0]), [0, 38], &[0x42, 0x42, 3, 0, 0, 0, 0, 0], t)
    });
    all
}

/// Which tokens arrive at guest 3 when guest 2 sends all frames. A frame that always passes goes last: frames of one
/// sender stay in order, so what has not come before it never will.
fn arrived(from: &Wire, at: &Wire, frames: &[Vec<(&'static str, Vec<u8>)>; 3]) -> Vec<&'static str> {
    for (_, frame) in frames.iter().flatten() {
        from.send(frame);
    }
    from.send(&udp(mac(2), "10.9.1.2:9", "10.9.1.3:9", "<end>"));
    let has = |frame: &[u8], token: &str| frame.windows(token.len()).any(|part| part == token.as_bytes());
    let mut tokens = Vec::new();
    loop {
        let frame = at.receive();
        if has(&frame, "<end>") {
            return tokens;
        }
        tokens.extend(frames.iter().flatten().map(|(token, _)| *token).filter(|token| has(&frame, token)));
    }
}

#[test]
fn a_guest_s_frames_pass_only_when_they_are_its_own() {
    let mut host = Host::new();
    let mut firewall = host.space.netfilter();
    nft::replace(&mut firewall, &table(), &[], &[rules(2, false), rules(3, false)]).expect("made");
    let (two, three) = (host.guest(2), host.guest(3));
    let (from, at) = (Wire::new(&two), Wire::new(&three));
    let frames = frames();
    let of = |classes: &[usize]| -> Vec<&str> {
        classes.iter().flat_map(|class| frames[*class].iter().map(|(token, _)| *token)).collect()
    };
    assert_eq!(arrived(&from, &at, &frames), of(&[0]));
    nft::change_nic(&mut firewall, &table(), &rules(2, false), &rules(2, true)).expect("changed");
    assert_eq!(arrived(&from, &at, &frames), of(&[0, 1]));
    // So the frames are such that a bridge without rules passes them.
    nft::forget_nic(&mut firewall, &table(), &rules(2, true)).expect("changed");
    assert_eq!(arrived(&from, &at, &frames), of(&[0, 1, 2]));
}

#[test]
fn ten_thousand_hardware_addresses_leave_no_trace_even_without_a_firewall() {
    let mut host = Host::new();
    let (two, three) = (host.guest(2), host.guest(3));
    let before = host.space.program(&["bridge", "fdb", "show", "br", "tstbr0"]);
    let (from, at) = (Wire::new(&two), Wire::new(&three));
    for n in 0..10_000u32 {
        let [_, _, a, b] = n.to_be_bytes();
        from.send(&udp(Mac([2, 2, 2, 2, a, b]), "10.9.1.2:9", "10.9.1.3:9", "x"));
        // Also the addresses of the gateway and of the other guest, which must stay where they are. Read along, as the
        // receiver's queue is short.
        if n % 100 == 99 {
            from.send(&udp(mac(3), "10.9.1.2:9", "10.9.1.3:9", "x"));
            from.send(&udp(lab::BRIDGE_MAC, "10.9.1.2:9", "10.9.1.3:9", "x"));
            from.send(&udp(mac(2), "10.9.1.2:9", "10.9.1.3:9", "<end>"));
            while !at.receive().windows(5).any(|part| part == b"<end>") {}
        }
    }
    assert_eq!(host.space.program(&["bridge", "fdb", "show", "br", "tstbr0"]), before);
}
