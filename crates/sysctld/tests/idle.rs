//! Guests that do nothing: held still, and woken by whatever wants them.

#![allow(missing_docs)]

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use support::{Daemon, told};

const MIB: u64 = 1 << 20;

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
async fn requests_wake_a_guest_also_after_a_restart_of_the_daemon() {
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

/// Waits until a guest's keeper, which is the parent of its init, has a packet socket: that hears of calls without a daemon.
fn until_held(init: u32) {
    testkit::eventually("its keeper to hold what hears of calls", || {
        let status = std::fs::read_to_string(format!("/proc/{init}/status")).ok()?;
        let keeper = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().to_owned();
        let packet = std::fs::read_to_string("/proc/net/packet").ok()?;
        let inodes: Vec<&str> = packet.lines().filter_map(|line| line.split_whitespace().last()).collect();
        let links = std::fs::read_dir(format!("/proc/{keeper}/fd")).ok()?.flatten();
        let mut sockets = links.filter_map(|entry| std::fs::read_link(entry.path()).ok()?.to_str().map(str::to_owned));
        sockets.any(|link| inodes.iter().any(|inode| link == format!("socket:[{inode}]"))).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sleeps_sleeps_on_over_a_restart_of_the_daemon_unless_it_was_called_meanwhile() {
    let mut daemon = Daemon::new("idle-restart");
    daemon.import_busybox().await;
    let mut events = daemon.client.get_events(&Default::default()).await.expect("events");
    daemon.launch("web1", &[("idle.freeze", "1s")]).await;
    let IpAddr::V4(guest) = address(&daemon).await else { panic!("an IPv4 address") };
    let pid = daemon.init_pid("web1").await;
    let used = || {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("its init");
        let mut fields = text.rsplit_once(')').expect("stat").1.split_whitespace().skip(11);
        fields.next().and_then(|ticks| ticks.parse::<u64>().ok()).expect("ticks")
    };
    told(&mut events, "instance-slept").await;
    until_held(pid);
    let before = used();
    for end in ["killed", "terminated", "killed again"] {
        match end {
            "terminated" => daemon.terminate(),
            _ => daemon.kill(),
        }
        assert!(is_frozen(pid).await, "{end}");
        daemon.start();
        let mut events = daemon.client.get_events(&Default::default()).await.expect("events");
        assert_eq!(daemon.status("web1").await, "Running");
        assert!(is_frozen(pid).await, "{end}: it sleeps on");
        if end == "terminated" {
            // It is heard as before.
            assert_eq!(daemon.print("web1", &["echo", "well"]).await, "well");
            assert_eq!(told(&mut events, "instance-woken").await.metadata["context"]["cause"], "exec");
            told(&mut events, "instance-slept").await;
        }
        until_held(pid);
    }
    assert!(used() <= before + 5, "{} ticks, then {}", before, used());
    let answered = tokio::task::spawn_blocking(move || ping(guest)).await.expect("an answer");
    let mut events = daemon.client.get_events(&Default::default()).await.expect("events");
    daemon.until_status("web1", "Running").await;
    told(&mut events, "instance-slept").await;
    until_held(pid);
    // Called while nobody was there to wake it: the next daemon does.
    daemon.kill();
    tokio::task::spawn_blocking(move || ping(guest)).await.expect("the kernel answers");
    assert!(is_frozen(pid).await);
    daemon.start();
    testkit::eventually("it to be awake", || {
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?.split_once("/payload")?.0.to_owned();
        let mut files = support::group_roots().into_iter().map(|root| root.join(&path).join("cgroup.events"));
        files.any(|file| std::fs::read_to_string(file).is_ok_and(|text| text.contains("frozen 0"))).then_some(())
    });
    eprintln!(
        "figure: a guest slept on over 3 daemons, answered a ping {} us after, and was woken by the daemon after one that it missed",
        answered.as_micros()
    );
    daemon.finish().await;
}

/// An echo request (RFC 792), and how long its answer took.
fn ping(guest: std::net::Ipv4Addr) -> Duration {
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto};
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)).expect("a raw socket");
    rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Recv, Some(support::PATIENCE))
        .expect("a time-out");
    let mut request = [8, 0, 0, 0, 0x12, 0x34, 0, 1];
    let sum = !request.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum::<u32>() as u16;
    request[2..4].copy_from_slice(&sum.to_be_bytes());
    let begun = Instant::now();
    let to = std::net::SocketAddrV4::new(guest, 0);
    rustix::net::sendto(&socket, &request, SendFlags::empty(), &to).expect("sent");
    let mut answer = [0u8; 256];
    loop {
        let (length, _) = rustix::net::recv(&socket, &mut answer, RecvFlags::empty()).expect("an answer");
        // Behind 20 bytes of IPv4: an answer, to us.
        if length >= 28 && answer[20] == 0 && answer[24..26] == [0x12, 0x34] {
            return begun.elapsed();
        }
    }
}

