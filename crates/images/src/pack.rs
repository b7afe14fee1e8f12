//! A tree below a directory descriptor in, bytes of an image out.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use model::Fingerprint;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use crate::apply::{CAPABILITY, LeftOut};
use crate::compress::{Compression, Encoder};
use crate::hash::HashingWriter;
use crate::limits::Limit;
use crate::metadata::ImageMetadata;
use crate::tar::{Entry, Extent, Kind, Timestamp, Writer, Xattr};
use crate::{ArchivePath, Error, Limits, Result, acl};

/// Bytes of a file in memory at a time.
const BUFFER: usize = 256 << 10;

/// An image that was packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    /// SHA-256 of the bytes that were written.
    pub fingerprint: Fingerprint,
    /// How many bytes were written.
    pub archive_bytes: u64,
    /// What the tree came to.
    pub tree: PackedTree,
}

/// What a tree came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PackedTree {
    /// Entries written.
    pub entries: u64,
    /// Bytes of all files, holes included.
    pub bytes: u64,
    /// What was left out: device nodes and sockets are counted under `devices`.
    pub left_out: LeftOut,
}

/// Writes a unified image: metadata, templates and the tree below `root` (readable as root of the image's ids). The same
/// input gives the same bytes.
pub fn pack_unified<W: Write>(
    output: W,
    compression: Compression,
    metadata: &ImageMetadata,
    templates: &BTreeMap<String, Vec<u8>>,
    root: BorrowedFd<'_>,
    on_entry: &mut dyn FnMut(PackedTree),
) -> Result<(W, Packed)> {
    let encoder = Encoder::new(compression, HashingWriter::new(output), false)?;
    let mut writer = Writer::new(encoder);
    let mtime = Timestamp { seconds: metadata.creation_date, nanoseconds: 0 };
    let mut memory = |name: &str, content: &[u8]| {
        let entry = Entry { mtime, ..Entry::file(our_path(name.as_bytes())?, 0o644, content.len() as u64) };
        writer.begin(&entry)?;
        writer.data(content)
    };
    memory("metadata.yaml", metadata.to_yaml().as_bytes())?;
    for (name, content) in templates {
        memory(&format!("templates/{name}"), content)?;
    }
    let tree = pack_tree(&mut writer, root, &our_path(b"rootfs")?, on_entry)?;
    let (mut output, fingerprint, archive_bytes) = writer.finish()?.finish()?.finish();
    output.flush().map_err(Error::Output)?;
    Ok((output, Packed { fingerprint, archive_bytes, tree }))
}

/// Writes the tree below `root` under `prefix`, in the order of names.
pub fn pack_tree<W: Write>(
    writer: &mut Writer<W>,
    root: BorrowedFd<'_>,
    prefix: &ArchivePath,
    on_entry: &mut dyn FnMut(PackedTree),
) -> Result<PackedTree> {
    let mut pack = Pack {
        writer,
        tree: PackedTree::default(),
        links: HashMap::new(),
        held: 0,
        buffer: vec![0; BUFFER],
        limits: Limits::default(),
        on_entry,
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(root, c".", flags, Mode::empty())
        .map_err(|errno| Error::act("open the directory", prefix, errno))?;
    pack.directory(&root, prefix)?;
    Ok(pack.tree)
}

struct Pack<'a, W> {
    writer: &'a mut Writer<W>,
    tree: PackedTree,
    /// The first path of each file with several names, and how many of them are still to come.
    links: HashMap<(u64, u64), (ArchivePath, u64)>,
    /// Memory that `links` and the lists of names take: a guest decides how many there are.
    held: u64,
    buffer: Vec<u8>,
    limits: Limits,
    on_entry: &'a mut dyn FnMut(PackedTree),
}

