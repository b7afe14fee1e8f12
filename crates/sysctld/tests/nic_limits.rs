//! Rates and priority of single NICs: as fast as they say, live, the guest's root cannot take them away, and readable back.

#![allow(missing_docs)]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Instant;

use support::Daemon;
use sysctl_api::InstancePut;

const MIB: usize = 1 << 20;

/// Bytes of the page: what passes at once at the beginning is not measured.
const PAGE: usize = 24 * MIB;
const SKIPPED: usize = 16 * MIB;

/// Serves the page.
const SERVE: &str = "mkdir -p /www; dd if=/dev/zero of=/www/page bs=1M count=24 2>/dev/null; httpd -p 80 -h /www";

/// Where a guest serves it.
async fn server_of(daemon: &Daemon, name: &str) -> SocketAddr {
    let state = daemon.client.get_instance_state(name).await.expect("state");
    let eth0 = &state.network.as_ref().expect("links")["eth0"];
    let address = eth0.addresses.iter().find(|address| address.family == "inet").expect("an address");
    SocketAddr::new(address.address.parse().expect("an address"), 80)
}

/// Sets keys of a guest's NIC, in a device of its own over that of its profile.
async fn set(daemon: &Daemon, name: &str, keys: &[(&str, &str)]) -> Result<(), sysctl_client::Error> {
    let instance = daemon.client.get_instance(name).await.expect("an instance").value;
    let mut eth0 = instance.expanded_devices["eth0"].clone();
    eth0.retain(|key, _| !key.starts_with("limits."));
    eth0.extend(support::strings(keys));
    let devices = Some([("eth0".to_owned(), eth0)].into());
    let put = InstancePut { devices, ..InstancePut::default() };
    let operation = daemon.client.patch_instance(name, &put, None).await?;
    daemon.client.finish(&operation).await.map(drop)
}

/// Bytes each second at which a page comes from a guest, once its beginning is here. The time begins when all that has come is
/// read, if that ever is so: a reader that was not let run finds more than came since then.
async fn speed_from(server: SocketAddr) -> f64 {
    let fetch = move || {
        let mut stream = TcpStream::connect(server).expect("connect");
        stream.set_read_timeout(Some(support::PATIENCE)).expect("a time-out");
        stream.write_all(b"GET /page HTTP/1.0\r\n\r\n").expect("ask");
        let mut buffer = vec![0u8; 256 << 10];
        let (mut length, mut begun, mut caught_up) = (0, None, None);
        loop {
            let part = stream.read(&mut buffer).expect("a part");
            if part == 0 {
                break;
            }
            length += part;
            if length > SKIPPED {
                begun.get_or_insert((Instant::now(), length));
                if part < buffer.len() && length < (SKIPPED + PAGE) / 2 {
                    caught_up.get_or_insert((Instant::now(), length));
                }
            }
        }
        let (begun, skipped) = caught_up.or(begun).expect("a long page");
        (length - skipped) as f64 / begun.elapsed().as_secs_f64()
    };
    tokio::task::spawn_blocking(fetch).await.expect("a page")
}

/// The same to a guest, from its neighbour: the second of two pages.
async fn speed_to(daemon: &Daemon, name: &str, server: SocketAddr) -> f64 {
    let fetch = format!("wget -q -O /dev/null http://{server}/page");
    assert_eq!(daemon.exec(name, &["sh", "-c", &fetch]).await.code, 0);
    let begun = Instant::now();
    assert_eq!(daemon.exec(name, &["sh", "-c", &fetch]).await.code, 0);
    PAGE as f64 / begun.elapsed().as_secs_f64()
}

/// Seconds that two pages are fetched at once: at 40 Mbit neither ends in that time.
const SHARED_S: u32 = 2;

