//! `sysctl-keeper spawn`: starts keepers and helpers for the daemon, which forks nothing itself.
//!
//! It keeps no state: it may die and be started again at any time. As child subreaper it inherits the init of a keeper
//! that was killed and then learns, like the keeper would have, how that init ended. To stay the parent of all keepers it
//! also survives an upgrade: it goes on in the new program, as they do.

use std::collections::VecDeque;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kernel::process::{Clone, Side, SingleThread};
use kernel::{Errno, Result};
use runtime::program;
use runtime::protocol::{Child, Failure, Hello, HelpSpec, KeepSpec, SpawnEvent, SpawnRequest, receive, send};
use runtime::record;
use runtime::wire::Field;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Signal, WaitOptions, wait};

use crate::replace::{self, Words};

/// Ends of children that no daemon was told yet. An orphaned init or helper each: far more than a host starts while its
/// daemon is away for a moment; the oldest are dropped first.
const MAX_UNTOLD: usize = 4096;

record! {
    /// What a new program goes on with; descriptors are numbers, 0 for none. Later releases read what earlier ones wrote:
    /// append only.
    struct Saved {
        1 => listener: u32,
        2 => peer: u32,
        3 => untold: Vec<Child>,
        4 => sequence: u32,
    }
}

struct Spawn {
    proof: SingleThread,
    path: String,
    program: OwnedFd,
    /// The file of that program.
    identity: String,
    listener: OwnedFd,
    signals: OwnedFd,
    peer: Option<OwnedFd>,
    untold: VecDeque<Child>,
    /// A keeper that was exec'd ahead and waits for its spec.
    spare: Option<OwnedFd>,
    /// The daemon has left this host for good.
    over: bool,
}

/// Serves on the socket at `path` until it is told to end; says so to `ready`, in systemd's words, once it listens.
pub(crate) fn run(proof: SingleThread, path: &str, ready: Option<OwnedFd>) -> Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let spawn = Spawn::new(proof, path, listen(path)?)?;
    if let Some(ready) = ready {
        rustix::io::write(ready, b"READY=1")?;
    }
    spawn.serve()
}

/// Goes on after our program was replaced; `memory` has what the former program wrote.
pub(crate) fn resume(proof: SingleThread, path: &str, memory: OwnedFd) -> Result<()> {
    let (mut spawn, sequence) = restore(proof, path, memory)?;
    spawn.tell(sequence, &SpawnEvent::Hello(spawn.hello()));
    // Who ended meanwhile was told to nobody: that signal was taken by the former program or is pending still.
    spawn.reap();
    spawn.serve()
}

/// Whether this program could go on with what the former one wrote.
pub(crate) fn rehearse(proof: SingleThread, path: &str, memory: OwnedFd) -> Result<()> {
    restore(proof, path, memory).map(drop)
}

/// The state that the former program wrote, and the number of the request that it answers.
fn restore(proof: SingleThread, path: &str, memory: OwnedFd) -> Result<(Spawn, u32)> {
    let saved = Saved::take(&replace::written(&memory)?).ok_or(Errno::PROTO)?;
    let mut spawn = Spawn::new(proof, path, kernel::process::inherit(saved.listener as i32)?)?;
    if saved.peer > 0 {
        spawn.peer = Some(kernel::process::inherit(saved.peer as i32)?);
    }
    spawn.untold = saved.untold.into();
    Ok((spawn, saved.sequence))
}

fn listen(path: &str) -> Result<OwnedFd> {
    let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    // Under a name of its own first: whoever connects to the real one finds a listener.
    let temporary = format!("{path}.new");
    let _ = std::fs::remove_file(&temporary);
    rustix::net::bind(&listener, &SocketAddrUnix::new(&*temporary)?)?;
    rustix::fs::chmod(&*temporary, Mode::from_raw_mode(0o600))?;
    rustix::net::listen(&listener, 16)?;
    rustix::fs::rename(&*temporary, path)?;
    Ok(listener)
}

