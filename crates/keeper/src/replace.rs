//! A process of ours goes on in another program: what it knows is written down, what that speaks of stays open over the
//! exec, and the new program has the same pid and the same children.
//!
//! Nothing may be lost by a program that is damaged or cannot read what was written: a child rehearses it first, up to
//! where the new program would go on.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use kernel::process::{Clone, Side, SingleThread};
use kernel::{Errno, Result};
use runtime::protocol::Failure;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::MemfdFlags;
use rustix::io::FdFlags;
use rustix::process::{Signal, WaitId, WaitIdOptions};

/// How long a rehearsal may take: a hundred times what it takes. The process does nothing else meanwhile.
const REHEARSAL: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// What the new program is called with, before the number of the descriptor that it finds its state in.
#[derive(Debug)]
pub(crate) struct Words<'a> {
    /// To go on.
    pub(crate) resume: &'a [&'a str],
    /// To go as far as it can without anybody noticing, and exit.
    pub(crate) rehearse: &'a [&'a str],
}

/// Goes on in `program`, with `open` open; returns only when that failed, and then everything is as before.
pub(crate) fn go_on(
    proof: SingleThread,
    program: BorrowedFd<'_>,
    words: &Words<'_>,
    state: &[u8],
    open: &[BorrowedFd<'_>],
) -> Failure {
    let failed = |call: &str, errno| Failure::new("replace", call, "", errno);
    let memory = match write_down(state) {
        Ok(memory) => memory,
        Err(errno) => return failed("memfd_create", errno),
    };
    set_flags(open, FdFlags::empty());
    let failure = match rehearse(proof, program, &arguments(words.rehearse, &memory)) {
        Ok(()) => failed(
            "execveat",
            kernel::process::exec_fd(program, &arguments(words.resume, &memory), &kernel::process::environment()),
        ),
        Err(errno) => failed("rehearse the new program", errno),
    };
    set_flags(open, FdFlags::CLOEXEC);
    failure
}

/// What the former program wrote down.
pub(crate) fn written(memory: &OwnedFd) -> Result<Vec<u8>> {
    let length = rustix::fs::fstat(memory)?.st_size as usize;
    let mut state = vec![0u8; length];
    match rustix::io::pread(memory, &mut state, 0)? {
        read if read == length => Ok(state),
        _ => Err(Errno::IO),
    }
}

/// Memory that stays open over an exec.
fn write_down(state: &[u8]) -> Result<OwnedFd> {
    let memory = rustix::fs::memfd_create("keeper-state", MemfdFlags::empty())?;
    let mut rest = state;
    while !rest.is_empty() {
        rest = &rest[rustix::io::write(&memory, rest)?..];
    }
    Ok(memory)
}

fn arguments(words: &[&str], memory: &OwnedFd) -> Vec<CString> {
    let number = memory.as_raw_fd().to_string();
    // Words of ours and a path of the daemon's, which has no NUL.
    ["sysctl-keeper"].iter().chain(words).chain([&&*number]).filter_map(|word| CString::new(*word).ok()).collect()
}

fn set_flags(fds: &[BorrowedFd<'_>], flags: FdFlags) {
    for fd in fds {
        let _ = rustix::io::fcntl_setfd(fd, flags);
    }
}

/// Has a child try it, with copies of all descriptors. `NOEXEC` when the program is none, or does not take over.
fn rehearse(proof: SingleThread, program: BorrowedFd<'_>, arguments: &[CString]) -> Result<()> {
    let pidfd = match Clone::default().clone3(proof)? {
        Side::Parent(_, pidfd) => pidfd,
        Side::Child => {
            let _ = kernel::process::exec_fd(program, arguments, &kernel::process::environment());
            kernel::process::exit(127)
        }
    };
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    let ended = rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(&REHEARSAL)))?;
    if ended == 0 {
        rustix::process::pidfd_send_signal(&pidfd, Signal::KILL)?;
    }
    match rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)? {
        Some(status) if status.exit_status() == Some(0) => Ok(()),
        _ if ended == 0 => Err(Errno::TIMEDOUT),
        _ => Err(Errno::NOEXEC),
    }
}
