//! What a guest sees of its limits: by lxcfs, without it, and when it dies.

#![allow(missing_docs)]

mod support;

use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::Daemon;

/// A guest with a limit of each kind, and what the host has instead.
const LIMITS: &[(&str, &str)] = &[("limits.memory", "100MiB"), ("limits.cpu", "1")];

const MIB_KB: u64 = 1024;

/// What shows a limit: its name in the table of the README, and a command of the guest that prints one number.
const SHOWN: [(&str, &str); 7] = [
    ("memory and swap in `/proc/meminfo` (`free` of procps, Java, Go)", "awk '/^MemTotal/ {print $2}' /proc/meminfo"),
    ("processors in `/proc/cpuinfo`, `/proc/stat`", "grep -c ^processor /proc/cpuinfo"),
    ("`/sys/devices/system/cpu/online` (`lscpu`)", "grep -c - /sys/devices/system/cpu/online | tr 01 12"),
    ("processors that may be used (`nproc`)", "nproc"),
    ("`/proc/uptime` (`uptime`), by a clock of its own", "cut -d. -f1 /proc/uptime"),
    ("`/proc/loadavg` (`top`)", "cut -d' ' -f4 /proc/loadavg | cut -d/ -f2"),
    ("memory by sysinfo(2) (`free` of busybox)", "free -k | awk '/^Mem/ {print $2}'"),
];

/// Most that a number is when it is the guest's own: it has the limits, and was made just now.
const OWN: [u64; 7] = [100 * MIB_KB, 1, 1, 1, 300, 60, 100 * MIB_KB];

async fn number(daemon: &Daemon, name: &str, command: &str) -> u64 {
    let text = daemon.print(name, &["sh", "-c", command]).await;
    text.parse().unwrap_or_else(|_| panic!("{command}: {text}"))
}

async fn memory(daemon: &Daemon, name: &str) -> u64 {
    number(daemon, name, SHOWN[0].1).await
}

/// Waits until a guest reads this much memory in kB. lxcfs answers by who reads, so that is asked in the guest.
async fn until_memory(daemon: &Daemon, name: &str, kilobytes: u64) {
    let begun = Instant::now();
    loop {
        let output = daemon.exec(name, &["sh", "-c", SHOWN[0].1]).await;
        if output.stdout.trim() == kilobytes.to_string() {
            return;
        }
        let words = format!("{name} does not see {kilobytes} kB, but {output:?}");
        assert!(begun.elapsed() < support::PATIENCE, "{words}\n{}", daemon.log());
    }
}

async fn limit(daemon: &Daemon, pairs: &[(&str, &str)]) {
    let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), Some((*value).to_owned()))).collect();
    daemon.client.patch_instance_limits("web1", &pairs, None).await.expect("limited");
}

/// The lxcfs of a daemon; it is there as soon as a guest is.
fn lxcfs(daemon: &Daemon) -> u32 {
    let mark = daemon.runtime_dir().join("lxcfs.pid").display().to_string();
    testkit::eventually("lxcfs to run", || {
        let ours = support::processes().into_iter().filter(|p| p.arguments.contains(&mark)).map(|p| p.pid);
        ours.collect::<Vec<_>>().first().copied()
    })
}

async fn feature(daemon: &Daemon) -> String {
    daemon.client.get_server().await.expect("server").value.environment.kernel_features["lxcfs"].clone()
}

