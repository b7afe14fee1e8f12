//! Reading an archive as a stream.

use std::cell::Cell;
use std::io::{ErrorKind, Read};
use std::rc::Rc;

use super::header::{self, Header};
use super::pax::{Overrides, Problem};
use super::{BLOCK, Entry, Extent, Kind, Xattr, set_xattr, sparse};
use crate::archive_path::{LONGEST_PATH, escaped};
use crate::error::HeaderProblem;
use crate::limits::Limit;
use crate::{ArchivePath, Error, Limits, Result, acl};

/// Large, so that most files go to disk in one write straight from here.
const BUFFER: usize = 256 << 10;

/// Reads entries and their data from a stream, within [`Limits`]. Nothing is believed before it is checked.
pub struct Reader<R> {
    source: Source<R>,
    limits: Limits,
    /// Entries begun so far, extension headers included.
    entries: u64,
    /// Bytes of files announced so far, holes included.
    bytes: u64,
    /// Data of the current entry that nobody has taken yet.
    left: u64,
    /// Bytes behind that data up to the next block.
    padding: u64,
    global: Overrides,
}

/// What extension headers have said about the entry to come.
#[derive(Default)]
struct Pending {
    local: Overrides,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    any: bool,
}

impl<R: Read> Reader<R> {
    /// Reads from `input`, which is decompressed already. `arrived` tells how many compressed bytes were needed for it so
    /// far; the ratio of the two is bounded.
    pub fn new(input: R, limits: Limits, arrived: Option<Rc<Cell<u64>>>) -> Reader<R> {
        let buffer = vec![0; BUFFER].into_boxed_slice();
        let source = Source { input, buffer, start: 0, end: 0, total: 0, limits, arrived };
        Reader { source, limits, entries: 0, bytes: 0, left: 0, padding: 0, global: Overrides::default() }
    }

