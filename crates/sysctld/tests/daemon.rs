//! The daemon's own life: killed, stopped and started again under running guests; two of them; an end with all guests.

#![allow(missing_docs)]

mod support;

use std::process::Stdio;

use support::{Daemon, order};

#[tokio::test]
async fn a_killed_daemon_leaves_guests_and_takes_them_up_again() {
    let mut daemon = Daemon::new("kill9");
    daemon.import_busybox().await;
    for name in ["a", "b", "c"] {
        daemon.launch(name, &[]).await;
    }
    daemon.change("b", "freeze", false).await;
    daemon.change("c", "stop", false).await;
    let before = daemon.init_pid("a").await;
    for round in 0..3 {
        if round < 2 {
            daemon.kill();
        } else {
            daemon.terminate();
        }
        daemon.start();
        assert_eq!(daemon.init_pid("a").await, before);
        let states = [daemon.status("a").await, daemon.status("b").await, daemon.status("c").await];
        assert_eq!(states, ["Running", "Frozen", "Stopped"]);
        assert_eq!(daemon.print("a", &["echo", "alive"]).await, "alive");
        daemon.healthy().await;
    }
    daemon.change("b", "unfreeze", false).await;
    daemon.print("b", &["true"]).await;
    daemon.finish().await;
}

#[tokio::test]
async fn a_guest_that_ended_while_nobody_watched_is_seen_as_it_ended() {
    let mut daemon = Daemon::new("absent");
    daemon.import_busybox().await;
    daemon.launch("halts", &[]).await;
    daemon.launch("reboots", &[]).await;
    let old = daemon.init_pid("reboots").await;
    let halts = daemon.init_pid("halts").await;
    daemon.kill();
    // What `poweroff` and `reboot` do: busybox's init takes SIGPWR and SIGINT.
    support::signal(halts, rustix::process::Signal::from_named_raw(30).expect("SIGPWR"));
    support::signal(old, rustix::process::Signal::INT);
    for pid in [halts, old] {
        testkit::eventually("the guest's end", || {
            (!std::path::Path::new(&format!("/proc/{pid}/ns/pid")).exists()).then_some(())
        });
    }
    daemon.start();
    daemon.until_status("halts", "Stopped").await;
    daemon.until_status("reboots", "Running").await;
    assert_ne!(daemon.init_pid("reboots").await, old);
    daemon.finish().await;
}

#[tokio::test]
async fn a_killed_spawn_process_costs_no_guest() {
    let daemon = Daemon::new("keepers");
    daemon.import_busybox().await;
    daemon.launch("a", &[]).await;
    let before = daemon.init_pid("a").await;
    let directory = daemon.runtime_dir().display().to_string();
    let spawn = find_process(|arguments| arguments.contains("spawn") && arguments.contains(&directory));
    support::signal(spawn, rustix::process::Signal::KILL);
    daemon.launch("b", &[]).await;
    assert_eq!(daemon.init_pid("a").await, before);
    assert_eq!(daemon.print("a", &["echo", "alive"]).await, "alive");
    daemon.healthy().await;
    daemon.finish().await;
}

fn find_process(is_it: impl Fn(&str) -> bool) -> u32 {
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let mut found = processes.filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        is_it(&std::fs::read_to_string(entry.path().join("cmdline")).ok()?).then_some(pid)
    });
    found.next().expect("the process")
}

#[tokio::test]
async fn guests_go_down_with_the_daemon_when_asked_and_come_up_with_the_next() {
    let mut daemon = Daemon::new("halt");
    daemon.import_busybox().await;
    daemon.launch("on", &[]).await;
    daemon.launch("off", &[]).await;
    daemon.change("off", "stop", false).await;
    let old = daemon.init_pid("on").await;
    daemon.client.shutdown().await.expect("shutdown");
    daemon.wait();
    assert!(!std::path::Path::new(&format!("/proc/{old}")).exists(), "the guest still runs");
    daemon.start();
    daemon.until_status("on", "Running").await;
    assert_eq!(daemon.status("off").await, "Stopped");
    daemon.finish().await;
}

