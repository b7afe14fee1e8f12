//! Whatever is done often leaves nothing behind: no descriptor, no thread, no memory, in daemon, spawn process and keeper.

#![allow(missing_docs)]

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use support::taken::{Course, LINGERING, Taken};
use support::{Daemon, order, patch, post};
use sysctl_api::{ConsolePost, ExecPost};
use testkit::budget;

/// Points that a line is laid through.
const POINTS: usize = 4;

/// A leak grows in each course; a burst of whatever else the host does, in one.
const COURSES: usize = 3;

/// What an allocator may hold more or less, with a few threads that each have a heap.
const NOISE_KB: f64 = 2048.0;

/// A session is held for five seconds after its end, as its client may still be connecting: as many of them as end in that time.
const HELD: Duration = Duration::from_secs(6);

/// The operations that are kept fill up, so that what is measured then is not them.
async fn fill(daemon: &Daemon) {
    let mut post = post("filler", &[]);
    post.start = false;
    let made = daemon.client.create_instance(&post).await.expect("accepted");
    daemon.client.finish(&made).await.expect("made");
    let change = async |_| {
        for n in 0..2_400 / 8 {
            let number = (1000 + n).to_string();
            let asked = daemon.client.patch_instance("filler", &patch(&[("limits.processes", &number)]), None).await;
            let asked = asked.expect("accepted");
            daemon.client.finish(&asked).await.expect("changed");
        }
    };
    at_once(8, change).await;
    // Those about streams are kept apart.
    let run = async |_| {
        for _ in 0..520 / 4 {
            daemon.client.exec_instance_silently("idle", &order(&["true"])).await.expect("a result");
        }
    };
    at_once(4, run).await;
}

