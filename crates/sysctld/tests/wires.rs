//! Wires between guests: whichever end comes first, whatever becomes of the other, and what is refused.

#![allow(missing_docs)]

mod support;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::process::Command;

use support::{Daemon, patch};
use sysctl_api::InstancePut;

const NEAR: &str = "10.7.7.1";
const FAR: &str = "10.7.7.2";

/// Devices of an instance beside those of its profiles, each with its keys.
fn devices(all: &[(&str, &[(&str, &str)])]) -> InstancePut {
    let keys = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let devices = Some(all.iter().map(|(name, pairs)| ((*name).to_owned(), keys(pairs))).collect());
    InstancePut { devices, ..patch(&[]) }
}

fn wire<'a>(peer: &'a str, address: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![("type", "nic"), ("nictype", "wire"), ("peer", peer), ("ipv4.address", address)]
}

async fn change(daemon: &Daemon, name: &str, put: &InstancePut) -> Result<(), sysctl_client::Error> {
    let operation = daemon.client.patch_instance(name, put, None).await?;
    daemon.client.finish(&operation).await.map(drop)
}

/// Two guests that a wire joins: `eth1` of the first with `lan` of the second.
async fn pair(what: &str) -> Daemon {
    let daemon = Daemon::new(what);
    daemon.import_busybox().await;
    daemon.launch("web1", &[]).await;
    daemon.launch("web2", &[]).await;
    let far = devices(&[("lan", &wire("web1:eth1", "10.7.7.2/30"))]);
    change(&daemon, "web2", &far).await.expect("the far end");
    change(&daemon, "web1", &devices(&[("eth1", &wire("web2:lan", "10.7.7.1/30"))])).await.expect("the near end");
    daemon
}

async fn reaches(daemon: &Daemon, from: &str, to: &str) -> bool {
    daemon.exec(from, &["ping", "-c", "1", "-W", "5", to]).await.code == 0
}

async fn has_link(daemon: &Daemon, name: &str, link: &str) -> bool {
    daemon.exec(name, &["ip", "link", "show", link]).await.code == 0
}

/// Waits until what follows from something else has followed.
async fn until(daemon: &Daemon, name: &str, link: &str, is_there: bool) {
    let deadline = tokio::time::Instant::now() + support::PATIENCE;
    while has_link(daemon, name, link).await != is_there {
        assert!(tokio::time::Instant::now() < deadline, "{link} of {name}: {}", daemon.log());
    }
}

#[tokio::test]
async fn a_wire_in_a_network_that_persists_comes_back_whoever_restarts() {
    let mut daemon = Daemon::new("wire-persists");
    daemon.import_busybox().await;
    // Its name is one at /run/netns as well.
    let web1 = format!("web{}", std::process::id());
    daemon.launch(&web1, &[("namespaces.net.persist", "true")]).await;
    daemon.launch("web2", &[]).await;
    let far = format!("{web1}:eth1");
    change(&daemon, "web2", &devices(&[("lan", &wire(&far, "10.7.7.2/30"))])).await.expect("the far end");
    change(&daemon, &web1, &devices(&[("eth1", &wire("web2:lan", "10.7.7.1/30"))])).await.expect("the near end");
    let looks = Cell::new(0);
    let joined = async |daemon: &Daemon, what: &str| {
        looks.set(looks.get() + 1);
        assert!(reaches(daemon, &web1, FAR).await && reaches(daemon, "web2", NEAR).await, "{what}: {}", daemon.log());
        daemon.healthy().await;
    };
    joined(&daemon, "made").await;
    daemon.change(&web1, "restart", true).await;
    joined(&daemon, "a restart of the one that persists").await;
    daemon.change("web2", "restart", true).await;
    joined(&daemon, "a restart of the other").await;
    daemon.change(&web1, "stop", true).await;
    until(&daemon, "web2", "lan", false).await;
    daemon.change("web2", "restart", true).await;
    daemon.change(&web1, "start", false).await;
    joined(&daemon, "a restart of the other meanwhile").await;
    daemon.change("web2", "stop", true).await;
    until(&daemon, &web1, "eth1", false).await;
    daemon.change(&web1, "restart", true).await;
    daemon.change("web2", "start", false).await;
    joined(&daemon, "a restart without the other").await;
    daemon.kill();
    daemon.start();
    joined(&daemon, "a crash of the daemon").await;
    daemon.change(&web1, "stop", true).await;
    daemon.kill();
    daemon.start();
    daemon.change(&web1, "start", false).await;
    joined(&daemon, "a crash of the daemon while it was stopped").await;
    // Without the wire its end goes, and the network stays.
    change(&daemon, &web1, &InstancePut { devices: Some(BTreeMap::new()), ..patch(&[]) }).await.expect("as it was");
    eprintln!(
        "figure: wire in a network that persists: up at {} looks, after restarts of either end and crashes of the daemon",
        looks.get()
    );
    daemon.finish().await;
}

