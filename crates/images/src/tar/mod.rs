//! Archives in the tar formats that images come in: v7, ustar, GNU and PAX, read and (PAX) written as streams.
//!
//! Formats: POSIX.1-2017 `pax`, the GNU tar manual's chapters on headers and sparse files, and the `SCHILY.*` and
//! `LIBARCHIVE.*` keys as star, GNU tar and libarchive write them. Nothing here touches a file system.

mod header;
mod pax;
mod reader;
mod sparse;
mod writer;

pub use reader::Reader;
pub use writer::Writer;

use crate::ArchivePath;

/// Archives are made of blocks of this many bytes.
pub const BLOCK: usize = 512;

/// One entry of an archive: everything that a file has besides its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where, below the archive's root.
    pub path: ArchivePath,
    /// What.
    pub kind: Kind,
    /// Permissions with set-user-id, set-group-id and sticky bit: `0o7777` and below.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Length in bytes with holes; 0 for all but files.
    pub size: u64,
    /// Where the data that follows belongs: ascending, not touching beyond `size`. Holes lie between.
    pub extents: Vec<Extent>,
    /// Extended attributes; access control lists are among them in the kernel's binary form.
    pub xattrs: Vec<Xattr>,
    /// Entries of access control lists that were left out because they name somebody without a number.
    pub nameless_acl_entries: u32,
}

/// What an [`Entry`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// Another name of an entry that came earlier.
    HardLink(ArchivePath),
    /// A symbolic link with this target: 1 to 4095 bytes without NUL, else anything.
    Symlink(Vec<u8>),
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

/// A point in time: seconds since 1970 (negative before) and 0 to 999,999,999 nanoseconds after that second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub seconds: i64,
    /// Nanoseconds after that.
    pub nanoseconds: u32,
}

/// A region of a file that has data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// How long it is, in bytes; never 0.
    pub length: u64,
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Xattr {
    /// Its full name, as `user.mime_type`; neither empty nor longer than 255 bytes, no NUL.
    pub name: Vec<u8>,
    /// Its value: any bytes.
    pub value: Vec<u8>,
}

impl Entry {
    /// An entry without content, owned by root, from 1970.
    pub fn new(path: ArchivePath, kind: Kind, mode: u32) -> Entry {
        Entry {
            path,
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            size: 0,
            extents: Vec::new(),
            xattrs: Vec::new(),
            nameless_acl_entries: 0,
        }
    }

    /// A file of `size` bytes without holes.
    pub fn file(path: ArchivePath, mode: u32, size: u64) -> Entry {
        let extents = if size == 0 { Vec::new() } else { vec![Extent { offset: 0, length: size }] };
        Entry { size, extents, ..Entry::new(path, Kind::File, mode) }
    }

    /// How many bytes of data the archive holds for it.
    pub fn stored(&self) -> u64 {
        self.extents.iter().map(|extent| extent.length).sum()
    }

    /// The value of an extended attribute.
    pub fn xattr(&self, name: &[u8]) -> Option<&[u8]> {
        self.xattrs.iter().find(|xattr| xattr.name == name).map(|xattr| xattr.value.as_slice())
    }
}

/// Sets an attribute, replacing one of the same name.
fn set_xattr(xattrs: &mut Vec<Xattr>, name: Vec<u8>, value: Vec<u8>) {
    match xattrs.iter_mut().find(|xattr| xattr.name == name) {
        Some(xattr) => xattr.value = value,
        None => xattrs.push(Xattr { name, value }),
    }
}
