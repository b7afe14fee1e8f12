//! The database damaged, its disk full or broken, another program in it: guests run on, the API says what it can't do, and
//! everything works again once it can.

#![allow(missing_docs)]

mod support;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use support::Daemon;
use sysctl_client::Error;

fn database(daemon: &Daemon) -> PathBuf {
    daemon.state_dir().join("sysctl.db")
}

/// What stands in `GET /1.0` about the database.
async fn told(daemon: &Daemon) -> String {
    daemon.client.get_server().await.expect("server").value.environment.database
}

/// What was tried, and how much of it failed.
#[derive(Default)]
struct Tried {
    all: usize,
    failed: Vec<String>,
}

impl Tried {
    fn note(&mut self, what: &str, fine: bool) {
        self.all += 1;
        self.failed.extend((!fine).then(|| what.to_owned()));
    }
}

/// How many of some guests are not those that they were.
async fn disturbed(daemon: &Daemon, before: &[(&str, u32)]) -> usize {
    let mut count = 0;
    for (name, init) in before {
        count += usize::from(daemon.init_pid(name).await != *init);
    }
    count
}

/// A way to damage a database; its files are those of a daemon that was killed, or that ended.
type Damage = fn(&Path);

fn flip_every_page(path: &Path) {
    let mut bytes = fs::read(path).expect("read");
    bytes.iter_mut().for_each(|byte| *byte ^= 0xff);
    fs::write(path, bytes).expect("write");
}

/// One byte in the middle of the texts of instances' documents: SQLite by itself does not notice.
fn flip_a_byte(path: &Path) {
    let bytes = fs::read(path).expect("read");
    let file = fs::File::options().write(true).open(path).expect("open");
    // Each of them, as some are left of what was there before.
    for at in bytes.windows(14).enumerate().filter_map(|(at, window)| (window == b"\"newest_boot\":").then_some(at)) {
        file.write_all_at(b"X", at as u64).expect("write");
    }
}

fn cut(path: &Path) {
    let file = fs::File::options().write(true).open(path).expect("open");
    file.set_len(8192).expect("cut");
}

fn remove(path: &Path) {
    fs::remove_file(path).expect("rm");
}

fn turn_into_a_directory(path: &Path) {
    remove(path);
    fs::create_dir(path).expect("mkdir");
}

fn turn_into_a_link(path: &Path) {
    fs::rename(path, path.with_extension("elsewhere")).expect("mv");
    std::os::unix::fs::symlink(path.with_extension("elsewhere"), path).expect("link");
}

fn lose_the_log(path: &Path) {
    fs::remove_file(format!("{}-wal", path.display())).expect("rm");
}

