//! Safe wrappers for the Linux calls that `rustix` does not offer.
//!
//! This crate holds no policy, knows none of our paths and does not block on anything but the call that was asked for.
//! It is the only crate of the workspace with `unsafe` code.

pub mod bpf;
pub mod keyring;
pub mod landlock;
pub mod lock;
pub mod meter;
pub mod mount;
pub mod netlink;
pub mod netns;
pub mod packet;
pub mod pidfd;
pub mod process;
pub mod scm;
pub mod seccomp;
pub mod signal;
pub mod terminal;

pub use rustix::io::Errno;

/// The result of a system call.
pub type Result<T> = std::result::Result<T, Errno>;

/// Turns the return value of `libc::syscall` (-1 and `errno`, or the value) into a `Result`.
fn checked(ret: libc::c_long) -> Result<libc::c_long> {
    if ret == -1 {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        Err(Errno::from_raw_os_error(errno))
    } else {
        Ok(ret)
    }
}