/// A line of the table for each number: whose it is.
async fn seen(daemon: &Daemon) -> Vec<&'static str> {
    let mut seen = Vec::new();
    for ((_, command), own) in SHOWN.into_iter().zip(OWN) {
        seen.push(if number(daemon, "web1", command).await <= own { "its own" } else { "the host's" });
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_sees_its_limits_and_each_change_at_once_and_the_readme_tells_what_it_sees_without_lxcfs() {
    let daemon = Daemon::new("view");
    daemon.import_busybox().await;
    assert_eq!(feature(&daemon).await, "true", "the package lxcfs is missing: apt-get install lxcfs");
    daemon.launch("web1", LIMITS).await;
    assert_eq!(memory(&daemon, "web1").await, 100 * MIB_KB);
    assert_eq!(number(&daemon, "web1", SHOWN[1].1).await, 1);
    assert_eq!(number(&daemon, "web1", "grep -c ^cpu[0-9] /proc/stat").await, 1);
    // Whichever of them it was given.
    let online = daemon.print("web1", &["cat", "/sys/devices/system/cpu/online"]).await;
    assert!(online.parse::<u32>().is_ok(), "{online}");
    assert_eq!(number(&daemon, "web1", "awk '/^SwapTotal/ {print $2}' /proc/meminfo").await, 0);
    let used = "awk '/^MemTotal/ {t=$2} /^MemFree/ {print t-$2}' /proc/meminfo";
    let before = number(&daemon, "web1", used).await;
    let fill = ["dd", "if=/dev/zero", "of=/dev/shm/x", "bs=1M", "count=30"];
    assert_eq!(daemon.exec("web1", &fill).await.code, 0);
    let after = number(&daemon, "web1", used).await;
    assert!((before + 29 * MIB_KB..before + 45 * MIB_KB).contains(&after), "{before} kB, then {after} kB");

    limit(&daemon, &[("limits.memory", "200MiB"), ("limits.cpu", "2")]).await;
    let begun = Instant::now();
    assert_eq!(memory(&daemon, "web1").await, 200 * MIB_KB);
    let took = begun.elapsed();
    assert_eq!(number(&daemon, "web1", SHOWN[1].1).await, 2.min(cpus()));
    limit(&daemon, LIMITS).await;
    assert_eq!(memory(&daemon, "web1").await, 100 * MIB_KB);
    assert_eq!(number(&daemon, "web1", SHOWN[1].1).await, 1);
    eprintln!(
        "figure: a guest saw a changed limit in the first read after the reply, {} us with its exec",
        took.as_micros()
    );
    let with = seen(&daemon).await;
    daemon.finish().await;

    let daemon = Daemon::with("view-none", &[("SYSCTL_LXCFS", "/nonexistent")]);
    daemon.import_busybox().await;
    assert_eq!(feature(&daemon).await, "false");
    daemon.launch("web1", LIMITS).await;
    let without = seen(&daemon).await;
    daemon.finish().await;
    let mut table = "| what a program in the guest asks | with lxcfs | without |\n|---|---|---|\n".to_owned();
    for ((name, _), (with, without)) in SHOWN.iter().zip(with.iter().zip(&without)) {
        table.push_str(&format!("| {name} | {with} | {without} |\n"));
    }
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
    // A host with one processor cannot tell its own from the guest's.
    assert!(
        cpus() == 1 || std::fs::read_to_string(readme).expect("README.md").contains(&table),
        "README.md lacks:\n{table}"
    );
}

fn cpus() -> u64 {
    std::thread::available_parallelism().map_or(1, |n| n.get() as u64)
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_outlive_lxcfs_and_are_given_the_files_of_the_next() {
    let mut daemon = Daemon::new("view-killed");
    daemon.import_busybox().await;
    daemon.launch("web1", LIMITS).await;
    daemon.launch("web2", &[("limits.memory", "60MiB"), ("security.mounts", "strict")]).await;
    assert_eq!((memory(&daemon, "web1").await, memory(&daemon, "web2").await), (100 * MIB_KB, 60 * MIB_KB));
    let first = lxcfs(&daemon);
    let begun = Instant::now();
    support::signal(first, Signal::KILL);
    until_memory(&daemon, "web1", 100 * MIB_KB).await;
    until_memory(&daemon, "web2", 60 * MIB_KB).await;
    let took = begun.elapsed();
    let second = lxcfs(&daemon);
    assert_ne!(first, second);

    // The next daemon finds it, and one that comes after both of them died gives guests the files of another.
    daemon.kill();
    daemon.start();
    assert_eq!(memory(&daemon, "web1").await, 100 * MIB_KB);
    assert_eq!(lxcfs(&daemon), second);
    daemon.kill();
    support::signal(second, Signal::KILL);
    daemon.start();
    until_memory(&daemon, "web1", 100 * MIB_KB).await;
    until_memory(&daemon, "web2", 60 * MIB_KB).await;
    eprintln!("figure: lxcfs killed: two guests read their numbers again after {} ms", took.as_millis());
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_start_and_go_on_with_the_hosts_numbers_where_lxcfs_cannot_run() {
    let mut daemon = Daemon::new("view-broken");
    daemon.import_busybox().await;
    daemon.launch("web1", LIMITS).await;
    assert_eq!(memory(&daemon, "web1").await, 100 * MIB_KB);
    let first = lxcfs(&daemon);
    daemon.kill();
    // A program that ends as soon as it is started.
    daemon.set_environment("SYSCTL_LXCFS", "/bin/false");
    support::signal(first, Signal::KILL);
    daemon.start();
    let host = std::fs::read_to_string("/proc/meminfo").expect("meminfo");
    let total = host.lines().next().expect("a line").split_whitespace().nth(1).expect("a number").parse().expect("kB");
    until_memory(&daemon, "web1", total).await;
    let begun = Instant::now();
    daemon.launch("web2", LIMITS).await;
    let took = begun.elapsed();
    assert_eq!(memory(&daemon, "web2").await, total);
    assert!(took < testkit::allowed(Duration::from_secs(3)), "{took:?}");
    daemon.set_environment("SYSCTL_LXCFS", "/usr/bin/lxcfs");
    daemon.terminate();
    daemon.start();
    until_memory(&daemon, "web1", 100 * MIB_KB).await;
    until_memory(&daemon, "web2", 100 * MIB_KB).await;
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_lxcfs_that_does_not_answer_holds_up_no_launch() {
    let daemon = Daemon::new("view-held");
    daemon.import_busybox().await;
    daemon.launch("web1", LIMITS).await;
    let held = lxcfs(&daemon);
    let _held = support::Held::new(held);
    support::signal(held, Signal::STOP);
    // For a second the kernel knows by itself what files there are, and asks nobody.
    let mut slowest = Duration::ZERO;
    for n in 0.. {
        let (name, begun) = (format!("next{n}"), Instant::now());
        daemon.launch(&name, LIMITS).await;
        slowest = slowest.max(begun.elapsed());
        if !daemon.print(&name, &["cat", "/proc/mounts"]).await.contains("lxcfs") {
            assert!(memory(&daemon, &name).await > 100 * MIB_KB, "it reads the host's numbers");
            break;
        }
        assert!(n < 100, "guests are given files of one that does not answer");
    }
    support::signal(held, Signal::CONT);
    assert_eq!(memory(&daemon, "web1").await, 100 * MIB_KB);
    assert!(slowest < testkit::allowed(Duration::from_secs(4)), "{slowest:?}");
    eprintln!("figure: lxcfs held still: the slowest launch took {} ms", slowest.as_millis());
    daemon.finish().await;
}
