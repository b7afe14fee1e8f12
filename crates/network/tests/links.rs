//! Bridges, veths and addresses in the kernel.

mod lab;

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lab::{Host, PATIENCE, Space, bridge_spec, cidr, host_name, ip, mac, name, nic, veth_spec};
use network::link::{self, Link};
use network::netlink::Socket;
use network::{Error, tunable};

fn without_counters(mut links: Vec<Link>) -> Vec<Link> {
    for link in &mut links {
        link.statistics = link::Statistics::default();
    }
    links
}

#[test]
fn a_bridge_made_twice_is_the_same_bridge() {
    let mut host = Host::new();
    let first = without_counters(link::list(&mut host.socket).expect("links"));
    let spec = host.spec.clone();
    let again =
        host.space.run(move || link::ensure_bridge(&mut Socket::route().expect("socket"), &spec).expect("again"));
    assert_eq!(again, host.bridge);
    assert_eq!(without_counters(link::list(&mut host.socket).expect("links")), first);

    let found = link::find(&mut host.socket, &host.spec.name).expect("a look").expect("a bridge");
    assert_eq!(found.kind.as_deref(), Some("bridge"));
    assert_eq!(found.alias.as_deref(), Some("test network"));
    assert_eq!((found.mac, found.mtu, found.up), (Some(lab::BRIDGE_MAC), 1500, true));
    assert_eq!(host.space.setting("net/ipv6/conf/tstbr0/accept_ra"), "0");
}

#[test]
fn a_bridge_has_exactly_the_addresses_that_are_wished_and_can_use_them_at_once() {
    let mut host = Host::new();
    host.space.program(&["ip", "address", "add", "192.0.2.1/24", "dev", "tstbr0"]);
    let mut spec = host.spec.clone();
    spec.addresses = vec![cidr("10.9.2.1/24"), cidr("fd00:9:1::1/64")];
    host.space.run(move || link::ensure_bridge(&mut Socket::route().expect("socket"), &spec).expect("again"));
    let mut present: Vec<String> = link::addresses(&mut host.socket, Some(host.bridge))
        .expect("addresses")
        .into_iter()
        .map(|address| address.cidr.to_string())
        .collect();
    present.sort();
    assert_eq!(present, ["10.9.2.1/24", "fd00:9:1::1/64", "fe80::85c:71ff:fe00:1/64"]);
    // No port has a carrier, and still no address is tentative.
    let shown = host.space.program(&["ip", "-6", "address", "show", "dev", "tstbr0"]);
    assert!(!shown.contains("tentative"), "{shown}");

    let mut spec = bridge_spec();
    spec.addresses = vec![cidr("10.9.2.1/24")];
    host.space.run(move || link::ensure_bridge(&mut Socket::route().expect("socket"), &spec).expect("again"));
    assert_eq!(link::addresses(&mut host.socket, Some(host.bridge)).expect("addresses").len(), 1);
    assert_eq!(host.space.setting("net/ipv6/conf/tstbr0/disable_ipv6"), "1");
}

#[test]
fn a_link_that_is_not_ours_is_never_changed_or_removed() {
    let space = Space::new();
    space.program(&["ip", "link", "add", "tstbr0", "type", "bridge"]);
    space.program(&["ip", "link", "add", "tst2", "type", "veth", "peer", "name", "other"]);
    space.program(&["ip", "link", "set", "tst2", "alias", "somebody else's"]);
    let before = space.program(&["ip", "-d", "address"]);
    let made = space.run(|| link::ensure_bridge(&mut Socket::route().expect("socket"), &bridge_spec()));
    assert!(matches!(made, Err(Error::Taken { .. })), "{made:?}");
    let guest = Space::new();
    let mut socket = space.route();
    let attached = link::attach_veth(&mut socket, &veth_spec(2, 1, guest.netns()));
    assert!(matches!(attached, Err(Error::Taken { .. })), "{attached:?}");
    let ours = "test network".parse().expect("alias");
    let removed = link::remove(&mut socket, &name("tstbr0"), &ours);
    assert!(matches!(removed, Err(Error::Taken { .. })), "{removed:?}");
    assert_eq!(space.program(&["ip", "-d", "address"]), before);
}

