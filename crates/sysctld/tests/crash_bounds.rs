//! Clients that are many, slow or gone: bounded memory, time-outs that fire, and others who notice nothing.

#![allow(missing_docs)]

mod support;

use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};
use support::taken::Taken;
use support::{Daemon, order, patch};
use testkit::budget;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

/// Clients of each bad kind.
const MANY: usize = 1000;

/// Half of the requests of a measurement take no longer than this, in microseconds.
async fn median_us(act: impl AsyncFn()) -> u128 {
    let mut took = Vec::new();
    for _ in 0..61 {
        let begin = Instant::now();
        act().await;
        took.push(begin.elapsed().as_micros());
    }
    took.sort_unstable();
    took[took.len() / 2]
}

async fn connect(daemon: &Daemon, text: &str) -> UnixStream {
    let mut stream = UnixStream::connect(daemon.client.socket()).await.expect("connect");
    stream.write_all(text.as_bytes()).await.expect("send");
    stream
}

/// A listener to events that has read nothing but the head of the answer.
async fn listener(daemon: &Daemon, query: &str) -> UnixStream {
    let mut stream = connect(
        daemon,
        &format!(
            "GET /1.0/events{query} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        ),
    )
    .await;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("an answer"));
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    stream
}

/// Looks until the daemon holds hardly more descriptors than before.
fn until_closed(daemon: &Daemon, before: u64) -> Duration {
    let begin = Instant::now();
    testkit::eventually("descriptors to be closed", || {
        (Taken::of(daemon.pid()).fds <= before + 8).then(|| begin.elapsed())
    })
}

fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("the limit of open files");
}

#[tokio::test]
async fn thousands_of_bad_clients_are_bounded_and_others_do_not_notice() {
    raise_open_files();
    let daemon = Daemon::new("bounds");
    daemon.import_busybox().await;
    daemon.launch("web1", &[]).await;
    let get = async || drop(daemon.client.get_server().await.expect("the server"));
    let list = async || drop(daemon.client.get_instances_full(&Default::default()).await.expect("a list"));
    let (get_before, list_before) = (median_us(get).await, median_us(list).await);
    let before = Taken::of(daemon.pid());
    let mut listeners = Vec::new();
    let mut half_sent = Vec::new();
    let mut stuck = Vec::new();
    for _ in 0..MANY {
        // Not to lines of the log: the daemon of a test tells every detail.
        listeners.push(listener(&daemon, "?type=lifecycle,operation").await);
    }
    for _ in 0..MANY / 2 {
        half_sent.push(connect(&daemon, "GET /1.0 HTTP/1.1\r\nhost: ").await);
        stuck.push(connect(&daemon, "POST /1.0/instances HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{").await);
    }
    let begin = Instant::now();
    let (get_under, list_under) = (median_us(get).await, median_us(list).await);
    let under = Taken::of(daemon.pid());
    assert!(under.fds >= before.fds + 1900, "all of them are there: {under:?}");
    let kb = (under.anonymous_kb - before.anonymous_kb) / (2 * MANY as u64);
    eprintln!(
        "figure: {MANY} listeners that never read, {0} half-sent heads and {0} half-sent bodies: GET /1.0 {get_before} -> \
         {get_under} us, list {list_before} -> {list_under} us (medians), {kb} KB each in the daemon",
        MANY / 2
    );
    assert!(get_under < get_before * 2 + 5000 && list_under < list_before * 2 + 5000, "others notice");
    assert!(kb < 40, "{kb} KB each");
    // Heads have 10 seconds, bodies 30 without anything.
    for mut stream in half_sent {
        assert_eq!(stream.read_to_end(&mut Vec::new()).await.unwrap_or(0), 0, "hung up on without an answer");
    }
    let heads = begin.elapsed();
    let mut refused = 0;
    for mut stream in stuck {
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        refused += usize::from(String::from_utf8_lossy(&answer).contains("408"));
    }
    eprintln!(
        "figure: half-sent heads all closed after {} s, half-sent bodies after {} s, {refused} of {} refused in words",
        heads.as_secs(),
        begin.elapsed().as_secs(),
        MANY / 2
    );
    assert_eq!(refused, MANY / 2);
    assert!(heads < Duration::from_secs(20) && begin.elapsed() < Duration::from_secs(60));
    drop(listeners);
    let took = until_closed(&daemon, before.fds);
    eprintln!("figure: {MANY} listeners gone: descriptors back after {} ms", took.as_millis());
    assert!(took < Duration::from_secs(1), "{took:?}");
    daemon.finish().await;
}

