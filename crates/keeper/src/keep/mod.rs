//! `sysctl-keeper keep`: the parent of one guest.
//!
//! It waits for init, holds its console and the exec'd processes with their streams, and does what the daemon tells it on
//! one socket. It never blocks on anything but `poll`, has one thread, no policy and no database, and outlives the daemon.

mod guest;
mod peer;
mod requests;
mod resume;
mod ring;
mod session;
mod strays;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use kernel::process::SingleThread;
use kernel::{Errno, Result};
use runtime::exec::{Place, Stage};
use runtime::program;
use runtime::protocol::{Failure, KeepEvent, KeepSpec, Nothing, Output, Prepared, SessionState, Status, phase};
use runtime::wire::Blob;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::Pid;

use guest::{Guest, News};
use peer::Peer;
use session::Session;
use strays::Strays;

/// How long a stage that was made ahead of its order waits for one.
const SPARE_LIFE: Duration = Duration::from_secs(5);

/// A stage made ahead, and when it goes away again.
#[derive(Debug)]
struct Spare {
    stage: Stage,
    until: Instant,
}

/// A keeper.
#[derive(Debug)]
struct Keep {
    proof: SingleThread,
    spec: KeepSpec,
    directory: PathBuf,
    listener: OwnedFd,
    peer: Option<Peer>,
    guest: Guest,
    place: Place,
    sessions: BTreeMap<u32, Session>,
    next_leaf: u32,
    spare: Option<Spare>,
    strays: Strays,
    /// Number of the request that a launch under way answers.
    launch_sequence: u32,
    console_told: u64,
    released: bool,
    /// What the daemon gave us to keep for the next one.
    held: Option<Vec<OwnedFd>>,
    /// The file that our program was copied from.
    program: String,
}

/// How long output waits that the kernel had no memory for, when nothing else happens.
const AGAIN: Duration = Duration::from_millis(100);

/// What woke us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Listener,
    Peer,
    Launch,
    Init,
    Console,
    Session(u32),
    Spare,
    Strays,
}

/// Serves one boot, with the first connection to the daemon on `socket`.
pub(crate) fn run(proof: SingleThread, spec: KeepSpec, socket: OwnedFd) -> Result<()> {
    if hung_up(&socket)? {
        // Nobody knows of us: the daemon asked for another keeper, or is gone. The directory is not ours to touch.
        return Ok(());
    }
    let directory = PathBuf::from(&spec.directory);
    // An init in shared namespaces is made by a process that goes away: it becomes ours then.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let guest = if spec.adopt_pid > 0 { Guest::adopt(proof, &spec)? } else { Guest::new()? };
    let place = Place {
        payload: PathBuf::from(&spec.group),
        v1_groups: spec.v1_groups.iter().map(PathBuf::from).collect(),
        owner: spec.id_base,
    };
    let Some(listener) = listen(&directory, &socket)? else { return Ok(()) };
    let mut keep = Keep {
        proof,
        directory,
        listener,
        peer: Some(Peer::new(socket)),
        guest,
        place,
        sessions: BTreeMap::new(),
        next_leaf: 1,
        spare: None,
        strays: Strays::default(),
        launch_sequence: 0,
        console_told: 0,
        released: false,
        held: None,
        program: program::own()?,
        spec,
    };
    keep.watch_orphans();
    keep.write_status();
    keep.tell(0, KeepEvent::Status(keep.status()), &[]);
    keep.serve()
}

/// Goes on after our program was replaced; `state` is what the former program wrote.
pub(crate) fn resume(proof: SingleThread, state: OwnedFd) -> Result<()> {
    let (mut keep, sequence) = resume::restore(proof, state)?;
    keep.watch_orphans();
    keep.tell(sequence, KeepEvent::Done(Nothing {}), &[]);
    keep.tell(0, KeepEvent::Status(keep.status()), &[]);
    keep.serve()
}

/// Whether this program could go on with what the former one wrote.
pub(crate) fn rehearse(proof: SingleThread, state: OwnedFd) -> Result<()> {
    resume::restore(proof, state).map(drop)
}

