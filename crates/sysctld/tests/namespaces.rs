//! Namespace objects on the real host: made, adopted, entered, lived in, lost and found again, refused to go, gone.

#![allow(missing_docs)]

mod support;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::Daemon;
use sysctl_api::{NamespaceAdoption, NamespacePatch, NamespaceView, NamespacesPost};

/// A name at /run/netns that no other test has.
fn unique(what: &str) -> String {
    format!("sysctl-test-{what}-{}", std::process::id())
}

fn object(kind: &str, name: &str) -> NamespacesPost {
    NamespacesPost { kind: kind.into(), name: name.into(), ..NamespacesPost::default() }
}

async fn create(daemon: &Daemon, post: &NamespacesPost) -> NamespaceView {
    let made = daemon.client.create_namespace(post).await;
    made.unwrap_or_else(|e| panic!("{post:?}: {e}\n{}", daemon.log()));
    view(daemon, &post.kind, &post.name).await
}

async fn view(daemon: &Daemon, kind: &str, name: &str) -> NamespaceView {
    daemon.client.get_namespace(kind, name).await.expect("an object").value
}

async fn refused(daemon: &Daemon, post: &NamespacesPost) -> String {
    daemon.client.create_namespace(post).await.expect_err("refused").to_string()
}

/// Runs a program of the host; what it prints.
fn host(words: &[&str]) -> Result<String, String> {
    let output = Command::new(words[0]).args(&words[1..]).output().expect("a program");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim_end().to_owned();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

fn must(words: &[&str]) -> String {
    host(words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

/// Runs our own client; what it prints.
fn cli(daemon: &Daemon, words: &[&str]) -> Result<String, String> {
    let program = support::program("sysctl-cli").display().to_string();
    let socket = daemon.client.socket().display().to_string();
    host(&[&[&program, "--socket", &socket], words].concat())
}

#[tokio::test]
async fn guests_come_and_go_and_the_network_of_an_object_stays_as_it_was_set_up() {
    let daemon = Daemon::new("objects");
    daemon.import_busybox().await;
    let blue = unique("blue");
    create(&daemon, &object("user", "team")).await;
    let post = NamespacesPost { user_namespace: "team".into(), netns: true, ..object("net", &blue) };
    let made = create(&daemon, &post).await;
    must(&["ip", "-n", &blue, "link", "add", "d0", "type", "bridge"]);
    must(&["ip", "-n", &blue, "addr", "add", "10.99.0.1/24", "dev", "d0"]);
    must(&["ip", "-n", &blue, "link", "set", "d0", "up"]);

    let named = format!("named:{blue}");
    let keys = [("namespaces.user", "named:team"), ("namespaces.net", named.as_str())];
    daemon.launch("web1", &keys).await;
    assert!(daemon.print("web1", &["ip", "addr", "show", "d0"]).await.contains("10.99.0.1/24"));
    daemon.print("web1", &["ip", "route", "add", "10.77.0.0/16", "via", "10.99.0.9"]).await;
    daemon.launch("web2", &[("namespaces.net", named.as_str())]).await;
    let stranger = daemon.exec("web2", &["ip", "link", "set", "d0", "down"]).await;
    assert!(stranger.code != 0 && stranger.stderr.contains("not permitted"), "{stranger:?}");

    let now = view(&daemon, "net", &blue).await;
    assert_eq!((now.holders, now.inode), (vec!["web1".to_owned(), "web2".to_owned()], made.inode));
    assert_eq!(now.used_by, ["/1.0/instances/web1", "/1.0/instances/web2"]);
    for (kind, name) in [("net", blue.as_str()), ("user", "team")] {
        let text = daemon.client.delete_namespace(kind, name).await.expect_err("in use").to_string();
        assert!(text.contains("in use by instances/web") && text.contains("first"), "{text}");
    }
    daemon.change("web2", "stop", true).await;
    daemon.change("web1", "restart", true).await;
    assert!(daemon.print("web1", &["ip", "route"]).await.contains("10.77.0.0/16"));
    let told = daemon.client.explain_instance("web1").await.expect("explain");
    assert_eq!(told.namespaces["net"], format!("namespace {blue}"));
    daemon.healthy().await;
    for name in ["web1", "web2"] {
        let _ = daemon.try_change(name, "stop", true).await;
        daemon.try_delete(name).await.expect("deleted");
    }
    assert!(must(&["ip", "netns", "exec", &blue, "ip", "route"]).contains("10.77.0.0/16"), "nobody lives there");
    daemon.client.delete_namespace("net", &blue).await.expect("deleted");
    assert!(!PathBuf::from("/run/netns").join(&blue).exists() && !PathBuf::from(&made.pin).exists());
    daemon.finish().await;
}

#[tokio::test]
async fn a_lost_pin_is_made_again_and_is_the_same_namespace_where_somebody_lives_in_it() {
    let mut daemon = Daemon::new("lost-pins");
    daemon.import_busybox().await;
    let names = ["lived", "empty"].map(unique);
    for name in &names {
        create(&daemon, &NamespacesPost { netns: true, ..object("net", name) }).await;
    }
    daemon.launch("web1", &[("namespaces.net", &format!("named:{}", names[0]))]).await;
    let views = async |daemon: &Daemon| [view(daemon, "net", &names[0]).await, view(daemon, "net", &names[1]).await];
    let before = views(&daemon).await;

    // While it runs: told and repaired; while it does not: by its start.
    let lose = || {
        for view in &before {
            must(&["umount", &view.pin]);
            must(&["ip", "netns", "delete", &view.name]);
        }
    };
    for by_start in [false, true] {
        let last = views(&daemon).await;
        if by_start {
            daemon.kill();
            lose();
            daemon.start();
        } else {
            lose();
            let findings = daemon.doctor().await.findings;
            assert!(findings.iter().filter(|f| f.text == "has no namespace").count() == 2, "{findings:#?}");
            daemon.client.repair().await.expect("repaired");
        }
        daemon.healthy().await;
        let now = views(&daemon).await;
        assert_eq!(now[0].inode, last[0].inode, "web1 lives in it");
        assert!(now[1].inode != 0 && now.iter().all(|view| PathBuf::from("/run/netns").join(&view.name).exists()));
    }
    assert_eq!(daemon.status("web1").await, "Running");
    // The same one is found at /run/netns, too.
    let kept = view(&daemon, "net", &names[1]).await.inode;
    must(&["umount", &before[1].pin]);
    assert_eq!(view(&daemon, "net", &names[1]).await.inode, 0);
    daemon.client.repair().await.expect("repaired");
    assert_eq!(view(&daemon, "net", &names[1]).await.inode, kept);

    // A pin of nothing is told, and goes.
    let stray = daemon.runtime_dir().join("ns/00000000-0000-0000-0000-000000000007.net");
    std::fs::write(&stray, "").expect("a file");
    must(&["mount", "--bind", "/proc/self/ns/net", &stray.display().to_string()]);
    let findings = daemon.doctor().await.findings;
    assert!(findings.len() == 1 && findings[0].kind == "pin", "{findings:#?}");
    daemon.client.repair().await.expect("repaired");
    assert!(!stray.exists());
    eprintln!(
        "figure: pins lost while the daemon ran and while it was dead: 4 of 4 pinned again, with a guest the same namespace 2 of 2"
    );
    daemon.finish().await;
}

#[tokio::test]
async fn a_namespace_that_there_is_already_is_adopted_and_outlives_where_it_came_from() {
    let daemon = Daemon::new("adopted");
    daemon.import_busybox().await;
    daemon.launch("web1", &[]).await;
    let adopt = |instance: &str, path: &str| Some(NamespaceAdoption { instance: instance.into(), path: path.into() });
    let of_guest = create(&daemon, &NamespacesPost { adopt: adopt("web1", ""), ..object("uts", "name") }).await;
    assert_eq!(of_guest.holders, ["web1"]);
    daemon.change("web1", "stop", true).await;
    assert_eq!(must(&["nsenter", &format!("--uts={}", of_guest.pin), "hostname"]), "web1");

    let foreign = unique("foreign");
    must(&["ip", "netns", "add", &foreign]);
    let path = format!("/run/netns/{foreign}");
    let post = NamespacesPost { adopt: adopt("", &path), netns: true, ..object("net", &foreign) };
    let text = refused(&daemon, &post).await;
    assert!(text.contains("is there already and is somebody else's") && text.contains("another name"), "{text}");
    let taken = create(&daemon, &NamespacesPost { netns: false, ..post }).await;
    assert_eq!(taken.inode, std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).expect("a namespace")));
    let named = format!("named:{foreign}");
    daemon.launch("web2", &[("namespaces.net", named.as_str())]).await;
    must(&["ip", "netns", "delete", &foreign]);
    daemon.change("web2", "restart", true).await;
    assert_eq!(view(&daemon, "net", &foreign).await.holders, ["web2"]);

    for (post, words) in [
        (object("pid", "x"), ["first process", "pid/x"]),
        (object("mnt", "x"), ["root file system", "mnt/x"]),
        (object("cgroup", "x"), ["groups", "cgroup/x"]),
        (object("nets", "x"), ["\"nets\"", "kind of namespace"]),
        (object("net", "../x"), ["namespace name", "../x"]),
        (object("net", &foreign), ["already exists", "net/"]),
        (NamespacesPost { netns: true, ..object("uts", "x") }, ["/run/netns", "uts/x"]),
        (NamespacesPost { user_namespace: "none".into(), ..object("net", "x") }, ["user/none", "not found"]),
        (NamespacesPost { adopt: adopt("web2", ""), ..object("user", "x") }, ["ids", "user/x"]),
        (NamespacesPost { adopt: adopt("web1", ""), ..object("net", "x") }, ["web1", "does not run"]),
        (NamespacesPost { adopt: adopt("", "/etc/passwd"), ..object("net", "x") }, ["/etc/passwd", "no net namespace"]),
        (NamespacesPost { adopt: adopt("", &of_guest.pin), ..object("net", "x") }, ["no net namespace", ".uts"]),
        (NamespacesPost { adopt: adopt("", "/none"), ..object("net", "x") }, ["/none", "No such file"]),
        (NamespacesPost { adopt: adopt("web2", "/x"), ..object("net", "x") }, ["adopt", "either"]),
    ] {
        let text = refused(&daemon, &post).await;
        assert!(words.iter().all(|word| text.contains(word)), "{post:?}: {text}");
    }
    let none = support::post("web3", &[("namespaces.net", "named:none")]);
    let text = daemon.client.create_instance(&none).await.expect_err("refused").to_string();
    assert!(text.contains("namespaces.net") && text.contains("sysctl-cli ns create net/none"), "{text}");
    daemon.healthy().await;
    daemon.finish().await;
}

#[tokio::test]
async fn tools_of_the_host_enter_objects_by_name_and_what_nobody_uses_is_collected() {
    let daemon = Daemon::new("tools-in-objects");
    daemon.import_busybox().await;
    let (blue, net) = (unique("tool"), format!("net/{}", unique("tool")));
    let ok = |words: &[&str]| cli(&daemon, words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
    assert_eq!(ok(&["ns", "create", "user/team"]), "Namespace user/team created.");
    ok(&["ns", "create", &net, "--users", "team", "--netns", "--description", "for tests"]);
    ok(&["ns", "create", "uts/spare"]);
    assert!(ok(&["ns", "list"]).contains(&format!("named:{blue}")));
    assert!(ok(&["ns", "show", &net]).contains("user_namespace: team"));
    assert!(ok(&["ns", "enter", &net, "uts/spare", "--", "ip", "-o", "link"]).starts_with("1: lo:"));
    let link = PathBuf::from("/run/netns").join(&blue);
    ok(&["ns", "set", &net, "--netns", "false"]);
    assert!(!link.exists());
    ok(&["ns", "set", &net, "--netns", "true"]);
    must(&["ip", "netns", "exec", &blue, "ip", "link", "set", "lo", "up"]);
    must(&["nsenter", &format!("--net={}", link.display()), "ip", "link", "show", "up", "dev", "lo"]);
    let patch = NamespacePatch { netns: Some(true), ..NamespacePatch::default() };
    let text = daemon.client.patch_namespace("uts", "spare", &patch).await.expect_err("refused").to_string();
    assert!(text.contains("/run/netns"), "{text}");

    daemon.launch("web1", &[("namespaces.net", &format!("named:{blue}"))]).await;
    let would = ok(&["ns", "gc", "--dry-run"]);
    assert_eq!(would, "uts/spare would go");
    assert_eq!(ok(&["ns", "gc"]), "uts/spare is gone");
    assert_eq!(ok(&["ns", "gc"]), "Nothing is unused.");
    let text = cli(&daemon, &["ns", "delete", &net]).expect_err("in use");
    assert!(text.contains("in use by instances/web1"), "{text}");
    daemon.change("web1", "stop", true).await;
    daemon.try_delete("web1").await.expect("deleted");
    assert_eq!(ok(&["ns", "gc"]), format!("{net} is gone\nuser/team is gone"));
    daemon.finish().await;
}

#[tokio::test]
async fn a_network_that_persists_is_as_it_was_after_a_restart_of_the_guest_and_a_crash_of_the_daemon() {
    let mut daemon = Daemon::new("persist");
    daemon.import_busybox().await;
    let name = format!("web{}", std::process::id());
    daemon.launch(&name, &[("namespaces.net.persist", "true")]).await;
    let inode = async |daemon: &Daemon| {
        let found = daemon.client.get_instance_namespaces(&name).await.expect("namespaces");
        found.into_iter().find(|n| n.kind == "net").expect("a network")
    };
    let before = inode(&daemon).await;
    assert_eq!((before.mode.as_str(), before.own), ("private", true));
    let address = daemon.print(&name, &["ip", "-4", "-o", "addr", "show", "eth0"]).await;
    for words in [
        "link add kept0 type bridge",
        "addr add 10.98.0.1/24 dev kept0",
        "link set kept0 up",
        "route add 10.97.0.0/16 via 10.98.0.9",
        "rule add from 10.98.0.0/24 table 77",
    ] {
        let words: Vec<&str> = ["ip"].into_iter().chain(words.split(' ')).collect();
        daemon.print(&name, &words).await;
    }
    // A rule of the host's nft has the kernel note connections in there; the guest's own one is among them.
    let tracks = Path::new("/proc/net/nf_conntrack").exists();
    if tracks {
        let inside = |words: &[&str]| must(&[&["ip", "netns", "exec", &name], words].concat());
        inside(&["nft", "table inet kept { chain in { type filter hook input priority 0; ct state new counter; }; }"]);
        inside(&["sysctl", "-qw", "net.netfilter.nf_conntrack_icmp_timeout=600"]);
        daemon.print(&name, &["ping", "-c", "1", "10.98.0.1"]).await;
    }
    let looks = Cell::new(0);
    let is_kept = async |daemon: &Daemon, what: &str| {
        looks.set(looks.get() + 1);
        if tracks {
            let known = must(&["ip", "netns", "exec", &name, "cat", "/proc/net/nf_conntrack"]);
            assert!(known.contains("icmp") && known.contains("dst=10.98.0.1"), "{what}: {known}");
            assert!(must(&["ip", "netns", "exec", &name, "nft", "list", "tables"]).contains("inet kept"), "{what}");
        }
        let now = inode(daemon).await;
        assert_eq!((now.inode, now.own), (before.inode, true), "{what}");
        assert!(daemon.print(&name, &["ip", "addr", "show", "kept0"]).await.contains("10.98.0.1/24"), "{what}");
        assert!(daemon.print(&name, &["ip", "route"]).await.contains("10.97.0.0/16"), "{what}");
        assert!(daemon.print(&name, &["ip", "rule"]).await.contains("lookup 77"), "{what}");
        let now = daemon.print(&name, &["ip", "-4", "-o", "addr", "show", "eth0"]).await;
        let words = |text: &str| text.split_whitespace().nth(3).map(str::to_owned);
        assert_eq!(words(&now), words(&address), "{what}");
        assert!(must(&["ip", "-n", &name, "-o", "link"]).contains("kept0"), "{what}");
    };
    daemon.change(&name, "restart", true).await;
    is_kept(&daemon, "a restart").await;
    daemon.change(&name, "stop", false).await;
    assert!(must(&["ip", "netns", "exec", &name, "ip", "route"]).contains("10.97.0.0/16"), "while it is stopped");
    daemon.kill();
    daemon.start();
    daemon.change(&name, "start", false).await;
    is_kept(&daemon, "a stop, a crash of the daemon and a start").await;
    daemon.kill();
    daemon.start();
    is_kept(&daemon, "a crash of the daemon under the guest").await;
    daemon.healthy().await;

    for (key, value) in [("namespaces.net", "host"), ("namespaces.user", "instance:db1")] {
        let post = support::post("other", &[("namespaces.net.persist", "true"), (key, value)]);
        let text = daemon.client.create_instance(&post).await.expect_err("refused").to_string();
        assert!(text.contains(key) || text.contains("namespaces.net.persist"), "{text}");
    }
    daemon.change(&name, "stop", true).await;
    let text = daemon.set(&name, &[("security.nesting", "true")]).await.expect_err("refused").to_string();
    assert!(text.contains("namespaces.net.persist=false first"), "{text}");
    daemon.set(&name, &[("namespaces.net.persist", "false")]).await.expect("changed");
    assert!(!PathBuf::from("/run/netns").join(&name).exists(), "it is let go");
    daemon.set(&name, &[("namespaces.net.persist", "true")]).await.expect("changed");
    daemon.change(&name, "start", false).await;
    assert!(daemon.exec(&name, &["ip", "link", "show", "kept0"]).await.code != 0, "a new one");
    daemon.change(&name, "stop", true).await;
    daemon.try_delete(&name).await.expect("deleted");
    assert!(!PathBuf::from("/run/netns").join(&name).exists());
    let connections = if tracks { "connections and firewall" } else { "(this kernel tracks no connections: skipped)" };
    eprintln!(
        "figure: network that persists: links, addresses, routes, rules, {connections} all there at {} looks, after \
         restarts and crashes of the daemon",
        looks.get()
    );
    daemon.finish().await;
}
