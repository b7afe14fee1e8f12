//! What others do to links and tables is told; what we do to our own table is not.

#![allow(missing_docs)]

mod lab;

use std::time::Duration;

use lab::Space;
use network::netlink::Socket;
use network::nft::{self, TableName};
use network::watch::{Changes, Watch};

/// The changes that `act` leads to, with a table of ours in the namespace.
fn told(space: &Space, own: bool, act: fn(&mut Socket, &TableName)) -> Changes {
    space.run(move || {
        let table: TableName = "sysctl-watched".parse().expect("valid");
        let mut socket = Socket::netfilter().expect("a netfilter socket");
        nft::replace(&mut socket, &table, &[], &[]).expect("a table");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let port = if own { socket.port().expect("a port") } else { 0 };
            let mut watch = Watch::start(port).expect("a watch");
            act(&mut socket, &table);
            // A link closes the list, so that a wait for nothing has an end.
            run(&["ip", "link", "add", "last", "type", "bridge"]);
            let mut all = Changes::default();
            while !all.links.contains("last") {
                let next = tokio::time::timeout(Duration::from_secs(5), watch.next()).await;
                let next = next.expect("told in time").expect("a watch that goes on");
                all.links.extend(next.links);
                all.tables.extend(next.tables);
                all.settings |= next.settings;
            }
            // Tables are told on another socket, whose news may still wait.
            if let Ok(next) = tokio::time::timeout(Duration::from_millis(20), watch.next()).await {
                all.tables.extend(next.expect("a watch that goes on").tables);
            }
            run(&["ip", "link", "del", "last"]);
            all
        })
    })
}

/// Runs a program in the namespace of this thread.
fn run(argv: &[&str]) {
    assert!(std::process::Command::new(argv[0]).args(&argv[1..]).status().expect(argv[0]).success(), "{argv:?}");
}

#[test]
fn a_flush_of_all_rules_is_told_with_the_name_of_our_table() {
    let space = Space::new();
    let changes = told(&space, true, |_, _| run(&["nft", "flush", "ruleset"]));
    assert!(changes.tables.contains("sysctl-watched"), "{changes:?}");
    let changes = told(&space, true, |_, _| run(&["nft", "flush", "set", "bridge", "sysctl-watched", "guarded"]));
    assert!(changes.tables.is_empty(), "an empty set was emptied: {changes:?}");
    let changes =
        told(&space, true, |_, _| run(&["nft", "add", "element", "bridge", "sysctl-watched", "guarded", "{ x }"]));
    assert!(changes.tables.contains("sysctl-watched"), "{changes:?}");
}

#[test]
fn our_own_changes_of_a_table_are_not_told_and_those_of_others_are() {
    let space = Space::new();
    let replace = |socket: &mut Socket, table: &TableName| nft::replace(socket, table, &[], &[]).expect("replaced");
    assert!(told(&space, true, replace).tables.is_empty());
    assert!(told(&space, false, replace).tables.contains("sysctl-watched"));
}

#[test]
fn links_that_come_change_and_go_are_told_by_name_and_settings_too() {
    let space = Space::new();
    for act in [["link", "set", "lo", "up"], ["link", "set", "lo", "down"]] {
        space.program(&[&["ip"], &act[..]].concat());
    }
    let changes = told(&space, true, |_, _| {
        run(&["ip", "link", "add", "one", "type", "veth", "peer", "name", "two"]);
        run(&["ip", "link", "del", "one"]);
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forwarding");
    });
    assert!(["one", "two"].iter().all(|name| changes.links.contains(*name)) && changes.settings, "{changes:?}");
}