#[tokio::test]
async fn one_user_with_too_many_connections_is_told_so() {
    raise_open_files();
    let daemon = Daemon::new("too-many");
    let before = Taken::of(daemon.pid()).fds;
    let mut open = Vec::new();
    for _ in 0..2048 {
        open.push(connect(&daemon, "").await);
    }
    let mut one_more = connect(&daemon, "GET /1.0 HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut answer = Vec::new();
    // After the answer it is hung up on, as nobody read the question.
    let _ = one_more.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.contains("503") && answer.contains("too many connections"), "{answer}");
    drop(open);
    until_closed(&daemon, before);
    daemon.client.get_server().await.expect("room again");
    daemon.finish().await;
}

#[tokio::test]
async fn a_client_that_vanishes_leaves_nothing_after_a_second() {
    let daemon = Daemon::new("vanish");
    daemon.import_busybox().await;
    daemon.launch("web1", &[]).await;
    daemon.print("web1", &["true"]).await;
    let times = budget(20, 300);
    let before = Taken::of(daemon.pid());
    for _ in 0..times {
        // An upload, a file, a wait and a listener, each cut off in the middle.
        let image = "POST /1.0/images HTTP/1.1\r\nhost: x\r\ncontent-type: application/octet-stream\r\ncontent-length: 9999999\r\n\r\n\x28";
        let file =
            "POST /1.0/instances/web1/files?path=/root/cut HTTP/1.1\r\nhost: x\r\ncontent-length: 9999\r\n\r\nhalf";
        let gone = [connect(&daemon, image).await, connect(&daemon, file).await, listener(&daemon, "").await];
        daemon.client.get_server().await.expect("served meanwhile");
        drop(gone);
    }
    let begin = Instant::now();
    until_closed(&daemon, before.fds);
    let uploads = || std::fs::read_dir(daemon.state_dir().join("uploads")).map_or(0, Iterator::count);
    testkit::eventually("uploads to be removed", || (uploads() == 0).then_some(()));
    let took = begin.elapsed();
    let after = Taken::of(daemon.pid());
    eprintln!(
        "figure: {times} uploads, file pushes and listeners cut off: descriptors {} -> {} and no upload left after {} ms, \
         memory {} -> {} KB",
        before.fds,
        after.fds,
        took.as_millis(),
        before.anonymous_kb,
        after.anonymous_kb
    );
    assert!(took < Duration::from_secs(1), "{took:?}");
    daemon.finish().await;
}

#[tokio::test]
async fn output_without_end_waits_for_its_reader() {
    let daemon = Daemon::new("flood");
    daemon.import_busybox().await;
    daemon.launch("web1", &[]).await;
    let megabytes = budget(64, 1024) as u64;
    let length = format!("{}", megabytes << 20);
    let mut exec =
        daemon.client.exec_instance("web1", &order(&["head", "-c", &length, "/dev/zero"])).await.expect("exec");
    let before = Taken::of(daemon.pid());
    let mut most = before.anonymous_kb;
    let (mut read, begin) = (0u64, Instant::now());
    while let Some(bytes) = exec.stdout.read().await.expect("output") {
        read += bytes.len() as u64;
        // A slow reader: it does something else after each part, and asks what the daemon holds for it.
        if read % (1 << 20) < bytes.len() as u64 {
            most = most.max(Taken::of(daemon.pid()).anonymous_kb);
        }
    }
    assert_eq!(read, megabytes << 20, "nothing is lost");
    let rate = megabytes as f64 / begin.elapsed().as_secs_f64();
    assert_eq!(daemon.client.exec_result(&exec.operation.id).await.expect("a result"), 0);
    eprintln!(
        "figure: {megabytes} MB of exec output: {rate:.0} MB/s, daemon {} -> {most} KB at most",
        before.anonymous_kb
    );
    assert!(most < before.anonymous_kb + 4096, "what nobody has read is not piled up");
    storm(&daemon).await;
    daemon.finish().await;
}

