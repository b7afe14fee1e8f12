//! The files helper, over guests that run and over root file systems at rest.

#![allow(clippy::unwrap_used, unreachable_pub, missing_docs)]

#[path = "support/client.rs"]
mod client;
#[allow(dead_code)]
mod support;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use client::*;
use runtime::protocol::*;
use rustix::fs::{FlockOperation, RenameFlags};
use sftp::{Attributes, Code, Request};
use support::*;

/// What a session can do, the same for both kinds; `host` is where the host sees the guest's `/`.
fn everyday(files: &mut Files, host: &dyn Fn(&str) -> PathBuf) {
    let data: Vec<u8> = (0..1_000_000u32).map(|n| (n * 7 + n / 251) as u8).collect();
    files.push("/root/data", &data);
    assert!(files.pull("/root/data") == Ok(data.clone()));
    assert!(files.pull("root/data") == Ok(data.clone()), "relative to /");
    let seen = std::fs::metadata(host("root/data")).unwrap();
    assert_eq!((seen.uid(), seen.gid(), seen.mode() & 0o7777, seen.len()), (BASE, BASE, 0o644, 1_000_000));

    files.ok(&Request::Setstat { path: b"/root/data", attributes: Attributes { owner: Some((1000, 1001)), ..NONE } });
    files.ok(&Request::Setstat { path: b"/root/data", attributes: Attributes { mode: Some(0o4750), ..NONE } });
    files.ok(&Request::Setstat { path: b"/root/data", attributes: Attributes { times: Some((1, 2)), ..NONE } });
    files.ok(&Request::Setstat { path: b"/root/data", attributes: Attributes { size: Some(10), ..NONE } });
    files.ok(&Request::Setstat { path: b"/root/data", attributes: Attributes { times: Some((1, 2)), ..NONE } });
    let seen = std::fs::metadata(host("root/data")).unwrap();
    assert_eq!((seen.uid(), seen.gid(), seen.len(), seen.mtime()), (BASE + 1000, BASE + 1001, 10, 2));
    let mode = files.stat("/root/data").mode.unwrap();
    assert_eq!(mode & 0o777, 0o750, "{mode:o}");
    assert_eq!(files.stat("/root/data").owner, Some((1000, 1001)));
    let stranger = Attributes { owner: Some((70_000, 0)), ..NONE };
    assert_eq!(files.code(&Request::Setstat { path: b"/root/data", attributes: stranger }), Code::Failure);
    let group = Attributes { owner: Some((u32::MAX, 5)), ..NONE };
    files.ok(&Request::Setstat { path: b"/root/data", attributes: group });
    assert_eq!(files.stat("/root/data").owner, Some((1000, 5)), "-1 leaves an id alone");

    files.ok(&Request::Mkdir { path: b"/root/d", attributes: NONE });
    files.ok(&Request::Mkdir { path: b"/root/d/e/", attributes: Attributes { mode: Some(0o700), ..NONE } });
    assert_eq!(files.code(&Request::Mkdir { path: b"/root/d", attributes: NONE }), Code::Failure);
    assert_eq!(files.code(&Request::Mkdir { path: b"/no/where", attributes: NONE }), Code::NoSuchFile);
    assert_eq!(files.stat("/root/d").mode, Some(0o40755));
    assert_eq!(files.stat("/root/d/e").mode, Some(0o40700));

    files.ok(&Request::Rename { from: b"/root/data", to: b"/root/d/data" });
    let handle = files.open("/root/d", READ).expect("as Go's clients do before they look");
    assert_eq!(files.code(&Request::Read { handle: &handle, offset: 0, length: 9 }), Code::Failure);
    files.ok(&Request::Close { handle: &handle });
    assert_eq!(files.open("/root/d", PUSH), Err(Code::Failure));
    files.push("/root/other", b"other");
    assert_eq!(files.code(&Request::Rename { from: b"/root/other", to: b"/root/d/data" }), Code::Failure, "exists");
    files.ok(&Request::Hardlink { from: b"/root/other", to: b"/root/d/hard" });
    files.ok(&Request::PosixRename { from: b"/root/other", to: b"/root/d/data" });
    files.ok(&Request::Symlink { target: b"data", path: b"/root/d/link" });
    assert_eq!(files.pull("/root/d/link"), Ok(b"other".to_vec()));
    assert_eq!(files.stat("/root/d/link").mode.unwrap() & 0o170_000, 0o120_000);
    assert_eq!(files.call(&Request::Readlink { path: b"/root/d/link" }), Answer::Names(vec![("data".into(), NONE)]));
    let names: Vec<String> = files.list("/root/d").unwrap().into_iter().map(|n| n.0).collect();
    assert_eq!(names, ["data", "e", "hard", "link"]);
    assert_eq!(
        files.call(&Request::Realpath { path: b"x/../root//./d" }),
        Answer::Names(vec![("/root/d".into(), NONE)])
    );

    assert_eq!(files.code(&Request::Remove { path: b"/root/d" }), Code::Failure, "a directory");
    assert_eq!(files.code(&Request::Rmdir { path: b"/root/d" }), Code::Failure, "not empty");
    for name in ["data", "hard", "link"] {
        files.ok(&Request::Remove { path: format!("/root/d/{name}").as_bytes() });
    }
    files.ok(&Request::Rmdir { path: b"/root/d/e" });
    files.ok(&Request::Rmdir { path: b"/root/d" });
    assert_eq!(files.code(&Request::Lstat { path: b"/root/d" }), Code::NoSuchFile);
    assert_eq!(files.open("/root/none", READ), Err(Code::NoSuchFile));
    for name in ["/", ".", "..", "/root/.."] {
        assert_eq!(files.code(&Request::Rmdir { path: name.as_bytes() }), Code::Failure, "{name}");
    }

    // Appended to, sparse beyond 2 GiB, and brought to the disk.
    files.push("/root/log", b"one\n");
    let handle = files.open("/root/log", sftp::OpenFlags { write: true, append: true, ..Default::default() }).unwrap();
    files.ok(&Request::Write { handle: &handle, offset: 0, data: b"two\n" });
    files.ok(&Request::Fsync { handle: &handle });
    files.ok(&Request::Close { handle: &handle });
    assert_eq!(files.pull("/root/log"), Ok(b"one\ntwo\n".to_vec()));
    let handle = files.open("/root/sparse", sftp::OpenFlags { read: true, ..PUSH }).unwrap();
    let far = (1 << 31) + 5;
    files.ok(&Request::Write { handle: &handle, offset: far, data: b"far" });
    assert_eq!(files.call(&Request::Read { handle: &handle, offset: far, length: 9 }), Answer::Data(b"far".to_vec()));
    let zeros = Answer::Data(vec![0; sftp::MAX_DATA]);
    assert!(files.call(&Request::Read { handle: &handle, offset: 1 << 30, length: u32::MAX }) == zeros);
    assert_eq!(files.code(&Request::Read { handle: &handle, offset: u64::MAX, length: 9 }), Code::Failure);
    files.ok(&Request::Fsetstat { handle: &handle, attributes: Attributes { mode: Some(0o600), ..NONE } });
    files.ok(&Request::Close { handle: &handle });
    assert_eq!(files.stat("/root/sparse").size, Some(far + 3));
    assert!(std::fs::metadata(host("root/sparse")).unwrap().blocks() < 1000);
    assert_eq!(files.code(&Request::Close { handle: &handle }), Code::Failure, "closed before");

    match files.call(&Request::Statvfs { path: b"/" }) {
        Answer::Numbers(numbers) => assert!(numbers.len() == 11 && numbers[2] > 0, "{numbers:?}"),
        other => panic!("{other:?}"),
    }
    match files.call(&Request::Limits) {
        Answer::Numbers(numbers) => assert_eq!(numbers[3], 256),
        other => panic!("{other:?}"),
    }
}

