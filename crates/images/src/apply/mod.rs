//! Puts entries of an archive below one directory descriptor.
//!
//! The descriptor is the root of an id-mapped mount of an empty staging directory, and the process is root only in a user
//! namespace. Still nothing is trusted: every name is resolved one component at a time without following links, every
//! object is created exclusively, and what an archive may not hold is refused or left out and counted.

mod attributes;
mod parents;

use std::collections::HashSet;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::archive_path::escaped;
use crate::limits::Limit;
use crate::tar::{Entry, Kind, Reader, Timestamp};
use crate::{ArchivePath, Error, Limits, Result};

pub(crate) use attributes::CAPABILITY;
use attributes::{Attributes, set_on_fd};
use parents::{Missing, Parents};

/// Left-out entries that are remembered, for hard links to them.
const MOST_REMEMBERED: usize = 4096;

/// What an unpack left out, by count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LeftOut {
    /// Device nodes (a guest gets its own) and further names of them.
    pub devices: u64,
    /// Extended attributes other than `user.*`, file capabilities and access control lists.
    pub xattrs: u64,
    /// Entries of access control lists that name somebody without a number.
    pub acl_entries: u64,
    /// Entries of the archive that are no part of an image.
    pub foreign: u64,
}

/// Applies entries below a root.
pub struct Applier<'fd> {
    root: BorrowedFd<'fd>,
    limits: Limits,
    parents: Parents<'fd>,
    /// A second cache for targets of hard links, which may be far from the links.
    targets: Parents<'fd>,
    /// Attributes of directories: set at the end, since making entries changes times, a default access control list would
    /// be inherited and a set-group-id bit too.
    directories: Vec<(ArchivePath, Attributes)>,
    /// Directories made or named so far.
    directory_count: u64,
    /// Memory that `directories` takes.
    held: u64,
    remembered: HashSet<ArchivePath>,
    left_out: LeftOut,
    /// Who owns what we make.
    own: (u32, u32),
}

