//! Functions between the network and a guest: what passes them, what does not, and what is lost when they come and go.

#![allow(missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use support::{Daemon, strings};
use sysctl_api::{NetworkPut, NetworksPost};

/// Runs a job in the network of a process; what it opens there stays there.
fn within<T: Send + 'static>(pid: u32, job: impl FnOnce() -> T + Send + 'static) -> T {
    let netns = File::open(format!("/proc/{pid}/ns/net")).expect("its network");
    let enter = move || {
        use std::os::fd::AsFd;
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns");
        job()
    };
    std::thread::spawn(enter).join().expect("the job")
}

/// Programs of the host in the network of a guest, as `ns enter` runs them.
fn host_tool(pid: u32, words: &[&str]) {
    let netns = format!("--net=/proc/{pid}/ns/net");
    let done = Command::new("nsenter").arg(netns).args(words).status().expect("nsenter");
    assert!(done.success(), "{words:?}");
}

/// Has a function pass frames from one of its links to the other, as a transparent firewall does.
fn pass_on(pid: u32, inward: &str, outward: &str) {
    host_tool(pid, &["ip", "link", "add", "pass0", "type", "bridge"]);
    for link in [inward, outward] {
        host_tool(pid, &["ip", "link", "set", link, "master", "pass0"]);
    }
    host_tool(pid, &["ip", "link", "set", "pass0", "up"]);
}

async fn create(daemon: &Daemon, name: &str, config: &[(&str, &str)]) -> Result<(), sysctl_client::Error> {
    let post =
        NetworksPost { name: name.into(), kind: "chain".into(), config: strings(config), ..NetworksPost::default() };
    daemon.client.create_network(&post).await
}

async fn set(daemon: &Daemon, name: &str, key: &str, value: &str) -> Result<(), sysctl_client::Error> {
    let found = daemon.client.get_network(name).await.expect("a chain");
    let mut config: BTreeMap<String, String> = found.value.config;
    config.insert(key.into(), value.into());
    config.retain(|_, value| !value.is_empty());
    let put = NetworkPut { config, description: found.value.description };
    daemon.client.update_network(name, &put, Some(&found.etag)).await
}

async fn address(daemon: &Daemon, name: &str) -> IpAddr {
    let state = daemon.client.get_instance_state(name).await.expect("state");
    let links = state.network.expect("links");
    let four = |a: &&sysctl_api::StateAddress| a.family == "inet" && a.scope == "global";
    links["eth0"].addresses.iter().find(four).expect("an address").address.parse().expect("an address")
}

fn connects(to: SocketAddr) -> bool {
    TcpStream::connect_timeout(&to, Duration::from_millis(700)).is_ok()
}

#[tokio::test]
async fn a_firewall_in_the_middle_drops_one_port_and_lets_another_through() {
    let mut daemon = Daemon::new("chain");
    daemon.import_busybox().await;
    daemon.launch("web1", &[]).await;
    daemon.launch("fw1", &[]).await;
    let (web1, fw1) = (daemon.init_pid("web1").await, daemon.init_pid("fw1").await);
    let ip = address(&daemon, "web1").await;
    let _servers = within(web1, || [80, 81].map(|port| TcpListener::bind(("0.0.0.0", port)).expect("listen")));
    let index = daemon.print("web1", &["cat", "/sys/class/net/eth0/ifindex"]).await;
    let ports = || [80, 81].map(|port| connects(SocketAddr::new(ip, port)));
    assert_eq!(ports(), [true, true]);

    let keys = [("chain.to", "web1:eth0"), ("chain.functions", "fw1:lan/wan"), ("chain.bypass", "fw1")];
    create(&daemon, "edge", &keys).await.unwrap_or_else(|e| panic!("{e}\n{}", daemon.log()));
    assert_eq!(ports(), [true, true], "passed by: {}", daemon.log());
    pass_on(fw1, "lan", "wan");
    let rules = "table bridge fw { chain forward { type filter hook forward priority 0; tcp dport 81 drop; }; }";
    host_tool(fw1, &["nft", rules]);
    set(&daemon, "edge", "chain.bypass", "").await.expect("through the firewall");
    assert_eq!(ports(), [true, false], "{}", daemon.log());
    // The guest noticed nothing: the same link, the same address, and names and leases as before.
    assert_eq!(daemon.print("web1", &["cat", "/sys/class/net/eth0/ifindex"]).await, index);
    assert_eq!(address(&daemon, "web1").await, ip);
    let chain = daemon.client.get_network_state("edge").await.expect("state").chain.expect("hops");
    let hop = chain.hops.iter().find(|hop| hop.name == "fw1").expect("a hop");
    assert!(hop.up && !hop.bypassed && hop.links[0].packets_received > 0 && hop.links[1].packets_sent > 0, "{hop:?}");
    let graph = daemon.client.get_namespace_graph("text").await.expect("a graph");
    assert!(graph.as_str().is_some_and(|text| text.contains("─▶ fw1 ─▶ web1:eth0")), "{graph}");

    // Neither the daemon's death nor its return changes the way.
    daemon.kill();
    assert_eq!(ports(), [true, false]);
    daemon.start();
    assert_eq!(ports(), [true, false], "{}", daemon.log());
    // Somebody deletes all patches: they are put back.
    let alias = std::fs::read_to_string("/sys/class/net/edge/ifalias").expect("its alias");
    let table = format!("sysctl-{}", alias.split(':').nth(1).expect("a mark"));
    let deleted = Command::new("nft").args(["delete", "table", "netdev", &table]).status().expect("nft");
    assert!(deleted.success(), "{table}");
    testkit::eventually("the patches", || (ports() == [true, false]).then_some(()));

    // Nothing passes a firewall that is down, unless that is wished.
    daemon.change("fw1", "stop", true).await;
    assert_eq!(ports(), [false, false]);
    set(&daemon, "edge", "chain.on_failure", "bypass").await.expect("changed");
    assert_eq!(ports(), [true, true], "{}", daemon.log());
    for (name, what) in [("fw1", "a function"), ("web1", "the end")] {
        if name == "web1" {
            daemon.change("web1", "stop", true).await;
        }
        let kept = daemon.try_delete(name).await.expect_err(what).to_string();
        assert!(kept.contains("chain edge"), "{kept}");
    }
    daemon.change("web1", "start", false).await;
    daemon.client.delete_network("edge").await.expect("deleted");
    let web1 = daemon.init_pid("web1").await;
    let _server = within(web1, || TcpListener::bind(("0.0.0.0", 81)).expect("listen"));
    assert_eq!(ports(), [false, true], "{}", daemon.log());
    assert!(!std::path::Path::new("/sys/class/net/edge").exists());
    daemon.finish().await;
}

