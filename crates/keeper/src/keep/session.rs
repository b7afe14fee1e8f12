//! One exec'd process: its streams, its terminal, its end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kernel::{Errno, Result};
use runtime::exec::{Report, Stage, Stdio};
use runtime::protocol::{ExecSpec, Failure, Input, SESSION_RING, SessionState, Taken};
use runtime::wire::Blob;
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitId, WaitIdOptions};

use super::ring::{Filled, Ring};

/// An output stream: where it comes from, until its end, and its ring.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) source: Option<OwnedFd>,
    pub(crate) ring: Ring,
    /// The head that the daemon was last told.
    pub(crate) told: (u64, bool),
}

impl Stream {
    fn new(name: &str, source: Option<OwnedFd>) -> Result<Stream> {
        Ok(Stream { source, ring: Ring::new(name, SESSION_RING)?, told: (0, false) })
    }

    /// Whether poll should look at the source.
    pub(crate) fn wants(&self) -> Option<BorrowedFd<'_>> {
        self.source.as_ref().filter(|_| self.ring.space() > 0 && self.ring.kept.is_empty()).map(AsFd::as_fd)
    }

    /// Reads once. `over`: the process has ended, so what is not there now will not come.
    fn pump(&mut self, over: bool) {
        let Some(source) = &self.source else { return };
        let full = self.ring.space() == 0;
        match self.ring.fill(source.as_fd()) {
            Ok(Filled::Some | Filled::Stuck) => {}
            Ok(Filled::Nothing) if !over || full => {}
            Ok(Filled::Nothing | Filled::End) | Err(_) => {
                self.source = None;
                self.ring.state.eof = true;
            }
        }
    }
}

/// A session.
#[derive(Debug)]
pub(crate) struct Session {
    /// Number of the request that asked for it.
    pub(crate) sequence: u32,
    /// Until the process runs.
    pub(crate) stage: Option<Stage>,
    pub(crate) pidfd: Option<OwnedFd>,
    pub(crate) terminal: Option<OwnedFd>,
    /// Held while the process runs, so that a moment without an open slave does not look like the end.
    pub(crate) slave: Option<OwnedFd>,
    pub(crate) is_terminal: bool,
    pub(crate) pid: u32,
    pub(crate) code: Option<i32>,
    pub(crate) input: Option<OwnedFd>,
    pub(crate) taken: u64,
    pub(crate) told_taken: (u64, bool),
    pub(crate) pending: Vec<u8>,
    pub(crate) input_over: bool,
    pub(crate) stdout: Option<Stream>,
    pub(crate) stderr: Option<Stream>,
    pub(crate) label: Blob,
    pub(crate) leaf: std::path::PathBuf,
    pub(crate) told_end: bool,
}

impl Session {
    /// Makes the streams of a new session and gives its stage the order.
    pub(crate) fn begin(sequence: u32, stage: Stage, spec: &ExecSpec, init: BorrowedFd<'_>) -> Result<Session> {
        let mut session = Session {
            sequence,
            leaf: stage.leaf.clone(),
            stage: None,
            pidfd: None,
            terminal: None,
            slave: None,
            is_terminal: spec.terminal,
            pid: 0,
            code: None,
            input: None,
            taken: 0,
            told_taken: (0, false),
            pending: Vec::new(),
            input_over: false,
            stdout: None,
            stderr: None,
            label: spec.label.clone(),
            told_end: false,
        };
        let stdio = if spec.terminal {
            session.stdout = Some(Stream::new("terminal", None)?);
            None
        } else if spec.silent {
            Some(null_stdio()?)
        } else {
            Some(session.piped_stdio()?)
        };
        stage.order(spec, init, stdio.as_ref())?;
        session.stage = Some(stage);
        Ok(session)
    }