#[test]
fn a_guest_attached_twice_has_one_link_with_all_its_properties() {
    let mut host = Host::new();
    let guest = host.guest(2);
    let spec = veth_spec(2, host.bridge, guest.space.netns());
    assert_eq!(link::attach_veth(&mut host.socket, &spec).expect("again"), guest.index);
    link::configure_guest(&mut guest.space.route(), &guest.nic).expect("again");

    let outer = link::find(&mut host.socket, &guest.host_name).expect("a look").expect("a link");
    assert_eq!(outer.master, Some(host.bridge));
    assert_eq!(outer.alias.as_deref(), Some("test guest 2"));
    assert!(outer.up && outer.running && outer.peer_namespace.is_some());
    assert_eq!(link::addresses(&mut host.socket, Some(guest.index)).expect("addresses"), []);

    let state = link::guest_state(&mut guest.space.route()).expect("state");
    assert_eq!(state.len(), 2);
    let inner = state.iter().find(|state| state.link.name == "eth0").expect("eth0");
    assert_eq!((inner.link.mac, inner.link.mtu, inner.link.up), (Some(mac(2)), 1500, true));
    assert_eq!(Some(inner.link.index), outer.peer);
    for wanted in ["10.9.1.2/24", "fd00:9:1::2/64"] {
        assert!(inner.addresses.iter().any(|a| a.cidr == cidr(wanted) && !a.local_scope), "{wanted}");
    }
    assert_eq!(guest.space.program(&["ip", "route", "show", "default"]).lines().count(), 1);
    assert_eq!(guest.space.program(&["ip", "-6", "route", "show", "default"]).lines().count(), 1);

    let port = host.space.program(&["bridge", "-d", "link", "show", "dev", "tst2"]);
    for property in ["hairpin off", "learning off", " flood off", "isolated off", "state forwarding"] {
        assert!(port.contains(property), "{property} in {port}");
    }
    let entries = host.space.program(&["bridge", "fdb", "show", "dev", "tst2"]);
    let fixed = entries.lines().find(|line| line.starts_with("0a:5c:71:00:01:02")).unwrap_or_default();
    assert!(fixed.contains("sticky") && fixed.contains("static"), "{entries}");
}

#[test]
fn a_half_made_pair_is_completed() {
    let mut host = Host::new();
    let guest = Space::new();
    // What is left when our end comes right after the first of the two sends.
    host.space.program(&["ip", "link", "add", "tst2", "type", "veth", "peer", "name", "half"]);
    let spec = veth_spec(2, host.bridge, guest.netns());
    link::attach_veth(&mut host.socket, &spec).expect("completed");
    let link = link::find(&mut host.socket, &host_name(2)).expect("a look").expect("a link");
    assert_eq!(link.alias.as_deref(), Some("test guest 2"));
    assert!(link.up);
}

#[test]
fn a_guest_with_its_own_user_namespace_is_attached_like_any_other() {
    let mut host = Host::new();
    let guest = OwnedGuest::new();
    let spec = veth_spec(2, host.bridge, guest.netns.as_fd());
    link::attach_veth(&mut host.socket, &spec).expect("a veth");
    let mut inside = guest.route();
    link::configure_guest(&mut inside, &nic(2)).expect("addresses");
    let state = link::guest_state(&mut inside).expect("state");
    assert!(state.iter().any(|state| state.addresses.iter().any(|address| address.cidr == cidr("10.9.1.2/24"))));
}

/// A process in user and network namespaces of its own, as a guest's init is.
struct OwnedGuest {
    process: Child,
    netns: OwnedFd,
}