/// Nothing of the host's is reached by any path; `canary` is a file of the host's.
fn fenced(files: &mut Files, canary: &std::path::Path) {
    let up = format!("{}{}", "../".repeat(40), canary.display());
    let canary = canary.display().to_string();
    files.ok(&Request::Symlink { target: canary.as_bytes(), path: b"/root/absolute" });
    files.ok(&Request::Symlink { target: up.as_bytes(), path: b"/root/relative" });
    files.ok(&Request::Symlink { target: b"/root/loop", path: b"/root/loop" });
    for path in [&*canary, &up, "/root/absolute", "/root/relative", &format!("/root/../{up}")] {
        assert_eq!(files.open(path, READ), Err(Code::NoSuchFile), "{path}");
        assert_eq!(files.code(&Request::Stat { path: path.as_bytes() }), Code::NoSuchFile, "{path}");
        assert_eq!(
            files.code(&Request::Setstat { path: path.as_bytes(), attributes: Attributes { mode: Some(0), ..NONE } }),
            Code::NoSuchFile
        );
    }
    assert_eq!(files.open("/root/loop", READ), Err(Code::Failure));
    // Its own passwd, not ours.
    let passwd = files.pull("/../../../etc/passwd").unwrap();
    assert!(passwd.starts_with(b"root:x:0:0::/root:/bin/sh\nuser:"));
    // Made where the guest would make it.
    files.push(&format!("{}tmp/here", "../".repeat(40)), b"x");
    assert_eq!(files.pull("/tmp/here"), Ok(b"x".to_vec()));
    for path in ["/root/absolute", "/root/relative", "/root/loop", "/tmp/here"] {
        files.ok(&Request::Remove { path: path.as_bytes() });
    }
}

