//! Attacks: by a guest's root on the host and its neighbours, and by a client on the wire.

#![allow(missing_docs)]

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use support::{Daemon, order};

/// What a guest's root tries, from init's own mount namespace and from ones that it makes: each must fail.
const REFUSED: &[&str] = &[
    "umount /",
    "umount /proc",
    "umount /sys",
    "umount /dev",
    "umount -l /proc",
    "mount -o remount,rw /sys",
    "mount -o remount,exec /dev",
    "mount -o remount,suid /",
    "mount -o bind,remount,rw /sys",
    "mount -t ext4 /dev/root /mnt",
    "mount -t debugfs none /mnt",
    "mount -t securityfs none /mnt",
    "mknod /tmp/sda b 8 0",
    "mknod /tmp/mem c 1 1",
    "mknod /dev/kmsg2 c 1 11",
    "cat /proc/kcore",
    "echo b > /proc/sysrq-trigger",
    "echo x > /proc/sys/kernel/core_pattern",
    "echo 1 > /proc/sys/kernel/panic",
    "echo 1 > /proc/sys/vm/drop_caches",
    "echo 1 > /proc/sys/fs/protected_symlinks",
    "echo x > /sys/kernel/uevent_helper",
    "hostname -F /etc/hostname && hostname | grep -qv web1",
    "date -s 2001-01-01; date +%Y | grep -q 2001",
    "swapon /root/x",
    "chroot /proc/1/root/../../.. test -e /etc/debian_version",
    "ls /proc/1/root/../../etc/debian_version",
    "nsenter -t 1 -m -u -i -n -p test -e /etc/debian_version",
    "kill -9 1 && sleep 1 && false",
    "rmdir /sys/fs/cgroup/../../../sysctl-*",
    "echo 1 > /sys/fs/cgroup/../cgroup.procs",
    "ip link add dummy9 type vlan id 5 link lo && false",
];

#[tokio::test]
async fn a_guests_root_breaks_nothing_of_the_host() {
    let daemon = Daemon::new("root-guest");
    daemon.import_busybox().await;
    daemon.launch("web1", &[]).await;
    let before = std::fs::read_to_string("/proc/sys/kernel/core_pattern").expect("core_pattern");
    let mut through = Vec::new();
    for attack in REFUSED {
        for place in ["sh -c", "unshare -m sh -c", "unshare -U -r -m sh -c"] {
            let script = format!("{place} '{attack}'");
            if daemon.exec("web1", &["sh", "-c", &script]).await.code == 0 {
                through.push(script);
            }
        }
    }
    assert!(through.is_empty(), "{through:#?}");
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/core_pattern").expect("core_pattern"), before);
    assert_eq!(daemon.status("web1").await, "Running");
    daemon.finish().await;
}

/// What a guest's root tries on what it shares with the host or with a stranger: it may use that, and change none of it.
const REFUSED_SHARED: &[&str] = &[
    "ip link add dummy8 type dummy",
    "ip addr add 192.0.2.9/32 dev lo",
    "ip route add blackhole 192.0.2.10",
    "echo 1 > /proc/sys/net/ipv4/conf/lo/log_martians",
    "echo 0 > /sys/class/net/lo/tx_queue_len",
    "timeout 1 nc -l -p 7 -s 127.0.0.1; test $? = 143",
    "hostname of-a-guest",
    "echo of-a-guest > /proc/sys/kernel/hostname",
    "echo 9 > /proc/sys/kernel/shmmni",
    "echo 9 > /proc/sys/fs/mqueue/queues_max",
    "umount /dev/mqueue",
    "umount /sys/fs/cgroup",
    "mkdir /sys/fs/cgroup/of-a-guest",
    "echo 1 > /sys/fs/cgroup/cgroup.procs",
];

