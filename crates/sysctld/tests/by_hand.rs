//! The script that `explain --as-shell` prints, run by a real shell: it makes the same guest as the daemon does.

#![allow(missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::Daemon;
use sysctl_api::InstancePut;

/// What a guest tells of itself, in one line each: what its isolation is made of.
const PROBE: &str = r#"
echo "hostname $(hostname)"
echo "uids $(cat /proc/self/uid_map | tr -s ' ')"
echo "gids $(cat /proc/self/gid_map | tr -s ' ')"
echo "bounding $(grep CapBnd /proc/self/status)"
echo "files $(grep 'open files' /proc/self/limits | tr -s ' ')"
echo "mounts $(awk '$2 ~ "^/(proc|sys|dev|run)" && $2 != "/dev/console" {split($4, o, ","); print $2, $3, o[1]}' /proc/mounts | sort | tr '\n' ';')"
echo "proc $(grep -o '/proc proc [^ ]*' /proc/mounts | head -n 1)"
echo "nodes $(ls -ln /dev | awk '$1 ~ "^[cl]" && $NF != "console" {print $1, $3, $NF}' | sort | tr '\n' ';')"
echo "links $(ip -o addr show 2>/dev/null | awk '$3 ~ "^inet" && $4 !~ "^fe80" {print $2, $4}' | sort | tr '\n' ';')"
echo "mac $(ip -o link show eth0 2>/dev/null | grep -o 'ether [^ ]*')"
echo "route $(ip route 2>/dev/null | grep default)"
echo "owner $(stat -c %u:%g:%a /bin/busybox /root /tmp | tr '\n' ';')"
echo "young $(awk '{print ($1 < 600)}' /proc/uptime)"
echo "locked $(umount /proc 2>/dev/null || echo proc) $(umount /sys 2>/dev/null || echo sys) $(mount -o remount,rw /sys 2>/dev/null || echo ro)"
"#;

/// And which namespaces it lives in, which only the script's guest is asked for: those of its own are others each time.
const NAMESPACES: &str =
    "for kind in cgroup ipc mnt net pid time user uts; do echo \"$kind $(readlink /proc/self/ns/$kind)\"; done";

/// The script's file.
fn script(daemon: &Daemon, name: &str) -> PathBuf {
    let socket = daemon.client.socket().display().to_string();
    let client = support::program("sysctl-cli");
    let printed = Command::new(client).args(["--socket", &socket, "explain", name, "--as-shell"]).output();
    let printed = printed.expect("run the client");
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let script = daemon.scratch().join(format!("{name}.sh"));
    std::fs::write(&script, &printed.stdout).expect("write the script");
    script
}

/// A program's end, what it printed, and what it complained about.
fn shell(daemon: &Daemon, name: &str, words: &[&str]) -> (i32, String, String) {
    let script = script(daemon, name);
    let scratch = daemon.scratch().join("by-hand");
    std::fs::create_dir_all(&scratch).expect("mkdir");
    let run = Command::new("sh").arg(&script).args(words).env("TMPDIR", &scratch).output().expect("run sh");
    let left: Vec<_> = std::fs::read_dir(&scratch).expect("readable").flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "{name}: left {left:?}");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    (run.status.code().unwrap_or(-1), text(&run.stdout), text(&run.stderr))
}

/// Namespaces of the process `pid`, as readlink(1) prints them.
fn namespaces(pid: u32) -> BTreeMap<String, String> {
    let of = |kind: &str| {
        let link = std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("a namespace");
        (kind.to_owned(), link.display().to_string())
    };
    ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"].map(of).into()
}

/// Stops `name` and starts it by the script; `shared` says whose namespaces it is in then. In how many respects it is the same.
async fn same_by_hand(daemon: &Daemon, name: &str, shared: &[(&str, &str)]) -> usize {
    let real = daemon.print(name, &["sh", "-c", PROBE]).await;
    let mut inits = BTreeMap::from([("host", namespaces(std::process::id()))]);
    for (_, owner) in shared.iter().filter(|(_, owner)| *owner != "host") {
        inits.insert(owner, namespaces(daemon.init_pid(owner).await));
    }
    let (code, _, complaint) = shell(daemon, name, &["/bin/true"]);
    assert!(code != 0 && complaint.contains("does it run?"), "{name} runs: {code} {complaint}");
    daemon.change(name, "stop", true).await;

    let respects = real.lines().count();
    let (code, made, complaint) = shell(daemon, name, &["/bin/sh", "-c", PROBE]);
    assert_eq!((code, made), (0, real), "{name}: {complaint}");
    let (code, told, complaint) = shell(daemon, name, &["/bin/sh", "-c", NAMESPACES]);
    assert_eq!(code, 0, "{complaint}");
    for line in told.lines() {
        let (kind, inode) = line.split_once(' ').expect("a kind");
        let owner = shared.iter().find(|(shared, _)| *shared == kind).map(|(_, owner)| *owner);
        for (other, theirs) in &inits {
            assert_eq!(theirs[kind] == inode, owner == Some(*other), "{name}: {line}, shared with {owner:?}");
        }
    }
    let (code, ..) = shell(daemon, name, &["/bin/sh", "-c", "exit 7"]);
    assert_eq!(code, 7, "{name}: what it ends with is passed on");
    daemon.change(name, "start", false).await;
    respects
}