    fn piped_stdio(&mut self) -> Result<Stdio> {
        let (input, our_input) = pipe_with(PipeFlags::CLOEXEC)?;
        let (our_output, output) = pipe_with(PipeFlags::CLOEXEC)?;
        let (our_error, error) = pipe_with(PipeFlags::CLOEXEC)?;
        for ours in [&our_input, &our_output, &our_error] {
            rustix::fs::fcntl_setfl(ours, OFlags::NONBLOCK)?;
        }
        self.input = Some(our_input);
        self.stdout = Some(Stream::new("stdout", Some(our_output))?);
        self.stderr = Some(Stream::new("stderr", Some(our_error))?);
        Ok(Stdio { fds: [input, output, error] })
    }

    /// Takes one report of the stage. True when the session has just started, an error when it never will.
    pub(crate) fn advance(&mut self) -> std::result::Result<bool, Failure> {
        let Some(stage) = &self.stage else { return Ok(false) };
        match stage.report() {
            None => Ok(false),
            Some(Report::Started { pid, pidfd }) => {
                self.pid = pid;
                self.pidfd = Some(pidfd);
                Ok(true)
            }
            Some(Report::Terminal(master)) => {
                self.take_terminal(master);
                Ok(false)
            }
            // The process exists and will end with 126 or 127; its standard error says why.
            Some(Report::Failed(failure)) if self.pid > 0 => {
                let reason = format!("{}: {}\r\n", failure.target, std::io::Error::from_raw_os_error(failure.errno));
                if let Some(stream) = self.stderr.as_mut().or(self.stdout.as_mut()) {
                    stream.ring.write(reason.as_bytes());
                }
                Ok(false)
            }
            Some(Report::Failed(failure)) => Err(failure),
            Some(Report::Closed) => {
                if let Some(stage) = self.stage.take() {
                    // It has exited, or is about to.
                    let _ = rustix::process::waitid(WaitId::PidFd(stage.pidfd.as_fd()), WaitIdOptions::EXITED);
                }
                // It may have run and ended already.
                match self.pid {
                    1.. => Ok(false),
                    0 => Err(Failure::new("exec", "stage", "it died early", Errno::CHILD)),
                }
            }
        }
    }

    fn take_terminal(&mut self, master: OwnedFd) {
        let nonblocking = rustix::fs::fcntl_setfl(&master, OFlags::RDWR | OFlags::NONBLOCK);
        let copy = || rustix::io::fcntl_dupfd_cloexec(&master, 3);
        if let (Ok(()), Ok(source), Ok(input), Some(stream)) = (nonblocking, copy(), copy(), self.stdout.as_mut()) {
            stream.source = Some(source);
            self.slave = super::guest::open_slave(&master);
            self.input = Some(input);
            self.terminal = Some(master);
        }
    }

