//! Session keyrings.

use crate::{Result, checked};

const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;

/// Gives the calling process a new, empty, anonymous session keyring.
pub fn join_new_session() -> Result<()> {
    // SAFETY: a null name asks for an anonymous keyring.
    checked(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0usize) }).map(drop)
}
