//! What servers answer.

use crate::request::EXTENSIONS;
use crate::wire::{Fields, finish, packet, put_string, put_u32, put_u64};
use crate::{Attributes, Code, MAX_DATA, MAX_HANDLE, MAX_PATH, Malformed, VERSION};

const VERSION_KIND: u8 = 2;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRS: u8 = 105;
const EXTENDED_REPLY: u8 = 201;

/// Most entries of one answer that a client takes.
const MAX_ENTRIES: usize = 4096;

/// An entry of a directory, or a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Its attributes.
    pub attributes: Attributes,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply<'a> {
    /// The version that is spoken; the first answer of all.
    Version(u32),
    /// What came of it.
    Status(Code, &'a str),
    /// Something is open.
    Handle(&'a [u8]),
    /// Content.
    Data(&'a [u8]),
    /// Names.
    Names(Vec<Entry<'a>>),
    /// Attributes.
    Attributes(Attributes),
    /// Numbers: of `statvfs`, in the order of POSIX's struct, or of the limits: packet, read, write, handles.
    Numbers(Vec<u64>),
}

impl<'a> Reply<'a> {
    /// Appends the packet.
    pub fn encode(&self, id: u32, out: &mut Vec<u8>) {
        let with_id = |out: &mut Vec<u8>, kind: u8, fill: &dyn Fn(&mut Vec<u8>)| {
            packet(out, kind, |out| {
                put_u32(out, id);
                fill(out);
            });
        };
        match self {
            Reply::Version(version) => packet(out, VERSION_KIND, |out| {
                put_u32(out, *version);
                for (name, version) in EXTENSIONS {
                    put_string(out, name);
                    put_string(out, version);
                }
            }),
            Reply::Status(code, message) => with_id(out, STATUS, &|out| {
                put_u32(out, *code as u32);
                put_string(out, message.as_bytes());
                put_string(out, b"en");
            }),
            Reply::Handle(handle) => with_id(out, HANDLE, &|out| put_string(out, handle)),
            Reply::Data(data) => with_id(out, DATA, &|out| put_string(out, data)),
            Reply::Names(entries) => {
                let at = begin_names(out, id);
                for item in entries {
                    entry(out, item, b"");
                }
                names_done(out, at, entries.len() as u32);
            }
            Reply::Attributes(attributes) => with_id(out, ATTRS, &|out| attributes.put(out)),
            Reply::Numbers(numbers) => {
                with_id(out, EXTENDED_REPLY, &|out| numbers.iter().for_each(|number| put_u64(out, *number)));
            }
        }
    }

    /// Reads a packet (see [`crate::split`]): the id of the request, which for VERSION is 0, and the answer.
    pub fn decode(packet: &'a [u8]) -> Result<(u32, Reply<'a>), Malformed> {
        let mut fields = Fields(packet);
        let kind = fields.byte().ok_or(Malformed::NoId)?;
        let id = fields.u32().ok_or(Malformed::NoId)?;
        let reply = match kind {
            VERSION_KIND => {
                return if id == VERSION { Ok((0, Reply::Version(id))) } else { Err(Malformed::Unknown(0)) };
            }
            STATUS => status(&mut fields),
            HANDLE => fields.string(MAX_HANDLE).map(Reply::Handle),
            DATA => fields.string(MAX_DATA).map(Reply::Data),
            NAME => names(&mut fields).map(Reply::Names),
            ATTRS => Attributes::take(&mut fields).map(Reply::Attributes),
            EXTENDED_REPLY => Some(Reply::Numbers(std::iter::from_fn(|| fields.u64()).take(64).collect())),
            _ => return Err(Malformed::Unknown(id)),
        };
        reply.map(|reply| (id, reply)).ok_or(Malformed::Fields(id))
    }
}

fn status<'a>(fields: &mut Fields<'a>) -> Option<Reply<'a>> {
    let code = Code::from_number(fields.u32()?);
    // Old servers leave the message out.
    let message = fields.string(MAX_PATH).unwrap_or_default();
    Some(Reply::Status(code, std::str::from_utf8(message).unwrap_or_default()))
}

fn names<'a>(fields: &mut Fields<'a>) -> Option<Vec<Entry<'a>>> {
    let count = fields.u32()? as usize;
    if count > MAX_ENTRIES {
        return None;
    }
    let mut list = Vec::new();
    for _ in 0..count {
        let name = fields.string(MAX_PATH)?;
        fields.string(2 * MAX_PATH)?;
        list.push(Entry { name, attributes: Attributes::take(fields)? });
    }
    Some(list)
}

/// Begins an answer of names, for [`entry`] and [`names_done`] to go on; where it begins.
pub fn begin_names(out: &mut Vec<u8>, id: u32) -> usize {
    let at = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, NAME]);
    put_u32(out, id);
    put_u32(out, 0);
    at
}

/// Appends an entry, with the line of a long listing for it.
pub fn entry(out: &mut Vec<u8>, entry: &Entry<'_>, line: &[u8]) {
    put_string(out, entry.name);
    put_string(out, line);
    entry.attributes.put(out);
}

/// Ends an answer of `count` names that begins at `at`.
pub fn names_done(out: &mut [u8], at: usize, count: u32) {
    out[at + 9..at + 13].copy_from_slice(&count.to_be_bytes());
    finish(out, at);
}

/// Appends an answer with up to `length` bytes that `read` puts straight in their place; nothing where it fails or finds
/// none.
pub fn data_with<E>(
    out: &mut Vec<u8>,
    id: u32,
    length: usize,
    read: impl FnOnce(&mut [u8]) -> Result<usize, E>,
) -> Result<usize, E> {
    let at = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, DATA]);
    put_u32(out, id);
    put_u32(out, 0);
    let from = out.len();
    out.resize(from + length.min(MAX_DATA), 0);
    let read = read(&mut out[from..]);
    match read {
        Ok(count) if count > 0 => {
            out.truncate(from + count);
            out[from - 4..from].copy_from_slice(&(count as u32).to_be_bytes());
            finish(out, at);
        }
        _ => out.truncate(at),
    }
    read
}
