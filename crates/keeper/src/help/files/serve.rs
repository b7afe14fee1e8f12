//! Packets in, packets out, until somebody has had enough.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kernel::Errno;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::net::SendFlags;
use sftp::{Code, MAX_PACKET, Malformed, Reply, Request};

use super::enter::Place;
use super::operations::Files;

/// Answers are sent when there are so many bytes of them, or nothing more to answer: pipelined requests cost one call.
const FLUSH: usize = 64 * 1024;

/// Seconds after which a request has not come back from the disk but from a file system of the guest's that never will.
const DEADLINE: u32 = 120;

/// Seconds in which a client that cannot be served must have asked for something, to be told why.
const REFUSAL: u32 = 10;

/// The conversation is over; nobody is left to be told why.
struct Over;

/// Serves the files of a place.
pub(super) fn serve(socket: &OwnedFd, place: Place) {
    let mut files = Files::new(place.root);
    let mut stream = Stream::new(socket, Some(place.watch.as_fd()));
    let _ = stream.talk(|id, request, out| {
        kernel::signal::deadline(DEADLINE);
        files.answer(id, request, out);
        kernel::signal::deadline(0);
        Ok(())
    });
}

/// Answers the first request with why nothing can be served: a client shows that, where a closed stream would say nothing.
pub(super) fn refuse(socket: &OwnedFd, message: &str) {
    let mut stream = Stream::new(socket, None);
    // Whatever was done before it failed must not stand in anybody's way for long.
    kernel::signal::deadline(REFUSAL);
    let _ = stream.talk(|id, _, out| {
        Reply::Status(Code::Failure, message).encode(id, out);
        Err(Over)
    });
    let _ = send(socket, None, &mut stream.out);
}

struct Stream<'a> {
    socket: &'a OwnedFd,
    watch: Option<BorrowedFd<'a>>,
    /// Room for one packet of the largest size.
    input: Vec<u8>,
    filled: usize,
    out: Vec<u8>,
}

impl<'a> Stream<'a> {
    fn new(socket: &'a OwnedFd, watch: Option<BorrowedFd<'a>>) -> Stream<'a> {
        let _ = rustix::fs::fcntl_setfl(socket, OFlags::RDWR | OFlags::NONBLOCK);
        Stream { socket, watch, input: vec![0; MAX_PACKET + 4], filled: 0, out: Vec::new() }
    }

    fn talk(
        &mut self,
        mut answer: impl FnMut(u32, &Request<'_>, &mut Vec<u8>) -> Result<(), Over>,
    ) -> Result<(), Over> {
        let mut greeted = false;
        loop {
            let mut at = 0;
            while let Some((packet, used)) = sftp::split(&self.input[at..self.filled]).map_err(|_| Over)? {
                at += used;
                match Request::decode(packet) {
                    // Whatever newer version they speak, we meet at ours.
                    Ok((_, Request::Init { version })) if !greeted && version >= sftp::VERSION => {
                        greeted = true;
                        Reply::Version(sftp::VERSION).encode(0, &mut self.out);
                    }
                    _ if !greeted => return Err(Over),
                    Ok((id, request)) => answer(id, &request, &mut self.out)?,
                    Err(Malformed::Fields(id)) => {
                        Reply::Status(Code::BadMessage, "the request is malformed").encode(id, &mut self.out);
                    }
                    Err(Malformed::Unknown(id)) => {
                        Reply::Status(Code::Unsupported, "not supported").encode(id, &mut self.out);
                    }
                    Err(Malformed::NoId | Malformed::Length) => return Err(Over),
                }
                if self.out.len() >= FLUSH {
                    send(self.socket, self.watch, &mut self.out)?;
                }
            }
            self.input.copy_within(at..self.filled, 0);
            self.filled -= at;
            send(self.socket, self.watch, &mut self.out)?;
            self.receive()?;
        }
    }

    /// Waits for more. There is always room: a packet that would not fit was refused by its length.
    fn receive(&mut self) -> Result<(), Over> {
        loop {
            wait(self.socket, self.watch, PollFlags::IN)?;
            match rustix::io::read(self.socket, &mut self.input[self.filled..]) {
                Ok(0) => return Err(Over),
                Ok(count) => {
                    self.filled += count;
                    return Ok(());
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => return Err(Over),
            }
        }
    }
}

/// Sends all of it; as long as the peer does not read, nothing more is read from it either.
fn send(socket: &OwnedFd, watch: Option<BorrowedFd<'_>>, out: &mut Vec<u8>) -> Result<(), Over> {
    let mut rest = &out[..];
    while !rest.is_empty() {
        match rustix::net::send(socket, rest, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(count) => rest = &rest[count..],
            Err(Errno::AGAIN) => wait(socket, watch, PollFlags::OUT)?,
            Err(Errno::INTR) => {}
            Err(_) => return Err(Over),
        }
    }
    out.clear();
    Ok(())
}

fn wait(socket: &OwnedFd, watch: Option<BorrowedFd<'_>>, what: PollFlags) -> Result<(), Over> {
    let mut fds = vec![PollFd::new(socket, what)];
    fds.extend(watch.map(|watch| PollFd::from_borrowed_fd(watch, PollFlags::IN)));
    match rustix::event::poll(&mut fds, None) {
        // The guest ended, or its next start wants the root file system.
        Ok(_) if fds.get(1).is_some_and(|watch| !watch.revents().is_empty()) => Err(Over),
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(_) => Err(Over),
    }
}
