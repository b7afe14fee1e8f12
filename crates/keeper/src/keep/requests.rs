//! What the daemon asks of a keeper.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use kernel::Errno;
use runtime::exec::Place;
use runtime::protocol::{
    ExecSpec, Failure, Input, KeepEvent, KeepRequest, LaunchSpec, MAX_INPUT, MAX_SESSIONS, Nothing, Resize,
    SessionState, Signal, phase,
};

use super::{Keep, hung_up, resume, session::Session};

/// Sessions without rings, or whose rings are of no use any more, cost little, but not nothing.
const MAX_SILENT_SESSIONS: usize = 240;

/// Most requests taken in one go, so that streams are pumped in between.
const BATCH: usize = 16;

impl Keep {
    /// Reads requests of the daemon and sends it what waits.
    pub(super) fn converse(&mut self) {
        for _ in 0..BATCH {
            let Some(peer) = &mut self.peer else { return };
            peer.flush();
            let Some(received) = peer.receive() else { break };
            let sequence = received.sequence;
            let answer = match received.message {
                Some(request) => self.obey(sequence, request, received.fds),
                None => Err(Failure::new("request", "decode", "unknown to this release", Errno::NOSYS)),
            };
            match answer {
                Ok(Some(event)) => self.tell(sequence, event, &[]),
                Ok(None) => {}
                // Whoever only told something does not wait for an answer.
                Err(_) if sequence == 0 => {}
                Err(failure) => self.tell(sequence, KeepEvent::Failed(failure), &[]),
            }
        }
        if self.peer.as_ref().is_some_and(super::Peer::is_lost) {
            self.peer = None;
        }
    }

    /// Does what is asked; the answer, when it is known at once.
    fn obey(&mut self, sequence: u32, request: KeepRequest, fds: Vec<OwnedFd>) -> Result<Option<KeepEvent>, Failure> {
        let done = Ok(Some(KeepEvent::Done(Nothing {})));
        match request {
            KeepRequest::Prepare(spec) | KeepRequest::PrepareShared(spec) => {
                self.prepare(sequence, &spec).map(|()| None)
            }
            KeepRequest::Start(_) => {
                self.launch_sequence = sequence;
                self.guest.start().map(|()| {
                    let running = self.guest.phase == phase::RUNNING;
                    running.then_some(KeepEvent::Started(Nothing {}))
                })
            }
            KeepRequest::Exec(spec) => self.exec(sequence, &spec).map(|()| None),
            KeepRequest::Signal(signal) => self.signal(&signal).and(done),
            KeepRequest::Resize(resize) => self.resize(&resize).and(done),
            KeepRequest::Input(input) => self.input(&input).map(|()| None),
            KeepRequest::Ack(ack) => {
                if let Some(session) = self.sessions.get_mut(&ack.session) {
                    let stream = if ack.stream == 1 { &mut session.stdout } else { &mut session.stderr };
                    if let Some(stream) = stream {
                        stream.ring.acknowledge(ack.offset);
                    }
                    session.pump();
                    session.release_rings();
                }
                Ok(None)
            }
            KeepRequest::Forget(which) => {
                self.forget(which.session);
                done
            }
            KeepRequest::Status(_) => Ok(Some(KeepEvent::Status(self.status()))),
            KeepRequest::Release(_) => self.release().and(done),
            KeepRequest::Replace(_) => {
                let program = fds.into_iter().next();
                let program = program.ok_or_else(|| Failure::new("replace", "recvmsg", "program", Errno::BADF))?;
                Err(resume::replace(self, sequence, &program))
            }
            KeepRequest::Sockets(_) => match self.tell_network(sequence) {
                true => Ok(None),
                false => Err(Failure::new("sockets", "look", "there is no guest of this keeper's making", Errno::SRCH)),
            },
            KeepRequest::Hold(_) => {
                self.held = Some(fds);
                done
            }
            KeepRequest::Held(_) => {
                let held = self.held.take().ok_or_else(|| Failure::new("held", "look", "nothing", Errno::NODATA))?;
                let fds: Vec<_> = held.iter().map(AsFd::as_fd).collect();
                self.tell(sequence, KeepEvent::Done(Nothing {}), &fds);
                self.held = Some(held);
                Ok(None)
            }
            KeepRequest::Attach(which) => self.attach(sequence, which.session).map(|()| None),
        }
    }

    fn prepare(&mut self, sequence: u32, spec: &LaunchSpec) -> Result<(), Failure> {
        // Its successor asks again. Should it have looked for us before we could be found, it expects no guest of ours.
        if self.peer.as_ref().is_none_or(|peer| hung_up(&peer.socket).unwrap_or(true)) {
            return Err(Failure::new("prepare", "poll", "the daemon that asked is gone", Errno::PIPE));
        }
        self.guest.prepare(self.proof, spec)?;
        self.launch_sequence = sequence;
        self.place = Place {
            payload: PathBuf::from(&spec.group),
            v1_groups: spec.v1_groups.iter().map(PathBuf::from).collect(),
            owner: spec.id_base,
        };
        Ok(())
    }

