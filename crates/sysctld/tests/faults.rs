//! Bad days of one request, one guest or one process: told truthfully, bounded, and nobody else's.

#![allow(missing_docs)]

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use support::{Daemon, order};
use sysctl_api::StatePut;

/// Sends a request as it is and reads the whole answer.
fn raw(daemon: &Daemon, request: &str) -> String {
    let socket = daemon.runtime_dir().join("unix.socket");
    let mut stream = std::os::unix::net::UnixStream::connect(socket).expect("connect");
    stream.write_all(format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).expect("send");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[tokio::test]
async fn a_panic_in_one_request_is_that_requests_alone() {
    let daemon = Daemon::with("panic", &[("SYSCTL_PANIC_PATH", "/1.0/panic")]);
    let pid = daemon.pid();
    let (mut answers, mut others) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        answers.push(raw(&daemon, "GET /1.0/panic"));
        let every = Default::default();
        let (one, two, three) =
            tokio::join!(daemon.client.get_server(), daemon.client.get_images(&every), daemon.client.get_doctor());
        others.extend([one.is_ok(), two.is_ok(), three.is_ok()]);
    }
    let in_words = |answer: &&String| answer.starts_with("HTTP/1.1 500") && answer.contains("defect of the daemon");
    let (told, failed) = (answers.iter().filter(in_words).count(), others.iter().filter(|fine| !**fine).count());
    eprintln!(
        "figure: {} requests that panicked: {told} answered with 500, {failed} of {} other requests failed",
        answers.len(),
        others.len()
    );
    assert_eq!((told, failed, daemon.pid()), (20, 0, pid), "{answers:?}");
    daemon.finish().await;
    let plain = Daemon::new("no-panic");
    assert!(raw(&plain, "GET /1.0/panic").starts_with("HTTP/1.1 404"));
    plain.finish().await;
}

#[tokio::test]
async fn a_panic_in_an_instances_work_fails_its_operation_and_nothing_else() {
    let mut daemon = Daemon::with("panic-step", &[("SYSCTL_PANIC_STEP", "freeze")]);
    daemon.import_busybox().await;
    daemon.launch("a", &[]).await;
    daemon.launch("b", &[]).await;
    let (before, other) = (daemon.init_pid("a").await, daemon.init_pid("b").await);
    let (mut errors, mut disturbed) = (Vec::new(), 0);
    for _ in 0..3 {
        errors.push(daemon.try_change("a", "freeze", false).await.expect_err("it panics").to_string());
        assert_eq!(daemon.status("a").await, "Running");
        assert_eq!(daemon.print("a", &["echo", "alive"]).await, "alive");
        daemon.set("b", &[("limits.processes", "77")]).await.expect("others go on");
        disturbed += usize::from(daemon.init_pid("b").await != other);
    }
    assert_eq!(daemon.init_pid("a").await, before);
    daemon.healthy().await;
    daemon.terminate();
    // A wish that must be gone through with: nothing is left half done either.
    daemon.set_environment("SYSCTL_PANIC_STEP", "attach_nic");
    daemon.start();
    errors.push(daemon.try_change("a", "restart", true).await.expect_err("it panics").to_string());
    assert_eq!(daemon.print("b", &["echo", "alive"]).await, "alive");
    disturbed += usize::from(daemon.init_pid("b").await != other);
    daemon.terminate();
    daemon.set_environment("SYSCTL_PANIC_STEP", "");
    daemon.start();
    let _ = daemon.try_change("a", "stop", true).await;
    daemon.change("a", "start", false).await;
    let in_words = |error: &&String| error.contains("defect of the daemon") && error.contains("report it");
    let told = errors.iter().filter(in_words).count();
    eprintln!(
        "figure: {} panics in the work of an instance: {told} operations failed in words, another instance disturbed {disturbed} times",
        errors.len()
    );
    assert_eq!((told, disturbed), (4, 0), "{errors:?}");
    daemon.finish().await;
}

/// Puts a program of its own in the place of a guest's init, from its next boot on.
async fn set_init(daemon: &Daemon, name: &str, script: &str) {
    let write =
        format!("rm /sbin/init; printf '%s\\n' '#!/bin/sh' '{script}' > /sbin/init; chmod 755 /sbin/init; sync");
    daemon.print(name, &["sh", "-c", &write]).await;
}

/// The next event of the life of something whose action is one of those.
async fn next_of(events: &mut sysctl_client::Events, actions: &[&str]) -> (String, String) {
    let told = async {
        loop {
            let event = events.next().await.expect("events").expect("an event");
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            let action = text(&event.metadata["action"]);
            if event.kind == "lifecycle" && actions.contains(&action.as_str()) {
                return (action, text(&event.metadata["context"]["cause"]));
            }
        }
    };
    tokio::time::timeout(support::PATIENCE, told).await.unwrap_or_else(|_| panic!("none of {actions:?} was told"))
}

