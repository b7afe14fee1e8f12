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
    /// What was read and could not be written, [`CHUNK`] at most: it goes before anything else is read.
    pub(crate) kept: Vec<u8>,
}

/// What came of reading a source into a ring.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum Filled {
    /// There may be more.
    Some,
    /// Nothing there now.
    Nothing,
    /// The kernel had no memory for it: it is kept, and to be tried again.
    Stuck,
    /// Nothing will follow.
    End,
}

impl Ring {
    /// An empty ring of `size` bytes.
    pub(crate) fn new(name: &str, size: u64) -> Result<Ring> {
        let memory = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&memory, size)?;
        Ok(Ring { memory, size, state: StreamState::default(), kept: Vec::new() })
    }

    /// A ring that another program of ours made.
    pub(crate) fn inherited(memory: OwnedFd, size: u64, state: StreamState, kept: Vec<u8>) -> Ring {
        Ring { memory, size, state, kept }
    }

    /// The file behind it.
    pub(crate) fn memory(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    /// How many bytes may be written before something unacknowledged is overwritten.
    pub(crate) fn space(&self) -> u64 {
        self.size - (self.state.head - self.state.tail)
    }

    /// Appends as much as fits between head and tail and the kernel has memory for; the rest is the caller's to keep.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> usize {
        let length = bytes.len().min(self.space() as usize);
        let mut written = 0;
        while written < length {
            let at = (self.state.head % self.size) as usize;
            let end = length.min(written + self.size as usize - at);
            match rustix::io::pwrite(&self.memory, &bytes[written..end], at as u64) {
                Ok(0) => break,
                Ok(count) => {
                    written += count;
                    self.state.head += count as u64;
                }
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        written
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

    /// Reads what a non-blocking source has now, as far as there is room. What was read is never lost: no more is read before
    /// it is written, so that whoever fills the source has to wait.
    pub(crate) fn fill(&mut self, source: BorrowedFd<'_>) -> Result<Filled> {
        if !self.kept.is_empty() {
            let kept = std::mem::take(&mut self.kept);
            return Ok(self.write_or_keep(&kept));
        }
        let room = (self.space() as usize).min(CHUNK);
        if room == 0 {
            return Ok(Filled::Nothing);
        }
        let mut buffer = [0u8; CHUNK];
        match rustix::io::read(source, &mut buffer[..room]) {
            // A terminal whose last slave was closed says EIO.
            Ok(0) | Err(Errno::IO) => Ok(Filled::End),
            Ok(length) => Ok(self.write_or_keep(&buffer[..length])),
            Err(Errno::AGAIN | Errno::INTR) => Ok(Filled::Nothing),
            Err(errno) => Err(errno),
        }
    }

    fn write_or_keep(&mut self, bytes: &[u8]) -> Filled {
        let written = self.write(bytes);
        self.kept.extend_from_slice(&bytes[written..]);
        if self.kept.is_empty() { Filled::Some } else { Filled::Stuck }
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
        assert_eq!(ring.write(b"abcdef"), 6);
        assert_eq!(ring.write(b"ghijkl"), 2);
        assert_eq!(content(&ring, 0, 8), b"abcdefgh");
        ring.acknowledge(3);
        assert_eq!(ring.write(b"ijkl"), 3);
        assert_eq!(content(&ring, 3, 11), b"defghijk");
    }

    #[test]
    fn acknowledgements_from_the_future_or_the_past_change_nothing() {
        let mut ring = Ring::new("test", 8).expect("memfd");
        ring.write(b"abcd");
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

    #[test]
    fn what_the_kernel_has_no_memory_for_is_kept_and_comes_in_its_order() {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).expect("pipe");
        let mut ring = Ring::new("test", 8).expect("memfd");
        rustix::io::write(&write, b"abc").expect("write");
        drop(write);
        // One that cannot be written to.
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&ring.memory));
        let unwritable = rustix::fs::open(path, rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).expect("open");
        let memory = std::mem::replace(&mut ring.memory, unwritable);
        for _ in 0..3 {
            assert_eq!(ring.fill(read.as_fd()).expect("fill"), Filled::Stuck);
        }
        assert_eq!((ring.state.head, &ring.kept[..]), (0, &b"abc"[..]));
        ring.memory = memory;
        assert_eq!(ring.fill(read.as_fd()).expect("fill"), Filled::Some);
        assert_eq!(content(&ring, 0, 3), b"abc");
        assert_eq!(ring.fill(read.as_fd()).expect("fill"), Filled::End);
    }
}
