//! Real guests under a real keeper.

#![allow(clippy::unwrap_used, unreachable_pub, missing_docs)]

mod support;

use runtime::protocol::*;
use support::*;

#[test]
fn a_guest_boots_runs_commands_and_powers_off() {
    let host = Host::new("boot");
    let mut keeper = host.keeper(1);
    let pid = keeper.boot(host.spec(keeper.boot));
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());

    let outcome = keeper.sh(1, "echo out; echo err >&2; id -u; hostname; exit 7");
    assert_eq!(outcome, Outcome { code: 7, stdout: "out\n0\nguest\n".into(), stderr: "err\n".into() });

    keeper.ask(KeepRequest::Exec(exec_spec(2, &["poweroff", "-f"])));
    let status = keeper.expect("end", |event| match event {
        KeepEvent::Ended(status) => Some(status.clone()),
        _ => None,
    });
    assert_eq!((status.end, status.code), (end::SIGNAL, 2), "SIGINT means halt");
    host.end(keeper);
}

#[test]
fn a_reboot_looks_different_from_a_halt() {
    let host = Host::new("reboot");
    let mut keeper = host.keeper(1);
    keeper.boot(host.spec(keeper.boot));
    keeper.ask(KeepRequest::Exec(ExecSpec { silent: true, ..exec_spec(1, &["reboot", "-f"]) }));
    let status = keeper.expect("end", |event| match event {
        KeepEvent::Ended(status) => Some(status.clone()),
        _ => None,
    });
    assert_eq!((status.end, status.code), (end::SIGNAL, 1), "SIGHUP means reboot");
    host.end(keeper);
}

#[test]
fn exit_codes_are_those_that_a_shell_would_give() {
    let host = Host::new("codes");
    let mut keeper = host.keeper(1);
    keeper.boot(host.spec(keeper.boot));
    let code = |keeper: &mut Keeper, n, argv: &[&str]| keeper.exec(exec_spec(n, argv)).code;
    for wanted in [0, 1, 77, 255] {
        assert_eq!(keeper.sh(wanted as u32 + 1, &format!("exit {wanted}")).code, wanted);
    }
    let missing = keeper.exec(exec_spec(900, &["no-such-program"]));
    assert_eq!(missing.code, 127);
    assert!(missing.stderr.contains("no-such-program: No such file or directory"), "{missing:?}");
    assert_eq!(code(&mut keeper, 901, &["/etc/passwd"]), 126);
    assert_eq!(keeper.sh(902, "kill -9 $$").code, 137);
    assert_eq!(keeper.sh(903, "kill -TERM $$").code, 143);
    assert_eq!(keeper.exec(ExecSpec { cwd: "/nowhere".into(), ..exec_spec(904, &["true"]) }).code, 127);
    host.end(keeper);
}

#[test]
fn user_group_directory_and_environment_are_as_asked() {
    let host = Host::new("user");
    let mut keeper = host.keeper(1);
    keeper.boot(host.spec(keeper.boot));
    let spec = ExecSpec {
        uid: 1000,
        gid: 1001,
        cwd: "/tmp".into(),
        environment: vec!["PATH=/bin".into(), "WORD=two words".into()],
        ..exec_spec(1, &["sh", "-c", "id -u; id -g; id -G; pwd; echo $WORD; echo x > /etc/x"])
    };
    let outcome = keeper.exec(spec);
    assert_eq!(outcome.stdout, "1000\n1001\n1001\n/tmp\ntwo words\n");
    assert!(outcome.stderr.contains("Permission denied"), "{outcome:?}");
    host.end(keeper);
}