    /// The next entry, or `None` at the archive's end mark. Data of the former entry that was not taken is skipped.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        self.source.skip(self.left + self.padding)?;
        (self.left, self.padding) = (0, 0);
        let mut pending = Pending::default();
        loop {
            Limit::Entries.add(&mut self.entries, 1, self.limits.entries)?;
            let block = self.source.block()?;
            if block.iter().all(|&byte| byte == 0) {
                return if pending.any { Err(self.wrong(HeaderProblem::Dangling)) } else { Ok(None) };
            }
            let header = Header::checked(block).map_err(|problem| self.wrong(problem))?;
            match header.kind() {
                b'x' | b'X' => {
                    let records = self.extension(&header)?;
                    pending.local.parse(&records, &self.limits).map_err(|problem| self.pax_wrong(problem))?;
                    pending.any = true;
                }
                b'g' => {
                    let records = self.extension(&header)?;
                    let mut global = std::mem::take(&mut self.global);
                    global.parse(&records, &self.limits).map_err(|problem| self.pax_wrong(problem))?;
                    global.check_global().map_err(|problem| self.wrong(problem))?;
                    self.global = global;
                }
                b'L' => {
                    pending.long_name = Some(self.long_text(&header)?);
                    pending.any = true;
                }
                b'K' => {
                    pending.long_link = Some(self.long_text(&header)?);
                    pending.any = true;
                }
                // A label of the whole archive.
                b'V' => drop(self.extension(&header)?),
                _ => return self.entry(&header, pending).map(Some),
            }
        }
    }

    /// The next piece of the current entry's data, at most `most` bytes; empty when all was taken.
    pub fn chunk(&mut self, most: u64) -> Result<&[u8]> {
        let chunk = self.source.chunk(self.left.min(most))?;
        self.left -= chunk.len() as u64;
        Ok(chunk)
    }

    /// How many entries were begun, extension headers included.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Bytes of all files so far, holes included.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn wrong(&self, problem: HeaderProblem) -> Error {
        Error::Header { entry: self.entries, problem }
    }

    fn pax_wrong(&self, problem: Problem) -> Error {
        match problem {
            Problem::Header(problem) => self.wrong(problem),
            Problem::Other(error) => error,
        }
    }

    fn path(&self, name: &[u8]) -> Result<ArchivePath> {
        ArchivePath::parse(name).map_err(|problem| Error::Path { entry: self.entries, path: escaped(name), problem })
    }

    /// The data of an extension header, all of it in memory.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>> {
        let size = header.natural(header::SIZE).map_err(|problem| self.wrong(problem))?;
        Limit::HeaderBytes.check(size, self.limits.header_bytes)?;
        let mut data = Vec::with_capacity(size as usize);
        while data.len() < size as usize {
            data.extend_from_slice(self.source.chunk(size - data.len() as u64)?);
        }
        self.source.skip(padding(size))?;
        Ok(data)
    }

    /// GNU's long name: text with NULs behind it.
    fn long_text(&mut self, header: &Header) -> Result<Vec<u8>> {
        let mut text = self.extension(header)?;
        let end = text.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        text.truncate(end);
        Ok(text)
    }

    fn entry(&mut self, header: &Header, pending: Pending) -> Result<Entry> {
        let Pending { local, long_name, long_link, .. } = pending;
        let wrong = |problem| Error::Header { entry: self.entries, problem };
        let natural = |field| header.natural(field).map_err(wrong);

        let sparse_name = local.sparse.name.clone();
        let name = sparse_name.or_else(|| local.path.clone()).or(long_name).unwrap_or_else(|| header.name());
        let path = self.path(&name)?;
        let link = local.link.clone().or(long_link).unwrap_or_else(|| header.text(header::LINK).to_vec());
        let kind = self.kind(header, link)?;

        let given = local.uid.or(self.global.uid).map_or_else(|| natural(header::UID), Ok);
        let group = local.gid.or(self.global.gid).map_or_else(|| natural(header::GID), Ok);
        let mtime = match local.mtime.or(self.global.mtime) {
            Some(mtime) => mtime,
            None => super::Timestamp { seconds: header.number(header::MTIME).map_err(wrong)?, nanoseconds: 0 },
        };
        let mut entry = Entry::new(path, kind, (natural(header::MODE)? & 0o7777) as u32);
        (entry.uid, entry.gid, entry.mtime) = (given?, group?, mtime);
        (entry.xattrs, entry.nameless_acl_entries) = self.xattrs(&local)?;
        let stored = local.size.map_or_else(|| natural(header::SIZE), Ok)?;
        self.data(header, &local, stored, &mut entry)?;
        Limit::Bytes.add(&mut self.bytes, entry.size, self.limits.bytes)?;
        Ok(entry)
    }

    fn kind(&self, header: &Header, link: Vec<u8>) -> Result<Kind> {
        let number = |field| {
            let number = header.natural(field).map_err(|problem| self.wrong(problem))?;
            u32::try_from(number).map_err(|_| self.wrong(HeaderProblem::Number("device")))
        };
        Ok(match header.kind() {
            b'0' | b'S' => Kind::File,
            b'1' => Kind::HardLink(self.path(&link)?),
            b'2' if link.is_empty() || link.len() >= LONGEST_PATH || link.contains(&0) => {
                return Err(self.wrong(HeaderProblem::Target));
            }
            b'2' => Kind::Symlink(link),
            b'3' => Kind::CharDevice { major: number(header::MAJOR)?, minor: number(header::MINOR)? },
            b'4' => Kind::BlockDevice { major: number(header::MAJOR)?, minor: number(header::MINOR)? },
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'D' | b'M' | b'N' => return Err(self.wrong(HeaderProblem::Incremental)),
            other => return Err(self.wrong(HeaderProblem::Type(other))),
        })
    }

    /// The attributes, access control lists turned into attributes too.
    fn xattrs(&self, local: &Overrides) -> Result<(Vec<Xattr>, u32)> {
        let (mut xattrs, mut nameless) = (local.xattrs.clone(), 0);
        for (name, text) in [(acl::ACCESS, &local.acl_access), (acl::DEFAULT, &local.acl_default)] {
            // Where an archive has both forms, the binary one has the numbers.
            let Some(text) = text.as_ref().filter(|_| !xattrs.iter().any(|xattr| xattr.name == name)) else { continue };
            let (acl, left_out) = acl::Acl::from_text(text).ok_or(self.wrong(HeaderProblem::Acl))?;
            nameless += left_out;
            set_xattr(&mut xattrs, name.to_vec(), acl.to_xattr());
        }
        Ok((xattrs, nameless))
    }

    /// Works out where the data belongs and remembers how much of it follows.
    fn data(&mut self, header: &Header, local: &Overrides, stored: u64, entry: &mut Entry) -> Result<()> {
        if entry.kind != Kind::File {
            // Some programs give directories a size, but none puts data there.
            let announced = stored != 0 && entry.kind != Kind::Directory;
            return if announced { Err(self.wrong(HeaderProblem::UnexpectedData)) } else { Ok(()) };
        }
        let mut left = stored;
        let map = if header.kind() == b'S' {
            Some(self.old_gnu_map(header)?)
        } else if local.sparse.present {
            let real_size = local.sparse.real_size.ok_or(self.wrong(HeaderProblem::Sparse))?;
            let in_data = local.sparse.major == 1;
            Some((if in_data { self.leading_map(&mut left)? } else { local.sparse.map.clone() }, real_size))
        } else {
            None
        };
        (entry.size, entry.extents) = match map {
            Some((map, real_size)) => {
                (real_size, sparse::checked(map, real_size, left).map_err(|problem| self.wrong(problem))?)
            }
            None if left == 0 => (0, Vec::new()),
            None => (left, vec![Extent { offset: 0, length: left }]),
        };
        (self.left, self.padding) = (left, padding(left));
        Ok(())
    }

    fn old_gnu_map(&mut self, header: &Header) -> Result<(Vec<Extent>, u64)> {
        let mut map = Vec::new();
        let (mut more, real_size) = sparse::old_gnu(header, &mut map).map_err(|problem| self.wrong(problem))?;
        while more {
            let block = self.source.block()?;
            more = sparse::old_gnu_extension(&block, &mut map).map_err(|problem| self.wrong(problem))?;
            Limit::Extents.check(map.len() as u64, self.limits.extents)?;
        }
        Ok((map, real_size))
    }

    /// The map of sparse version 1.0, which stands in front of the data and is counted with it.
    fn leading_map(&mut self, left: &mut u64) -> Result<Vec<Extent>> {
        let mut numbers = Numbers { block: [0; BLOCK], at: BLOCK };
        let count = self.map_number(&mut numbers, left)?;
        Limit::Extents.check(count, self.limits.extents)?;
        let mut map = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let (offset, length) = (self.map_number(&mut numbers, left)?, self.map_number(&mut numbers, left)?);
            map.push(Extent { offset, length });
        }
        Ok(map)
    }

    fn map_number(&mut self, numbers: &mut Numbers, left: &mut u64) -> Result<u64> {
        let mut digits = Vec::with_capacity(20);
        loop {
            if numbers.at == BLOCK {
                *left = left.checked_sub(BLOCK as u64).ok_or(self.wrong(HeaderProblem::Sparse))?;
                *numbers = Numbers { block: self.source.block()?, at: 0 };
            }
            let byte = numbers.block[numbers.at];
            numbers.at += 1;
            match byte {
                b'\n' => return super::pax::natural(&digits).ok_or(self.wrong(HeaderProblem::Sparse)),
                b'0'..=b'9' if digits.len() < 20 => digits.push(byte),
                _ => return Err(self.wrong(HeaderProblem::Sparse)),
            }
        }
    }
}

