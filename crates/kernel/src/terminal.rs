//! Pseudo-terminal calls.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::pty::OpenptFlags;

use crate::{Errno, Result, checked};

const DEVPTS_SUPER_MAGIC: u64 = 0x1cd1;

/// The numeric name of the slave of a pty master.
pub fn slave_number(master: BorrowedFd<'_>) -> Result<u32> {
    let mut number: libc::c_uint = 0;
    // SAFETY: TIOCGPTN stores one unsigned int.
    checked(i64::from(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut number) }))?;
    Ok(number)
}

/// Opens a new pty from the `ptmx` node at `path`, which must really belong to a devpts: (master, slave).
///
/// The slave is opened through the master, so nothing that lies at a path of the guest can be taken for it.
pub fn open_pair(path: &str) -> Result<(OwnedFd, OwnedFd)> {
    use rustix::fs::{Mode, OFlags};
    let master =
        rustix::fs::open(path, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
    if rustix::fs::fstatfs(&master)?.f_type as u64 != DEVPTS_SUPER_MAGIC {
        return Err(Errno::NODEV);
    }
    rustix::pty::unlockpt(&master)?;
    let slave =
        rustix::pty::ioctl_tiocgptpeer(master.as_fd(), OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    Ok((master, slave))
}

/// Sets the window size of a terminal in characters.
pub fn set_size(terminal: BorrowedFd<'_>, columns: u16, rows: u16) -> Result<()> {
    let size = rustix::termios::Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size)
}

/// Sends a signal to the foreground process group of the terminal behind a master (`TIOCSIG`).
pub fn signal_foreground(master: BorrowedFd<'_>, signal: i32) -> Result<()> {
    const TIOCSIG: libc::c_ulong = 0x4004_5436;
    // SAFETY: TIOCSIG takes the signal number by value.
    checked(i64::from(unsafe { libc::ioctl(master.as_raw_fd(), TIOCSIG, signal) })).map(drop)
}
