//! The checker: what somebody breaks is told by name, what can be put right is, and nothing else is ever told.

#![allow(missing_docs)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use rustix::fs::FlockOperation;
use store::{Op, Store, Txn};
use support::Daemon;
use uuid::Uuid;

/// What a case is about: kind and words of the finding that it must lead to.
type Told = (&'static str, &'static str);

/// What does damage.
type Damage = Box<dyn FnOnce()>;

/// Damage is done; doctor tells it; `--repair` puts it right.
async fn told_and_repaired(daemon: &Daemon, case: &str, told: Told) {
    tells(daemon, case, told).await;
    let after = daemon.client.repair().await.expect("repair");
    assert!(after.findings.is_empty(), "{case}: {:#?}\n{}", after.findings, daemon.log());
}

async fn tells(daemon: &Daemon, case: &str, (kind, words): Told) {
    let report = daemon.doctor().await;
    let found = report.findings.iter().any(|f| f.kind == kind && f.text.contains(words));
    assert!(found, "{case}: {kind} {words:?} is not in {:#?}", report.findings);
    assert!(report.findings.iter().all(|f| !f.fix.is_empty()), "{case}: no word of what to do: {:#?}", report.findings);
}

fn pool(daemon: &Daemon) -> PathBuf {
    daemon.state_dir().join("pools/default")
}

