//! Debian from its own mirror: built once, booted to `running`, and lived in for a day.

#![allow(missing_docs)]

mod support;

use support::{Daemon, order, post};

async fn launch(daemon: &Daemon, image: &str, name: &str) {
    let mut post = post(name, &[]);
    post.source.alias = image.into();
    let operation = daemon.client.create_instance(&post).await.expect("accepted");
    daemon.client.finish(&operation).await.unwrap_or_else(|e| panic!("launch {image}: {e}\n{}", daemon.log()));
}

/// Waits for the end of the boot; the guest's own words about it.
async fn booted(daemon: &Daemon, name: &str) -> String {
    // Before systemd answers there is nobody to wait with.
    let wait = "until systemctl is-system-running --wait 2>/dev/null | grep -E 'running|degraded'; do :; done";
    daemon.print(name, &["sh", "-c", wait]).await
}

async fn is_healthy(daemon: &Daemon, name: &str) {
    let state = booted(daemon, name).await;
    let failed = daemon.print(name, &["systemctl", "list-units", "--failed", "--plain", "--no-legend"]).await;
    assert_eq!((state.as_str(), failed.as_str()), ("running", ""), "{name}\n{}", daemon.log());
}

/// The first `count` grains that a full system can have: it boots to `running`, without a failed unit.
async fn grains_boot_to_running(daemon: &Daemon, image: &str, owner: &str, count: usize) {
    let of_owner = format!("instance:{owner}");
    let sidecar = format!("sidecar:{owner}");
    let grains: [(&str, &[(&str, &str)]); 8] = [
        ("hostnet", &[("namespaces.preset", "hostnet")]),
        ("slim", &[("namespaces.preset", "slim")]),
        ("sidecar", &[("namespaces.preset", &sidecar)]),
        ("network of another", &[("namespaces.net", &of_owner)]),
        ("messages of another", &[("namespaces.ipc", &of_owner)]),
        ("name of another", &[("namespaces.uts", &of_owner)]),
        ("groups of the host", &[("namespaces.cgroup", "host")]),
        ("clocks of the host", &[("namespaces.time", "host")]),
    ];
    for (words, config) in grains.into_iter().take(count) {
        let mut post = post("grain", config);
        post.source.alias = image.into();
        let operation = daemon.client.create_instance(&post).await.expect("accepted");
        daemon.client.finish(&operation).await.unwrap_or_else(|e| panic!("{words}: {e}\n{}", daemon.log()));
        is_healthy(daemon, "grain").await;
        daemon.change("grain", "stop", false).await;
        daemon.try_delete("grain").await.expect("deleted");
    }
    eprintln!("figure: {image} in {count} grains of namespaces: all boot to running, no failed unit");
}

/// Wherever links lead, it is recognised, and what to do is said.
async fn systemd_does_not_live_among_others(daemon: &Daemon, image: &str) {
    let mut post = post("grain", &[("namespaces.pid", "host"), ("boot.init", "/sbin/init")]);
    post.source.alias = image.into();
    let operation = daemon.client.create_instance(&post).await.expect("accepted");
    let text = daemon.client.finish(&operation).await.expect_err("refused").to_string();
    assert!(text.contains("systemd must be process 1 /sbin/init") && text.contains("boot.init"), "{text}");
    daemon.try_delete("grain").await.expect("deleted");
}

async fn reboot(daemon: &Daemon, name: &str) {
    let old = daemon.init_pid(name).await;
    let mut events = daemon.client.get_events(&Default::default()).await.expect("events");
    daemon.client.exec_instance_silently(name, &order(&["reboot"])).await.ok();
    let again = async {
        loop {
            let pid = daemon.init_pid(name).await;
            if pid != old && pid != 0 {
                return;
            }
            events.next().await.expect("events").expect("an event");
        }
    };
    tokio::time::timeout(support::PATIENCE, again).await.expect("a reboot");
}

/// A full system with a web server does nothing for seconds: it is held still, gives memory back, and answers when asked.
async fn sleeps_and_wakes(daemon: &Daemon, name: &str) {
    let held = async || daemon.client.get_instance_state(name).await.expect("state").memory.usage >> 10;
    let mut events = daemon.client.get_events(&Default::default()).await.expect("events");
    let awake = held().await;
    daemon.set(name, &[("idle.freeze", "2s")]).await.expect("set");
    support::told(&mut events, "instance-slept").await;
    let asleep = held().await;
    let begun = std::time::Instant::now();
    assert_eq!(daemon.print(name, &["systemctl", "is-active", "nginx"]).await, "active");
    let exec = begun.elapsed();
    daemon.set(name, &[("idle.freeze", "")]).await.expect("taken back");
    eprintln!(
        "figure: a sleeping Debian with a web server holds {asleep} KiB of the {awake} it held awake; systemctl in it took {} ms from its sleep",
        exec.as_millis()
    );
}

