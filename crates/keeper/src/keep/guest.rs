//! The guest's init, from its making to its end.

use std::os::fd::{AsFd, OwnedFd};

use kernel::process::{Namespaces, SingleThread};
use kernel::{Errno, Result};
use runtime::launch::{self, Launch, Report, root};
use runtime::protocol::{CONSOLE_RING, Failure, KeepSpec, LaunchSpec, end, phase};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{WaitId, WaitIdOptions, WaitOptions};
use rustix::pty::OpenptFlags;

use super::ring::{Filled, Ring};

/// What happened to the guest that the daemon must be told.
#[derive(Debug)]
pub(crate) enum News {
    /// Init exists.
    Prepared,
    /// Init waits to be let go.
    Ready,
    /// Init runs foreign code.
    Started,
    /// It could not be made; everything is gone.
    Failed(Failure),
    /// Init is gone.
    Ended,
}

/// The guest's console.
#[derive(Debug)]
pub(crate) struct Console {
    pub(crate) master: OwnedFd,
    /// Held open, so that the master does not report a hang-up for as long as nobody in the guest has the console open.
    slave: Option<OwnedFd>,
}

impl Console {
    pub(crate) fn new(master: OwnedFd) -> Console {
        let _ = rustix::fs::fcntl_setfl(&master, OFlags::RDWR | OFlags::NONBLOCK);
        let slave = open_slave(&master);
        Console { master, slave }
    }
}

/// The other end of a terminal, through its master.
pub(crate) fn open_slave(master: &OwnedFd) -> Option<OwnedFd> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    rustix::pty::ioctl_tiocgptpeer(master, flags).ok()
}

/// The guest.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) phase: u8,
    pub(crate) pid: u32,
    pub(crate) end: u8,
    pub(crate) code: i32,
    pub(crate) pidfd: Option<OwnedFd>,
    pub(crate) launch: Option<Launch>,
    pub(crate) failure: Option<Failure>,
    pub(crate) console: Option<Console>,
    pub(crate) console_ring: Ring,
    pub(crate) v1_groups: Vec<String>,
    /// Its network namespace, and a netlink socket in it.
    pub(crate) network: Option<(OwnedFd, OwnedFd)>,
    /// The lock of its root file system: nobody else mounts it while we hold this.
    pub(crate) lock: Option<OwnedFd>,
    /// Not our child: its end is seen, its cause is not.
    pub(crate) adopted: bool,
    pub(crate) let_go: bool,
    /// It is the first process of its pid namespace: the kernel ends all others there with it.
    pub(crate) is_first: bool,
}

impl Guest {
    pub(crate) fn new() -> Result<Guest> {
        Ok(Guest {
            phase: phase::EMPTY,
            pid: 0,
            end: 0,
            code: 0,
            pidfd: None,
            launch: None,
            failure: None,
            console: None,
            console_ring: Ring::new("console", CONSOLE_RING)?,
            v1_groups: Vec::new(),
            network: None,
            lock: None,
            adopted: false,
            let_go: false,
            is_first: true,
        })
    }

    /// Takes over an init that runs already and whose keeper died.
    pub(crate) fn adopt(proof: SingleThread, spec: &KeepSpec) -> Result<Guest> {
        let mut guest = Guest::new()?;
        guest.adopted = true;
        guest.pid = spec.adopt_pid;
        match root::open_process(spec.adopt_pid, spec.adopt_start) {
            Ok(pidfd) => {
                guest.phase = phase::RUNNING;
                guest.is_first = root::is_first(spec.adopt_pid);
                guest.network = open_network(proof, spec.adopt_pid).ok();
                guest.pidfd = Some(pidfd);
            }
            Err(_) => {
                guest.phase = phase::ENDED;
                guest.end = end::UNKNOWN;
            }
        }
        Ok(guest)
    }

    /// Begins to make the guest.
    pub(crate) fn prepare(&mut self, proof: SingleThread, spec: &LaunchSpec) -> std::result::Result<(), Failure> {
        if self.phase != phase::EMPTY {
            return Err(Failure::new("prepare", "look", "there is a guest already", Errno::EXIST));
        }
        self.failure = None;
        self.v1_groups.clone_from(&spec.v1_groups);
        self.launch = Some(launch::begin(proof, spec)?);
        self.phase = phase::PREPARING;
        Ok(())
    }

    /// Lets a ready init go. Asked again it does nothing.
    pub(crate) fn start(&mut self) -> std::result::Result<(), Failure> {
        let refused = |errno| Failure::new("start", "write", "init", errno);
        match (self.phase, &self.launch) {
            (phase::READY, Some(launch)) if !self.let_go => {
                self.let_go = true;
                launch.go().map_err(refused)
            }
            (phase::READY | phase::RUNNING, _) => Ok(()),
            _ => Err(refused(Errno::SRCH)),
        }
    }