/// Decimal numbers in blocks of the data.
struct Numbers {
    block: [u8; BLOCK],
    at: usize,
}

/// Bytes from the end of `size` bytes of data to the next block.
fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

/// The stream with a buffer that hands out pieces of itself.
struct Source<R> {
    input: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Decompressed bytes read.
    total: u64,
    limits: Limits,
    arrived: Option<Rc<Cell<u64>>>,
}

impl<R: Read> Source<R> {
    /// Reads more behind what is there; fails at the end of the stream.
    fn fill(&mut self) -> Result<()> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let count = loop {
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(count) => break count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::from_input(error)),
            }
        };
        if count == 0 {
            return Err(Error::Truncated { bytes: self.total });
        }
        self.end += count;
        self.total += count as u64;
        Limit::Bytes.check(self.total, self.limits.bytes)?;
        let arrived = self.arrived.as_ref().map_or(u64::MAX, |arrived| arrived.get());
        if self.total > self.limits.ratio_free_bytes && self.total > arrived.saturating_mul(self.limits.ratio) {
            return Err(Limit::Ratio.exceeded(self.limits.ratio));
        }
        Ok(())
    }

    fn block(&mut self) -> Result<[u8; BLOCK]> {
        while self.end - self.start < BLOCK {
            self.fill()?;
        }
        let mut block = [0; BLOCK];
        block.copy_from_slice(&self.buffer[self.start..self.start + BLOCK]);
        self.start += BLOCK;
        Ok(block)
    }

    /// At least one and at most `most` bytes; empty only if `most` is 0.
    fn chunk(&mut self, most: u64) -> Result<&[u8]> {
        if most > 0 && self.start == self.end {
            self.fill()?;
        }
        let length = most.min((self.end - self.start) as u64) as usize;
        let start = self.start;
        self.start += length;
        Ok(&self.buffer[start..start + length])
    }

    fn skip(&mut self, mut count: u64) -> Result<()> {
        while count > 0 {
            count -= self.chunk(count)?.len() as u64;
        }
        Ok(())
    }
}