impl<'fd> Applier<'fd> {
    /// Applies below `root`, an open empty directory.
    pub fn new(root: BorrowedFd<'fd>, limits: Limits) -> Result<Applier<'fd>> {
        let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let cannot_list = |errno| Error::act("list", "the staging directory", errno);
        // The descriptor of a mount cannot be read itself (`O_PATH`).
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let readable = rustix::fs::openat(root, c".", flags, Mode::empty()).map_err(cannot_list)?;
        let listing = rustix::fs::Dir::new(readable).map_err(cannot_list)?;
        for found in listing {
            // "Made by this very unpack" holds for all that is found below the root only if nothing was there.
            if !matches!(found.map_err(cannot_list)?.file_name().to_bytes(), b"." | b"..") {
                return Err(Error::act("unpack into", "the staging directory", Errno::NOTEMPTY));
            }
        }
        Ok(Applier {
            root,
            limits,
            parents: Parents::new(root),
            targets: Parents::new(root),
            directories: Vec::new(),
            directory_count: 0,
            held: 0,
            remembered: HashSet::new(),
            left_out: LeftOut::default(),
            own,
        })
    }

    /// Makes one entry; a file takes its content from `data`. `on_data` is called after each piece of it.
    pub fn apply<R: Read>(&mut self, entry: &Entry, data: &mut Reader<R>, on_data: &mut dyn FnMut()) -> Result<()> {
        self.left_out.acl_entries += u64::from(entry.nameless_acl_entries);
        let attributes = self.attributes(entry)?;
        match &entry.kind {
            Kind::Directory => self.directory(&entry.path, attributes),
            Kind::File => self.file(entry, &attributes, data, on_data),
            Kind::HardLink(target) => self.hard_link(&entry.path, target),
            Kind::Symlink(target) => self.symlink(&entry.path, target, &attributes),
            Kind::Fifo => self.fifo(&entry.path, &attributes),
            Kind::CharDevice { major: 0, minor: 0 } => Err(Error::Whiteout { path: entry.path.to_string() }),
            Kind::CharDevice { .. } | Kind::BlockDevice { .. } => {
                self.leave_out_device(&entry.path);
                Ok(())
            }
        }
    }

    /// Counts an entry that is no part of the image.
    pub fn leave_out_foreign(&mut self) {
        self.left_out.foreign += 1;
    }

    /// Sets what had to wait for the end and tells what was left out. Durable only after a `syncfs` by the caller.
    pub fn finish(mut self) -> Result<LeftOut> {
        let mut directories = std::mem::take(&mut self.directories);
        // The sort is stable: of two entries for one directory, the later one stands behind and counts.
        directories.sort_by(|(one, _), (other, _)| one.cmp(other));
        if directories.first().is_none_or(|(path, _)| !path.is_root()) {
            let attributes = Attributes { mode: 0o755, ..Attributes::default() };
            set_on_fd(self.open_directory(&ArchivePath::root())?.as_fd(), self.own, &attributes, &ArchivePath::root())?;
        }
        for (at, (path, attributes)) in directories.iter().enumerate() {
            if directories.get(at + 1).is_some_and(|(next, _)| next == path) {
                continue;
            }
            let directory = self.open_directory(path)?;
            set_on_fd(directory.as_fd(), self.own, attributes, path)?;
        }
        Ok(self.left_out)
    }

    /// Makes a file out of a recipe, in place of what is there.
    pub fn write_file(&mut self, path: &ArchivePath, mode: u32, content: &[u8], mtime: Timestamp) -> Result<()> {
        self.remove(path)?;
        let file = self.create(path)?;
        write_all(file.as_fd(), 0, content, path)?;
        set_on_fd(file.as_fd(), self.own, &Attributes::plain(mode, mtime), path)
    }

    /// Makes a symbolic link out of a recipe, in place of what is there.
    pub fn write_symlink(&mut self, path: &ArchivePath, target: &[u8], mtime: Timestamp) -> Result<()> {
        self.remove(path)?;
        self.symlink(path, target, &Attributes::plain(0o777, mtime))
    }

    /// Makes a directory out of a recipe, or gives one that is there these permissions.
    pub fn write_directory(&mut self, path: &ArchivePath, mode: u32, mtime: Timestamp) -> Result<()> {
        self.directory(path, Attributes::plain(mode, mtime))
    }

    /// Removes what is there, unless it is a directory (making something in its place then fails).
    fn remove(&mut self, path: &ArchivePath) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT | Errno::ISDIR) => Ok(()),
            Err(errno) => Err(Error::act("replace", path, errno)),
        }
    }

    fn attributes(&mut self, entry: &Entry) -> Result<Attributes> {
        let (attributes, dropped) = Attributes::of(entry, self.limits.ids)?;
        self.left_out.xattrs += dropped;
        Ok(attributes)
    }

    /// The directory that holds `path`, and the name in it. Directories that the archive left out are made.
    fn parent<'p>(&mut self, path: &'p ArchivePath) -> Result<(BorrowedFd<'_>, &'p [u8])> {
        let Some((directory, name)) = path.split_last() else {
            return Err(Error::Duplicate { path: path.to_string() });
        };
        let missing = Missing::Make { count: &mut self.directory_count, allowed: self.limits.directories };
        Ok((self.parents.open(directory, missing, path)?, name))
    }

    fn directory(&mut self, path: &ArchivePath, attributes: Attributes) -> Result<()> {
        Limit::Directories.add(&mut self.directory_count, 1, self.limits.directories)?;
        let held = size_of::<(ArchivePath, Attributes)>() + path.as_bytes().len() + attributes.heap_bytes();
        Limit::HeldBytes.add(&mut self.held, held as u64, self.limits.held_bytes)?;
        if !path.is_root() {
            let (parent, name) = self.parent(path)?;
            match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
                Ok(()) => {}
                // A directory may be named twice, or was made for something below it.
                Err(Errno::EXIST) if is_directory(parent, name) => {}
                Err(Errno::EXIST) => return Err(Error::Duplicate { path: path.to_string() }),
                Err(errno) => return Err(Error::act("make the directory", path, errno)),
            }
        }
        self.directories.push((path.clone(), attributes));
        Ok(())
    }

    fn open_directory(&mut self, path: &ArchivePath) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = if path.is_root() {
            rustix::fs::openat(self.root, c".", flags, Mode::empty())
        } else {
            let (parent, name) = self.parent(path)?;
            rustix::fs::openat(parent, name, flags, Mode::empty())
        };
        opened.map_err(|errno| Error::act("open the directory", path, errno))
    }

    fn create(&mut self, path: &ArchivePath) -> Result<OwnedFd> {
        let (parent, name) = self.parent(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR).map_err(|errno| made(errno, "create", path))
    }

    fn file<R: Read>(
        &mut self,
        entry: &Entry,
        attributes: &Attributes,
        data: &mut Reader<R>,
        on_data: &mut dyn FnMut(),
    ) -> Result<()> {
        let path = &entry.path;
        let file = self.create(path)?;
        for extent in &entry.extents {
            let (mut at, end) = (extent.offset, extent.offset + extent.length);
            while at < end {
                let chunk = data.chunk(end - at)?;
                write_all(file.as_fd(), at, chunk, path)?;
                at += chunk.len() as u64;
                on_data();
            }
        }
        // A hole at the end has no data that would make the file this long.
        if entry.extents.last().map_or(0, |last| last.offset + last.length) < entry.size {
            rustix::fs::ftruncate(&file, entry.size).map_err(|errno| Error::act("set the size of", path, errno))?;
        }
        set_on_fd(file.as_fd(), self.own, attributes, path)
    }

    fn hard_link(&mut self, path: &ArchivePath, target: &ArchivePath) -> Result<()> {
        let wrong = |problem| Error::LinkTarget { path: path.to_string(), target: escaped(target.as_bytes()), problem };
        if self.remembered.contains(target) {
            self.leave_out_device(path);
            return Ok(());
        }
        let Some((directory, target_name)) = target.split_last() else {
            return Err(wrong("which is the root directory"));
        };
        let target_parent = match self.targets.open(directory, Missing::Refuse, target) {
            Ok(parent) => parent,
            Err(Error::Act { source: Errno::NOENT, .. }) => {
                return Err(wrong("which the archive does not hold before it"));
            }
            Err(error) => return Err(error),
        };
        // All below the root was made by this unpack, and links in between are not followed: this is the file that the
        // archive means.
        let found = match rustix::fs::statat(target_parent, target_name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(Errno::NOENT) => return Err(wrong("which the archive does not hold before it")),
            Err(errno) => return Err(Error::act("look at the link target", target, errno)),
        };
        if !matches!(FileType::from_raw_mode(found.st_mode), FileType::RegularFile | FileType::Symlink) {
            return Err(wrong("which is neither a file nor a symbolic link"));
        }
        // Not `self.parent()`: the other cache is still borrowed.
        let Some((directory, name)) = path.split_last() else {
            return Err(Error::Duplicate { path: path.to_string() });
        };
        let missing = Missing::Make { count: &mut self.directory_count, allowed: self.limits.directories };
        let parent = self.parents.open(directory, missing, path)?;
        rustix::fs::linkat(target_parent, target_name, parent, name, AtFlags::empty())
            .map_err(|errno| made(errno, "link", path))
    }

    fn symlink(&mut self, path: &ArchivePath, target: &[u8], attributes: &Attributes) -> Result<()> {
        let own = self.own;
        let (parent, name) = self.parent(path)?;
        rustix::fs::symlinkat(target, parent, name).map_err(|errno| made(errno, "link", path))?;
        attributes::set_on_symlink(parent, name, own, attributes, path)
    }

    fn fifo(&mut self, path: &ArchivePath, attributes: &Attributes) -> Result<()> {
        let own = self.own;
        let (parent, name) = self.parent(path)?;
        rustix::fs::mknodat(parent, name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .map_err(|errno| made(errno, "make the pipe", path))?;
        // Reading without waiting opens a pipe that nobody writes to.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fifo = rustix::fs::openat(parent, name, flags, Mode::empty())
            .map_err(|errno| Error::act("open the pipe", path, errno))?;
        set_on_fd(fifo.as_fd(), own, attributes, path)
    }

    fn leave_out_device(&mut self, path: &ArchivePath) {
        self.left_out.devices += 1;
        if self.remembered.len() < MOST_REMEMBERED {
            self.remembered.insert(path.clone());
        }
    }
}

/// The error for something that was to be made: being there already means that the archive holds it twice.
fn made(errno: Errno, act: &'static str, path: &ArchivePath) -> Error {
    match errno {
        Errno::EXIST => Error::Duplicate { path: path.to_string() },
        errno => Error::act(act, path, errno),
    }
}

fn is_directory(parent: BorrowedFd<'_>, name: &[u8]) -> bool {
    rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Directory)
}

fn write_all(file: BorrowedFd<'_>, mut at: u64, mut bytes: &[u8], path: &ArchivePath) -> Result<()> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(file, bytes, at) {
            Ok(0) => return Err(Error::act("write", path, Errno::IO)),
            Ok(count) => {
                bytes = &bytes[count..];
                at += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::act("write", path, errno)),
        }
    }
    Ok(())
}
