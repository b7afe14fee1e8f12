//! Guests among processes that are not their own: the host's, a neighbour's. By the launcher and keepers alone.

#![allow(clippy::unwrap_used, unreachable_pub, missing_docs)]

#[allow(dead_code)]
mod support;

use std::os::fd::AsRawFd;
use std::path::Path;

use kernel::process::Namespaces;
use runtime::protocol::*;
use support::*;

/// The launch of a program as init that shares `joins` with process `with`, and the pid namespace with it or the host.
fn among(spec: LaunchSpec, with: Option<u32>, joins: Namespaces, script: &str) -> LaunchSpec {
    let start = with.and_then(runtime::launch::root::start_time).unwrap_or(0);
    let join = |kind: Namespaces| Join { kind: kind.bits(), pid: with.unwrap_or(0), start, path: String::new() };
    let own = Namespaces::from_bits_truncate(NAMESPACES).difference(joins | Namespaces::PID);
    let foreign = if joins.contains(Namespaces::USER) { Namespaces::empty() } else { Namespaces::PID };
    LaunchSpec {
        namespaces: own.bits(),
        joins: joins.iter().map(join).collect(),
        foreign: foreign.bits(),
        argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        ..spec
    }
}

fn namespace(pid: u32) -> std::path::PathBuf {
    std::fs::read_link(format!("/proc/{pid}/ns/pid")).expect("a namespace")
}

/// A line of `/proc/PID/status`, of a process that is in a group and runs `word`.
fn of_process(group: &Path, word: &str, line: &str) -> Option<String> {
    let pids = std::fs::read_to_string(group.join("cgroup.procs")).ok()?;
    let pid = pids.lines().find(|pid| {
        std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|words| words.split('\0').any(|w| w == word))
    })?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|text| Some(text.strip_prefix(line)?.trim().to_owned()))
}

fn end_of(keeper: &mut Keeper) -> Status {
    keeper.expect("end", |event| match event {
        KeepEvent::Ended(status) => Some(status.clone()),
        _ => None,
    })
}

fn failure_of(keeper: &mut Keeper, spec: LaunchSpec) -> Failure {
    keeper.ask(KeepRequest::prepare(spec));
    keeper.expect("failure", |event| match event {
        KeepEvent::Failed(failure) => Some(failure.clone()),
        _ => None,
    })
}

#[test]
fn among_the_hosts_processes_a_guest_touches_none_of_them_and_its_end_leaves_none_of_its_own() {
    let host = Host::new("hostpid");
    let mut keeper = host.keeper(1);
    let script = "(sleep 4242 &) ; exec sleep 4243";
    let pid = keeper.boot(among(host.spec(keeper.boot), None, Namespaces::empty(), script));
    assert_eq!(namespace(pid), namespace(std::process::id()));
    let ours = std::process::id();
    let seen =
        keeper.sh(1, &format!("cat /proc/{ours}/comm; kill -9 {ours} || readlink /proc/{ours}/root || umount /proc"));
    assert!(seen.code != 0 && seen.stdout.lines().count() == 1, "{seen:?}");
    assert!(seen.stderr.contains("not permitted") && seen.stderr.contains("umount"), "{seen:?}");
    assert_ne!(keeper.sh(2, "echo 1 > /proc/sys/kernel/pid_max; echo b > /proc/sysrq-trigger").code, 0);
    assert_ne!(keeper.sh(3, "reboot -f").code, 0, "the host's init is out of its reach");

    // Its orphans are init's, those of what was exec'd are the keeper's, who waits for them.
    let group = host.groups.payload(keeper.boot);
    let parent = testkit::eventually("an orphan", || of_process(&group, "4242", "PPid:").filter(|ppid| ppid != "1"));
    assert_eq!(parent, pid.to_string());
    // What it writes may come after the end of whoever it is left behind by.
    let leave =
        "(sh -c 'echo $$ >/tmp/left; sleep 0.1' >/dev/null 2>&1 &) ; until [ -s /tmp/left ]; do :; done; cat /tmp/left";
    let orphan: u32 = keeper.sh(4, leave).stdout.trim().parse().expect("a number");
    let left = Path::new("/proc").join(orphan.to_string());
    testkit::eventually("the end of what an exec'd process left", || (!left.exists()).then_some(()));

    // Everything of it ends with init, and nothing else.
    keeper.ask(KeepRequest::Exec(ExecSpec { silent: true, ..exec_spec(5, &["sleep", "4244"]) }));
    keeper.expect("session", |event| matches!(event, KeepEvent::SessionStarted(_)).then_some(()));
    keeper.done(KeepRequest::Signal(Signal { session: 0, signal: 15 }));
    let status = end_of(&mut keeper);
    assert_eq!((status.end, status.code), (end::SIGNAL, 15));
    assert_eq!(keeper.session_end().code, 128 + 9);
    let events = host.groups.directory(keeper.boot).join("cgroup.events");
    let is_empty = || std::fs::read_to_string(&events).is_ok_and(|text| text.contains("populated 0"));
    testkit::eventually("an empty group", || is_empty().then_some(()));
    host.end(keeper);
}

