//! The log's file is made as long ahead as SQLite lets it grow.
//!
//! A commit that makes its file longer has the file system write its own journal, too: two or three turns of the disk instead
//! of one. Into blocks that were written before, it is one. Zeros are no frames to SQLite: it looks for checksums.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;

/// Length of the file, in bytes: the most that `PRAGMA journal_size_limit` leaves of it. The log starts again from its
/// beginning at 1,000 frames of 4,120 bytes, which is less.
pub(crate) const BYTES: u64 = 4 << 20;

/// Bytes that are written at once: whoever comes meanwhile waits that long.
const SLICE: u64 = 256 << 10;
static ZEROS: [u8; SLICE as usize] = [0; SLICE as usize];

/// Nobody wants anything for so long before the first slice: a start has other things to write.
const IDLE: Duration = Duration::from_secs(1);

/// The log of a database, as its writer lengthens it.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// SQLite has not made it, or took it away.
    Empty,
    /// It is there; nothing was added to it.
    Short,
    /// Slices are being added.
    Growing,
    /// It is as long as it gets, or there is no room for that.
    Done,
}

impl Log {
    pub(crate) fn of(database: &Path) -> Log {
        Log { path: PathBuf::from(format!("{}-wal", database.display())), state: State::Empty }
    }

    /// A commit was written.
    pub(crate) fn written(&mut self) {
        if self.state == State::Empty {
            self.state = State::Short;
        }
    }

    /// How long nobody must want anything before [`Log::lengthen`] is due; `None` while there is nothing to do.
    pub(crate) fn due(&self) -> Option<Duration> {
        match self.state {
            State::Short => Some(IDLE),
            State::Growing => Some(Duration::ZERO),
            State::Empty | State::Done => None,
        }
    }

    /// Adds a slice. Where there is no room for it the file is left as it was: the room is for others.
    pub(crate) fn lengthen(&mut self) {
        self.state = self.add().unwrap_or(State::Done);
    }

    fn add(&self) -> io::Result<State> {
        let file = File::options().write(true).custom_flags(OFlags::NOFOLLOW.bits() as i32).open(&self.path)?;
        let length = file.metadata()?.len();
        if length == 0 {
            return Ok(State::Empty);
        }
        let slice = BYTES.saturating_sub(length).min(SLICE);
        if slice == 0 {
            return Ok(State::Done);
        }
        let added = file.write_all_at(&ZEROS[..slice as usize], length).and_then(|()| file.sync_data());
        added.inspect_err(|_| drop(file.set_len(length)))?;
        Ok(State::Growing)
    }
}
