//! A spawn process, keepers and guests of one test.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use model::{Boot, BootGen, CgroupLayout, InstanceId, Settings};
use runtime::cgroup::Groups;
use runtime::protocol::*;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use testkit::Scratch;

pub const BASE: u32 = 1_500_000_000;
/// All namespaces that a launcher makes: user, mnt, pid, net, ipc, uts, cgroup.
pub const NAMESPACES: u64 = 0x1000_0000 | 0x2_0000 | 0x2000_0000 | 0x4000_0000 | 0x800_0000 | 0x400_0000 | 0x200_0000;

pub struct Host {
    pub scratch: Scratch,
    pub groups: Groups,
    spawn: Option<Child>,
    /// Keepers that were started.
    keepers: std::cell::RefCell<Vec<u32>>,
}

pub struct Keeper {
    pub boot: Boot,
    pub directory: PathBuf,
    pub socket: OwnedFd,
    pub seen: VecDeque<(u32, KeepEvent, Vec<OwnedFd>)>,
    pub pid: u32,
    sequence: u32,
}

impl Host {
    pub fn new(what: &str) -> Host {
        testkit::require_root();
        let scratch = Scratch::new(what);
        for directory in ["keep", "mnt", "pool/base", "pool/volumes"] {
            std::fs::create_dir_all(scratch.join(directory)).expect("mkdir");
        }
        testkit::tree::busybox(&scratch.join("pool/base"), testkit::tree::IDLE);
        let layout = layout();
        let base = format!("sysctl-test-{what}-{}", std::process::id());
        let groups = Groups::new(&layout, &base);
        groups.prepare().expect("base group");
        let mut host = Host { scratch, groups, spawn: None, keepers: Default::default() };
        host.start_spawn();
        host
    }

    pub fn start_spawn(&mut self) {
        let socket = self.scratch.join("spawn.socket");
        let _ = std::fs::remove_file(&socket);
        let child = Command::new(env!("CARGO_BIN_EXE_sysctl-keeper"))
            .args(["spawn", "--socket"])
            .arg(&socket)
            .stdin(Stdio::null())
            .spawn()
            .expect("spawn starts");
        self.spawn = Some(child);
        testkit::eventually("spawn's socket", || socket.exists().then_some(()));
    }

    pub fn kill_spawn(&mut self) {
        if let Some(mut child) = self.spawn.take() {
            child.kill().expect("kill");
            child.wait().expect("wait");
        }
    }

    pub fn spawn_socket(&self) -> OwnedFd {
        connect(&self.scratch.join("spawn.socket"))
    }

    /// Starts a keeper for a fresh boot and reads its first status.
    pub fn keeper(&self, number: u128) -> Keeper {
        let boot = Boot { id: InstanceId(uuid::Uuid::from_u128(number)), generation: BootGen(1) };
        self.keeper_with(boot, KeepSpec::default())
    }

    pub fn keeper_with(&self, boot: Boot, spec: KeepSpec) -> Keeper {
        let directory = self.scratch.join("keep").join(boot.to_string());
        std::fs::create_dir_all(&directory).expect("mkdir");
        let (ours, theirs) = kernel::scm::pair().expect("socketpair");
        bounded(&ours);
        let spawn = self.spawn_socket();
        let spec = KeepSpec { directory: directory.display().to_string(), boot: boot.to_string(), ..spec };
        send(spawn.as_fd(), 1, &SpawnRequest::Keep(spec), &[theirs.as_fd()]).expect("send");
        loop {
            let received = receive::<SpawnEvent>(&spawn, true).expect("answer");
            match received.message.expect("known") {
                SpawnEvent::Started(_) => break,
                SpawnEvent::Failed(failure) => panic!("{failure}"),
                _ => {}
            }
        }
        drop(theirs);
        let mut keeper = Keeper { boot, directory, socket: ours, seen: VecDeque::new(), pid: 0, sequence: 1 };
        keeper.pid = keeper.expect("status", |event| match event {
            KeepEvent::Status(status) => Some(status.keeper),
            _ => None,
        });
        self.keepers.borrow_mut().push(keeper.pid);
        keeper
    }