#[tokio::test]
async fn a_damaged_database_leaves_guests_running_and_is_made_anew_without_a_restart() {
    let mut daemon = Daemon::new("damaged");
    daemon.import_busybox().await;
    for name in ["a", "b", "off"] {
        daemon.launch(name, &[("user.note", name)]).await;
    }
    daemon.change("off", "stop", true).await;
    let before = [daemon.init_pid("a").await, daemon.init_pid("b").await];
    let path = database(&daemon);
    let damages: [(&str, Damage, bool); 7] = [
        ("every page flipped", flip_every_page, false),
        ("one byte of a document flipped", flip_a_byte, false),
        ("cut", cut, false),
        ("removed", remove, false),
        ("a directory", turn_into_a_directory, false),
        ("a link", turn_into_a_link, false),
        ("its log lost", lose_the_log, true),
    ];
    let (mut noticed, mut made_anew, mut of_guests) = (Tried::default(), Tried::default(), 0);
    let guests = [("a", before[0]), ("b", before[1])];
    for (what, damage, killed) in damages {
        // A change right before the end: the manifests have it, too.
        daemon.set("a", &[("user.what", what)]).await.expect("set");
        daemon.launch("late", &[]).await;
        daemon.try_change("late", "stop", true).await.expect("stopped");
        daemon.try_delete("late").await.expect("deleted");
        if killed {
            daemon.set("a", &[("user.last", what)]).await.expect("set");
            testkit::eventually("the manifests", || {
                let directory = fs::read_dir(format!("{}.manifests", path.display())).expect("manifests");
                let mut texts = directory.map(|e| fs::read_to_string(e.expect("entry").path()).unwrap_or_default());
                texts.any(|text| text.contains(&format!("\"user.last\":\"{what}\""))).then_some(())
            });
            daemon.kill();
        } else {
            daemon.terminate();
        }
        damage(&path);
        daemon.start();
        noticed.note(what, told(&daemon).await.starts_with("read-only: "));
        // Everything can be looked at and used, and nothing changed.
        of_guests += disturbed(&daemon, &guests).await;
        assert_eq!(daemon.client.get_instances(&Default::default()).await.expect("list").len(), 3);
        assert_eq!(daemon.client.get_instance("a").await.expect("a").value.config["user.what"], what);
        assert_eq!(daemon.status("off").await, "Stopped");
        assert_eq!(daemon.print("a", &["echo", "alive"]).await, "alive");
        let refused = daemon.set("a", &[("user.note", "x")]).await.expect_err("read-only");
        assert_eq!(refused.status(), Some(503), "{what}: {refused}");
        assert!(refused.to_string().contains("doctor --repair"), "{what}: {refused}");
        assert_eq!(daemon.try_change("a", "stop", true).await.expect_err("read-only").status(), Some(503));
        let findings = daemon.doctor().await.findings;
        assert!(findings.iter().any(|f| f.kind == "database" && f.fix.contains("--repair")), "{what}: {findings:?}");
        assert!(daemon.log().contains("the database is damaged"), "{what}");
        // Made anew.
        let report = daemon.client.repair().await.expect("repair");
        assert!(report.findings.is_empty(), "{what}: {report:?}\n{}", daemon.log());
        let note = |word: &str| report.notes.iter().any(|note| note.text.contains(word));
        // Killed between a manifest and the head, it cannot know that nothing is missing, and says so.
        assert!(note("made anew") && (killed || !note("not certain")), "{what}: {:?}", report.notes);
        made_anew.note(what, told(&daemon).await == "read-write");
        of_guests += disturbed(&daemon, &guests).await;
        daemon.set("b", &[("user.note", what)]).await.expect("set again");
        // The next start finds it whole.
        daemon.terminate();
        daemon.start();
        assert_eq!(told(&daemon).await, "read-write");
        assert_eq!(daemon.client.get_instance("b").await.expect("b").value.config["user.note"], what);
        daemon.healthy().await;
    }
    eprintln!(
        "figure: database of a running daemon damaged in {} ways: noticed {}, made anew {}, guests disturbed {of_guests}",
        noticed.all,
        noticed.all - noticed.failed.len(),
        made_anew.all - made_anew.failed.len(),
    );
    assert_eq!((noticed.failed, made_anew.failed, of_guests), (Vec::new(), Vec::new(), 0));
    daemon.finish().await;
}

#[tokio::test]
async fn a_newer_database_is_refused_and_not_touched() {
    let mut daemon = Daemon::new("newer");
    daemon.import_busybox().await;
    daemon.launch("a", &[]).await;
    let init = daemon.init_pid("a").await;
    daemon.terminate();
    let path = database(&daemon);
    let whole = fs::read(&path).expect("read");
    // As a later release would leave it: with a number and tables of its own.
    let mut migration = Command::new("sqlite3");
    migration.arg(&path).arg("CREATE TABLE newer (x); PRAGMA user_version = 99;");
    assert!(migration.status().expect("sqlite3").success());
    let newer = fs::read(&path).expect("read");
    let (code, said) = refuses_to_start(&daemon);
    assert!(code == Some(1) && said.contains("has version 99, newer than this program's"), "{said}");
    assert!(fs::read(&path).expect("read") == newer, "it was touched");
    assert!(Path::new(&format!("/proc/{init}")).exists(), "the guest was disturbed");
    fs::write(&path, whole).expect("write");
    daemon.start();
    assert_eq!(daemon.init_pid("a").await, init);
    daemon.finish().await;
}

/// Writes to a disk until nothing fits any more.
fn fill(path: &Path) {
    let zeros = vec![0u8; 1 << 16];
    let file = fs::File::create(path).expect("create");
    let mut at = 0;
    for size in [1 << 16, 4096, 1] {
        while file.write_all_at(&zeros[..size], at).is_ok() {
            at += size as u64;
        }
    }
}

fn status(result: Result<(), Error>) -> Option<u16> {
    result.err().and_then(|error| error.status())
}

