//! Limits that follow the need, with real work in a real guest.

#![allow(missing_docs)]

mod support;

use std::time::{Duration, Instant};

use support::Daemon;
use support::curve::Point;
use sysctl_api::Autoscaling;

const MIB: u64 = 1 << 20;

/// The longest that a level may take: a few of the kernel's windows, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

async fn levels(daemon: &Daemon) -> Autoscaling {
    daemon.client.get_instance_autoscale("web1").await.expect("levels")
}

/// Waits for the move that is meant, told as an event, and returns the levels then.
async fn moved(daemon: &Daemon, what: &str, fits: impl Fn(&Autoscaling) -> bool) -> Autoscaling {
    let mut events = daemon.client.get_events(&Default::default()).await.expect("events");
    let wait = async {
        loop {
            let now = levels(daemon).await;
            if fits(&now) {
                return now;
            }
            // Only a move makes a difference.
            loop {
                let event = events.next().await.expect("events").expect("an event");
                if event.metadata["action"].as_str().is_some_and(|action| action.starts_with("instance-scal")) {
                    break;
                }
            }
        }
    };
    match tokio::time::timeout(PATIENCE, wait).await {
        Ok(now) => now,
        Err(_) => panic!("{what}: {:?}", levels(daemon).await),
    }
}

/// The longest that is drawn: ten minutes.
const MOST_POINTS: usize = 6000;

/// What the guest uses and may use, ten times a second until it is enough. A daemon that is dead meanwhile tells nothing.
async fn watched(client: sysctl_client::Client, mut enough: tokio::sync::oneshot::Receiver<()>) -> Vec<Point> {
    let (begun, mut points) = (Instant::now(), Vec::new());
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    while points.len() < MOST_POINTS {
        tokio::select! {
            _ = &mut enough => break,
            _ = ticks.tick() => {}
        }
        let (load, levels) = tokio::join!(client.get_load(), client.get_instance_autoscale("web1"));
        let (Ok(load), Ok(levels)) = (load, levels) else { continue };
        if let (Some(load), Some(memory)) = (load.first(), levels.memory) {
            points.push(Point { at: begun.elapsed().as_secs_f64(), used: load.memory_bytes, level: memory.level });
        }
    }
    points
}

/// Draws the picture of the README anew when `SYSCTL_TEST_WRITE` is set.
fn draw(points: &[Point], ceiling: u64) {
    const PICTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../autoscale.svg");
    if std::env::var_os("SYSCTL_TEST_WRITE").is_some() {
        std::fs::write(PICTURE, support::curve::svg(points, ceiling)).expect("autoscale.svg");
    }
}

