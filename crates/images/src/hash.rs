//! Fingerprints, computed while the bytes go by.
//!
//! An image's fingerprint is the SHA-256 of the file it came in; of `metadata` and then `rootfs` when it came in two.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::rc::Rc;

use model::Fingerprint;
use sha2::{Digest, Sha256};

use crate::limits::Limit;
use crate::{Error, Limits, Result};

/// A fingerprint in the making.
#[derive(Debug, Clone, Default)]
pub struct Fingerprinter(Sha256);

impl Fingerprinter {
    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// What came of it.
    pub fn finish(self) -> Fingerprint {
        Fingerprint(self.0.finalize().into())
    }
}

/// Reads through, hashes and counts; ends in an error at the limit on the size of an archive.
pub struct HashingReader<'a, R> {
    input: R,
    hash: &'a mut Fingerprinter,
    counter: Rc<Cell<u64>>,
    allowed: u64,
}

impl<'a, R: Read> HashingReader<'a, R> {
    /// Hashes what is read from `input` into `hash` and adds its length to `counter`, which may hold that of a part
    /// before.
    pub fn new(input: R, hash: &'a mut Fingerprinter, counter: Rc<Cell<u64>>, limits: &Limits) -> Self {
        HashingReader { input, hash, counter, allowed: limits.archive_bytes }
    }

    /// Reads to the end, so that the hash covers what nobody asked for too.
    pub fn drain(&mut self) -> Result<()> {
        let mut waste = vec![0; 64 << 10];
        loop {
            match self.read(&mut waste) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::from_input(error)),
            }
        }
    }
}

impl<R: Read> Read for HashingReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            // Marked as ours, so that a decoder in between does not call it broken data.
            _ => Error::Input(error).into(),
        })?;
        self.hash.update(&buffer[..count]);
        self.counter.set(self.counter.get() + count as u64);
        Limit::ArchiveBytes.check(self.counter.get(), self.allowed)?;
        Ok(count)
    }
}

/// Writes through, hashes and counts.
pub struct HashingWriter<W> {
    output: W,
    hash: Fingerprinter,
    count: u64,
}

impl<W: Write> HashingWriter<W> {
    /// Hashes what is written to `output`.
    pub fn new(output: W) -> Self {
        HashingWriter { output, hash: Fingerprinter::default(), count: 0 }
    }

    /// The output, the fingerprint and the number of bytes.
    pub fn finish(self) -> (W, Fingerprint, u64) {
        (self.output, self.hash.finish(), self.count)
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.output.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_of_two_parts_is_that_of_both_in_a_row() {
        let (mut hash, counter) = (Fingerprinter::default(), Rc::new(Cell::new(0)));
        for part in [&b"ab"[..], b"c"] {
            let mut reader = HashingReader::new(part, &mut hash, counter.clone(), &Limits::default());
            reader.drain().expect("from memory");
        }
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((hash.finish().to_string().as_str(), counter.get()), (expected, 3));
        let mut writer = HashingWriter::new(Vec::new());
        writer.write_all(b"abc").expect("to memory");
        let (_, found, count) = writer.finish();
        assert_eq!((found.to_string().as_str(), count), (expected, 3));
    }

    #[test]
    fn an_endless_body_ends_at_the_limit() {
        let (mut hash, limits) = (Fingerprinter::default(), Limits { archive_bytes: 1 << 20, ..Limits::default() });
        let mut reader = HashingReader::new(io::repeat(7), &mut hash, Rc::default(), &limits);
        let error = reader.drain().expect_err("endless");
        assert!(matches!(error, Error::Limit { limit: Limit::ArchiveBytes, .. }), "{error}");
    }
}