    /// Takes one report of the launcher.
    pub(crate) fn advance(&mut self) -> Option<News> {
        let launch = self.launch.as_ref()?;
        match launch::read(&launch.report)? {
            Report::Prepared { pid, pidfd, netns, netlink, lock } => {
                self.pid = pid;
                self.is_first = root::is_first(pid);
                self.pidfd = Some(pidfd);
                self.lock = Some(lock);
                // Init's mounts go on meanwhile: on v1 hosts the first of these writes takes up to 15 ms.
                if let Err(failure) = self.join_v1() {
                    self.failure = Some(failure);
                    self.abandon();
                    return None;
                }
                self.network = Some((netns, netlink));
                Some(News::Prepared)
            }
            Report::Console(master) => {
                self.console = Some(Console::new(master));
                None
            }
            Report::Ready if self.failure.is_none() => {
                self.phase = phase::READY;
                Some(News::Ready)
            }
            Report::Ready => None,
            Report::Failed(failure) => {
                // The first one is the cause, later ones follow from it.
                self.failure.get_or_insert(failure);
                None
            }
            Report::Closed => Some(self.launched()),
        }
    }

    fn join_v1(&self) -> std::result::Result<(), Failure> {
        let pid = self.pid.to_string();
        for group in &self.v1_groups {
            let path = format!("{group}/cgroup.procs");
            std::fs::write(&path, &pid).map_err(|error| {
                let errno = Errno::from_raw_os_error(error.raw_os_error().unwrap_or(5));
                Failure::new("keeper", "write", path, errno)
            })?;
        }
        Ok(())
    }

    /// Gives a half-made guest up: init sees its socket close, or is killed.
    fn abandon(&self) {
        if let Some(pidfd) = &self.pidfd {
            let _ = rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL);
        }
    }

    /// All launcher processes have let go of the report socket: init runs, or nothing does.
    fn launched(&mut self) -> News {
        if let Some(launch) = self.launch.take() {
            let _ = rustix::process::waitid(WaitId::PidFd(launch.stage.as_fd()), WaitIdOptions::EXITED);
        }
        if self.failure.is_none() && self.let_go {
            self.phase = phase::RUNNING;
            return News::Started;
        }
        let failure = self
            .failure
            .get_or_insert_with(|| Failure::new("launch", "wait", "init was killed before its start", Errno::CANCELED))
            .clone();
        // Children that we never learned of (a clone before its report) are ours too and are dying.
        self.abandon();
        while rustix::process::wait(WaitOptions::empty()).is_ok() {}
        self.phase = phase::EMPTY;
        self.pid = 0;
        self.pidfd = None;
        self.console = None;
        self.network = None;
        self.lock = None;
        News::Failed(failure)
    }

    /// Asks whether init has ended. To be called when its pidfd became readable.
    pub(crate) fn reap(&mut self) -> Option<News> {
        // A launch under way ends by its report.
        if self.phase != phase::RUNNING {
            return None;
        }
        let pidfd = self.pidfd.as_ref()?;
        if self.adopted {
            self.end = end::UNKNOWN;
        } else {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            match rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), options) {
                Ok(None) => return None,
                Ok(Some(status)) => {
                    (self.end, self.code) = match (status.exit_status(), status.terminating_signal()) {
                        (Some(code), _) => (end::EXIT, code),
                        (None, Some(signal)) => (end::SIGNAL, signal),
                        (None, None) => (end::UNKNOWN, 0),
                    }
                }
                Err(_) => self.end = end::UNKNOWN,
            }
        }
        self.phase = phase::ENDED;
        self.pidfd = None;
        self.pump_console();
        self.console = None;
        // The last hold on it but the daemon's: it goes, and its links with it.
        self.network = None;
        self.lock = None;
        Some(News::Ended)
    }

    /// Takes what init wrote to its console; nobody must acknowledge it, old bytes make room.
    pub(crate) fn pump_console(&mut self) {
        let Some(console) = &mut self.console else { return };
        // A quarter of the ring at a time, so that a guest that floods its console does not keep us from other work.
        for _ in 0..4 {
            self.console_ring.forget_for(CONSOLE_RING / 4);
            match self.console_ring.fill(console.master.as_fd()) {
                Ok(Filled::Some) => {}
                // The guest hung the terminal up (systemd does): our hold on it is stale, so take a new one.
                Ok(Filled::End) => {
                    console.slave = open_slave(&console.master);
                    return;
                }
                // What is stuck is written before whatever comes next.
                Ok(Filled::Nothing | Filled::Stuck) | Err(_) => return,
            }
        }
    }
}

/// The network namespace of a process and a netlink socket in it: sockets belong to where they are made, so we go there and
/// come back.
fn open_network(proof: SingleThread, pid: u32) -> Result<(OwnedFd, OwnedFd)> {
    let open = |path: &str| rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let home = open("/proc/self/ns/net")?;
    let theirs = open(&format!("/proc/{pid}/ns/net"))?;
    kernel::process::enter_namespace(proof, theirs.as_fd(), Namespaces::NET)?;
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None);
    // Without a way back we would be lost to the host.
    kernel::process::enter_namespace(proof, home.as_fd(), Namespaces::NET)?;
    Ok((theirs, socket?))
}