#[tokio::test]
async fn a_guests_root_breaks_nothing_of_what_it_shares() {
    let daemon = Daemon::new("sharing-guest");
    daemon.import_busybox().await;
    daemon.launch("db1", &[]).await;
    let grain = |owner| {
        let keys = ["namespaces.net", "namespaces.ipc", "namespaces.uts"].map(|key| (key, owner));
        [keys.as_slice(), &[("namespaces.cgroup", "host")]].concat()
    };
    let program = ("boot.init", "/bin/cat");
    let pids = ("namespaces.pid", "instance:db1");
    for kind in ["net", "ipc", "uts"] {
        let post = sysctl_api::NamespacesPost { kind: kind.into(), name: "common".into(), ..Default::default() };
        daemon.client.create_namespace(&post).await.expect("an object of the host's users");
    }
    let grains = [
        ("the host's", grain("host")),
        ("a stranger's", grain("instance:db1")),
        ("an object's", grain("named:common")),
        ("everything of the host", vec![("namespaces.preset", "toolbox"), program]),
        ("a stranger's, with its processes", [grain("instance:db1").as_slice(), &[pids, program]].concat()),
    ];
    let (mut tried, mut through) = (0, Vec::new());
    for (words, shared) in grains {
        daemon.launch("web1", &shared).await;
        for attack in REFUSED.iter().chain(REFUSED_SHARED) {
            for place in ["sh -c", "unshare -m sh -c"] {
                tried += 1;
                if daemon.exec("web1", &["sh", "-c", &format!("{place} '{attack}'")]).await.code == 0 {
                    through.push(format!("{words}: {place} '{attack}'"));
                }
            }
        }
        daemon.change("web1", "stop", true).await;
        daemon.try_delete("web1").await.expect("deleted");
    }
    // With the owner's users its network is the sharer's to change, and the host is as far away as ever.
    daemon.launch("web1", &[("namespaces.preset", "sidecar:db1")]).await;
    for attack in REFUSED {
        tried += 1;
        if daemon.exec("web1", &["sh", "-c", attack]).await.code == 0 {
            through.push(format!("a sidecar: {attack}"));
        }
    }
    // One whose network and users outlive it has them by pins of the host, and reaches neither these nor more. Its name is at
    // /run/netns, where no other test's may be, so that the attack which knows the other one's name is none on it.
    let outlives = format!("web{}", std::process::id());
    daemon.launch(&outlives, &[("namespaces.net.persist", "true")]).await;
    for attack in REFUSED.iter().filter(|attack| !attack.contains("web1")) {
        tried += 1;
        if daemon.exec(&outlives, &["sh", "-c", attack]).await.code == 0 {
            through.push(format!("one that persists: {attack}"));
        }
    }
    assert!(through.is_empty(), "{through:#?}");
    assert_eq!((daemon.status("db1").await, daemon.status("web1").await), ("Running".into(), "Running".into()));
    eprintln!("figure: attacks by a guest's root on what it shares, in 7 grains: {tried} tried, 0 went through");
    daemon.finish().await;
}

#[tokio::test]
async fn a_guest_cannot_use_up_the_host() {
    let daemon = Daemon::new("hungry");
    daemon.import_busybox().await;
    daemon.launch("hog", &[("limits.memory", "64MiB"), ("limits.processes", "60")]).await;
    daemon.launch("neighbour", &[]).await;
    let attacks = [
        "bomb() { bomb | bomb & }; bomb",
        "dd if=/dev/zero of=/dev/shm/x bs=1M count=500",
        "dd if=/dev/zero of=/run/x bs=1M count=500",
        "i=0; while [ $i -lt 5000 ]; do mkdir /dev/d$i || exit 1; i=$((i+1)); done",
        "i=0; while [ $i -lt 20000 ]; do echo x > /dev/console; i=$((i+1)); done; exit 1",
        "i=0; while [ $i -lt 3000 ]; do mkdir /sys/fs/cgroup/c$i || exit 1; i=$((i+1)); done; exit 1",
    ];
    for attack in attacks {
        let bounded = ["timeout", "-s", "KILL", "20", "sh", "-c", attack];
        let _ = daemon.exec_with("hog", &order(&bounded), b"").await;
        let before = std::time::Instant::now();
        assert_eq!(daemon.print("neighbour", &["echo", "well"]).await, "well", "{attack}");
        assert!(before.elapsed() < Duration::from_secs(5), "{attack}: the neighbour waited {:?}", before.elapsed());
    }
    let state = daemon.client.get_instance_state("hog").await.expect("state");
    // The host's own processes for exec join the group from outside, which the limit does not stop.
    assert!(state.processes <= 60 + 10 && state.memory.usage <= 70 << 20, "{state:?}");
    daemon.change("hog", "stop", true).await;
    daemon.finish().await;
}

