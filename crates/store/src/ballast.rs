//! A file that is given up when the disk is full, so that what frees something can still be written down.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, OFlags, fallocate};
use rustix::io::Errno;

/// Bytes that are kept. While they are given up the log is emptied after each commit, so it takes 256 transactions (the most
/// that share a commit) of 2 pages of 4 KiB at most: 2 MiB. The other 2 MiB are for the database itself: a stop or a deletion
/// leaves an operation and 4 events, 2.5 KB, so 800 of them fit before anything that they free is counted.
const BYTES: u64 = 4 << 20;

/// The ballast.
#[derive(Debug)]
pub(crate) struct Ballast {
    path: PathBuf,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It lies there.
    Kept,
    /// It was given up, or there was never room for it.
    Spent,
    /// This file system cannot set room aside.
    Impossible,
}

impl Ballast {
    /// That of a database, made if there is room.
    pub(crate) fn of(database: &Path) -> Ballast {
        let mut ballast = Ballast { path: path(database), state: State::Spent };
        ballast.refill();
        ballast
    }

    /// There is no room for it: the disk is short of space or inodes.
    pub(crate) fn is_spent(&self) -> bool {
        self.state == State::Spent
    }

    /// Makes it again if there is room.
    pub(crate) fn refill(&mut self) {
        if self.state != State::Spent {
            return;
        }
        self.state = match make(&self.path) {
            Ok(()) => State::Kept,
            Err(error) if is_short(&error) => {
                // What was half made takes room that others need.
                let _ = fs::remove_file(&self.path);
                State::Spent
            }
            Err(_) => State::Impossible,
        };
    }

    /// Gives it up; false when there was none.
    pub(crate) fn spend(&mut self) -> bool {
        let kept = self.state == State::Kept;
        if kept {
            self.state = State::Spent;
            give_up(&self.path);
        }
        kept
    }
}

/// Where the ballast of a database is.
pub(crate) fn path(database: &Path) -> PathBuf {
    PathBuf::from(format!("{}.ballast", database.display()))
}

/// Gives the ballast up before there is a writer: opening a database needs room, too.
pub(crate) fn give_up(path: &Path) -> bool {
    fs::remove_file(path).is_ok()
}

fn make(path: &Path) -> io::Result<()> {
    let flags = OFlags::NOFOLLOW.bits() as i32;
    let file = File::options().write(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(path)?;
    if file.metadata()?.len() < BYTES {
        fallocate(&file, FallocateFlags::empty(), 0, BYTES)?;
    }
    Ok(())
}

fn is_short(error: &io::Error) -> bool {
    [Errno::NOSPC, Errno::DQUOT].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