/// The same, so many times at once.
async fn at_once(times: usize, act: impl AsyncFn(usize)) {
    let mut all: Vec<_> = (0..times).map(|n| Box::pin(act(n))).collect();
    std::future::poll_fn(|cx| {
        all.retain_mut(|one| one.as_mut().poll(cx).is_pending());
        if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

/// What ended is put away within seconds: a client may still be connecting to streams of a program that was quick.
fn rest(daemon: &Daemon, before: u64) {
    testkit::eventually("descriptors to be put away", || {
        (Taken::of(daemon.pid()).fds <= before + LINGERING).then_some(())
    });
}

/// Does something often and looks what it leaves.
async fn flat(daemon: &Daemon, what: &str, times: usize, act: impl AsyncFn()) {
    flat_after(Duration::ZERO, daemon, what, times, act).await;
}

/// The same with what is held for a while after its end: it is looked at once the first ones were put away.
async fn flat_after(held: Duration, daemon: &Daemon, what: &str, times: usize, act: impl AsyncFn()) {
    let each = times.div_ceil(POINTS);
    let before = Taken::of(daemon.pid()).fds;
    let begun = Instant::now();
    // The first ones fill caches and heaps, and with --all whatever keeps the last so many: 10,000 events, 2,000 operations.
    let mut first = 0;
    while first < each.max(budget(0, 3_500)) || begun.elapsed() < held {
        act().await;
        first += 1;
    }
    let mut courses = Vec::new();
    let mut growing = None;
    for _ in 0..COURSES {
        let mut course = Course::of(daemon, "idle").await;
        rest(daemon, before);
        course.note(0);
        for point in 1..=POINTS {
            for _ in 0..each {
                act().await;
            }
            rest(daemon, before);
            course.note(point * each);
        }
        let grown = course.growing(what, NOISE_KB);
        courses.push(course);
        let still = growing.get_or_insert_with(|| grown.clone());
        still.retain(|one| grown.contains(one));
        if still.is_empty() {
            return;
        }
    }
    let points: Vec<_> = courses.iter().map(Course::points).collect();
    panic!("{what}: {growing:?} in every course: {points:#?}");
}

async fn with_terminal(daemon: &Daemon) {
    let terminal = ExecPost { interactive: true, width: 80, height: 25, ..order(&["echo", "x"]) };
    let mut exec = daemon.client.exec_instance("idle", &terminal).await.expect("exec");
    while exec.stdout.read().await.expect("output").is_some() {}
    assert_eq!(daemon.client.exec_result(&exec.operation.id).await.expect("a result"), 0);
}

async fn push_and_pull(daemon: &Daemon, content: &[u8]) {
    let mut sftp = daemon.client.get_instance_sftp("idle").await.expect("sftp");
    let (path, mut got) = (Path::new("/root/pushed"), Vec::new());
    sftp.write_file(path, &mut &content[..], &Default::default()).await.expect("pushed");
    sftp.read_file(path, &mut got).await.expect("pulled");
    assert_eq!(got, content);
    sftp.remove(path).await.expect("removed");
}

async fn import_and_delete(daemon: &Daemon, archive: &Path) {
    let fingerprint = daemon.import(archive, &[]).await.expect("imported");
    let asked = daemon.client.delete_image(&fingerprint).await.expect("accepted");
    daemon.client.finish(&asked).await.expect("deleted");
}

async fn refused(daemon: &Daemon) {
    assert_eq!(daemon.client.get_instance("none").await.expect_err("none").status(), Some(404));
    assert_eq!(daemon.client.create_instance(&post("idle", &[])).await.expect_err("taken").status(), Some(409));
    assert_eq!(daemon.client.create_instance(&post("-", &[])).await.expect_err("no name").status(), Some(400));
    assert!(daemon.client.exec_instance("filler", &order(&["true"])).await.is_err());
}

#[tokio::test]
async fn nothing_that_is_done_often_leaves_anything() {
    let daemon = Daemon::new("leaks");
    daemon.import_busybox().await;
    daemon.launch("idle", &[]).await;
    fill(&daemon).await;
    let content = vec![7u8; 100_000];
    flat(&daemon, "requests refused", budget(300, 10_000), async || refused(&daemon).await).await;
    flat(&daemon, "events listened to", budget(200, 10_000), async || {
        drop(daemon.client.get_events(&Default::default()).await.expect("events"));
    })
    .await;
    flat_after(HELD, &daemon, "programs run", budget(160, 10_000), async || {
        assert_eq!(daemon.exec("idle", &["echo", "x"]).await.code, 0);
    })
    .await;
    flat_after(HELD, &daemon, "programs run with a terminal", budget(80, 2_000), async || with_terminal(&daemon).await)
        .await;
    flat_after(HELD, &daemon, "console attached", budget(80, 2_000), async || {
        let console = daemon.client.console_instance("idle", &ConsolePost::default()).await.expect("console");
        console.input.close().await.expect("left");
    })
    .await;
    flat(&daemon, "files pushed and pulled", budget(80, 10_000), async || push_and_pull(&daemon, &content).await).await;
    daemon.finish().await;
}

#[tokio::test]
async fn neither_do_instances_that_come_and_go() {
    let daemon = Daemon::new("leaks-made");
    daemon.import_busybox().await;
    daemon.launch("idle", &[]).await;
    fill(&daemon).await;
    // 10,000 in all courses together with --all: each is a whole boot.
    flat(&daemon, "instances made and deleted", budget(60, 3_400), async || {
        daemon.launch("web1", &[]).await;
        daemon.change("web1", "stop", true).await;
        daemon.try_delete("web1").await.expect("deleted");
    })
    .await;
    daemon.finish().await;
}

#[tokio::test]
async fn neither_do_imports_and_failed_starts() {
    let mut daemon = Daemon::new("leaks-failed");
    daemon.import_busybox().await;
    daemon.launch("idle", &[]).await;
    fill(&daemon).await;
    let work = testkit::Scratch::new("leaks-image");
    let archive = support::archive_of_zeros(&work, 1);
    flat(&daemon, "images imported and deleted", budget(18, 600), async || import_and_delete(&daemon, &archive).await)
        .await;
    // From its next start on, the daemon has guests fail on purpose; the one that runs goes on.
    daemon.kill();
    daemon.set_environment("SYSCTL_FAIL_LAUNCH", "tree");
    daemon.start();
    flat(&daemon, "failed starts", budget(60, 2_000), async || {
        let asked = daemon.client.create_instance(&post("bad", &[])).await.expect("accepted");
        daemon.client.finish(&asked).await.expect_err("it cannot start");
        if daemon.client.get_instance("bad").await.is_ok() {
            daemon.try_delete("bad").await.expect("deleted");
        }
    })
    .await;
    daemon.finish().await;
}