    /// A spec for the busybox guest.
    pub fn spec(&self, boot: Boot) -> LaunchSpec {
        let volume = format!("volumes/{}", boot.id);
        for directory in ["upper", "work"] {
            std::fs::create_dir_all(self.scratch.join("pool").join(&volume).join(directory)).expect("mkdir");
        }
        self.groups.create(boot, &Settings::new(), BASE).expect("group");
        let text = |path: PathBuf| path.display().to_string();
        LaunchSpec {
            boot: boot.to_string(),
            hostname: "guest".into(),
            id_base: BASE,
            id_count: 65_536,
            namespaces: NAMESPACES,
            root: RootSpec {
                pool: text(self.scratch.join("pool")),
                layers: vec!["base".into()],
                volume,
                upper: "upper".into(),
                work: "work".into(),
                way: 0,
            },
            scratch: text(self.scratch.join("mnt")),
            group: text(self.groups.payload(boot)),
            v1_groups: self.groups.extra_groups(boot).into_iter().map(text).collect(),
            proc_by_descriptor: true,
            devices: [
                ("null", 1, 3),
                ("zero", 1, 5),
                ("full", 1, 7),
                ("random", 1, 8),
                ("urandom", 1, 9),
                ("tty", 5, 0),
            ]
            .map(|(path, major, minor)| Node { path: path.into(), major, minor })
            .to_vec(),
            confinement: confinement(),
            argv: vec!["/sbin/init".into()],
            environment: vec!["PATH=/bin:/sbin".into(), "container=lxc".into()],
            max_user_namespaces: 1000,
            ..LaunchSpec::default()
        }
    }