/// Many short programs at once.
async fn storm(daemon: &Daemon) {
    let times = budget(200, 10_000);
    let begin = Instant::now();
    let mut running = JoinSet::new();
    let (mut begun, mut ended) = (0, 0);
    while ended < times {
        // As many as a guest has room for, with some to spare for those that are being put away.
        while begun < times && running.len() < 8 {
            let client = daemon.client.clone();
            running.spawn(async move { client.exec_instance_silently("web1", &order(&["true"])).await });
            begun += 1;
        }
        let code = running.join_next().await.expect("one runs").expect("no panic");
        assert_eq!(code.unwrap_or_else(|e| panic!("{e}\n{}", daemon.log())), 0);
        ended += 1;
    }
    eprintln!("figure: exec storm: {times} programs, {:.0} a second", times as f64 / begin.elapsed().as_secs_f64());
}

#[tokio::test]
async fn a_thousand_requests_at_once_on_one_instance_are_done_or_refused_in_words() {
    raise_open_files();
    let daemon = Daemon::new("at-once");
    daemon.import_busybox().await;
    for at_once in [40, 1000] {
        daemon.launch("web1", &[]).await;
        let mut asked = JoinSet::new();
        for n in 0..at_once {
            let client = daemon.client.clone();
            asked.spawn(async move { one_of_many(&client, n).await });
        }
        let (mut done, mut refused) = (0, 0);
        while let Some(outcome) = asked.join_next().await {
            match outcome.expect("no panic") {
                Ok(()) => done += 1,
                Err(sysctl_client::Error::Api { status: 400 | 404 | 409, .. }) => refused += 1,
                // Refused after it was accepted: a program whose guest is stopped or held still meanwhile.
                Err(sysctl_client::Error::Operation { message, .. }) if !message.contains("internal") => refused += 1,
                Err(error) => panic!("{error}\n{}", daemon.log()),
            }
        }
        eprintln!(
            "figure: {at_once} requests at once on one instance: {done} done, {refused} refused in words, internal errors 0"
        );
        assert!(done > 0 && done + refused == at_once);
        settle(&daemon).await;
    }
    daemon.finish().await;
}

async fn one_of_many(client: &sysctl_client::Client, n: usize) -> Result<(), sysctl_client::Error> {
    let state =
        |action: &str| sysctl_api::StatePut { action: action.into(), timeout: 30, force: true, stateful: false };
    let operation = match n % 7 {
        0 => client.update_instance_state("web1", &state("start")).await?,
        1 => client.update_instance_state("web1", &state("stop")).await?,
        2 => client.update_instance_state("web1", &state("freeze")).await?,
        3 => client.update_instance_state("web1", &state("unfreeze")).await?,
        4 => client.update_instance_state("web1", &state("restart")).await?,
        5 => client.patch_instance("web1", &patch(&[("limits.processes", &(1000 + n).to_string())]), None).await?,
        _ => return client.exec_instance_silently("web1", &order(&["true"])).await.map(drop),
    };
    client.finish(&operation).await.map(drop)
}

/// Whatever came of it is one of the states that there are, and it obeys.
async fn settle(daemon: &Daemon) {
    match daemon.status("web1").await.as_str() {
        "Frozen" => daemon.change("web1", "unfreeze", false).await,
        "Stopped" => daemon.change("web1", "start", false).await,
        other => assert_eq!(other, "Running"),
    }
    assert_eq!(daemon.print("web1", &["echo", "whole"]).await, "whole");
    daemon.change("web1", "stop", true).await;
    daemon.try_delete("web1").await.expect("deleted");
}
