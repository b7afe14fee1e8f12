//! The bounds on what an image may hold: an archive is a program written by a stranger, this is its fuel.

use std::fmt;

use crate::{Error, Result};

/// How much one image may have. [`Limits::default`] is what images of whole distributions stay far below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries of an archive of any kind.
    pub entries: u64,
    /// Directories, named or implied.
    pub directories: u64,
    /// Bytes that must be held in memory until the end: paths and attributes of directories (about 200 each), first names
    /// of hard links.
    pub held_bytes: u64,
    /// Bytes of all files together, holes included; also of the whole archive when decompressed.
    pub bytes: u64,
    /// Bytes of the input as it arrives (compressed).
    pub archive_bytes: u64,
    /// Decompressed bytes per compressed byte, looked at after `ratio_free_bytes`.
    pub ratio: u64,
    /// Decompressed bytes that no ratio is asked of: an almost empty file system compresses very well.
    pub ratio_free_bytes: u64,
    /// Bytes of one PAX header or long name: all xattrs of a file must fit.
    pub header_bytes: u64,
    /// Data regions of one sparse file (16 bytes each).
    pub extents: u64,
    /// Bytes of `metadata.yaml`.
    pub metadata_bytes: u64,
    /// Bytes of one template.
    pub template_bytes: u64,
    /// How many templates.
    pub templates: u64,
    /// User and group ids are below this number.
    pub ids: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            entries: 5_000_000,
            directories: 1_000_000,
            held_bytes: 256 << 20,
            bytes: 64 << 30,
            archive_bytes: 64 << 30,
            ratio: 1000,
            ratio_free_bytes: 64 << 20,
            header_bytes: 1 << 20,
            extents: 1 << 16,
            metadata_bytes: 1 << 20,
            template_bytes: 1 << 20,
            templates: 128,
            ids: model::IdMap::ORDINARY,
        }
    }
}

/// Which of the [`Limits`] was hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// [`Limits::entries`].
    Entries,
    /// [`Limits::directories`].
    Directories,
    /// [`Limits::held_bytes`].
    HeldBytes,
    /// [`Limits::bytes`].
    Bytes,
    /// [`Limits::archive_bytes`].
    ArchiveBytes,
    /// [`Limits::ratio`].
    Ratio,
    /// [`Limits::header_bytes`].
    HeaderBytes,
    /// [`Limits::extents`].
    Extents,
    /// [`Limits::metadata_bytes`].
    MetadataBytes,
    /// [`Limits::template_bytes`].
    TemplateBytes,
    /// [`Limits::templates`].
    Templates,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Limit::Entries => "entries",
            Limit::Directories => "directories",
            Limit::HeldBytes => "bytes of directories and hard links to remember",
            Limit::Bytes => "bytes of files",
            Limit::ArchiveBytes => "bytes",
            Limit::Ratio => "decompressed bytes per compressed byte",
            Limit::HeaderBytes => "bytes in one extended header",
            Limit::Extents => "regions in one sparse file",
            Limit::MetadataBytes => "bytes of metadata.yaml",
            Limit::TemplateBytes => "bytes in one template",
            Limit::Templates => "templates",
        })
    }
}

impl Limit {
    /// Fails when there is more than allowed.
    pub(crate) fn check(self, amount: u64, allowed: u64) -> Result<()> {
        if amount > allowed { Err(self.exceeded(allowed)) } else { Ok(()) }
    }

    /// The error for this limit.
    pub(crate) fn exceeded(self, allowed: u64) -> Error {
        Error::Limit { limit: self, allowed }
    }

    /// Adds to a sum that must stay within what is allowed, overflow included.
    pub(crate) fn add(self, sum: &mut u64, amount: u64, allowed: u64) -> Result<()> {
        *sum = sum.checked_add(amount).filter(|&sum| sum <= allowed).ok_or_else(|| self.exceeded(allowed))?;
        Ok(())
    }
}
