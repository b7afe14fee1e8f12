//! Keepers and the spawn process as they die, and as they are of another release: what the daemon notices, how soon, and who
//! else does.

#![allow(missing_docs)]

mod support;

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use runtime::protocol::{Failure, KeepEvent, KeepRequest, MAX_MESSAGE, Message, VERSION, to_bytes};
use runtime::wire::each_field;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};
use support::strace::Tracer;
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

/// Waits until a guest was told to have another keeper.
async fn replaced(events: &mut sysctl_client::Events, name: &str) {
    let event = support::told(events, "instance-keeper-replaced").await;
    assert_eq!(event.metadata["name"], name);
}

#[tokio::test]
async fn a_keeper_that_died_while_there_was_no_daemon_is_replaced_at_its_start() {
    let mut daemon = Daemon::new("keeper-alone");
    daemon.import_busybox().await;
    daemon.launch("a", &[]).await;
    daemon.launch("b", &[]).await;
    let (a, b) = (daemon.init_pid("a").await, daemon.init_pid("b").await);
    daemon.kill();
    support::signal(support::taken::parent(a).expect("a keeper"), rustix::process::Signal::KILL);
    daemon.start();
    assert_eq!((daemon.init_pid("a").await, daemon.init_pid("b").await), (a, b));
    assert_eq!(daemon.print("a", &["echo", "alive"]).await, "alive");
    daemon.change("a", "stop", true).await;
    assert_eq!(daemon.status("a").await, "Stopped");
    daemon.finish().await;
}

#[tokio::test]
async fn a_spawn_process_that_does_not_run_is_told_with_its_end_and_what_to_do() {
    let mut daemon = Daemon::with_own_programs("no-spawn");
    daemon.kill();
    let socket = daemon.runtime_dir().join("spawn.socket").display().to_string();
    let former = support::taken::spawn(&daemon.runtime_dir());
    support::signal(former, rustix::process::Signal::KILL);
    testkit::eventually("it to end", || (!processes().iter().any(|p| p.arguments.contains(&socket))).then_some(()));
    for (script, how) in [("exit 3", "ended with code 3"), ("kill -SEGV $$", "was ended by signal 11")] {
        daemon.install("sysctl-keeper", format!("#!/bin/sh\n{script}\n").as_bytes());
        let output = daemon.command().output().expect("run the daemon");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(how) && said.contains("--version tells"), "{said}");
    }
    daemon.install("sysctl-keeper", &std::fs::read(support::program("sysctl-keeper")).expect("the keeper"));
    daemon.start();
    daemon.finish().await;
}