#[tokio::test]
async fn an_init_that_dies_is_told_and_one_that_reboots_for_ever_is_held_back() {
    let daemon = Daemon::new("init");
    daemon.import_busybox().await;
    daemon.launch("a", &[]).await;
    let mut events = daemon.client.get_events(&Default::default()).await.expect("events");
    let ends = ["instance-stopped", "instance-shutdown"];

    support::signal(daemon.init_pid("a").await, rustix::process::Signal::KILL);
    let killed = Instant::now();
    let (_, cause) = next_of(&mut events, &ends).await;
    let told_ms = killed.elapsed().as_millis();
    assert!(cause.contains("killed by signal 9"), "{cause}");
    assert_eq!(daemon.status("a").await, "Stopped");

    daemon.change("a", "start", false).await;
    set_init(&daemon, "a", "sleep 0.1; kill -SEGV $$; exit 7").await;
    daemon.change("a", "restart", true).await;
    let (_, cause) = next_of(&mut events, &ends).await;
    assert!(cause.contains("init exited with 7") || cause.contains("signal 11"), "{cause}");
    daemon.until_status("a", "Stopped").await;
    daemon.try_delete("a").await.expect("deleted");

    daemon.launch("loop", &[]).await;
    set_init(&daemon, "loop", "exec reboot -f").await;
    let started = Instant::now();
    let restart = StatePut { action: "restart".into(), timeout: 30, force: true, stateful: false };
    let restarting = daemon.client.update_instance_state("loop", &restart);
    let restarting = restarting.await.expect("accepted");
    let _ = daemon.client.finish(&restarting).await;
    let (mut restarts, mut delays) = (0, Vec::new());
    while delays.len() < 3 {
        let (action, cause) = next_of(&mut events, &["instance-restarted", "instance-restart-delayed"]).await;
        match action.as_str() {
            "instance-restarted" => restarts += 1,
            _ => delays.push(cause),
        }
    }
    let seconds = started.elapsed().as_secs_f32();
    assert!(
        delays.iter().zip(["in 1 s", "in 2 s", "in 4 s"]).all(|(cause, words)| cause.contains(words)),
        "{delays:?}"
    );
    assert!(restarts <= 6, "{restarts}");
    // While it waits it can be stopped at once.
    let asked = Instant::now();
    daemon.change("loop", "stop", true).await;
    assert!(asked.elapsed() < Duration::from_secs(2), "the stop waited for the delay");
    eprintln!(
        "figure: init killed: told after {told_ms} ms; a guest that reboots for ever: {restarts} restarts in the first {seconds:.1} s, then held back {} times, longer each time",
        delays.len()
    );
    daemon.finish().await;
}

#[tokio::test]
async fn an_init_that_ignores_the_stop_is_killed_at_the_time_out() {
    let daemon = Daemon::new("stubborn");
    daemon.import_busybox().await;
    daemon.launch("a", &[]).await;
    // Signals that are handled count as heard; 37 has no name everywhere.
    set_init(&daemon, "a", "trap : PWR TERM INT USR1 USR2 37; while :; do sleep 1; done").await;
    daemon.change("a", "restart", true).await;
    let asked = Instant::now();
    let stop = StatePut { action: "stop".into(), timeout: 2, force: false, stateful: false };
    let operation = daemon.client.update_instance_state("a", &stop).await.expect("accepted");
    daemon.client.finish(&operation).await.expect("stopped");
    let took = asked.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(4)).contains(&took), "{took:?}");
    assert_eq!(daemon.status("a").await, "Stopped");
    eprintln!(
        "figure: an init that ignores the stop, time-out 2,000 ms: killed and gone after {} ms",
        took.as_millis()
    );
    daemon.finish().await;
}

/// A file system in user space that never answers, but for its greeting.
struct Frozen {
    point: std::path::PathBuf,
}

