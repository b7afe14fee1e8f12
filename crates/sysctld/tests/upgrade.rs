//! An upgrade is a restart of the daemon: the spawn process and every keeper go on in the new program, and no guest, shell or
//! program in a guest notices.

#![allow(missing_docs)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::{Daemon, Process, order, processes};
use sysctl_api::ExecPost;
use sysctl_client::{Client, Exec};

/// A guest with a shell that somebody sits at.
struct Guest {
    name: String,
    init: u32,
    keeper: u32,
    shell: Exec,
    shown: String,
}

impl Guest {
    async fn launch(daemon: &Daemon, name: String) -> Guest {
        daemon.launch(&name, &[]).await;
        let order = ExecPost { interactive: true, width: 80, height: 25, ..order(&["sh"]) };
        let shell = daemon.client.exec_instance(&name, &order).await.expect("exec");
        let init = daemon.init_pid(&name).await;
        let keeper = support::taken::parent(init).expect("a keeper");
        let mut guest = Guest { name, init, keeper, shell, shown: String::new() };
        guest.until("# ").await;
        // What only this very shell knows.
        let secret = guest.secret();
        guest.type_line(&format!("secret={secret}")).await;
        guest
    }

    fn secret(&self) -> String {
        format!("{}-{}", self.name, self.init)
    }

    async fn type_line(&mut self, line: &str) {
        self.shell.stdin.write(format!("{line}\r").into()).await.expect("keys");
    }

    async fn until(&mut self, text: &str) {
        let reading = async {
            while !self.shown.contains(text) {
                let bytes = self.shell.stdout.read().await.expect("output").expect("more output");
                self.shown.push_str(&String::from_utf8_lossy(&bytes));
            }
        };
        if tokio::time::timeout(support::PATIENCE, reading).await.is_err() {
            panic!("{text:?} was not shown, but {:?}", self.shown);
        }
    }

    /// The same shell answers, in the same guest of the same keeper.
    async fn is_as_before(&mut self, daemon: &Daemon, round: &str) {
        self.type_line(&format!("echo {round}: $((20+1)) $secret")).await;
        let answer = format!("{round}: 21 {}", self.secret());
        self.until(&answer).await;
        assert_eq!(daemon.init_pid(&self.name).await, self.init);
        assert_eq!(support::taken::parent(self.init), Some(self.keeper));
    }

    async fn leave(mut self, daemon: &Daemon) {
        self.type_line("exit 7").await;
        while self.shell.stdout.read().await.expect("output").is_some() {}
        assert_eq!(daemon.client.exec_result(&self.shell.operation.id).await.expect("a code"), 7);
    }
}

async fn guests(daemon: &Daemon, count: usize) -> Vec<Guest> {
    daemon.import_busybox().await;
    let mut guests = Vec::new();
    for number in 0..count {
        guests.push(Guest::launch(daemon, format!("c{number}")).await);
    }
    guests
}

fn spawn_process(daemon: &Daemon) -> u32 {
    let socket = daemon.runtime_dir().join("spawn.socket").display().to_string();
    let is_it =
        |process: &Process| process.arguments.contains("spawn\0--socket") && process.arguments.contains(&socket);
    processes().into_iter().find(is_it).expect("a spawn process").pid
}

/// The keeper's program with something behind its end: another file that works like the first.
fn build(word: &str) -> Vec<u8> {
    let mut program = std::fs::read(support::program("sysctl-keeper")).expect("the program");
    program.extend_from_slice(word.as_bytes());
    program
}

fn runs(pid: u32, program: &[u8]) -> bool {
    let path = format!("/proc/{pid}/exe");
    let length = std::fs::metadata(&path).map_or(0, |program| program.len());
    length == program.len() as u64 && std::fs::read(&path).is_ok_and(|content| content == program)
}

/// How many of the keepers run a program.
fn count(guests: &[Guest], program: &[u8]) -> usize {
    guests.iter().filter(|guest| runs(guest.keeper, program)).count()
}

/// Asks the daemon for an answer all the time.
struct Probe {
    is_over: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Duration>,
}

impl Probe {
    fn start(daemon: &Daemon) -> Probe {
        let client = Client::new(daemon.client.socket());
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let task = tokio::spawn(async move {
            let mut often = tokio::time::interval(Duration::from_millis(1));
            let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
            while !over.load(Ordering::Acquire) {
                if client.get_server().await.is_ok() {
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                }
                often.tick().await;
            }
            longest
        });
        Probe { is_over, task }
    }