/// Whether something lies in a socket of the process whose other end is open.
fn has_order(pid: u32) -> bool {
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
    let pidfd = rustix::process::pidfd_open(process, PidfdFlags::empty()).expect("a process");
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors").flatten();
    let sockets =
        fds.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:")));
    let numbers = sockets.filter_map(|fd| fd.file_name().to_str()?.parse().ok());
    numbers.into_iter().any(|number| {
        let copy = rustix::process::pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty()).expect("a copy");
        let mut fds = [PollFd::new(&copy, PollFlags::IN)];
        rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).expect("poll");
        fds[0].revents() == PollFlags::IN
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_that_comes_late_makes_no_guest_for_a_daemon_that_is_gone() {
    let mut daemon = Daemon::new("late");
    daemon.import_busybox().await;
    // The one that waits for its spec is held still where the next daemon cannot find it yet, and has its order.
    let spawn = support::taken::spawn(&daemon.runtime_dir());
    let children = || processes().into_iter().filter(|process| process.parent == spawn);
    let spare = testkit::eventually("a keeper that waits", || children().map(|process| process.pid).next());
    let _held = support::Held::new(spare);
    let stop_it = ["-e", "trace=bind", "-e", "inject=bind:signal=STOP:when=1"].map(str::to_owned);
    let tracer = Tracer::attach(&[spare], &stop_it, &daemon.scratch().join("strace"));
    let operation = daemon.client.create_instance(&support::post("a", &[])).await.expect("accepted");
    let keep = daemon.runtime_dir().join("keep");
    let boots = || std::fs::read_dir(&keep).into_iter().flatten().flatten();
    let bound = || boots().find(|boot| boot.path().join(format!(".{spare:x}")).exists());
    testkit::eventually("the keeper to be held", || bound().map(drop));
    testkit::eventually("its order", || has_order(spare).then_some(()));
    daemon.kill();
    // As if it had come as far as to clone its guest since the next daemon looked.
    let mut cloned = std::process::Command::new("sleep").arg("1000").spawn().expect("sleep");
    let _cloned = support::Held::new(cloned.id());
    let boot = boots().next().expect("a boot").file_name();
    let below = Path::new(&format!("sysctl-{}", support::mark(&daemon.state_dir()))).join(boot);
    for group in support::group_roots().iter().map(|root| root.join(&below)).filter(|group| group.exists()) {
        let payload = group.join("payload");
        let group = if payload.exists() { payload } else { group };
        std::fs::write(group.join("cgroup.procs"), cloned.id().to_string()).expect("moved");
    }
    daemon.start();
    let ended = daemon.client.wait_operation(&operation.id, Some(support::PATIENCE)).await.expect("an operation");
    assert!(ended.is_final() && ended.err.is_empty(), "{ended:?}\n{}", daemon.log());
    assert!(!cloned.wait().expect("its end").success());
    let init = daemon.init_pid("a").await;
    tracer.detach(false);
    support::signal(spare, rustix::process::Signal::CONT);
    testkit::eventually("the late keeper to end", || (!Path::new(&format!("/proc/{spare}")).exists()).then_some(()));
    // The other one was left its name.
    daemon.kill();
    daemon.start();
    assert_eq!(daemon.init_pid("a").await, init);
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_and_the_spawn_process_that_die_together_take_no_guest_along() {
    let daemon = Daemon::new("both");
    daemon.import_busybox().await;
    daemon.launch("a", &[]).await;
    let mut events = daemon.client.get_events(&Default::default()).await.expect("events");
    for round in 0..testkit::budget(3, 30) {
        if round > 0 {
            // The next boot has a keeper again that is init's parent.
            daemon.change("a", "restart", true).await;
        }
        let init = daemon.init_pid("a").await;
        let keeper = support::taken::parent(init).expect("a keeper");
        let spawn = support::taken::spawn(&daemon.runtime_dir());
        // It is asked for another keeper and dies before it answers.
        support::signal(spawn, rustix::process::Signal::STOP);
        support::signal(keeper, rustix::process::Signal::KILL);
        testkit::eventually("its order", || has_order(spawn).then_some(()));
        support::signal(spawn, rustix::process::Signal::KILL);
        replaced(&mut events, "a").await;
        assert_eq!(daemon.print("a", &["echo", "alive"]).await, "alive", "round {round}");
        assert_eq!(daemon.init_pid("a").await, init);
    }
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_can_have_no_keeper_runs_on_and_has_one_as_soon_as_it_can() {
    let daemon = Daemon::with_own_programs("unkept");
    daemon.import_busybox().await;
    daemon.launch("a", &[]).await;
    let init = daemon.init_pid("a").await;
    let keeper = std::fs::read(support::program("sysctl-keeper")).expect("the keeper");
    daemon.install("sysctl-keeper", b"#!/bin/sh\nexit 3\n");
    support::signal(support::taken::spawn(&daemon.runtime_dir()), rustix::process::Signal::KILL);
    support::signal(support::taken::parent(init).expect("a keeper"), rustix::process::Signal::KILL);
    testkit::eventually("it to be given up", || {
        daemon.log().contains("no other keeper for its guest boot=").then_some(())
    });
    let mut events = daemon.client.get_events(&Default::default()).await.expect("events");
    assert_eq!((daemon.status("a").await.as_str(), daemon.init_pid("a").await), ("Running", init));
    // What needs no keeper is done.
    daemon.change("a", "freeze", false).await;
    daemon.change("a", "unfreeze", false).await;
    let refused = daemon.exec_with("a", &order(&["true"]), b"").await.map(drop).expect_err("nobody to run it");
    assert!(refused.to_string().contains("keeper"), "{refused}");
    daemon.install("sysctl-keeper", &keeper);
    replaced(&mut events, "a").await;
    assert_eq!(daemon.print("a", &["echo", "alive"]).await, "alive");
    assert_eq!(daemon.init_pid("a").await, init);
    daemon.finish().await;
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
        replaced(&mut events, "victim").await;
        taken.push(killed.elapsed());
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
fn wait_for(moment: usize, keep: &Path, known: &[std::ffi::OsString]) {
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

/// Statuses as keepers of each release wrote them, see `runtime/tests/samples.rs`; never changed, only added to.
const STATUSES: [(&str, &str); 1] = [(
    "0.1.0",
    "010100000000012600000030303030303030302d303030302d303030302d303030302d3030303030303030303030312e3302010000000303040000\
     006712000006080000000c000000000000000724000000001f00000001040000000700000002040000006812000007080000000300000000000000\
     09040000005c1200000a05000000302e312e30",
)];

/// A keeper of an older release: it tells its status as that did, and does nothing else.
struct OldKeeper {
    control: PathBuf,
    listener: OwnedFd,
    status: Vec<u8>,
}

impl OldKeeper {
    /// In the place of the keeper of a boot, with the content of a sample but for what names the guest.
    fn instead(control: &Path, sample: &str, boot: &str, pid: u32) -> OldKeeper {
        std::fs::rename(control, control.with_extension("real")).expect("set the real one aside");
        let socket = |kind| rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None);
        let listener = socket(SocketType::SEQPACKET).expect("socket");
        rustix::net::bind(&listener, &SocketAddrUnix::new(control).expect("path")).expect("bind");
        rustix::net::listen(&listener, 4).expect("listen");
        let hex: Vec<u8> = sample.bytes().collect();
        let digits = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("hex");
        let bytes: Vec<u8> = hex.chunks(2).map(digits).collect();
        let mut status = bytes[..6].to_vec();
        let mut put = |tag: u8, payload: &[u8]| {
            status.push(tag);
            status.extend_from_slice(&(payload.len() as u32).to_le_bytes());
            status.extend_from_slice(payload);
            Some(())
        };
        let changed = each_field(&bytes[6..], |tag, payload| match tag {
            1 => put(tag, boot.as_bytes()),
            3 => put(tag, &pid.to_le_bytes()),
            _ => put(tag, payload),
        });
        assert!(changed.is_some(), "a whole sample");
        OldKeeper { control: control.to_owned(), listener, status }
    }

    /// Serves one daemon until that goes; the kinds of all that it asked.
    fn serve(self) -> std::thread::JoinHandle<(OldKeeper, BTreeSet<u8>)> {
        std::thread::spawn(move || {
            let mut asked = BTreeSet::new();
            let socket = rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC).expect("a daemon");
            let say = |bytes: &[u8]| kernel::scm::send(socket.as_fd(), bytes, &[], false);
            say(&self.status).expect("told");
            while let Ok((bytes, _)) = kernel::scm::receive_whole(socket.as_fd(), MAX_MESSAGE, true) {
                let [version, kind, a, b, c, d, record @ ..] = &*bytes else { break };
                assert!(*version <= VERSION);
                asked.insert(*kind);
                let answer = match KeepRequest::decode(*kind, record) {
                    Some(KeepRequest::Status(_)) => {
                        let mut status = self.status.clone();
                        status[2..6].copy_from_slice(&[*a, *b, *c, *d]);
                        status
                    }
                    _ => {
                        let unknown =
                            Failure::new("request", "decode", "unknown to this release", kernel::Errno::NOSYS);
                        to_bytes(u32::from_le_bytes([*a, *b, *c, *d]), &KeepEvent::Failed(unknown))
                    }
                };
                if say(&answer).is_err() {
                    break;
                }
            }
            (self, asked)
        })
    }

    /// The real keeper is found again.
    fn leave(self) {
        std::fs::rename(self.control.with_extension("real"), &self.control).expect("put the real one back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_of_each_older_release_is_adopted() {
    let mut daemon = Daemon::new("older");
    daemon.import_busybox().await;
    daemon.launch("a", &[]).await;
    let init = daemon.init_pid("a").await;
    for (release, sample) in STATUSES {
        daemon.kill();
        let keep = std::fs::read_dir(daemon.runtime_dir().join("keep")).expect("keepers");
        let directory = keep.flatten().next().expect("a keeper").path();
        let boot = directory.file_name().and_then(|name| name.to_str()).expect("a boot").to_owned();
        let serving = OldKeeper::instead(&directory.join("control"), sample, &boot, init).serve();
        daemon.start();
        assert_eq!(daemon.status("a").await, "Running");
        // What it cannot do it says, and everything else goes on.
        let exec = daemon.client.exec_instance("a", &order(&["true"])).await.expect("accepted");
        let refused = daemon.client.exec_result(&exec.operation.id).await.expect_err("refused").to_string();
        assert!(refused.contains("unknown to this release") && refused.contains("older release"), "{refused:?}");
        let told = || daemon.log().contains("keepers go on in their former program").then_some(());
        testkit::eventually("the refusal to be replaced", told);
        daemon.kill();
        let (keeper, asked) = serving.join().expect("served");
        // Exec, Status and Replace.
        assert!([3, 9, 11].iter().all(|kind| asked.contains(kind)), "{asked:?}");
        keeper.leave();
        daemon.start();
        assert_eq!((daemon.print("a", &["echo", "alive"]).await.as_str(), daemon.init_pid("a").await), ("alive", init));
        eprintln!("figure: keeper of release {release} adopted, its guest undisturbed");
    }
    daemon.finish().await;
}