/// Bytes that come to a guest from each of two neighbours while both send as fast as they can.
async fn shares(daemon: &Daemon, name: &str, servers: [SocketAddr; 2]) -> [f64; 2] {
    let fetch = |server| format!("timeout {SHARED_S} wget -q -O - http://{server}/page | wc -c");
    let [one, other] = servers.map(fetch);
    let both = format!("{{ {one} > /tmp/one; }} & {other} > /tmp/other; wait; cat /tmp/one /tmp/other");
    let out = daemon.exec(name, &["sh", "-c", &both]).await.stdout;
    let counts: Vec<f64> = out.split_whitespace().map(|count| count.parse().expect("a count")).collect();
    counts.try_into().expect("two counts")
}

/// What the kernel says of the limits of a guest's link, by other eyes than the daemon's.
fn told(daemon: &Daemon) -> String {
    let mark = support::mark(&daemon.state_dir());
    let links = std::fs::read_dir("/sys/class/net").expect("links").flatten();
    let alias = |entry: &std::fs::DirEntry| std::fs::read_to_string(entry.path().join("ifalias")).unwrap_or_default();
    let names =
        links.filter(|entry| alias(entry).starts_with(&format!("sysctl:{mark}:")) && alias(entry).contains("eth0"));
    let mut text = String::new();
    for name in names.filter_map(|entry| entry.file_name().into_string().ok()) {
        for way in ["ingress", "egress"] {
            let output = Command::new("tc").args(["filter", "show", "dev", &name, way]).output().expect("tc");
            text.push_str(&String::from_utf8_lossy(&output.stdout));
        }
    }
    text
}

/// At most 15 of a hundred above. Frames have headers, and a sender that loses some is not always as fast as it may: least so
/// on a host that is busy with other things.
fn is_near(measured: f64, bits: f64) -> bool {
    (0.7..=1.15).contains(&(measured * 8.0 / bits))
}

/// Two that send more than a third may receive: the urgent one has what there is, and who says nothing shares alike.
async fn the_urgent_go_first(daemon: &Daemon, web1: SocketAddr) {
    assert_eq!(daemon.exec("web2", &["sh", "-c", SERVE]).await.code, 0);
    daemon.launch("web3", &[]).await;
    set(daemon, "web3", &[("limits.ingress", "40Mbit")]).await.expect("limited");
    let servers = [web1, server_of(daemon, "web2").await];
    let share = |[one, other]: [f64; 2]| one / (one + other);
    let mut part = [0.0; 2];
    for (part, [one, other]) in part.iter_mut().zip([["8", ""], ["", "8"]]) {
        set(daemon, "web1", &[("limits.priority", one)]).await.expect("a priority");
        set(daemon, "web2", &[("limits.priority", other)]).await.expect("a priority");
        *part = share(shares(daemon, "web3", servers).await);
    }
    eprintln!(
        "figure: of 40 Mbit that two guests send to a third the first had {:.0}% with a priority of 8, and {:.0}% when the \
         other had it",
        part[0] * 100.0,
        part[1] * 100.0
    );
    assert!(part[0] > 0.75 && part[1] < 0.25, "{part:?}");
    set(daemon, "web1", &[]).await.expect("free");
}

/// As on a kernel without clsact and cls_bpf, as far as can be had on one that has them: a daemon that may load no programs.
const WITHOUT_PROGRAMS: [&str; 2] = ["setpriv", "--bounding-set=-bpf,-sys_admin"];

