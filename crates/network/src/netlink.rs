//! Netlink: the codec of its messages and a socket that asks and waits for the answer.
//!
//! A message is a header (length, kind, flags, sequence number, port), a fixed part that depends on the kind, and
//! attributes (length, kind, value), all aligned to four bytes (RFC 3549; `linux/netlink.h`). Attributes nest.

pub(crate) mod read;
mod socket;

pub use read::{Attributes, Reader};
pub use socket::Socket;

use kernel::Errno;

/// Length of the header of a message.
const HEADER: usize = 16;
/// Attribute kinds carry flags in the two upper bits; this one says that the value is a list of attributes.
const NESTED: u16 = 0x8000;

/// This is a request (`NLM_F_REQUEST`).
pub(crate) const REQUEST: u16 = 0x001;
/// Answer even when all went well (`NLM_F_ACK`).
pub(crate) const ACK: u16 = 0x004;
/// Answer with the whole list (`NLM_F_ROOT | NLM_F_MATCH`).
pub(crate) const DUMP: u16 = 0x300;
/// Replace what is there (`NLM_F_REPLACE`).
pub(crate) const REPLACE: u16 = 0x100;
/// Refuse when it is there (`NLM_F_EXCL`).
pub(crate) const EXCLUSIVE: u16 = 0x200;
/// Make it when it is not there (`NLM_F_CREATE`).
pub(crate) const CREATE: u16 = 0x400;
/// Put it at the end of the list (`NLM_F_APPEND`).
pub(crate) const APPEND: u16 = 0x800;

/// One request of a batch.
#[derive(Debug)]
struct Request {
    /// Where its message starts.
    start: usize,
    /// What it asks for, as an imperative with its article: `"create link"`.
    act: &'static str,
    /// Refusals that mean "it is so already".
    tolerated: &'static [Errno],
}

/// Requests about one object, to be sent together.
#[derive(Debug)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    requests: Vec<Request>,
    object: String,
    oversized: bool,
}

impl Batch {
    /// An empty batch about `object`, whose name stands in errors.
    pub(crate) fn about(object: impl Into<String>) -> Batch {
        Batch { bytes: Vec::with_capacity(1024), requests: Vec::new(), object: object.into(), oversized: false }
    }

    /// Starts the next request; `fixed` is the part between header and attributes.
    pub(crate) fn request(&mut self, act: &'static str, kind: u16, flags: u16, fixed: &[u8]) -> Writer<'_> {
        let start = self.bytes.len();
        self.requests.push(Request { start, act, tolerated: &[] });
        self.bytes.extend_from_slice(&[0; 4]); // length, kept current by every write
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 8]); // sequence number, given when sent; port: the kernel fills it in
        let mut writer = Writer { batch: self, start };
        writer.put(fixed);
        writer
    }

    /// How many requests there are.
    pub(crate) fn len(&self) -> usize {
        self.requests.len()
    }

    /// Overwrites a part of the header of request `n`.
    fn patch(&mut self, n: usize, offset: usize, bytes: &[u8]) {
        if let Some(request) = self.requests.get(n) {
            let at = request.start + offset;
            self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        }
    }

    /// Asks for an answer to request `n` even when all goes well.
    fn acknowledge(&mut self, n: usize) {
        let flags = self.requests.get(n).and_then(|request| read::u16_at(&self.bytes, request.start + 6));
        self.patch(n, 6, &(flags.unwrap_or(REQUEST) | ACK).to_ne_bytes());
    }

    /// Gives the requests consecutive sequence numbers from `first` on. (Refusals are always reported under them;
    /// success only where asked for, so that one acknowledgement means one read.)
    fn seal(&mut self, first: u32) {
        for n in 0..self.requests.len() {
            self.patch(n, 8, &first.wrapping_add(n as u32).to_ne_bytes());
        }
    }
}

/// Appends attributes to one request.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    batch: &'a mut Batch,
    start: usize,
}

impl Writer<'_> {
    /// Declares refusals that mean "it is so already".
    pub(crate) fn tolerating(&mut self, refusals: &'static [Errno]) -> &mut Self {
        if let Some(request) = self.batch.requests.last_mut() {
            request.tolerated = refusals;
        }
        self
    }

    /// Appends raw bytes, pads them, and keeps the message's length current.
    fn put(&mut self, bytes: &[u8]) {
        let all = &mut self.batch.bytes;
        all.extend_from_slice(bytes);
        all.resize(all.len().next_multiple_of(4), 0);
        let length = (all.len() - self.start) as u32;
        all[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Appends an attribute.
    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(value.len() + 4).unwrap_or_else(|_| {
            self.batch.oversized = true;
            4
        });
        self.batch.bytes.extend_from_slice(&length.to_ne_bytes());
        self.batch.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.put(value);
        self
    }

    /// Appends an attribute of one byte.
    pub(crate) fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.bytes(kind, &[value])
    }

    /// Appends an integer in the machine's byte order, as rtnetlink has them.
    pub(crate) fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Appends an integer in network byte order, as netfilter has them.
    pub(crate) fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// As [`Writer::be32`], of 64 bits.
    pub(crate) fn be64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Appends a text with the zero byte at its end that the kernel expects.
    pub(crate) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// Appends an attribute that holds what `fill` appends.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let at = self.batch.bytes.len();
        self.bytes(kind | NESTED, &[]);
        fill(self);
        match u16::try_from(self.batch.bytes.len() - at) {
            Ok(length) => self.batch.bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes()),
            Err(_) => self.batch.oversized = true,
        }
        self
    }

    /// Appends a fixed structure inside a nest, as `VETH_INFO_PEER` wants before its attributes.
    pub(crate) fn fixed(&mut self, bytes: &[u8]) -> &mut Self {
        self.put(bytes);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_those_of_the_padded_parts() {
        let mut batch = Batch::about("x");
        batch.request("try", 16, ACK, &[0; 16]).text(3, "eth0").nest(18, |info| {
            info.text(1, "veth").u8(2, 7);
        });
        batch.seal(9);
        let length = u32::from_ne_bytes(batch.bytes[..4].try_into().expect("four bytes"));
        assert_eq!(length as usize, batch.bytes.len());
        assert_eq!(batch.bytes.len(), HEADER + 16 + 12 + 4 + 12 + 8);
        assert_eq!(batch.bytes[8..12], 9u32.to_ne_bytes());
        let mut attributes = Attributes::new(&batch.bytes[HEADER + 16..]);
        assert_eq!(attributes.next(), Some((3, &b"eth0\0"[..])));
        let (kind, inner) = attributes.next().expect("the nest");
        assert_eq!(kind, 18);
        assert_eq!(Attributes::new(inner).collect::<Vec<_>>(), [(1, &b"veth\0"[..]), (2, &[7][..])]);
        assert_eq!(attributes.next(), None);
    }

    #[test]
    fn an_attribute_that_is_too_long_is_noticed() {
        let mut batch = Batch::about("x");
        batch.request("try", 16, 0, &[]).bytes(1, &vec![0; 70_000]);
        assert!(batch.oversized);
        let mut batch = Batch::about("x");
        batch.request("try", 16, 0, &[]).nest(1, |list| {
            list.bytes(1, &vec![0; 40_000]).bytes(1, &vec![0; 40_000]);
        });
        assert!(batch.oversized);
    }
}