/// Makes changes until one is refused: the log has some room of its own at first.
async fn until_refused(daemon: &Daemon, name: &str) -> Error {
    let note = "x".repeat(100_000);
    for n in 0..400 {
        if let Err(error) = daemon.set(name, &[("user.note", &format!("{n}{note}"))]).await {
            return error;
        }
    }
    panic!("the disk is never full");
}

#[tokio::test]
async fn a_full_state_disk_refuses_wishes_and_lets_everything_else_go_on() {
    let disk = testkit::mount::SmallDisk::new("full-state", 48);
    let daemon = Daemon::on(&disk.path());
    daemon.import_busybox().await;
    for name in ["a", "b", "c", "d"] {
        daemon.launch(name, &[("user.note", "before")]).await;
    }
    let init = daemon.init_pid("a").await;
    let filler = disk.path().join("filler");
    fill(&filler);
    let refused = until_refused(&daemon, "a").await;
    assert_eq!(refused.status(), Some(507), "{refused}");
    assert!(refused.to_string().contains("free some space"), "{refused}");
    let half = daemon.client.get_instance("a").await.expect("a").value.config["user.note"].clone();
    fill(&filler.with_extension("more"));
    // What is refused changes nothing.
    let mut wishes = Tried::default();
    let refused = status(daemon.set("a", &[("user.note", "after")]).await) == Some(507);
    let note = daemon.client.get_instance("a").await.expect("a").value.config["user.note"].clone();
    wishes.note("a note", refused && note == half);
    // Looking, running, stopping and deleting go on.
    let mut others = Tried::default();
    others.note("list", daemon.client.get_instances(&Default::default()).await.is_ok_and(|list| list.len() == 4));
    others.note("exec", daemon.print("a", &["echo", "alive"]).await == "alive");
    for name in ["b", "c"] {
        others.note("stop", daemon.try_change(name, "stop", true).await.is_ok());
    }
    others.note("delete", daemon.try_delete("b").await.is_ok());
    others.note("state", [daemon.status("c").await, daemon.status("a").await] == ["Stopped", "Running"]);
    // Nothing new, in words.
    let start = status(daemon.try_change("c", "start", false).await.map(drop));
    wishes.note("a start", start == Some(507) && daemon.status("c").await == "Stopped");
    let new = status(daemon.client.create_instance(&support::post("new", &[])).await.map(drop));
    wishes.note("a creation", new == Some(507) && daemon.client.get_instance("new").await.is_err());
    let findings = daemon.doctor().await.findings;
    assert!(findings.iter().any(|f| f.kind == "database" && f.text.contains("full")), "{findings:?}");
    // Room again: everything works, without a restart.
    fs::remove_file(&filler).expect("rm");
    let _ = fs::remove_file(filler.with_extension("more"));
    daemon.set("a", &[("user.note", "after")]).await.expect("room again");
    daemon.change("c", "start", false).await;
    daemon.launch("new", &[]).await;
    assert_eq!(daemon.init_pid("a").await, init);
    daemon.healthy().await;
    assert!(daemon.state_dir().join("sysctl.db.ballast").exists(), "the ballast is made again");
    eprintln!(
        "figure: state disk full to the last byte: of {} reads, execs, stops and deletions failed {}; of {} wishes half applied or not refused in words {}",
        others.all,
        others.failed.len(),
        wishes.all,
        wishes.failed.len()
    );
    assert_eq!((others.failed, wishes.failed), (Vec::new(), Vec::new()), "{}", daemon.log());
    daemon.finish().await;
}