/// Sends numbers until it is stopped, some thousand a second, and counts those that arrived.
struct Stream {
    stop: Arc<AtomicBool>,
    sender: std::thread::JoinHandle<u32>,
    receiver: std::thread::JoinHandle<Vec<u32>>,
}

const PER_SECOND: u32 = 5000;

impl Stream {
    fn start(pid: u32, ip: IpAddr) -> Stream {
        let socket = within(pid, move || UdpSocket::bind((ip, 9)).expect("bind"));
        // Whatever waits here was not lost on the way: 64 MiB hold minutes of it.
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 64 << 20).expect("a buffer");
        socket.set_read_timeout(Some(Duration::from_secs(2))).expect("time-out");
        let receiver = std::thread::spawn(move || {
            let (mut got, mut bytes) = (Vec::new(), [0; 4]);
            while socket.recv(&mut bytes).is_ok() {
                got.push(u32::from_ne_bytes(bytes));
            }
            got
        });
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let sender = std::thread::spawn(move || {
            let socket = UdpSocket::bind(("0.0.0.0", 0)).expect("bind");
            socket.connect((ip, 9)).expect("connect");
            let (begun, mut sent) = (Instant::now(), 0u32);
            while !stopped.load(Ordering::Acquire) {
                let due = (begun.elapsed().as_secs_f64() * f64::from(PER_SECOND)) as u32;
                while sent < due {
                    socket.send(&sent.to_ne_bytes()).expect("sent");
                    sent += 1;
                }
                std::thread::yield_now();
            }
            sent
        });
        Stream { stop, sender, receiver }
    }

    /// How many were sent, and how many of them never arrived.
    fn end(self) -> (u32, usize) {
        self.stop.store(true, Ordering::Release);
        let sent = self.sender.join().expect("sender");
        let mut got = self.receiver.join().expect("receiver");
        got.sort_unstable();
        got.dedup();
        (sent, sent as usize - got.len())
    }
}