#[test]
fn input_arrives_whole_and_ends() {
    let host = Host::new("input");
    let mut keeper = host.keeper(1);
    keeper.boot(host.spec(keeper.boot));
    keeper.ask(KeepRequest::Exec(exec_spec(1, &["md5sum"])));
    keeper.expect("session started", |e| matches!(e, KeepEvent::SessionStarted(_)).then_some(()));
    // 10 MB of a pattern, in chunks, as fast as they are taken; the last chunk is sent twice.
    let data: Vec<u8> = (0..10_000_000u32).map(|n| (n * 7 + n / 251) as u8).collect();
    let mut sent = 0;
    let mut taken = 0;
    while taken < data.len() as u64 {
        while sent < data.len() && sent as u64 - taken < 3 * MAX_INPUT as u64 {
            let chunk = &data[sent..data.len().min(sent + MAX_INPUT)];
            let eof = sent + chunk.len() == data.len();
            let input = Input { session: 1, offset: sent as u64, data: runtime::wire::Blob(chunk.to_vec()), eof };
            keeper.ask(KeepRequest::Input(input.clone()));
            if eof {
                keeper.ask(KeepRequest::Input(input));
            }
            sent += chunk.len();
        }
        taken = keeper.expect("taken", |e| match e {
            KeepEvent::Taken(t) => Some(t.offset),
            _ => None,
        });
    }
    let state = keeper.session_end();
    assert_eq!(state.code, 0);
    keeper.ask(KeepRequest::Attach(Session { session: 1 }));
    let rings = keeper
        .expect_with_fds("attached", |e, fds| matches!(e, KeepEvent::SessionStarted(_)).then(|| std::mem::take(fds)));
    let mut output = Vec::new();
    read_ring(&rings[0], &mut output, state.stdout.head);
    let mut child = std::process::Command::new("md5sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("md5sum");
    std::io::Write::write_all(&mut child.stdin.take().expect("piped"), &data).expect("write");
    assert_eq!(output, child.wait_with_output().expect("output").stdout);
    host.end(keeper);
}

#[test]
fn output_beyond_the_ring_waits_for_its_reader_and_nothing_is_lost() {
    let host = Host::new("output");
    let mut keeper = host.keeper(1);
    keeper.boot(host.spec(keeper.boot));
    let outcome = keeper.sh(1, "seq 1 300000; echo end >&2");
    let expected: String = (1..=300_000).map(|n| format!("{n}\n")).collect();
    assert!(outcome.stdout == expected, "{} of {} bytes", outcome.stdout.len(), expected.len());
    assert_eq!(outcome.stderr, "end\n");
    host.end(keeper);
}

#[test]
fn a_terminal_has_a_size_and_takes_signals() {
    let host = Host::new("terminal");
    let mut keeper = host.keeper(1);
    keeper.boot(host.spec(keeper.boot));
    let spec =
        ExecSpec { terminal: true, columns: 81, rows: 25, ..exec_spec(1, &["sh", "-c", "tty; stty size; sleep 1000"]) };
    keeper.ask(KeepRequest::Exec(spec));
    let (pid, rings) = keeper.expect_with_fds("started", |e, fds| match e {
        KeepEvent::SessionStarted(state) => Some((state.pid, std::mem::take(fds))),
        _ => None,
    });
    assert!(pid > 0);
    let mut output = Vec::new();
    while !String::from_utf8_lossy(&output).contains("25 81") {
        let head = keeper.expect("output", |e| match e {
            KeepEvent::Output(out) if out.session == 1 => Some(out.head),
            _ => None,
        });
        read_ring(&rings[0], &mut output, head);
    }
    assert!(String::from_utf8_lossy(&output).starts_with("/dev/pts/"), "{output:?}");
    keeper.ask(KeepRequest::Resize(Resize { session: 1, columns: 132, rows: 50 }));
    keeper.expect("done", |e| matches!(e, KeepEvent::Done(_)).then_some(()));
    // Control-C through the terminal.
    keeper.ask(KeepRequest::Input(Input { session: 1, data: runtime::wire::Blob(vec![3]), ..Input::default() }));
    let state = keeper.session_end();
    assert_eq!(state.code, 130);
    host.end(keeper);
}

#[test]
fn the_guests_root_cannot_undo_its_mounts() {
    let host = Host::new("locked");
    let mut keeper = host.keeper(1);
    keeper.boot(host.spec(keeper.boot));
    // Each line: what is tried, directly, in a mount namespace of its own, and in a user namespace of its own.
    for target in ["/", "/proc", "/sys", "/dev"] {
        for wrap in ["", "unshare -m ", "unshare -Urm "] {
            let outcome = keeper.exec(exec_spec(
                1,
                &["sh", "-c", &format!("{wrap}umount {target} 2>&1; {wrap}umount -l {target} 2>&1")],
            ));
            assert!(outcome.stdout.matches("Invalid argument").count() == 2, "{wrap}umount {target}: {outcome:?}");
        }
    }
    for (options, target) in [("rw", "/sys"), ("exec", "/dev"), ("suid", "/dev"), ("dev", "/")] {
        for wrap in ["", "unshare -m ", "unshare -Urm "] {
            let command = format!("{wrap}mount -o remount,bind,{options} {target} 2>&1");
            let outcome = keeper.sh(1, &command);
            assert!(
                outcome.stdout.contains("denied") || outcome.stdout.contains("not permitted"),
                "{command}: {outcome:?}"
            );
        }
    }
    // What nested sandboxes need still works.
    for command in [
        "unshare -m mount -t tmpfs none /tmp",
        "unshare -pf --mount-proc true",
        "unshare -Urmpf --mount-proc true",
        "mount --bind /etc /tmp && umount /tmp",
        "unshare -Urm mount --bind /etc /tmp",
    ] {
        let outcome = keeper.sh(1, command);
        assert_eq!(outcome.code, 0, "{command}: {outcome:?}");
    }
    host.end(keeper);
}

#[test]
fn strict_mode_masks_what_tells_of_the_host() {
    let host = Host::new("strict");
    let mut keeper = host.keeper(1);
    let spec = LaunchSpec { strict: true, ..host.spec(keeper.boot) };
    keeper.boot(spec);
    assert_eq!(keeper.sh(1, "wc -c < /proc/kallsyms; cat /proc/keys | wc -l").stdout, "0\n0\n");
    for target in ["/proc/kallsyms", "/proc/sys", "/sys/fs/cgroup", "/run"] {
        let outcome = keeper.sh(1, &format!("umount {target} 2>&1"));
        assert!(outcome.stdout.contains("Invalid argument"), "{target}: {outcome:?}");
    }
    assert_eq!(keeper.sh(1, "unshare -pf --mount-proc true").code, 1, "a fresh proc would be unmasked");
    assert_eq!(keeper.sh(1, "echo 0 > /proc/sys/net/ipv4/ip_forward").code, 0);
    host.end(keeper);
}

#[test]
fn a_guest_sees_itself_and_nothing_of_the_host() {
    let host = Host::new("view");
    let mut keeper = host.keeper(1);
    keeper.boot(host.spec(keeper.boot));
    let outcome = keeper.sh(1, "cat /proc/self/cgroup | grep ^0; ls /sys/class/net; ls /proc/1/fd | wc -l; grep -c . /proc/mounts; cat /proc/mounts");
    assert!(outcome.stdout.starts_with("0::/.exec-1\n"), "{outcome:?}");
    assert!(outcome.stdout.contains("\nlo\n"), "{outcome:?}");
    assert!(!outcome.stdout.contains("sysctl-test"), "no path of ours: {outcome:?}");
    // Standard streams and the directory that ls itself reads.
    let fds = keeper.sh(2, "ls /proc/self/fd").stdout;
    assert_eq!(fds, "0\n1\n2\n3\n");
    let attempts = "for f in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe \
                    /sys/fs/cgroup/../x /sys/fs/cgroup/cgroup.freeze; do echo 1 > $f && echo $f; done 2>/dev/null; \
                    mknod /tmp/d b 254 0 2>/dev/null && echo mknod; cat /proc/kcore 2>/dev/null && echo kcore; true";
    assert_eq!(keeper.sh(3, attempts).stdout, "");
    host.end(keeper);
}

#[test]
fn a_start_that_fails_says_where_and_leaves_nothing() {
    let host = Host::new("fails");
    for (n, stage) in ["stage", "clone", "root", "tree", "init", "confine", "exec"].into_iter().enumerate() {
        let mut keeper = host.keeper(n as u128 + 1);
        let spec = LaunchSpec { fail_at: stage.into(), ..host.spec(keeper.boot) };
        keeper.ask(KeepRequest::Prepare(spec));
        let failure = loop {
            keeper.next();
            if let Some((_, KeepEvent::Failed(failure), _)) = keeper.seen.back() {
                break failure.clone();
            }
        };
        assert_eq!(failure.stage, stage, "{failure}");
        keeper.seen.clear();
        assert_eq!(keeper.status().phase, phase::EMPTY);
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", keeper.pid)).expect("children");
        assert_eq!(children, "", "processes left after {stage}");
        // And the next try succeeds.
        keeper.boot(host.spec(keeper.boot));
        host.end(keeper);
    }
}

#[test]
fn a_wrong_root_is_refused_with_the_call_and_the_path() {
    let host = Host::new("wrong");
    type Change = fn(&mut LaunchSpec);
    let cases: [(&str, Change, &str); 4] = [
        ("missing layer", |s| s.root.layers = vec!["nowhere".into()], "openat2 nowhere"),
        ("escape", |s| s.root.volume = "../..".into(), "openat2 ../.."),
        ("missing upper", |s| s.root.upper = "none".into(), "openat none"),
        ("missing init", |s| s.argv = vec!["/sbin/none".into()], "execve /sbin/none"),
    ];
    for (n, (what, change, expected)) in cases.iter().enumerate() {
        let mut keeper = host.keeper(n as u128 + 1);
        let mut spec = host.spec(keeper.boot);
        change(&mut spec);
        keeper.ask(KeepRequest::Prepare(spec));
        let failure = loop {
            keeper.next();
            match keeper.seen.back() {
                Some((_, KeepEvent::Failed(failure), _)) => break failure.clone(),
                Some((_, KeepEvent::Ready(_), _)) => drop(keeper.ask(KeepRequest::Start(Nothing {}))),
                _ => {}
            }
        };
        assert!(failure.to_string().contains(expected), "{what}: {failure}");
        keeper.seen.clear();
        host.end(keeper);
    }
}

#[test]
fn a_killed_keeper_before_the_start_leaves_nothing() {
    let host = Host::new("early");
    let mut keeper = host.keeper(1);
    keeper.ask(KeepRequest::Prepare(host.spec(keeper.boot)));
    let pid = keeper.expect("prepared", |e| match e {
        KeepEvent::Prepared(prepared) => Some(prepared.pid),
        _ => None,
    });
    keeper.expect("ready", |e| matches!(e, KeepEvent::Ready(_)).then_some(()));
    kill(keeper.pid);
    testkit::eventually("init's end", || (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
    host.groups.remove(keeper.boot).expect("remove");
}

#[test]
fn a_guest_outlives_its_keeper_and_is_adopted() {
    let mut host = Host::new("adopt");
    let mut keeper = host.keeper(1);
    let spec = host.spec(keeper.boot);
    let pid = keeper.boot(spec.clone());
    let status = std::fs::read_to_string(keeper.directory.join("status")).expect("status");
    let fields: Vec<u64> = status.split_whitespace().map(|f| f.parse().expect("number")).collect();
    assert_eq!(fields[..3], [1, u64::from(phase::RUNNING), u64::from(pid)]);
    let spawn = host.spawn_socket();
    kill(keeper.pid);
    let adopt = KeepSpec {
        adopt_pid: pid,
        adopt_start: fields[3],
        group: spec.group.clone(),
        v1_groups: spec.v1_groups.clone(),
        id_base: spec.id_base,
        ..KeepSpec::default()
    };
    let boot = keeper.boot;
    drop(keeper);
    drop(spawn);
    let mut keeper = host.keeper_with(boot, adopt);
    let status = keeper.status();
    assert_eq!((status.phase, status.pid, status.adopted), (phase::RUNNING, pid, true));
    assert_eq!(keeper.sh(1, "echo still here").stdout, "still here\n");
    // Spawn inherited init and learns the true cause of its end.
    let spawn = host.spawn_socket();
    keeper.ask(KeepRequest::Exec(ExecSpec { silent: true, ..exec_spec(2, &["reboot", "-f"]) }));
    let status = keeper.expect("end", |event| match event {
        KeepEvent::Ended(status) => Some(status.clone()),
        _ => None,
    });
    assert_eq!(status.end, end::UNKNOWN);
    let cause = loop {
        let received = receive::<SpawnEvent>(&spawn, true).expect("event");
        if let Some(SpawnEvent::ChildEnded(child)) = received.message
            && child.pid == pid
        {
            break child;
        }
    };
    assert_eq!(cause.signal, 1, "SIGHUP means reboot");
    host.end(keeper);
    host.kill_spawn();
}

#[test]
fn spawn_may_die_and_be_started_again() {
    let mut host = Host::new("respawn");
    let mut first = host.keeper(1);
    first.boot(host.spec(first.boot));
    host.kill_spawn();
    host.start_spawn();
    let mut second = host.keeper(2);
    second.boot(host.spec(second.boot));
    assert_eq!(first.sh(1, "echo one").stdout, "one\n");
    assert_eq!(second.sh(1, "echo two").stdout, "two\n");
    host.end(first);
    host.end(second);
}

#[test]
fn a_keeper_replaces_its_program_under_a_running_session() {
    let host = Host::new("replace");
    let mut keeper = host.keeper(1);
    let init = keeper.boot(host.spec(keeper.boot));
    keeper.ask(KeepRequest::Exec(exec_spec(1, &["sh", "-c", "echo before; read line; echo got $line; exit 3"])));
    let rings = keeper
        .expect_with_fds("started", |e, fds| matches!(e, KeepEvent::SessionStarted(_)).then(|| std::mem::take(fds)));
    keeper.expect("output", |e| matches!(e, KeepEvent::Output(out) if out.session == 1 && out.head == 7).then_some(()));
    let program = std::fs::File::open(env!("CARGO_BIN_EXE_sysctl-keeper")).expect("program");
    for round in 0..3 {
        use std::os::fd::AsFd;
        send(keeper.socket.as_fd(), 1000 + round, &KeepRequest::Replace(Nothing {}), &[program.as_fd()]).expect("send");
        keeper.expect("done", |e| matches!(e, KeepEvent::Done(_)).then_some(()));
    }
    keeper.seen.clear();
    let status = keeper.status();
    assert_eq!((status.keeper, status.pid, status.sessions.len()), (keeper.pid, init, 1));
    let line = runtime::wire::Blob(b"a line\n".to_vec());
    keeper.ask(KeepRequest::Input(Input { session: 1, offset: 0, data: line, eof: true }));
    let state = keeper.session_end();
    assert_eq!(state.code, 3);
    let mut output = Vec::new();
    read_ring(&rings[0], &mut output, state.stdout.head);
    assert_eq!(String::from_utf8_lossy(&output), "before\ngot a line\n");
    host.end(keeper);
}

#[test]
fn a_program_that_cannot_go_on_replaces_nothing() {
    use std::os::fd::AsFd;
    let host = Host::new("refused");
    let mut keeper = host.keeper(1);
    let init = keeper.boot(host.spec(keeper.boot));
    keeper.ask(KeepRequest::Exec(exec_spec(1, &["sh", "-c", "read line; echo got $line; exit 3"])));
    // While its stage works the keeper is asked to come again.
    let program = std::fs::File::open(env!("CARGO_BIN_EXE_sysctl-keeper")).expect("program");
    let mut refused = |number: u32, program: &std::fs::File| {
        send(keeper.socket.as_fd(), number, &KeepRequest::Replace(Nothing {}), &[program.as_fd()]).expect("send");
        let is_answer = |e: &KeepEvent| match e {
            KeepEvent::Failed(failure) => Some(failure.errno()),
            _ => None,
        };
        keeper.expect("refused", is_answer)
    };
    assert_eq!(refused(1000, &program), kernel::Errno::BUSY);
    let foreign = std::fs::read("/bin/false").expect("a program of another kind");
    for (number, damaged) in [&b"not a program"[..], b"", &foreign[..1000], &foreign].iter().enumerate() {
        use std::os::unix::fs::PermissionsExt;
        let path = host.scratch.join(format!("damaged-{number}"));
        std::fs::write(&path, damaged).expect("write");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("chmod");
        let program = std::fs::File::open(&path).expect("open");
        let errno = loop {
            match refused(2000 + number as u32, &program) {
                kernel::Errno::BUSY => {}
                errno => break errno,
            }
        };
        assert_eq!(errno, kernel::Errno::NOEXEC);
    }
    let status = keeper.status();
    assert_eq!((status.keeper, status.pid, status.sessions.len()), (keeper.pid, init, 1));
    let line = runtime::wire::Blob(b"a line\n".to_vec());
    keeper.ask(KeepRequest::Input(Input { session: 1, offset: 0, data: line, eof: true }));
    let code = keeper.expect("end", |e| match e {
        KeepEvent::SessionEnded(state) => Some(state.code),
        _ => None,
    });
    assert_eq!(code, 3);
    host.end(keeper);
}

#[test]
fn a_keeper_that_has_no_guest_and_no_daemon_ends() {
    let host = Host::new("needless");
    let (needless, mut needed) = (host.keeper(1), host.keeper(2));
    needed.boot(host.spec(needed.boot));
    drop(needless.socket);
    testkit::eventually("the end of the keeper", || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", needless.pid)).unwrap_or_default();
        (status.is_empty() || status.contains("State:\tZ")).then_some(())
    });
    // One with a guest waits for the next daemon.
    needed.socket = connect(&needed.directory.join("control"));
    needed.seen.clear();
    assert_eq!(needed.status().phase, phase::RUNNING);
    host.end(needed);
}

#[test]
fn a_new_connection_is_told_everything() {
    let host = Host::new("reconnect");
    let mut keeper = host.keeper(1);
    let init = keeper.boot(host.spec(keeper.boot));
    keeper.ask(KeepRequest::Exec(ExecSpec {
        label: runtime::wire::Blob(b"op".to_vec()),
        ..exec_spec(5, &["sleep", "1000"])
    }));
    keeper.expect("started", |e| matches!(e, KeepEvent::SessionStarted(_)).then_some(()));
    keeper.socket = connect(&keeper.directory.join("control"));
    keeper.seen.clear();
    let status = keeper.expect("status", |e| match e {
        KeepEvent::Status(status) => Some(status.clone()),
        _ => None,
    });
    assert_eq!((status.phase, status.pid), (phase::RUNNING, init));
    assert_eq!(status.sessions[0].session, 5);
    // Labels are told one by one: the status of a thousand sessions would not fit into a packet with them.
    keeper.ask(KeepRequest::Attach(Session { session: 5 }));
    let attached = keeper.expect("attached", |e| match e {
        KeepEvent::SessionStarted(state) => Some(state.clone()),
        _ => None,
    });
    assert_eq!(attached.label.0, b"op");
    keeper.ask(KeepRequest::Signal(Signal { session: 5, signal: 15 }));
    let state = keeper.session_end();
    assert_eq!(state.code, 143);
    host.end(keeper);
}

#[test]
fn the_console_keeps_its_last_bytes_and_survives_hang_ups() {
    let host = Host::new("console");
    let mut keeper = host.keeper(1);
    keeper.boot(host.spec(keeper.boot));
    keeper.sh(1, "echo hello > /dev/console");
    keeper.expect("console output", |e| {
        matches!(e, KeepEvent::Output(out) if out.session == 0 && out.head >= 7).then_some(())
    });
    let before = keeper.status().console;
    // A megabyte, 32 times the ring, which nobody acknowledges.
    assert_eq!(keeper.sh(2, "yes 0123456789abcde | head -c 1000000 > /dev/console").code, 0);
    testkit::eventually("the flood", || (keeper.status().console >= before + 1_000_000).then_some(()));
    host.end(keeper);
}

#[test]
fn freezing_holds_every_process_still() {
    let host = Host::new("freeze");
    let mut keeper = host.keeper(1);
    keeper.boot(host.spec(keeper.boot));
    keeper.ask(KeepRequest::Exec(exec_spec(1, &["sh", "-c", "while :; do :; done"])));
    keeper.expect("started", |e| matches!(e, KeepEvent::SessionStarted(_)).then_some(()));
    host.groups.set_frozen(keeper.boot, true).expect("freeze");
    host.groups.wait_frozen(keeper.boot, true).expect("frozen");
    assert!(host.groups.is_frozen(keeper.boot).expect("look"));
    let before = usage_us(&host, keeper.boot);
    spin(std::time::Duration::from_millis(50));
    // The last slice may be accounted late.
    let used = usage_us(&host, keeper.boot) - before;
    assert!(used < 5_000, "a frozen loop used {used} us while this test used 50 ms");
    host.groups.set_frozen(keeper.boot, false).expect("thaw");
    host.groups.wait_frozen(keeper.boot, false).expect("thawed");
    host.end(keeper);
}

/// CPU time that a guest has used.
fn usage_us(host: &Host, boot: model::Boot) -> u64 {
    let stat = std::fs::read_to_string(host.groups.directory(boot).join("cpu.stat")).expect("cpu.stat");
    let usage = stat.lines().find_map(|line| line.strip_prefix("usage_usec ")).expect("usage");
    usage.parse().expect("a number")
}

/// Works until this thread has used so much CPU time itself: whoever may run beside it has had about as much.
fn spin(time: std::time::Duration) {
    let now = || rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let since = now();
    while std::time::Duration::try_from(now() - since).expect("forward") < time {}
}

#[test]
fn a_guest_ends_though_a_stage_died_between_its_process_and_the_report_of_it() {
    let host = Host::new("stray");
    let mut keeper = host.keeper(1);
    let init = keeper.boot(host.spec(keeper.boot));
    assert_eq!(keeper.sh(1, "true").code, 0);
    // Where there are v1 groups, the stage of the next exec waits already; elsewhere there is no process to aim at.
    let Some(stage) = children(keeper.pid).into_iter().find(|pid| *pid != init) else { return host.end(keeper) };
    let mut strace = std::process::Command::new("strace");
    strace.args(["-qq", "-e", "trace=sendmsg", "-e", "inject=sendmsg:signal=KILL:when=1", "-p", &stage.to_string()]);
    let mut strace = strace.stderr(std::process::Stdio::null()).spawn().expect("strace");
    testkit::eventually("strace to attach", || {
        let status = std::fs::read_to_string(format!("/proc/{stage}/status")).expect("status");
        status.contains(&format!("TracerPid:\t{}\n", strace.id())).then_some(())
    });
    let sequence = keeper.ask(KeepRequest::Exec(exec_spec(2, &["sleep", "1000"])));
    while !keeper.seen.iter().any(|(of, event, _)| *of == sequence && matches!(event, KeepEvent::Failed(_))) {
        keeper.next();
    }
    keeper.seen.clear();
    strace.wait().expect("strace");
    assert_eq!(keeper.sh(3, "true").code, 0);
    host.end(keeper);
}

/// Processes that a process has made.
fn children(of: u32) -> Vec<u32> {
    let processes =
        std::fs::read_dir("/proc").expect("proc").filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
    let parent = |pid: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("PPid:\t"))?.parse::<u32>().ok()
    };
    processes.filter(|pid| parent(pid) == Some(of)).collect()
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kill");
}

