//! Sessions outlive the daemon: not a byte is lost when it is killed with an open exec, an open terminal or an open console,
//! and the exit code is kept and told.

#![allow(missing_docs)]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::{Daemon, order};
use sysctl_api::{ConsolePost, ExecPost};
use sysctl_client::{Exec, Output};

/// Bytes whose order can be told: a block that no power of two divides, over and over.
struct Pattern(Vec<u8>);

impl Pattern {
    fn new() -> Pattern {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        Pattern((0..1_000_003).map(|_| next()).collect())
    }

    /// Bytes from a position on, at most `most`.
    fn at(&self, position: usize, most: usize) -> &[u8] {
        let from = position % self.0.len();
        &self.0[from..self.0.len().min(from + most)]
    }

    fn check(&self, mut position: usize, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let expected = self.at(position, bytes.len());
            assert!(bytes[..expected.len()] == *expected, "other bytes than were sent, after {position}");
            position += expected.len();
            bytes = &bytes[expected.len()..];
        }
    }
}

/// Feeds the pattern to a program in the background.
fn feed(mut input: sysctl_client::Input, total: usize) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let pattern = Pattern::new();
        let mut sent = 0;
        while sent < total {
            let part = pattern.at(sent, (total - sent).min(50_000));
            input.write(part.to_vec().into()).await.expect("a program that takes input");
            sent += part.len();
        }
        input.close().await.expect("closed");
    })
}

/// Reads the pattern, and kills the daemon each time that another `total / (kills + 1)` bytes have come.
async fn read_through(daemon: &mut Daemon, output: &mut Output, total: usize, kills: usize) -> Duration {
    let pattern = Pattern::new();
    let (mut read, mut killed, mut away) = (0, 0, Duration::ZERO);
    while let Some(bytes) = output.read().await.unwrap_or_else(|e| panic!("{e:?} after {read}\n{}", daemon.log())) {
        pattern.check(read, &bytes);
        read += bytes.len();
        if killed < kills && read > (killed + 1) * total / (kills + 1) {
            killed += 1;
            let since = Instant::now();
            daemon.kill();
            daemon.start();
            away += since.elapsed();
        }
    }
    assert_eq!((read, killed), (total, kills));
    away
}

async fn all(mut output: Output) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(bytes) = output.read().await.expect("output") {
        all.extend_from_slice(&bytes);
    }
    all
}

/// The program of the command line, with pipes to it.
fn cli(daemon: &Daemon, words: &[&str]) -> Child {
    let mut command = Command::new(support::program("sysctl-cli"));
    command.arg("--socket").arg(daemon.client.socket()).args(words);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().expect("start sysctl-cli")
}