/// A copy of our program that nobody can write to or replace: what keepers are exec'd from, also after an upgrade has
/// put another file in its place.
fn sealed_program() -> Result<OwnedFd> {
    let source = rustix::fs::open("/proc/self/exe", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let name = program::memory_name()?;
    let memory = rustix::fs::memfd_create(&*name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut rest = rustix::fs::fstat(&source)?.st_size as usize;
    while rest > 0 {
        match rustix::fs::sendfile(&memory, &source, None, rest)? {
            0 => return Err(Errno::IO),
            length => rest -= length,
        }
    }
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&memory, seals)?;
    // A read-only way in: a descriptor open for writing would make exec fail with ETXTBSY.
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&memory));
    rustix::fs::open(&*path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

impl Spawn {
    fn new(proof: SingleThread, path: &str, listener: OwnedFd) -> Result<Spawn> {
        Ok(Spawn {
            proof,
            path: path.to_owned(),
            program: sealed_program()?,
            identity: program::own()?,
            listener,
            signals: kernel::signal::descriptor(&[Signal::CHILD])?,
            peer: None,
            untold: VecDeque::new(),
            spare: None,
            over: false,
        })
    }

    fn serve(mut self) -> Result<()> {
        self.make_spare();
        while !self.over {
            self.turn()?;
        }
        let _ = std::fs::remove_file(&self.path);
        Ok(())
    }

    fn turn(&mut self) -> Result<()> {
        let (listener, signals) = (self.listener.as_fd(), self.signals.as_fd());
        let mut fds =
            vec![PollFd::from_borrowed_fd(listener, PollFlags::IN), PollFd::from_borrowed_fd(signals, PollFlags::IN)];
        fds.extend(self.peer.as_ref().map(|peer| PollFd::from_borrowed_fd(peer.as_fd(), PollFlags::IN)));
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready[1] {
            kernel::signal::drain(self.signals.as_fd());
            self.reap();
        }
        if ready.get(2) == Some(&true) {
            self.converse();
        }
        if ready[0] {
            self.accept();
        }
        Ok(())
    }

    fn accept(&mut self) {
        if let Ok(socket) = rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC) {
            self.peer = Some(socket);
            self.tell(0, &SpawnEvent::Hello(self.hello()));
            self.tell_untold();
        }
    }

    fn hello(&self) -> Hello {
        Hello { release: crate::RELEASE.to_owned(), program: self.identity.clone() }
    }

    fn tell(&mut self, sequence: u32, event: &SpawnEvent) -> bool {
        self.tell_with(sequence, event, None)
    }

    fn tell_with(&mut self, sequence: u32, event: &SpawnEvent, fd: Option<OwnedFd>) -> bool {
        let fds: Vec<BorrowedFd<'_>> = fd.iter().map(AsFd::as_fd).collect();
        let sent = self.peer.as_ref().is_some_and(|peer| send(peer.as_fd(), sequence, event, &fds).is_ok());
        if !sent {
            self.peer = None;
        }
        sent
    }

    fn tell_untold(&mut self) {
        while let Some(child) = self.untold.front().cloned() {
            if !self.tell(0, &SpawnEvent::ChildEnded(child)) {
                return;
            }
            self.untold.pop_front();
        }
    }

    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let signal = status.terminating_signal().unwrap_or(0);
            let code = status.exit_status().unwrap_or(128 + signal);
            if self.untold.len() == MAX_UNTOLD {
                self.untold.pop_front();
            }
            self.untold.push_back(Child { pid: pid.as_raw_nonzero().get() as u32, code, signal });
        }
        self.tell_untold();
    }

    fn converse(&mut self) {
        let Some(peer) = &self.peer else { return };
        let received = match receive::<SpawnRequest>(peer, false) {
            Ok(received) => received,
            Err(Errno::AGAIN) => return,
            Err(_) => {
                self.peer = None;
                return;
            }
        };
        let mut handed_out = None;
        let event = match received.message {
            Some(SpawnRequest::Hello(_)) => SpawnEvent::Hello(self.hello()),
            Some(SpawnRequest::Program(_)) => {
                handed_out = rustix::io::fcntl_dupfd_cloexec(&self.program, 3).ok();
                SpawnEvent::Hello(self.hello())
            }
            Some(SpawnRequest::Replace(_)) => SpawnEvent::Failed(self.replace(received.sequence, received.fds)),
            Some(SpawnRequest::Keep(spec)) => answer(self.keep(&spec, received.fds)),
            Some(SpawnRequest::Help(spec)) => answer(self.help(&spec, received.fds)),
            Some(SpawnRequest::End(_)) => {
                self.over = true;
                answer(Ok(0))
            }
            None => answer(Err(Failure::new("request", "decode", "unknown to this release", Errno::NOSYS))),
        };
        self.tell_with(received.sequence, &event, handed_out);
        // After the answer, so that nobody waits for it.
        self.make_spare();
    }

    /// Goes on in another program; returns only when that failed. The spare keeper, which runs the former one, ends.
    fn replace(&mut self, sequence: u32, fds: Vec<OwnedFd>) -> Failure {
        let Some(program) = fds.into_iter().next() else {
            return Failure::new("replace", "recvmsg", "program", Errno::BADF);
        };
        let number = |fd: &OwnedFd| std::os::fd::AsRawFd::as_raw_fd(fd) as u32;
        let saved = Saved {
            listener: number(&self.listener),
            peer: self.peer.as_ref().map_or(0, number),
            untold: self.untold.iter().cloned().collect(),
            sequence,
        };
        let mut state = Vec::new();
        saved.put(&mut state);
        let words = Words {
            resume: &["spawn", "--socket", &self.path, "--resume"],
            rehearse: &["spawn", "--socket", &self.path, "--rehearse"],
        };
        let open: Vec<BorrowedFd<'_>> =
            [Some(&self.listener), self.peer.as_ref()].into_iter().flatten().map(AsFd::as_fd).collect();
        replace::go_on(self.proof, program.as_fd(), &words, &state, &open)
    }

    /// Hands a keeper its spec: the spare one, or else a new one.
    fn keep(&mut self, spec: &KeepSpec, fds: Vec<OwnedFd>) -> std::result::Result<u32, Failure> {
        let failed = |call: &'static str| move |errno| Failure::new("keep", call, "", errno);
        let control = fds.into_iter().next().ok_or_else(|| failed("recvmsg")(Errno::BADF))?;
        let mut record = Vec::new();
        spec.put(&mut record);
        if let Some(spare) = self.spare.take()
            && kernel::scm::send(spare.as_fd(), &record, &[control.as_fd()], false).is_ok()
        {
            return Ok(0);
        }
        // It died while it waited.
        let fresh = self.exec_keeper().map_err(failed("clone3"))?;
        kernel::scm::send(fresh.as_fd(), &record, &[control.as_fd()], false).map_err(failed("sendmsg"))?;
        Ok(0)
    }

    fn make_spare(&mut self) {
        if self.spare.is_none() {
            self.spare = self.exec_keeper().ok();
        }
    }

    /// Starts a keeper that reads its spec from the other end of the returned socket.
    fn exec_keeper(&self) -> Result<OwnedFd> {
        let (ours, theirs) = kernel::scm::pair()?;
        self.exec(&["keep", "--wait", "3"], &[theirs.as_fd()])?;
        Ok(ours)
    }

    fn help(&mut self, spec: &HelpSpec, fds: Vec<OwnedFd>) -> std::result::Result<u32, Failure> {
        let mut argv = vec!["help"];
        argv.extend(spec.argv.iter().map(String::as_str));
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        self.exec(&argv, &fds).map_err(|errno| Failure::new("help", "clone3", spec.argv.join(" "), errno))
    }

    /// Runs our program again with `fds` from number 3 on.
    fn exec(&self, arguments: &[&str], fds: &[BorrowedFd<'_>]) -> Result<u32> {
        match Clone::default().clone3(self.proof)? {
            Side::Parent(pid, _) => Ok(pid.as_raw_nonzero().get() as u32),
            Side::Child => {
                let _ = self.become_program(arguments, fds);
                kernel::process::exit(127)
            }
        }
    }

    fn become_program(&self, arguments: &[&str], fds: &[BorrowedFd<'_>]) -> Result<()> {
        let argv: std::result::Result<Vec<CString>, _> =
            ["sysctl-keeper"].iter().chain(arguments).map(|a| CString::new(*a)).collect();
        let argv = argv.map_err(|_| Errno::INVAL)?;
        kernel::signal::reset_all();
        let environment = kernel::process::environment();
        Err(kernel::process::exec_with_fds(self.proof, self.program.as_fd(), &argv, &environment, fds))
    }
}

fn answer(result: std::result::Result<u32, Failure>) -> SpawnEvent {
    match result {
        Ok(pid) => SpawnEvent::Started(Child { pid, ..Child::default() }),
        Err(failure) => SpawnEvent::Failed(failure),
    }
}
