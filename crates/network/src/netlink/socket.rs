//! A netlink socket that asks and gets its answer before it returns.

use std::os::fd::{AsFd, OwnedFd};

use kernel::Errno;
use kernel::netlink::{NetlinkOption, enable};
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::read::{self, Attributes, Reader};
use super::{Batch, DUMP, HEADER};
use crate::{Error, Result};

const KIND_ERROR: u16 = 2;
const KIND_DONE: u16 = 3;
/// More of the list follows (`NLM_F_MULTI`).
const PART: u16 = 0x02;
/// The list changed while it was dumped (`NLM_F_DUMP_INTR`).
const INTERRUPTED: u16 = 0x10;
/// The refusal leaves out the request's attributes (`NLM_F_CAPPED`).
const CAPPED: u16 = 0x100;
/// Attributes follow the refusal (`NLM_F_ACK_TLVS`).
const WITH_REASON: u16 = 0x200;

/// The kernel makes no datagram of a dump larger than 32 KiB, and larger batches of refusals come one each.
const READ_SIZE: usize = 64 << 10;
/// A dump that changed under way is asked for again this often: more than a busy host needs, less than for ever.
const DUMP_TRIES: usize = 16;

/// A socket for requests to the kernel.
///
/// Both families that we speak, routing and netfilter, work a request off inside the call that sends it. So all answers
/// (of a dump: the first part) lie in the socket when `send` returns, reading never waits, and an answer that is not
/// there will never come. The sockets therefore need no timeout and no thread.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    next: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// A socket for links, addresses and routes of the calling thread's network namespace.
    pub fn route() -> Result<Socket> {
        Socket::open("routing", None)
    }

    /// A socket for the firewall of the calling thread's network namespace.
    pub fn netfilter() -> Result<Socket> {
        let socket = Socket::open("netfilter", Some(NETFILTER))?;
        // A whole table goes as one datagram. 16 MiB hold the elements of 50,000 NICs (5 elements of 64 bytes each).
        // The memory is only used while such a datagram is under way.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size_force(&socket.fd, 16 << 20);
        Ok(socket)
    }

    /// The number by which the kernel tells whose change it was.
    pub fn port(&self) -> Result<u32> {
        let failed = |errno| Error::Socket { what: "netlink", errno };
        let address = rustix::net::getsockname(&self.fd).map_err(failed)?;
        let address = SocketAddrNetlink::try_from(address).map_err(failed)?;
        Ok(address.pid())
    }

    /// Takes over a routing socket that was made elsewhere, like in a guest's network namespace: it goes on speaking
    /// for the namespace that it was made in.
    pub fn from_fd(fd: OwnedFd) -> Result<Socket> {
        Socket::set_up("routing", fd)
    }

    fn open(what: &'static str, protocol: Option<Protocol>) -> Result<Socket> {
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
            .map_err(|errno| Error::Socket { what, errno })?;
        Socket::set_up(what, fd)
    }

    fn set_up(what: &'static str, fd: OwnedFd) -> Result<Socket> {
        for option in [NetlinkOption::ShortRefusals, NetlinkOption::Reasons, NetlinkOption::StrictDumps] {
            enable(fd.as_fd(), option).map_err(|errno| Error::Socket { what, errno })?;
        }
        Ok(Socket { fd, next: 1, buffer: Vec::new() })
    }

    /// Sends all requests at once and reads until the last is acknowledged: one send and, when all goes well, one read.
    ///
    /// The kernel works requests off in order and goes on after a refusal; the first refusal that its request does not
    /// tolerate is returned. (Of a netfilter transaction nothing is kept then.)
    pub(crate) fn run(&mut self, mut batch: Batch) -> Result<()> {
        let Some(last) = batch.requests.len().checked_sub(1) else { return Ok(()) };
        batch.acknowledge(last);
        self.exchange(batch, last, |_| {}).map(drop)
    }

    /// As [`Socket::run`], but the last request asks for something, and its answer stands for an acknowledgement;
    /// `each` gets it.
    pub(crate) fn ask(&mut self, batch: Batch, each: impl FnMut(Reader<'_>)) -> Result<()> {
        let Some(last) = batch.requests.len().checked_sub(1) else { return Ok(()) };
        self.exchange(batch, last, each).map(drop)
    }

    /// As [`Socket::run`] for a netfilter transaction, whose last request only marks its end and is never answered.
    pub(crate) fn commit(&mut self, mut batch: Batch) -> Result<()> {
        let Some(last) = batch.requests.len().checked_sub(2) else { return Ok(()) };
        batch.acknowledge(last);
        self.exchange(batch, last, |_| {}).map(drop)
    }

    /// Asks for a list and keeps its first `most` entries. `request` is called again when the list changed while it was
    /// read.
    pub(crate) fn dump<T>(
        &mut self,
        most: usize,
        request: impl Fn() -> Batch,
        mut each: impl FnMut(Reader<'_>) -> Option<T>,
    ) -> Result<Vec<T>> {
        let (mut act, mut object) = ("list", String::new());
        for _ in 0..DUMP_TRIES {
            let mut batch = request();
            batch.patch(0, 6, &(super::REQUEST | DUMP).to_ne_bytes());
            (act, object) = (batch.requests.first().map_or(act, |request| request.act), batch.object.clone());
            let mut list = Vec::new();
            let keep = |message: Reader<'_>| {
                if list.len() < most {
                    list.extend(each(message));
                }
            };
            if self.exchange(batch, 0, keep)? {
                return Ok(list);
            }
        }
        Err(Error::NoAnswer { act, object })
    }

    /// Sends, and reads up to the end of the answer to request `last`. `false`: the list changed meanwhile.
    fn exchange(&mut self, mut batch: Batch, last: usize, mut each: impl FnMut(Reader<'_>)) -> Result<bool> {
        if batch.oversized {
            return Err(Error::TooLong { object: batch.object });
        }
        let first = self.next;
        self.next = self.next.wrapping_add(batch.len() as u32);
        batch.seal(first);
        let act = batch.requests[last].act;
        let asking = |errno| Error::Asking { act, object: batch.object.clone(), errno };
        rustix::net::sendto(&self.fd, &batch.bytes, SendFlags::NOSIGNAL, &SocketAddrNetlink::new(0, 0))
            .map_err(asking)?;

        self.buffer.resize(READ_SIZE, 0);
        let (mut refusal, mut whole, mut done) = (None, true, false);
        while !done {
            let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
            let length = match rustix::net::recv(&self.fd, self.buffer.as_mut_slice(), flags) {
                Ok((_, length)) => length,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => break,
                Err(errno) => return Err(asking(errno)),
            };
            let mut rest = self.buffer.get(..length).ok_or_else(|| asking(Errno::MSGSIZE))?;
            while let Some((message, after)) = Reader::split(rest) {
                rest = after;
                // What a failed earlier exchange left behind is not ours.
                let n = message.sequence.wrapping_sub(first) as usize;
                let Some(request) = batch.requests.get(n) else { continue };
                whole &= message.flags & INTERRUPTED == 0 || message.kind == KIND_ERROR;
                match message.kind {
                    KIND_ERROR | KIND_DONE => {
                        let failure = refused(message).filter(|(errno, _)| !request.tolerated.contains(errno));
                        refusal = refusal.or(failure.map(|(errno, reason)| (request.act, errno, reason)));
                        done |= n == last;
                    }
                    _ => {
                        each(message);
                        done |= n == last && message.flags & PART == 0;
                    }
                }
            }
        }
        match refusal {
            Some((act, errno, reason)) => Err(Error::Refused { act, object: batch.object, reason, errno }),
            None if !done => Err(Error::NoAnswer { act, object: batch.object }),
            None => Ok(whole),
        }
    }
}

/// The error code and words of an acknowledgement or of the end of a dump; `None` when it tells of success.
fn refused(message: Reader<'_>) -> Option<(Errno, String)> {
    let code = read::u32_at(message.body, 0)? as i32;
    if code == 0 {
        return None;
    }
    let reason = (message.flags & WITH_REASON != 0).then(|| {
        let start = if message.kind == KIND_DONE {
            4
        } else if message.flags & CAPPED != 0 {
            4 + HEADER
        } else {
            // The whole request stands before the reason.
            4 + (read::u32_at(message.body, 4).unwrap_or_default() as usize).next_multiple_of(4)
        };
        let attributes = message.body.get(start..).unwrap_or_default();
        Attributes::find(attributes, 1 /* NLMSGERR_ATTR_MSG */).map(|text| format!(": {}", read::text(text)))
    });
    Some((Errno::from_raw_os_error(code.wrapping_neg()), reason.flatten().unwrap_or_default()))
}