    fn exec(&mut self, sequence: u32, spec: &ExecSpec) -> Result<(), Failure> {
        let refused = |target: &str, errno| Failure::new("exec", "begin", target, errno);
        if self.guest.phase != phase::RUNNING {
            return Err(refused("the guest does not run", Errno::SRCH));
        }
        if spec.session == 0 || self.sessions.contains_key(&spec.session) {
            return Err(refused("this session number is taken", Errno::EXIST));
        }
        let silent = |session: &&Session| session.stdout.is_none() || session.is_spent();
        let quiet = self.sessions.values().filter(silent).count();
        let loud = self.sessions.len() - quiet;
        let full = quiet >= MAX_SILENT_SESSIONS || !spec.silent && loud >= MAX_SESSIONS;
        if full {
            return Err(refused("too many sessions at a time in this instance; end one first", Errno::USERS));
        }
        let stage = match self.living_spare() {
            Some(stage) => stage,
            None => self.make_stage()?,
        };
        let Some(init) = &self.guest.pidfd else { return Err(refused("the guest is gone", Errno::SRCH)) };
        let session = Session::begin(sequence, stage, spec, init.as_fd()).map_err(|errno| refused("streams", errno))?;
        self.sessions.insert(spec.session, session);
        Ok(())
    }

    fn session(&mut self, number: u32, what: &str) -> Result<&mut Session, Failure> {
        self.sessions
            .get_mut(&number)
            .ok_or_else(|| Failure::new(what, "look", format!("session {number}"), Errno::SRCH))
    }

    fn signal(&mut self, signal: &Signal) -> Result<(), Failure> {
        let refused = |errno| Failure::new("signal", "pidfd_send_signal", signal.signal.to_string(), errno);
        // Realtime signals have no name in rustix but are what init systems are told by.
        let number = kernel::signal::from_number(signal.signal).ok_or_else(|| refused(Errno::INVAL))?;
        let pidfd = match signal.session {
            0 => self.guest.pidfd.as_ref(),
            number => self.session(number, "signal")?.pidfd.as_ref(),
        };
        let pidfd = pidfd.ok_or_else(|| refused(Errno::SRCH))?;
        rustix::process::pidfd_send_signal(pidfd, number).map_err(refused)
    }

    fn resize(&mut self, resize: &Resize) -> Result<(), Failure> {
        let refused = |errno| Failure::new("resize", "ioctl(TIOCSWINSZ)", "", errno);
        let terminal = match resize.session {
            0 => self.guest.console.as_ref().map(|console| &console.master),
            number => self.session(number, "resize")?.terminal.as_ref(),
        };
        let terminal = terminal.ok_or_else(|| refused(Errno::NOTTY))?;
        kernel::terminal::set_size(terminal.as_fd(), resize.columns, resize.rows).map_err(refused)
    }

    fn input(&mut self, input: &Input) -> Result<(), Failure> {
        let refused = |errno| Failure::new("input", "write", format!("session {}", input.session), errno);
        if input.data.0.len() > MAX_INPUT {
            return Err(refused(Errno::MSGSIZE));
        }
        match input.session {
            // The console takes what it can, like a serial line.
            0 => match &self.guest.console {
                Some(console) => rustix::io::write(&console.master, &input.data.0).map(drop).map_err(refused),
                None => Err(refused(Errno::NOTTY)),
            },
            number => self.session(number, "input")?.feed(input).map_err(refused),
        }
    }

    fn forget(&mut self, number: u32) {
        if self.sessions.get(&number).is_some_and(|session| session.code.is_some() && session.stage.is_none())
            && let Some(session) = self.sessions.remove(&number)
        {
            // Something that it started may live on there; then the group goes with the boot.
            let _ = std::fs::remove_dir(&session.leaf);
        }
    }

    fn attach(&mut self, sequence: u32, number: u32) -> Result<(), Failure> {
        if number == 0 {
            let ring = &self.guest.console_ring;
            let event =
                KeepEvent::SessionStarted(SessionState { stdout: ring.state.clone(), ..SessionState::default() });
            if let Some(peer) = &mut self.peer {
                peer.send(sequence, &event, &[ring.memory()]);
            }
            return Ok(());
        }
        let session = self.session(number, "attach")?;
        for stream in [&mut session.stdout, &mut session.stderr].into_iter().flatten() {
            stream.told = (0, false);
        }
        session.told_end = false;
        session.told_taken = (u64::MAX, false);
        let event = KeepEvent::SessionStarted(session.state(number));
        if let (Some(peer), Some(session)) = (&mut self.peer, self.sessions.get(&number)) {
            peer.send(sequence, &event, &session.rings());
        }
        Ok(())
    }

    /// The boot is over. Refused while there is a guest.
    fn release(&mut self) -> Result<(), Failure> {
        match self.guest.phase {
            phase::EMPTY | phase::ENDED => {
                self.released = true;
                self.dismiss_spare();
                let _ = std::fs::remove_dir_all(&self.directory);
                Ok(())
            }
            _ => Err(Failure::new("release", "look", "the guest still runs", Errno::BUSY)),
        }
    }
}

const _: () = assert!(MAX_SILENT_SESSIONS + MAX_SESSIONS <= 256);
