//! Packets of SFTP version 3 (draft-ietf-secsh-filexfer-02, with OpenSSH's extensions), to bytes and back.
//!
//! ```text
//! packet = length: u32, kind: u8, id: u32, fields     (big endian; INIT and VERSION have no id)
//! string = length: u32, bytes
//! ```
//!
//! Everything that comes in is checked against its bounds and nothing is allocated before that. No I/O happens here.

mod attributes;
mod reply;
mod request;
mod wire;

#[cfg(test)]
mod fuzz;

pub use attributes::Attributes;
pub use reply::{Entry, Reply, begin_names, data_with, entry, names_done};
pub use request::{OpenFlags, Request};

/// The version that is spoken.
pub const VERSION: u32 = 3;

/// Most bytes of one READ or WRITE. Stock clients ask for 32 KiB or 128 KiB; more gains nothing over a local socket.
pub const MAX_DATA: usize = 256 * 1024;

/// Largest packet without its length field: data, and what stands around it.
pub const MAX_PACKET: usize = MAX_DATA + 1024;

/// Longest path in bytes, as the kernel has it (`PATH_MAX` without the NUL).
pub const MAX_PATH: usize = 4095;

/// Longest handle that a server may give out.
pub const MAX_HANDLE: usize = 256;

/// What came of a request: the codes of version 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Code {
    /// Done.
    Ok = 0,
    /// Nothing follows.
    Eof = 1,
    /// There is no such file.
    NoSuchFile = 2,
    /// It is not allowed.
    PermissionDenied = 3,
    /// It failed; the message says why.
    Failure = 4,
    /// The request made no sense.
    BadMessage = 5,
    /// The request is not known here.
    Unsupported = 8,
}

impl Code {
    /// The code of a number; those that we never send count as failures.
    pub fn from_number(number: u32) -> Code {
        match number {
            0 => Code::Ok,
            1 => Code::Eof,
            2 => Code::NoSuchFile,
            3 => Code::PermissionDenied,
            5 => Code::BadMessage,
            8 => Code::Unsupported,
            _ => Code::Failure,
        }
    }
}

/// What is wrong with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// Its length is out of bounds: where the next one begins cannot be known.
    Length,
    /// It has not even an id to answer to.
    NoId,
    /// Its fields are cut off or out of bounds.
    Fields(u32),
    /// Nobody knows its kind, or that of the extension.
    Unknown(u32),
}

/// The bytes of the first packet in `buffer`, without its length field, and how many bytes it takes with it; `None` while
/// it is not whole.
pub fn split(buffer: &[u8]) -> Result<Option<(&[u8], usize)>, Malformed> {
    let Some((length, rest)) = buffer.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    if length == 0 || length > MAX_PACKET {
        return Err(Malformed::Length);
    }
    Ok(rest.get(..length).map(|packet| (packet, length + 4)))
}
