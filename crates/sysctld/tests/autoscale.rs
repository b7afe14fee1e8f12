//! Limits that follow the need, with real work in a real guest.

#![allow(missing_docs)]

mod support;

use std::time::{Duration, Instant};

use support::Daemon;
use support::curve::Point;
use support::readme::{example_after, type_line};
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
async fn a_level_moves_as_far_as_its_keys_say_and_then_rests() {
    let daemon = Daemon::new("scale-keys");
    daemon.import_busybox().await;
    let keys = [
        ("autoscale.cpu", "20%..100%"),
        ("autoscale.cpu.up", "some>5%/2s, step 100%"),
        ("autoscale.cpu.down", "some<50%/2s, step 50%"),
        ("autoscale.cooldown", "6s"),
    ];
    daemon.launch("web1", &keys).await;
    assert_eq!(daemon.exec("web1", &["sh", "-c", "(while :; do :; done) & echo $! > /run/pid"]).await.code, 0);
    let level = |least: u64| move |now: &Autoscaling| now.cpu.is_some_and(|cpu| cpu.level >= least);
    assert_eq!(moved(&daemon, "grown once", level(21)).await.cpu.expect("a level").level, 40);
    let begun = Instant::now();
    assert_eq!(moved(&daemon, "grown again", level(41)).await.cpu.expect("a level").level, 80);
    let pause = begun.elapsed();
    assert!(pause >= Duration::from_secs(5), "{pause:?}");
    assert_eq!(daemon.exec("web1", &["sh", "-c", "kill -9 $(cat /run/pid)"]).await.code, 0);
    let fallen = moved(&daemon, "fallen", |now| now.cpu.is_some_and(|cpu| cpu.level <= 50)).await;
    let last = fallen.history.last().expect("a move");
    assert_eq!(last.from, last.to * 2, "{last:?}");
    eprintln!("figure: a level whose keys say so doubled twice, {} ms apart, and was halved", pause.as_millis());
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
        (&[("autoscale.memory.up", "some>10%/60s")], "500ms to 10s"),
        (&[("autoscale.memory.down", "some>1%/60s")], "some<1%/60s"),
        (&[("autoscale.cooldown", "soon")], "30s"),
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

#[tokio::test]
async fn the_five_lines_of_the_readme_do_what_they_say() {
    let daemon = Daemon::new("scale-readme");
    daemon.import_busybox().await;
    daemon.launch("web1", &[]).await;
    let lines = example_after("**Scale in an instant.**");
    assert_eq!(lines.len(), 5, "{lines:?}");
    let mut said = Vec::new();
    for line in &lines {
        let (done, text) = type_line(&daemon, line);
        assert!(done, "{line}: {text}");
        said.push(text);
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

/// Has the next daemons believe that this kernel keeps no pressure stall information.
const WITHOUT_PRESSURE: [&str; 7] = [
    "unshare",
    "--mount",
    "--propagation",
    "private",
    "sh",
    "-c",
    "mount -t tmpfs none /proc/pressure && exec \"$0\" \"$@\"",
];

#[tokio::test]
async fn without_pressure_stall_information_what_needs_it_is_refused_by_name_and_the_rest_works() {
    let mut daemon = Daemon::new("scale-deaf");
    daemon.import_busybox().await;
    // Made while the kernel still told.
    daemon.launch("web1", &[("autoscale.memory", "32MiB..400MiB")]).await;
    daemon.launch("web2", &[]).await;
    let pids = [daemon.init_pid("web1").await, daemon.init_pid("web2").await];
    daemon.terminate();
    daemon.start_by(&WITHOUT_PRESSURE);
    daemon.start();
    let features = daemon.client.get_server().await.expect("server").value.environment.kernel_features;
    assert_eq!(features["pressure"], "false");
    assert_eq!(pids, [daemon.init_pid("web1").await, daemon.init_pid("web2").await]);
    let before = daemon.client.get_instance("web2").await.expect("web2").value.config;
    let knobs = async |name: &str| {
        let knobs = daemon.client.get_instance_limits(name).await.expect("limits");
        knobs.into_iter().map(|knob| (knob.knob, knob.value)).collect::<Vec<_>>()
    };
    let at = knobs("web2").await;
    let mut refused = 0;
    for pairs in [
        &[("autoscale.memory", "32MiB..400MiB"), ("limits.processes", "99")][..],
        &[("limits.processes", "99"), ("autoscale.cpu", "20%..100%")],
        &[("pressure.events", "cpu,memory"), ("limits.memory", "100MiB")],
    ] {
        let error = daemon.set("web2", pairs).await.expect_err("refused").to_string();
        assert!(error.contains("psi=1"), "{pairs:?}: {error}");
        let error = daemon.client.create_instance(&support::post("web3", pairs)).await.expect_err("refused");
        assert!(error.to_string().contains("psi=1") && error.status() == Some(400), "{error}");
        refused += 2;
    }
    assert_eq!(daemon.client.get_instance("web2").await.expect("web2").value.config, before);
    assert_eq!(knobs("web2").await, at, "nothing is half applied");
    assert_eq!(daemon.client.get_instances(&Default::default()).await.expect("instances").len(), 2);
    // A group whose files of pressure are gone, as all of such a kernel's are.
    let text = std::fs::read_to_string(format!("/proc/{}/cgroup", pids[1])).expect("its group");
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).expect("in cgroup2");
    let (path, _) = path.split_once("/payload").expect("its name");
    let switches = support::group_roots().into_iter().map(|root| root.join(path).join("cgroup.pressure"));
    let switch = switches.into_iter().find(|file| file.exists()).expect("a switch (Linux 6.1)");
    std::fs::write(switch, "0").expect("switched off");
    let error = daemon.client.get_instance_pressure("web2").await.expect_err("none");
    assert!(error.to_string().contains("psi=1") && error.status() == Some(400), "{error}");
    let load = daemon.client.get_load().await.expect("load");
    let of = |name: &str| load.iter().find(|one| one.name == name).expect("listed");
    assert!(of("web2").pressure.is_none() && of("web2").memory_bytes > 0, "{load:?}");
    // What needs no pressure goes on; the range of who has one can be taken back.
    daemon.set("web2", &[("limits.processes", "99")]).await.expect("limited");
    daemon.set("web1", &[("autoscale.memory", "")]).await.expect("taken back");
    assert_eq!(daemon.print("web1", &["echo", "well"]).await, "well");
    eprintln!(
        "figure: without pressure stall information: {refused} requests that need it refused by name, nothing half applied"
    );
    daemon.finish().await;
}
