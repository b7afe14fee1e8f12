//! A small SFTP client, and helpers to talk to.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use runtime::protocol::*;
use runtime::wire::Field;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};
use sftp::{Attributes, Code, OpenFlags, Reply, Request};

use super::{BASE, Host};

/// A files helper with a session to it.
pub struct Files {
    pub pid: u32,
    pidfd: OwnedFd,
    pub stream: UnixStream,
    next: u32,
}

/// An answer that owns what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Status(Code, String),
    Handle(Vec<u8>),
    Data(Vec<u8>),
    Names(Vec<(String, Attributes)>),
    Attributes(Attributes),
    Numbers(Vec<u64>),
}

pub const NONE: Attributes = Attributes { size: None, owner: None, mode: None, times: None };
pub const READ: OpenFlags =
    OpenFlags { read: true, write: false, append: false, create: false, truncate: false, exclusive: false };
pub const PUSH: OpenFlags = OpenFlags { read: false, write: true, create: true, truncate: true, ..READ };

impl Host {
    /// Starts a helper; the stream is not spoken on yet.
    pub fn helper(&self, arguments: &[String]) -> Files {
        let (stream, theirs) = UnixStream::pair().expect("socketpair");
        stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).expect("timeout");
        let spawn = self.spawn_socket();
        let argv = ["files".to_owned()].into_iter().chain(arguments.iter().cloned()).collect();
        send(spawn.as_fd(), 1, &SpawnRequest::Help(HelpSpec { argv }), &[theirs.as_fd()]).expect("send");
        let pid = loop {
            let received = receive::<SpawnEvent>(&spawn, true).expect("answer");
            match received.message.expect("known") {
                SpawnEvent::Started(child) => break child.pid,
                SpawnEvent::Failed(failure) => panic!("{failure}"),
                _ => {}
            }
        };
        let pidfd = rustix::process::pidfd_open(Pid::from_raw(pid as i32).expect("pid"), PidfdFlags::empty())
            .expect("the helper lives until its stream closes");
        Files { pid, pidfd, stream, next: 0 }
    }

    /// A session over the files of a guest that runs.
    pub fn running_files(&self, init: u32) -> Files {
        let start = runtime::launch::root::start_time(init).expect("alive");
        let words = ["--pid", &init.to_string(), "--start", &start.to_string(), "--ids", &format!("{BASE}:65536")];
        self.helper(&words.map(str::to_owned)).greeted()
    }

    /// A session over a root file system at rest.
    pub fn stopped_files(&self, root: &RootSpec) -> Files {
        self.helper(&self.stopped_arguments(root)).greeted()
    }

    pub fn stopped_arguments(&self, root: &RootSpec) -> [String; 6] {
        let mut record = Vec::new();
        root.put(&mut record);
        let hex: String = record.iter().map(|byte| format!("{byte:02x}")).collect();
        let scratch = self.scratch.join("mnt").display().to_string();
        ["--root", &hex, "--scratch", &scratch, "--ids", &format!("{BASE}:65536")].map(str::to_owned)
    }
}

impl Files {
    pub fn greeted(mut self) -> Files {
        self.greet();
        self
    }

    pub fn greet(&mut self) {
        let mut bytes = Vec::new();
        Request::Init { version: 3 }.encode(0, &mut bytes);
        self.stream.write_all(&bytes).expect("write");
        let packet = self.packet().expect("version");
        assert_eq!(Reply::decode(&packet), Ok((0, Reply::Version(3))));
    }