/// The daemon at the other end is gone.
fn hung_up(socket: &impl AsFd) -> Result<bool> {
    let mut fds = [PollFd::new(socket, PollFlags::empty())];
    rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(fds[0].revents().contains(PollFlags::HUP))
}

fn pid_of(process: Pid) -> u32 {
    process.as_raw_nonzero().get().unsigned_abs()
}

/// The socket on which a restarted daemon finds us; `None` when the one that wanted us is gone by now, and its successor has
/// looked for us in vain.
fn listen(directory: &std::path::Path, socket: &OwnedFd) -> Result<Option<OwnedFd>> {
    let listener = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    // Under a name of its own first: the real one may be that of a keeper which was asked for instead of us. No longer than
    // that, as the length of addresses is limited (unix(7)).
    let temporary = directory.join(format!(".{:x}", std::process::id()));
    rustix::net::bind(&listener, &SocketAddrUnix::new(&temporary)?)?;
    rustix::net::listen(&listener, 4)?;
    if hung_up(socket)? {
        let _ = std::fs::remove_file(&temporary);
        return Ok(None);
    }
    rustix::fs::rename(&temporary, directory.join("control"))?;
    Ok(Some(listener))
}

impl Keep {
    fn serve(&mut self) -> Result<()> {
        while !self.released && !self.is_needless() {
            for source in self.wait()? {
                self.handle(source);
            }
            self.reap_strays();
            self.notify();
        }
        Ok(())
    }

    /// There is no guest, and nobody who could ask for one: a daemon that was not told of us asked for another keeper, and one
    /// that comes anew finds our directory without us and does the same.
    fn is_needless(&self) -> bool {
        self.guest.phase == phase::EMPTY && self.guest.launch.is_none() && self.peer.is_none()
    }

