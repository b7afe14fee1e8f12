//! Locks on files that wait, but not for ever.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::process::SingleThread;
use crate::{Errno, Result, checked, signal};

extern "C" fn nothing(_: libc::c_int) {}

/// Takes an exclusive `flock`, waiting at most `seconds` for others to let it go: `AGAIN` after that.
///
/// It borrows the process's alarm: a [`signal::deadline`] that was set is gone afterwards.
pub fn exclusive_within(_proof: SingleThread, file: BorrowedFd<'_>, seconds: u32) -> Result<()> {
    // SAFETY: the handler does nothing, so it is safe at any time; both structs are initialised; without SA_RESTART the
    // alarm makes `flock` return.
    let before = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
        let mut before: libc::sigaction = std::mem::zeroed();
        checked(i64::from(libc::sigaction(libc::SIGALRM, &raw const action, &raw mut before)))?;
        before
    };
    signal::deadline(seconds);
    // SAFETY: plain integers.
    let locked = checked(i64::from(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) }));
    signal::deadline(0);
    // SAFETY: as it was before.
    unsafe { libc::sigaction(libc::SIGALRM, &raw const before, std::ptr::null_mut()) };
    match locked {
        Err(Errno::INTR) => Err(Errno::AGAIN),
        other => other.map(drop),
    }
}
