//! What a keeper writes down when it replaces its own program, and how the new program goes on with it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use kernel::Errno;
use kernel::process::SingleThread;
use runtime::exec::Place;
use runtime::launch::root;
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
        22 => holds: bool,
        23 => held: Vec<u32>,
    }
}

/// Replaces the program; returns only when that was refused or failed, and then everything is as before.
pub(super) fn replace(keep: &mut Keep, sequence: u32, program: &OwnedFd) -> Failure {
    let is_starting = keep.guest.launch.is_some() || keep.sessions.values().any(|session| session.stage.is_some());
    // Neither answers with their descriptors nor what the console has no memory for are in the state that is written down.
    let is_waiting = keep.peer.as_ref().is_some_and(Peer::is_behind) || !keep.guest.console_ring.kept.is_empty();
    if is_starting || is_waiting {
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
    list.extend(keep.held.iter().flatten().map(AsFd::as_fd));
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
        holds: keep.held.is_some(),
        held: keep.held.iter().flatten().map(|fd| number(Some(fd))).collect(),
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
    guest.is_first = guest.phase != phase::RUNNING || root::is_first(saved.pid);
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
    let held = saved.held.into_iter().map(need).collect::<kernel::Result<Vec<OwnedFd>>>()?;
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
        held: saved.holds.then_some(held),
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

#[cfg(test)]
mod tests {
    //! What programs of each release wrote for the next one; never changed, only added to.

    use super::*;

    fn saved_0_1() -> Saved {
        let stream = |source, memory| SavedStream {
            source,
            memory,
            state: StreamState { head: 70_000, tail: 9, eof: source == 0 },
            kept: Blob(vec![b'x'; memory as usize - 24]),
        };
        Saved {
            spec: KeepSpec {
                directory: "/run/sysctl/keep/00000000-0000-0000-0000-000000000001.3".into(),
                boot: "00000000-0000-0000-0000-000000000001.3".into(),
                ..KeepSpec::default()
            },
            phase: phase::RUNNING,
            pid: 4711,
            listener: 5,
            peer: 6,
            pidfd: 7,
            console: 8,
            console_memory: 3,
            console_state: StreamState { head: 12, tail: 0, eof: false },
            sessions: vec![SavedSession {
                number: 7,
                pidfd: 20,
                terminal: 21,
                is_terminal: true,
                pid: 4712,
                input: 22,
                taken: 3,
                pending: Blob(b"ls".to_vec()),
                stdout: Some(stream(23, 24)),
                stderr: Some(stream(0, 25)),
                label: Blob(b"op".to_vec()),
                leaf: "/sys/fs/cgroup/x/payload/.exec-1".into(),
                ..SavedSession::default()
            }],
            payload: "/sys/fs/cgroup/x/payload".into(),
            v1_groups: vec!["/sys/fs/cgroup/memory/x/payload".into()],
            owner: 1_500_000_000,
            next_leaf: 2,
            sequence: 9,
            netns: 10,
            netlink: 11,
            lock: 12,
            ..Saved::default()
        }
    }

    const SAVED_0_1: &str = "016700000001370000002f72756e2f73797363746c2f6b6565702f30303030303030302d303030302d303030302d303030302d3030303030\
        303030303030312e33022600000030303030303030302d303030302d303030302d303030302d3030303030303030303030312e3302010000\
        00030304000000671200000604000000050000000704000000060000000804000000070000000904000000080000000a0400000003000000\
        0b0d00000001080000000c000000000000000cf100000000ec00000001040000000700000002040000001400000003040000001500000004\
        01000000010504000000681200000704000000160000000808000000030000000000000009020000006c730b360000000031000000010400\
        000017000000020400000018000000031a00000001080000007011010000000000020800000009000000000000000c390000000034000000\
        020400000019000000032000000001080000007011010000000000020800000009000000000000000301000000010401000000780d020000\
        006f700e200000002f7379732f66732f6367726f75702f782f7061796c6f61642f2e657865632d310d180000002f7379732f66732f636772\
        6f75702f782f7061796c6f61640e24000000001f0000002f7379732f66732f6367726f75702f6d656d6f72792f782f7061796c6f61640f04\
        000000002f685910040000000200000012040000000900000013040000000a00000014040000000b00000015040000000c000000";

    #[test]
    fn what_a_program_of_release_0_1_wrote_is_read_and_still_written_so() {
        let pairs = (0..SAVED_0_1.len()).step_by(2);
        let bytes: Vec<u8> = pairs.map(|at| u8::from_str_radix(&SAVED_0_1[at..at + 2], 16).expect("hex")).collect();
        assert_eq!(Saved::take(&bytes), Some(saved_0_1()));
        let mut written = Vec::new();
        saved_0_1().put(&mut written);
        assert_eq!(written, bytes);
    }
}
