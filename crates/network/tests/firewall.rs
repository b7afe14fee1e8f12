//! The firewall in the kernel: what passes, what does not, and that calling twice is calling once.

mod lab;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lab::{Host, PATIENCE, Space, host_name, ip, name};
use network::nft::{self, NetworkRules, NicRules, TableName};
use network::{Error, link};

fn table() -> TableName {
    "sysctl-test".parse().expect("valid")
}

fn network() -> NetworkRules {
    NetworkRules {
        bridge: name("tstbr0"),
        gateway4: Some("10.9.1.1".parse().expect("address")),
        gateway6: Some("fd00:9:1::1".parse().expect("address")),
        nat4: true,
        nat6: true,
        host_open: false,
        isolated: false,
    }
}

fn nic(n: u8) -> NicRules {
    NicRules::of(host_name(n), &lab::nic(n))
}

#[test]
fn probing_leaves_nothing_behind() {
    let space = Space::new();
    let mut socket = space.netfilter();
    nft::probe(&mut socket).expect("this kernel has nf_tables");
    assert_eq!(space.program(&["nft", "list", "ruleset"]), "");
    assert_eq!(nft::tables(&mut socket).expect("tables"), Vec::<String>::new());
}

#[test]
fn what_is_made_is_what_is_listed() {
    let space = Space::new();
    let mut socket = space.netfilter();
    let nothing = nft::contents(&mut socket, &table()).expect("contents");
    assert!(!nothing.intact && nothing.networks.is_empty());
    let mut open = nic(3);
    open.spoofing = true;
    for _ in 0..2 {
        nft::replace(&mut socket, &table(), &[network()], &[nic(2), open.clone()]).expect("made");
        let contents = nft::contents(&mut socket, &table()).expect("contents");
        assert!(contents.intact);
        assert_eq!(contents.networks, [network()]);
        assert_eq!(contents.nics[0], nic(2));
        assert_eq!((contents.nics.len(), contents.nics[1].spoofing, contents.faults), (2, true, 0));
    }
    let shown = space.program(&["nft", "list", "ruleset"]);
    for line in ["iifname @nat4 oifname != @bridges masquerade", "type filter hook prerouting priority"] {
        assert!(shown.contains(line), "{line} in {shown}");
    }
    assert_eq!(nft::tables(&mut socket).expect("tables"), ["sysctl-test"]);
    for _ in 0..2 {
        nft::remove_table(&mut socket, &table()).expect("removed");
    }
    assert_eq!(space.program(&["nft", "list", "ruleset"]), "");
}

#[test]
fn networks_and_nics_come_and_go_one_by_one() {
    let space = Space::new();
    let mut socket = space.netfilter();
    let refused = nft::allow_nic(&mut socket, &table(), &nic(2));
    assert!(matches!(refused, Err(Error::NoTable { .. })), "{refused:?}");
    nft::replace(&mut socket, &table(), &[], &[]).expect("made");
    let empty = space.program(&["nft", "list", "ruleset"]);
    for _ in 0..2 {
        nft::ensure_network(&mut socket, &table(), &network()).expect("there");
        nft::allow_nic(&mut socket, &table(), &nic(2)).expect("there");
        nft::allow_nic(&mut socket, &table(), &nic(3)).expect("there");
    }
    let mut moved = nic(3);
    moved.ipv4 = Some("10.9.1.99".parse().expect("address"));
    moved.ipv6 = None;
    for _ in 0..2 {
        nft::change_nic(&mut socket, &table(), &nic(3), &moved).expect("changed");
    }
    let mut closed = network();
    closed.nat6 = false;
    closed.isolated = true;
    nft::ensure_network(&mut socket, &table(), &closed).expect("changed");
    let contents = nft::contents(&mut socket, &table()).expect("contents");
    assert_eq!((contents.networks, contents.faults), (vec![closed.clone()], 0));
    assert_eq!(contents.nics, [nic(2), moved.clone()]);
    for _ in 0..2 {
        nft::forget_nic(&mut socket, &table(), &nic(2)).expect("gone");
        nft::forget_nic(&mut socket, &table(), &moved).expect("gone");
        nft::remove_network(&mut socket, &table(), &closed).expect("gone");
    }
    assert_eq!(space.program(&["nft", "list", "ruleset"]), empty);
}