/// The median of many round trips, in microseconds.
fn round_trip_us(ip: IpAddr, rounds: usize) -> f64 {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).expect("bind");
    socket.connect((ip, 7)).expect("connect");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("time-out");
    let trip = |_| {
        let begun = Instant::now();
        socket.send(b"x").expect("sent");
        socket.recv(&mut [0; 8]).expect("answered");
        begun.elapsed()
    };
    let mut times: Vec<Duration> = (0..rounds).map(trip).collect();
    times.sort_unstable();
    times[rounds / 2].as_secs_f64() * 1e6
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_come_and_go_in_a_running_chain_and_packets_do_not_notice() {
    let daemon = Daemon::new("insert");
    daemon.import_busybox().await;
    for name in ["web1", "fw1", "ids1"] {
        daemon.launch(name, &[]).await;
    }
    let ip = address(&daemon, "web1").await;
    let web1 = daemon.init_pid("web1").await;
    create(&daemon, "line", &[("chain.to", "web1:eth0")]).await.expect("a chain without a function");
    let stream = Stream::start(web1, ip);
    let turns = testkit::budget(10, 100);
    for name in ["fw1", "ids1"] {
        let others = if name == "fw1" { "" } else { "fw1," };
        set(&daemon, "line", "chain.bypass", "").await.expect("changed");
        let found = daemon.client.get_network("line").await.expect("a chain");
        let mut config = found.value.config;
        config.insert("chain.functions".into(), format!("{others}{name}"));
        config.insert("chain.bypass".into(), name.into());
        let put = NetworkPut { config, description: String::new() };
        daemon.client.update_network("line", &put, None).await.expect("inserted, passed by");
        pass_on(daemon.init_pid(name).await, "in", "out");
    }
    for _ in 0..turns {
        for bypassed in ["", "ids1", "fw1,ids1", "fw1"] {
            set(&daemon, "line", "chain.bypass", bypassed).await.expect("changed");
        }
    }
    set(&daemon, "line", "chain.bypass", "").await.expect("changed");
    set(&daemon, "line", "chain.functions", "ids1").await.expect("fw1 removed");
    let (sent, lost) = stream.end();
    eprintln!(
        "figure: functions put into a running chain and taken out {} times under {sent} packets: {lost} lost",
        4 * turns + 3
    );
    assert!(sent > 1000 && lost * 1000 <= sent as usize, "{lost} of {sent} lost\n{}", daemon.log());

    // What a hop costs.
    let echo = within(web1, move || UdpSocket::bind((ip, 7)).expect("bind"));
    let ended = Arc::new(AtomicBool::new(false));
    let end = ended.clone();
    let server = std::thread::spawn(move || {
        echo.set_read_timeout(Some(Duration::from_millis(200))).expect("time-out");
        let mut bytes = [0; 8];
        while !end.load(Ordering::Acquire) {
            if let Ok((length, from)) = echo.recv_from(&mut bytes) {
                echo.send_to(&bytes[..length], from).expect("answer");
            }
        }
    });
    // One after the other, again and again, so that whatever else the machine does is in both.
    let (mut with, mut without) = (f64::MAX, f64::MAX);
    for _ in 0..5 {
        set(&daemon, "line", "chain.bypass", "").await.expect("changed");
        with = with.min(round_trip_us(ip, 2000));
        set(&daemon, "line", "chain.bypass", "ids1").await.expect("changed");
        without = without.min(round_trip_us(ip, 2000));
    }
    ended.store(true, Ordering::Release);
    server.join().expect("server");
    eprintln!("figure: a function in a chain adds {:.1} us to a round trip of {without:.1} us", with - without);
    // Ten times the goal: other programs run beside this one.
    assert!(with - without < 50.0, "{with} {without}");
    daemon.client.delete_network("line").await.expect("deleted");
    daemon.finish().await;
}

#[tokio::test]
async fn what_makes_no_chain_is_refused_with_the_reason() {
    let daemon = Daemon::new("nochain");
    daemon.import_busybox().await;
    daemon.launch("web1", &[]).await;
    daemon.launch("fw1", &[]).await;
    daemon.launch("host1", &[("namespaces.net", "host")]).await;
    daemon.change("fw1", "stop", true).await;
    // Chains have links of their names on the host, where another test has one called edge.
    for (config, word) in [
        (&[][..], "chain.to"),
        (&[("chain.to", "nobody:eth0")], "there is no instance nobody"),
        (&[("chain.to", "web1:eth7")], "no NIC eth7"),
        (&[("chain.to", "web1:eth0"), ("chain.from", "other0")], "so the chain begins there"),
        (&[("chain.to", "web1:eth0"), ("chain.functions", "web1")], "is the end"),
        (&[("chain.to", "web1:eth0"), ("chain.functions", "fw1:eth0/wan")], "has a device or link eth0 already"),
        (&[("chain.to", "web1:eth0"), ("chain.functions", "host1")], "host's network"),
        (&[("chain.to", "web1:eth0"), ("chain.functions", "fw1")], "fw1 does not run"),
        (&[("chain.to", "web1:eth0"), ("limits.memory", "1GiB")], "unknown key of a chain"),
    ] {
        let text = create(&daemon, "door", config).await.expect_err(word).to_string();
        assert!(text.contains(word), "{word}: {text}");
    }
    let bridge = NetworksPost { name: "br7".into(), kind: "bridge".into(), ..NetworksPost::default() };
    let text = daemon.client.create_network(&bridge).await.expect_err("a bridge").to_string();
    assert!(text.contains("chain"), "{text}");
    // A link of that name that is somebody else's is left alone.
    assert!(Command::new("ip").args(["link", "add", "tstchain0", "type", "bridge"]).status().expect("ip").success());
    let text = create(&daemon, "tstchain0", &[("chain.to", "web1:eth0")]).await.expect_err("taken").to_string();
    assert!(Command::new("ip").args(["link", "delete", "tstchain0"]).status().expect("ip").success(), "{text}");
    create(&daemon, "door", &[("chain.to", "web1:eth0")]).await.expect("a chain");
    let text = create(&daemon, "door2", &[("chain.to", "web1:eth0")]).await.expect_err("another").to_string();
    assert!(text.contains("part in chain door already"), "{text}");
    let none = BTreeMap::from([("eth0".to_owned(), strings(&[("type", "none")]))]);
    let put = sysctl_api::InstancePut { devices: Some(none), ..support::patch(&[]) };
    let text = daemon.client.patch_instance("web1", &put, None).await.expect_err("its end").to_string();
    assert!(text.contains("chain door"), "{text}");
    daemon.client.delete_network("door").await.expect("deleted");
    daemon.finish().await;
}