impl<W: Write> Pack<'_, W> {
    /// The directory itself, then what is in it. Recursion ends at the depth that a path may have.
    fn directory(&mut self, directory: &OwnedFd, path: &ArchivePath) -> Result<()> {
        let stat = stat_of(directory, path)?;
        let mut entry = described(path, Kind::Directory, &stat);
        entry.xattrs = self.xattrs(directory.as_fd(), path)?;
        self.begin(&entry)?;
        let names = self.names(directory, path)?;
        let held = held_by(&names);
        for name in names {
            let child = path.child(&name);
            let child = ArchivePath::parse(child.as_bytes()).map_err(|problem| Error::Path {
                entry: self.tree.entries,
                path: child.to_string(),
                problem,
            })?;
            self.child(directory.as_fd(), &name, &child)?;
        }
        self.held -= held;
        Ok(())
    }

    fn child(&mut self, parent: BorrowedFd<'_>, name: &[u8], path: &ArchivePath) -> Result<()> {
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| Error::act("look at", path, errno))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            let directory = open(parent, name, OFlags::DIRECTORY, path)?;
            return self.directory(&directory, path);
        }
        if let Some(first) = self.first_name(&stat) {
            return self.begin(&described(path, Kind::HardLink(first), &stat));
        }
        match kind {
            FileType::RegularFile => self.file(&open(parent, name, OFlags::NONBLOCK, path)?, path)?,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(parent, name, Vec::new())
                    .map_err(|errno| Error::act("read the link", path, errno))?;
                self.begin(&described(path, Kind::Symlink(target.into_bytes()), &stat))?;
            }
            FileType::Fifo => {
                let fifo = open(parent, name, OFlags::NONBLOCK, path)?;
                let mut entry = described(path, Kind::Fifo, &stat);
                entry.xattrs = self.xattrs(fifo.as_fd(), path)?;
                self.begin(&entry)?;
            }
            FileType::CharacterDevice if stat.st_rdev == 0 => {
                return Err(Error::Whiteout { path: path.to_string() });
            }
            // Device nodes and sockets: a guest gets its own devices, and a socket is nothing without its process.
            _ => {
                self.tree.left_out.devices += 1;
                return Ok(());
            }
        }
        if stat.st_nlink > 1 {
            Limit::HeldBytes.add(&mut self.held, link_bytes(path), self.limits.held_bytes)?;
            self.links.insert((stat.st_dev, stat.st_ino), (path.clone(), stat.st_nlink - 1));
        }
        Ok(())
    }

    /// The name under which a file was packed already; forgotten with the last one that can come.
    fn first_name(&mut self, stat: &Stat) -> Option<ArchivePath> {
        let key = (stat.st_dev, stat.st_ino);
        let (first, to_come) = self.links.get_mut(&key)?;
        *to_come -= 1;
        if *to_come > 0 {
            return Some(first.clone());
        }
        let (first, _) = self.links.remove(&key)?;
        self.held -= link_bytes(&first);
        Some(first)
    }

    /// Names in a directory, sorted.
    fn names(&mut self, directory: &OwnedFd, path: &ArchivePath) -> Result<Vec<Vec<u8>>> {
        let cannot = |errno| Error::act("list", path, errno);
        let mut names = Vec::new();
        for found in rustix::fs::Dir::read_from(directory).map_err(cannot)? {
            let found = found.map_err(cannot)?;
            let name = found.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                names.push(name.to_vec());
                Limit::HeldBytes.add(&mut self.held, name_bytes(name), self.limits.held_bytes)?;
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn file(&mut self, file: &OwnedFd, path: &ArchivePath) -> Result<()> {
        let stat = stat_of(file, path)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::Changed { path: path.to_string() });
        }
        let mut entry = described(path, Kind::File, &stat);
        entry.size = u64::try_from(stat.st_size).map_err(|_| Error::act("look at", path, Errno::OVERFLOW))?;
        entry.xattrs = self.xattrs(file.as_fd(), path)?;
        entry.extents = self.extents(file, &stat, entry.size, path)?;
        self.begin(&entry)?;
        for extent in &entry.extents {
            self.copy(file, *extent, path)?;
        }
        Ok(())
    }

    /// Regions with data; the whole file when it has no holes, or when asking for them is not possible.
    fn extents(&self, file: &OwnedFd, stat: &Stat, size: u64, path: &ArchivePath) -> Result<Vec<Extent>> {
        let whole = if size == 0 { Vec::new() } else { vec![Extent { offset: 0, length: size }] };
        let stored = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
        if stored >= size {
            return Ok(whole);
        }
        let (mut extents, mut at) = (Vec::new(), 0);
        while at < size {
            let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
                Ok(start) => start,
                Err(Errno::NXIO) => break, // nothing but a hole from here on
                Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(whole),
                Err(errno) => return Err(Error::act("find the holes of", path, errno)),
            };
            let end = rustix::fs::seek(file, SeekFrom::Hole(start))
                .map_err(|errno| Error::act("find the holes of", path, errno))?
                .min(size);
            if start >= end {
                break; // it became shorter; copying will notice
            }
            extents.push(Extent { offset: start, length: end - start });
            if extents.len() as u64 >= self.limits.extents {
                // Too scattered for a map: the rest goes in whole.
                extents.push(Extent { offset: end, length: size - end });
                break;
            }
            at = end;
        }
        extents.retain(|extent| extent.length > 0);
        Ok(extents)
    }

    fn copy(&mut self, file: &OwnedFd, extent: Extent, path: &ArchivePath) -> Result<()> {
        let (mut at, end) = (extent.offset, extent.offset + extent.length);
        while at < end {
            let most = self.buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
            match rustix::io::pread(file, &mut self.buffer[..most], at) {
                Ok(0) => return Err(Error::Changed { path: path.to_string() }),
                Ok(count) => {
                    self.writer.data(&self.buffer[..count])?;
                    at += count as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::act("read", path, errno)),
            }
        }
        Ok(())
    }

    /// The attributes that an image may have; others are counted.
    fn xattrs(&mut self, file: BorrowedFd<'_>, path: &ArchivePath) -> Result<Vec<Xattr>> {
        let listed = match grown(|buffer| rustix::fs::flistxattr(file, buffer)) {
            Ok(listed) => listed,
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(errno) => return Err(Error::act("list the extended attributes of", path, errno)),
        };
        let mut xattrs = Vec::new();
        for name in listed.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
            if !(name.starts_with(b"user.") || name == CAPABILITY || name == acl::ACCESS || name == acl::DEFAULT) {
                self.tree.left_out.xattrs += 1;
                continue;
            }
            let value = match grown(|buffer| rustix::fs::fgetxattr(file, OsStr::from_bytes(name), buffer)) {
                Ok(value) => value,
                Err(Errno::NODATA) => continue,
                Err(errno) => return Err(Error::act("read an extended attribute of", path, errno)),
            };
            xattrs.push(Xattr { name: name.to_vec(), value });
        }
        xattrs.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(xattrs)
    }

    fn begin(&mut self, entry: &Entry) -> Result<()> {
        Limit::Entries.add(&mut self.tree.entries, 1, self.limits.entries)?;
        self.tree.bytes = self.tree.bytes.saturating_add(entry.size);
        self.writer.begin(entry)?;
        (self.on_entry)(self.tree);
        Ok(())
    }
}

