//! What each request does.

use std::os::fd::OwnedFd;

use kernel::Errno;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, RenameFlags, SeekFrom, StatVfsMountFlags};
use sftp::{Attributes, Code, Entry, MAX_DATA, MAX_PACKET, OpenFlags, Reply, Request};

use super::attributes;
use super::handles::{Handles, MAX_HANDLES, Open};
use super::path::{self, Refusal, guard, open_plain, parent};

/// Where an answer to a directory's reader ends: some hundred entries. Go's client takes packets up to 256 KiB.
const MAX_LISTING: usize = 32 * 1024;

/// The files of one instance, for one client.
pub(super) struct Files {
    root: OwnedFd,
    handles: Handles,
}

type Done = Result<(), Refusal>;

impl Files {
    pub(super) fn new(root: OwnedFd) -> Files {
        Files { root, handles: Handles::default() }
    }

    /// Does what is asked for and appends the answer, whatever it is.
    pub(super) fn answer(&mut self, id: u32, request: &Request<'_>, out: &mut Vec<u8>) {
        let at = out.len();
        match self.request(id, request, out) {
            // A request that answered by nothing but its success.
            Ok(()) if out.len() == at => Reply::Status(Code::Ok, "").encode(id, out),
            Ok(()) => {}
            Err(refusal) => {
                out.truncate(at);
                Reply::Status(refusal.code, &refusal.message).encode(id, out);
            }
        }
    }

    fn request(&mut self, id: u32, request: &Request<'_>, out: &mut Vec<u8>) -> Done {
        match *request {
            // The caller has answered the only one that makes sense.
            Request::Init { .. } => Err(Refusal { code: Code::BadMessage, message: "once is enough".into() }),
            Request::Open { path, flags, ref attributes } => self.open(id, path, flags, attributes, out),
            Request::Close { handle } => self.handles.close(handle),
            Request::Read { handle, offset, length } => self.read(id, handle, offset, length, out),
            Request::Write { handle, offset, data } => self.write(handle, offset, data),
            Request::Lstat { path } => self.stat(id, path, OFlags::NOFOLLOW, out),
            Request::Stat { path } => self.stat(id, path, OFlags::empty(), out),
            Request::Fstat { handle } => {
                let stat = match self.handles.get(handle)? {
                    Open::File { file, .. } => rustix::fs::fstat(file)?,
                    Open::Directory { directory, .. } => rustix::fs::fstat(directory)?,
                };
                Reply::Attributes(attributes::of(&stat)).encode(id, out);
                Ok(())
            }
            Request::Setstat { path, ref attributes } => self.set(path, attributes),
            Request::Fsetstat { handle, ref attributes } => match self.handles.get(handle)? {
                Open::File { file, .. } => attributes::apply(file, attributes),
                Open::Directory { directory, .. } => attributes::apply(directory, attributes),
            },
            Request::Opendir { path } => self.open_directory(id, path, out),
            Request::Readdir { handle } => self.read_directory(id, handle, out),
            Request::Remove { path } => self.remove(path, AtFlags::empty()),
            Request::Rmdir { path } => self.remove(path, AtFlags::REMOVEDIR),
            Request::Mkdir { path, ref attributes } => {
                let (directory, name) = parent(&self.root, path)?;
                Ok(rustix::fs::mkdirat(directory, name, attributes::mode(attributes, 0o755))?)
            }
            Request::Realpath { path } => {
                name(id, &path::plainest(path), out);
                Ok(())
            }
            Request::Readlink { path } => self.read_link(id, path, out),
            Request::Symlink { target, path } => {
                let (directory, name) = parent(&self.root, path)?;
                Ok(rustix::fs::symlinkat(target, directory, name)?)
            }
            Request::Rename { from, to } => self.rename(from, to, RenameFlags::NOREPLACE),
            Request::PosixRename { from, to } => self.rename(from, to, RenameFlags::empty()),
            Request::Hardlink { from, to } => {
                let ((old, from), (new, to)) = (parent(&self.root, from)?, parent(&self.root, to)?);
                Ok(rustix::fs::linkat(old, from, new, to, AtFlags::empty())?)
            }
            Request::Fsync { handle } => Ok(rustix::fs::fsync(self.handles.file(handle)?.0)?),
            Request::Statvfs { path } => self.space(id, path, out),
            Request::Limits => {
                let limits = [MAX_PACKET, MAX_DATA, MAX_DATA, MAX_HANDLES].map(|limit| limit as u64);
                Reply::Numbers(limits.to_vec()).encode(id, out);
                Ok(())
            }
        }
    }

