//! A gateway that serves guests, beside a firewall that lets nothing in.

mod lab;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use lab::served::{
    Served, ask, ask_by_stream, close, discover, guard, guard_with, lease, question, reply_with, told, upstream,
};
use lab::{BRIDGE_MAC, Host, PATIENCE, Space, Wire, mac, name};
use model::Mac;
use network::frame::{Datagram, Icmp6, group_mac};
use network::link;
use network::nft::NicRules;
use network::serve::Gateway;

#[test]
fn a_closed_host_still_gives_leases_names_and_routes() {
    let mut host = Host::new();
    close(&host);
    let guest = host.guest(2);
    let upstream = upstream(&host, |question| reply_with(question, [192, 0, 2, 80]));
    let served = Served::new(&host, &[upstream]);
    // The wall stands.
    let _listener = host.space.listen("10.9.1.1:80".parse().expect("address"));
    assert!(!guest.space.connects("10.9.1.1:80".parse().expect("address"), Duration::from_millis(300)));

    let wire = Wire::new(&guest);
    wire.send(&discover(mac(2), &[53, 1, 1]));
    assert_eq!(wire.wait_for(lease), (Ipv4Addr::new(10, 9, 1, 2), 2));
    wire.send(&discover(mac(2), &[53, 1, 3, 50, 4, 10, 9, 1, 2, 54, 4, 10, 9, 1, 1]));
    assert_eq!(wire.wait_for(lease), (Ipv4Addr::new(10, 9, 1, 2), 5));

    for server in ["10.9.1.1:53", "[fd00:9:1::1]:53"] {
        assert_eq!(told(&ask(&guest.space, server, &question("web3", 1))), (0, Ipv4Addr::new(10, 9, 1, 3)));
        assert_eq!(told(&ask(&guest.space, server, &question("gone.lab.test", 1))).0, 3);
        let world = told(&ask(&guest.space, server, &question("example.org", 1)));
        assert_eq!(world, (0, Ipv4Addr::new(192, 0, 2, 80)));
    }
    served.directory.remove(mac(3));
    assert_eq!(told(&ask(&guest.space, "10.9.1.1:53", &question("web3.lab.test", 1))).0, 3);

    let routers: Ipv6Addr = "ff02::2".parse().expect("address");
    let solicitation = Icmp6 {
        to_mac: group_mac(routers),
        from_mac: mac(2),
        to: routers,
        from: mac(2).link_local(),
        message: &[133, 0, 0, 0, 0, 0, 0, 0],
    };
    wire.send(&solicitation.write().expect("a frame"));
    let from = wire.wait_for(|frame| {
        let read = Icmp6::parse(frame).filter(|read| read.message.first() == Some(&134))?;
        (read.to == mac(2).link_local()).then_some(read.from)
    });
    assert_eq!(from, BRIDGE_MAC.link_local());
    let counters = served.counters();
    assert_eq!((counters.dhcp, counters.advertisements, counters.forwarded, counters.limited), (2, 1, 2, 0));
}

#[test]
fn a_real_client_takes_the_lease() {
    let mut host = Host::new();
    close(&host);
    let guest = Space::new();
    let spec = lab::veth_spec(2, host.bridge, guest.netns());
    link::attach_veth(&mut host.socket, &spec).expect("a veth");
    let _served = Served::new(&host, &[]);
    guest.program(&["ip", "link", "set", "eth0", "up"]);
    let script = std::env::temp_dir().join(format!("lease-{}", std::process::id()));
    let seen = script.with_extension("txt");
    std::fs::write(&script, format!("#!/bin/sh\n[ \"$1\" = bound ] && set > {}\nexit 0\n", seen.display()))
        .expect("a file");
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("made executable");
    let path = script.to_str().expect("a plain path");
    guest
        .program(&["busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-t", "3", "-T", "2", "-f", "-O", "mtu", "-s", path]);
    let told = std::fs::read_to_string(&seen).expect("the script ran");
    for line in ["ip='10.9.1.2'", "subnet='255.255.255.0'", "router='10.9.1.1'", "dns='10.9.1.1'", "domain='lab.test'"]
    {
        assert!(told.contains(line), "{line} in {told}");
    }
    assert!(told.contains("hostname='web2'") && told.contains("mtu='1500'"), "{told}");
    for file in [script, seen] {
        std::fs::remove_file(file).expect("removed");
    }
}

