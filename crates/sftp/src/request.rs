//! What clients ask for.

use crate::wire::{Fields, packet, put_string, put_u32, put_u64};
use crate::{Attributes, MAX_DATA, MAX_HANDLE, Malformed};

const INIT: u8 = 1;
const OPEN: u8 = 3;
const CLOSE: u8 = 4;
const READ: u8 = 5;
const WRITE: u8 = 6;
const LSTAT: u8 = 7;
const FSTAT: u8 = 8;
const SETSTAT: u8 = 9;
const FSETSTAT: u8 = 10;
const OPENDIR: u8 = 11;
const READDIR: u8 = 12;
const REMOVE: u8 = 13;
const MKDIR: u8 = 14;
const RMDIR: u8 = 15;
const REALPATH: u8 = 16;
const STAT: u8 = 17;
const RENAME: u8 = 18;
const READLINK: u8 = 19;
const SYMLINK: u8 = 20;
const EXTENDED: u8 = 200;

const POSIX_RENAME: &[u8] = b"posix-rename@openssh.com";
const HARDLINK: &[u8] = b"hardlink@openssh.com";
const FSYNC: &[u8] = b"fsync@openssh.com";
const STATVFS: &[u8] = b"statvfs@openssh.com";
const LIMITS: &[u8] = b"limits@openssh.com";

/// The extensions that a server announces, with their versions.
pub(crate) const EXTENSIONS: [(&[u8], &[u8]); 5] =
    [(POSIX_RENAME, b"1"), (HARDLINK, b"1"), (FSYNC, b"1"), (STATVFS, b"2"), (LIMITS, b"1")];

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenFlags {
    /// To be read.
    pub read: bool,
    /// To be written.
    pub write: bool,
    /// Every write goes to its end.
    pub append: bool,
    /// Made when missing.
    pub create: bool,
    /// Emptied.
    pub truncate: bool,
    /// Refused when it exists.
    pub exclusive: bool,
}

impl OpenFlags {
    fn bits(self) -> u32 {
        [self.read, self.write, self.append, self.create, self.truncate, self.exclusive]
            .into_iter()
            .enumerate()
            .fold(0, |bits, (at, set)| bits | u32::from(set) << at)
    }