impl Frozen {
    /// Mounts it; the receiver is told once somebody hangs in it.
    fn mount(point: std::path::PathBuf) -> (Frozen, mpsc::Receiver<()>) {
        std::fs::create_dir(&point).expect("make a directory");
        let mut device = File::options().read(true).write(true).open("/dev/fuse").expect("/dev/fuse");
        let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let data = std::ffi::CString::new(data).expect("text");
        rustix::mount::mount("frozen", &point, "fuse", rustix::mount::MountFlags::empty(), data.as_c_str())
            .expect("mount");
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            const INIT: u32 = 26;
            let mut request = vec![0u8; 256 << 10];
            // Ends when it is unmounted by force.
            while let Ok(length) = device.read(&mut request) {
                let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().expect("four bytes"));
                if length < 40 || word(4) != INIT {
                    let _ = tell.send(());
                    continue;
                }
                // struct fuse_out_header and struct fuse_init_out: version 7.31, a write at most 4 KiB.
                let mut answer = vec![0u8; 16 + 64];
                answer[..4].copy_from_slice(&80u32.to_ne_bytes());
                answer[8..16].copy_from_slice(&request[8..16]);
                answer[16..20].copy_from_slice(&7u32.to_ne_bytes());
                answer[20..24].copy_from_slice(&31u32.to_ne_bytes());
                answer[36..40].copy_from_slice(&4096u32.to_ne_bytes());
                device.write_all(&answer).expect("greet");
            }
        });
        (Frozen { point }, told)
    }

    /// Ends it, and the wait of whoever hangs in it.
    fn thaw(&self) {
        let flags = rustix::mount::UnmountFlags::FORCE | rustix::mount::UnmountFlags::DETACH;
        let _ = rustix::mount::unmount(&self.point, flags);
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.thaw();
        let _ = std::fs::remove_dir(&self.point);
    }
}

/// A process in a guest's pid namespace and control group that hangs in the kernel.
fn hang(daemon: &Daemon, init: u32, id: &str, frozen: &Frozen) -> Child {
    let base = format!("sysctl-{}", support::mark(&daemon.state_dir()));
    let groups: Vec<String> = support::group_roots()
        .into_iter()
        .map(|root| root.join(&base).join(format!("{id}.1/payload")))
        .filter(|group| group.exists())
        .map(|group| group.display().to_string())
        .collect();
    let script = format!(
        "echo $$ > {}/cgroup.procs; exec nsenter -t {init} -p stat {}/x",
        groups.first().expect("the guest's group"),
        frozen.point.display()
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("sh")
}

#[tokio::test]
async fn a_process_that_hangs_in_the_kernel_holds_up_its_own_instance_only() {
    let daemon = Daemon::new("hangs");
    daemon.import_busybox().await;
    daemon.launch("a", &[]).await;
    daemon.launch("b", &[]).await;
    let id = daemon.client.get_instance("a").await.expect("a").value.config["volatile.uuid"].clone();
    let p99 = async |count: usize| {
        let mut times = Vec::new();
        for _ in 0..count {
            let asked = Instant::now();
            daemon.client.get_instance_state("b").await.expect("state");
            times.push(asked.elapsed());
        }
        times.sort();
        times[count * 99 / 100]
    };
    let before = p99(200).await;
    let (frozen, hanging) = Frozen::mount(daemon.scratch().join("frozen"));
    let mut child = hang(&daemon, daemon.init_pid("a").await, &id, &frozen);
    hanging.recv_timeout(support::PATIENCE).expect("somebody hangs");

    let asked = Instant::now();
    let (stopped, during) = tokio::join!(daemon.try_change("a", "stop", true), async {
        let during = p99(400).await;
        assert_eq!(daemon.print("b", &["echo", "alive"]).await, "alive");
        daemon.client.exec_instance_silently("b", &order(&["true"])).await.expect("exec");
        during
    });
    let error = stopped.expect_err("it does not die").to_string();
    let took = asked.elapsed();
    assert!(error.contains("does not die: it hangs in the kernel") && error.contains("/stack"), "{error}");
    assert!(took < Duration::from_secs(30), "{took:?}");
    assert_eq!(daemon.status("a").await, "Error");
    // A delete is taken, and waits its turn; whoever asked is not held up.
    let asked = Instant::now();
    let deleting = daemon.client.delete_instance("a").await.expect("accepted");
    assert!(asked.elapsed() < Duration::from_secs(1));
    daemon.client.get_server().await.expect("others are answered");
    frozen.thaw();
    let thawed = Instant::now();
    daemon.client.finish(&deleting).await.expect("deleted once it can die");
    eprintln!(
        "figure: a process that hangs in the kernel: stop --force refused in words after {} ms; p99 of another instance's state {} µs before, {} µs meanwhile; gone {} ms after it could die",
        took.as_millis(),
        before.as_micros(),
        during.as_micros(),
        thawed.elapsed().as_millis()
    );
    child.wait().expect("the hanging process");
    assert!(during < before * 10 + Duration::from_millis(20), "{before:?} → {during:?}");
    drop(frozen);
    daemon.finish().await;
}