#[test]
fn damage_by_others_is_noticed_and_healed() {
    let space = Space::new();
    let mut socket = space.netfilter();
    for damage in ["flush ruleset", "flush chain bridge sysctl-test ipv4", "delete table inet sysctl-test"] {
        nft::replace(&mut socket, &table(), &[network()], &[nic(2)]).expect("made");
        space.program(&["nft", damage]);
        assert!(!nft::contents(&mut socket, &table()).expect("contents").intact, "{damage}");
    }
    nft::replace(&mut socket, &table(), &[network()], &[nic(2)]).expect("made");
    space.program(&["nft", "add element bridge sysctl-test guarded { \"stranger\" }"]);
    space.program(&["nft", "delete element inet sysctl-test loops { \"tstbr0\" . \"tstbr0\" }"]);
    let contents = nft::contents(&mut socket, &table()).expect("contents");
    assert!(contents.intact);
    // A port without addresses, and a bridge that is not its own neighbour.
    assert_eq!((contents.nics.len(), contents.faults), (2, 3));
}

#[test]
fn thousands_of_nics_fit_into_one_transaction_and_cost_a_single_one_nothing() {
    let space = Space::new();
    let mut socket = space.netfilter();
    let many: Vec<NicRules> = (0..4000u32)
        .map(|n| {
            let [_, _, a, b] = n.to_be_bytes();
            NicRules {
                port: name(&format!("p{n}")),
                mac: model::Mac([2, 0, 0, 0, a, b]),
                ipv4: Some([10, 1, a, b].into()),
                ipv6: Some([0xfd00, 0, 0, 0, 0, 0, 0, n as u16].into()),
                spoofing: false,
            }
        })
        .collect();
    let start = Instant::now();
    nft::replace(&mut socket, &table(), &[network()], &many).expect("made");
    eprintln!("replace with 4000 NICs: {} ms", start.elapsed().as_millis());
    let start = Instant::now();
    let contents = nft::contents(&mut socket, &table()).expect("contents");
    eprintln!("reading them back: {} ms", start.elapsed().as_millis());
    assert_eq!((contents.nics.len(), contents.faults), (4000, 0));
    let (mut allow, mut forget) = (Vec::new(), Vec::new());
    for n in 2..52 {
        let start = Instant::now();
        nft::allow_nic(&mut socket, &table(), &nic(n)).expect("there");
        allow.push(start.elapsed());
    }
    for n in 2..52 {
        let start = Instant::now();
        nft::forget_nic(&mut socket, &table(), &nic(n)).expect("gone");
        forget.push(start.elapsed());
    }
    for (what, mut times) in [("allow_nic", allow), ("forget_nic", forget)] {
        times.sort();
        eprintln!("{what} beside 4000: median {} µs, worst {} µs", times[25].as_micros(), times[49].as_micros());
        assert!(times[25] < Duration::from_millis(50), "{what}");
    }
}

/// A host whose bridge and guests stand under the firewall's rules.
fn guarded_host(guests: &[u8]) -> (Host, Vec<lab::Guest>) {
    let mut host = Host::new();
    let nics: Vec<NicRules> = guests.iter().map(|n| nic(*n)).collect();
    nft::replace(&mut host.space.netfilter(), &table(), &[network()], &nics).expect("made");
    let guests = guests.iter().map(|n| host.guest(*n)).collect();
    (host, guests)
}