    /// The next packet; `None` at the end of the stream.
    pub fn packet(&mut self) -> Option<Vec<u8>> {
        let mut length = [0; 4];
        match self.stream.read_exact(&mut length) {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset) => {
                return None;
            }
            Err(e) => panic!("{e}"),
        }
        let mut packet = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut packet).expect("whole packet");
        Some(packet)
    }

    pub fn try_call(&mut self, request: &Request<'_>) -> Option<Answer> {
        self.next += 1;
        let mut bytes = Vec::new();
        request.encode(self.next, &mut bytes);
        self.stream.write_all(&bytes).ok()?;
        let packet = self.packet()?;
        let (id, reply) = Reply::decode(&packet).expect("a reply");
        assert_eq!(id, self.next);
        Some(match reply {
            Reply::Status(code, message) => Answer::Status(code, message.to_owned()),
            Reply::Handle(handle) => Answer::Handle(handle.to_vec()),
            Reply::Data(data) => Answer::Data(data.to_vec()),
            Reply::Names(list) => Answer::Names(
                list.iter().map(|e| (String::from_utf8_lossy(e.name).into_owned(), e.attributes)).collect(),
            ),
            Reply::Attributes(attributes) => Answer::Attributes(attributes),
            Reply::Numbers(numbers) => Answer::Numbers(numbers),
            Reply::Version(_) => panic!("version again"),
        })
    }

    pub fn call(&mut self, request: &Request<'_>) -> Answer {
        self.try_call(request).expect("the session is open")
    }

    pub fn ok(&mut self, request: &Request<'_>) {
        assert_eq!(self.call(request), Answer::Status(Code::Ok, String::new()), "{request:?}");
    }

    pub fn code(&mut self, request: &Request<'_>) -> Code {
        match self.call(request) {
            Answer::Status(code, message) => {
                assert!(code == Code::Ok || !message.is_empty(), "{request:?}: refused without a word");
                code
            }
            other => panic!("{request:?}: {other:?}"),
        }
    }

    pub fn open(&mut self, path: &str, flags: OpenFlags) -> Result<Vec<u8>, Code> {
        match self.call(&Request::Open { path: path.as_bytes(), flags, attributes: NONE }) {
            Answer::Handle(handle) => Ok(handle),
            Answer::Status(code, _) => Err(code),
            other => panic!("open {path}: {other:?}"),
        }
    }

    pub fn push(&mut self, path: &str, data: &[u8]) {
        let handle = self.open(path, PUSH).expect("open");
        for (number, data) in data.chunks(32_768).enumerate() {
            self.ok(&Request::Write { handle: &handle, offset: number as u64 * 32_768, data });
        }
        self.ok(&Request::Close { handle: &handle });
    }

    pub fn pull(&mut self, path: &str) -> Result<Vec<u8>, Code> {
        let handle = self.open(path, READ)?;
        let mut all = Vec::new();
        let code = loop {
            match self.call(&Request::Read { handle: &handle, offset: all.len() as u64, length: 32_768 }) {
                Answer::Data(data) => all.extend(data),
                Answer::Status(code, _) => break code,
                other => panic!("read {path}: {other:?}"),
            }
        };
        self.ok(&Request::Close { handle: &handle });
        if code == Code::Eof { Ok(all) } else { Err(code) }
    }

    pub fn list(&mut self, path: &str) -> Result<Vec<(String, Attributes)>, Code> {
        let handle = match self.call(&Request::Opendir { path: path.as_bytes() }) {
            Answer::Handle(handle) => handle,
            Answer::Status(code, _) => return Err(code),
            other => panic!("list {path}: {other:?}"),
        };
        let mut all = Vec::new();
        while let Answer::Names(names) = self.call(&Request::Readdir { handle: &handle }) {
            all.extend(names.into_iter().filter(|n| n.0 != "." && n.0 != ".."));
        }
        self.ok(&Request::Close { handle: &handle });
        all.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(all)
    }

    pub fn stat(&mut self, path: &str) -> Attributes {
        match self.call(&Request::Lstat { path: path.as_bytes() }) {
            Answer::Attributes(attributes) => attributes,
            other => panic!("stat {path}: {other:?}"),
        }
    }

    /// Waits until the helper is gone.
    pub fn ended(self) {
        drop(self.stream);
        gone(&self.pidfd);
    }

    /// The same without our hanging up: it ends by itself.
    pub fn ends(mut self) {
        assert_eq!(self.packet(), None);
        gone(&self.pidfd);
    }
}

fn gone(pidfd: &OwnedFd) {
    let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
    let ready = rustix::event::poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&limit)).expect("poll");
    assert_eq!(ready, 1, "the helper does not end");
}
