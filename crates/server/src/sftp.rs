//! A client of the files helper: one request at a time, over the stream that it serves.
//!
//! With [`MAX_DATA`] in each packet and a local socket between, more at a time would gain nothing.

use ::sftp::{Attributes, Code, MAX_DATA, Malformed, OpenFlags, Reply, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Most names of one directory that are told: some 50 MB of JSON.
const MAX_NAMES: usize = 1_000_000;

/// Why a file operation failed.
#[derive(Debug)]
pub(crate) enum Error {
    /// The helper refused it, in words.
    Refused(Code, String),
    /// The helper went away: the instance stopped or started, most likely.
    Gone(std::io::Error),
    /// It said something that makes no sense here.
    Nonsense,
    /// There is more than can be told.
    TooMany,
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Error {
        Error::Gone(error)
    }
}

impl From<Malformed> for Error {
    fn from(_: Malformed) -> Error {
        Error::Nonsense
    }
}

type Result<T> = std::result::Result<T, Error>;

/// A session.
pub(crate) struct Client {
    stream: UnixStream,
    next: u32,
    out: Vec<u8>,
    /// The last packet.
    packet: Vec<u8>,
}

/// Something open.
pub(crate) struct Handle(Vec<u8>);

fn refused<T>(reply: Reply<'_>) -> Result<T> {
    match reply {
        Reply::Status(code, message) if code != Code::Ok => Err(Error::Refused(code, message.to_owned())),
        _ => Err(Error::Nonsense),
    }
}

impl Client {
    /// Begins a session.
    pub(crate) async fn new(stream: UnixStream) -> Result<Client> {
        let mut client = Client { stream, next: 0, out: Vec::new(), packet: Vec::new() };
        client.send(&Request::Init { version: ::sftp::VERSION }).await?;
        client.receive().await?;
        match Reply::decode(&client.packet)? {
            (_, Reply::Version(_)) => Ok(client),
            _ => Err(Error::Nonsense),
        }
    }

    async fn send(&mut self, request: &Request<'_>) -> Result<()> {
        self.next = self.next.wrapping_add(1);
        self.out.clear();
        request.encode(self.next, &mut self.out);
        Ok(self.stream.write_all(&self.out).await?)
    }

    async fn receive(&mut self) -> Result<()> {
        let length = self.stream.read_u32().await? as usize;
        if length > ::sftp::MAX_PACKET {
            return Err(Error::Nonsense);
        }
        self.packet.resize(length, 0);
        self.stream.read_exact(&mut self.packet).await?;
        Ok(())
    }

    async fn ask(&mut self, request: &Request<'_>) -> Result<Reply<'_>> {
        self.send(request).await?;
        self.receive().await?;
        match Reply::decode(&self.packet)? {
            (id, reply) if id == self.next => Ok(reply),
            _ => Err(Error::Nonsense),
        }
    }

    /// Asks for something that has no answer but its success.
    pub(crate) async fn done(&mut self, request: &Request<'_>) -> Result<()> {
        match self.ask(request).await? {
            Reply::Status(Code::Ok, _) => Ok(()),
            other => refused(other),
        }
    }

    async fn attributes(&mut self, request: &Request<'_>) -> Result<Attributes> {
        match self.ask(request).await? {
            Reply::Attributes(attributes) => Ok(attributes),
            other => refused(other),
        }
    }

    /// Attributes, of a link itself.
    pub(crate) async fn lstat(&mut self, path: &str) -> Result<Attributes> {
        self.attributes(&Request::Lstat { path: path.as_bytes() }).await
    }

    /// Attributes of what is open.
    pub(crate) async fn fstat(&mut self, handle: &Handle) -> Result<Attributes> {
        self.attributes(&Request::Fstat { handle: &handle.0 }).await
    }

    /// Whether there is something, links followed.
    pub(crate) async fn exists(&mut self, path: &str) -> Result<bool> {
        match self.attributes(&Request::Stat { path: path.as_bytes() }).await {
            Ok(_) => Ok(true),
            Err(Error::Refused(Code::NoSuchFile, _)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn handle(&mut self, request: &Request<'_>) -> Result<Handle> {
        match self.ask(request).await? {
            Reply::Handle(handle) => Ok(Handle(handle.to_vec())),
            other => refused(other),
        }
    }

    /// Opens a file.
    pub(crate) async fn open(&mut self, path: &str, flags: OpenFlags) -> Result<Handle> {
        let attributes = Attributes::default();
        self.handle(&Request::Open { path: path.as_bytes(), flags, attributes }).await
    }

    /// Sets attributes of what is open.
    pub(crate) async fn set(&mut self, handle: &Handle, attributes: Attributes) -> Result<()> {
        self.done(&Request::Fsetstat { handle: &handle.0, attributes }).await
    }

    /// Closes a handle.
    pub(crate) async fn close(&mut self, handle: &Handle) -> Result<()> {
        self.done(&Request::Close { handle: &handle.0 }).await
    }

    /// The bytes at an offset, as many as go into a packet; none at the end.
    pub(crate) async fn read(&mut self, handle: &Handle, offset: u64) -> Result<&[u8]> {
        let request = Request::Read { handle: &handle.0, offset, length: MAX_DATA as u32 };
        match self.ask(&request).await? {
            Reply::Data(data) => Ok(data),
            Reply::Status(Code::Eof, _) => Ok(&[]),
            other => refused(other),
        }
    }

    /// Writes all of `data`.
    pub(crate) async fn write(&mut self, handle: &Handle, mut offset: u64, data: &[u8]) -> Result<()> {
        for data in data.chunks(MAX_DATA) {
            self.done(&Request::Write { handle: &handle.0, offset, data }).await?;
            offset += data.len() as u64;
        }
        Ok(())
    }

    /// Names in a directory, in order.
    pub(crate) async fn names(&mut self, path: &str) -> Result<Vec<String>> {
        let handle = self.handle(&Request::Opendir { path: path.as_bytes() }).await?;
        let mut names = Vec::new();
        loop {
            match self.ask(&Request::Readdir { handle: &handle.0 }).await? {
                Reply::Names(list) => names.extend(
                    list.iter()
                        .filter(|entry| !matches!(entry.name, b"." | b".."))
                        .map(|entry| String::from_utf8_lossy(entry.name).into_owned()),
                ),
                Reply::Status(Code::Eof, _) => break,
                other => return refused(other),
            }
            if names.len() > MAX_NAMES {
                return Err(Error::TooMany);
            }
        }
        self.close(&handle).await?;
        names.sort_unstable();
        Ok(names)
    }

    /// Where a link points to, or a path in its plainest form.
    pub(crate) async fn name(&mut self, request: &Request<'_>) -> Result<Vec<u8>> {
        match self.ask(request).await? {
            Reply::Names(list) => list.first().map(|entry| entry.name.to_vec()).ok_or(Error::Nonsense),
            other => refused(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A helper that has these answers, in their order, and then hangs up.
    fn scripted(answers: Vec<Reply<'static>>) -> UnixStream {
        let (ours, mut theirs) = UnixStream::pair().expect("socketpair");
        tokio::spawn(async move {
            let mut packet = Vec::new();
            for answer in [Reply::Version(3)].iter().chain(&answers) {
                let Ok(length) = theirs.read_u32().await else { return };
                packet.resize(length as usize, 0);
                theirs.read_exact(&mut packet).await.expect("whole");
                let (id, _) = Request::decode(&packet).expect("a request");
                let mut out = Vec::new();
                answer.encode(id, &mut out);
                // In two halves, as a socket may give them.
                let (first, second) = out.split_at(out.len() / 2);
                theirs.write_all(first).await.expect("write");
                tokio::task::yield_now().await;
                theirs.write_all(second).await.expect("write");
            }
        });
        ours
    }

    #[tokio::test]
    async fn a_file_is_read_to_its_end() {
        let eof = Reply::Status(Code::Eof, "");
        let stream = scripted(vec![Reply::Handle(b"h"), Reply::Data(b"one"), Reply::Data(b"two"), eof]);
        let mut client = Client::new(stream).await.expect("version");
        let handle = client.open("/x", OpenFlags { read: true, ..OpenFlags::default() }).await.expect("open");
        let mut all = Vec::new();
        loop {
            match client.read(&handle, all.len() as u64).await.expect("read") {
                [] => break,
                data => all.extend_from_slice(data),
            }
        }
        assert_eq!(all, b"onetwo");
    }

    #[tokio::test]
    async fn refusals_keep_their_words_and_a_helper_that_goes_is_told() {
        let stream = scripted(vec![
            Reply::Status(Code::NoSuchFile, "No such file"),
            Reply::Status(Code::PermissionDenied, "no"),
            Reply::Handle(b"h"),
        ]);
        let mut client = Client::new(stream).await.expect("version");
        assert!(matches!(client.exists("/x").await, Ok(false)));
        match client.lstat("/x").await {
            Err(Error::Refused(Code::PermissionDenied, words)) => assert_eq!(words, "no"),
            other => panic!("{other:?}"),
        }
        assert!(matches!(client.lstat("/x").await, Err(Error::Nonsense)), "an answer to another question");
        assert!(matches!(client.lstat("/x").await, Err(Error::Gone(_))));
    }
}
