//! Bytes of an image in, a tree below a directory descriptor out.
//!
//! Two layouts exist. *Unified*: one archive with `metadata.yaml`, `templates/…` and `rootfs/…`. *Split*: an archive with
//! the first two, and one whose root is the root file system. Whatever else they hold is left out and counted.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use model::Fingerprint;

use crate::apply::{Applier, LeftOut};
use crate::archive_path::escaped;
use crate::compress::{Compression, Decoder};
use crate::hash::{Fingerprinter, HashingReader};
use crate::limits::Limit;
use crate::metadata::{ImageMetadata, is_template_name};
use crate::tar::{BLOCK, Entry, Kind, Reader};
use crate::{Error, Limits, Result};

/// How an image is to be unpacked.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What it may hold.
    pub limits: Limits,
    /// What its fingerprint must be; an image that has another one is an error after all of it was read.
    pub expected: Option<Fingerprint>,
}

/// How far an unpack is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes of the input (compressed) read so far.
    pub bytes_in: u64,
    /// Entries of the archive begun so far.
    pub entries: u64,
}

/// Called after every entry and every 256 KiB of a file: keep it cheap.
pub type OnProgress<'a> = &'a mut dyn FnMut(Progress);

/// An image that was unpacked; its tree is below the descriptor that was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// SHA-256 of the bytes that came.
    pub fingerprint: Fingerprint,
    /// How many bytes came.
    pub archive_bytes: u64,
    /// Entries of the archive or archives.
    pub entries: u64,
    /// Bytes of all files, holes included.
    pub bytes: u64,
    /// What was left out.
    pub left_out: LeftOut,
    /// `metadata.yaml`, parsed.
    pub metadata: ImageMetadata,
    /// `metadata.yaml` as it came.
    pub metadata_text: String,
    /// Templates by file name; every one that the metadata refers to is there.
    pub templates: BTreeMap<String, Vec<u8>>,
}

/// Unpacks an image in one file below `root`, an empty directory. On error the directory holds a part of it, for the
/// caller to throw away; nothing is durable before the caller's `syncfs`.
pub fn unpack_unified(
    input: impl Read,
    root: BorrowedFd<'_>,
    options: &Options,
    progress: OnProgress<'_>,
) -> Result<Unpacked> {
    let mut unpack = Unpack::new(root, options)?;
    unpack.stream(input, Layout::Unified, progress)?;
    unpack.finish(options)
}

/// Unpacks an image in two files, as [`unpack_unified`] does. `metadata` is read to its end before `rootfs` is touched.
pub fn unpack_split(
    metadata: impl Read,
    rootfs: impl Read,
    root: BorrowedFd<'_>,
    options: &Options,
    progress: OnProgress<'_>,
) -> Result<Unpacked> {
    let mut unpack = Unpack::new(root, options)?;
    unpack.stream(metadata, Layout::Metadata, progress)?;
    unpack.stream(rootfs, Layout::Rootfs, progress)?;
    unpack.finish(options)
}

/// Which entries an archive is expected to hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    Unified,
    Metadata,
    Rootfs,
}

/// Where an entry belongs. Paths in `Root` entries are below the root file system.
enum Place {
    Root(Entry),
    Metadata,
    Template(String),
    Foreign,
}

struct Unpack<'fd> {
    applier: Applier<'fd>,
    limits: Limits,
    hash: Fingerprinter,
    arrived: Rc<Cell<u64>>,
    entries: u64,
    bytes: u64,
    root_entries: u64,
    metadata: Option<Vec<u8>>,
    templates: BTreeMap<String, Vec<u8>>,
}

