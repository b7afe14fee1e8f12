//! Guests that do nothing: held still, and woken by whatever wants them.

#![allow(missing_docs)]

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use support::Daemon;
use sysctl_api::Event;

const MIB: u64 = 1 << 20;

/// Waits until something is told of an instance, and returns it.
async fn told(events: &mut sysctl_client::Events, action: &str) -> Event {
    let wait = async {
        loop {
            let event = events.next().await.expect("events").expect("an event");
            if event.metadata["action"] == action {
                return event;
            }
        }
    };
    tokio::time::timeout(support::PATIENCE, wait).await.unwrap_or_else(|_| panic!("{action} was not told"))
}

async fn address(daemon: &Daemon) -> IpAddr {
    let state = daemon.client.get_instance_state("web1").await.expect("state");
    let eth0 = &state.network.as_ref().expect("links")["eth0"];
    let address = eth0.addresses.iter().find(|address| address.family == "inet").expect("an address");
    address.address.parse().expect("an address")
}

/// One page from the guest's web server; when it came.
fn page(server: SocketAddr) -> (Duration, String) {
    let begun = Instant::now();
    let mut stream = TcpStream::connect(server).expect("connect");
    stream.set_read_timeout(Some(support::PATIENCE)).expect("a time-out");
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").expect("ask");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    (begun.elapsed(), text)
}

/// Whether the guest's processes are held still, by the kernel's own word.
async fn is_frozen(pid: u32) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its group");
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).expect("in cgroup2");
    let (path, _) = path.split_once("/payload").expect("its name");
    let events = support::group_roots().into_iter().map(|root| root.join(path).join("cgroup.events"));
    events.into_iter().any(|file| std::fs::read_to_string(file).is_ok_and(|text| text.contains("frozen 1")))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_does_nothing_sleeps_and_answers_the_first_packet() {
    let daemon = Daemon::new("idle-packet");
    daemon.import_busybox().await;
    let mut events = daemon.client.get_events(&Default::default()).await.expect("events");
    daemon.launch("web1", &[("idle.freeze", "1s")]).await;
    let serve = "mkdir -p /www; echo hello > /www/index.html; dd if=/dev/zero of=/root/cached bs=1M count=60 2>/dev/null; \
        sync; cat /root/cached > /dev/null; httpd -p 80 -h /www";
    assert_eq!(daemon.exec("web1", &["sh", "-c", serve]).await.code, 0);
    let server = SocketAddr::new(address(&daemon).await, 80);
    let pid = daemon.init_pid("web1").await;
    let (awake, text) = page(server);
    assert!(text.ends_with("hello\n"), "{text}");
    let before = daemon.client.get_load().await.expect("load")[0].memory_bytes;
    let mut replies = Vec::new();
    let mut asleep = 0;
    for _ in 0..5 {
        told(&mut events, "instance-slept").await;
        assert!(is_frozen(pid).await);
        assert_eq!(daemon.status("web1").await, "Running", "to others it runs");
        asleep = daemon.client.get_load().await.expect("load")[0].memory_bytes;
        let (elapsed, text) = tokio::task::spawn_blocking(move || page(server)).await.expect("a page");
        assert!(text.ends_with("hello\n"), "{text}");
        replies.push(elapsed);
        let woken = told(&mut events, "instance-woken").await;
        assert_eq!(woken.metadata["context"]["cause"], "a frame", "{woken:?}");
        assert!(!is_frozen(pid).await);
    }
    assert!(asleep < before, "{asleep} of {before} bytes");
    let reply = median(replies);
    eprintln!(
        "figure: a sleeping guest holds {:.1} MiB of the {:.1} it held awake; a page from it takes {} us from the first packet (awake {} us)",
        asleep as f64 / MIB as f64,
        before as f64 / MIB as f64,
        reply.as_micros(),
        awake.as_micros()
    );
    assert!(reply < testkit::allowed(Duration::from_millis(500)), "{reply:?}");
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_wake_a_guest_and_so_does_a_daemon_that_did_not_hear_of_calls() {
    let mut daemon = Daemon::new("idle-requests");
    daemon.import_busybox().await;
    let mut events = daemon.client.get_events(&Default::default()).await.expect("events");
    daemon.launch("web1", &[("idle.freeze", "1s")]).await;
    let pid = daemon.init_pid("web1").await;
    told(&mut events, "instance-slept").await;
    let begun = Instant::now();
    assert_eq!(daemon.print("web1", &["echo", "well"]).await, "well");
    let exec = begun.elapsed();
    assert_eq!(told(&mut events, "instance-woken").await.metadata["context"]["cause"], "exec");
    // Not while somebody runs something in it, however little that does.
    assert_eq!(daemon.print("web1", &["sh", "-c", "sleep 3; echo over"]).await, "over");
    told(&mut events, "instance-slept").await;
    // A limit of who sleeps needs nobody awake.
    let limit = [("limits.processes".to_owned(), Some("77".to_owned()))].into();
    daemon.client.patch_instance_limits("web1", &limit, None).await.expect("limited");
    assert!(is_frozen(pid).await);
    daemon.kill();
    daemon.start();
    let mut events = daemon.client.get_events(&Default::default()).await.expect("events");
    assert_eq!(daemon.print("web1", &["echo", "well"]).await, "well");
    assert_eq!(daemon.init_pid("web1").await, pid);
    told(&mut events, "instance-slept").await;
    // What it is asked in its sleep it does.
    daemon.change("web1", "freeze", false).await;
    assert_eq!(daemon.status("web1").await, "Frozen");
    daemon.change("web1", "unfreeze", false).await;
    told(&mut events, "instance-slept").await;
    daemon.change("web1", "restart", false).await;
    told(&mut events, "instance-slept").await;
    daemon.change("web1", "stop", false).await;
    daemon.change("web1", "start", false).await;
    told(&mut events, "instance-slept").await;
    daemon.set("web1", &[("idle.freeze", "")]).await.expect("taken back");
    assert!(!is_frozen(daemon.init_pid("web1").await).await);
    eprintln!("figure: exec in a sleeping guest took {} us", exec.as_micros());
    daemon.finish().await;
}

#[tokio::test]
async fn sleep_that_nothing_could_end_is_refused() {
    let daemon = Daemon::new("idle-refused");
    daemon.import_busybox().await;
    daemon.launch("web1", &[]).await;
    for (pairs, word) in [
        (&[("idle.freeze", "soon")][..], "30s"),
        (&[("idle.freeze", "0s")], "30s"),
        (&[("idle.freeze", "900h")], "30s"),
        (&[("idle.freeze", "1m"), ("namespaces.net", "host")], "nothing would wake it"),
    ] {
        let error = daemon.set("web1", pairs).await.expect_err(word).to_string();
        assert!(error.contains(word), "{pairs:?}: {error}");
    }
    daemon.finish().await;
}
