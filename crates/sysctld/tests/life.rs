//! The life of an instance on the real host: made, run, changed, held, stopped, removed; and what a guest does itself.

#![allow(missing_docs)]

mod support;

use support::{Daemon, order};
use sysctl_api::ExecPost;

#[tokio::test]
async fn an_instance_lives_from_launch_to_delete() {
    let daemon = Daemon::new("life");
    daemon.import_busybox().await;
    daemon.launch("web1", &[("environment.COLOUR", "blue"), ("user.note", "mine")]).await;
    assert_eq!(daemon.status("web1").await, "Running");
    assert_eq!(daemon.print("web1", &["hostname"]).await, "web1");
    assert_eq!(daemon.print("web1", &["sh", "-c", "echo $COLOUR"]).await, "blue");
    daemon.healthy().await;

    let first = daemon.init_pid("web1").await;
    daemon.print("web1", &["sh", "-c", "echo kept > /root/file"]).await;
    daemon.change("web1", "restart", false).await;
    assert_ne!(daemon.init_pid("web1").await, first);
    assert_eq!(daemon.print("web1", &["cat", "/root/file"]).await, "kept");

    daemon.change("web1", "freeze", false).await;
    assert_eq!(daemon.status("web1").await, "Frozen");
    daemon.change("web1", "unfreeze", false).await;
    assert_eq!(daemon.status("web1").await, "Running");

    daemon.change("web1", "stop", false).await;
    assert_eq!(daemon.status("web1").await, "Stopped");
    assert_eq!(daemon.client.get_instance_state("web1").await.expect("state").pid, 0);
    daemon.change("web1", "start", false).await;
    daemon.change("web1", "freeze", false).await;
    daemon.change("web1", "stop", true).await;
    daemon.healthy().await;
    daemon.try_delete("web1").await.expect("deleted");
    assert!(daemon.client.get_instances(&Default::default()).await.expect("list").is_empty());
    daemon.finish().await;
}

#[tokio::test]
async fn exec_is_as_a_shell_would_have_it() {
    let daemon = Daemon::new("exec");
    daemon.import_busybox().await;
    daemon.launch("web1", &[]).await;
    for (script, code) in [("exit 0", 0), ("exit 37", 37), ("exit 255", 255), ("kill -9 $$", 137), ("kill -15 $$", 143)]
    {
        assert_eq!(daemon.exec("web1", &["sh", "-c", script]).await.code, code, "{script}");
    }
    let missing = daemon.exec("web1", &["no-such-program"]).await;
    assert_eq!(missing.code, 127);
    assert!(missing.stderr.contains("no-such-program"), "{missing:?}");
    assert_eq!(daemon.exec("web1", &["/etc"]).await.code, 126);

    let both = daemon.exec("web1", &["sh", "-c", "echo out; echo err >&2"]).await;
    assert_eq!((both.stdout.as_str(), both.stderr.as_str()), ("out\n", "err\n"));
    let long = vec![b'x'; 3_000_000];
    let counted = daemon.exec_with("web1", &order(&["wc", "-c"]), &long).await.expect("wc");
    assert_eq!(counted.stdout.trim(), "3000000");
    let flood = daemon.exec("web1", &["sh", "-c", "dd if=/dev/zero bs=64k count=64 2>/dev/null | tr '\\0' y"]).await;
    assert_eq!(flood.stdout.len(), 64 * 64 * 1024);

    let somebody = ExecPost {
        user: 1000,
        group: 1001,
        cwd: "/tmp".into(),
        environment: support::strings(&[("A", "b c")]),
        ..order(&["sh", "-c", "id -u; id -g; pwd; echo $A"])
    };
    let said = daemon.exec_with("web1", &somebody, b"").await.expect("sh").stdout;
    assert_eq!(said, "1000\n1001\n/tmp\nb c\n");
    assert_eq!(daemon.print("web1", &["pwd"]).await, "/root");
    let nowhere = ExecPost { cwd: "/nowhere".into(), ..order(&["pwd"]) };
    let refused = daemon.exec_with("web1", &nowhere, b"").await;
    let text = format!("{refused:?}");
    assert!(text.contains("/nowhere"), "{text}");
    daemon.finish().await;
}

