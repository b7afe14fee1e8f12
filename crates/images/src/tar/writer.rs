//! Writing an archive as a stream, in the PAX format.

use std::io::Write;

use super::header::{self, Field};
use super::{BLOCK, Entry, Kind, Timestamp, pax, sparse};
use crate::{Error, Result, acl};

/// Writes entries and their data to a stream. The bytes depend on nothing but what is given.
pub struct Writer<W> {
    output: W,
    /// Data that the current entry has announced and not yet got.
    left: u64,
    /// Zeros behind that data up to the next block.
    padding: usize,
}

impl<W: Write> Writer<W> {
    /// Writes to `output`.
    pub fn new(output: W) -> Writer<W> {
        Writer { output, left: 0, padding: 0 }
    }

    /// Begins an entry. [`Entry::stored`] bytes of data must follow by [`Writer::data`] before the next one.
    pub fn begin(&mut self, entry: &Entry) -> Result<()> {
        self.end_entry(&entry.path)?;
        let name = archived_name(entry);
        let mut block = [0u8; BLOCK];
        let mut records = Vec::new();
        let map = sparse_map(entry);
        let stored = entry.stored() + map.as_ref().map_or(0, |map| map.len() as u64);

        if map.is_some() {
            let real_size = entry.size.to_string();
            pax::push_record(&mut records, b"GNU.sparse.major", b"1");
            pax::push_record(&mut records, b"GNU.sparse.minor", b"0");
            pax::push_record(&mut records, b"GNU.sparse.name", &name);
            pax::push_record(&mut records, b"GNU.sparse.realsize", real_size.as_bytes());
            put_text(&mut block, header::NAME, b"GNUSparseFile.0");
        } else if !put_name(&mut block, &name) {
            pax::push_record(&mut records, b"path", &name);
            put_text(&mut block, header::NAME, &name[..header::NAME.length]);
        }
        let target: Option<&[u8]> = match &entry.kind {
            Kind::HardLink(path) => Some(path.as_bytes()),
            Kind::Symlink(target) => Some(target),
            _ => None,
        };
        if let Some(target) = target {
            if target.len() > header::LINK.length {
                pax::push_record(&mut records, b"linkpath", target);
            }
            put_text(&mut block, header::LINK, &target[..target.len().min(header::LINK.length)]);
        }
        put_number(&mut block, header::MODE, u64::from(entry.mode));
        for (field, key, value) in
            [(header::UID, "uid", entry.uid), (header::GID, "gid", entry.gid), (header::SIZE, "size", stored)]
        {
            if !put_number(&mut block, field, value) {
                pax::push_record(&mut records, key.as_bytes(), value.to_string().as_bytes());
            }
        }
        put_time(&mut block, &mut records, entry.mtime);
        push_attributes(&mut records, entry);
        if !records.is_empty() {
            self.extended_header(&records)?;
        }
        self.header(&mut block, type_flag(&entry.kind), device(&entry.kind))?;
        self.left = entry.stored();
        self.padding = stored.next_multiple_of(BLOCK as u64).wrapping_sub(stored) as usize;
        self.write(&map.unwrap_or_default())
    }

    /// Data of the current entry: its extents one behind the other, without the holes.
    pub fn data(&mut self, bytes: &[u8]) -> Result<()> {
        debug_assert!(bytes.len() as u64 <= self.left, "more data than announced");
        self.left = self.left.saturating_sub(bytes.len() as u64);
        self.write(bytes)
    }

    /// Writes the end mark and hands the stream back; it is not flushed.
    pub fn finish(mut self) -> Result<W> {
        self.end_entry(&crate::ArchivePath::root())?;
        self.write(&[0; 2 * BLOCK])?;
        Ok(self.output)
    }

    fn end_entry(&mut self, next: &crate::ArchivePath) -> Result<()> {
        if self.left > 0 {
            // Going on would make an archive whose reader takes the next header for data.
            return Err(Error::Changed { path: format!("the entry before {next}") });
        }
        let padding = std::mem::take(&mut self.padding);
        self.write(&[0; BLOCK][..padding])
    }