#[tokio::test]
async fn memory_follows_the_need_up_and_down_and_nobody_is_killed_within_the_range() {
    let daemon = Daemon::new("scale-memory");
    daemon.import_busybox().await;
    daemon.launch("web1", &[("autoscale.memory", "32MiB..400MiB")]).await;
    let first = levels(&daemon).await.memory.expect("a level");
    assert_eq!((first.min, first.max, first.level), (32 * MIB, 400 * MIB, 32 * MIB));
    let (enough, until) = tokio::sync::oneshot::channel();
    let watching = tokio::spawn(watched(sysctl_client::Client::new(daemon.runtime_dir().join("unix.socket")), until));
    let begun = Instant::now();
    // As fast as it can, far beyond its level and within its range.
    let grow = ["dd", "if=/dev/zero", "of=/dev/shm/work", "bs=1M", "count=200"];
    assert_eq!(daemon.exec("web1", &grow).await.code, 0);
    let grown = moved(&daemon, "grown", |now| now.memory.is_some_and(|memory| memory.level >= 200 * MIB)).await;
    let up = begun.elapsed();
    let knobs = daemon.client.get_instance_limits("web1").await.expect("limits");
    let soft = knobs.iter().find(|knob| knob.knob == "memory.high").expect("a soft ceiling");
    assert_eq!(soft.value, grown.memory.expect("a level").level.to_string(), "the kernel was told");
    let used = daemon.client.get_load().await.expect("load").first().map_or(0, |load| load.memory_bytes);
    assert!((200 * MIB..=400 * MIB).contains(&used), "{used} bytes with what it took");
    let effect = grown.history.iter().map(|one| one.us).max().unwrap_or(0);
    // The daemon dies: the level does not.
    let mut daemon = daemon;
    daemon.kill();
    daemon.start();
    assert!(levels(&daemon).await.memory.is_some_and(|memory| memory.level >= 200 * MIB));
    let begun = Instant::now();
    assert_eq!(daemon.exec("web1", &["rm", "/dev/shm/work"]).await.code, 0);
    let shrunk = moved(&daemon, "shrunk", |now| now.memory.is_some_and(|memory| memory.level <= 64 * MIB)).await;
    let down = begun.elapsed();
    enough.send(()).expect("it is watched");
    let points = watching.await.expect("points");
    let is_within = |point: &Point| point.used <= 400 * MIB;
    assert!(!points.is_empty() && points.iter().all(is_within), "{points:?}");
    draw(&points, 400 * MIB);
    let hits = daemon.client.get_instance_limit_hits("web1").await.expect("hits");
    assert_eq!(hits.oom_kills, 0, "{hits:?}");
    // What people wrote is what people read: levels are no part of it.
    let config = daemon.client.get_instance("web1").await.expect("web1").value.config;
    assert_eq!(config["autoscale.memory"], "32MiB..400MiB");
    assert!(!config.contains_key("limits.memory"), "{config:?}");
    eprintln!(
        "figure: a guest that took 200 MiB of a range of 32..400 MiB had them after {} ms, gave them back after {} ms, {} moves, at most {} us each, kills 0",
        up.as_millis(),
        down.as_millis(),
        shrunk.history.len(),
        effect
    );
    daemon.finish().await;
}

#[tokio::test]
async fn memory_that_only_holds_cached_files_is_taken_back() {
    let daemon = Daemon::new("scale-cache");
    daemon.import_busybox().await;
    daemon.launch("web1", &[("autoscale.memory", "32MiB..400MiB")]).await;
    let fill = "dd if=/dev/zero of=/root/cached bs=1M count=150 2>/dev/null; sync; cat /root/cached > /dev/null";
    assert_eq!(daemon.exec("web1", &["sh", "-c", fill]).await.code, 0);
    // In cgroup2 nobody waits for what is cached and not read again: it is not given in the first place.
    if support::limits_are_in_v1() {
        moved(&daemon, "grown", |now| now.memory.is_some_and(|memory| memory.level >= 140 * MIB)).await;
    }
    moved(&daemon, "shrunk", |now| now.memory.is_some_and(|memory| memory.level <= 100 * MIB)).await;
    let load = daemon.client.get_load().await.expect("load");
    assert!(load[0].memory_bytes < 110 * MIB, "{load:?}");
    assert_eq!(load[0].hits.oom_kills, 0);
    eprintln!("figure: of 150 MiB of cached files a guest kept {} MiB while it was quiet", load[0].memory_bytes / MIB);
    daemon.finish().await;
}

#[tokio::test]
async fn cpu_time_follows_the_wait_for_it() {
    let daemon = Daemon::new("scale-cpu");
    daemon.import_busybox().await;
    daemon.launch("web1", &[("autoscale.cpu", "20%..100%")]).await;
    let begun = Instant::now();
    let work = ["sh", "-c", "(while :; do :; done) & echo $! > /run/pid"];
    assert_eq!(daemon.exec("web1", &work).await.code, 0);
    moved(&daemon, "grown", |now| now.cpu.is_some_and(|cpu| cpu.level >= 50)).await;
    let up = begun.elapsed();
    assert_eq!(daemon.exec("web1", &["sh", "-c", "kill -9 $(cat /run/pid)"]).await.code, 0);
    let begun = Instant::now();
    let peak = levels(&daemon).await.cpu.expect("a level").level;
    let shrunk = moved(&daemon, "shrunk", |now| now.cpu.is_some_and(|cpu| cpu.level + 5 <= peak)).await;
    eprintln!(
        "figure: a busy guest went from 20% to 50% of a CPU in {} ms, and back down from {peak}% began {} ms after its work ended, {} moves",
        up.as_millis(),
        begun.elapsed().as_millis(),
        shrunk.history.len()
    );
    daemon.finish().await;
}

