//! Files of an instance, over SFTP version 3 on an upgraded connection. Works on running and on stopped instances.

mod packet;
mod transfer;

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::Client;
use crate::error::{Error, Result};
use crate::uri::Uri;
use packet::{Fields, Writer};

/// Version of the protocol.
const VERSION: u32 = 3;

/// Largest answer: 32 KiB of data is what is asked for, listings may be larger.
const MAX_PACKET: usize = 1 << 20;

/// Most entries of one directory that are read into memory.
const MAX_ENTRIES: usize = 1 << 20;

/// "No more", as a status.
const END: u32 = 1;

const ACT: &str = "files of the instance";

/// What a thing in a file system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, socket or pipe.
    Other,
}

/// What is known, or shall be changed, about a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Bytes.
    pub size: Option<u64>,
    /// User and group.
    pub ids: Option<(u32, u32)>,
    /// Permissions and kind, as `st_mode`.
    pub mode: Option<u32>,
    /// Times of last access and change, in seconds since 1970.
    pub times: Option<(u32, u32)>,
}

impl Attributes {
    /// The kind, from the mode.
    pub fn kind(&self) -> FileKind {
        match self.mode.unwrap_or(0o100_000) & 0o170_000 {
            0o100_000 => FileKind::File,
            0o040_000 => FileKind::Directory,
            0o120_000 => FileKind::Symlink,
            _ => FileKind::Other,
        }
    }
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name: one part of a path.
    pub name: OsString,
    /// About it, links not followed.
    pub attributes: Attributes,
}

/// A session. Dropping it ends it. A transfer that failed in the middle leaves it unusable: open another one.
#[derive(Debug)]
pub struct Sftp {
    stream: TokioIo<Upgraded>,
    last_id: u32,
}

/// An answer of any kind.
struct Answer {
    kind: u8,
    id: u32,
    body: Vec<u8>,
}

impl Client {
    /// Opens a session for the files of an instance.
    pub async fn get_instance_sftp(&self, name: &str) -> Result<Sftp> {
        let uri = Uri::new("/1.0/instances").part(name).part("sftp");
        let (_, stream) = self.upgrade(uri, &[("connection", "Upgrade"), ("upgrade", "sftp")]).await?;
        let mut sftp = Sftp { stream: TokioIo::new(stream), last_id: 0 };
        sftp.send(&Writer::new(packet::INIT, VERSION).finish()).await?;
        // The answer to this alone has its version where others have their id.
        let answer = sftp.receive().await?;
        match (answer.kind, answer.id) {
            (packet::VERSION, VERSION) => Ok(sftp),
            (kind, version) => Err(Error::protocol(ACT, format!("packet {kind}, version {version}: 3 was asked for"))),
        }
    }
}

impl Sftp {
    async fn send(&mut self, packet: &[u8]) -> Result<()> {
        self.stream.write_all(packet).await.map_err(|error| Error::stream(ACT, error))
    }

    async fn receive(&mut self) -> Result<Answer> {
        let broken = |error| Error::stream(ACT, error);
        let length = self.stream.read_u32().await.map_err(broken)? as usize;
        if !(5..=MAX_PACKET).contains(&length) {
            return Err(Error::protocol(ACT, format!("a packet of {length} bytes")));
        }
        let kind = self.stream.read_u8().await.map_err(broken)?;
        let id = self.stream.read_u32().await.map_err(broken)?;
        let mut body = vec![0; length - 5];
        self.stream.read_exact(&mut body).await.map_err(broken)?;
        Ok(Answer { kind, id, body })
    }

    fn request(&mut self, kind: u8) -> (u32, Writer) {
        self.last_id = self.last_id.wrapping_add(1);
        (self.last_id, Writer::new(kind, self.last_id))
    }

    /// One request, one answer.
    async fn call(&mut self, kind: u8, fill: impl FnOnce(Writer) -> Writer) -> Result<Answer> {
        let (id, writer) = self.request(kind);
        self.send(&fill(writer).finish()).await?;
        let answer = self.receive().await?;
        if answer.id != id {
            return Err(Error::protocol(ACT, format!("answer {} to request {id}", answer.id)));
        }
        Ok(answer)
    }

    /// A request on a path that is answered by a status.
    async fn act(&mut self, kind: u8, path: &Path, fill: impl FnOnce(Writer) -> Writer) -> Result<()> {
        let answer = self.call(kind, |writer| fill(writer.string(bytes(path)))).await?;
        done(path, &answer)
    }

    async fn handle(&mut self, kind: u8, path: &Path, fill: impl FnOnce(Writer) -> Writer) -> Result<Vec<u8>> {
        let answer = self.call(kind, |writer| fill(writer.string(bytes(path)))).await?;
        expect(path, &answer, packet::HANDLE)?;
        Ok(Fields(&answer.body).string().ok_or_else(short)?.to_vec())
    }

    async fn close(&mut self, path: &Path, handle: &[u8]) -> Result<()> {
        let answer = self.call(packet::CLOSE, |writer| writer.string(handle)).await?;
        done(path, &answer)
    }

    async fn attributes(&mut self, kind: u8, path: &Path) -> Result<Attributes> {
        let answer = self.call(kind, |writer| writer.string(bytes(path))).await?;
        expect(path, &answer, packet::ATTRS)?;
        Fields(&answer.body).attributes().ok_or_else(short)
    }