    /// Sleeps until something is to be done.
    fn wait(&self) -> Result<Vec<Source>> {
        let watched = self.watched();
        let mut fds: Vec<PollFd<'_>> =
            watched.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        let stuck = || self.sessions.iter().filter(|(_, session)| session.is_stuck());
        let spare = self.spare.as_ref().map(|spare| spare.until.saturating_duration_since(Instant::now()));
        let timeout = spare
            .into_iter()
            .chain(stuck().next().map(|_| AGAIN))
            .min()
            .map(|rest| Timespec { tv_sec: rest.as_secs() as i64, tv_nsec: i64::from(rest.subsec_nanos()) });
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(0) => {
                let stuck = stuck().map(|(number, _)| Source::Session(*number));
                return Ok(stuck.chain([Source::Spare]).collect());
            }
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(errno) => return Err(errno),
        }
        let mut ready: Vec<Source> =
            fds.iter().zip(&watched).filter(|(fd, _)| !fd.revents().is_empty()).map(|(_, w)| w.0).collect();
        ready.dedup();
        Ok(ready)
    }

    fn watched(&self) -> Vec<(Source, BorrowedFd<'_>, PollFlags)> {
        let mut list = vec![(Source::Listener, self.listener.as_fd(), PollFlags::IN)];
        if let Some(peer) = &self.peer {
            list.push((Source::Peer, peer.as_fd(), peer.interest()));
        }
        if let Some(launch) = &self.guest.launch {
            list.push((Source::Launch, launch.report.as_fd(), PollFlags::IN));
        }
        if let (Some(pidfd), phase::RUNNING) = (&self.guest.pidfd, self.guest.phase) {
            list.push((Source::Init, pidfd.as_fd(), PollFlags::IN));
        }
        if let Some(console) = &self.guest.console {
            list.push((Source::Console, console.master.as_fd(), PollFlags::IN));
        }
        list.extend(self.strays.watched().map(|fd| (Source::Strays, fd, PollFlags::IN)));
        for (number, session) in &self.sessions {
            let source = Source::Session(*number);
            if let Some(stage) = &session.stage {
                list.push((source, stage.socket.as_fd(), PollFlags::IN));
            }
            if let Some(pidfd) = &session.pidfd {
                list.push((source, pidfd.as_fd(), PollFlags::IN));
            }
            for stream in [&session.stdout, &session.stderr].into_iter().flatten() {
                list.extend(stream.wants().map(|fd| (source, fd, PollFlags::IN)));
            }
            if let Some(input) = session.wants_output() {
                list.push((source, input, PollFlags::OUT));
            }
        }
        list
    }

    fn handle(&mut self, source: Source) {
        match source {
            Source::Listener => self.accept(),
            Source::Peer => self.converse(),
            Source::Launch => {
                if let Some(news) = self.guest.advance() {
                    self.report(news);
                }
            }
            Source::Init => {
                if let Some(news) = self.guest.reap() {
                    self.report(news);
                }
            }
            Source::Console => self.guest.pump_console(),
            Source::Session(number) => self.advance_session(number),
            // They are looked at each time.
            Source::Strays => {}
            Source::Spare => {
                if self.spare.as_ref().is_some_and(|spare| spare.until <= Instant::now()) {
                    self.dismiss_spare();
                }
            }
        }
    }

    /// A daemon connects: the newest one is the one that lives.
    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(socket) = rustix::net::accept_with(&self.listener, flags) else { return };
        self.peer = Some(Peer::new(socket));
        self.tell(0, KeepEvent::Status(self.status()), &[]);
    }

    fn report(&mut self, news: News) {
        let sequence = self.launch_sequence;
        match news {
            News::Prepared => {
                self.tell_network(sequence);
                self.write_status();
            }
            News::Ready => self.tell(sequence, KeepEvent::Ready(Nothing {}), &[]),
            News::Started => {
                self.watch_orphans();
                self.write_status();
                self.tell(sequence, KeepEvent::Started(Nothing {}), &[]);
            }
            News::Failed(failure) => {
                self.write_status();
                self.tell(sequence, KeepEvent::Failed(failure), &[]);
            }
            News::Ended => {
                self.dismiss_spare();
                self.end_the_rest();
                self.write_status();
                self.tell(0, KeepEvent::Ended(self.status()), &[]);
            }
        }
    }

    fn advance_session(&mut self, number: u32) {
        let Some(session) = self.sessions.get_mut(&number) else { return };
        match session.advance() {
            Ok(false) => {}
            Ok(true) => {
                let event = KeepEvent::SessionStarted(session.state(number));
                if let Some(peer) = &mut self.peer {
                    peer.send(session.sequence, &event, &session.rings());
                }
                self.make_spare();
            }
            Err(failure) => {
                let sequence = session.sequence;
                if let Some(session) = self.sessions.remove(&number) {
                    self.strays.expect(&session.leaf);
                    let _ = std::fs::remove_dir(&session.leaf);
                }
                self.tell(sequence, KeepEvent::Failed(failure), &[]);
                return;
            }
        }
        let Some(session) = self.sessions.get_mut(&number) else { return };
        session.reap();
        session.pump();
    }

    /// Where init is not the first process, what an exec'd process leaves behind when it ends comes to us.
    fn watch_orphans(&mut self) {
        if !self.guest.is_first {
            self.strays.watch();
        }
    }

    /// Where init is not the first process, its end ends nobody else: we do.
    fn end_the_rest(&self) {
        if !self.guest.is_first {
            // A group that is gone has nobody in it.
            let _ = std::fs::write(self.place.payload.join("cgroup.kill"), "1");
        }
    }

    fn reap_strays(&self) {
        let is_init = |child| self.guest.pidfd.is_some() && pid_of(child) == self.guest.pid;
        let is_of = |session: &Session, child| {
            session.pidfd.is_some() && pid_of(child) == session.pid
                || session.stage.as_ref().is_some_and(|stage| stage.pid == child)
        };
        self.strays.reap(|child| {
            // A launch waits for its own.
            self.guest.launch.is_some()
                || is_init(child)
                || self.spare.as_ref().is_some_and(|spare| spare.stage.pid == child)
                || self.sessions.values().any(|session| is_of(session, child))
        });
    }

    /// Tells the daemon what changed since it was last told.
    fn notify(&mut self) {
        let Some(peer) = &mut self.peer else { return };
        if peer.is_lost() {
            self.peer = None;
            return;
        }
        // News are levels, not moments: while the daemon is behind they add up to one.
        if peer.is_behind() {
            return;
        }
        let head = self.guest.console_ring.state.head;
        if self.console_told != head {
            self.console_told = head;
            peer.send(0, &KeepEvent::Output(Output { session: 0, stream: 1, head, eof: false }), &[]);
        }
        for (number, session) in &mut self.sessions {
            if session.stage.is_some() {
                continue;
            }
            for (stream, tag) in [(&mut session.stdout, 1), (&mut session.stderr, 2)] {
                let Some(stream) = stream else { continue };
                let now = (stream.ring.state.head, stream.ring.state.eof);
                if stream.told != now {
                    stream.told = now;
                    let output = Output { session: *number, stream: tag, head: now.0, eof: now.1 };
                    peer.send(0, &KeepEvent::Output(output), &[]);
                }
            }
            if let Some(taken) = session.input_news(*number) {
                peer.send(0, &KeepEvent::Taken(taken), &[]);
            }
            if session.is_complete() && !session.told_end {
                session.told_end = true;
                peer.send(0, &KeepEvent::SessionEnded(session.state(*number)), &[]);
            }
        }
    }

    fn tell(&mut self, sequence: u32, event: KeepEvent, fds: &[BorrowedFd<'_>]) {
        if let Some(peer) = &mut self.peer {
            peer.send(sequence, &event, fds);
        }
    }

    /// Init's pid, its network namespace and a netlink socket in it; false when there is none.
    fn tell_network(&mut self, sequence: u32) -> bool {
        let (Some((netns, netlink)), Some(peer)) = (&self.guest.network, &mut self.peer) else { return false };
        let event = KeepEvent::Prepared(Prepared { pid: self.guest.pid });
        peer.send(sequence, &event, &[netns.as_fd(), netlink.as_fd()]);
        true
    }

    fn status(&self) -> Status {
        Status {
            boot: self.spec.boot.clone(),
            phase: self.guest.phase,
            pid: self.guest.pid,
            end: self.guest.end,
            code: self.guest.code,
            console: self.guest.console_ring.state.head,
            sessions: self
                .sessions
                .iter()
                .map(|(n, s)| SessionState { label: Blob::default(), ..s.state(*n) })
                .collect(),
            failure: self.guest.failure.clone(),
            keeper: rustix::process::getpid().as_raw_nonzero().get() as u32,
            release: crate::RELEASE.to_owned(),
            adopted: self.guest.adopted,
            program: self.program.clone(),
        }
    }

    /// What a later keeper must know to take over when we die: `pid start-time`, by rename.
    fn write_status(&self) {
        let start = runtime::launch::root::start_time(self.guest.pid).unwrap_or(0);
        let text = format!("1 {} {} {}\n", self.guest.phase, self.guest.pid, start);
        let (new, old) = (self.directory.join("status.new"), self.directory.join("status"));
        // A full runtime directory must not keep a guest from starting; the control socket tells the same.
        if std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &old)).is_err() {
            let _ = std::fs::remove_file(&new);
        }
    }

    /// Makes a stage ahead of the next order where that takes long. It goes away when none comes.
    fn make_spare(&mut self) {
        if self.place.v1_groups.is_empty() || self.spare.is_some() || self.guest.phase != phase::RUNNING {
            return;
        }
        if let Ok(stage) = self.make_stage() {
            self.spare = Some(Spare { stage, until: Instant::now() + SPARE_LIFE });
        }
    }

    fn make_stage(&mut self) -> std::result::Result<Stage, Failure> {
        let number = self.next_leaf;
        self.next_leaf += 1;
        runtime::exec::prepare(self.proof, &self.place, number)
    }

    /// The spare stage for an order, if nothing befell it: before its order it has nothing to report but its own failure.
    fn living_spare(&mut self) -> Option<Stage> {
        if self.spare.as_ref()?.stage.report().is_some() {
            self.dismiss_spare();
        }
        self.spare.take().map(|spare| spare.stage)
    }

    /// Lets the spare stage go: it sees its socket close and exits.
    fn dismiss_spare(&mut self) {
        if let Some(Spare { stage, .. }) = self.spare.take() {
            drop(stage.socket);
            let _ = rustix::process::waitid(
                rustix::process::WaitId::PidFd(stage.pidfd.as_fd()),
                rustix::process::WaitIdOptions::EXITED,
            );
            let _ = std::fs::remove_dir(&stage.leaf);
        }
    }
}