    fn open(&mut self, id: u32, path: &[u8], flags: OpenFlags, wanted: &Attributes, out: &mut Vec<u8>) -> Done {
        self.handles.room()?;
        let mut how = match (flags.read, flags.write || flags.append) {
            (true, true) => OFlags::RDWR,
            (false, true) => OFlags::WRONLY,
            _ => OFlags::RDONLY,
        };
        if flags.create {
            how |= OFlags::CREATE;
        }
        if flags.create && flags.exclusive {
            how |= OFlags::EXCL;
        }
        // Go's clients open what they pull before they look whether it is a directory.
        let directory = !flags.write && !flags.append && !flags.create;
        // The kernel wants no mode where nothing is made.
        let mode = if flags.create { attributes::mode(wanted, 0o644) } else { Mode::empty() };
        let file = match open_plain(&self.root, path, how, mode, directory) {
            // It vanished between two looks, or appeared: the second time it is clear.
            Err(refusal) if refusal.code == Code::NoSuchFile && flags.create && !flags.exclusive => {
                open_plain(&self.root, path, how, mode, directory)?
            }
            other => other?,
        };
        // Not by O_TRUNC: only now it is known to be a file.
        if flags.truncate && (flags.write || flags.append) {
            rustix::fs::ftruncate(&file, 0)?;
        }
        let handle = self.handles.add(Open::File { file, append: flags.append });
        Reply::Handle(&handle).encode(id, out);
        Ok(())
    }

    fn read(&mut self, id: u32, handle: &[u8], offset: u64, length: u32, out: &mut Vec<u8>) -> Done {
        let file = self.handles.file(handle)?.0;
        let count = sftp::data_with(out, id, length as usize, |place| {
            let mut filled = 0;
            // A short answer means the end to some clients, so it is only given there.
            while filled < place.len() {
                match rustix::io::pread(file, &mut place[filled..], offset.saturating_add(filled as u64)) {
                    Ok(0) => break,
                    Ok(count) => filled += count,
                    Err(Errno::INTR) => {}
                    Err(_) if filled > 0 => break,
                    Err(errno) => return Err(errno),
                }
            }
            Ok(filled)
        })?;
        if count > 0 || length == 0 {
            if length == 0 {
                Reply::Data(b"").encode(id, out);
            }
            return Ok(());
        }
        Err(Refusal { code: Code::Eof, message: "End of file".into() })
    }