#[tokio::test]
async fn debian_12_and_13_boot_to_running_and_live_through_a_day() {
    let daemon = Daemon::new("debian");
    // Two at once ask for an image that nobody has built: it is built once.
    tokio::join!(launch(&daemon, "debian", "web1"), launch(&daemon, "debian/13", "web2"));
    launch(&daemon, "debian/12", "old1").await;
    assert_eq!(
        daemon.client.get_images(&Default::default()).await.expect("images").iter().filter(|i| i.size > 0).count(),
        2
    );
    // Building one takes minutes where processors are emulated.
    let images = daemon.client.get_images(&Default::default()).await.expect("images");
    let debian = images.iter().find(|image| image.aliases.iter().any(|alias| alias.name == "debian"));
    daemon.keep_image(&debian.expect("the newest").fingerprint, &support::kept("debian-13.tar.zst"));
    for name in ["web1", "web2", "old1"] {
        is_healthy(&daemon, name).await;
        assert_eq!(daemon.print(name, &["hostname"]).await, name);
    }
    let id = async |name| daemon.print(name, &["cat", "/etc/machine-id"]).await;
    assert_ne!(id("web1").await, id("web2").await);
    assert_eq!(id("web1").await.len(), 32);
    daemon.print("web1", &["ping", "-c", "1", "-W", "5", "old1"]).await;

    for name in ["web1", "old1"] {
        let day = "export DEBIAN_FRONTEND=noninteractive
            apt-get update -q && apt-get install -qy --no-install-recommends cron nginx-light && apt-get -qy full-upgrade";
        let done = daemon.client.exec_instance_silently(name, &order(&["sh", "-c", day])).await.expect("a day");
        assert_eq!(done, 0, "apt in {name}");
        assert_eq!(daemon.print(name, &["systemctl", "is-active", "nginx", "cron"]).await, "active\nactive");
        let page = "exec 3<>/dev/tcp/127.0.0.1/80; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; head -1 <&3";
        assert!(daemon.print(name, &["bash", "-c", page]).await.contains("200 OK"));
        daemon.print(name, &["sh", "-c", "echo a-word-for-the-journal | systemd-cat"]).await;
        daemon.print(name, &["sh", "-c", "journalctl --sync; journalctl -q | grep -q a-word-for-the-journal"]).await;
        for _ in 0..2 {
            reboot(&daemon, name).await;
            is_healthy(&daemon, name).await;
            assert_eq!(daemon.print(name, &["systemctl", "is-active", "nginx"]).await, "active");
        }
    }
    // Options of systemd's own sandbox work in the locked root.
    let options = [
        "PrivateTmp=yes",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "PrivateDevices=yes",
        "ProtectKernelTunables=yes",
        "ProtectKernelModules=yes",
        "ProtectControlGroups=yes",
        "ProtectProc=invisible",
        "PrivateNetwork=yes",
        "PrivateUsers=yes",
        "ProtectHostname=yes",
        "RestrictNamespaces=yes",
        "MemoryDenyWriteExecute=yes",
        "SystemCallFilter=@system-service",
        "DynamicUser=yes",
        "NoNewPrivileges=yes",
        "PrivateIPC=yes",
        "ProtectClock=yes",
        "ProtectKernelLogs=yes",
        "RestrictSUIDSGID=yes",
        "LockPersonality=yes",
    ];
    for name in ["web1", "old1"] {
        for option in options {
            let run = ["systemd-run", "-q", "--wait", "--pipe", "-p", option, "true"];
            let done = daemon.exec(name, &run).await;
            assert_eq!(done.code, 0, "{name}: {option}: {done:?}");
        }
    }
    grains_boot_to_running(&daemon, "debian/13", "web1", 8).await;
    systemd_does_not_live_among_others(&daemon, "debian/13").await;
    grains_boot_to_running(&daemon, "debian/12", "old1", testkit::budget(3, 8)).await;
    sleeps_and_wakes(&daemon, "web1").await;
    let before = std::time::Instant::now();
    daemon.change("web1", "stop", false).await;
    assert!(before.elapsed().as_secs() < 20, "a clean stop took {:?}", before.elapsed());
    daemon.finish().await;
}
