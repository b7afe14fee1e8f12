//! A stream's last bytes, in memory that the daemon can read without asking.
//!
//! The file behind it is anonymous (memfd): its pages are those of a tmpfs, it needs no name that could be left behind,
//! and it is passed to the daemon, and to our own next program, as a descriptor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kernel::{Errno, Result};
use runtime::protocol::StreamState;
use rustix::fs::MemfdFlags;

/// Bytes read at once: as much as a pipe holds by default would do, but this lies on a small stack.
const CHUNK: usize = 8192;

/// A ring of fixed size: byte `n` of the stream is at `n % size`.
#[derive(Debug)]
pub(crate) struct Ring {
    memory: OwnedFd,
    size: u64,
    /// Position in the stream, as the daemon knows it.
    pub(crate) state: StreamState,
}

/// What came of reading a source into a ring.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum Filled {
    /// There may be more.
    Some,
    /// Nothing there now.
    Nothing,
    /// Nothing will follow.
    End,
}

impl Ring {
    /// An empty ring of `size` bytes.
    pub(crate) fn new(name: &str, size: u64) -> Result<Ring> {
        let memory = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&memory, size)?;
        Ok(Ring { memory, size, state: StreamState::default() })
    }

    /// A ring that another program of ours made.
    pub(crate) fn inherited(memory: OwnedFd, size: u64, state: StreamState) -> Ring {
        Ring { memory, size, state }
    }

    /// The file behind it.
    pub(crate) fn memory(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    /// How many bytes may be written before something unacknowledged is overwritten.
    pub(crate) fn space(&self) -> u64 {
        self.size - (self.state.head - self.state.tail)
    }

    /// Appends; what does not fit between head and tail is the caller's to keep.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let length = bytes.len().min(self.space() as usize);
        let at = (self.state.head % self.size) as usize;
        let first = length.min(self.size as usize - at);
        rustix::io::pwrite(&self.memory, &bytes[..first], at as u64)?;
        if first < length {
            rustix::io::pwrite(&self.memory, &bytes[first..length], 0)?;
        }
        self.state.head += length as u64;
        Ok(length)
    }

    /// Everything below `offset` arrived. Positions that were never written are ignored.
    pub(crate) fn acknowledge(&mut self, offset: u64) {
        if offset <= self.state.head {
            self.state.tail = self.state.tail.max(offset);
        }
    }

    /// Everything was written and everything arrived.
    pub(crate) fn is_over(&self) -> bool {
        self.state.eof && self.state.tail == self.state.head
    }

    /// Gives its pages back; only for one that is over.
    pub(crate) fn release(&self) {
        let _ = rustix::fs::ftruncate(&self.memory, 0);
    }

    /// Makes room by forgetting the oldest bytes, for a ring that nobody must acknowledge.
    pub(crate) fn forget_for(&mut self, length: u64) {
        self.state.tail = self.state.tail.max((self.state.head + length).saturating_sub(self.size));
    }

    /// Reads what a non-blocking source has now, as far as there is room.
    pub(crate) fn fill(&mut self, source: BorrowedFd<'_>) -> Result<Filled> {
        let room = (self.space() as usize).min(CHUNK);
        if room == 0 {
            return Ok(Filled::Nothing);
        }
        let mut buffer = [0u8; CHUNK];
        match rustix::io::read(source, &mut buffer[..room]) {
            // A terminal whose last slave was closed says EIO.
            Ok(0) | Err(Errno::IO) => Ok(Filled::End),
            Ok(length) => self.write(&buffer[..length]).map(|_| Filled::Some),
            Err(Errno::AGAIN | Errno::INTR) => Ok(Filled::Nothing),
            Err(errno) => Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(ring: &Ring, from: u64, to: u64) -> Vec<u8> {
        (from..to)
            .map(|n| {
                let mut byte = [0u8; 1];
                rustix::io::pread(ring.memory(), &mut byte, n % ring.size).expect("pread");
                byte[0]
            })
            .collect()
    }

    #[test]
    fn nothing_unacknowledged_is_overwritten() {
        let mut ring = Ring::new("test", 8).expect("memfd");
        assert_eq!(ring.write(b"abcdef").expect("write"), 6);
        assert_eq!(ring.write(b"ghijkl").expect("write"), 2);
        assert_eq!(content(&ring, 0, 8), b"abcdefgh");
        ring.acknowledge(3);
        assert_eq!(ring.write(b"ijkl").expect("write"), 3);
        assert_eq!(content(&ring, 3, 11), b"defghijk");
    }

    #[test]
    fn acknowledgements_from_the_future_or_the_past_change_nothing() {
        let mut ring = Ring::new("test", 8).expect("memfd");
        ring.write(b"abcd").expect("write");
        ring.acknowledge(2);
        ring.acknowledge(1);
        ring.acknowledge(5);
        assert_eq!(ring.state.tail, 2);
    }

    #[test]
    fn a_source_is_read_until_the_ring_is_full_and_to_its_end() {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).expect("pipe");
        let mut ring = Ring::new("test", 4).expect("memfd");
        rustix::io::write(&write, b"abcdef").expect("write");
        assert_eq!(ring.fill(read.as_fd()).expect("fill"), Filled::Some);
        assert_eq!(ring.fill(read.as_fd()).expect("fill"), Filled::Nothing);
        ring.acknowledge(4);
        assert_eq!(ring.fill(read.as_fd()).expect("fill"), Filled::Some);
        assert_eq!(content(&ring, 4, 6), b"ef");
        drop(write);
        assert_eq!(ring.fill(read.as_fd()).expect("fill"), Filled::End);
    }
}