/// Most handles are refused, and closing one helps.
fn bounded(files: &mut Files) {
    let mut handles = Vec::new();
    while let Ok(handle) = files.open("/etc/passwd", READ) {
        handles.push(handle);
    }
    assert_eq!(handles.len(), 256);
    assert_eq!(files.list("/"), Err(Code::Failure));
    for handle in handles {
        files.ok(&Request::Close { handle: &handle });
    }
    assert!(files.list("/").is_ok());
}

#[test]
fn files_of_a_running_guest() {
    let host = Host::new("files-running");
    let mut keeper = host.keeper(1);
    let init = keeper.boot(host.spec(keeper.boot));
    let mut files = host.running_files(init);
    everyday(&mut files, &|path| PathBuf::from(format!("/proc/{init}/root/{path}")));
    let canary = host.scratch.join("canary");
    std::fs::write(&canary, "host").unwrap();
    fenced(&mut files, &canary);
    bounded(&mut files);
    assert_eq!(std::fs::read(&canary).unwrap(), b"host");

    // Mounts of the guest's own are seen.
    assert_eq!(keeper.sh(1, "mount -t tmpfs none /var && echo in > /var/x").code, 0);
    assert_eq!(files.pull("/var/x"), Ok(b"in\n".to_vec()));
    files.ended();
    host.end(keeper);
}

#[test]
fn devices_pipes_sockets_and_the_kernels_files_are_refused() {
    let host = Host::new("files-special");
    let mut keeper = host.keeper(1);
    let init = keeper.boot(host.spec(keeper.boot));
    assert_eq!(
        keeper.sh(1, "mkfifo /tmp/pipe; ln -s /proc/self/root/etc/passwd /tmp/magic; ln -s /proc /tmp/p").code,
        0
    );
    let path = format!("/proc/{init}/root/tmp/socket");
    let bind = move || {
        // The guest's file systems know no id of the host's.
        runtime::launch::root::own_new_inodes(BASE).unwrap();
        std::os::unix::net::UnixListener::bind(path).unwrap()
    };
    let socket = std::thread::spawn(bind).join().unwrap();
    let mut files = host.running_files(init);
    for path in ["/dev/null", "/dev/zero", "/dev/console", "/tmp/pipe", "/tmp/socket"] {
        for flags in [READ, PUSH] {
            assert_eq!(files.open(path, flags), Err(Code::PermissionDenied), "{path}");
        }
        let mode = Attributes { mode: Some(0o666), ..NONE };
        assert_eq!(files.code(&Request::Setstat { path: path.as_bytes(), attributes: mode }), Code::PermissionDenied);
        assert_ne!(files.stat(path).mode.unwrap() & 0o170_000, 0o100_000, "but they are seen");
    }
    for path in ["/proc/version", "/proc/sys/kernel/hostname", "/sys/kernel/notes", "/tmp/p/uptime", "/proc/1/environ"]
    {
        for flags in [READ, PUSH] {
            assert_eq!(files.open(path, flags), Err(Code::PermissionDenied), "{path}");
        }
    }
    assert!(files.open("/tmp/magic", READ).is_err(), "no way over a magic link");
    for path in ["/proc", "/sys", "/tmp/p", "/dev/pts"] {
        assert_eq!(files.list(path), Err(Code::PermissionDenied), "{path}");
    }
    let remove = Request::Remove { path: b"/proc/sys/kernel/hostname" };
    assert_eq!(files.code(&remove), Code::PermissionDenied);
    assert_eq!(files.code(&Request::Readlink { path: b"/proc/1/exe" }), Code::PermissionDenied);
    let names: Vec<String> = files.list("/").unwrap().into_iter().map(|n| n.0).collect();
    assert!(names.contains(&"proc".to_owned()) && names.contains(&"dev".to_owned()));
    drop(socket);
    files.ended();
    host.end(keeper);
}

