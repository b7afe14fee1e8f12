//! A system call of the daemon, of a keeper or of a launcher fails: whoever asked is told what and why, nothing is left that is
//! not said to be and healed, and the daemon goes on.
//!
//! strace counts per thread, so an error at "the second `openat`" comes to each thread once: what is tried again in another
//! thread may fail again, and be given up for a while. That is said, and the doctor's repair ends it.

#![allow(missing_docs)]

mod support;

use std::path::PathBuf;

use support::crashing::{Act, Crashing, IMAGE_ACTS, Seen, seed, spread_of};
use support::strace::{Injection, Tracer, points};

/// Points of each act in a run of all rings: 40 s on two busy cores.
const FEW: usize = 4;

/// What can fail, how, and in which words that is told.
type Failing = (&'static str, &'static str, &'static str);

/// In the daemon. (Of `write` most are wake-ups of its own threads, which the kernel does not refuse.)
const IN_THE_DAEMON: &[Failing] = &[
    ("openat", "EMFILE", "Too many open files"),
    ("openat", "ENOSPC", "No space left on device"),
    ("mkdir", "ENOSPC", "No space left on device"),
    ("rename", "EIO", "Input/output error"),
    ("pwrite64", "ENOSPC", "full"),
    // "disk I/O error" of the database, "Input/output error" of a directory.
    ("fsync", "EIO", "error"),
    ("fdatasync", "EIO", "error"),
    ("accept4", "EMFILE", "Too many open files"),
    ("sendmsg", "ENOMEM", "Cannot allocate memory"),
    ("clone3", "EAGAIN", "Resource temporarily unavailable"),
];

/// In the spawn process, in keepers and launchers, and in the image child.
const IN_KEEPERS: &[Failing] = &[
    ("openat", "EMFILE", "Too many open files"),
    ("openat", "ENOSPC", "No space left on device"),
    ("mkdirat", "ENOSPC", "No space left on device"),
    ("write", "EIO", "Input/output error"),
    ("socketpair", "ENFILE", "Too many open files in system"),
    ("clone3", "ENOMEM", "Cannot allocate memory"),
    ("fsmount", "ENOMEM", "Cannot allocate memory"),
    // Output of a process: it waits, and is whole.
    ("pwrite64", "ENOMEM", "Cannot allocate memory"),
];

fn log_of(crashing: &Crashing) -> PathBuf {
    crashing.daemon.scratch().join("strace")
}

/// Errors at the calls that `log` tells of.
fn failures(log: &str, failing: &[Failing]) -> Vec<(Injection, &'static str)> {
    let points = points(log);
    let of = |(call, when): &(String, usize)| {
        let (call, when) = (call.clone(), *when);
        let fitting = failing.iter().filter(move |(name, ..)| *name == call);
        fitting.map(move |(name, error, words)| {
            (Injection { call: (*name).to_owned(), when, what: format!("error={error}") }, *words)
        })
    };
    points.iter().flat_map(of).collect()
}

fn calls(failing: &[Failing]) -> String {
    let mut calls: Vec<&str> = failing.iter().map(|(call, ..)| *call).collect();
    calls.dedup();
    calls.join(",")
}

/// Each act, and an error at the calls of whom `whom` names.
async fn fail_amid(crashing: &mut Crashing, acts: &[Act], in_keepers: bool) {
    let (whom, failing) = if in_keepers { ("keeping processes", IN_KEEPERS) } else { ("the daemon", IN_THE_DAEMON) };
    for &act in acts {
        act.prepare(&crashing.daemon).await;
        let pids = pids(crashing, act, in_keepers).await;
        let watch = ["-e".to_owned(), format!("trace={}", calls(failing))];
        let tracer = Tracer::attach(&pids, &watch, &log_of(crashing));
        let seen = act.attempt(&crashing.daemon.client).await;
        assert_eq!(seen.end, Some(Ok(())), "{act:?} while it is watched\n{}", crashing.daemon.log());
        let failures = failures(&tracer.detach(false), failing);
        for (injection, words) in spread_of(&failures, FEW) {
            act.prepare(&crashing.daemon).await;
            let pids = self::pids(crashing, act, in_keepers).await;
            let tracer = Tracer::attach(&pids, &injection.words(), &log_of(crashing));
            let point = format!("{whom} in {act:?}, {injection}");
            let seen = act.attempt(&crashing.daemon.client).await;
            let hit = tracer.detach(false).contains("(INJECTED)");
            assert!(
                !crashing.daemon.is_dead(false),
                "violation at {point}: the daemon died\n{}",
                crashing.daemon.log()
            );
            assert_told(&seen, words, &point);
            healed(crashing, &point).await;
            crashing.judge(act, &seen, hit, &point).await;
        }
    }
}

/// What was left in between is said to be, and goes: the database by itself once its disk answers, the rest as the doctor says.
async fn healed(crashing: &Crashing, point: &str) {
    let client = &crashing.daemon.client;
    let mut events = client.get_events(&Default::default()).await.expect("events");
    let is_of_database = |finding: &sysctl_api::Finding| finding.kind == "database";
    let recovered = async {
        loop {
            let report = crashing.daemon.doctor().await;
            if !report.findings.iter().any(is_of_database) {
                return report;
            }
            events.next().await.expect("events").expect("an event");
        }
    };
    let report = tokio::time::timeout(support::PATIENCE, recovered).await;
    let report = report.unwrap_or_else(|_| panic!("violation at {point}: the database does not recover"));
    if !report.findings.is_empty() {
        let can = report.findings.iter().all(|finding| finding.fix.contains("--repair"));
        assert!(can, "violation at {point}: left behind, and nothing to do about it: {:#?}", report.findings);
        client.repair().await.unwrap_or_else(|error| panic!("violation at {point}: repair: {error}"));
    }
}

async fn pids(crashing: &Crashing, act: Act, in_keepers: bool) -> Vec<u32> {
    let has_guest = !matches!(act, Act::Launch | Act::Start | Act::Import);
    if in_keepers { crashing.daemon.keeping(has_guest).await } else { vec![crashing.daemon.pid()] }
}

/// What a child says that cannot even begin: it has no way yet to tell why but the daemon's log.
const SPEECHLESS: &str = "the log of the daemon may have its last";

/// It succeeded all the same, or the reason is told.
fn assert_told(seen: &Seen, words: &str, point: &str) {
    match &seen.end {
        Some(Ok(())) => {}
        Some(Err(text)) if text.contains(words) || text.contains(SPEECHLESS) => {}
        Some(Err(text)) => panic!("violation at {point}: told {text:?} instead of {words:?}"),
        None => panic!("violation at {point}: no answer: {seen:?}"),
    }
}

#[tokio::test]
async fn a_failed_call_of_the_daemon_is_told_and_leaves_nothing() {
    let mut crashing = Crashing::new("errors").await;
    let acts = [Act::Create, Act::Launch, Act::Start, Act::Stop, Act::Restart, Act::Freeze, Act::Limit];
    fail_amid(&mut crashing, &acts, false).await;
    crashing
        .finish(&format!("errors at calls of the daemon in {} acts on an instance (seed {})", acts.len(), seed()))
        .await;
}

#[tokio::test]
async fn a_failed_call_about_an_image_is_told_and_leaves_nothing() {
    let mut crashing = Crashing::bare("image-errors");
    fail_amid(&mut crashing, &IMAGE_ACTS, false).await;
    fail_amid(&mut crashing, &[Act::Import], true).await;
    crashing.finish("errors at calls of the daemon and of the image child in an import and a removal").await;
}

#[tokio::test]
async fn a_failed_call_of_a_keeper_or_launcher_is_told_and_leaves_nothing() {
    let mut crashing = Crashing::new("keeper-errors").await;
    let acts = [Act::Launch, Act::Start, Act::Restart, Act::Exec];
    fail_amid(&mut crashing, &acts, true).await;
    crashing.finish("errors at calls of keeping processes in a launch, start, restart and exec").await;
}
