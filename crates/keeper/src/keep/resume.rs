//! What a keeper writes down when it replaces its own program, and how the new program goes on with it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use kernel::Errno;
use kernel::process::SingleThread;
use runtime::exec::Place;
use runtime::program;
use runtime::protocol::{CONSOLE_RING, Failure, KeepSpec, SESSION_RING, StreamState, phase};
use runtime::record;
use runtime::wire::{Blob, Field};

use super::Keep;
use super::guest::{Console, Guest};
use super::peer::Peer;
use super::ring::Ring;
use super::session::{Session, Stream};
use crate::replace::{Words, go_on, written};

record! {
    /// A stream; descriptors are numbers, 0 for none.
    pub(super) struct SavedStream {
        1 => source: u32,
        2 => memory: u32,
        3 => state: StreamState,
        4 => kept: Blob,
    }
}

record! {
    /// A session.
    pub(super) struct SavedSession {
        1 => number: u32,
        2 => pidfd: u32,
        3 => terminal: u32,
        4 => is_terminal: bool,
        5 => pid: u32,
        6 => code: Option<i32>,
        7 => input: u32,
        8 => taken: u64,
        9 => pending: Blob,
        10 => input_over: bool,
        11 => stdout: Option<SavedStream>,
        12 => stderr: Option<SavedStream>,
        13 => label: Blob,
        14 => leaf: String,
    }
}

record! {
    /// A keeper. Later releases read what earlier ones wrote: append only.
    pub(super) struct Saved {
        1 => spec: KeepSpec,
        2 => phase: u8,
        3 => pid: u32,
        4 => end: u8,
        5 => code: i32,
        6 => listener: u32,
        7 => peer: u32,
        8 => pidfd: u32,
        9 => console: u32,
        10 => console_memory: u32,
        11 => console_state: StreamState,
        12 => sessions: Vec<SavedSession>,
        13 => payload: String,
        14 => v1_groups: Vec<String>,
        15 => owner: u32,
        16 => next_leaf: u32,
        17 => adopted: bool,
        18 => sequence: u32,
        19 => netns: u32,
        20 => netlink: u32,
        21 => lock: u32,
    }
}

/// Replaces the program; returns only when that was refused or failed, and then everything is as before.
pub(super) fn replace(keep: &mut Keep, sequence: u32, program: &OwnedFd) -> Failure {
    let is_starting = keep.guest.launch.is_some() || keep.sessions.values().any(|session| session.stage.is_some());
    // Answers with their descriptors are in no state that is written down.
    if is_starting || keep.peer.as_ref().is_some_and(Peer::is_behind) {
        return Failure::new("replace", "look: something is under way, try again", "", Errno::BUSY);
    }
    keep.dismiss_spare();
    let mut state = Vec::new();
    save(keep, sequence).put(&mut state);
    let words = Words { resume: &["keep", "--resume"], rehearse: &["keep", "--rehearse"] };
    go_on(keep.proof, program.as_fd(), &words, &state, &descriptors(keep))
}

fn descriptors(keep: &Keep) -> Vec<BorrowedFd<'_>> {
    let mut list = vec![keep.listener.as_fd(), keep.guest.console_ring.memory()];
    list.extend(keep.peer.as_ref().map(Peer::as_fd));
    list.extend(keep.guest.pidfd.as_ref().map(AsFd::as_fd));
    list.extend(keep.guest.console.as_ref().map(|c| c.master.as_fd()));
    list.extend(keep.guest.network.iter().flat_map(|n| [n.0.as_fd(), n.1.as_fd()]));
    list.extend(keep.guest.lock.as_ref().map(AsFd::as_fd));
    for session in keep.sessions.values() {
        list.extend([&session.pidfd, &session.terminal, &session.input].into_iter().flatten().map(AsFd::as_fd));
        for stream in [&session.stdout, &session.stderr].into_iter().flatten() {
            list.extend(stream.source.as_ref().map(AsFd::as_fd));
            list.push(stream.ring.memory());
        }
    }
    list
}

fn number(fd: Option<&OwnedFd>) -> u32 {
    fd.map_or(0, |fd| fd.as_raw_fd() as u32)
}

fn save(keep: &Keep, sequence: u32) -> Saved {
    let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
    Saved {
        spec: keep.spec.clone(),
        phase: keep.guest.phase,
        pid: keep.guest.pid,
        end: keep.guest.end,
        code: keep.guest.code,
        listener: number(Some(&keep.listener)),
        peer: number(keep.peer.as_ref().map(|peer| &peer.socket)),
        pidfd: number(keep.guest.pidfd.as_ref()),
        console: number(keep.guest.console.as_ref().map(|c| &c.master)),
        console_memory: keep.guest.console_ring.memory().as_raw_fd() as u32,
        console_state: keep.guest.console_ring.state.clone(),
        sessions: keep.sessions.iter().map(|(n, session)| save_session(*n, session)).collect(),
        payload: text(&keep.place.payload),
        v1_groups: keep.place.v1_groups.iter().map(|path| text(path)).collect(),
        owner: keep.place.owner,
        next_leaf: keep.next_leaf,
        adopted: keep.guest.adopted,
        sequence,
        netns: number(keep.guest.network.as_ref().map(|n| &n.0)),
        netlink: number(keep.guest.network.as_ref().map(|n| &n.1)),
        lock: number(keep.guest.lock.as_ref()),
    }
}

