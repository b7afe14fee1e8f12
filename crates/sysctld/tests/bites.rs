//! Limits at which something happens: who meets them is held still or ended, and it is told why.

#![allow(missing_docs)]

mod support;

use std::time::{Duration, Instant};

use support::Daemon;

/// Has a guest run into its limit; how long until it is as its key says, from when the guest was told to.
async fn bitten(daemon: &Daemon, name: &str, command: &str, status: &str) -> Duration {
    let begun = Instant::now();
    let order = support::order(&["sh", "-c", command]);
    tokio::select! {
        // Whoever is held still or ended does not answer; what answers met nothing yet.
        _ = async {
            _ = daemon.exec_with(name, &order, b"").await;
            std::future::pending::<()>().await;
        } => {}
        () = daemon.until_status(name, status) => {}
    }
    begun.elapsed()
}

#[tokio::test]
async fn who_meets_a_limit_is_held_still_or_ended_as_its_keys_say_and_nobody_else() {
    let mut daemon = Daemon::new("bites");
    daemon.import_busybox().await;
    daemon.launch("memory1", &[("limits.memory", "48MiB"), ("limits.action.memory", "kill")]).await;
    // Of processes the kernel tells where they are controlled by cgroup2.
    let is_told = !support::limits_are_in_v1();
    let action = if is_told { "freeze" } else { "event" };
    daemon.launch("pids1", &[("limits.processes", "30"), ("limits.action.pids", action)]).await;
    let held = [("limits.cpu.allowance", "10ms/100ms"), ("limits.action.cpu", "freeze")];
    daemon.launch("cpu1", &held).await;
    daemon.launch("calm", &[("limits.processes", "30")]).await;
    let mut events = daemon.client.get_events(&Default::default()).await.expect("events");
    let forks = "i=0; while [ $i -lt 60 ]; do sleep 99 & i=$((i+1)); done";
    let grow = "dd if=/dev/zero of=/dev/null bs=200M count=1";
    let (killed, forked, spun) = tokio::join!(
        bitten(&daemon, "memory1", grow, "Stopped"),
        bitten(&daemon, "pids1", forks, if is_told { "Frozen" } else { "Running" }),
        bitten(&daemon, "cpu1", "while :; do :; done", "Frozen"),
    );
    let pids = if is_told { format!("frozen {} ms after it began to fork", forked.as_millis()) } else { String::new() };
    eprintln!(
        "figure: a limit was met: killed {} ms after it began to want more memory, frozen {} ms after it began to use CPU time {pids}",
        killed.as_millis(),
        spun.as_millis()
    );
    let mut causes = Vec::new();
    while causes.len() < if is_told { 3 } else { 2 } {
        let event = tokio::time::timeout(support::PATIENCE, events.next()).await.expect("told");
        let metadata = event.expect("events").expect("an event").metadata;
        if let Some(cause) = metadata["context"]["cause"].as_str() {
            causes.push(format!("{} {cause}", metadata["name"].as_str().unwrap_or_default()));
        }
    }
    causes.sort();
    for (cause, (name, key)) in causes.iter().zip([("cpu1", "cpu"), ("memory1", "memory"), ("pids1", "pids")]) {
        assert!(cause.starts_with(name) && cause.ends_with(&format!("limits.action.{key}")), "{causes:?}");
    }

    // Who is let go on and meets it again is held still again, with another daemon, too.
    daemon.kill();
    daemon.start();
    assert_eq!(daemon.status("cpu1").await, "Frozen");
    daemon.change("cpu1", "start", false).await;
    daemon.until_status("cpu1", "Frozen").await;
    assert_eq!(daemon.status("memory1").await, "Stopped");
    // Where nothing is said it is told, and that is all.
    assert_ne!(daemon.exec("calm", &["sh", "-c", forks]).await.code, 0);
    assert_eq!(daemon.status("calm").await, "Running");
    if support::limits_are_in_v1() {
        for (key, value, word) in
            [("limits.action.memory", "throttle", "memory.high"), ("limits.action.pids", "kill", "pids.events")]
        {
            let refused = daemon.set("calm", &[(key, value)]).await.expect_err("v1").to_string();
            assert!(refused.contains(key) && refused.contains(word), "{refused}");
        }
    } else {
        daemon.set("calm", &[("limits.action.memory", "throttle"), ("limits.memory", "48MiB")]).await.expect("slowed");
        let knobs = daemon.client.get_instance_limits("calm").await.expect("limits");
        let high = knobs.iter().find(|knob| knob.knob == "memory.high").expect("memory.high");
        assert_eq!(high.value, (48u64 << 20).to_string());
    }
    let refused = daemon.set("calm", &[("limits.action.cpu", "kill")]).await.expect_err("no allowance").to_string();
    assert!(refused.contains("limits.cpu.allowance"), "{refused}");
    let refused =
        daemon.set("calm", &[("limits.action.pids", "throttle")]).await.expect_err("no such knob").to_string();
    assert!(refused.contains("event or freeze or kill"), "{refused}");
    daemon.finish().await;
}