impl OwnedGuest {
    fn new() -> OwnedGuest {
        let mut process = Command::new("unshare")
            .args(["--user", "--map-root-user", "--net", "sh", "-c", "echo ready; exec sleep 60"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare(1)");
        let mut word = [0; 6];
        process.stdout.as_mut().expect("a pipe").read_exact(&mut word).expect("the process says ready");
        let netns = File::open(format!("/proc/{}/ns/net", process.id())).expect("its namespace").into();
        OwnedGuest { process, netns }
    }

    /// A socket made in the guest by a thread that enters it, handed over as a descriptor is.
    fn route(&self) -> Socket {
        let netns = self.netns.try_clone().expect("a copy");
        let make = move || {
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(netns.as_fd(), kind).expect("entered");
            let (family, kind) = (rustix::net::AddressFamily::NETLINK, rustix::net::SocketType::RAW);
            rustix::net::socket(family, kind, None).expect("a socket")
        };
        Socket::from_fd(std::thread::spawn(make).join().expect("the thread")).expect("a routing socket")
    }
}

impl Drop for OwnedGuest {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn the_kernel_s_own_words_stand_in_errors() {
    let mut host = Host::new();
    let guest = host.guest(2);
    let mut spec = veth_spec(3, host.bridge, guest.space.netns());
    let error = link::attach_veth(&mut host.socket, &spec).expect_err("the guest has an eth0");
    assert!(matches!(&error, Error::Refused { errno: kernel::Errno::EXIST, .. }), "{error:?}");
    assert!(link::find(&mut host.socket, &host_name(3)).expect("a look").is_none());
    spec.guest_name = name("eth1");
    spec.bridge = Some(guest.index);
    let error = link::attach_veth(&mut host.socket, &spec).expect_err("not a bridge");
    assert!(error.to_string().starts_with("cannot connect link tst3"), "{error}");
    let mut nic = nic(2);
    nic.gateway6 = Some("fd00:9:1::2".parse().expect("address"));
    let error = link::configure_guest(&mut guest.space.route(), &nic).expect_err("its own address");
    assert_eq!(error.to_string(), "cannot add a default route over link eth0: Gateway can not be a local address");
}

#[test]
fn removing_is_done_when_there_is_nothing_left() {
    let mut host = Host::new();
    let guest = host.guest(2);
    let alias = "test guest 2".parse().expect("alias");
    for _ in 0..2 {
        link::remove(&mut host.socket, &guest.host_name, &alias).expect("removed");
        assert!(link::find(&mut host.socket, &guest.host_name).expect("a look").is_none());
    }
    let left = link::guest_state(&mut guest.space.route()).expect("state");
    assert_eq!(left.len(), 1);
    link::remove(&mut host.socket, &host.spec.name, &host.spec.alias).expect("removed");
    link::remove(&mut host.socket, &host.spec.name, &host.spec.alias).expect("removed");
}

#[test]
fn guests_reach_one_another_and_the_gateway_over_both_families() {
    let mut host = Host::new();
    let (one, two) = (host.guest(2), host.guest(3));
    for address in ["10.9.1.3:80", "[fd00:9:1::3]:80"] {
        let to: SocketAddr = address.parse().expect("address");
        let listener = two.space.listen(to);
        assert!(one.space.connects(to, PATIENCE), "{address}");
        let (_, from) = listener.accept().expect("a connection");
        let own = if to.is_ipv4() { ip("10.9.1.2") } else { ip("fd00:9:1::2") };
        assert_eq!(from.ip(), own);
    }
    for address in ["10.9.1.1:80", "[fd00:9:1::1]:80"] {
        let to: SocketAddr = address.parse().expect("address");
        let _listener = host.space.listen(to);
        assert!(one.space.connects(to, PATIENCE), "{address}");
    }
    let counters = link::find(&mut host.socket, &one.host_name).expect("a look").expect("a link").statistics;
    assert!(counters.rx_packets > 0 && counters.tx_bytes > 0);
}

#[test]
fn isolated_guests_reach_the_gateway_only() {
    let mut host = Host::new();
    let mut guests = Vec::new();
    for n in [2, 3] {
        let space = Space::new();
        let mut spec = veth_spec(n, host.bridge, space.netns());
        spec.isolated = true;
        link::attach_veth(&mut host.socket, &spec).expect("a veth");
        link::configure_guest(&mut space.route(), &nic(n)).expect("addresses");
        guests.push(space);
    }
    let to: SocketAddr = "10.9.1.3:80".parse().expect("address");
    let _listener = guests[1].listen(to);
    assert!(!guests[0].connects(to, Duration::from_millis(300)));
    let gateway: SocketAddr = "10.9.1.1:80".parse().expect("address");
    let _listener = host.space.listen(gateway);
    assert!(guests[0].connects(gateway, PATIENCE));
}

#[test]
fn forwarding_is_switched_on_once_and_taken_back() {
    let host = Host::new();
    // A new namespace begins with the host's IPv4 settings, and a daemon may be at work on that.
    host.space.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").expect("forwarding off"));
    host.space.program(&["ip", "link", "add", "uplink", "type", "bridge"]);
    assert_eq!(host.space.setting("net/ipv6/conf/uplink/accept_ra"), "1");
    let changed = host.space.run(|| tunable::ensure_forwarding(true, true).expect("forwarding"));
    let keys: Vec<&str> = changed.iter().map(|change| change.key.as_str()).collect();
    assert!(keys.contains(&"net/ipv4/ip_forward") && keys.last() == Some(&"net/ipv6/conf/all/forwarding"), "{keys:?}");
    // The host's own default route by router advertisement goes on.
    assert_eq!(host.space.setting("net/ipv6/conf/uplink/accept_ra"), "2");
    assert_eq!(host.space.setting("net/ipv6/conf/tstbr0/accept_ra"), "0");
    assert_eq!(host.space.run(|| tunable::ensure_forwarding(true, true).expect("again")), []);
    let failures = host.space.run(move || tunable::restore(&changed).len());
    assert_eq!(failures, 0);
    assert_eq!(host.space.setting("net/ipv4/ip_forward"), "0");
    assert_eq!(host.space.setting("net/ipv6/conf/all/forwarding"), "0");
    assert_eq!(host.space.setting("net/ipv6/conf/uplink/accept_ra"), "1");
}

#[test]
fn attaching_a_guest_costs_about_what_the_kernel_costs() {
    let mut host = Host::new();
    let spaces: Vec<Space> = (0..50).map(|_| Space::new()).collect();
    let (mut attach, mut configure, mut detach) = (Vec::new(), Vec::new(), Vec::new());
    for (n, space) in (2u8..).zip(&spaces) {
        let mut inside = space.route();
        let spec = veth_spec(n, host.bridge, space.netns());
        let start = Instant::now();
        link::attach_veth(&mut host.socket, &spec).expect("a veth");
        attach.push(start.elapsed());
        let start = Instant::now();
        link::configure_guest(&mut inside, &nic(n)).expect("addresses");
        configure.push(start.elapsed());
    }
    for n in (2u8..).take(spaces.len()) {
        let alias = format!("test guest {n}").parse().expect("alias");
        let start = Instant::now();
        link::remove(&mut host.socket, &host_name(n), &alias).expect("removed");
        detach.push(start.elapsed());
    }
    for (what, mut times) in [("attach", attach), ("configure", configure), ("detach", detach)] {
        times.sort();
        let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
        eprintln!("{what}: median {} µs, worst {} µs of {}", median.as_micros(), worst.as_micros(), times.len());
        // A budget that only a lost order of magnitude breaks.
        assert!(median < Duration::from_millis(50), "{what} takes {median:?}");
    }
}

#[test]
fn trying_whether_links_can_be_limited_leaves_nothing_behind() {
    let mut host = Host::new();
    let before = without_counters(link::list(&mut host.socket).expect("links"));
    let begun = Instant::now();
    assert!(link::can_limit(&mut host.socket), "this kernel has clsact and cls_bpf");
    eprintln!("figure: found out in {} ms whether links can be limited", begun.elapsed().as_millis());
    assert_eq!(without_counters(link::list(&mut host.socket).expect("links")), before);
    // Twice, as by the next daemon.
    assert!(link::can_limit(&mut host.socket));
}