#[tokio::test]
async fn a_terminal_is_resized_and_takes_keys() {
    let daemon = Daemon::new("terminal");
    daemon.import_busybox().await;
    daemon.launch("web1", &[]).await;
    let shell = ExecPost {
        interactive: true,
        width: 91,
        height: 27,
        ..order(&["sh", "-c", "stty size; read x; stty size; exit 5"])
    };
    let mut exec = daemon.client.exec_instance("web1", &shell).await.expect("exec");
    let mut shown = String::new();
    while !shown.contains("27 91") {
        shown.push_str(std::str::from_utf8(&exec.stdout.read().await.expect("read").expect("more")).expect("text"));
    }
    exec.control.resize(120, 40).await.expect("resize");
    // The size is there once the shell can see it, so the key that lets it go on is pressed afterwards.
    loop {
        let seen = daemon.exec("web1", &["sh", "-c", "stty size < /dev/pts/1"]).await;
        if seen.stdout.trim() == "40 120" {
            break;
        }
    }
    exec.stdin.write("\r".into()).await.expect("write");
    while let Some(bytes) = exec.stdout.read().await.expect("read") {
        shown.push_str(std::str::from_utf8(&bytes).expect("text"));
    }
    assert!(shown.contains("40 120"), "{shown}");
    assert_eq!(daemon.client.exec_result(&exec.operation.id).await.expect("code"), 5);

    let mut exec = daemon.client.exec_instance("web1", &order(&["sleep", "1000"])).await.expect("exec");
    exec.control.signal(15).await.expect("signal");
    assert_eq!(daemon.client.exec_result(&exec.operation.id).await.expect("code"), 143);
    daemon.finish().await;
}

#[tokio::test]
async fn a_guest_reboots_and_powers_off_by_itself() {
    let daemon = Daemon::new("guest");
    daemon.import_busybox().await;
    daemon.launch("web1", &[]).await;
    let first = daemon.init_pid("web1").await;
    daemon.print("web1", &["touch", "/root/before"]).await;
    daemon.client.exec_instance_silently("web1", &order(&["reboot"])).await.ok();
    let mut events = daemon.client.get_events(&Default::default()).await.expect("events");
    let again = async {
        loop {
            let pid = daemon.init_pid("web1").await;
            if pid != first && pid != 0 {
                return;
            }
            events.next().await.expect("events").expect("an event");
        }
    };
    tokio::time::timeout(support::PATIENCE, again).await.expect("a second boot");
    daemon.print("web1", &["test", "-e", "/root/before"]).await;
    daemon.client.exec_instance_silently("web1", &order(&["poweroff"])).await.ok();
    daemon.until_status("web1", "Stopped").await;
    // One that is deleted when it stops.
    let ephemeral = sysctl_api::InstancesPost { ephemeral: true, ..support::post("gone", &[]) };
    let operation = daemon.client.create_instance(&ephemeral).await.expect("accepted");
    daemon.client.finish(&operation).await.expect("launched");
    daemon.change("gone", "stop", false).await;
    assert_eq!(daemon.client.get_instance("gone").await.expect_err("gone").status(), Some(404));
    daemon.finish().await;
}

#[tokio::test]
async fn limits_hold_at_start_and_live() {
    let daemon = Daemon::new("limits");
    daemon.import_busybox().await;
    daemon.launch("web1", &[("limits.processes", "40"), ("limits.memory", "64MiB"), ("limits.cpu", "1")]).await;
    assert_eq!(daemon.print("web1", &["nproc"]).await, "1");
    // A fork bomb ends at the limit; the rest of the host does not notice, and exec says why it cannot.
    let bomb = "i=0; while [ $i -lt 200 ]; do sleep 1000 & i=$((i+1)); done";
    daemon.exec("web1", &["sh", "-c", bomb]).await;
    let state = daemon.client.get_instance_state("web1").await.expect("state");
    assert!((30..=41).contains(&state.processes), "{}", state.processes);
    daemon.set("web1", &[("limits.processes", "200")]).await.expect("set");
    assert_eq!(daemon.print("web1", &["echo", "room"]).await, "room");
    // A memory hog is killed, and nothing else.
    let hog = ["dd", "if=/dev/zero", "of=/dev/null", "bs=150M", "count=1"];
    assert_eq!(daemon.exec("web1", &hog).await.code, 137);
    assert_eq!(daemon.status("web1").await, "Running");
    daemon.set("web1", &[("limits.memory", "400MiB"), ("limits.cpu", "")]).await.expect("set");
    assert_eq!(daemon.exec("web1", &hog).await.code, 0);
    let state = daemon.client.get_instance_state("web1").await.expect("state");
    assert_eq!(state.memory.total, 400 * 1024 * 1024);
    daemon.set("web1", &[("limits.cpu.allowance", "20ms/100ms")]).await.expect("set");
    let allowed = daemon.client.get_instance_state("web1").await.expect("state").cpu.allocated_time;
    assert_eq!(allowed, 200_000_000);
    daemon.finish().await;
}