/// What a file says, without regard to the order of its lines.
fn lines(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Limits of `name` by the daemon and by the script, file by file; how many.
async fn same_limits_by_hand(daemon: &Daemon, name: &str) -> usize {
    let knobs = daemon.client.get_instance_limits(name).await.expect("limits");
    // Some are programs, which are no files; of others the daemon's own are not those of the script.
    let files = knobs.iter().map(|knob| PathBuf::from(&knob.file)).filter(|file| file.is_file());
    let real: Vec<(PathBuf, Vec<String>)> = files.map(|file| (file.clone(), lines(&file))).collect();
    daemon.change(name, "stop", true).await;
    let mut command = Command::new("sh");
    command.arg(script(daemon, name)).args(["/bin/sh", "-c", "echo up; cat >/dev/null"]);
    command.env("TMPDIR", daemon.scratch().join("by-hand")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut made = command.spawn().expect("run sh");
    let mut said = String::new();
    BufReader::new(made.stdout.take().expect("a pipe")).read_line(&mut said).expect("a line");
    assert_eq!(said, "up\n");
    let mut same = 0;
    for (file, wanted) in real {
        // HIERARCHY/BASE/BOOT/FILE there, HIERARCHY/by-hand-NAME/FILE here.
        let hierarchy = file.ancestors().nth(3).expect("a hierarchy");
        let group = hierarchy.join(format!("by-hand-{name}"));
        // None is made where nothing is limited.
        if group.exists() {
            assert_eq!(lines(&group.join(file.file_name().expect("a name"))), wanted, "{}", file.display());
            same += 1;
        }
    }
    drop(made.stdin.take());
    assert!(made.wait().expect("it ends").success());
    daemon.change(name, "start", false).await;
    same
}

/// Gives `name` an end of the wire between `plain1` and `db1`.
async fn wire(daemon: &Daemon, name: &str, device: &str, keys: [(&str, &str); 2]) {
    let keys = [("type", "nic"), ("nictype", "wire")].into_iter().chain(keys);
    let keys = keys.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let put = InstancePut { devices: Some([(device.to_owned(), keys)].into()), ..support::patch(&[]) };
    let operation = daemon.client.patch_instance(name, &put, None).await.expect("accepted");
    daemon.client.finish(&operation).await.expect("changed");
}

#[tokio::test]
async fn the_script_makes_the_guest_that_the_daemon_makes() {
    // Whose files no shell could give.
    let daemon = Daemon::with("by-hand", &[("SYSCTL_LXCFS", "/nonexistent")]);
    daemon.import_busybox().await;
    daemon.launch("db1", &[]).await;
    let limits = [("limits.processes", "500"), ("limits.memory", "200MiB"), ("limits.cpu", "1")];
    let more =
        [("limits.cpu.allowance", "20ms/100ms"), ("limits.cpu.priority", "5"), ("environment.GREETING", "it's me")];
    daemon.launch("plain1", &[limits, more].concat()).await;
    wire(&daemon, "db1", "lan", [("peer", "plain1:eth1"), ("ipv4.address", "10.7.7.2/30")]).await;
    wire(&daemon, "plain1", "eth1", [("peer", "db1:lan"), ("ipv4.address", "10.7.7.1/30")]).await;
    daemon.launch("host1", &[("namespaces.net", "host"), ("namespaces.uts", "host")]).await;
    daemon.launch("side1", &[("namespaces.preset", "sidecar:db1")]).await;
    daemon.launch("near1", &[("namespaces.net", "instance:db1"), ("namespaces.cgroup", "host")]).await;
    daemon.launch("box1", &[("namespaces.preset", "toolbox"), ("boot.init", "/bin/cat")]).await;
    daemon.launch("strict1", &[("security.mounts", "strict"), ("security.caps", "-net_raw")]).await;
    // Its name is one at /run/netns as well.
    let stays = format!("stays{}", std::process::id());
    daemon.launch(&stays, &[("namespaces.net.persist", "true")]).await;
    let guests: [(&str, &[(&str, &str)]); 7] = [
        ("plain1", &[]),
        ("host1", &[("net", "host"), ("uts", "host")]),
        ("side1", &[("net", "db1"), ("ipc", "db1"), ("user", "db1")]),
        ("near1", &[("net", "db1"), ("cgroup", "host")]),
        ("box1", &["cgroup", "ipc", "net", "pid", "time", "uts"].map(|kind| (kind, "host"))),
        ("strict1", &[]),
        (&stays, &[]),
    ];
    let mut respects = 0;
    for (name, shared) in guests {
        respects += same_by_hand(&daemon, name, shared).await;
    }
    let files = same_limits_by_hand(&daemon, "plain1").await;
    assert!(files > 5, "{files}");
    eprintln!(
        "figure: instances started by the script that explain prints: {}, as by the daemon in all {respects} respects, limits in all {files} \
         files",
        guests.len()
    );
    daemon.finish().await;
}

#[tokio::test]
async fn a_script_that_lacks_something_says_so_and_leaves_nothing() {
    let daemon = Daemon::new("by-hand-lacks");
    daemon.import_busybox().await;
    daemon.launch("db1", &[]).await;
    daemon.launch("side1", &[("namespaces.preset", "sidecar:db1")]).await;
    daemon.change("side1", "stop", true).await;
    daemon.change("db1", "stop", true).await;
    let (code, _, complaint) = shell(&daemon, "side1", &["/bin/true"]);
    assert!(code != 0 && complaint.contains("the pid of the init of db1, which does not run"), "{code} {complaint}");
    let uri = "/1.0/instances/db1/explain?as=poem";
    let answer = daemon.client.query("GET", uri, None).await.expect("an answer");
    let refused = answer.success(uri).expect_err("refused").to_string();
    assert!(refused.contains("json or shell"), "{refused}");
    daemon.finish().await;
}