async fn id(daemon: &Daemon, name: &str) -> String {
    daemon.client.get_instance(name).await.expect("an instance").value.config["volatile.uuid"].clone()
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect(program);
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

async fn with_two_instances(what: &str) -> Daemon {
    let daemon = Daemon::new(what);
    daemon.import_busybox().await;
    daemon.launch("on", &[]).await;
    daemon.launch("off", &[]).await;
    daemon.change("off", "stop", true).await;
    daemon
}

#[tokio::test]
async fn what_is_broken_on_the_disk_is_told_and_repaired() {
    let daemon = with_two_instances("on-disk").await;
    let (pool, state, run_dir) = (pool(&daemon), daemon.state_dir(), daemon.runtime_dir());
    let (on, off) = (id(&daemon, "on").await, id(&daemon, "off").await);
    let stranger = Uuid::new_v4();
    let make = |path: PathBuf| move || fs::create_dir_all(path).expect("make a directory");
    let write = |path: PathBuf| move || fs::write(path, "x").expect("write a file");
    let volumes = pool.join("volumes");
    let (work, layer) = (volumes.join(&off).join("fs/work.1"), volumes.join(&off).join("layer"));
    let cases: Vec<(&str, Damage, Told)> = vec![
        ("no work", Box::new(move || fs::remove_dir_all(work).expect("remove")), ("volume", "work directory")),
        ("other layer", Box::new(write(layer)), ("volume", "notes the layer \"x\"")),
        (
            "a root without a row",
            Box::new(make(volumes.join(format!("{stranger}/fs/upper.1")))),
            ("root file system", "belongs to nothing"),
        ),
        (
            "a volume without a root",
            Box::new(make(volumes.join(Uuid::new_v4().to_string()))),
            ("volume", "belongs to nothing"),
        ),
        (
            "another generation",
            Box::new(make(volumes.join(&on).join("fs/upper.7"))),
            ("root file system", "belongs to nothing"),
        ),
        ("work without a root", Box::new(make(volumes.join(&off).join("fs/work.9"))), ("volume", "that is gone (9)")),
        ("half a layer", Box::new(make(pool.join("layers/.partial-x"))), ("file in the pool", "belongs to nothing")),
        ("an upload that nobody sends", Box::new(make(state.join("uploads/x"))), ("image file", "belongs to nothing")),
        ("half an image", Box::new(make(state.join("images/.partial-x"))), ("image file", "belongs to nothing")),
        (
            "half a status",
            Box::new(write(run_dir.join(format!("keep/{on}.1/status.new")))),
            ("partial file", "belongs to nothing"),
        ),
        ("half a recipe", Box::new(write(state.join("recipes/x.new"))), ("partial file", "belongs to nothing")),
        ("half a database", Box::new(write(state.join("sysctl.db.partial"))), ("partial file", "belongs to nothing")),
        (
            "logs of nobody",
            Box::new(make(state.join("logs").join(stranger.to_string()))),
            ("log", "belongs to nothing"),
        ),
        (
            "a directory that no keeper has",
            Box::new(make(run_dir.join("keep/x"))),
            ("keeper directory", "belongs to nothing"),
        ),
        (
            "a keeper's directory of nobody",
            Box::new(make(run_dir.join(format!("keep/{stranger}.2")))),
            ("keeper", "belongs to nothing"),
        ),
    ];
    let count = cases.len();
    let started = Instant::now();
    let before = daemon.init_pid("on").await;
    for (case, damage, told) in cases {
        damage();
        told_and_repaired(&daemon, case, told).await;
    }
    assert_eq!(daemon.init_pid("on").await, before, "a repair disturbed a guest");
    daemon.change("off", "start", false).await;
    assert_eq!(daemon.print("off", &["cat", "/etc/hostname"]).await, "off");
    eprintln!(
        "figure: {count} kinds of damage on the disk told by doctor and repaired, {} ms each, guests disturbed 0",
        started.elapsed().as_millis() / count as u128
    );
    daemon.finish().await;
}

#[tokio::test]
async fn files_that_only_people_can_bring_back_are_told_as_lost_and_not_made_empty() {
    let daemon = with_two_instances("lost").await;
    let away = daemon.scratch().join("away");
    let volume = pool(&daemon).join("volumes").join(id(&daemon, "off").await);
    fs::rename(&volume, &away).expect("move the volume away");
    for _ in 0..2 {
        tells(&daemon, "lost", ("instance", "lost its root file system")).await;
        let refused = daemon.try_change("off", "start", false).await.expect_err("it cannot start").to_string();
        assert!(refused.contains("lost its root file system") && refused.contains("restore"), "{refused}");
        let after = daemon.client.repair().await.expect("repair");
        assert_eq!(after.findings.len(), 1, "{after:#?}");
        assert!(!volume.exists(), "an empty one was put in its place");
    }
    fs::rename(&away, &volume).expect("bring it back");
    daemon.healthy().await;
    daemon.change("off", "start", false).await;
    // Under a running guest, which goes on and can be stopped and deleted.
    let volume = pool(&daemon).join("volumes").join(id(&daemon, "on").await);
    fs::rename(&volume, &away).expect("move the volume away");
    tells(&daemon, "lost while it runs", ("instance", "lost its root file system")).await;
    daemon.client.repair().await.expect("repair");
    assert!(!volume.exists(), "an empty one was put in its place");
    assert_eq!(daemon.print("on", &["echo", "alive"]).await, "alive");
    daemon.change("on", "stop", true).await;
    daemon.try_delete("on").await.expect("deleted");
    daemon.client.repair().await.expect("its logs go, too");
    fs::remove_dir_all(&away).expect("remove");
    let image =
        fs::read_dir(daemon.state_dir().join("images")).expect("images").flatten().next().expect("an image").path();
    fs::rename(&image, &away).expect("move the image away");
    tells(&daemon, "no image", ("image", "lost its files")).await;
    fs::rename(&away, &image).expect("bring it back");
    daemon.finish().await;
}

#[tokio::test]
async fn what_is_broken_in_the_kernel_is_told_and_repaired() {
    let daemon = with_two_instances("in-kernel").await;
    let mark = support::mark(&daemon.state_dir());
    let (on, off) = (id(&daemon, "on").await, id(&daemon, "off").await);
    let stranger = Uuid::new_v4();
    let before = daemon.init_pid("on").await;

    for root in support::group_roots() {
        let base = root.join(format!("sysctl-{mark}"));
        if !base.exists() {
            continue;
        }
        for (name, kind) in [("x".to_owned(), "control group"), (format!("{stranger}.3"), "control group")] {
            fs::create_dir(base.join(&name)).expect("make a group");
            told_and_repaired(&daemon, "a group of nobody", (kind, "belongs to nothing")).await;
            assert!(!base.join(name).exists());
        }
        // Its payload in cgroup2, the group itself in the others.
        fs::write(root.join("cgroup.procs"), before.to_string()).expect("move init");
        told_and_repaired(&daemon, "init outside", ("process", "outside of its control groups")).await;
    }
    let aliases = [
        format!("sysctl:{mark}:{stranger}.1:eth0"),
        format!("sysctl:{mark}:x:y"),
        format!("sysctl:{mark}:other"),
        format!("sysctl:{mark}:{on}.1:eth9"),
    ];
    for (n, alias) in aliases.into_iter().enumerate() {
        // Each by another name: the kernel may still be at taking the former one away.
        let name = format!("svx{n}-{}", std::process::id());
        run("ip", &["link", "add", &name, "type", "bridge"]);
        run("ip", &["link", "set", &name, "alias", &alias]);
        let kind = if alias.ends_with("other") { "bridge" } else { "link" };
        told_and_repaired(&daemon, &alias, (kind, "belongs to nothing")).await;
        assert!(!Path::new("/sys/class/net").join(name).exists(), "{alias}");
    }
    // Where daemons tell each other what they took.
    let claim = Path::new("/run/lock/sysctl").join(&mark).with_extension("new");
    fs::write(&claim, "{").expect("half a claim");
    told_and_repaired(&daemon, "half a claim", ("partial file", "belongs to nothing")).await;

    // Only people may undo what they did.
    let veth = daemon.client.get_instance("on").await.expect("on").value.config["volatile.eth0.host_name"].clone();
    let alias = fs::read_to_string(format!("/sys/class/net/{veth}/ifalias")).expect("an alias");
    run("ip", &["link", "set", &veth, "alias", "mine"]);
    tells(&daemon, "another alias", ("link", "does not carry our mark")).await;
    run("ip", &["link", "set", &veth, "alias", alias.trim()]);
    daemon.healthy().await;
    let lock = fs::File::open(pool(&daemon).join(format!("volumes/{off}/fs/lock"))).expect("the lock");
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).expect("take it");
    tells(&daemon, "a stranger's lock", ("volume", "which is none of ours")).await;
    drop(lock);
    let point = daemon.runtime_dir().join("mnt/x");
    fs::create_dir(&point).expect("make a directory");
    let text = point.to_str().expect("text");
    run("mount", &["-t", "tmpfs", "none", text]);
    tells(&daemon, "a mount", ("mount", "host's own namespace")).await;
    run("umount", &[text]);
    fs::remove_dir(&point).expect("remove");

    assert_eq!(daemon.init_pid("on").await, before, "a repair disturbed a guest");
    daemon.finish().await;
}