/// The first daemon has ended. Who is limited stays so, and nobody else can be.
async fn without_programs_limits_are_refused_at_the_key(daemon: &mut Daemon, pid: u32) {
    daemon.start_by(&WITHOUT_PROGRAMS);
    daemon.start();
    let features = daemon.client.get_server().await.expect("server").value.environment.kernel_features;
    assert_eq!(features["link_limits"], "false");
    let rows = daemon.client.get_instance("web1").await.expect("web1").value.devices;
    for keys in [&[("limits.egress", "80Mbit")], &[("limits.ingress", "80Mbit")], &[("limits.priority", "3")]] {
        let error = set(daemon, "web1", keys).await.expect_err("refused").to_string();
        assert!(error.contains("eth0.limits") && error.contains("CONFIG_NET_CLS_BPF"), "{error}");
    }
    assert_eq!(daemon.client.get_instance("web1").await.expect("web1").value.devices, rows, "nothing is written");
    assert_eq!(daemon.init_pid("web1").await, pid);
    assert!(told(daemon).contains("sysctl 5000000 -"), "web3's are in force: {}", told(daemon));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nic_is_as_fast_as_its_keys_say_while_it_runs_and_its_guest_cannot_change_that() {
    let mut daemon = Daemon::new("nic-limits");
    daemon.import_busybox().await;
    daemon.launch("web1", &[]).await;
    assert_eq!(daemon.exec("web1", &["sh", "-c", SERVE]).await.code, 0);
    let server = server_of(&daemon, "web1").await;
    let pid = daemon.init_pid("web1").await;
    let free = speed_from(server).await;

    set(&daemon, "web1", &[("limits.egress", "80Mbit"), ("limits.priority", "5")]).await.expect("limited");
    let slow = speed_from(server).await;
    assert!(is_near(slow, 80e6), "{slow}");
    assert!(told(&daemon).contains("sysctl 10000000 5"), "{}", told(&daemon));
    // Both ends are in reach of nobody in there.
    let undo = "tc qdisc del dev eth0 clsact; tc qdisc del dev eth0 root; ip link set eth0 txqueuelen 1; true";
    assert_eq!(daemon.exec("web1", &["sh", "-c", undo]).await.code, 0);
    // A daemon that comes later reads it in the kernel, and changes nothing.
    daemon.kill();
    daemon.start();
    let slow_still = speed_from(server).await;
    assert!(is_near(slow_still, 80e6), "{slow_still}");

    daemon.launch("web2", &[]).await;
    set(&daemon, "web1", &[("limits.priority", "3")]).await.expect("no rate");
    assert!(told(&daemon).contains("sysctl - 3"), "{}", told(&daemon));
    set(&daemon, "web1", &[]).await.expect("free");
    assert!(!told(&daemon).contains("sysctl"), "{}", told(&daemon));
    let freed = speed_from(server).await;
    assert!(freed > slow * 1.5, "{freed}");
    set(&daemon, "web2", &[("limits.ingress", "160Mbit")]).await.expect("limited");
    let slow_in = speed_to(&daemon, "web2", server).await;
    assert!(is_near(slow_in, 160e6), "{slow_in}");
    set(&daemon, "web2", &[("limits.max", "80Mbit")]).await.expect("limited");
    let slow_both = speed_to(&daemon, "web2", server).await;
    assert!(is_near(slow_both, 80e6), "{slow_both}");
    assert_eq!(told(&daemon).matches("sysctl 10000000 -").count(), 2, "{}", told(&daemon));
    // It is there from the first frame of a boot on.
    daemon.change("web2", "restart", true).await;
    let again = speed_to(&daemon, "web2", server).await;
    assert!(is_near(again, 80e6), "{again}");
    the_urgent_go_first(&daemon, server).await;
    assert_eq!(daemon.init_pid("web1").await, pid, "nobody was restarted for it");

    for (keys, word) in [
        (&[("limits.egress", "fast")][..], "100Mbit"),
        (&[("limits.max", "1Mbit"), ("limits.egress", "1Mbit")], "both ways"),
        (&[("limits.priority", "much")], "limits.priority"),
        (&[("limits.burst", "1")], "limits.egress"),
    ] {
        let error = set(&daemon, "web1", keys).await.expect_err(word).to_string();
        assert!(error.contains(word), "{keys:?}: {error}");
    }
    daemon.kill();
    without_programs_limits_are_refused_at_the_key(&mut daemon, pid).await;
    daemon.kill();
    daemon.start_by(&[]);
    daemon.start();
    let mbit = |speed: f64| speed * 8.0 / 1e6;
    eprintln!(
        "figure: a NIC of 80 Mbit sent {:.1} Mbit/s ({:.0} without), one of 160 Mbit received {:.1}, one of 80 both ways {:.1}",
        mbit(slow),
        mbit(free),
        mbit(slow_in),
        mbit(slow_both)
    );
    daemon.finish().await;
}