#[tokio::test]
async fn two_daemons_share_a_host_and_two_on_one_directory_do_not() {
    let (one, two) = (Daemon::new("one"), Daemon::new("two"));
    for daemon in [&one, &two] {
        daemon.import_busybox().await;
        daemon.launch("web1", &[]).await;
    }
    let base = async |daemon: &Daemon| {
        daemon.client.get_instance("web1").await.expect("web1").value.config["volatile.idmap.base"].clone()
    };
    assert_ne!(base(&one).await, base(&two).await);
    let third = one.command().stderr(Stdio::piped()).output().expect("sysctld");
    let said = String::from_utf8_lossy(&third.stderr).into_owned();
    assert_eq!(third.status.code(), Some(1));
    assert!(said.contains("another sysctld works in") && said.contains("--state-dir"), "{said}");
    one.healthy().await;
    two.healthy().await;
    one.finish().await;
    assert_eq!(two.print("web1", &["echo", "still"]).await, "still");
    two.finish().await;
}

#[tokio::test]
async fn a_daemon_waits_for_what_the_one_before_left_behind_with_its_locks() {
    let mut daemon = Daemon::new("locks");
    daemon.kill();
    let path = daemon.state_dir().join("lock");
    let held = std::fs::File::open(&path).expect("the lock");
    rustix::fs::flock(&held, rustix::fs::FlockOperation::NonBlockingLockExclusive).expect("nobody else has it");
    let mut next = daemon.command().stderr(Stdio::null()).spawn().expect("sysctld");
    let links = format!("/proc/{}/fd", next.id());
    testkit::eventually("it to come to the lock", || {
        let mut links = std::fs::read_dir(&links).ok()?.flatten();
        links.any(|link| std::fs::read_link(link.path()).is_ok_and(|to| to == path)).then_some(())
    });
    drop(held);
    let socket = daemon.runtime_dir().join("unix.socket");
    testkit::eventually("it to answer", || std::os::unix::net::UnixStream::connect(&socket).ok().map(drop));
    next.kill().expect("killed");
    next.wait().expect("its end");
    daemon.start();
    daemon.finish().await;
}

#[tokio::test]
async fn a_daemon_that_is_not_root_says_so() {
    let daemon = Daemon::new("root");
    let output = std::process::Command::new("setpriv")
        .args(["--reuid", "65534", "--clear-groups"])
        .arg(support::program("sysctld"))
        .output()
        .expect("setpriv");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("start it as root"), "{said}");
    daemon.finish().await;
}

#[tokio::test]
async fn an_exec_that_runs_while_the_daemon_dies_ends_in_words() {
    let mut daemon = Daemon::new("exec9");
    daemon.import_busybox().await;
    daemon.launch("a", &[]).await;
    let exec = daemon.client.exec_instance("a", &order(&["sh", "-c", "sleep 0.2; exit 7"])).await.expect("exec");
    let operation = exec.operation.id.clone();
    daemon.kill();
    drop(exec);
    daemon.start();
    match daemon.client.exec_result(&operation).await {
        Ok(code) => assert_eq!(code, 7),
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains("unknown") || text.contains("not found"), "{text}");
        }
    }
    daemon.finish().await;
}

#[tokio::test]
async fn a_killed_keeper_is_replaced_and_its_guest_goes_on() {
    let daemon = Daemon::new("adopt");
    daemon.import_busybox().await;
    daemon.launch("a", &[]).await;
    daemon.launch("b", &[]).await;
    let (init, other) = (daemon.init_pid("a").await, daemon.init_pid("b").await);
    let status = std::fs::read_to_string(format!("/proc/{init}/status")).expect("status");
    let keeper = status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok()).expect("a parent");
    let mut events = daemon.client.get_events(&Default::default()).await.expect("events");
    support::signal(keeper, rustix::process::Signal::KILL);
    let event = support::told(&mut events, "instance-keeper-replaced").await;
    assert_eq!(event.metadata["name"], "a");
    assert_eq!((daemon.init_pid("a").await, daemon.init_pid("b").await), (init, other));
    assert_eq!(daemon.print("a", &["echo", "alive"]).await, "alive");
    daemon.healthy().await;
    // How it ends is still known: a halt and not a reboot.
    daemon.change("a", "stop", false).await;
    assert_eq!(daemon.status("a").await, "Stopped");
    daemon.finish().await;
}