#[test]
fn a_directory_that_becomes_a_link_under_our_feet_leads_nowhere() {
    let host = Host::new("files-race");
    let mut keeper = host.keeper(1);
    let init = keeper.boot(host.spec(keeper.boot));
    // On the host there is a directory of the same path as the link's target, with other content.
    let outside = host.scratch.join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("name"), "host").unwrap();
    let guest = PathBuf::from(format!("/proc/{init}/root/tmp"));
    let mut files = host.running_files(init);
    files.ok(&Request::Mkdir { path: b"/tmp/swap", attributes: NONE });
    files.push("/tmp/swap/name", b"guest");
    let target = outside.display().to_string();
    files.ok(&Request::Symlink { target: target.as_bytes(), path: b"/tmp/link" });
    files.ok(&Request::Symlink { target: ["../".repeat(30), target].concat().as_bytes(), path: b"/tmp/up" });
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (mut inside, mut missed) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let directory = std::fs::File::open(&guest).unwrap();
            let names = ["link", "up"].iter().cycle();
            for name in names.take_while(|_| !stop.load(std::sync::atomic::Ordering::Relaxed)) {
                for _ in 0..2 {
                    rustix::fs::renameat_with(&directory, "swap", &directory, *name, RenameFlags::EXCHANGE).unwrap();
                }
            }
        });
        // Until both sides of the race were seen often enough.
        while inside < 300 || missed < 300 {
            for path in ["/tmp/swap/name", "/tmp/swap/../swap/name"] {
                match files.pull(path) {
                    Ok(content) => {
                        assert_eq!(content, b"guest");
                        inside += 1;
                    }
                    Err(code) => {
                        assert!(matches!(code, Code::NoSuchFile | Code::Failure), "{code:?}");
                        missed += 1;
                    }
                }
            }
            let handle = files.open("/tmp/swap/made", PUSH);
            handle.into_iter().for_each(|handle| files.ok(&Request::Close { handle: &handle }));
            let _ = files.code(&Request::Remove { path: b"/tmp/swap/name2" });
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let left: Vec<_> = std::fs::read_dir(&outside).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["name"], "nothing was made outside");
    files.ended();
    host.end(keeper);
}

#[test]
fn the_helper_is_the_guests_root_and_can_do_nothing_else() {
    let host = Host::new("files-confined");
    let mut keeper = host.keeper(1);
    let init = keeper.boot(host.spec(keeper.boot));
    let files = host.running_files(init);
    let status = std::fs::read_to_string(format!("/proc/{}/status", files.pid)).unwrap();
    let field = |name: &str| -> Vec<&str> {
        let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {status}"));
        line.split_whitespace().collect()
    };
    let base = BASE.to_string();
    assert_eq!(field("Uid:"), [&*base; 4]);
    assert_eq!(field("Gid:"), [&*base; 4]);
    assert_eq!(field("Groups:"), [""; 0]);
    for set in ["CapEff:", "CapPrm:"] {
        assert_eq!(field(set), ["000000000000001f"], "chown, dac_override, dac_read_search, fowner, fsetid");
    }
    assert_eq!(field("CapBnd:"), ["0000000000000000"]);
    assert_eq!((field("NoNewPrivs:"), field("Seccomp:"), field("Threads:")), (vec!["1"], vec!["2"], vec!["1"]));
    for kind in ["user", "mnt"] {
        let of = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_eq!(of(files.pid), of(init), "{kind}");
    }
    let owner = std::fs::metadata(format!("/proc/{}/mem", files.pid)).unwrap().uid();
    assert_eq!(owner, 0, "not dumpable: nobody of the guest's may look into it");
    files.ended();
    host.end(keeper);
}

