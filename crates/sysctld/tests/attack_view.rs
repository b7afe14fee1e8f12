//! What a guest's root does with the files of lxcfs in its `/proc`: to reach others' numbers, lxcfs itself, or to keep it busy.

#![allow(missing_docs)]

mod support;

use std::time::{Duration, Instant};

use support::Daemon;

const TOTAL: &str = "awk '/^MemTotal/ {print $2}' /proc/meminfo";

/// What must fail, as root of the guest and of a user namespace in it.
const REFUSED: &[&str] = &[
    "echo 1 > /proc/meminfo",
    "mount -o remount,rw,bind /proc/meminfo && echo 1 > /proc/meminfo",
    "rm /proc/meminfo",
    "ls /proc/meminfo/..",
    "ls /proc/meminfo/../../cgroup",
    // Its own mount is on no path: neither there, nor where a new one of that kind is tried.
    "grep -q ' /view ' /proc/self/mountinfo",
    "ls /view",
    "mkdir -p /m; mount -t fuse.lxcfs lxcfs /m && ls /m/proc",
    // The directory that it would pass on with the rights of the host's root.
    "grep fuse.lxcfs /proc/self/mountinfo | grep -q ' /sys/devices/system/cpu '",
    // What it has of the host alone.
    "grep fuse.lxcfs /proc/self/mountinfo | grep -q slabinfo",
    // Where a proc hides that nothing is bound over.
    "while umount /sys/kernel/debug; do :; done; ls /sys/kernel/debug/proc",
    "umount -l /sys/kernel/debug; umount -l /sys/kernel/debug; ls /sys/kernel/debug/proc",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_reaches_neither_lxcfs_nor_the_numbers_of_others_by_its_files() {
    let daemon = Daemon::new("view-attack");
    daemon.import_busybox().await;
    daemon.launch("web1", &[("limits.memory", "100MiB"), ("limits.cpu", "1")]).await;
    daemon.launch("web2", &[("limits.memory", "60MiB")]).await;
    let mut through = Vec::new();
    for attack in REFUSED {
        for place in ["sh -c", "unshare -m sh -c", "unshare -U -r -m sh -c"] {
            let script = format!("{place} \"{attack}\"");
            if daemon.exec("web1", &["sh", "-c", &script]).await.code == 0 {
                through.push(script);
            }
        }
    }
    assert!(through.is_empty(), "{through:#?}");

    // Other namespaces and groups of its own are still the same guest.
    let group = "mkdir /sys/fs/cgroup/mine; echo 0 > /sys/fs/cgroup/mine/cgroup.procs; ";
    for place in ["sh -c", "unshare -p -f sh -c", "unshare -U -r -p -f -m sh -c", "unshare -i -u sh -c"] {
        for before in ["", group] {
            let script = format!("{before}{place} \"awk '/^MemTotal/ {{print \\$2}}' /proc/meminfo\"");
            assert_eq!(daemon.print("web1", &["sh", "-c", &script]).await, "102400", "{script}");
        }
    }
    // Nested users still mount a proc of their own: the kernel asks for one that nothing is bound over.
    let nested =
        "unshare -U -r -p -f -m sh -c 'mkdir -p /tmp/p && mount -t proc proc /tmp/p && test -e /tmp/p/1/status'";
    assert_eq!(daemon.exec("web1", &["sh", "-c", nested]).await.code, 0, "a nested proc");

    // A flood of reads is one guest's share of lxcfs, and no hang of another's.
    let flood = "for i in 1 2 3 4 5 6 7 8; do (while :; do cat /proc/stat /proc/meminfo > /dev/null; done) & done";
    assert_eq!(daemon.exec("web1", &["sh", "-c", &format!("{flood}; true")]).await.code, 0);
    let begun = Instant::now();
    for _ in 0..5 {
        assert_eq!(daemon.print("web2", &["sh", "-c", TOTAL]).await, "61440");
    }
    let took = begun.elapsed() / 5;
    assert!(took < testkit::allowed(Duration::from_secs(2)), "{took:?}");
    eprintln!(
        "figure: {} attacks on lxcfs' files by a guest in 3 places: 0 got through; beside a flood of reads another guest reads its own in {} ms",
        REFUSED.len(),
        took.as_millis()
    );

    // What it may take away is its own view, and then it sees what any guest without lxcfs does.
    assert_eq!(daemon.exec("web1", &["umount", "-l", "/proc/meminfo"]).await.code, 0);
    let host = std::fs::read_to_string("/proc/meminfo").expect("meminfo");
    let host = host.lines().next().expect("a line").split_whitespace().nth(1).expect("a number").to_owned();
    assert_eq!(daemon.print("web1", &["sh", "-c", TOTAL]).await, host);
    assert_eq!(daemon.print("web2", &["sh", "-c", TOTAL]).await, "61440");
    daemon.finish().await;
}