async fn begin(daemon: &Daemon, command: &[&str]) -> Exec {
    daemon.client.exec_instance("a", &order(command)).await.expect("exec")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_byte_of_a_pipe_arrives_though_the_daemon_is_killed() {
    let mut daemon = Daemon::new("pipes");
    daemon.import_busybox().await;
    daemon.launch("a", &[]).await;
    let total = 100 << 20;
    let kills = testkit::budget(3, 20);
    let since = Instant::now();
    let Exec { operation, stdin, mut stdout, stderr, control } = begin(&daemon, &["sh", "-c", "cat; exit 37"]).await;
    let fed = feed(stdin, total);
    let away = read_through(&mut daemon, &mut stdout, total, kills).await;
    fed.await.expect("fed");
    assert!(all(stderr.expect("a stream")).await.is_empty());
    assert_eq!(daemon.client.exec_result(&operation.id).await.expect("a code"), 37);
    drop(control);
    eprintln!(
        "figure: 100 MiB through a pipe with the daemon killed {kills} times: bytes lost 0, out of order 0, {:.1} s, of it \
         {:.1} s without a daemon; exit code 37 kept",
        since.elapsed().as_secs_f32(),
        away.as_secs_f32()
    );
    daemon.finish().await;
}

/// Reads until a text was shown.
async fn until(output: &mut Output, shown: &mut String, text: &str) {
    let reading = async {
        while !shown.contains(text) {
            let bytes = output.read().await.expect("output").expect("more output");
            shown.push_str(&String::from_utf8_lossy(&bytes));
        }
    };
    if tokio::time::timeout(support::PATIENCE, reading).await.is_err() {
        panic!("{text:?} was not shown, but {shown:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_goes_on_where_it_was_though_the_daemon_is_killed() {
    let mut daemon = Daemon::new("tty9");
    daemon.import_busybox().await;
    daemon.launch("a", &[]).await;
    let shell = ExecPost { interactive: true, width: 80, height: 25, ..order(&["sh"]) };
    let mut exec = daemon.client.exec_instance("a", &shell).await.expect("exec");
    let kills = testkit::budget(3, 20);
    let mut shown = String::new();
    until(&mut exec.stdout, &mut shown, "# ").await;
    for round in 0..kills {
        // What is typed before, while and after there is no daemon is all read, once and in order.
        exec.stdin.write(format!("echo before-{round}-$((1+1))\r").into()).await.expect("keys");
        daemon.kill();
        exec.stdin.write(format!("echo while-{round}-$((1+1))\r").into()).await.expect("keys");
        daemon.start();
        exec.stdin.write(format!("echo after-{round}-$((1+1))\r").into()).await.expect("keys");
        until(&mut exec.stdout, &mut shown, &format!("after-{round}-2")).await;
    }
    exec.control.resize(101, 33).await.expect("resize");
    exec.stdin.write("stty size; exit 9\r".into()).await.expect("keys");
    while let Some(bytes) = exec.stdout.read().await.expect("output") {
        shown.push_str(&String::from_utf8_lossy(&bytes));
    }
    let answers = shown.split(['\r', '\n']).filter(|line| line.ends_with("-2"));
    let expected = (0..kills).flat_map(|n| ["before", "while", "after"].map(|when| format!("{when}-{n}-2")));
    assert!(answers.eq(expected), "{shown}");
    assert!(shown.contains("33 101"), "{shown}");
    assert_eq!(daemon.client.exec_result(&exec.operation.id).await.expect("a code"), 9);
    eprintln!(
        "figure: shell on a terminal, daemon killed {kills} times amid typing: keys lost 0, doubled 0; code 9 kept"
    );
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_console_is_gone_on_with_at_its_place() {
    let mut daemon = Daemon::new("console9");
    daemon.import_busybox().await;
    daemon.launch("a", &[]).await;
    let mut console = daemon.client.console_instance("a", &ConsolePost::default()).await.expect("a console");
    let mut shown = String::new();
    daemon.print("a", &["sh", "-c", "echo line-0 > /dev/console"]).await;
    until(&mut console.output, &mut shown, "line-0").await;
    let mut writer = begin(&daemon, &["sh", "-c", "while read n; do echo line-$n > /dev/console; echo $n; done"]).await;
    let kills = testkit::budget(3, 20);
    for round in 1..=kills {
        daemon.kill();
        writer.stdin.write(format!("{round}\n").into()).await.expect("a word");
        daemon.start();
        until(&mut console.output, &mut shown, &format!("line-{round}")).await;
    }
    let lines: Vec<&str> = shown.split(['\r', '\n']).filter(|line| line.starts_with("line-")).collect();
    let expected: Vec<String> = (0..=kills).map(|round| format!("line-{round}")).collect();
    assert_eq!(lines, expected);
    eprintln!("figure: console looked at, daemon killed {kills} times: lines lost 0, doubled 0");
    drop((console, writer));
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_program_is_told_whoever_asks_and_whenever() {
    let mut daemon = Daemon::new("ends");
    daemon.import_busybox().await;
    daemon.launch("a", &[]).await;
    let post = ExecPost { wait_for_websocket: true, ..order(&["sh", "-c", "echo ready; read x; echo $x; exit 7"]) };
    let mut exec = daemon.client.exec_instance("a", &post).await.expect("exec");
    let mut shown = String::new();
    until(&mut exec.stdout, &mut shown, "ready").await;
    daemon.kill();
    exec.stdin.write("this\n".into()).await.expect("a line");
    daemon.start();
    assert_eq!(daemon.client.exec_result(&exec.operation.id).await.expect("a code"), 7);
    // Its end is on the disk, and its output is still there for whoever began it.
    daemon.kill();
    daemon.start();
    assert_eq!(daemon.client.exec_result(&exec.operation.id).await.expect("a code"), 7);
    assert_eq!(all(exec.stdout).await, b"this\n");
    // One without streams.
    let script = "touch /tmp/began; until [ -e /tmp/go ]; do sleep 0.05; done; exit 8";
    let (client, silent) = (daemon.client.clone(), order(&["sh", "-c", script]));
    let waiting = tokio::spawn(async move { client.exec_instance_silently("a", &silent).await });
    daemon.print("a", &["sh", "-c", "until [ -e /tmp/began ]; do sleep 0.05; done"]).await;
    daemon.kill();
    daemon.start();
    daemon.print("a", &["touch", "/tmp/go"]).await;
    assert_eq!(waiting.await.expect("joined").expect("a code"), 8);
    daemon.finish().await;
}

async fn running(daemon: &Daemon) -> i64 {
    daemon.client.get_instance_state("a").await.expect("state").processes
}

/// Sockets that a process has open.
fn sockets(pid: u32) -> usize {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a process").flatten();
    let targets = descriptors.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_client_that_is_gone_nothing_is_left_a_second_later() {
    let daemon = Daemon::new("gone");
    daemon.import_busybox().await;
    daemon.launch("a", &[]).await;
    let quiet = running(&daemon).await;
    // At most: the launch's own may still be closing.
    let before = sockets(daemon.pid());
    // One that reads nothing, one that writes without being read, one that waits.
    let words: [&[&str]; 3] = [&["yes"], &["sleep", "1000"], &["cat"]];
    let mut clients: Vec<Child> =
        words.iter().map(|words| cli(&daemon, &[&["exec", "a", "-T", "--"], *words].concat())).collect();
    let mut keys = clients[1].stdin.take().expect("input");
    let flood = std::thread::spawn(move || while keys.write_all(&[b'x'; 65536]).is_ok() {});
    while running(&daemon).await < quiet + 3 {}
    for client in &mut clients {
        client.kill().expect("kill");
        client.wait().expect("wait");
    }
    let since = Instant::now();
    testkit::eventually("the end of their sockets", || (sockets(daemon.pid()) <= before).then_some(()));
    let took = since.elapsed();
    flood.join().expect("joined");
    eprintln!("figure: 3 clients of exec killed: their sockets closed in {} ms", took.as_millis());
    assert!(took < Duration::from_secs(1), "{took:?}");
    for client in daemon.client.get_operations(false).await.expect("operations").remove("running").expect("three") {
        assert_eq!(daemon.client.exec_result(&client.id).await.expect("a code"), 129);
    }
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_client_joins_a_program_whose_client_is_gone() {
    let mut daemon = Daemon::new("joins");
    daemon.import_busybox().await;
    daemon.launch("a", &[]).await;
    let mut first = cli(&daemon, &["exec", "a", "-T", "--", "sh", "-c", "while read x; do echo got $x; done; exit 4"]);
    let (mut keys, shown) = (first.stdin.take().expect("input"), first.stdout.take().expect("output"));
    let mut shown = BufReader::new(shown).lines();
    // The client of the command line lives through a restart of the daemon without a word.
    for word in ["zero", "one"] {
        keys.write_all(format!("{word}\n").as_bytes()).expect("a line");
        assert_eq!(shown.next().expect("a line").expect("text"), format!("got {word}"));
        daemon.kill();
        daemon.start();
    }
    let running = daemon.client.get_operations(false).await.expect("operations").remove("running").expect("one");
    let id = running[0].id.clone();
    // Connected again, it is in nobody's way but that of another one.
    keys.write_all(b"again\n").expect("a line");
    assert_eq!(shown.next().expect("a line").expect("text"), "got again");
    let refused = daemon.client.attach_exec(&id).await.expect_err("somebody is connected");
    assert!(refused.to_string().contains("another client"), "{refused}");
    first.kill().expect("kill");
    first.wait().expect("wait");
    daemon.kill();
    daemon.start();
    let mut joined = daemon.client.attach_exec(&id).await.expect("joined");
    joined.stdin.write("two\n".into()).await.expect("a line");
    let mut shown = String::new();
    until(&mut joined.stdout, &mut shown, "got two").await;
    assert_eq!(shown, "got two\n");
    joined.stdin.close().await.expect("closed");
    assert_eq!(daemon.client.exec_result(&id).await.expect("a code"), 4);
    let over = daemon.client.attach_exec(&id).await.expect_err("it is over");
    assert!(over.to_string().contains("ended"), "{over}");
    daemon.finish().await;
}