/// Sends bytes as they are; what comes back until the server closes or says nothing for a second.
fn raw(daemon: &Daemon, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(daemon.runtime_dir().join("unix.socket")).expect("connect");
    stream.set_read_timeout(Some(Duration::from_secs(1))).expect("time-out");
    // A server that has seen enough closes while we still write.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let mut part = [0u8; 4096];
    while let Ok(length) = stream.read(&mut part) {
        if length == 0 || answer.len() > 1 << 20 {
            break;
        }
        answer.extend_from_slice(&part[..length]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn the_wire_takes_no_nonsense() {
    let daemon = Daemon::new("wire");
    daemon.import_busybox().await;
    daemon.launch("web1", &[]).await;
    let long_head = format!("GET /1.0 HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "y".repeat(200_000));
    let many = format!("GET /1.0 HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(5000));
    let deep = format!("{{\"name\":{}1{}}}", "[".repeat(20_000), "]".repeat(20_000));
    let deep = format!("POST /1.0/instances HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{deep}", deep.len());
    let smuggled = "POST /1.0/instances HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /1.0/instances HTTP/1.1\r\nHost: x\r\n\r\n";
    let twice = "POST /1.0/instances HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello";
    for (what, bytes) in [
        ("a long head", long_head.as_str()),
        ("many headers", &many),
        ("deep JSON", &deep),
        ("two lengths", twice),
        ("no HTTP", "\u{1}\u{2}\u{3}\u{4} nonsense\r\n\r\n"),
        ("dots", "GET /1.0/instances/%2e%2e/%2e%2e/etc HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
        ("slashes", "GET //1.0//instances HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
        ("a broken escape", "GET /1.0/instances/%zz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
    ] {
        let answer = raw(&daemon, bytes.as_bytes());
        let refused = answer.is_empty() || answer.starts_with("HTTP/1.1 4");
        assert!(refused, "{what}: {}", &answer[..answer.len().min(300)]);
    }
    // What is sent both ways is read one way: nothing of a body is taken for a second request.
    let answer = raw(&daemon, smuggled.as_bytes());
    assert!(!answer.contains("HTTP/1.1 200"), "{answer}");

    // Secrets are good once, and only the right ones.
    let post = sysctl_api::ExecPost { wait_for_websocket: true, ..order(&["cat"]) };
    let body = serde_json::to_vec(&post).expect("JSON");
    let answer = daemon.client.query("POST", "/1.0/instances/web1/exec", Some(&body)).await.expect("exec");
    let answer: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
    let (id, secret) = (&answer["metadata"]["id"], &answer["metadata"]["metadata"]["fds"]["0"]);
    let (id, secret) = (id.as_str().expect("an id"), secret.as_str().expect("a secret"));
    let upgrade = |secret: &str| {
        format!(
            "GET /1.0/operations/{id}/websocket?secret={secret} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
    };
    assert!(raw(&daemon, upgrade(&"0".repeat(secret.len())).as_bytes()).starts_with("HTTP/1.1 403"));
    assert!(raw(&daemon, upgrade(secret).as_bytes()).starts_with("HTTP/1.1 101"));
    assert!(raw(&daemon, upgrade(secret).as_bytes()).starts_with("HTTP/1.1 403"));
    // A frame that claims to be 4 GB long ends its stream and nothing else.
    let other = &answer["metadata"]["metadata"]["fds"]["1"];
    let mut bytes = upgrade(other.as_str().expect("a secret")).into_bytes();
    bytes.extend_from_slice(&[0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4]);
    assert!(raw(&daemon, &bytes).starts_with("HTTP/1.1 101"));
    assert_eq!(daemon.print("web1", &["echo", "well"]).await, "well");
    daemon.finish().await;
}

#[tokio::test]
async fn half_sent_requests_keep_nobody_else_waiting() {
    let daemon = Daemon::new("slow");
    daemon.import_busybox().await;
    daemon.launch("web1", &[]).await;
    let mut half = Vec::new();
    for _ in 0..1000 {
        let mut stream = UnixStream::connect(daemon.runtime_dir().join("unix.socket")).expect("connect");
        stream.write_all(b"GET /1.0/instances HTTP/1.1\r\nHost: x\r\nA").expect("write");
        half.push(stream);
    }
    let before = std::time::Instant::now();
    assert_eq!(daemon.print("web1", &["echo", "well"]).await, "well");
    assert!(before.elapsed() < Duration::from_secs(3), "{:?}", before.elapsed());
    drop(half);
    daemon.finish().await;
}
