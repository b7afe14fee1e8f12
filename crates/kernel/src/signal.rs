//! Signal dispositions and masks.

use std::os::fd::{FromRawFd, OwnedFd};

use rustix::process::Signal;

use crate::{Result, checked};

/// Sets every signal to its default action and unblocks all: the state that a freshly booted init expects.
pub fn reset_all() {
    // SAFETY: SIG_DFL installs no code of ours; signal numbers out of range only make the call fail, which is harmless.
    unsafe {
        for number in 1..=64 {
            libc::signal(number, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Blocks the given signals and returns a descriptor that becomes readable when one of them arrives.
pub fn descriptor(signals: &[Signal]) -> Result<OwnedFd> {
    // SAFETY: `set` is initialised by sigemptyset before it is used; signalfd returns a new descriptor.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, signal.as_raw());
        }
        checked(i64::from(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut())))?;
        let fd = checked(i64::from(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)))?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// Takes all pending signals off a descriptor of [`descriptor`].
pub fn drain(fd: std::os::fd::BorrowedFd<'_>) {
    let mut buffer = [0u8; 128 * 8];
    while matches!(rustix::io::read(fd, &mut buffer), Ok(n) if n > 0) {}
}

/// A signal by its number, realtime signals included; `None` when there is none of that number.
pub fn from_number(number: i32) -> Option<Signal> {
    match number {
        // SAFETY: the C library only reserves 32 and 33 of the realtime range for itself, which we refuse.
        1..=31 | 34..=64 => Some(unsafe { Signal::from_raw_unchecked(number) }),
        _ => None,
    }
}

/// Ends the process by `SIGALRM` after so many seconds, even where it hangs in a file system that does not answer; 0 calls
/// that off.
pub fn deadline(seconds: u32) {
    // SAFETY: a plain integer.
    unsafe { libc::alarm(seconds) };
}
