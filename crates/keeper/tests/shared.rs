//! Guests that share namespaces with the host or with one another, by the launcher alone.

#![allow(clippy::unwrap_used, unreachable_pub, missing_docs)]

#[allow(dead_code)]
mod support;

use kernel::process::Namespaces;
use runtime::protocol::*;
use support::*;

/// The launch of a guest that shares `joins` with a running process, has the host's `host`, and gets the rest new.
fn sharing(spec: LaunchSpec, joins: Namespaces, with: u32, host: Namespaces) -> LaunchSpec {
    let start = runtime::launch::root::start_time(with).unwrap_or(0);
    let own = Namespaces::from_bits_truncate(NAMESPACES).difference(joins | host);
    let join = |kind: Namespaces| Join { kind: kind.bits(), pid: with, start, path: String::new() };
    // With the owner's user namespace everything of the owner's is the guest's own to administer.
    let foreign = if joins.contains(Namespaces::USER) { host } else { joins | host };
    LaunchSpec {
        namespaces: own.bits(),
        joins: joins.iter().map(join).collect(),
        foreign: foreign.bits(),
        masked_units: vec!["some.service".into()],
        ..spec
    }
}

fn namespace(pid: u32, kind: &str) -> std::path::PathBuf {
    std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("a namespace")
}

#[test]
fn a_guest_on_the_hosts_network_runs_without_rights_over_it() {
    let host = Host::new("hostnet");
    let mut keeper = host.keeper(1);
    let spec = sharing(host.spec(keeper.boot), Namespaces::empty(), 0, Namespaces::NET | Namespaces::IPC);
    let pid = keeper.boot(spec);
    assert_eq!(namespace(pid, "net"), namespace(std::process::id(), "net"));
    let outcome = keeper.sh(1, "ip link add x type dummy; ls -d /sys/class/net/lo; echo x > /sys/class/net/lo/mtu");
    assert!(outcome.stdout.contains("/sys/class/net/lo") && outcome.code != 0, "{outcome:?}");
    assert_eq!(keeper.sh(2, "ls -d /dev/mqueue; readlink /run/systemd/system/some.service").code, 0);
    // Mounts made by the stage are locked like the others.
    assert_ne!(keeper.sh(3, "umount /dev/mqueue").code, 0);
    host.end(keeper);
}

#[test]
fn a_guest_joins_its_neighbours_network_and_users() {
    let host = Host::new("sidecar");
    let (mut owner, mut joiner) = (host.keeper(1), host.keeper(2));
    let pid = owner.boot(host.spec(owner.boot));
    let joined = Namespaces::USER | Namespaces::NET | Namespaces::IPC | Namespaces::UTS;
    let other = joiner.boot(sharing(host.spec(joiner.boot), joined, pid, Namespaces::empty()));
    for (kind, same) in [("user", true), ("net", true), ("ipc", true), ("uts", true), ("pid", false), ("mnt", false)] {
        assert_eq!(namespace(pid, kind) == namespace(other, kind), same, "{kind}");
    }
    // The network is theirs: what one sets the other sees.
    assert_eq!(joiner.sh(1, "ip addr add 10.99.0.7/32 dev lo").code, 0);
    assert!(owner.sh(1, "ip addr show dev lo").stdout.contains("10.99.0.7"));
    assert_eq!(joiner.sh(2, "id -u; echo x > /root/mine; ls -ln /root/mine").code, 0);
    assert_ne!(owner.sh(2, "ls /root/mine").code, 0, "their files are their own");
    assert_ne!(joiner.sh(3, "umount /sys").code, 0, "the joiner's tree is locked too");
    // The keeper is its parent all the same, and learns how it ended.
    joiner.ask(KeepRequest::Exec(ExecSpec { silent: true, ..exec_spec(9, &["poweroff", "-f"]) }));
    let status = joiner.expect("end", |event| match event {
        KeepEvent::Ended(status) => Some(status.clone()),
        _ => None,
    });
    assert_eq!((status.end, status.code), (end::SIGNAL, 2), "SIGINT means halt");
    assert_eq!(owner.sh(3, "echo alive").stdout, "alive\n");
    host.end(joiner);
    host.end(owner);
}

#[test]
fn a_guest_joins_a_network_and_keeps_users_of_its_own() {
    let host = Host::new("joinnet");
    let (mut owner, mut joiner) = (host.keeper(1), host.keeper(2));
    let pid = owner.boot(host.spec(owner.boot));
    let other = joiner.boot(sharing(host.spec(joiner.boot), Namespaces::NET, pid, Namespaces::empty()));
    assert_eq!(namespace(pid, "net"), namespace(other, "net"));
    assert_ne!(namespace(pid, "user"), namespace(other, "user"));
    assert_ne!(joiner.sh(1, "ip addr add 10.99.0.8/32 dev lo").code, 0, "it may use the network and not change it");
    host.end(joiner);
    host.end(owner);
}

#[test]
fn an_owner_that_is_gone_is_named() {
    let host = Host::new("goneowner");
    let mut keeper = host.keeper(1);
    let gone = LaunchSpec {
        joins: vec![Join { kind: Namespaces::NET.bits(), pid: std::process::id(), start: 1, path: String::new() }],
        ..sharing(host.spec(keeper.boot), Namespaces::empty(), 0, Namespaces::NET)
    };
    keeper.ask(KeepRequest::prepare(gone));
    let failure = keeper.expect("failure", |event| match event {
        KeepEvent::Failed(failure) => Some(failure.clone()),
        _ => None,
    });
    assert_eq!((failure.stage.as_str(), failure.call.as_str()), ("join", "pidfd_open"), "{failure}");
    host.end(keeper);
}

#[test]
fn a_path_must_be_a_namespace_of_the_kind_that_is_asked_for() {
    let host = Host::new("badpath");
    for (number, path) in [(1, "/etc/passwd".to_owned()), (2, "/proc/self/ns/uts".into()), (3, "/run/none".into())] {
        let mut keeper = host.keeper(number);
        let wrong = LaunchSpec {
            joins: vec![Join { kind: Namespaces::NET.bits(), path: path.clone(), ..Join::default() }],
            ..sharing(host.spec(keeper.boot), Namespaces::empty(), 0, Namespaces::NET)
        };
        keeper.ask(KeepRequest::prepare(wrong));
        let failure = keeper.expect("failure", |event| match event {
            KeepEvent::Failed(failure) => Some(failure.clone()),
            _ => None,
        });
        assert!(failure.stage == "join" && failure.target == path, "{failure}");
        host.end(keeper);
    }
}

#[test]
fn clocks_of_its_own_begin_with_the_guest() {
    let host = Host::new("clocks");
    let mut keeper = host.keeper(1);
    let spec = host.spec(keeper.boot);
    let spec = LaunchSpec {
        namespaces: spec.namespaces | Namespaces::TIME.bits(),
        clocks: Some(Clocks { from_zero: true, offset_s: 0 }),
        ..spec
    };
    let pid = keeper.boot(spec);
    assert_ne!(namespace(pid, "time"), namespace(std::process::id(), "time"));
    let uptime = keeper.sh(1, "cut -d. -f1 /proc/uptime").stdout;
    assert!(uptime.trim().parse::<u64>().expect("seconds") < 30, "{uptime}");
    host.end(keeper);
}