    /// The longest time without an answer.
    async fn end(self) -> Duration {
        self.is_over.store(true, Ordering::Release);
        self.task.await.expect("the probe")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_takes_every_keeper_along_and_no_shell_notices() {
    let mut daemon = Daemon::with_own_programs("upgrade");
    let mut guests = guests(&daemon, testkit::budget(10, 50)).await;
    let spawn = spawn_process(&daemon);
    let new = build("the next build");
    daemon.install("sysctl-keeper", &new);
    daemon.install("sysctld", &std::fs::read(support::program("sysctld")).expect("the daemon"));
    let probe = Probe::start(&daemon);
    daemon.terminate();
    let begun = Instant::now();
    daemon.start();
    testkit::eventually("keepers in the new program", || (count(&guests, &new) == guests.len()).then_some(()));
    let taken = begun.elapsed();
    let gap = probe.end().await;
    assert!(runs(spawn, &new), "the spawn process is another one, or runs another program\n{}", daemon.log());
    for guest in &mut guests {
        guest.is_as_before(&daemon, "upgraded").await;
    }
    eprintln!(
        "figure: upgrade with {} guests and a shell in each: shells lost 0, pids changed 0, no answer for {} ms, all \
         keepers in the new program after {} ms",
        guests.len(),
        gap.as_millis(),
        taken.as_millis()
    );
    // What is started afterwards runs the new program from the start.
    daemon.launch("later", &[]).await;
    assert!(runs(support::taken::parent(daemon.init_pid("later").await).expect("a keeper"), &new));
    // How a guest ends is still known after its keeper was killed: the spawn process is still their parent.
    let orphan = guests.swap_remove(0);
    support::signal(orphan.keeper, rustix::process::Signal::KILL);
    let is_its_child = || (support::taken::parent(orphan.init) == Some(spawn)).then_some(());
    testkit::eventually("the orphan at the spawn process", is_its_child);
    daemon.change(&orphan.name, "stop", false).await;
    assert_eq!(daemon.status(&orphan.name).await, "Stopped");
    for guest in guests {
        guest.leave(&daemon).await;
    }
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_dies_in_the_middle_of_an_upgrade_loses_no_shell() {
    let mut daemon = Daemon::with_own_programs("upgrade9");
    let mut guests = guests(&daemon, testkit::budget(6, 20)).await;
    let rounds = testkit::budget(4, 20);
    for round in 0..rounds {
        let new = build(&format!("build {round}"));
        daemon.install("sysctl-keeper", &new);
        daemon.kill();
        daemon.start();
        // Some went on in the new program, some did not yet.
        let some = round % guests.len();
        testkit::eventually("a keeper in the new program", || (count(&guests, &new) >= some).then_some(()));
        daemon.kill();
        daemon.start();
        testkit::eventually("all in the new program", || (count(&guests, &new) == guests.len()).then_some(()));
        for guest in &mut guests {
            guest.is_as_before(&daemon, &format!("round-{round}")).await;
        }
    }
    eprintln!("figure: daemon killed in the middle of {rounds} upgrades of {} guests: shells lost 0", guests.len());
    for guest in guests {
        guest.leave(&daemon).await;
    }
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_program_replaces_nothing_and_is_told_once() {
    let mut daemon = Daemon::with_own_programs("damaged");
    let mut guests = guests(&daemon, 2).await;
    let (old, spawn) = (build(""), spawn_process(&daemon));
    let mut holed = old.clone();
    holed[4096..old.len() / 2].fill(0);
    let damaged = [b"not a program".to_vec(), Vec::new(), old[..4096].to_vec(), holed];
    for (number, program) in damaged.iter().enumerate() {
        daemon.install("sysctl-keeper", program);
        daemon.terminate();
        daemon.start();
        for guest in &mut guests {
            guest.is_as_before(&daemon, &format!("damaged-{number}")).await;
        }
        assert!(runs(spawn, &old) && count(&guests, &old) == guests.len(), "{}", daemon.log());
        let told = daemon.log().lines().filter(|line| line.contains("the new program cannot be used")).count();
        assert_eq!(told, number + 1, "{}", daemon.log());
    }
    // Guests are started as before, too.
    daemon.launch("later", &[]).await;
    let new = build("mended");
    daemon.install("sysctl-keeper", &new);
    daemon.terminate();
    daemon.start();
    testkit::eventually("the mended program", || (count(&guests, &new) == guests.len()).then_some(()));
    for mut guest in guests {
        guest.is_as_before(&daemon, "mended").await;
        guest.leave(&daemon).await;
    }
    eprintln!(
        "figure: {} damaged programs put in the place of a good one: nothing lost, each told once",
        damaged.len()
    );
    daemon.finish().await;
}
