//! Keepers and the spawn process as they die, and as they are of another release: what the daemon notices, how soon, and who
//! else does.

#![allow(missing_docs)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::{Daemon, order, processes};
use sysctl_client::Exec;

/// Numbers that a program in a guest gives back, a line each millisecond, until it is told to stop.
struct Flow {
    is_over: Arc<AtomicBool>,
    writer: tokio::task::JoinHandle<u64>,
    reader: tokio::task::JoinHandle<u64>,
    operation: String,
}

impl Flow {
    async fn begin(daemon: &Daemon, name: &str) -> Flow {
        let exec = daemon.client.exec_instance(name, &order(&["sh", "-c", "cat; exit 23"])).await.expect("exec");
        let Exec { operation, mut stdin, mut stdout, .. } = exec;
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let writer = tokio::spawn(async move {
            let mut often = tokio::time::interval(Duration::from_millis(1));
            let mut number = 0;
            while !over.load(Ordering::Acquire) {
                often.tick().await;
                stdin.write(format!("{number}\n").into()).await.expect("a program that reads");
                number += 1;
            }
            stdin.close().await.expect("closed");
            number
        });
        let reader = tokio::spawn(async move {
            let (mut number, mut rest) = (0, String::new());
            while let Some(bytes) = stdout.read().await.expect("output") {
                rest.push_str(std::str::from_utf8(&bytes).expect("digits"));
                while let Some((line, tail)) = rest.split_once('\n') {
                    assert_eq!(line, number.to_string());
                    (number, rest) = (number + 1, tail.to_owned());
                }
            }
            number
        });
        Flow { is_over, writer, reader, operation: operation.id }
    }

    /// How many lines came back: all, in order; and the program's own end is told.
    async fn end(self, daemon: &Daemon) -> u64 {
        self.is_over.store(true, Ordering::Release);
        let (written, read) = (self.writer.await.expect("written"), self.reader.await.expect("read"));
        assert_eq!(written, read);
        assert_eq!(daemon.client.exec_result(&self.operation).await.expect("a code"), 23);
        read
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_keeper_is_found_at_once_and_nobody_else_notices() {
    let daemon = Daemon::new("dead");
    daemon.import_busybox().await;
    daemon.launch("victim", &[]).await;
    daemon.launch("other", &[]).await;
    let flow = Flow::begin(&daemon, "other").await;
    let mut events = daemon.client.get_events(&Default::default()).await.expect("events");
    let mut taken = Vec::new();
    for round in 0..testkit::budget(5, 50) {
        if round > 0 {
            // The next boot has a keeper again that is init's parent.
            daemon.change("victim", "restart", true).await;
        }
        let init = daemon.init_pid("victim").await;
        let keeper = support::taken::parent(init).expect("a keeper");
        let killed = Instant::now();
        support::signal(keeper, rustix::process::Signal::KILL);
        let told = async {
            loop {
                let event = events.next().await.expect("events").expect("an event");
                if event.metadata["action"] == "instance-keeper-replaced" {
                    assert_eq!(event.metadata["name"], "victim");
                    return killed.elapsed();
                }
            }
        };
        taken.push(tokio::time::timeout(support::PATIENCE, told).await.expect("an event"));
        assert_eq!(daemon.init_pid("victim").await, init);
        assert_eq!(daemon.print("victim", &["echo", "alive"]).await, "alive");
    }
    let lines = flow.end(&daemon).await;
    taken.sort();
    let (median, most) = (taken[taken.len() / 2], taken[taken.len() - 1]);
    eprintln!(
        "figure: a killed keeper is replaced and told after {} ms (median of {}; most {} ms); {lines} lines of another \
         guest's program lost 0, its exit code kept",
        median.as_millis(),
        taken.len(),
        most.as_millis()
    );
    assert!(median < Duration::from_millis(100) && most < Duration::from_secs(1), "{taken:?}");
    daemon.finish().await;
}

/// The moments of a launch at which the spawn process is killed.
const MOMENTS: [&str; 4] = ["accepted", "keeper's directory made", "keeper listens", "init made"];

/// Waits for a moment of a first boot.
fn wait_for(moment: usize, keep: &std::path::Path, known: &[std::ffi::OsString]) {
    let reached = || {
        let mut new = std::fs::read_dir(keep).ok()?.flatten().filter(|entry| !known.contains(&entry.file_name()));
        let directory = new.next()?.path();
        match moment {
            1 => Some(()),
            2 => directory.join("control").exists().then_some(()),
            _ => {
                let status = std::fs::read_to_string(directory.join("status")).ok()?;
                let pid: u32 = status.split(' ').nth(2)?.parse().ok()?;
                (pid > 0).then_some(())
            }
        }
    };
    if moment > 0 {
        testkit::eventually(MOMENTS[moment], reached);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spawn_process_killed_during_a_launch_costs_at_most_that_launch() {
    let daemon = Daemon::new("spawn9");
    daemon.import_busybox().await;
    daemon.launch("other", &[]).await;
    let other = daemon.init_pid("other").await;
    let flow = Flow::begin(&daemon, "other").await;
    let keep = daemon.runtime_dir().join("keep");
    let socket = daemon.runtime_dir().join("spawn.socket").display().to_string();
    let spawn = || {
        let is_it = |p: &support::Process| p.arguments.contains("spawn\0--socket") && p.arguments.contains(&socket);
        processes().into_iter().find(is_it).map(|process| process.pid)
    };
    let (mut gone_through, mut starts) = (0, Vec::new());
    let rounds = testkit::budget(8, 80);
    for round in 0..rounds {
        let name = format!("c{round}");
        let known: Vec<_> = std::fs::read_dir(&keep).expect("keepers").flatten().map(|e| e.file_name()).collect();
        let victim = testkit::eventually("a spawn process", spawn);
        let operation = daemon.client.create_instance(&support::post(&name, &[])).await.expect("accepted");
        wait_for(round % MOMENTS.len(), &keep, &known);
        support::signal(victim, rustix::process::Signal::KILL);
        match daemon.client.finish(&operation).await {
            Ok(_) => {
                gone_through += 1;
                assert_eq!(daemon.status(&name).await, "Running");
                daemon.change(&name, "stop", true).await;
            }
            Err(error) => assert!(error.to_string().contains("spawn process"), "{error}"),
        }
        // The next start needs another spawn process, and has it.
        let since = Instant::now();
        daemon.change(&name, "start", false).await;
        starts.push(since.elapsed());
        assert_eq!(daemon.print(&name, &["echo", "alive"]).await, "alive");
        daemon.change(&name, "stop", true).await;
        daemon.try_delete(&name).await.expect("deleted");
    }
    assert_eq!(daemon.init_pid("other").await, other);
    let lines = flow.end(&daemon).await;
    starts.sort();
    eprintln!(
        "figure: spawn process killed at {rounds} moments of a launch: {gone_through} gone through, {} failed in words, the \
         next start worked after {} ms (most {} ms); {lines} lines of another guest's program lost 0",
        rounds - gone_through,
        starts[starts.len() / 2].as_millis(),
        starts[starts.len() - 1].as_millis()
    );
    daemon.finish().await;
}