#[tokio::test]
async fn a_wire_joins_two_running_guests_and_comes_back_whoever_restarts() {
    let mut daemon = pair("wire").await;
    assert!(reaches(&daemon, "web1", FAR).await && reaches(&daemon, "web2", NEAR).await, "{}", daemon.log());
    // Nothing of it is on the host.
    let links = std::fs::read_dir("/sys/class/net").expect("links").flatten();
    assert!(links.map(|link| link.file_name()).all(|name| !name.to_string_lossy().starts_with("sw")));
    daemon.change("web2", "restart", true).await;
    assert!(reaches(&daemon, "web2", NEAR).await, "{}", daemon.log());
    daemon.change("web1", "restart", true).await;
    assert!(reaches(&daemon, "web1", FAR).await, "{}", daemon.log());
    // A stopped guest has no end, and so the other has none; both are there again before its init runs.
    daemon.change("web2", "stop", true).await;
    until(&daemon, "web1", "eth1", false).await;
    daemon.change("web2", "start", false).await;
    assert!(has_link(&daemon, "web1", "eth1").await && reaches(&daemon, "web2", NEAR).await, "{}", daemon.log());
    // A daemon that was not there for it finds it as it is.
    let index = daemon.print("web1", &["cat", "/sys/class/net/eth1/ifindex"]).await;
    daemon.kill();
    daemon.start();
    assert!(reaches(&daemon, "web1", FAR).await);
    assert_eq!(daemon.print("web1", &["cat", "/sys/class/net/eth1/ifindex"]).await, index);
    // It is there for as long as one of the two names the other.
    let none: &[(&str, &str)] = &[("type", "none")];
    change(&daemon, "web2", &devices(&[("lan", none)])).await.expect("taken off");
    until(&daemon, "web2", "lan", true).await;
    change(&daemon, "web1", &devices(&[("eth1", none)])).await.expect("taken off");
    assert!(!has_link(&daemon, "web1", "eth1").await);
    until(&daemon, "web2", "lan", false).await;
    daemon.finish().await;
}

#[tokio::test]
async fn the_far_end_is_implied_and_a_crash_between_leaves_nothing_half() {
    let mut daemon = Daemon::new("implied");
    daemon.import_busybox().await;
    daemon.launch("web1", &[]).await;
    daemon.launch("web2", &[]).await;
    change(&daemon, "web1", &devices(&[("eth1", &wire("web2", "10.7.7.1/30"))])).await.expect("a wire");
    until(&daemon, "web2", "eth1", true).await;
    let graph = daemon.client.get_namespace_graph("text").await.expect("a graph");
    assert!(graph.as_str().is_some_and(|text| text.contains("eth1 ─── web2:eth1")), "{graph}");
    let explained = daemon.client.explain_instance("web2").await.expect("explained");
    assert!(explained.links["eth1"].contains("a wire to eth1 of web1"), "{explained:?}");
    // Somebody takes the end away in the guest: the next look puts it back.
    daemon.print("web2", &["ip", "link", "delete", "eth1"]).await;
    let report = daemon.client.get_doctor().await.expect("doctor");
    assert!(report.findings.iter().any(|finding| finding.text.contains("eth1")), "{report:?}");
    daemon.client.repair().await.expect("repaired");
    until(&daemon, "web1", "eth1", true).await;
    // Both restart at once, and the daemon dies meanwhile.
    for name in ["web1", "web2"] {
        let put = sysctl_api::StatePut { action: "restart".into(), timeout: 30, force: true, stateful: false };
        daemon.client.update_instance_state(name, &put).await.expect("accepted");
    }
    daemon.kill();
    daemon.start();
    daemon.until_status("web1", "Running").await;
    daemon.until_status("web2", "Running").await;
    until(&daemon, "web1", "eth1", true).await;
    until(&daemon, "web2", "eth1", true).await;
    daemon.print("web2", &["ip", "address", "add", "10.7.7.2/30", "dev", "eth1"]).await;
    assert!(reaches(&daemon, "web2", NEAR).await);
    daemon.finish().await;
}