#[test]
fn a_session_ends_with_the_guest_and_a_reused_pid_is_refused() {
    let host = Host::new("files-end");
    let mut keeper = host.keeper(1);
    let init = keeper.boot(host.spec(keeper.boot));
    let start = runtime::launch::root::start_time(init).unwrap();
    let words = |pid: u32, start: u64, base: u32| {
        ["--pid", &pid.to_string(), "--start", &start.to_string(), "--ids", &format!("{base}:65536")].map(str::to_owned)
    };
    for wrong in [
        words(init, start + 1, BASE),
        words(init, start, BASE + 1),
        words(std::process::id(), runtime::launch::root::start_time(std::process::id()).unwrap(), BASE),
        words(0, 0, BASE),
    ] {
        let mut refused = host.helper(&wrong).greeted();
        match refused.call(&Request::Stat { path: b"/" }) {
            Answer::Status(Code::Failure, message) => assert!(message.starts_with("files: "), "{message}"),
            other => panic!("{other:?}"),
        }
        refused.ends();
    }
    let mut files = host.running_files(init);
    assert!(files.pull("/etc/passwd").is_ok());
    host.end(keeper);
    files.ends();
}

fn lock_is_free(host: &Host, root: &RootSpec) -> bool {
    let path = host.scratch.join("pool").join(&root.volume).join("lock");
    let file = std::fs::File::open(path).unwrap();
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
}

#[test]
fn files_of_a_stopped_guest_and_nothing_is_left_mounted() {
    let host = Host::new("files-stopped");
    let keeper = host.keeper(1);
    let spec = host.spec(keeper.boot);
    for way in 0..3 {
        let root = RootSpec { way, ..spec.root.clone() };
        let mut files = host.stopped_files(&root);
        let base = PathBuf::from(format!("/proc/{}/root", files.pid));
        everyday(&mut files, &|path| base.join(path));
        let canary = host.scratch.join("canary");
        std::fs::write(&canary, "host").unwrap();
        fenced(&mut files, &canary);
        bounded(&mut files);
        assert!(!lock_is_free(&host, &root));
        let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", files.pid)).unwrap();
        assert_eq!(mounts.lines().count(), 1, "its root and nothing of the host's: {mounts}");
        files.push("/etc/kept", b"kept");
        files.ended();
        assert!(lock_is_free(&host, &root));
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&host.scratch.path().display().to_string()));
        // On the disk it lies under the guest's own id.
        let upper = host.scratch.join("pool").join(&root.volume).join("upper/etc/kept");
        assert_eq!(std::fs::metadata(&upper).unwrap().uid(), 0);
        assert_eq!(std::fs::metadata(&upper).unwrap().permissions().mode() & 0o7777, 0o644);
        let mut again = host.stopped_files(&root);
        assert_eq!(again.pull("/etc/kept"), Ok(b"kept".to_vec()));
        for left in ["/root/log", "/root/sparse"] {
            again.ok(&Request::Remove { path: left.as_bytes() });
        }
        again.ended();
    }
    host.end(keeper);
}

#[test]
fn sessions_over_a_stopped_guest_share_one_mount() {
    let host = Host::new("files-shared");
    let keeper = host.keeper(1);
    let root = host.spec(keeper.boot).root;
    let mut first = host.stopped_files(&root);
    let mut second = host.stopped_files(&root);
    first.push("/tmp/x", b"first");
    assert_eq!(second.pull("/tmp/x"), Ok(b"first".to_vec()));
    let of = |files: &Files| std::fs::read_link(format!("/proc/{}/ns/mnt", files.pid)).unwrap();
    assert_eq!(of(&first), of(&second));
    first.ended();
    assert!(!lock_is_free(&host, &root), "the second holds it, too");
    let mut third = host.stopped_files(&root);
    third.push("/tmp/x", b"third");
    assert_eq!(second.pull("/tmp/x"), Ok(b"third".to_vec()));
    second.ended();
    third.ended();
    assert!(lock_is_free(&host, &root));

    // Many at once, none of which finds another one's half-made mount.
    let mut sessions: Vec<Files> = (0..8).map(|_| host.helper(&host.stopped_arguments(&root))).collect();
    for session in &mut sessions {
        session.greet();
        assert_eq!(session.pull("/tmp/x"), Ok(b"third".to_vec()));
    }
    assert!(sessions.windows(2).all(|pair| of(&pair[0]) == of(&pair[1])));
    sessions.into_iter().for_each(Files::ended);
    assert!(lock_is_free(&host, &root));

    // One after another, each begun while the one before is ending.
    let mut last = host.stopped_files(&root);
    for _ in 0..100 {
        drop(last.stream);
        last = host.stopped_files(&root);
        assert_eq!(last.pull("/tmp/x"), Ok(b"third".to_vec()));
    }
    last.ended();
    assert!(lock_is_free(&host, &root));
    host.end(keeper);
}

