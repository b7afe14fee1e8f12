//! The stock `incus` client, unmodified, over our socket. Needs the program, which `cargo xtask test` installs.

#![allow(missing_docs)]

mod support;

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use support::Daemon;
use testkit::Scratch;

/// The client with a home of its own, so that it remembers nothing of other servers.
struct Incus<'a> {
    daemon: &'a Daemon,
    home: Scratch,
}

impl Incus<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("incus");
        command.args(arguments).env("INCUS_SOCKET", self.daemon.runtime_dir().join("unix.socket"));
        command.env("HOME", self.home.path()).env("INCUS_CONF", self.home.join("conf")).stdin(Stdio::null());
        command
    }

    fn try_run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("incus: install it, or run `cargo xtask test --ring conformance`")
    }

    /// Runs a command that must succeed; what it prints.
    fn run(&self, arguments: &[&str]) -> String {
        let output = self.try_run(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "incus {arguments:?}: {stderr}\n{stdout}\n{}", self.daemon.log());
        stdout
    }

    fn code(&self, arguments: &[&str]) -> Option<i32> {
        self.try_run(arguments).status.code()
    }

    fn with_input(&self, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        let mut child = self.command(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("incus");
        let mut stdin = child.stdin.take().expect("a pipe");
        let input = input.to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().expect("incus");
        writer.join().expect("writer").expect("written");
        assert!(output.status.success(), "{arguments:?}");
        output.stdout
    }
}