    fn from_bits(bits: u32) -> Option<OpenFlags> {
        if bits >= 1 << 6 {
            return None;
        }
        let bit = |at: u32| bits & (1 << at) != 0;
        Some(OpenFlags {
            read: bit(0),
            write: bit(1),
            append: bit(2),
            create: bit(3),
            truncate: bit(4),
            exclusive: bit(5),
        })
    }
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // the fields say what they are
pub enum Request<'a> {
    /// The first packet of all: the highest version that the client speaks.
    Init { version: u32 },
    /// Opens a file.
    Open { path: &'a [u8], flags: OpenFlags, attributes: Attributes },
    /// Closes a handle.
    Close { handle: &'a [u8] },
    /// Reads from a file.
    Read { handle: &'a [u8], offset: u64, length: u32 },
    /// Writes to a file.
    Write { handle: &'a [u8], offset: u64, data: &'a [u8] },
    /// Attributes, of a link itself.
    Lstat { path: &'a [u8] },
    /// Attributes of what is open.
    Fstat { handle: &'a [u8] },
    /// Sets attributes.
    Setstat { path: &'a [u8], attributes: Attributes },
    /// Sets attributes of what is open.
    Fsetstat { handle: &'a [u8], attributes: Attributes },
    /// Opens a directory.
    Opendir { path: &'a [u8] },
    /// The next entries of a directory.
    Readdir { handle: &'a [u8] },
    /// Removes a file.
    Remove { path: &'a [u8] },
    /// Makes a directory.
    Mkdir { path: &'a [u8], attributes: Attributes },
    /// Removes a directory.
    Rmdir { path: &'a [u8] },
    /// The path in its plainest form.
    Realpath { path: &'a [u8] },
    /// Attributes.
    Stat { path: &'a [u8] },
    /// Renames, unless there is something of the new name.
    Rename { from: &'a [u8], to: &'a [u8] },
    /// Where a link points to.
    Readlink { path: &'a [u8] },
    /// Makes a link. The order of the two on the wire is that of OpenSSH, which everybody follows; the draft's is the other.
    Symlink { target: &'a [u8], path: &'a [u8] },
    /// Renames, over what there is.
    PosixRename { from: &'a [u8], to: &'a [u8] },
    /// Makes another name for a file.
    Hardlink { from: &'a [u8], to: &'a [u8] },
    /// Brings a file to the disk.
    Fsync { handle: &'a [u8] },
    /// Space of a file system.
    Statvfs { path: &'a [u8] },
    /// Largest packets, most handles.
    Limits,
}

impl<'a> Request<'a> {
    /// Reads a packet (see [`crate::split`]): its id, which for INIT is 0, and what it asks for.
    pub fn decode(packet: &'a [u8]) -> Result<(u32, Request<'a>), Malformed> {
        let mut fields = Fields(packet);
        let kind = fields.byte().ok_or(Malformed::NoId)?;
        let id = fields.u32().ok_or(Malformed::NoId)?;
        if kind == INIT {
            return Ok((0, Request::Init { version: id }));
        }
        let request = Request::fields(kind, &mut fields, id)?.ok_or(Malformed::Fields(id))?;
        Ok((id, request))
    }

    fn fields(kind: u8, fields: &mut Fields<'a>, id: u32) -> Result<Option<Request<'a>>, Malformed> {
        // What stands behind the fields that are known is left alone: that is how the protocol grows.
        let mut decode = || -> Option<Request<'a>> {
            Some(match kind {
                OPEN => Request::Open {
                    path: fields.path()?,
                    flags: OpenFlags::from_bits(fields.u32()?)?,
                    attributes: Attributes::take(fields)?,
                },
                CLOSE => Request::Close { handle: fields.string(MAX_HANDLE)? },
                READ => {
                    Request::Read { handle: fields.string(MAX_HANDLE)?, offset: fields.u64()?, length: fields.u32()? }
                }
                WRITE => Request::Write {
                    handle: fields.string(MAX_HANDLE)?,
                    offset: fields.u64()?,
                    data: fields.string(MAX_DATA)?,
                },
                LSTAT => Request::Lstat { path: fields.path()? },
                FSTAT => Request::Fstat { handle: fields.string(MAX_HANDLE)? },
                SETSTAT => Request::Setstat { path: fields.path()?, attributes: Attributes::take(fields)? },
                FSETSTAT => {
                    Request::Fsetstat { handle: fields.string(MAX_HANDLE)?, attributes: Attributes::take(fields)? }
                }
                OPENDIR => Request::Opendir { path: fields.path()? },
                READDIR => Request::Readdir { handle: fields.string(MAX_HANDLE)? },
                REMOVE => Request::Remove { path: fields.path()? },
                MKDIR => Request::Mkdir { path: fields.path()?, attributes: Attributes::take(fields)? },
                RMDIR => Request::Rmdir { path: fields.path()? },
                REALPATH => Request::Realpath { path: fields.path()? },
                STAT => Request::Stat { path: fields.path()? },
                RENAME => Request::Rename { from: fields.path()?, to: fields.path()? },
                READLINK => Request::Readlink { path: fields.path()? },
                SYMLINK => Request::Symlink { target: fields.path()?, path: fields.path()? },
                _ => return None,
            })
        };
        match kind {
            OPEN..=SYMLINK => Ok(decode()),
            EXTENDED => {
                let name = fields.string(MAX_HANDLE).ok_or(Malformed::Fields(id))?;
                Request::extended(name, fields).ok_or(Malformed::Unknown(id))
            }
            _ => Err(Malformed::Unknown(id)),
        }
    }

    /// `None` where the name is not known.
    fn extended(name: &[u8], fields: &mut Fields<'a>) -> Option<Option<Request<'a>>> {
        let two = |fields: &mut Fields<'a>| Some((fields.path()?, fields.path()?));
        Some(match name {
            POSIX_RENAME => two(fields).map(|(from, to)| Request::PosixRename { from, to }),
            HARDLINK => two(fields).map(|(from, to)| Request::Hardlink { from, to }),
            FSYNC => fields.string(MAX_HANDLE).map(|handle| Request::Fsync { handle }),
            STATVFS => fields.path().map(|path| Request::Statvfs { path }),
            LIMITS => Some(Request::Limits),
            _ => return None,
        })
    }

    /// Appends the packet that asks for it.
    pub fn encode(&self, id: u32, out: &mut Vec<u8>) {
        let strings = |out: &mut Vec<u8>, kind: u8, list: &[&[u8]]| {
            packet(out, kind, |out| {
                put_u32(out, id);
                list.iter().for_each(|string| put_string(out, string));
            });
        };
        let with = |out: &mut Vec<u8>, kind: u8, string: &[u8], attributes: &Attributes| {
            packet(out, kind, |out| {
                put_u32(out, id);
                put_string(out, string);
                attributes.put(out);
            });
        };
        match self {
            Request::Init { version } => packet(out, INIT, |out| put_u32(out, *version)),
            Request::Open { path, flags, attributes } => packet(out, OPEN, |out| {
                put_u32(out, id);
                put_string(out, path);
                put_u32(out, flags.bits());
                attributes.put(out);
            }),
            Request::Read { handle, offset, length } => packet(out, READ, |out| {
                put_u32(out, id);
                put_string(out, handle);
                put_u64(out, *offset);
                put_u32(out, *length);
            }),
            Request::Write { handle, offset, data } => packet(out, WRITE, |out| {
                put_u32(out, id);
                put_string(out, handle);
                put_u64(out, *offset);
                put_string(out, data);
            }),
            Request::Setstat { path, attributes } => with(out, SETSTAT, path, attributes),
            Request::Fsetstat { handle, attributes } => with(out, FSETSTAT, handle, attributes),
            Request::Mkdir { path, attributes } => with(out, MKDIR, path, attributes),
            Request::Close { handle } => strings(out, CLOSE, &[handle]),
            Request::Lstat { path } => strings(out, LSTAT, &[path]),
            Request::Fstat { handle } => strings(out, FSTAT, &[handle]),
            Request::Opendir { path } => strings(out, OPENDIR, &[path]),
            Request::Readdir { handle } => strings(out, READDIR, &[handle]),
            Request::Remove { path } => strings(out, REMOVE, &[path]),
            Request::Rmdir { path } => strings(out, RMDIR, &[path]),
            Request::Realpath { path } => strings(out, REALPATH, &[path]),
            Request::Stat { path } => strings(out, STAT, &[path]),
            Request::Rename { from, to } => strings(out, RENAME, &[from, to]),
            Request::Readlink { path } => strings(out, READLINK, &[path]),
            Request::Symlink { target, path } => strings(out, SYMLINK, &[target, path]),
            Request::PosixRename { from, to } => strings(out, EXTENDED, &[POSIX_RENAME, from, to]),
            Request::Hardlink { from, to } => strings(out, EXTENDED, &[HARDLINK, from, to]),
            Request::Fsync { handle } => strings(out, EXTENDED, &[FSYNC, handle]),
            Request::Statvfs { path } => strings(out, EXTENDED, &[STATVFS, path]),
            Request::Limits => strings(out, EXTENDED, &[LIMITS]),
        }
    }
}