    fn write(&mut self, handle: &[u8], mut offset: u64, data: &[u8]) -> Done {
        let (file, append) = self.handles.file(handle)?;
        if append {
            // Requests are done one after another, so nobody of this client's comes in between.
            offset = rustix::fs::seek(file, SeekFrom::End(0))?;
        }
        let mut rest = data;
        while !rest.is_empty() {
            match rustix::io::pwrite(file, rest, offset) {
                Ok(count) => {
                    rest = &rest[count..];
                    offset += count as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn stat(&self, id: u32, path: &[u8], flags: OFlags, out: &mut Vec<u8>) -> Done {
        // By a descriptor that opens nothing, so this works for files of every kind.
        let fd = path::open(&self.root, path, OFlags::PATH | flags, Mode::empty())?;
        Reply::Attributes(attributes::of(&rustix::fs::fstat(fd)?)).encode(id, out);
        Ok(())
    }

    fn set(&self, path: &[u8], attributes: &Attributes) -> Done {
        let how = if attributes.size.is_some() { OFlags::WRONLY } else { OFlags::RDONLY };
        attributes::apply(&open_plain(&self.root, path, how, Mode::empty(), true)?, attributes)
    }

    fn open_directory(&mut self, id: u32, path: &[u8], out: &mut Vec<u8>) -> Done {
        self.handles.room()?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let directory = open_plain(&self.root, path, flags, Mode::empty(), true)?;
        let entries = Box::new(Dir::new(rustix::io::fcntl_dupfd_cloexec(&directory, 3)?)?);
        let handle = self.handles.add(Open::Directory { directory, entries });
        Reply::Handle(&handle).encode(id, out);
        Ok(())
    }

    fn read_directory(&mut self, id: u32, handle: &[u8], out: &mut Vec<u8>) -> Done {
        let Open::Directory { directory, entries } = self.handles.get(handle)? else {
            return Err(Refusal::failure("the handle is one of a file"));
        };
        let at = sftp::begin_names(out, id);
        let mut count = 0;
        while out.len() - at < MAX_LISTING {
            let Some(entry) = entries.read() else { break };
            let entry = entry?;
            let name = entry.file_name();
            // What went away meanwhile is left out.
            let Ok(stat) = rustix::fs::statat(&*directory, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let name = name.to_bytes();
            sftp::entry(out, &Entry { name, attributes: attributes::of(&stat) }, &attributes::line(name, &stat));
            count += 1;
        }
        if count == 0 {
            return Err(Refusal { code: Code::Eof, message: "End of directory".into() });
        }
        sftp::names_done(out, at, count);
        Ok(())
    }

    fn remove(&self, path: &[u8], flags: AtFlags) -> Done {
        let (directory, name) = parent(&self.root, path)?;
        Ok(rustix::fs::unlinkat(directory, name, flags)?)
    }

    fn read_link(&self, id: u32, path: &[u8], out: &mut Vec<u8>) -> Done {
        let (directory, link) = parent(&self.root, path)?;
        let target = rustix::fs::readlinkat(directory, link, Vec::new())?;
        name(id, target.as_bytes(), out);
        Ok(())
    }

    fn rename(&self, from: &[u8], to: &[u8], flags: RenameFlags) -> Done {
        let ((old, from), (new, to)) = (parent(&self.root, from)?, parent(&self.root, to)?);
        match rustix::fs::renameat_with(&old, from, &new, to, flags) {
            Err(Errno::EXIST) if flags == RenameFlags::NOREPLACE => Err(Refusal::failure("File exists")),
            // A file system that cannot promise it (FUSE, say): look first.
            Err(Errno::INVAL) if flags == RenameFlags::NOREPLACE => {
                if rustix::fs::statat(&new, to, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                    return Err(Refusal::failure("File exists"));
                }
                Ok(rustix::fs::renameat(&old, from, &new, to)?)
            }
            other => Ok(other?),
        }
    }

    fn space(&self, id: u32, path: &[u8], out: &mut Vec<u8>) -> Done {
        let fd = path::open(&self.root, path, OFlags::PATH, Mode::empty())?;
        guard(&fd)?;
        let state = rustix::fs::fstatvfs(fd)?;
        let flag = |flag, number| if state.f_flag.contains(flag) { number } else { 0 };
        let flags = flag(StatVfsMountFlags::RDONLY, 1) | flag(StatVfsMountFlags::NOSUID, 2);
        let numbers = [
            state.f_bsize,
            state.f_frsize,
            state.f_blocks,
            state.f_bfree,
            state.f_bavail,
            state.f_files,
            state.f_ffree,
            state.f_favail,
            state.f_fsid,
            flags,
            state.f_namemax,
        ];
        Reply::Numbers(numbers.to_vec()).encode(id, out);
        Ok(())
    }
}

/// Answers with one name.
fn name(id: u32, name: &[u8], out: &mut Vec<u8>) {
    let at = sftp::begin_names(out, id);
    sftp::entry(out, &Entry { name, attributes: Attributes::default() }, name);
    sftp::names_done(out, at, 1);
}