/// Why they are refused: what the host's root puts at a wire's end, the guest's root takes off.
fn limits_of_wires_would_be_none(pid: u32) {
    let tc = |namespaces: &[&str], words: &str| {
        let enter = ["-t", &pid.to_string()].map(str::to_owned);
        let words = ["tc"].into_iter().chain(words.split(' '));
        let output = Command::new("nsenter").args(enter).args(namespaces).args(words).output().expect("nsenter");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    tc(&["-n"], "qdisc add dev eth1 clsact");
    assert!(tc(&["-n"], "qdisc show dev eth1").contains("clsact"));
    tc(&["-U", "-n"], "qdisc del dev eth1 clsact");
    assert!(!tc(&["-n"], "qdisc show dev eth1").contains("clsact"));
}

#[tokio::test]
async fn what_a_wire_cannot_be_is_refused_with_the_reason() {
    let daemon = pair("refused").await;
    daemon.launch("web3", &[("idle.freeze", "1h")]).await;
    daemon.launch("host1", &[("namespaces.net", "host")]).await;
    for (peer, word) in [
        ("nobody:eth0", "there is no instance nobody"),
        ("web1:eth5", "joins two instances"),
        ("web2:eth0", "has a device or link of that name already"),
        ("web2:lan", "already"),
        ("web3:eth1", "idle.freeze"),
        ("host1:eth1", "host's network"),
    ] {
        let refused = change(&daemon, "web1", &devices(&[("eth2", &wire(peer, "10.8.8.1/30"))])).await;
        let text = refused.expect_err(peer).to_string();
        assert!(text.contains(word), "{peer}: {text}");
    }
    for key in ["limits.ingress", "limits.egress", "limits.max", "limits.priority"] {
        let mut keys = wire("web3:eth2", "10.8.8.1/30");
        keys.push((key, "10Mbit"));
        let text = change(&daemon, "web1", &devices(&[("eth2", &keys)])).await.expect_err(key).to_string();
        assert!(text.contains(key) && text.contains("its root could take off"), "{text}");
    }
    limits_of_wires_would_be_none(daemon.init_pid("web1").await);
    let taken = change(&daemon, "web3", &devices(&[("x", &wire("web2:lan", "10.8.8.1/30"))])).await;
    assert!(taken.expect_err("taken").to_string().contains("leads elsewhere"));
    let slept = daemon.set("web2", &[("idle.freeze", "1h")]).await.expect_err("never woken").to_string();
    assert!(slept.contains("nobody hears"), "{slept}");
    daemon.change("web2", "stop", true).await;
    let kept = daemon.try_delete("web2").await.expect_err("joined").to_string();
    assert!(kept.contains("eth1 of web1 is a wire to it"), "{kept}");
    let profile = sysctl_api::ProfilesPost { name: "wired".into(), ..Default::default() };
    let profile = sysctl_api::ProfilesPost {
        devices: devices(&[("eth1", &wire("web2", "10.8.8.1/30"))]).devices.expect("devices"),
        ..profile
    };
    let refused = daemon.client.create_profile(&profile).await.expect_err("a profile").to_string();
    assert!(refused.contains("joins two instances"), "{refused}");
    change(&daemon, "web1", &devices(&[("eth1", &[("type", "none")])])).await.expect("taken off");
    daemon.finish().await;
}