/// Calls with a larger buffer until the answer fits; the kernel's bound for names and for a value is 64 KiB.
fn grown(mut call: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 512];
    loop {
        match call(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < 64 << 10 => buffer.resize(64 << 10, 0),
            Err(errno) => return Err(errno),
        }
    }
}

fn our_path(name: &[u8]) -> Result<ArchivePath> {
    ArchivePath::parse(name).map_err(|problem| Error::Path {
        entry: 0,
        path: crate::archive_path::escaped(name),
        problem,
    })
}

fn open(parent: BorrowedFd<'_>, name: &[u8], flags: OFlags, path: &ArchivePath) -> Result<OwnedFd> {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(|errno| Error::act("open", path, errno))
}

fn stat_of(file: &OwnedFd, path: &ArchivePath) -> Result<Stat> {
    rustix::fs::fstat(file).map_err(|errno| Error::act("look at", path, errno))
}

fn described(path: &ArchivePath, kind: Kind, stat: &Stat) -> Entry {
    let mut entry = Entry::new(path.clone(), kind, stat.st_mode & 0o7777);
    (entry.uid, entry.gid) = (u64::from(stat.st_uid), u64::from(stat.st_gid));
    entry.mtime = Timestamp { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec as u32 };
    entry
}

/// Memory for a name in a list.
fn name_bytes(name: &[u8]) -> u64 {
    (size_of::<Vec<u8>>() + name.len()) as u64
}

fn held_by(names: &[Vec<u8>]) -> u64 {
    names.iter().map(|name| name_bytes(name)).sum()
}

/// Memory for the first name of a hard link.
fn link_bytes(path: &ArchivePath) -> u64 {
    (size_of::<((u64, u64), (ArchivePath, u64))>() + path.as_bytes().len()) as u64
}