#[tokio::test]
async fn the_console_is_kept_and_can_be_cleared() {
    let daemon = Daemon::new("console");
    daemon.import_busybox().await;
    daemon.launch("web1", &[]).await;
    daemon.print("web1", &["sh", "-c", "echo to-the-console > /dev/console"]).await;
    let mut log = String::new();
    while !log.contains("to-the-console") {
        log = String::from_utf8(daemon.client.get_instance_console_log("web1").await.expect("log")).expect("text");
    }
    daemon.change("web1", "stop", true).await;
    let log = daemon.client.get_instance_console_log("web1").await.expect("log of a stopped instance");
    assert!(String::from_utf8_lossy(&log).contains("to-the-console"));
    daemon.client.delete_instance_console_log("web1").await.expect("cleared");
    assert!(daemon.client.get_instance_console_log("web1").await.expect("log").is_empty());
    daemon.finish().await;
}

#[tokio::test]
async fn a_plan_tells_the_steps_and_does_none() {
    let daemon = Daemon::new("plan");
    daemon.import_busybox().await;
    let names = |steps: Vec<sysctl_api::PlanStep>| steps.into_iter().map(|step| step.step).collect::<Vec<_>>();
    let planned = names(daemon.client.plan_create_instance(&support::post("web1", &[])).await.expect("a plan"));
    assert_eq!(planned, ["ensure_image", "create_root", "create_group", "spawn", "attach_nic", "start"]);
    assert!(daemon.client.get_instances(&Default::default()).await.expect("list").is_empty());
    daemon.launch("web1", &[]).await;
    let limits = support::patch(&[("limits.processes", "99")]);
    assert_eq!(names(daemon.client.plan_patch_instance("web1", &limits).await.expect("a plan")), ["set_limits"]);
    let network = daemon.client.get_networks(&Default::default()).await.expect("networks");
    let network = network.into_iter().find(|network| network.managed).expect("a network").name;
    let nic = support::strings(&[("type", "nic"), ("network", &network), ("name", "eth1")]);
    let more = sysctl_api::InstancePut { devices: Some([("eth1".to_owned(), nic)].into()), ..Default::default() };
    for _ in 0..2 {
        let planned = names(daemon.client.plan_patch_instance("web1", &more).await.expect("a plan"));
        assert_eq!(planned, ["attach_nic"]);
    }
    let operation = daemon.client.patch_instance("web1", &more, None).await.expect("accepted");
    daemon.client.finish(&operation).await.expect("attached");
    assert!(daemon.print("web1", &["ip", "address", "show", "eth1"]).await.contains("inet "));
    daemon.finish().await;
}

#[tokio::test]
async fn it_is_told_what_isolates_an_instance() {
    let daemon = Daemon::new("explain");
    daemon.import_busybox().await;
    daemon.launch("web1", &[("security.caps", "-net_raw"), ("limits.processes", "77")]).await;
    let told = daemon.client.explain_instance("web1").await.expect("an explanation");
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"] {
        assert_eq!(told.namespaces[kind], "its own", "{kind}");
    }
    assert!(!told.exposed.iter().any(|text| text.contains("clocks")), "{told:?}");
    assert!(told.capabilities_dropped.iter().any(|name| name == "net_raw"), "{told:?}");
    assert_eq!(told.limits["PidsMax"], "77");
    assert_eq!(u32::try_from(told.pid), Ok(daemon.init_pid("web1").await));
    daemon.change("web1", "stop", true).await;
    assert_eq!(daemon.client.explain_instance("web1").await.expect_err("stopped").status(), Some(400));
    daemon.finish().await;
}

#[tokio::test]
async fn lists_tell_what_has_changed() {
    let daemon = Daemon::new("lists");
    daemon.import_busybox().await;
    daemon.launch("web1", &[]).await;
    daemon.change("web1", "stop", true).await;
    let list = async || daemon.client.get_instances_full(&Default::default()).await.expect("list").remove(0).instance;
    assert_eq!(list().await.status, "Stopped");
    daemon.set("web1", &[("user.a", "b")]).await.expect("set");
    assert_eq!(list().await.config["user.a"], "b");
    let profile = daemon.client.get_profile("default").await.expect("profile").value;
    let mut config = profile.config;
    config.insert("user.from".into(), "profile".into());
    let put = sysctl_api::ProfilePut {
        config: Some(config),
        devices: Some(profile.devices),
        description: Some(profile.description),
    };
    daemon.client.update_profile("default", &put, None).await.expect("changed");
    assert_eq!(list().await.expanded_config["user.from"], "profile");
    daemon.change("web1", "start", false).await;
    let running = list().await;
    assert_eq!((running.status.as_str(), running.config["user.a"].as_str()), ("Running", "b"));
    daemon.finish().await;
}