fn save_session(of: u32, session: &Session) -> SavedSession {
    let stream = |stream: &Option<Stream>| {
        stream.as_ref().map(|s| SavedStream {
            source: number(s.source.as_ref()),
            memory: s.ring.memory().as_raw_fd() as u32,
            state: s.ring.state.clone(),
            kept: Blob(s.ring.kept.clone()),
        })
    };
    SavedSession {
        number: of,
        pidfd: number(session.pidfd.as_ref()),
        terminal: number(session.terminal.as_ref()),
        is_terminal: session.is_terminal,
        pid: session.pid,
        code: session.code,
        input: number(session.input.as_ref()),
        taken: session.taken,
        pending: Blob(session.pending.clone()),
        input_over: session.input_over,
        stdout: stream(&session.stdout),
        stderr: stream(&session.stderr),
        label: session.label.clone(),
        leaf: session.leaf.to_string_lossy().into_owned(),
    }
}

/// Takes an inherited descriptor over: it closes on exec again.
fn take(number: u32) -> kernel::Result<Option<OwnedFd>> {
    match number {
        0 => Ok(None),
        number => kernel::process::inherit(number as i32).map(Some),
    }
}

fn need(number: u32) -> kernel::Result<OwnedFd> {
    take(number)?.ok_or(Errno::BADF)
}

/// The keeper that the former program wrote down, and the number of the request that it answers.
pub(super) fn restore(proof: SingleThread, memory: OwnedFd) -> kernel::Result<(Keep, u32)> {
    let saved = Saved::take(&written(&memory)?).ok_or(Errno::PROTO)?;
    let mut guest = Guest::new()?;
    guest.phase = saved.phase;
    guest.let_go = saved.phase == phase::RUNNING;
    guest.pid = saved.pid;
    guest.end = saved.end;
    guest.code = saved.code;
    guest.adopted = saved.adopted;
    guest.pidfd = take(saved.pidfd)?;
    guest.console = take(saved.console)?.map(Console::new);
    guest.network = take(saved.netns)?.zip(take(saved.netlink)?);
    guest.lock = take(saved.lock)?;
    guest.console_ring = Ring::inherited(need(saved.console_memory)?, CONSOLE_RING, saved.console_state, Vec::new());
    guest.v1_groups.clone_from(&saved.v1_groups);
    let mut sessions = std::collections::BTreeMap::new();
    for session in saved.sessions {
        sessions.insert(session.number, restore_session(session)?);
    }
    let keep = Keep {
        proof,
        directory: PathBuf::from(&saved.spec.directory),
        spec: saved.spec,
        listener: need(saved.listener)?,
        peer: take(saved.peer)?.map(Peer::new),
        guest,
        place: Place {
            payload: PathBuf::from(saved.payload),
            v1_groups: saved.v1_groups.iter().map(PathBuf::from).collect(),
            owner: saved.owner,
        },
        sessions,
        next_leaf: saved.next_leaf,
        spare: None,
        strays: Default::default(),
        launch_sequence: 0,
        console_told: 0,
        released: false,
        program: program::own()?,
    };
    Ok((keep, saved.sequence))
}

fn restore_session(saved: SavedSession) -> kernel::Result<Session> {
    let stream = |saved: Option<SavedStream>| -> kernel::Result<Option<Stream>> {
        let Some(saved) = saved else { return Ok(None) };
        let ring = Ring::inherited(need(saved.memory)?, SESSION_RING, saved.state, saved.kept.0);
        Ok(Some(Stream { source: take(saved.source)?, ring, told: (0, false) }))
    };
    let terminal = take(saved.terminal)?;
    Ok(Session {
        sequence: 0,
        stage: None,
        pidfd: take(saved.pidfd)?,
        slave: terminal.as_ref().filter(|_| saved.code.is_none()).and_then(super::guest::open_slave),
        terminal,
        is_terminal: saved.is_terminal,
        pid: saved.pid,
        code: saved.code,
        input: take(saved.input)?,
        taken: saved.taken,
        told_taken: (u64::MAX, false),
        pending: saved.pending.0,
        input_over: saved.input_over,
        stdout: stream(saved.stdout)?,
        stderr: stream(saved.stderr)?,
        label: saved.label,
        leaf: PathBuf::from(saved.leaf),
        told_end: false,
    })
}