    /// Ends a boot: kills what runs, lets the keeper go and removes the group.
    pub fn end(&self, mut keeper: Keeper) {
        self.groups.kill(keeper.boot).expect("kill");
        loop {
            let status = keeper.status();
            if matches!(status.phase, phase::EMPTY | phase::ENDED) {
                break;
            }
            keeper.next();
        }
        keeper.done(KeepRequest::Release(Nothing {}));
        self.groups.remove(keeper.boot).expect("remove group");
        assert!(!keeper.directory.exists(), "the keeper left its directory");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill_spawn();
        let left = self.groups.list().expect("list");
        if std::thread::panicking() {
            // What the test did not come to: they would live on and hold its output.
            for pid in self.keepers.take() {
                let pid = rustix::process::Pid::from_raw(pid as i32).expect("pid");
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        } else {
            assert!(left.0.is_empty() && left.1.is_empty(), "groups left: {left:?}");
        }
        for boot in left.0 {
            let _ = self.groups.kill(boot);
            let _ = self.groups.remove(boot);
        }
        let _ = self.groups.remove_base();
    }
}

/// No test waits for ever: receiving fails after ten seconds.
fn bounded(socket: &OwnedFd) {
    use rustix::net::sockopt::{Timeout, set_socket_timeout};
    set_socket_timeout(socket, Timeout::Recv, Some(std::time::Duration::from_secs(10))).expect("timeout");
}

pub fn layout() -> CgroupLayout {
    runtime::cgroup::find_layout(&std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo")).expect("layout")
}

pub fn confinement() -> Confinement {
    Confinement {
        capabilities: !(1 << 16 | 1 << 17 | 1 << 25),
        seccomp: runtime::wire::Blob(runtime::seccomp::compile(model::Seccomp::Base)),
        rlimits: Vec::new(),
        keyring: true,
    }
}

pub fn connect(path: &std::path::Path) -> OwnedFd {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("socket");
    rustix::net::connect(&socket, &SocketAddrUnix::new(path).expect("path")).expect("connect");
    bounded(&socket);
    socket
}

/// What came of an exec'd command.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Keeper {
    pub fn ask(&mut self, request: KeepRequest) -> u32 {
        self.sequence += 1;
        send(self.socket.as_fd(), self.sequence, &request, &[]).expect("send");
        self.sequence
    }

    /// Asks and waits until it is done.
    pub fn done(&mut self, request: KeepRequest) {
        let sequence = self.ask(request);
        while !self.seen.iter().any(|(of, event, _)| *of == sequence && matches!(event, KeepEvent::Done(_))) {
            self.next();
        }
    }

    pub fn next(&mut self) {
        let received = receive::<KeepEvent>(&self.socket, true).expect("event");
        self.seen.push_back((received.sequence, received.message.expect("known"), received.fds));
    }

    /// Waits for the first event that `pick` takes; others stay for later.
    pub fn expect<T>(&mut self, what: &str, mut pick: impl FnMut(&KeepEvent) -> Option<T>) -> T {
        self.expect_with_fds(what, |event, _| pick(event))
    }

    pub fn expect_with_fds<T>(
        &mut self,
        what: &str,
        mut pick: impl FnMut(&KeepEvent, &mut Vec<OwnedFd>) -> Option<T>,
    ) -> T {
        let mut at = 0;
        loop {
            while at < self.seen.len() {
                let (_, event, fds) = &mut self.seen[at];
                if let Some(found) = pick(event, fds) {
                    self.seen.remove(at);
                    return found;
                }
                if let KeepEvent::Failed(failure) = event {
                    panic!("while waiting for {what}: {failure}");
                }
                at += 1;
            }
            self.next();
        }
    }

    /// Waits for the end of a session.
    pub fn session_end(&mut self) -> SessionState {
        self.expect("end", |event| match event {
            KeepEvent::SessionEnded(state) => Some(state.clone()),
            _ => None,
        })
    }

    pub fn status(&mut self) -> Status {
        self.ask(KeepRequest::Status(Nothing {}));
        self.seen.retain(|(_, event, _)| !matches!(event, KeepEvent::Status(_)));
        self.expect("status", |event| match event {
            KeepEvent::Status(status) => Some(status.clone()),
            _ => None,
        })
    }

    /// Makes the guest and lets it go; its init's pid.
    pub fn boot(&mut self, spec: LaunchSpec) -> u32 {
        self.ask(KeepRequest::prepare(spec));
        let pid = self.expect("prepared", |e| match e {
            KeepEvent::Prepared(prepared) => Some(prepared.pid),
            _ => None,
        });
        self.expect("ready", |e| matches!(e, KeepEvent::Ready(_)).then_some(()));
        self.ask(KeepRequest::Start(Nothing {}));
        self.expect("started", |e| matches!(e, KeepEvent::Started(_)).then_some(()));
        pid
    }

    /// Runs a shell command in the guest and collects its output.
    pub fn sh(&mut self, session: u32, command: &str) -> Outcome {
        self.exec(exec_spec(session, &["sh", "-c", command]))
    }

    pub fn exec(&mut self, spec: ExecSpec) -> Outcome {
        let session = spec.session;
        self.ask(KeepRequest::Exec(spec));
        let rings = self.expect_with_fds("session started", |event, fds| match event {
            KeepEvent::SessionStarted(state) if state.session == session => Some(std::mem::take(fds)),
            _ => None,
        });
        let mut output = [Vec::new(), Vec::new()];
        let ended = loop {
            let news = self.expect("session news", |event| match event {
                KeepEvent::Output(out) if out.session == session => Some(Ok(out.clone())),
                KeepEvent::SessionEnded(state) if state.session == session => Some(Err(state.clone())),
                _ => None,
            });
            match news {
                Ok(out) => {
                    let index = usize::from(out.stream - 1);
                    read_ring(&rings[index], &mut output[index], out.head);
                    self.ask(KeepRequest::Ack(Ack { session, stream: out.stream, offset: out.head }));
                }
                Err(state) => break state,
            }
        };
        for (index, state) in [&ended.stdout, &ended.stderr].into_iter().enumerate() {
            if let Some(ring) = rings.get(index) {
                read_ring(ring, &mut output[index], state.head);
            }
        }
        self.done(KeepRequest::Forget(Session { session }));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Outcome { code: ended.code, stdout: text(&output[0]), stderr: text(&output[1]) }
    }
}

pub fn read_ring(ring: &OwnedFd, into: &mut Vec<u8>, head: u64) {
    let mut from = into.len() as u64;
    while from < head {
        let at = from % SESSION_RING;
        let length = (head - from).min(SESSION_RING - at) as usize;
        let mut bytes = vec![0; length];
        rustix::io::pread(ring, &mut bytes, at).expect("pread");
        into.extend(bytes);
        from += length as u64;
    }
}

pub fn exec_spec(session: u32, argv: &[&str]) -> ExecSpec {
    ExecSpec {
        session,
        argv: argv.iter().map(|a| (*a).to_owned()).collect(),
        environment: vec!["PATH=/bin:/sbin:/usr/bin:/usr/sbin".into(), "HOME=/root".into()],
        confinement: confinement(),
        ..ExecSpec::default()
    }
}