#[test]
fn a_real_guest_takes_the_route_and_no_address_of_its_own() {
    let mut host = Host::new();
    let guest = Space::new();
    let spec = lab::veth_spec(2, host.bridge, guest.netns());
    link::attach_veth(&mut host.socket, &spec).expect("a veth");
    let _served = Served::new(&host, &[]);
    let mut nic = lab::nic(2);
    nic.gateway6 = None;
    link::configure_guest(&mut guest.route(), &nic).expect("addresses");
    // A gateway advertises when it starts, and the kernel solicits when its link is up; then the route is there.
    let deadline = Instant::now() + PATIENCE;
    let route = loop {
        let routes = guest.program(&["ip", "-6", "route", "show", "default"]);
        if !routes.is_empty() || Instant::now() > deadline {
            break routes;
        }
        std::thread::yield_now();
    };
    assert!(route.contains("via fe80::85c:71ff:fe00:1") && route.contains("proto ra"), "{route}");
    let addresses = link::addresses(&mut guest.route(), None).expect("addresses");
    let global: Vec<String> = addresses
        .iter()
        .filter(|address| address.cidr.address.is_ipv6() && !address.local_scope)
        .map(|address| address.cidr.to_string())
        .collect();
    assert_eq!(global, ["fd00:9:1::2/64"]);
}