#[tokio::test]
async fn what_is_only_observed_is_told_and_not_done_and_what_cannot_be_is_refused() {
    let daemon = Daemon::new("scale-observe");
    daemon.import_busybox().await;
    daemon.launch("web1", &[("autoscale.memory", "32MiB..400MiB"), ("autoscale.mode", "observe")]).await;
    let knobs = async || daemon.client.get_instance_limits("web1").await.expect("limits");
    let at = async || {
        let all = knobs().await.into_iter().filter(|knob| knob.knob.starts_with("memory.")).map(|knob| knob.value);
        all.collect::<Vec<_>>()
    };
    let before = at().await;
    let grow = ["dd", "if=/dev/zero", "of=/dev/shm/work", "bs=1M", "count=100"];
    assert_eq!(daemon.exec("web1", &grow).await.code, 0);
    let advised = moved(&daemon, "advised", |now| now.memory.is_some_and(|memory| memory.level >= 100 * MIB)).await;
    assert_eq!(advised.mode, "observe");
    assert_eq!(at().await, before, "no knob was turned");
    let mut tried = 0;
    for (pairs, word) in [
        (&[("autoscale.memory", "400MiB..32MiB")][..], "the least first"),
        (&[("autoscale.memory", "1MiB..2MiB")], "the least first"),
        (&[("autoscale.memory", "32MiB..900TiB")], "the host has"),
        (&[("autoscale.cpu", "10..20")], "the least first"),
        (&[("autoscale.cpu", "10%..99999%")], "CPUs"),
        (&[("autoscale.mode", "maybe")], "observe"),
        (&[("limits.memory.high", "50MiB")], "limits.memory.high"),
        (&[("autoscale.cpu", "10%..90%"), ("limits.cpu.allowance", "50%")], "limits.cpu.allowance"),
    ] {
        let error = daemon.set("web1", pairs).await.expect_err(word).to_string();
        assert!(error.contains(word), "{pairs:?}: {error}");
        tried += 1;
    }
    eprintln!("figure: wrong ranges tried {tried}, refused by name {tried}");
    daemon.finish().await;
}

/// The lines of the example in a part of the README.
fn example_of(part: &str) -> Vec<String> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let text = std::fs::read_to_string(path).expect("README.md");
    let (_, rest) = text.split_once(part).expect("the part");
    let (_, rest) = rest.split_once("```sh\n").expect("an example");
    let (block, _) = rest.split_once("```").expect("its end");
    block.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn the_five_lines_of_the_readme_do_what_they_say() {
    let daemon = Daemon::new("scale-readme");
    daemon.import_busybox().await;
    daemon.launch("web1", &[]).await;
    let lines = example_of("**Scale in an instant.**");
    assert_eq!(lines.len(), 5, "{lines:?}");
    let mut said = Vec::new();
    for line in &lines {
        let (words, _) = line.split_once('#').expect("what it does");
        let mut words = words.split_whitespace();
        let mut command = std::process::Command::new(support::program(words.next().expect("a program")));
        command.env("SYSCTL_SOCKET", daemon.runtime_dir().join("unix.socket"));
        let output = command.args(words).output().expect("it runs");
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        said.push(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    assert!(said[0].contains("pids.max: 16384 -> 500") && said[0].contains("on the disk"), "{}", said[0]);
    assert!(said[1].contains("memory.max") && said[1].contains(&(300 * MIB).to_string()), "{}", said[1]);
    assert!(said[2].contains("web1"), "{}", said[2]);
    let levels = levels(&daemon).await;
    assert_eq!((levels.memory.expect("memory").max, levels.cpu.expect("cpu").max), (1 << 30, 100));
    assert!(said[4].contains("memory") && said[4].contains("25%..100%"), "{}", said[4]);
    let knobs = daemon.client.get_instance_limits("web1").await.expect("limits");
    let most = knobs.iter().find(|knob| knob.knob == "memory.max").expect("memory.max");
    assert_eq!(most.value, (1u64 << 30).to_string(), "the most of the range is the hard limit");
    daemon.finish().await;
}