#[test]
fn a_start_does_not_wait_for_idle_sessions() {
    let host = Host::new("files-yield");
    let mut keeper = host.keeper(1);
    let spec = host.spec(keeper.boot);
    let mut idle = host.stopped_files(&spec.root);
    idle.push("/etc/before", b"before");
    let joined = host.stopped_files(&spec.root);
    let root = spec.root.clone();
    let init = keeper.boot(spec);
    idle.ends();
    joined.ends();
    assert!(!lock_is_free(&host, &root), "the keeper holds it while the guest runs");
    let mut files = host.running_files(init);
    assert_eq!(files.pull("/etc/before"), Ok(b"before".to_vec()));
    files.ended();
    host.end(keeper);
    assert!(lock_is_free(&host, &root));
}

#[test]
fn nonsense_is_answered_or_ends_the_session_but_nothing_else() {
    use std::io::Write;
    let host = Host::new("files-nonsense");
    let keeper = host.keeper(1);
    let root = host.spec(keeper.boot).root;
    let mut files = host.stopped_files(&root);
    // Cut-off fields, an unknown kind, an unknown extension: answered.
    for packet in [&[17u8, 0, 0, 0, 9, 0, 0][..], &[77, 0, 0, 0, 9], b"\xc8\0\0\0\x09\0\0\0\x03x@y"] {
        files.stream.write_all(&(packet.len() as u32).to_be_bytes()).unwrap();
        files.stream.write_all(packet).unwrap();
        let answer = files.packet().unwrap();
        assert_eq!(answer[..5], [101, 0, 0, 0, 9]);
    }
    assert!(files.pull("/etc/passwd").is_ok());
    // A length that nobody can mean: over.
    files.stream.write_all(&[255; 64]).unwrap();
    files.ends();
    // Not even greeted.
    let mut rude = host.helper(&host.stopped_arguments(&root));
    rude.stream.write_all(&[0, 0, 0, 5, 17, 0, 0, 0, 1]).unwrap();
    rude.ends();
    // Gone before it began.
    host.helper(&host.stopped_arguments(&root)).ended();
    assert!(lock_is_free(&host, &root));
    host.end(keeper);
}

#[test]
fn openssh_speaks_with_it() {
    // Debian's `openssh-client`; elsewhere there is nothing to compare with.
    if !std::path::Path::new("/usr/bin/sftp").exists() {
        return;
    }
    let host = Host::new("files-openssh");
    let keeper = host.keeper(1);
    let root = host.spec(keeper.boot).root;
    let local = host.scratch.join("local");
    std::fs::write(&local, vec![7; 300_000]).unwrap();
    let batch = host.scratch.join("batch");
    let text = format!(
        "put {0} /root/pushed\nchmod 600 /root/pushed\nls -l /root\nrename /root/pushed /root/p2\nln -s p2 /root/l\n\
         df /root\nmkdir /root/dd\nget /root/p2 {0}.back\ncd /root\npwd\nrm l\n",
        local.display()
    );
    std::fs::write(&batch, text).unwrap();
    // It gives its server a socket as standard input; ours is to be at 3.
    let server = host.scratch.join("server");
    let words = host.stopped_arguments(&root).join(" ");
    let script = format!("#!/bin/sh\nexec {} help files {words} 3<&0\n", env!("CARGO_BIN_EXE_sysctl-keeper"));
    std::fs::write(&server, script).unwrap();
    std::fs::set_permissions(&server, std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = std::process::Command::new("/usr/bin/sftp")
        .arg("-b")
        .arg(&batch)
        .arg("-D")
        .arg(&server)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(text.contains("-rw-------") && text.contains("pushed"), "{text}");
    assert!(text.contains("Remote working directory: /root"), "{text}");
    assert!(std::fs::read(format!("{}.back", local.display())).unwrap() == vec![7; 300_000]);
    host.end(keeper);
}