#[test]
fn the_host_does_not_answer_a_second_time() {
    let mut host = Host::new();
    let guest = host.guest(2);
    let _served = Served::new(&host, &[]);
    let asked = || {
        let socket = guest.space.udp("0.0.0.0:0");
        socket.connect("10.9.1.1:53").expect("a route");
        socket.send(&question("web2", 1)).expect("sent");
        socket
    };
    let mut buffer = [0; 512];
    // What our rule is there for: the answer and "port unreachable" both come, in any order.
    let socket = asked();
    let both = [socket.recv(&mut buffer), socket.recv(&mut buffer)].map(|came| came.map_err(|error| error.kind()));
    assert!(both.contains(&Err(ErrorKind::ConnectionRefused)), "{both:?}");

    close(&host);
    host.space.program(&["nft", "delete table inet owner"]);
    let socket = asked();
    socket.recv(&mut buffer).expect("the answer");
    socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    assert_eq!(socket.recv(&mut buffer).expect_err("nothing more").kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_flood_of_one_guest_leaves_the_others_served() {
    let mut host = Host::new();
    guard(&host);
    let (bad, good) = (host.guest(2), host.guest(3));
    let silent = upstream(&host, |_| Vec::new());
    let served = Served::new(&host, &[silent]);
    let wire = Wire::new(&bad);
    for _ in 0..500 {
        wire.send(&discover(mac(2), &[53, 1, 1]));
    }
    // Each waits for a server that says nothing.
    let socket = bad.space.udp("0.0.0.0:0");
    socket.connect("10.9.1.1:53").expect("a route");
    for _ in 0..300 {
        socket.send(&question("example.org", 1)).expect("sent");
    }
    let connections: Vec<_> =
        (0..20).map(|_| bad.space.run(|| TcpStream::connect("10.9.1.1:53").expect("accepted by the kernel"))).collect();
    let wire = Wire::new(&good);
    wire.send(&discover(mac(3), &[53, 1, 1]));
    assert_eq!(wire.wait_for(lease).0, Ipv4Addr::new(10, 9, 1, 3));
    assert_eq!(told(&ask(&good.space, "10.9.1.1:53", &question("web2", 1))).0, 0);
    let server: SocketAddr = "10.9.1.1:53".parse().expect("address");
    let mut stream = good.space.run(move || TcpStream::connect(server).expect("a connection"));
    assert_eq!(told(&ask_by_stream(&mut stream, &question("web2", 1)).expect("an answer")).0, 0);

    let counters = served.counters();
    assert!((15..=25).contains(&counters.dhcp), "{counters:?}");
    assert_eq!(counters.forwarded, 32);
    assert!((700..=760).contains(&counters.limited), "{counters:?}");
    drop(connections);
}

#[test]
fn a_flood_ends_in_the_kernel_and_only_questions_to_us_are_counted() {
    let mut host = Host::new();
    let rules = |n: u8| NicRules {
        port: lab::host_name(n),
        mac: mac(n),
        ipv4: Some(Ipv4Addr::new(10, 9, 1, n)),
        ipv6: None,
        spoofing: false,
    };
    guard_with(&host, &[rules(2), rules(3)]);
    let (bad, good) = (host.guest(2), host.guest(3));
    let served = Served::new(&host, &[]);
    let (wire, victim) = (Wire::new(&bad), Wire::new(&good));
    let datagram = |to_mac, to: &str, payload: &[u8]| {
        let from = "10.9.1.2:9999".parse().expect("address");
        let to = to.parse().expect("address");
        Datagram { to_mac, from_mac: mac(2), to, from, payload }.write().expect("short enough")
    };
    let start = Instant::now();
    let flood = datagram(BRIDGE_MAC, "10.9.1.1:53", &question("web3", 1));
    for _ in 0..20_000 {
        wire.send(&flood);
    }
    let allowed = 1000 + 1000 * (start.elapsed().as_secs() + 1);
    assert_eq!(told(&ask(&good.space, "10.9.1.1:53", &question("web2", 1))).0, 0);
    let counters = served.counters();
    assert!(counters.answered + counters.limited <= allowed, "{counters:?} of {allowed}");
    // Others' name servers may be asked without end.
    let other = datagram(mac(3), "10.9.1.3:53", b"<other>");
    let mut seen = 0;
    for _ in 0..5000 {
        wire.send(&other);
        seen += victim.wait_for(|frame| frame.ends_with(b"<other>").then_some(1));
    }
    assert_eq!(seen, 5000);
}

#[test]
fn frames_of_strangers_get_no_lease() {
    let mut host = Host::new();
    let guest = host.guest(2);
    let served = Served::new(&host, &[]);
    let wire = Wire::new(&guest);
    for n in 0..100 {
        wire.send(&discover(Mac([2, 9, 9, 9, 9, n]), &[53, 1, 1]));
    }
    wire.send(&discover(mac(2), &[53, 1, 1]));
    assert_eq!(wire.wait_for(lease).0, Ipv4Addr::new(10, 9, 1, 2));
    assert_eq!(served.counters().dhcp, 1);
}

#[test]
fn nobody_outside_the_bridge_reaches_the_name_server() {
    let mut host = Host::new();
    let outside = Space::new();
    host.space.program(&["ip", "link", "add", "second", "type", "bridge"]);
    let second = link::find(&mut host.socket, &name("second")).expect("a look").expect("a link");
    let mut spec = lab::veth_spec(9, second.index, outside.netns());
    spec.guest_name = name("wan");
    link::attach_veth(&mut host.socket, &spec).expect("a veth");
    for (space, link, address) in [(&host.space, "second", "192.0.2.1/24"), (&outside, "wan", "192.0.2.2/24")] {
        space.program(&["ip", "link", "set", link, "up"]);
        space.program(&["ip", "address", "add", address, "dev", link]);
    }
    outside.program(&["ip", "route", "add", "10.9.1.0/24", "via", "192.0.2.1"]);
    let _served = Served::new(&host, &[]);
    outside.program(&["ping", "-c1", "-W5", "10.9.1.1"]);
    assert!(!outside.connects("10.9.1.1:53".parse().expect("address"), Duration::from_millis(500)));
    let socket = outside.udp("0.0.0.0:0");
    socket.connect("10.9.1.1:53").expect("a route");
    socket.send(&question("web2", 1)).expect("sent");
    assert_eq!(socket.recv(&mut [0; 512]).expect_err("nobody").kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_gateway_ends_with_its_handle_and_notices_the_end_of_its_bridge() {
    let mut host = Host::new();
    guard(&host);
    let guest = host.guest(2);
    let served = Served::new(&host, &[]);
    let server: SocketAddr = "10.9.1.1:53".parse().expect("address");
    let mut stream = guest.space.run(move || TcpStream::connect(server).expect("a connection"));
    ask_by_stream(&mut stream, &question("web2", 1)).expect("an answer");
    assert!(served.gateway(Gateway::is_running));
    served.act(|gateway| drop(gateway.take()));
    assert!(ask_by_stream(&mut stream, &question("web2", 1)).is_err());
    assert!(!guest.space.connects(server, PATIENCE));
    // Its port and its bridge are free again.
    let again = Served::new(&host, &[]);
    assert!(again.gateway(|gateway| gateway.degraded().is_empty()));
    // Down and up again, it goes on.
    host.space.program(&["ip", "link", "set", "tstbr0", "down"]);
    host.space.program(&["ip", "link", "set", "tstbr0", "up"]);
    let wire = Wire::new(&guest);
    wire.send(&discover(mac(2), &[53, 1, 1]));
    assert_eq!(wire.wait_for(lease).0, Ipv4Addr::new(10, 9, 1, 2));
    assert!(again.gateway(Gateway::is_running));
    host.space.program(&["ip", "link", "del", "tstbr0"]);
    let deadline = Instant::now() + PATIENCE;
    while again.gateway(Gateway::is_running) {
        assert!(Instant::now() < deadline, "the end of the bridge went unnoticed");
    }
}

#[test]
fn a_taken_port_is_told_and_the_rest_is_served() {
    let mut host = Host::new();
    let guest = host.guest(2);
    let _other = host.space.listen("0.0.0.0:53".parse().expect("address"));
    let _others = host.space.udp("0.0.0.0:53");
    close(&host);
    let served = Served::new(&host, &[]);
    let told_of = served.gateway(|gateway| gateway.degraded().iter().map(ToString::to_string).collect::<Vec<_>>());
    assert_eq!(told_of, ["cannot serve DNS over TCP at 10.9.1.1:53"]);
    assert_eq!(told(&ask(&guest.space, "10.9.1.1:53", &question("web2", 1))).0, 0);
}

#[test]
fn answers_take_well_under_a_millisecond() {
    let mut host = Host::new();
    guard(&host);
    let guest = host.guest(2);
    let upstream = upstream(&host, |question| reply_with(question, [192, 0, 2, 80]));
    let _served = Served::new(&host, &[upstream]);
    let socket = guest.space.udp("0.0.0.0:0");
    socket.connect("10.9.1.1:53").expect("a route");
    for (what, question) in [("own name", question("web3", 1)), ("forwarded name", question("example.org", 1))] {
        let mut times: Vec<Duration> = (0..200)
            .map(|_| {
                let start = Instant::now();
                socket.send(&question).expect("sent");
                socket.recv(&mut [0; 512]).expect("an answer");
                start.elapsed()
            })
            .collect();
        times.sort();
        eprintln!("{what}: median {} µs, worst {} µs", times[100].as_micros(), times[199].as_micros());
        assert!(times[100] < Duration::from_millis(50), "{what}");
    }
    let wire = Wire::new(&guest);
    let mut times: Vec<Duration> = (0..20)
        .map(|_| {
            let start = Instant::now();
            wire.send(&discover(mac(2), &[53, 1, 1, 80, 0]));
            wire.wait_for(lease);
            start.elapsed()
        })
        .collect();
    times.sort();
    eprintln!("lease: median {} µs, worst {} µs", times[10].as_micros(), times[19].as_micros());
}