/// Sends a guest, out of the host's end of its link, what one kernel asks another or tells it: who has an address (RFC 826,
/// RFC 4861), and what a router answers a link that came up.
async fn chatter(daemon: &Daemon) {
    use std::os::fd::AsFd;

    use kernel::packet;
    let state = daemon.client.get_instance_state("web1").await.expect("state");
    let eth0 = &state.network.as_ref().expect("links")["eth0"];
    let mac: model::Mac = eth0.hwaddr.parse().expect("an address");
    let index = std::fs::read_to_string(format!("/sys/class/net/{}/ifindex", eth0.host_name)).expect("a link");
    let index = index.trim().parse().expect("a number");
    let nothing = [kernel::seccomp::Instruction { code: 0x06, jump_true: 0, jump_false: 0, value: 0 }];
    let socket = packet::open(index, packet::EVERY_TYPE, packet::Side::In, &nothing).expect("a socket");
    for (kind, at, byte) in
        [(0x0806u16, 21, 1), (0x0806, 21, 2), (0x86dd, 54, 134), (0x86dd, 54, 135), (0x86dd, 54, 136)]
    {
        let mut frame = [mac.0.as_slice(), &[2; 6], &kind.to_be_bytes()].concat();
        frame.resize(60, 0);
        frame[20] = 58;
        frame[at] = byte;
        packet::send(socket.as_fd(), index, &frame).expect("sent");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ping_the_console_and_files_wake_a_guest_and_each_is_named() {
    let daemon = Daemon::new("idle-calls");
    daemon.import_busybox().await;
    let mut events = daemon.client.get_events(&Default::default()).await.expect("events");
    daemon.launch("web1", &[("idle.freeze", "1s")]).await;
    let IpAddr::V4(guest) = address(&daemon).await else { panic!("an IPv4 address") };
    let mut causes = Vec::new();
    told(&mut events, "instance-slept").await;
    let answered = tokio::task::spawn_blocking(move || ping(guest)).await.expect("an answer");
    causes.push(told(&mut events, "instance-woken").await.metadata["context"]["cause"].clone());
    told(&mut events, "instance-slept").await;
    chatter(&daemon).await;
    let console = daemon.client.console_instance("web1", &Default::default()).await.expect("a console");
    causes.push(told(&mut events, "instance-woken").await.metadata["context"]["cause"].clone());
    console.input.close().await.expect("left");
    told(&mut events, "instance-slept").await;
    let mut files = daemon.client.get_instance_sftp("web1").await.expect("files");
    let entries = files.readdir(std::path::Path::new("/etc")).await.expect("a directory");
    assert!(!entries.is_empty());
    causes.push(told(&mut events, "instance-woken").await.metadata["context"]["cause"].clone());
    assert_eq!(causes, ["a frame", "the console", "its files"]);
    drop(files);
    eprintln!("figure: a sleeping guest answered a ping after {} us", answered.as_micros());
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
