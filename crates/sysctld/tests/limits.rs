//! Limits at once, on real guests: what is turned, what is refused, what is told.

#![allow(missing_docs)]

mod support;

use std::io::Write;
use std::time::{Duration, Instant};

use support::Daemon;
use sysctl_api::{LimitsApplied, LimitsPatch};
use sysctl_client::Error;

fn patch(pairs: &[(&str, &str)]) -> LimitsPatch {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (!value.is_empty()).then(|| (*value).to_owned()))).collect()
}

async fn limit(daemon: &Daemon, pairs: &[(&str, &str)]) -> Result<LimitsApplied, Error> {
    daemon.client.patch_instance_limits("web1", &patch(pairs), None).await
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::test]
async fn several_limits_hold_and_are_kept_when_the_answer_comes() {
    let mut daemon = Daemon::new("at-once");
    daemon.import_busybox().await;
    daemon.launch("web1", &[]).await;
    let done = limit(&daemon, &[("limits.memory", "200MiB"), ("limits.processes", "90"), ("limits.cpu", "1")]).await;
    let done = done.expect("limited");
    assert!(done.durable);
    let knobs: Vec<&str> = done.applied.iter().map(|knob| knob.knob.as_str()).collect();
    assert_eq!(knobs.len(), 3, "{done:?}");
    for knob in &done.applied {
        let text = std::fs::read_to_string(&knob.file).expect("its file");
        assert_eq!(text.trim(), knob.new, "{knob:?}");
    }
    assert_eq!(daemon.print("web1", &["nproc"]).await, "1");
    // The daemon dies with the answer: nothing of it is lost.
    daemon.kill();
    daemon.start();
    let config = daemon.client.get_instance("web1").await.expect("web1").value.config;
    assert_eq!(config["limits.memory"], "200MiB");
    let shown = daemon.client.get_instance_limits("web1").await.expect("limits");
    let pids = shown.iter().find(|knob| knob.knob == "pids.max").expect("pids.max");
    assert!(pids.value == "90" && pids.used.is_some_and(|used| (1..90).contains(&used)), "{pids:?}");
    // The same again turns nothing; a key that is taken back is.
    assert_eq!(limit(&daemon, &[("limits.processes", "90")]).await.expect("kept").applied, []);
    let back = limit(&daemon, &[("limits.processes", "")]).await.expect("taken back").applied;
    assert_eq!((back[0].old.as_str(), back[0].new.as_str()), ("90", "16384"));
    // A stopped instance keeps what was asked for, and starts with it.
    daemon.change("web1", "stop", true).await;
    assert_eq!(limit(&daemon, &[("limits.processes", "55")]).await.expect("kept").applied, []);
    daemon.change("web1", "start", false).await;
    let shown = daemon.client.get_instance_limits("web1").await.expect("limits");
    assert!(shown.iter().any(|knob| knob.knob == "pids.max" && knob.value == "55"), "{shown:?}");
    daemon.finish().await;
}

/// What is asked, the status of the answer, and a word of it.
type Wrong = (&'static [(&'static str, &'static str)], u16, &'static str);