    fn extended_header(&mut self, records: &[u8]) -> Result<()> {
        let mut block = [0u8; BLOCK];
        put_text(&mut block, header::NAME, b"PaxHeaders/entry");
        put_number(&mut block, header::MODE, 0o644);
        put_number(&mut block, header::UID, 0);
        put_number(&mut block, header::GID, 0);
        put_number(&mut block, header::SIZE, records.len() as u64);
        put_number(&mut block, header::MTIME, 0);
        self.header(&mut block, b'x', (0, 0))?;
        self.write(records)?;
        let padding = records.len().next_multiple_of(BLOCK) - records.len();
        self.write(&[0; BLOCK][..padding])
    }

    fn header(&mut self, block: &mut [u8; BLOCK], kind: u8, (major, minor): (u32, u32)) -> Result<()> {
        block[header::TYPE] = kind;
        put_number(block, header::MAJOR, u64::from(major));
        put_number(block, header::MINOR, u64::from(minor));
        put_text(block, header::MAGIC, header::USTAR);
        put_text(block, header::CHECKSUM, b"        ");
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        put_text(block, header::CHECKSUM, format!("{sum:06o}\0 ").as_bytes());
        self.write(block)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.output.write_all(bytes).map_err(Error::Output)
    }
}

/// The name as it stands in the archive: `./` for the root, a slash behind directories.
fn archived_name(entry: &Entry) -> Vec<u8> {
    if entry.path.is_root() {
        return b"./".to_vec();
    }
    let slash: &[u8] = if entry.kind == Kind::Directory { b"/" } else { b"" };
    [entry.path.as_bytes(), slash].concat()
}

/// The map to put in front of the data, when there is a hole anywhere.
fn sparse_map(entry: &Entry) -> Option<Vec<u8>> {
    let holes = entry.kind == Kind::File && entry.stored() != entry.size;
    holes.then(|| sparse::version_1_text(&entry.extents, entry.size))
}

fn type_flag(kind: &Kind) -> u8 {
    match kind {
        Kind::File => b'0',
        Kind::HardLink(_) => b'1',
        Kind::Symlink(_) => b'2',
        Kind::CharDevice { .. } => b'3',
        Kind::BlockDevice { .. } => b'4',
        Kind::Directory => b'5',
        Kind::Fifo => b'6',
    }
}

fn device(kind: &Kind) -> (u32, u32) {
    match *kind {
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => (major, minor),
        _ => (0, 0),
    }
}

fn push_attributes(records: &mut Vec<u8>, entry: &Entry) {
    for xattr in &entry.xattrs {
        // GNU tar restores access control lists only from their text.
        let list = match xattr.name.as_slice() {
            acl::ACCESS => Some(b"SCHILY.acl.access".as_slice()),
            acl::DEFAULT => Some(b"SCHILY.acl.default".as_slice()),
            _ => None,
        };
        match (list, acl::Acl::from_xattr(&xattr.value)) {
            (Some(key), Some(acl)) => pax::push_record(records, key, acl.to_text().as_bytes()),
            _ => {
                let key = [b"SCHILY.xattr.".as_slice(), &pax::percent_encoded(&xattr.name)].concat();
                pax::push_record(records, &key, &xattr.value);
            }
        }
    }
}

fn put_text(block: &mut [u8; BLOCK], field: Field, text: &[u8]) {
    block[field.start..field.start + text.len()].copy_from_slice(text);
}

/// Puts the name into its field, or into name and prefix split at a slash; false when it fits neither way.
fn put_name(block: &mut [u8; BLOCK], name: &[u8]) -> bool {
    if name.len() <= header::NAME.length {
        put_text(block, header::NAME, name);
        return true;
    }
    let fits = |slash: &usize| *slash <= header::PREFIX.length && name.len() - slash - 1 <= header::NAME.length;
    let slashes = (1..name.len() - 1).filter(|&place| name[place] == b'/');
    let Some(slash) = slashes.into_iter().find(fits) else { return false };
    put_text(block, header::PREFIX, &name[..slash]);
    put_text(block, header::NAME, &name[slash + 1..]);
    true
}

