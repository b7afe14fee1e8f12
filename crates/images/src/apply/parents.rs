//! Open directories on the way to the last entry: archives come ordered, so the next one is mostly in the same place.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::limits::Limit;
use crate::{ArchivePath, Error, Result};

/// A chain of open directories from the root downwards; as deep as a path may be ([`crate::archive_path::DEEPEST`]).
pub(super) struct Parents<'fd> {
    root: BorrowedFd<'fd>,
    /// The path of the deepest one.
    path: Vec<u8>,
    /// Each with the length of its path.
    open: Vec<(usize, OwnedFd)>,
}

/// What to do about a directory that is not there.
pub(super) enum Missing<'a> {
    /// Make it, as long as there are not too many.
    Make {
        /// How many there are.
        count: &'a mut u64,
        /// How many there may be.
        allowed: u64,
    },
    /// Fail.
    Refuse,
}

impl<'fd> Parents<'fd> {
    pub(super) fn new(root: BorrowedFd<'fd>) -> Parents<'fd> {
        Parents { root, path: Vec::new(), open: Vec::new() }
    }

    /// Opens the directory at `path` (components joined by single slashes) on behalf of the entry at `entry`.
    pub(super) fn open(
        &mut self,
        path: &[u8],
        mut missing: Missing<'_>,
        entry: &ArchivePath,
    ) -> Result<BorrowedFd<'_>> {
        self.close_others(path);
        while self.path.len() < path.len() {
            let start = if self.path.is_empty() { 0 } else { self.path.len() + 1 };
            let end = path[start..].iter().position(|&byte| byte == b'/').map_or(path.len(), |slash| start + slash);
            let above = self.open.last().map_or(self.root, |(_, fd)| fd.as_fd());
            let directory = step(above, &path[start..end], &mut missing, entry)?;
            self.open.push((end, directory));
            self.path.clear();
            self.path.extend_from_slice(&path[..end]);
        }
        Ok(self.open.last().map_or(self.root, |(_, fd)| fd.as_fd()))
    }

    /// Closes what does not lie on the way to `path`.
    fn close_others(&mut self, path: &[u8]) {
        let on_the_way = |length: usize| {
            path.get(..length) == Some(&self.path[..length]) && path.get(length).is_none_or(|&byte| byte == b'/')
        };
        let keep = self.open.iter().take_while(|(length, _)| on_the_way(*length)).count();
        self.open.truncate(keep);
        self.path.truncate(self.open.last().map_or(0, |(length, _)| *length));
    }
}

/// One directory down, by one plain name.
fn step(above: BorrowedFd<'_>, name: &[u8], missing: &mut Missing<'_>, entry: &ArchivePath) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // A plain name cannot lead out by itself; the kernel is told all the same, for the day when it is not plain.
    let resolve =
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    loop {
        match rustix::fs::openat2(above, name, flags, Mode::empty(), resolve) {
            Ok(directory) => return Ok(directory),
            Err(Errno::NOENT) => match missing {
                Missing::Make { count, allowed } => {
                    Limit::Directories.add(count, 1, *allowed)?;
                    rustix::fs::mkdirat(above, name, Mode::from_raw_mode(0o755))
                        .map_err(|errno| Error::act("make the directory of", entry, errno))?;
                }
                Missing::Refuse => return Err(Error::act("open the directory of", entry, Errno::NOENT)),
            },
            Err(Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => return Err(Error::Parent { path: entry.to_string() }),
            // The kernel asks to try again when something was renamed meanwhile.
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(Error::act("open the directory of", entry, errno)),
        }
    }
}