#[tokio::test]
async fn a_keeper_without_a_directory_and_a_helper_without_a_stream_are_replaced_and_ended() {
    let mut daemon = with_two_instances("processes").await;
    let on = id(&daemon, "on").await;
    let before = daemon.init_pid("on").await;
    let directory = daemon.runtime_dir().join(format!("keep/{on}.1"));
    fs::remove_dir_all(&directory).expect("remove the keeper's directory");
    told_and_repaired(&daemon, "no directory", ("keeper", "lost its directory")).await;
    assert_eq!(daemon.init_pid("on").await, before);
    daemon.terminate();
    daemon.start();
    assert_eq!(daemon.init_pid("on").await, before, "the next daemon did not find its guest");
    assert_eq!(daemon.print("on", &["echo", "alive"]).await, "alive");

    let stream = daemon.client.get_instance_sftp("off").await.expect("a stream");
    let directory = daemon.runtime_dir().display().to_string();
    let processes = support::processes();
    let spawn = processes.iter().find(|p| p.arguments.contains("spawn") && p.arguments.contains(&directory));
    let spawn = spawn.expect("a spawn process").pid;
    let helper = processes.iter().find(|p| p.parent == spawn && p.arguments.contains("files")).expect("a helper").pid;
    daemon.healthy().await;
    support::signal(helper, rustix::process::Signal::STOP);
    daemon.kill();
    drop(stream);
    daemon.start();
    told_and_repaired(&daemon, "a helper that is stuck", ("helper", "serves nobody")).await;
    let namespace = PathBuf::from(format!("/proc/{helper}/ns/pid"));
    testkit::eventually("the end of the helper", || (!namespace.exists()).then_some(()));
    daemon.finish().await;
}