/// Puts octal digits into a field; 0 and false when there are too many.
fn put_number(block: &mut [u8; BLOCK], field: Field, value: u64) -> bool {
    let digits = field.length - 1;
    let fits = value >> (3 * digits) == 0;
    let value = if fits { value } else { 0 };
    put_text(block, field, format!("{value:0digits$o}").as_bytes());
    fits
}

fn put_time(block: &mut [u8; BLOCK], records: &mut Vec<u8>, time: Timestamp) {
    let whole = u64::try_from(time.seconds).unwrap_or(0);
    let exact = put_number(block, header::MTIME, whole) && time.seconds >= 0 && time.nanoseconds == 0;
    if !exact {
        pax::push_record(records, b"mtime", pax::timestamp_text(time).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tar::{Extent, Reader, Xattr};
    use crate::{ArchivePath, Limits};

    fn path(name: &[u8]) -> ArchivePath {
        ArchivePath::parse(name).expect("a good name")
    }

    fn round_trip(entries: &[(Entry, Vec<u8>)]) {
        let mut writer = Writer::new(Vec::new());
        for (entry, data) in entries {
            writer.begin(entry).expect("to memory");
            writer.data(data).expect("to memory");
        }
        let archive = writer.finish().expect("to memory");
        assert_eq!(archive.len() % BLOCK, 0);
        let mut reader = Reader::new(archive.as_slice(), Limits::default(), None);
        for (entry, data) in entries {
            let read = reader.next_entry().expect("own output").expect("not the end");
            assert_eq!(&read, entry);
            let mut got = Vec::new();
            loop {
                let chunk = reader.chunk(100).expect("own output");
                if chunk.is_empty() {
                    break;
                }
                got.extend_from_slice(chunk);
            }
            assert_eq!(&got, data);
        }
        assert_eq!(reader.next_entry().expect("own output"), None);
    }

    #[test]
    fn entries_of_all_kinds_are_read_back_as_written() {
        let mut odd = Entry::file(path(b"odd"), 0o4755, 3);
        (odd.uid, odd.gid) = (1_000_000_000, 3_000_000);
        odd.mtime = Timestamp { seconds: -5, nanoseconds: 25 };
        odd.xattrs.push(Xattr { name: b"user.a=b%".to_vec(), value: b"\n\0=\xff".to_vec() });
        let (list, _) = crate::acl::Acl::from_text(b"u::rwx,u:5:r--,g::---,m::r--,o::---").expect("well formed");
        odd.xattrs.push(Xattr { name: acl::ACCESS.to_vec(), value: list.to_xattr() });
        let new = |name: &[u8], kind| Entry::new(path(name), kind, 0o644);
        round_trip(&[
            (new(b".", Kind::Directory), vec![]),
            (odd, b"abc".to_vec()),
            (new(b"h", Kind::HardLink(path(b"odd"))), vec![]),
            (new(b"s\xff", Kind::Symlink(vec![b't'; 300])), vec![]),
            (new(b"f", Kind::Fifo), vec![]),
            (new(b"c", Kind::CharDevice { major: 1, minor: 3 }), vec![]),
            (new(b"b", Kind::BlockDevice { major: 254, minor: 70_000 }), vec![]),
            (Entry::file(path(b"exact"), 0o600, 512), vec![7; 512]),
        ]);
    }

    #[test]
    fn names_of_every_length_are_read_back_as_written() {
        let entries = (1..300).map(|length| {
            let name: Vec<u8> =
                (0..length).map(|at| if at % 50 == 49 && at + 1 < length { b'/' } else { b'n' }).collect();
            (Entry::new(path(&name), Kind::Directory, 0o755), vec![])
        });
        round_trip(&entries.collect::<Vec<_>>());
    }

    #[test]
    fn holes_are_not_stored() {
        let extents = (0..100).map(|n| Extent { offset: n * 1_000_000, length: 10 }).collect();
        let sparse = Entry { size: 100_000_000, extents, ..Entry::file(path(&[b'n'; 200]), 0o644, 0) };
        let hole = Entry { size: 1 << 30, ..Entry::file(path(b"hole"), 0o644, 0) };
        round_trip(&[(sparse, vec![1; 1000]), (hole, vec![])]);
    }
}
