//! Somebody deletes a bridge, a guest's link or our tables: they are back before anybody calls, and nobody is fought for ever.

#![allow(missing_docs)]

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use support::Daemon;

fn run(words: &str) {
    let words: Vec<&str> = words.split(' ').collect();
    let output = Command::new(words[0]).args(&words[1..]).output().expect(words[0]);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn succeeds(words: &str) -> bool {
    let words: Vec<&str> = words.split(' ').collect();
    Command::new(words[0]).args(&words[1..]).output().expect(words[0]).status.success()
}

/// Waits until an event of the life of something tells this action for this cause; all of the cause. One that is broken may
/// be told twice, before and while it is put right.
async fn until_told(events: &mut sysctl_client::Events, action: &str, words: &str) -> String {
    let told = async {
        loop {
            let event = events.next().await.expect("events").expect("an event");
            let cause = event.metadata["context"]["cause"].as_str().unwrap_or_default();
            if event.kind == "lifecycle" && event.metadata["action"] == action && cause.contains(words) {
                return cause.to_owned();
            }
        }
    };
    tokio::time::timeout(support::PATIENCE, told).await.unwrap_or_else(|_| panic!("{action} was not told"))
}

async fn reaches_gateway(daemon: &Daemon, gateway: &str) -> bool {
    daemon.exec("a", &["ping", "-c", "1", "-W", "1", gateway]).await.code == 0
}

/// What a test breaks, what must be told of it, and with which words.
struct Case {
    what: &'static str,
    act: String,
    action: &'static str,
    words: &'static str,
}

#[tokio::test]
async fn a_deleted_bridge_link_or_table_is_back_at_once_with_everything_on_it() {
    let daemon = Daemon::new("heal");
    daemon.import_busybox().await;
    daemon.launch("a", &[]).await;
    daemon.launch("b", &[]).await;
    let mark = support::mark(&daemon.state_dir());
    let networks = daemon.client.get_networks(&Default::default()).await.expect("networks");
    let bridge = networks.into_iter().find(|network| network.managed).expect("a managed network").name;
    let veth = daemon.client.get_instance("a").await.expect("a").value.config["volatile.eth0.host_name"].clone();
    let route = daemon.print("a", &["ip", "route"]).await;
    let gateway = route.split_whitespace().nth(2).expect("a gateway").to_owned();
    let addresses = async || {
        let state = daemon.client.get_instance_state("a").await.expect("state");
        let all = &state.network.as_ref().expect("links")["eth0"].addresses;
        let mut global: Vec<String> = all.iter().filter(|a| a.scope == "global").map(|a| a.address.clone()).collect();
        global.sort();
        global
    };
    let before = (addresses().await, daemon.init_pid("a").await);
    let case = |what, act: String, action, words| Case { what, act, action, words };
    let cases = [
        case(
            "our table deleted",
            format!("nft delete table inet sysctl-{mark}"),
            "network-healed",
            "rules are not ours",
        ),
        case(
            "our guards flushed",
            format!("nft flush set bridge sysctl-{mark} guarded"),
            "network-healed",
            "links are not ours",
        ),
        case(
            "our rules flushed",
            format!("nft flush table bridge sysctl-{mark}"),
            "network-healed",
            "rules are not ours",
        ),
        case("link deleted", format!("ip link del {veth}"), "instance-link-replaced", "was deleted"),
        case("link taken off", format!("ip link set {veth} nomaster"), "instance-link-replaced", "not connected"),
        case("link shut down", format!("ip link set {veth} down"), "instance-link-replaced", "is down"),
        case("bridge deleted", format!("ip link del {bridge}"), "network-healed", "bridge was deleted"),
        case("bridge shut down", format!("ip link set {bridge} down"), "network-healed", "shut down"),
    ];
    let mut figures = Vec::new();
    let mut events = daemon.client.get_events(&Default::default()).await.expect("events");
    for Case { what, act, action, words } in cases {
        run(&act);
        let broken = Instant::now();
        until_told(&mut events, action, words).await;
        while !reaches_gateway(&daemon, &gateway).await {
            assert!(broken.elapsed() < support::PATIENCE, "{what}: the guest reaches nothing\n{}", daemon.log());
        }
        figures.push(format!("{what} {} ms", broken.elapsed().as_millis()));
        daemon.healthy().await;
        assert_eq!((addresses().await, daemon.init_pid("a").await), before, "{what}");
        // Those beside it lost nothing either, and names are answered again.
        daemon.print("b", &["ping", "-c", "1", "-W", "5", &gateway]).await;
        daemon.print("a", &["nslookup", "b.sysctl", &gateway]).await;
    }
    eprintln!("figure: until the guest reaches its gateway again: {}", figures.join(", "));
    daemon.finish().await;
}

#[tokio::test]
async fn somebody_who_flushes_again_and_again_is_told_and_not_fought() {
    let daemon = Daemon::new("fight");
    daemon.import_busybox().await;
    daemon.launch("a", &[]).await;
    let mark = support::mark(&daemon.state_dir());
    let table = format!("table inet sysctl-{mark}");
    let mut events = daemon.client.get_events(&Default::default()).await.expect("events");
    let started = Instant::now();
    for round in 1..=5 {
        run(&format!("nft delete {table}"));
        until_told(&mut events, "network-healed", "not ours").await;
        assert!(succeeds(&format!("nft list {table}")), "round {round}");
    }
    run(&format!("nft delete {table}"));
    let cause = until_told(&mut events, "network-left-broken", "not ours").await;
    assert!(cause.contains("left so") && cause.contains("doctor --repair"), "{cause}");
    assert!(!succeeds(&format!("nft list {table}")), "it was put back all the same");
    let report = daemon.doctor().await;
    assert!(report.findings.iter().any(|f| f.kind == "firewall" && f.text.contains("not ours")), "{report:?}");
    let repaired = daemon.client.repair().await.expect("repair");
    assert!(repaired.findings.is_empty(), "{repaired:?}");
    eprintln!(
        "figure: a firewall flushed 6 times: put back 5 times in {} ms, then left and told; --repair put it back",
        started.elapsed().as_millis()
    );
    daemon.finish().await;
}

#[tokio::test]
async fn a_spawn_process_that_dies_is_back_before_it_is_needed() {
    let daemon = Daemon::new("spawn");
    let directory = daemon.runtime_dir().display().to_string();
    let is_ours = |words: &str| words.contains("spawn\0--socket") && words.contains(&directory);
    let find = |not: u32| {
        let mut all = support::processes().into_iter();
        all.find(|process| process.pid != not && is_ours(&process.arguments)).map(|process| process.pid)
    };
    let first = find(0).expect("a spawn process");
    support::signal(first, rustix::process::Signal::KILL);
    let killed = Instant::now();
    testkit::eventually("another spawn process", || find(first));
    eprintln!("figure: a killed spawn process is back after {} ms", killed.elapsed().as_millis());
    // Its socket is there a moment later.
    let report = async { while !daemon.doctor().await.findings.is_empty() {} };
    tokio::time::timeout(Duration::from_secs(10), report).await.expect("healthy");
    daemon.finish().await;
}

#[tokio::test]
async fn a_link_that_was_being_made_when_the_daemon_died_goes_with_its_guard() {
    let mut daemon = Daemon::new("unmarked");
    daemon.import_busybox().await;
    daemon.launch("a", &[]).await;
    let link = daemon.client.get_instance("a").await.expect("a").value.config["volatile.eth0.host_name"].clone();
    let init = daemon.init_pid("a").await;
    daemon.kill();
    support::signal(init, rustix::process::Signal::KILL);
    testkit::eventually("the link's end", || (!succeeds(&format!("ip link show {link}"))).then_some(()));
    // As between the two calls that make it and mark it.
    run(&format!("ip link add {link} type veth peer name {link}x"));
    daemon.start();
    daemon.healthy().await;
    assert!(!succeeds(&format!("ip link show {link}")), "{link} is still there");
    daemon.finish().await;
}