#[tokio::test]
async fn a_daemon_starts_on_a_disk_that_is_full_and_on_one_without_inodes() {
    let disk = testkit::mount::SmallDisk::new("start-full", 48);
    let mut daemon = Daemon::on(&disk.path());
    daemon.import_busybox().await;
    daemon.launch("a", &[]).await;
    daemon.launch("b", &[]).await;
    let init = daemon.init_pid("a").await;
    daemon.terminate();
    let filler = disk.path().join("filler");
    fill(&filler);
    daemon.start();
    let mut of_guests = disturbed(&daemon, &[("a", init)]).await;
    assert_eq!(daemon.print("a", &["echo", "alive"]).await, "alive");
    daemon.change("b", "stop", true).await;
    daemon.try_delete("b").await.expect("deleted");
    fs::remove_file(&filler).expect("rm");
    // Every inode is somebody's.
    let many = disk.path().join("many");
    fs::create_dir(&many).expect("mkdir");
    for n in 0u32.. {
        if fs::File::create(many.join(n.to_string())).is_err() {
            break;
        }
    }
    assert_eq!(daemon.print("a", &["echo", "alive"]).await, "alive");
    let refused = daemon.client.create_instance(&support::post("new", &[])).await;
    let refused = match refused {
        Ok(operation) => daemon.client.finish(&operation).await.expect_err("no inodes"),
        Err(error) => error,
    };
    assert!(refused.to_string().contains("space") || refused.to_string().contains("full"), "{refused}");
    of_guests += disturbed(&daemon, &[("a", init)]).await;
    daemon.change("a", "stop", true).await;
    assert_eq!(daemon.status("a").await, "Stopped");
    fs::remove_dir_all(&many).expect("rm");
    daemon.change("a", "start", false).await;
    daemon.launch("new", &[]).await;
    eprintln!("figure: started on a full disk, ran on one without inodes: guests disturbed {of_guests}");
    assert_eq!(of_guests, 0);
    daemon.finish().await;
}

/// `strace` that gives a daemon's calls an error until it is dropped.
struct Faults {
    strace: Child,
}

impl Faults {
    fn new(daemon: &Daemon, calls: &str, error: &str) -> Faults {
        let said = daemon.scratch().join("strace");
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-e", "signal=none", "-e", &format!("trace={calls}")]);
        command.args(["-e", &format!("inject={calls}:error={error}"), "-p", &daemon.pid().to_string(), "-o"]);
        let strace = command.arg(&said).stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("strace");
        let faults = Faults { strace };
        testkit::eventually("strace", || is_traced(daemon.pid(), faults.strace.id()).then_some(()));
        faults
    }

    fn end(mut self) {
        support::signal(self.strace.id(), rustix::process::Signal::INT);
        self.strace.wait().expect("strace");
    }
}

/// Every thread of a process has this tracer.
fn is_traced(pid: u32, tracer: u32) -> bool {
    let line = format!("TracerPid:\t{tracer}\n");
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("tasks");
    tasks.flatten().all(|task| fs::read_to_string(task.path().join("status")).is_ok_and(|text| text.contains(&line)))
}

#[tokio::test]
async fn a_disk_that_fails_leaves_guests_running_and_what_happened_is_written_down_later() {
    for (error, calls) in [("EIO", "pwrite64,fsync,fdatasync,ftruncate"), ("ENOSPC", "pwrite64,fallocate")] {
        let mut daemon = Daemon::new("eio");
        daemon.import_busybox().await;
        daemon.launch("a", &[("user.note", "before")]).await;
        daemon.launch("b", &[]).await;
        daemon.launch("off", &[]).await;
        daemon.change("off", "stop", true).await;
        let (pid, init) = (daemon.pid(), daemon.init_pid("a").await);
        let (mut refusals, mut facts) = (Tried::default(), Tried::default());
        let faults = Faults::new(&daemon, calls, error);
        // Other changes are refused, and half of nothing happened.
        let refused = daemon.set("a", &[("user.note", "after")]).await.expect_err(error);
        let note = daemon.client.get_instance("a").await.expect("a").value.config["user.note"].clone();
        refusals.note("a note", [Some(500), Some(507)].contains(&refused.status()) && note == "before");
        let created = daemon.client.create_instance(&support::post("new", &[])).await;
        refusals.note("a creation", created.is_err() && daemon.client.get_instance("new").await.is_err());
        // A deletion needs to be written down.
        refusals.note("a deletion", daemon.try_delete("off").await.is_err() && daemon.status("off").await == "Stopped");
        assert_eq!(daemon.client.get_instances(&Default::default()).await.expect("list").len(), 3);
        assert_eq!(daemon.print("a", &["echo", "alive"]).await, "alive");
        // A stop happens, and it is said that it could not be written down.
        let stopped = daemon.try_change("b", "stop", true).await.expect_err(error).to_string();
        assert!(stopped.contains("was stopped") && stopped.contains("could not be written down"), "{error}: {stopped}");
        assert_eq!(daemon.status("b").await, "Stopped");
        let findings = daemon.doctor().await.findings;
        assert!(findings.iter().any(|f| f.kind == "database"), "{error}: {findings:?}");
        assert!(daemon.log().contains("the database cannot be written as usual"), "{error}");
        faults.end();
        // By itself; and what happened meanwhile is known to the next daemon.
        let mut events = daemon.client.get_events(&Default::default()).await.expect("events");
        let recovered = async {
            while !daemon.doctor().await.findings.is_empty() {
                events.next().await.expect("events").expect("an event");
            }
        };
        tokio::time::timeout(support::PATIENCE, recovered).await.expect("it recovers by itself");
        let lives = daemon.pid() == pid && Path::new(&format!("/proc/{pid}")).exists();
        daemon.kill();
        daemon.start();
        assert_eq!(daemon.init_pid("a").await, init);
        facts.note("the stop", daemon.status("b").await == "Stopped");
        facts.note("the other stop", daemon.status("off").await == "Stopped");
        let note = daemon.client.get_instance("a").await.expect("a").value.config["user.note"].clone();
        refusals.note("the note, later", note == "before");
        refusals.note("the creation, later", daemon.client.get_instance("new").await.is_err());
        daemon.set("a", &[("user.note", "after")]).await.expect("set");
        eprintln!(
            "figure: {error} at every write of a daemon: it died {} times; of {} wishes half applied {}; of {} stops forgotten {}",
            usize::from(!lives),
            refusals.all,
            refusals.failed.len(),
            facts.all,
            facts.failed.len()
        );
        assert_eq!((lives, refusals.failed, facts.failed), (true, Vec::new(), Vec::new()), "{error}");
        daemon.finish().await;
    }
}