#[test]
fn the_root_is_writable_in_each_of_the_three_ways() {
    let host = Host::new("ways");
    for way in 0..3 {
        let mut keeper = host.keeper(u128::from(way) + 1);
        let mut spec = host.spec(keeper.boot);
        std::fs::create_dir_all(host.scratch.join("pool/top/opt")).expect("mkdir");
        std::fs::write(host.scratch.join("pool/top/opt/file"), "from the upper layer\n").expect("write");
        spec.root.layers = vec!["top".into(), "base".into()];
        spec.root.way = way;
        keeper.boot(spec);
        let outcome = keeper.sh(1, "cat /opt/file; echo x > /opt/new && mv /etc /etc2 && chown 1000:1000 /bin/busybox && rm /opt/file && ls /opt; stat -c %u:%g /etc2/passwd");
        assert_eq!(
            outcome,
            Outcome { code: 0, stdout: "from the upper layer\nnew\n0:0\n".into(), stderr: String::new() },
            "way {way}"
        );
        let mounts = keeper.sh(2, "head -1 /proc/mounts").stdout;
        assert!(mounts.starts_with("overlay / overlay rw,"), "{mounts}");
        assert!(!mounts.contains("sysctl-test"), "no path of the host: {mounts}");
        // On the disk the ids are the guest's own.
        let upper = host.scratch.join(format!("pool/volumes/{}/upper", keeper.boot.id));
        let owner = |path: &str| {
            std::os::unix::fs::MetadataExt::uid(&std::fs::symlink_metadata(upper.join(path)).expect("stat"))
        };
        assert_eq!((owner("opt/new"), owner("bin/busybox")), (0, 1000), "way {way}");
        host.end(keeper);
    }
}