#[test]
fn among_a_neighbours_processes_a_guest_ends_with_that_one() {
    let host = Host::new("joinpid");
    let (mut owner, mut stranger, mut friend) = (host.keeper(1), host.keeper(2), host.keeper(3));
    let pid = owner.boot(host.spec(owner.boot));
    let other = stranger.boot(among(host.spec(stranger.boot), Some(pid), Namespaces::PID, "exec sleep 4245"));
    assert_eq!(namespace(other), namespace(pid));
    assert_ne!(namespace(other), namespace(std::process::id()));
    assert!(stranger.sh(1, "cat /proc/1/cmdline").stdout.contains("/sbin/init"), "/proc shows whom it lives with");

    // Before its exec init stands where the host's root was: whoever has rights over its users must not look into it.
    let users = Namespaces::PID | Namespaces::USER;
    let spec = among(host.spec(friend.boot), Some(pid), users, "exec sleep 4246");
    friend.ask(KeepRequest::prepare(spec));
    let init = friend.expect("prepared", |event| match event {
        KeepEvent::Prepared(prepared) => Some(prepared.pid),
        _ => None,
    });
    friend.expect("ready", |event| matches!(event, KeepEvent::Ready(_)).then_some(()));
    let status = std::fs::read_to_string(format!("/proc/{init}/status")).expect("alive");
    let inside = status.lines().find_map(|l| l.strip_prefix("NSpid:")?.split_whitespace().last()).expect("a number");
    let look = format!("readlink /proc/{inside}/root");
    assert_ne!(owner.sh(1, &look).code, 0, "before");
    friend.ask(KeepRequest::Start(Nothing {}));
    friend.expect("started", |event| matches!(event, KeepEvent::Started(_)).then_some(()));
    assert_eq!(owner.sh(2, &look).code, 0, "after: they have the same users");
    assert_ne!(stranger.sh(2, &look).code, 0, "it has others");

    owner.done(KeepRequest::Signal(Signal { session: 0, signal: 9 }));
    for keeper in [&mut owner, &mut stranger, &mut friend] {
        let status = end_of(keeper);
        assert_eq!((status.end, status.code), (end::SIGNAL, 9));
    }
    for keeper in [owner, stranger, friend] {
        host.end(keeper);
    }
}

#[test]
fn a_later_keeper_of_such_a_guest_ends_the_rest_as_well() {
    let host = Host::new("adoptpid");
    let mut keeper = host.keeper(1);
    let spec = among(host.spec(keeper.boot), None, Namespaces::empty(), "(sleep 4247 &) ; exec sleep 4248");
    let pid = keeper.boot(spec.clone());
    let group = host.groups.payload(keeper.boot);
    testkit::eventually("an orphan", || of_process(&group, "4247", "PPid:"));
    let process = |pid: u32| rustix::process::Pid::from_raw(pid as i32).expect("pid");
    rustix::process::kill_process(process(keeper.pid), rustix::process::Signal::KILL).expect("kill");
    testkit::eventually("the keeper's end", || (!Path::new(&format!("/proc/{}", keeper.pid)).exists()).then_some(()));
    let adopt = KeepSpec {
        adopt_pid: pid,
        adopt_start: runtime::launch::root::start_time(pid).expect("alive"),
        group: spec.group,
        v1_groups: spec.v1_groups,
        id_base: BASE,
        ..KeepSpec::default()
    };
    let mut next = host.keeper_with(keeper.boot, adopt);
    assert_eq!(next.status().phase, phase::RUNNING);
    next.done(KeepRequest::Signal(Signal { session: 0, signal: 15 }));
    end_of(&mut next);
    testkit::eventually("the end of the rest", || of_process(&group, "4247", "PPid:").is_none().then_some(()));
    host.end(next);
}

#[test]
fn who_cannot_live_among_others_is_told_so() {
    let host = Host::new("nopid");
    let base = host.scratch.join("pool/base");
    std::fs::create_dir_all(base.join("usr/lib/systemd")).expect("mkdir");
    std::fs::copy(testkit::tree::BUSYBOX, base.join("usr/lib/systemd/systemd")).expect("copy");
    std::os::unix::fs::symlink("../usr/lib/systemd/systemd", base.join("sbin/first")).expect("link");
    let mut keeper = host.keeper(1);
    let spec = among(host.spec(keeper.boot), None, Namespaces::empty(), "");
    let systemd = LaunchSpec { argv: vec!["/sbin/first".into()], ..spec.clone() };
    let failure = failure_of(&mut keeper, systemd);
    assert_eq!(
        failure.to_string(),
        "init: look: systemd must be process 1 /sbin/first: Invalid argument (os error 22)"
    );
    host.end(keeper);

    // A pid namespace that somebody still holds, and whose first process is gone.
    let mut owner = host.keeper(2);
    let pid = owner.boot(host.spec(owner.boot));
    let held = std::fs::File::open(format!("/proc/{pid}/ns/pid")).expect("a namespace");
    host.end(owner);
    let path = format!("/proc/{}/fd/{}", std::process::id(), held.as_raw_fd());
    let mut keeper = host.keeper(3);
    let join = Join { kind: Namespaces::PID.bits(), path: path.clone(), ..Join::default() };
    let spec = among(host.spec(keeper.boot), None, Namespaces::empty(), "");
    let failure = failure_of(&mut keeper, LaunchSpec { joins: vec![join], ..spec });
    assert_eq!(
        failure.to_string(),
        format!("join: clone3: the pid namespace has ended {path}: No such process (os error 3)")
    );
    host.end(keeper);
}