/// The busybox image in the forms and compressions that images are published in: name, files.
fn archives(work: &Scratch, unified: &std::path::Path) -> Vec<(String, Vec<String>)> {
    let run = |program: &str, arguments: &[&str]| {
        let done = Command::new(program).args(arguments).current_dir(work.path()).status();
        assert!(done.is_ok_and(|status| status.success()), "{program} {arguments:?}");
    };
    let unified = unified.display().to_string();
    run("tar", &["-xf", &unified]);
    let mut forms = Vec::new();
    for (name, flag) in [("none", "-c"), ("gzip", "-cz"), ("xz", "-cJ"), ("zstd", "--zstd")] {
        let (metadata, rootfs, one) = (format!("{name}-meta"), format!("{name}-rootfs"), format!("{name}-one"));
        let flags: &[&str] = if name == "zstd" { &["--zstd", "-c"] } else { &[flag] };
        // Something of its own in each, as the same image twice is refused.
        std::fs::write(work.join("rootfs/etc/form"), name).expect("write");
        run("tar", &[flags, &["-f", &one, "metadata.yaml", "rootfs"]].concat());
        std::fs::write(work.join("rootfs/etc/form"), format!("{name}-split")).expect("write");
        run("tar", &[flags, &["-f", &metadata, "metadata.yaml"]].concat());
        run("tar", &[flags, &["-f", &rootfs, "-C", "rootfs", "."]].concat());
        let path = |file: &str| work.join(file).display().to_string();
        forms.push((name.to_owned(), vec![path(&one)]));
        forms.push((format!("{name}-split"), vec![path(&metadata), path(&rootfs)]));
    }
    forms
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_imported_in_every_form() {
    let daemon = Daemon::new("forms");
    let unified = support::busybox_archive().await;
    let incus = Incus { daemon: &daemon, home: Scratch::new("incus-home") };
    let work = Scratch::new("forms-work");
    for (name, files) in archives(&work, &unified) {
        let mut arguments = vec!["image", "import"];
        arguments.extend(files.iter().map(String::as_str));
        let alias = format!("--alias={name}");
        arguments.push(&alias);
        incus.run(&arguments);
        incus.run(&["launch", &name, "c1"]);
        assert_eq!(incus.run(&["exec", "c1", "--", "cat", "/etc/form"]), name);
        incus.run(&["delete", "-f", "c1"]);
        let info = incus.run(&["image", "info", &name]);
        assert!(info.contains("BusyBox"), "{info}");
    }
    let out = work.join("exported").display().to_string();
    incus.run(&["image", "export", "gzip", &out]);
    incus.run(&["image", "delete", "gzip"]);
    assert!(!incus.run(&["image", "list", "-f", "csv"]).contains("gzip,"));
    let exported = std::fs::read_dir(work.path()).expect("dir").flatten().map(|e| e.path());
    let exported = exported.into_iter().find(|p| p.display().to_string().contains("exported")).expect("an export");
    incus.run(&["image", "import", &exported.display().to_string(), "--alias", "back"]);
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_daemon_launches_from_a_recipe() {
    let daemon = Daemon::new("recipe");
    let incus = Incus { daemon: &daemon, home: Scratch::new("incus-home") };
    assert!(incus.run(&["image", "alias", "list", "-f", "csv"]).contains("debian/13"));
    incus.run(&["launch", "busybox", "web1"]);
    assert_eq!(incus.run(&["list", "-c", "ns", "-f", "csv"]).trim(), "web1,RUNNING");
    assert!(incus.run(&["image", "list", "-f", "csv"]).contains("busybox"));
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_life_of_an_instance_by_incus() {
    let daemon = Daemon::new("incus");
    daemon.import_busybox().await;
    let incus = Incus { daemon: &daemon, home: Scratch::new("incus-home") };
    incus.run(&["launch", "bb", "web1", "-c", "limits.memory=100MiB", "-c", "user.note=hello"]);
    incus.run(&["init", "bb", "web2"]);
    assert_eq!(incus.run(&["list", "-c", "ns", "-f", "csv"]), "web1,RUNNING\nweb2,STOPPED\n");
    assert_eq!(incus.run(&["list", "web2", "-c", "n", "-f", "csv"]), "web2\n");
    let info = incus.run(&["info", "web1"]);
    assert!(info.contains("Status: RUNNING") && info.contains("eth0") && info.contains("Processes:"), "{info}");

    assert_eq!(incus.run(&["exec", "web1", "--", "echo", "hi"]), "hi\n");
    for (script, code) in [("exit 42", 42), ("kill -9 $$", 137), ("exit 0", 0)] {
        assert_eq!(incus.code(&["exec", "web1", "--", "sh", "-c", script]), Some(code), "{script}");
    }
    assert_eq!(incus.code(&["exec", "web1", "--", "no-such"]), Some(127));
    let data: Vec<u8> = (0..5_000_000u32).map(|n| (n % 251) as u8).collect();
    assert!(incus.with_input(&["exec", "web1", "--", "cat"], &data) == data, "bytes were lost or changed");
    // On a terminal: script(1) gives the client one.
    let in_terminal = "incus exec web1 -t -- sh -c 'stty size; tty'";
    let mut script = Command::new("script");
    script.args(["-qec", in_terminal, "/dev/null"]).env("HOME", incus.home.path());
    script.env("INCUS_SOCKET", daemon.runtime_dir().join("unix.socket")).stdin(Stdio::null());
    let shown = String::from_utf8_lossy(&script.output().expect("script").stdout).into_owned();
    assert!(shown.contains("/dev/pts/"), "{shown}");

    let work = Scratch::new("push");
    std::fs::create_dir_all(work.join("tree/deep/deeper")).expect("mkdir");
    std::fs::write(work.join("tree/deep/file"), &data).expect("write");
    std::fs::write(work.join("tree/deep/deeper/other"), "x").expect("write");
    std::os::unix::fs::symlink("deep/file", work.join("tree/link")).expect("symlink");
    let tree = work.join("tree").display().to_string();
    for name in ["web1", "web2"] {
        incus.run(&["file", "push", "-r", &tree, &format!("{name}/root")]);
        let back = work.join(format!("back-{name}"));
        std::fs::create_dir(&back).expect("mkdir");
        incus.run(&["file", "pull", "-r", &format!("{name}/root/tree"), &back.display().to_string()]);
        assert!(std::fs::read(back.join("tree/deep/file")).expect("read") == data);
        assert_eq!(std::fs::read_link(back.join("tree/link")).expect("a link").to_str(), Some("deep/file"));
        incus.run(&["file", "delete", &format!("{name}/root/tree/deep/deeper/other")]);
        let mode = ["file", "push", "--mode", "0600", "--uid", "1000", "/etc/hostname", &format!("{name}/root/mine")];
        incus.run(&mode);
    }
    assert_eq!(incus.run(&["exec", "web1", "--", "stat", "-c", "%a %u", "/root/mine"]), "600 1000\n");

    incus.run(&["config", "set", "web1", "limits.processes=77"]);
    assert_eq!(incus.run(&["config", "get", "web1", "limits.processes"]), "77\n");
    incus.run(&["config", "unset", "web1", "limits.processes"]);
    assert_eq!(incus.run(&["config", "get", "web1", "limits.processes"]).trim(), "");
    assert!(incus.run(&["config", "show", "web1"]).contains("user.note: hello"));
    let edited = incus.run(&["config", "show", "web1"]).replace("user.note: hello", "user.note: changed");
    incus.with_input(&["config", "edit", "web1"], edited.as_bytes());
    assert_eq!(incus.run(&["config", "get", "web1", "user.note"]), "changed\n");

    for (verb, state) in
        [("pause", "FROZEN"), ("resume", "RUNNING"), ("restart", "RUNNING"), ("stop", "STOPPED"), ("start", "RUNNING")]
    {
        incus.run(&[verb, "web1"]);
        assert_eq!(incus.run(&["list", "web1", "-c", "s", "-f", "csv"]).trim(), state, "{verb}");
    }
    incus.run(&["exec", "web1", "--", "sh", "-c", "echo on-the-console > /dev/console"]);
    testkit::eventually("the console", || {
        incus.run(&["console", "web1", "--show-log"]).contains("on-the-console").then_some(())
    });
    assert!(incus.run(&["query", "/1.0/instances/web1"]).contains("\"name\": \"web1\""));
    for list in
        [["network", "list"], ["storage", "list"], ["profile", "list"], ["project", "list"], ["operation", "list"]]
    {
        incus.run(&list);
    }
    assert!(incus.run(&["profile", "show", "default"]).contains("eth0"));
    incus.run(&["stop", "-f", "web1"]);
    incus.run(&["delete", "web1", "web2"]);
    assert_eq!(incus.run(&["list", "-f", "csv"]), "");
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn monitor_shows_what_happens() {
    let daemon = Daemon::new("monitor");
    daemon.import_busybox().await;
    let incus = Incus { daemon: &daemon, home: Scratch::new("incus-home") };
    let mut command = incus.command(&["monitor", "--type=lifecycle", "-f", "json"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("incus");
    let stdout = std::io::BufReader::new(child.stdout.take().expect("a pipe"));
    let (lines, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::BufRead::lines(stdout).map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    // It listens once it tells the first thing: something is done until then.
    let mut first = None;
    while first.is_none() {
        daemon.launch("probe", &[]).await;
        daemon.change("probe", "stop", true).await;
        daemon.try_delete("probe").await.expect("deleted");
        first = heard.try_recv().ok();
    }
    daemon.launch("web1", &[]).await;
    let told = || heard.recv_timeout(support::PATIENCE).expect("an event");
    let mut all: Vec<String> = Vec::new();
    // The client prints what it is told in any order.
    let has = |all: &[String], what: &str| all.iter().any(|line| line.contains(what) && line.contains("web1"));
    while !has(&all, "instance-started") || !has(&all, "instance-created") {
        all.push(told());
    }
    child.kill().expect("kill");
    child.wait().expect("wait");
    daemon.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wires_and_chains_are_made_by_the_stock_client() {
    let daemon = Daemon::new("stock-chain");
    daemon.import_busybox().await;
    daemon.launch("web1", &[]).await;
    daemon.launch("fw1", &[]).await;
    let incus = Incus { daemon: &daemon, home: Scratch::new("incus-home") };
    incus.run(&["config", "device", "add", "web1", "eth1", "nic", "nictype=wire", "peer=fw1:eth1"]);
    assert!(incus.run(&["exec", "web1", "--", "ip", "link", "show", "eth1"]).contains("eth1"));
    let keys = ["chain.to=web1:eth0", "chain.functions=fw1:lan/wan", "chain.bypass=fw1"];
    incus.run(&[&["network", "create", "edge", "--type=chain"][..], &keys].concat());
    assert!(incus.run(&["network", "show", "edge"]).contains("type: chain"));
    assert!(incus.run(&["exec", "fw1", "--", "ip", "link", "show", "wan"]).contains("wan"));
    incus.run(&["network", "set", "edge", "chain.on_failure=bypass"]);
    assert_eq!(incus.run(&["network", "get", "edge", "chain.on_failure"]).trim(), "bypass");
    assert!(incus.run(&["network", "list", "-f", "csv"]).contains("edge,chain,YES"));
    incus.run(&["network", "delete", "edge"]);
    incus.run(&["config", "device", "remove", "web1", "eth1"]);
    assert_ne!(incus.code(&["exec", "web1", "--", "ip", "link", "show", "eth1"]), Some(0));
    daemon.finish().await;
}