    /// About a file; links are followed.
    pub async fn stat(&mut self, path: &Path) -> Result<Attributes> {
        self.attributes(packet::STAT, path).await
    }

    /// About a file or a link.
    pub async fn lstat(&mut self, path: &Path) -> Result<Attributes> {
        self.attributes(packet::LSTAT, path).await
    }

    /// Changes what is set.
    pub async fn setstat(&mut self, path: &Path, attributes: &Attributes) -> Result<()> {
        self.act(packet::SETSTAT, path, |writer| writer.attributes(attributes)).await
    }

    /// Makes a directory.
    pub async fn mkdir(&mut self, path: &Path, attributes: &Attributes) -> Result<()> {
        self.act(packet::MKDIR, path, |writer| writer.attributes(attributes)).await
    }

    /// Removes a file or a link.
    pub async fn remove(&mut self, path: &Path) -> Result<()> {
        self.act(packet::REMOVE, path, |writer| writer).await
    }

    /// Removes an empty directory.
    pub async fn rmdir(&mut self, path: &Path) -> Result<()> {
        self.act(packet::RMDIR, path, |writer| writer).await
    }

    /// Makes a symbolic link at `path`.
    pub async fn symlink(&mut self, target: &Path, path: &Path) -> Result<()> {
        // OpenSSH has the two the other way round than the draft, and everybody follows OpenSSH.
        let answer = self.call(packet::SYMLINK, |writer| writer.string(bytes(target)).string(bytes(path))).await?;
        done(path, &answer)
    }

    /// What a symbolic link says.
    pub async fn readlink(&mut self, path: &Path) -> Result<PathBuf> {
        let answer = self.call(packet::READLINK, |writer| writer.string(bytes(path))).await?;
        expect(path, &answer, packet::NAME)?;
        let mut fields = Fields(&answer.body);
        fields.u32().filter(|count| *count == 1).ok_or_else(short)?;
        Ok(OsString::from_vec(fields.string().ok_or_else(short)?.to_vec()).into())
    }

    /// Entries of a directory but for itself and its parent, sorted by name.
    pub async fn readdir(&mut self, path: &Path) -> Result<Vec<Entry>> {
        let handle = self.handle(packet::OPENDIR, path, |writer| writer).await?;
        let mut entries = Vec::new();
        let listed = loop {
            let answer = self.call(packet::READDIR, |writer| writer.string(&handle)).await?;
            if answer.kind == packet::STATUS {
                break ended(path, &answer);
            }
            expect(path, &answer, packet::NAME)?;
            entries.extend(names(&answer.body)?);
            if entries.len() > MAX_ENTRIES {
                break Err(Error::protocol(ACT, format!("{} has more than {MAX_ENTRIES} entries", path.display())));
            }
        };
        self.close(path, &handle).await?;
        listed?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

fn short() -> Error {
    Error::protocol(ACT, "a packet ends too early")
}

/// Entries of one answer. Names that would lead elsewhere are refused: they are used for paths of this side.
fn names(body: &[u8]) -> Result<Vec<Entry>> {
    let mut fields = Fields(body);
    let count = fields.u32().ok_or_else(short)?;
    let mut entries = Vec::new();
    for _ in 0..count {
        let name = fields.string().ok_or_else(short)?;
        fields.string().ok_or_else(short)?;
        let attributes = fields.attributes().ok_or_else(short)?;
        if name == b"." || name == b".." {
            continue;
        }
        if name.is_empty() || name.iter().any(|byte| matches!(byte, b'/' | 0)) {
            return Err(Error::protocol(ACT, "an entry's name has a slash in it"));
        }
        entries.push(Entry { name: OsString::from_vec(name.to_vec()), attributes });
    }
    Ok(entries)
}

/// A status in code and words.
fn status(answer: &Answer) -> Result<(u32, String)> {
    let mut fields = Fields(&answer.body);
    let code = fields.u32().ok_or_else(short)?;
    let words = String::from_utf8_lossy(fields.string().unwrap_or_default()).into_owned();
    let words = match (words.is_empty(), code) {
        (false, _) => words,
        (true, 2) => "no such file or directory".into(),
        (true, 3) => "permission denied".into(),
        (true, 8) => "the server cannot do that".into(),
        (true, _) => "it failed".into(),
    };
    Ok((code, words))
}

fn refused(path: &Path, answer: &Answer) -> Error {
    match status(answer) {
        Ok((code, message)) => Error::File { path: path.display().to_string(), code, message },
        Err(error) => error,
    }
}

/// Fails unless the answer is of the kind that is needed.
fn expect(path: &Path, answer: &Answer, kind: u8) -> Result<()> {
    match answer.kind {
        found if found == kind => Ok(()),
        packet::STATUS => Err(refused(path, answer)),
        found => Err(Error::protocol(ACT, format!("packet {found} where {kind} was expected"))),
    }
}

/// Fails unless the answer says that all is well.
fn done(path: &Path, answer: &Answer) -> Result<()> {
    expect(path, answer, packet::STATUS)?;
    if status(answer)?.0 == 0 { Ok(()) } else { Err(refused(path, answer)) }
}

/// Fails unless the answer says that there is no more.
fn ended(path: &Path, answer: &Answer) -> Result<()> {
    expect(path, answer, packet::STATUS)?;
    if status(answer)?.0 == END { Ok(()) } else { Err(refused(path, answer)) }
}