    /// Asks whether the process has ended.
    pub(crate) fn reap(&mut self) {
        let Some(pidfd) = &self.pidfd else { return };
        match rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(Some(status)) => {
                self.code = Some(exit_code(&status));
                self.pidfd = None;
                self.slave = None;
            }
            Ok(None) => {}
            Err(_) => {
                self.code = Some(255);
                self.pidfd = None;
            }
        }
    }

    /// Moves bytes both ways as far as that goes without waiting.
    pub(crate) fn pump(&mut self) {
        let over = self.code.is_some();
        for stream in [&mut self.stdout, &mut self.stderr].into_iter().flatten() {
            stream.pump(over);
        }
        self.pump_input();
    }

    fn pump_input(&mut self) {
        while let (Some(input), false) = (&self.input, self.pending.is_empty()) {
            match rustix::io::write(input, &self.pending) {
                Ok(length) => {
                    self.pending.drain(..length);
                    self.taken += length as u64;
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(_) => self.close_input(),
            }
        }
        if self.input_over && self.pending.is_empty() && self.input.is_some() {
            self.end_input();
        }
    }

    /// End of input: a pipe is closed; a terminal is told in its own way (the EOF character), as its output goes on.
    fn end_input(&mut self) {
        if let Some(terminal) = &self.terminal {
            let _ = rustix::io::write(terminal, &[4]);
        }
        self.input = None;
    }

    fn close_input(&mut self) {
        self.input = None;
        self.pending.clear();
    }

    /// Where pending input waits to be written.
    pub(crate) fn wants_output(&self) -> Option<BorrowedFd<'_>> {
        self.input.as_ref().filter(|_| !self.pending.is_empty()).map(AsFd::as_fd)
    }

    /// Takes input that continues what was taken or is pending; other bytes are skipped or refused.
    pub(crate) fn feed(&mut self, input: &Input) -> Result<()> {
        let expected = self.taken + self.pending.len() as u64;
        let known = expected.checked_sub(input.offset).ok_or(Errno::SPIPE)? as usize;
        // A terminal is made by the process itself: what is typed before waits for it.
        if (self.input.is_some() || self.is_starting()) && !self.input_over {
            let new = input.data.0.get(known..).unwrap_or(&[]);
            if self.pending.len() + new.len() > SESSION_RING as usize {
                return Err(Errno::NOBUFS);
            }
            self.pending.extend_from_slice(new);
            self.input_over = input.eof;
        }
        self.pump_input();
        Ok(())
    }

    /// What the daemon should be told about input now.
    pub(crate) fn input_news(&mut self, session: u32) -> Option<Taken> {
        let now = (self.taken, self.input.is_none() && !self.is_starting());
        (self.told_taken != now && self.stdout.is_some()).then(|| {
            self.told_taken = now;
            Taken { session, offset: now.0, closed: now.1 }
        })
    }

    fn is_starting(&self) -> bool {
        self.is_terminal && self.terminal.is_none() && self.code.is_none()
    }

    /// Whether output waits for memory: nobody tells when there is some.
    pub(crate) fn is_stuck(&self) -> bool {
        [&self.stdout, &self.stderr].into_iter().flatten().any(|stream| !stream.ring.kept.is_empty())
    }

    /// Whether the process has ended and all its output is in the rings.
    pub(crate) fn is_complete(&self) -> bool {
        let drained = |stream: &Option<Stream>| stream.as_ref().is_none_or(|s| s.source.is_none());
        self.code.is_some() && self.stage.is_none() && drained(&self.stdout) && drained(&self.stderr)
    }

    /// Its end was told and all its output arrived: nobody will read its rings again.
    pub(crate) fn is_spent(&self) -> bool {
        let arrived = |stream: &Option<Stream>| stream.as_ref().is_none_or(|s| s.ring.is_over());
        self.is_complete() && arrived(&self.stdout) && arrived(&self.stderr)
    }

    /// Gives the memory of the rings back once they are of no use.
    pub(crate) fn release_rings(&self) {
        if self.is_spent() {
            [&self.stdout, &self.stderr].into_iter().flatten().for_each(|stream| stream.ring.release());
        }
    }

    /// The session as the daemon is told.
    pub(crate) fn state(&self, session: u32) -> SessionState {
        let stream = |stream: &Option<Stream>| stream.as_ref().map(|s| s.ring.state.clone()).unwrap_or_default();
        SessionState {
            session,
            pid: if self.code.is_some() { 0 } else { self.pid },
            ended: self.is_complete(),
            code: self.code.unwrap_or(0),
            stdout: stream(&self.stdout),
            stderr: stream(&self.stderr),
            input: self.taken,
            received: self.taken + self.pending.len() as u64,
            label: self.label.clone(),
            terminal: self.is_terminal,
        }
    }

    /// Its rings, output first.
    pub(crate) fn rings(&self) -> Vec<BorrowedFd<'_>> {
        [&self.stdout, &self.stderr].into_iter().flatten().map(|s| s.ring.memory()).collect()
    }
}

fn null_stdio() -> Result<Stdio> {
    let open = || rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    Ok(Stdio { fds: [open()?, open()?, open()?] })
}

/// An exit code as shells report it.
pub(crate) fn exit_code(status: &rustix::process::WaitIdStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    }
}
