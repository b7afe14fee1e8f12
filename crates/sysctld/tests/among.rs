//! Programs that are the init of a guest, and guests that live among processes which are not their own.

#![allow(missing_docs)]

mod support;

use std::time::Instant;

use support::{Daemon, order, post};

/// It waits for its console, and takes no orders.
const PROGRAM: (&str, &str) = ("boot.init", "/bin/cat");

async fn refusal(daemon: &Daemon, config: &[(&str, &str)]) -> String {
    let made = daemon.client.create_instance(&post("x", config)).await;
    let text = match made {
        Err(error) => error.to_string(),
        Ok(operation) => daemon.client.finish(&operation).await.expect_err("refused").to_string(),
    };
    // What only its start could tell leaves one that is stopped.
    if daemon.client.get_instance("x").await.is_ok() {
        assert_ne!(daemon.status("x").await, "Running", "{text}");
        daemon.try_delete("x").await.expect("deleted");
    }
    text
}

/// Processes whose arguments are these.
fn processes(words: &str) -> Vec<u32> {
    let is_it = |process: &support::Process| process.arguments.trim_end_matches('\0').replace('\0', " ") == words;
    support::processes().into_iter().filter(is_it).map(|process| process.pid).collect()
}

#[tokio::test]
async fn a_program_is_init_and_one_that_cannot_be_is_named() {
    let daemon = Daemon::new("program");
    daemon.import_busybox().await;
    daemon.launch("app1", &[PROGRAM]).await;
    assert_eq!(daemon.print("app1", &["sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline"]).await.trim(), "/bin/cat");
    for (config, words) in [
        (vec![("boot.init", "/no/such")], vec!["init: execve /no/such: No such file", "boot.init"]),
        (vec![("boot.init", "/etc")], vec!["init: execve /etc: Permission denied"]),
        (vec![("boot.init", "sbin/init")], vec!["boot.init", "the path of a program inside"]),
        (vec![("boot.init", "/bin/../bin/cat")], vec!["boot.init", "the path of a program inside"]),
        (vec![("namespaces.preset", "toolbox")], vec!["boot.init"]),
        (
            vec![("namespaces.preset", "toolbox"), ("namespaces.user", "host"), PROGRAM],
            vec!["root inside is root outside"],
        ),
        (
            vec![("namespaces.pid", "instance:app1"), ("namespaces.join.policy", "detach"), PROGRAM],
            vec!["namespaces.join.policy", "no policy can keep it alive"],
        ),
    ] {
        let text = refusal(&daemon, &config).await;
        assert!(words.iter().all(|word| text.contains(word)), "{config:?}: {text}");
        daemon.healthy().await;
    }
    daemon.finish().await;
}

#[tokio::test]
async fn a_toolbox_sees_the_host_and_touches_nothing_of_it() {
    let mut daemon = Daemon::new("toolbox");
    daemon.import_busybox().await;
    daemon.launch("box1", &[("namespaces.preset", "toolbox"), PROGRAM]).await;
    for namespace in daemon.client.get_instance_namespaces("box1").await.expect("namespaces") {
        let expected = if matches!(namespace.kind.as_str(), "mnt" | "user") { "private" } else { "host" };
        assert_eq!(namespace.mode, expected, "{}", namespace.kind);
    }
    let told = daemon.client.explain_instance("box1").await.expect("explain");
    assert!(told.exposed.iter().any(|text| text.contains("command lines")), "{:?}", told.exposed);
    assert!(told.ids.contains("nobody else's"), "{}", told.ids);
    let pid = daemon.pid();
    let attempt =
        format!("cat /proc/{pid}/comm; kill -9 {pid}; cat /proc/{pid}/environ; ls /proc/{pid}/root/; reboot -f");
    let output = daemon.exec("box1", &["sh", "-c", &attempt]).await;
    assert!(output.code != 0 && output.stdout == "sysctld\n", "{} {}", output.stdout, output.stderr);

    // A stop asks it in the way of programs, and ends what it has left behind.
    daemon.print("box1", &["sh", "-c", "sleep 515151 >/dev/null 2>&1 &"]).await;
    // The shell has ended, but what it left behind may not have become that program yet.
    testkit::eventually("the program", || (processes("sleep 515151").len() == 1).then_some(()));
    let begun = Instant::now();
    daemon.change("box1", "stop", false).await;
    let took = begun.elapsed();
    assert!(processes("sleep 515151").is_empty());
    assert!(took.as_secs() < 5, "not killed for its silence: {took:?}");

    // Its end while neither its keeper nor the daemon sees it.
    daemon.change("box1", "start", false).await;
    let init = daemon.init_pid("box1").await;
    daemon.print("box1", &["sh", "-c", "sleep 525252 >/dev/null 2>&1 &"]).await;
    testkit::eventually("the program", || (processes("sleep 525252").len() == 1).then_some(()));
    let keeper = support::processes().into_iter().find(|process| process.pid == init).expect("it runs").parent;
    daemon.kill();
    for pid in [keeper, init] {
        support::signal(pid, rustix::process::Signal::KILL);
    }
    assert_eq!(processes("sleep 525252").len(), 1);
    daemon.start();
    daemon.until_status("box1", "Stopped").await;
    testkit::eventually("the end of the rest", || processes("sleep 525252").is_empty().then_some(()));
    eprintln!("figure: a toolbox among the host's processes: stopped in {took:.1?}, nothing of it left, 2 of 2 ends");
    daemon.finish().await;
}

#[tokio::test]
async fn who_lives_among_a_neighbours_processes_ends_with_it() {
    let mut daemon = Daemon::new("neighbour");
    daemon.import_busybox().await;
    daemon.launch("db1", &[]).await;
    let near = [("namespaces.pid", "instance:db1"), PROGRAM];
    daemon.launch("near1", &near).await;
    daemon.launch("friend1", &[near[0], ("namespaces.user", "instance:db1"), PROGRAM]).await;
    let seen = daemon.print("near1", &["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]).await;
    assert!(seen.contains("/bin/cat") && seen.contains("init"), "{seen}");
    let told = daemon.client.explain_instance("friend1").await.expect("explain").exposed.join("\n");
    assert!(told.contains("the files of db1") && told.contains("kills all of it"), "{told}");
    let script = "read -r pid _ < /proc/self/stat; echo $$ $pid";
    let inside = sysctl_api::ExecPost { namespaces: vec!["pid".into()], ..order(&["sh", "-c", script]) };
    let tool = daemon.exec_with("near1", &inside, &[]).await.expect("a tool of the host");
    let numbers = tool.stdout.trim().split_once(' ').expect("its number there, and on the host");
    assert_ne!(numbers.0, numbers.1, "{}", tool.stderr);

    // A daemon that comes later finds them as they were.
    daemon.kill();
    daemon.start();
    for name in ["db1", "near1", "friend1"] {
        assert_eq!(daemon.status(name).await, "Running");
    }
    assert_eq!(daemon.print("near1", &["echo", "up"]).await, "up");
    let refused = daemon.try_change("db1", "stop", true).await.expect_err("refused").to_string();
    assert!(refused.contains("namespaces.join.policy"), "{refused}");

    // With the same users its root has the owner's: this is what explain says.
    assert_ne!(daemon.exec("near1", &["poweroff", "-f"]).await.code, 0);
    daemon.client.exec_instance_silently("friend1", &order(&["poweroff", "-f"])).await.ok();
    for name in ["db1", "near1", "friend1"] {
        daemon.until_status(name, "Stopped").await;
    }
    daemon.healthy().await;
    eprintln!("figure: an owner of processes ends: 2 of 2 who live among them end with it");
    daemon.finish().await;
}
