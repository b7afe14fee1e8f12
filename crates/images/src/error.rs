//! What can go wrong with an image, each with the thing that was acted on.

use std::io;

use model::Fingerprint;
use rustix::io::Errno;

use crate::archive_path::PathProblem;
use crate::compress::Compression;
use crate::limits::Limit;

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an image was refused or could not be handled. Paths are escaped: they come from strangers.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name in the archive is not a path below its root.
    #[error("archive entry {entry}: the name {path:?} {problem}")]
    Path {
        /// Which entry, counted from 1.
        entry: u64,
        /// The name, escaped and cut to 256 characters.
        path: String,
        /// What is wrong with it.
        problem: PathProblem,
    },
    /// A header of the archive makes no sense.
    #[error("archive entry {entry}: {problem}")]
    Header {
        /// Which entry, counted from 1.
        entry: u64,
        /// What is wrong with it.
        problem: HeaderProblem,
    },
    /// The archive ends in the middle.
    #[error("the archive ends after {bytes} bytes, in the middle; it was cut off on its way")]
    Truncated {
        /// How many bytes there were, after decompression.
        bytes: u64,
    },
    /// One of the bounds on images is exceeded.
    #[error("the image has more {limit} than the {allowed} allowed")]
    Limit {
        /// Of what.
        limit: Limit,
        /// How many or how much.
        allowed: u64,
    },
    /// A path occurs twice.
    #[error("{path}: the archive holds this path twice")]
    Duplicate {
        /// Which path.
        path: String,
    },
    /// An entry lies below something that is no directory, for example a symbolic link made earlier.
    #[error("{path}: the archive puts this below something that is not a directory")]
    Parent {
        /// Which path.
        path: String,
    },
    /// An owner outside the id range of an image.
    #[error("{path}: the id {id} is not below {limit}; images hold ids of one range")]
    Owner {
        /// Which path.
        path: String,
        /// The user or group id.
        id: u64,
        /// How many ids an image may use.
        limit: u32,
    },
    /// A character device 0:0, which an overlay would take as "deleted".
    #[error("{path}: the archive holds an overlay whiteout (character device 0:0)")]
    Whiteout {
        /// Which path.
        path: String,
    },
    /// A hard link to something that it must not link to.
    #[error("{path}: hard link to {target:?}, {problem}")]
    LinkTarget {
        /// Which path.
        path: String,
        /// The target as the archive names it, escaped.
        target: String,
        /// Why not.
        problem: &'static str,
    },
    /// One of the names at the top of a unified image has the wrong type.
    #[error("{path}: {problem}")]
    TopLevel {
        /// Which path.
        path: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The file system is full, or a quota is used up.
    #[error("{path}: no space left; free some in the pool and try again")]
    Full {
        /// What was being written.
        path: String,
        /// Which of the several "full" errors.
        source: Errno,
    },
    /// A system call failed.
    #[error("cannot {act} {path}")]
    Act {
        /// What was tried, as a verb phrase.
        act: &'static str,
        /// On what.
        path: String,
        /// The kernel's answer.
        source: Errno,
    },
    /// Something that was being packed changed meanwhile.
    #[error("{path}: changed while it was being read; stop the instance first")]
    Changed {
        /// Which path.
        path: String,
    },
    /// The input could not be read.
    #[error("cannot read the image")]
    Input(#[source] io::Error),
    /// The output could not be written.
    #[error("cannot write the image")]
    Output(#[source] io::Error),
    /// The compressed data is broken or needs too much memory.
    #[error("the {format} data is broken")]
    Decompress {
        /// Which format.
        format: Compression,
        /// What its decoder said.
        source: io::Error,
    },
    /// The bytes are neither an archive nor a compressed one.
    #[error("this is not a tar archive in any of the known compressions")]
    UnknownFormat,
    /// A kind of image that exists but that we do not take.
    #[error("{what} images are not supported; {hint}")]
    Unsupported {
        /// Which kind.
        what: &'static str,
        /// What to do instead.
        hint: &'static str,
    },
    /// The content is not what was asked for.
    #[error("the image has the fingerprint {found}, expected was {expected}")]
    Fingerprint {
        /// What was asked for.
        expected: Fingerprint,
        /// What came.
        found: Fingerprint,
    },
    /// The archive holds no `metadata.yaml`.
    #[error("the image holds no metadata.yaml")]
    NoMetadata,
    /// The `metadata.yaml` is not what it should be.
    #[error("metadata.yaml: {problem}")]
    Metadata {
        /// What is wrong, with the place where known.
        problem: String,
    },
    /// A recipe is not what it should be.
    #[error("recipe {name}: {problem}")]
    Recipe {
        /// Which recipe (its file name).
        name: String,
        /// What is wrong, with the line where known.
        problem: String,
    },
    /// The keys that packages are checked against are not on this machine.
    #[error("{path} is missing; install it with `apt-get install debian-archive-keyring`")]
    Keyring {
        /// Where it should be.
        path: String,
    },
    /// The builder could not be started.
    #[error("cannot run {program}; install it with `apt-get install {program}`")]
    Spawn {
        /// Which program.
        program: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The builder failed.
    #[error("{program} failed ({status}): {log}")]
    Builder {
        /// Which program.
        program: &'static str,
        /// How it ended.
        status: String,
        /// The last lines it wrote.
        log: String,
    },
}

/// What is wrong with a header of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderProblem {
    /// Checksum over the 512 bytes.
    #[error("the header's checksum is wrong")]
    Checksum,
    /// A numeric field holds no number, or one out of range.
    #[error("the field {0} holds no valid number")]
    Number(&'static str),
    /// A type of entry that we do not know.
    #[error("unknown type {0:#04x}")]
    Type(u8),
    /// A type of entry that only incremental or multi-volume archives have.
    #[error("incremental and multi-volume archives are not images")]
    Incremental,
    /// Data behind an entry that has none.
    #[error("an entry that is no file claims to have data")]
    UnexpectedData,
    /// Records of a PAX header do not add up.
    #[error("a record of the PAX header is malformed")]
    PaxRecord,
    /// A PAX key with a value that makes no sense.
    #[error("the PAX key {0} has a malformed value")]
    PaxValue(&'static str),
    /// Names in a global header.
    #[error("a global header may not name {0}")]
    PaxGlobal(&'static str),
    /// A map of a sparse file that overlaps, runs backwards or does not fit its data.
    #[error("the map of a sparse file does not fit the file")]
    Sparse,
    /// Two extension headers in a row for the same thing, or one without an entry.
    #[error("an extension header is not followed by its entry")]
    Dangling,
    /// A link without a target.
    #[error("a link without a target, or with one that is too long")]
    Target,
    /// An extended attribute's name that is empty, too long or holds a NUL, or more than 512 attributes.
    #[error("an extended attribute with a malformed name, or too many of them")]
    Xattr,
    /// A text ACL that cannot be read.
    #[error("a malformed access control list")]
    Acl,
}

impl Error {
    /// A system call on `path` failed; the several ways of being full become [`Error::Full`].
    pub(crate) fn act(act: &'static str, path: impl std::fmt::Display, source: Errno) -> Error {
        let path = path.to_string();
        match source {
            Errno::NOSPC | Errno::DQUOT => Error::Full { path, source },
            _ => Error::Act { act, path, source },
        }
    }

    /// Brings back an error that travelled inside an `io::Error` (through a decoder), else wraps it as `Input`.
    pub(crate) fn from_input(error: io::Error) -> Error {
        if error.get_ref().is_some_and(|inner| inner.is::<Error>()) {
            let inner = error.into_inner().and_then(|inner| inner.downcast::<Error>().ok());
            return inner.map_or(Error::UnknownFormat, |inner| *inner);
        }
        Error::Input(error)
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        io::Error::other(error)
    }
}