impl<'fd> Unpack<'fd> {
    fn new(root: BorrowedFd<'fd>, options: &Options) -> Result<Unpack<'fd>> {
        Ok(Unpack {
            applier: Applier::new(root, options.limits)?,
            limits: options.limits,
            hash: Fingerprinter::default(),
            arrived: Rc::default(),
            entries: 0,
            bytes: 0,
            root_entries: 0,
            metadata: None,
            templates: BTreeMap::new(),
        })
    }

    fn stream(&mut self, input: impl Read, layout: Layout, progress: OnProgress<'_>) -> Result<()> {
        // The hash leaves while the stream runs, as everything else of `self` is needed too.
        let mut hash = std::mem::take(&mut self.hash);
        let mut hashing = HashingReader::new(input, &mut hash, self.arrived.clone(), &self.limits);
        let mut reader = Reader::new(decoder(&mut hashing)?, self.limits, Some(self.arrived.clone()));
        let before = self.entries;
        while let Some(entry) = reader.next_entry()? {
            self.entries = before + reader.entries();
            Limit::Entries.check(self.entries, self.limits.entries)?;
            Limit::Bytes.check(self.bytes + reader.bytes(), self.limits.bytes)?;
            self.entry(entry, layout, &mut reader, progress)?;
            progress(Progress { bytes_in: self.arrived.get(), entries: self.entries });
        }
        self.bytes += reader.bytes();
        drop(reader);
        hashing.drain()?;
        self.hash = hash;
        Ok(())
    }

    fn entry<R: Read>(
        &mut self,
        entry: Entry,
        layout: Layout,
        reader: &mut Reader<R>,
        progress: OnProgress<'_>,
    ) -> Result<()> {
        match place(entry, layout)? {
            Place::Root(entry) => {
                self.root_entries += 1;
                let (arrived, entries) = (&self.arrived, self.entries);
                self.applier.apply(&entry, reader, &mut || progress(Progress { bytes_in: arrived.get(), entries }))
            }
            Place::Metadata => {
                if self.metadata.is_some() {
                    return Err(Error::Duplicate { path: "metadata.yaml".to_owned() });
                }
                self.metadata = Some(read_small(reader, Limit::MetadataBytes, self.limits.metadata_bytes)?);
                Ok(())
            }
            Place::Template(name) => {
                let content = read_small(reader, Limit::TemplateBytes, self.limits.template_bytes)?;
                if self.templates.insert(name.clone(), content).is_some() {
                    return Err(Error::Duplicate { path: format!("templates/{name}") });
                }
                Limit::Templates.check(self.templates.len() as u64, self.limits.templates)
            }
            Place::Foreign => {
                self.applier.leave_out_foreign();
                Ok(())
            }
        }
    }

    fn finish(self, options: &Options) -> Result<Unpacked> {
        let found = self.hash.finish();
        if let Some(expected) = options.expected.filter(|expected| *expected != found) {
            return Err(Error::Fingerprint { expected, found });
        }
        let text = self.metadata.ok_or(Error::NoMetadata)?;
        let metadata = ImageMetadata::parse(&text, &options.limits)?;
        if let Some(name) = metadata.template_names().find(|name| !self.templates.contains_key(*name)) {
            return Err(Error::Metadata { problem: format!("the template {name} is not in the image") });
        }
        if self.root_entries == 0 {
            return Err(Error::TopLevel { path: "rootfs".to_owned(), problem: "the image holds no root file system" });
        }
        Ok(Unpacked {
            fingerprint: found,
            archive_bytes: self.arrived.get(),
            entries: self.entries,
            bytes: self.bytes,
            left_out: self.applier.finish()?,
            metadata,
            metadata_text: String::from_utf8(text).map_err(|error| Error::Metadata { problem: error.to_string() })?,
            templates: self.templates,
        })
    }
}

/// Looks at the first bytes and decompresses accordingly.
fn decoder<R: Read>(input: R) -> Result<Decoder<impl BufRead>> {
    let mut input = BufReader::with_capacity(128 << 10, input);
    let mut head = Vec::with_capacity(BLOCK);
    input.by_ref().take(BLOCK as u64).read_to_end(&mut head).map_err(Error::from_input)?;
    let format = Compression::detect(&head)?;
    Decoder::new(format, Cursor::new(head).chain(input))
}

fn place(mut entry: Entry, layout: Layout) -> Result<Place> {
    if layout == Layout::Rootfs {
        return Ok(Place::Root(entry));
    }
    let wrong = |entry: &Entry, problem| Err(Error::TopLevel { path: entry.path.to_string(), problem });
    let Some((top, rest)) = entry.path.split_first() else { return Ok(Place::Foreign) };
    match (top, rest.is_root()) {
        (b"rootfs", _) if layout == Layout::Metadata => {
            wrong(&entry, "the metadata of an image in two files must not hold a root file system")
        }
        (b"rootfs", true) if entry.kind != Kind::Directory => wrong(&entry, "must be a directory"),
        (b"rootfs", _) => {
            entry.path = rest;
            if let Kind::HardLink(target) = &mut entry.kind {
                match target.split_first() {
                    Some((b"rootfs", below)) => *target = below,
                    _ => {
                        return Err(Error::LinkTarget {
                            path: entry.path.to_string(),
                            target: escaped(target.as_bytes()),
                            problem: "which is outside the root file system",
                        });
                    }
                }
            }
            Ok(Place::Root(entry))
        }
        (b"rootfs.img", true) => Err(Error::Unsupported {
            what: "virtual machine",
            hint: "it holds a disk; take the container variant of the image",
        }),
        (b"rootfs.squashfs", true) => Err(Error::Unsupported {
            what: "squashfs",
            hint: "take the variant of the image with a tar archive (rootfs.tar.xz)",
        }),
        (b"metadata.yaml", true) if entry.kind == Kind::File => Ok(Place::Metadata),
        (b"metadata.yaml", _) => wrong(&entry, "must be a file"),
        (b"templates", true) if entry.kind == Kind::Directory => Ok(Place::Foreign),
        (b"templates", true) => wrong(&entry, "must be a directory"),
        (b"templates", false) if entry.kind == Kind::File && is_template_name(rest.as_bytes()) => {
            Ok(Place::Template(rest.to_string()))
        }
        (b"templates", false) => wrong(&entry, "must be a file with a plain name"),
        _ => Ok(Place::Foreign),
    }
}

/// All data of the current entry. Holes of a sparse file are closed up, which no text has.
fn read_small<R: Read>(reader: &mut Reader<R>, limit: Limit, allowed: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let chunk = reader.chunk(u64::MAX)?;
        if chunk.is_empty() {
            return Ok(bytes);
        }
        bytes.extend_from_slice(chunk);
        limit.check(bytes.len() as u64, allowed)?;
    }
}