#[test]
fn guarded_guests_reach_one_another_and_of_the_host_only_what_is_offered() {
    let (host, guests) = guarded_host(&[2, 3]);
    for address in ["10.9.1.3:80", "[fd00:9:1::3]:80"] {
        let to: SocketAddr = address.parse().expect("address");
        let _listener = guests[1].space.listen(to);
        assert!(guests[0].space.connects(to, PATIENCE), "{address}");
    }
    let mut listeners = Vec::new();
    for open in ["10.9.1.1:53", "[fd00:9:1::1]:53"] {
        let to: SocketAddr = open.parse().expect("address");
        listeners.push(host.space.listen(to));
        assert!(guests[0].space.connects(to, PATIENCE), "{open}");
    }
    let closed = ["10.9.1.1:22", "[fd00:9:1::1]:22", "10.9.1.1:8443", "127.0.0.1:8443"];
    for address in closed {
        listeners.push(host.space.listen(address.parse().expect("address")));
    }
    for address in &closed[..3] {
        assert!(!guests[0].space.connects(address.parse().expect("address"), Duration::from_millis(300)), "{address}");
    }
    for address in ["10.9.1.1", "fd00:9:1::1"] {
        guests[0].space.program(&["ping", "-c1", "-W5", address]);
    }
    // The host itself may open connections to guests.
    let to: SocketAddr = "10.9.1.3:81".parse().expect("address");
    let _listener = guests[1].space.listen(to);
    assert!(host.space.connects(to, PATIENCE));

    let mut open = network();
    open.host_open = true;
    nft::ensure_network(&mut host.space.netfilter(), &table(), &open).expect("changed");
    assert!(guests[0].space.connects("10.9.1.1:22".parse().expect("address"), PATIENCE));
}

#[test]
fn guests_leave_with_the_host_s_address_and_networks_can_be_kept_apart() {
    let (host, guests) = guarded_host(&[2]);
    // A way to a third namespace, which knows no route to the guests' network.
    let outside = Space::new();
    host.space.program(&["ip", "link", "add", "second", "type", "bridge"]);
    let mut socket = host.space.route();
    let second = link::find(&mut socket, &name("second")).expect("a look").expect("a link");
    let mut spec = lab::veth_spec(9, second.index, outside.netns());
    spec.guest_name = name("wan");
    link::attach_veth(&mut socket, &spec).expect("a veth");
    for (space, link, addresses) in [
        (&host.space, "second", ["192.0.2.1/24", "2001:db8::1/64"]),
        (&outside, "wan", ["192.0.2.2/24", "2001:db8::2/64"]),
    ] {
        space.program(&["ip", "link", "set", link, "up"]);
        space.program(&["ip", "address", "add", addresses[0], "dev", link]);
        space.program(&["ip", "-6", "address", "add", addresses[1], "dev", link, "nodad"]);
    }
    host.space.run(|| network::tunable::ensure_forwarding(true, true).expect("forwarding"));
    for (to, seen) in [("192.0.2.2:80", "192.0.2.1"), ("[2001:db8::2]:80", "2001:db8::1")] {
        let to: SocketAddr = to.parse().expect("address");
        let listener = outside.listen(to);
        assert!(guests[0].space.connects(to, PATIENCE), "{to}");
        assert_eq!(listener.accept().expect("a connection").1.ip(), ip(seen));
    }

    // What a cloud would offer to the host is not for guests, unless they may use all that the host has.
    let metadata: SocketAddr = "169.254.169.254:80".parse().expect("address");
    outside.program(&["ip", "address", "add", "169.254.169.254/32", "dev", "wan"]);
    host.space.program(&["ip", "route", "add", "169.254.169.254", "via", "192.0.2.2"]);
    let _metadata = outside.listen(metadata);
    assert!(host.space.connects(metadata, PATIENCE));
    assert!(!guests[0].space.connects(metadata, Duration::from_millis(300)));
    let open = NetworkRules { host_open: true, ..network() };
    nft::ensure_network(&mut host.space.netfilter(), &table(), &open).expect("changed");
    assert!(guests[0].space.connects(metadata, PATIENCE));

    // Now the second bridge is a network of ours too: nothing is translated, and isolation holds both ways.
    let mut socket = host.space.netfilter();
    let mut other = NetworkRules { bridge: name("second"), gateway4: None, gateway6: None, ..network() };
    nft::ensure_network(&mut socket, &table(), &other).expect("there");
    outside.program(&["ip", "route", "add", "10.9.1.0/24", "via", "192.0.2.1"]);
    let to: SocketAddr = "192.0.2.2:81".parse().expect("address");
    let listener = outside.listen(to);
    assert!(guests[0].space.connects(to, PATIENCE));
    assert_eq!(listener.accept().expect("a connection").1.ip(), ip("10.9.1.2"));
    other.isolated = true;
    nft::ensure_network(&mut socket, &table(), &other).expect("there");
    assert!(!guests[0].space.connects(to, Duration::from_millis(300)));
}