/// A daemon on the directories of one that was stopped, which is expected to refuse: its exit code and what it said.
fn refuses_to_start(daemon: &Daemon) -> (Option<i32>, String) {
    // With a time-out: one that does not refuse runs on.
    let mut command = Command::new("timeout");
    command.args(["20", &support::program("sysctld").display().to_string(), "--state-dir"]).arg(daemon.state_dir());
    let refused = command.arg("--runtime-dir").arg(daemon.runtime_dir()).output().expect("sysctld");
    (refused.status.code(), String::from_utf8_lossy(&refused.stderr).into_owned())
}

#[tokio::test]
async fn nobody_locks_the_database_of_a_running_daemon_and_one_that_is_locked_is_refused_in_words() {
    let mut daemon = Daemon::new("locked");
    daemon.import_busybox().await;
    daemon.launch("a", &[("user.note", "before")]).await;
    let init = daemon.init_pid("a").await;
    let mut other = Command::new("sqlite3");
    other.arg(database(&daemon)).arg("BEGIN EXCLUSIVE;");
    let other = other.output().expect("sqlite3");
    assert!(String::from_utf8_lossy(&other.stderr).contains("locked"), "{other:?}");
    daemon.set("a", &[("user.note", "after")]).await.expect("set");
    daemon.terminate();
    let mut other = Command::new("sqlite3");
    other.arg(database(&daemon)).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut other = other.spawn().expect("sqlite3");
    let mut words = other.stdin.take().expect("stdin");
    std::io::Write::write_all(&mut words, b"BEGIN EXCLUSIVE;\n.print locked\n").expect("write");
    let mut line = String::new();
    let mut said = std::io::BufReader::new(other.stdout.take().expect("stdout"));
    std::io::BufRead::read_line(&mut said, &mut line).expect("locked");
    let begun = std::time::Instant::now();
    let (code, said) = refuses_to_start(&daemon);
    assert!(code == Some(1) && said.contains("is locked by another program: end it"), "{code:?} {said}");
    let waited = begun.elapsed();
    drop(words);
    other.wait().expect("sqlite3");
    daemon.start();
    let of_guests = disturbed(&daemon, &[("a", init)]).await;
    assert_eq!(daemon.client.get_instance("a").await.expect("a").value.config["user.note"], "after");
    assert_eq!(of_guests, 0);
    eprintln!(
        "figure: database locked by another program: a start waited {:.1} s and was refused in words, guests disturbed {of_guests}; \
         a running daemon's cannot be locked",
        waited.as_secs_f64()
    );
    daemon.finish().await;
}