#[tokio::test]
async fn what_cannot_be_is_refused_by_name_and_nothing_is_half_done() {
    let daemon = Daemon::new("refused");
    daemon.import_busybox().await;
    daemon.launch("web1", &[("limits.memory", "300MiB")]).await;
    let before = daemon.client.get_instance_limits("web1").await.expect("limits");
    let before: Vec<_> = before.into_iter().map(|knob| (knob.knob, knob.value)).collect();
    let facts = daemon.client.get_server().await.expect("server").value.environment.kernel_features;
    let lacks = |knob: &str| facts[&format!("knob.{knob}")] == "false";
    let mut wrong: Vec<Wrong> = vec![
        (&[("limits.memory.high", "2GiB"), ("limits.processes", "9")], 400, "upside down"),
        (&[("limits.cpu.burst", "5ms"), ("limits.processes", "9")], 400, "limits.cpu.allowance"),
        (&[("limits.memory", "lots")], 400, "512MiB"),
        (&[("limits.memroy", "1GiB")], 400, "limits.memory"),
        (&[("user.x", "1")], 400, "limits."),
        // The last one is asked of the kernel alone.
        (&[("limits.processes", "9"), ("limits.cpu", "8000-8001")], 409, "cpuset"),
    ];
    if lacks("CpuUclampMin") {
        wrong.push((&[("limits.cpu.uclamp.min", "10%"), ("limits.processes", "9")], 400, "CONFIG_UCLAMP"));
    }
    if lacks("MemoryMin") {
        wrong.push((&[("limits.memory.min", "10MiB"), ("limits.processes", "9")], 400, "memory.min"));
    }
    let fill = ["sh", "-c", "dd if=/dev/zero of=/dev/shm/x bs=1M count=60 2>/dev/null"];
    assert_eq!(daemon.exec("web1", &fill).await.code, 0);
    let swap = std::fs::read_to_string("/proc/swaps").unwrap_or_default().lines().count() > 1;
    if !swap {
        // Files in memory cannot be taken away without swap.
        wrong.push((&[("limits.processes", "9"), ("limits.memory", "20MiB")], 409, "uses more memory"));
    }
    for (pairs, status, word) in &wrong {
        let error = limit(&daemon, pairs).await.expect_err(word);
        assert_eq!(error.status(), Some(*status), "{pairs:?}: {error}");
        assert!(error.to_string().contains(word), "{pairs:?}: {error}");
        let now = daemon.client.get_instance_limits("web1").await.expect("limits");
        let now: Vec<_> = now.into_iter().map(|knob| (knob.knob, knob.value)).collect();
        assert_eq!(now, before, "{pairs:?}");
        let config = daemon.client.get_instance("web1").await.expect("web1").value.config;
        assert!(!config.contains_key("limits.processes"), "{pairs:?}: {config:?}");
    }
    // The ordinary way says the same, in its operation.
    if !swap {
        let error = daemon.set("web1", &[("limits.memory", "20MiB")]).await.expect_err("in use").to_string();
        assert!(error.contains("uses more memory"), "{error}");
    }
    assert_eq!(limit(&daemon, &[("limits.processes", "99")]).await.expect("still well").applied.len(), 1);
    let missing = daemon.client.patch_instance_limits("nobody", &patch(&[("limits.cpu", "1")]), None).await;
    assert_eq!(missing.expect_err("nobody").status(), Some(404));
    eprintln!("figure: wrong limits tried {}, half done 0", wrong.len());
    daemon.finish().await;
}

#[tokio::test]
async fn a_limit_holds_at_once_and_the_answer_costs_one_write_to_the_disk() {
    let daemon = Daemon::new("instant");
    daemon.import_busybox().await;
    daemon.launch("web1", &[]).await;
    let (mut effects, mut replies, mut writes) = (Vec::new(), Vec::new(), Vec::new());
    let path = daemon.state_dir().join("bare-write");
    let mut file = std::fs::File::create(&path).expect("a file");
    // One after the other, so that both meet the same disk.
    for n in 0..40u64 {
        let begun = Instant::now();
        file.write_all(&[7; 4096]).expect("write");
        file.sync_data().expect("fsync");
        writes.push(begun.elapsed());
        let begun = Instant::now();
        let size = format!("{}MiB", 300 + n);
        let done = limit(&daemon, &[("limits.memory", &size)]).await.expect("limited");
        replies.push(begun.elapsed());
        assert_eq!(done.applied.len(), 1);
        effects.push(Duration::from_micros(done.total_us));
    }
    std::fs::remove_file(path).expect("removed");
    let (effect, reply, write) = (median(effects), median(replies), median(writes));
    eprintln!(
        "figure: limit in force {} us after the request, answered after {} us, a bare write and fsync {} us (medians of 40, debug build)",
        effect.as_micros(),
        reply.as_micros(),
        write.as_micros()
    );
    // The goals are in the bench; here a hundredfold of them would still be a bug.
    assert!(effect < testkit::allowed(Duration::from_millis(50)), "{effect:?}");
    daemon.finish().await;
}