#[tokio::test]
async fn a_daemon_that_may_not_look_into_keepers_finds_nothing_wrong_with_them() {
    let mut daemon = with_two_instances("confined").await;
    // As our unit has it: keepers may do more than the daemon, so their files are not shown to it.
    daemon.terminate();
    daemon.start_by(&["setpriv", "--inh-caps=-all", "--bounding-set=-sys_ptrace"]);
    daemon.start();
    let report = daemon.doctor().await;
    assert!(report.findings.is_empty(), "{:#?}", report.findings);
    daemon.finish().await;
}

#[tokio::test]
async fn claims_that_do_not_fit_what_instances_have_are_told_and_repaired() {
    let mut daemon = with_two_instances("claims").await;
    let address = daemon.client.get_instance("on").await.expect("on").value.config["volatile.eth0.hwaddr"].clone();
    daemon.terminate();
    let store = Store::open(&daemon.state_dir().join("sysctl.db")).expect("open the database");
    let ops = vec![
        Op::Release { space: "mac", value: address },
        Op::Claim { space: "instance-name", value: "default/ghost".into(), owner: Uuid::new_v4().to_string() },
    ];
    store.commit(Txn { compare: Vec::new(), ops }).await.expect("break the claims");
    drop(store);
    daemon.start();
    tells(&daemon, "a claim of nobody", ("claim", "which does not have it")).await;
    told_and_repaired(&daemon, "no claim", ("claim", "which has it")).await;
    daemon.launch("ghost", &[]).await;
    daemon.finish().await;
}

#[tokio::test]
async fn a_report_is_cheap_and_fails_the_command_when_something_is_wrong() {
    let daemon = with_two_instances("cheap").await;
    for n in 0..testkit::budget(18, 98) {
        daemon.launch(&format!("c{n}"), &[]).await;
    }
    let started = Instant::now();
    daemon.healthy().await;
    let report = daemon.doctor().await;
    let count = |kind: &str| report.checks.iter().find(|c| c.kind == kind).map_or("0", |c| &c.object).to_owned();
    eprintln!(
        "figure: doctor with {} instances: {} ms, {} processes, {} descriptors, {} claims looked at",
        count("instance"),
        started.elapsed().as_millis() / 2,
        count("process"),
        count("descriptor"),
        count("claim")
    );
    let doctor = |arguments: &[&str]| {
        let mut command = Command::new(support::program("sysctl-cli"));
        command.args(["--socket", daemon.runtime_dir().join("unix.socket").to_str().expect("text"), "doctor"]);
        command.args(arguments).output().expect("sysctl-cli")
    };
    assert_eq!(doctor(&[]).status.code(), Some(0));
    fs::create_dir(daemon.state_dir().join("uploads/x")).expect("make a directory");
    let output = doctor(&["-f", "json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((output.status.code(), report["findings"][0]["kind"].as_str()), (Some(1), Some("image file")));
    assert_eq!(doctor(&["--repair"]).status.code(), Some(0));
    daemon.finish().await;
}