#[tokio::test]
async fn it_is_told_which_limit_bit_and_a_neighbour_does_not_feel_it() {
    let daemon = Daemon::new("hits");
    daemon.import_busybox().await;
    daemon.launch("web1", &[("limits.memory", "64MiB"), ("limits.processes", "30")]).await;
    daemon.launch("web2", &[]).await;
    let mut events = daemon.client.get_events(&Default::default()).await.expect("events");
    let hits = async || daemon.client.get_instance_limit_hits("web1").await.expect("hits");
    let before = hits().await;
    let begun = Instant::now();
    let hog = ["dd", "if=/dev/zero", "of=/dev/null", "bs=150M", "count=1"];
    let neighbour = async {
        let begun = Instant::now();
        assert_eq!(daemon.print("web2", &["echo", "well"]).await, "well");
        begun.elapsed()
    };
    let (killed, neighbour) = tokio::join!(daemon.exec("web1", &hog), neighbour);
    let elapsed = begun.elapsed();
    assert_eq!(killed.code, 137, "{killed:?}");
    assert!(elapsed < testkit::allowed(Duration::from_secs(5)), "the hog lived for {elapsed:?}");
    let told = async {
        loop {
            let event = events.next().await.expect("events").expect("an event");
            if event.metadata["action"] == "instance-out-of-memory" {
                return event;
            }
        }
    };
    let event = tokio::time::timeout(support::PATIENCE, told).await.expect("a kill is told");
    assert_eq!(event.metadata["source"], "/1.0/instances/web1", "{event:?}");
    assert!(event.metadata["context"]["kills"].as_u64().is_some_and(|n| n > 0), "{event:?}");
    if std::fs::File::open("/dev/kmsg").is_ok() {
        // The program is busybox, by whichever of its names.
        assert!(!event.metadata["context"]["victims"].as_array().expect("a list").is_empty(), "{event:?}");
    }
    let after = hits().await;
    assert!(after.oom_kills > before.oom_kills && after.memory_max > before.memory_max, "{before:?} {after:?}");
    let bomb = "i=0; while [ $i -lt 60 ]; do sleep 1000 & i=$((i+1)); done";
    daemon.exec("web1", &["sh", "-c", bomb]).await;
    assert!(hits().await.processes > after.processes, "{:?}", hits().await);
    limit(&daemon, &[("limits.processes", "300"), ("limits.cpu.allowance", "5ms/100ms")]).await.expect("limited");
    daemon.exec("web1", &["timeout", "-s", "KILL", "1", "sh", "-c", "while :; do :; done"]).await;
    assert!(hits().await.cpu_throttled > after.cpu_throttled, "{:?}", hits().await);
    let pressure = daemon.client.get_instance_pressure("web1").await.expect("pressure");
    assert!(pressure.cpu.some.total > 0, "{pressure:?}");
    let load = daemon.client.get_load().await.expect("load");
    let names: Vec<&str> = load.iter().map(|load| load.name.as_str()).collect();
    assert_eq!(names, ["web1", "web2"]);
    assert!(
        load[0].hits.oom_kills > 0 && load[1].hits.oom_kills == 0 && load[0].memory_limit_bytes == 64 << 20,
        "{load:?}"
    );
    let metrics = daemon.client.get_metrics().await.expect("metrics");
    let figure = |name: &str, labels: &str| {
        let own = r#"name="web1",project="default",type="container""#;
        let begin = format!("{name}{{{labels}{}{own}}} ", if labels.is_empty() { "" } else { "," });
        let line = metrics.lines().find_map(|line| line.strip_prefix(begin.as_str()));
        line.and_then(|value| value.parse::<f64>().ok()).unwrap_or_else(|| panic!("{begin} in {metrics}"))
    };
    assert!(figure("incus_memory_OOM_kills_total", "") > 0.0 && figure("incus_procs_total", "") > 0.0);
    assert_eq!(figure("incus_memory_MemTotal_bytes", ""), f64::from(64 << 20));
    assert!(figure("incus_cpu_seconds_total", r#"cpu="all",mode="total""#) > 0.0);
    assert!(figure("sysctl_limit_hits_total", r#"limit="memory.max""#) > 0.0);
    assert!(figure("sysctl_pressure_seconds_total", r#"resource="cpu",share="some""#) > 0.0);
    figure("incus_network_receive_bytes_total", r#"device="eth0""#);
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
    assert_eq!(daemon.status("web1").await, "Running");
    daemon.change("web1", "stop", true).await;
    assert_eq!(daemon.client.get_instance_pressure("web1").await.expect_err("stopped").status(), Some(400));
    eprintln!(
        "figure: memory at its limit killed the hog after {} ms; its neighbour answered in {} ms",
        elapsed.as_millis(),
        neighbour.as_millis()
    );
    daemon.finish().await;
}
