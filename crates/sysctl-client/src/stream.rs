//! Streams of bytes over websockets that outlive the daemon at the far end.
//!
//! One task carries each websocket. Where the server can go on (`resume` in the operation's metadata), the task counts what
//! it received, keeps what it sent until that was taken, and after a broken connection connects again and goes on there.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use hyper::Method;
use serde_json::Value;
use sysctl_api::{ConsolePost, Operation, StreamNote};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio_tungstenite::tungstenite::Message;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::operations::{RESTART, RETRY};
use crate::uri::Uri;
use crate::websocket::{Input, Output, Socket, broken, is_gone};

/// Most bytes of a message that is sent; the server takes no large ones.
pub(crate) const MAX_PART: usize = 64 * 1024;

/// Input that was not told to have been taken, at most, before the sender waits: more than the keeper (48 KiB) and a socket
/// (208 KiB) hold, so that a program which reads never waits for it.
const WINDOW: usize = 512 * 1024;

/// Pieces of output that wait to be read.
const PIECES: usize = 2;

/// The streams of one operation, and how they are reached again.
#[derive(Debug)]
pub(crate) struct Reach {
    client: Client,
    /// A console, which is a new operation after a restart of the daemon: of which instance, and how.
    console: Option<(String, ConsolePost)>,
    operation: Mutex<Operation>,
    resumes: bool,
}

impl Reach {
    pub(crate) fn new(client: &Client, operation: &Operation, console: Option<(String, ConsolePost)>) -> Arc<Reach> {
        let told = operation.metadata.as_ref().and_then(|metadata| metadata.get("resume"));
        let resumes = told.and_then(Value::as_bool).unwrap_or_default();
        Arc::new(Reach { client: client.clone(), console, operation: Mutex::new(operation.clone()), resumes })
    }

    pub(crate) fn resumes(&self) -> bool {
        self.resumes
    }

    /// Opens one stream, with output from `offset` on. While the daemon is away it is tried again.
    pub(crate) async fn open(&self, fd: &str, offset: Option<u64>) -> Result<Socket> {
        let deadline = Instant::now() + RESTART;
        loop {
            let operation = self.operation.lock().await.clone();
            let error = match self.try_open(&operation, fd, offset).await {
                Ok(socket) => return Ok(socket),
                Err(error) => error,
            };
            let is_away = error.is_disconnect() || matches!(error, Error::Connect { .. });
            let is_forgotten = error.status() == Some(404) && self.console.is_some();
            if !self.resumes || !(is_away || is_forgotten) || Instant::now() > deadline {
                return Err(self.client.why_refused(&operation, error).await);
            }
            if is_forgotten && let Err(error) = self.renew(&operation.id).await {
                return Err(error);
            }
            if is_away {
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    async fn try_open(&self, operation: &Operation, fd: &str, offset: Option<u64>) -> Result<Socket> {
        let uri = Uri::new("/1.0/operations").part(&operation.id).part("websocket");
        let fds = operation.metadata.as_ref().and_then(|metadata| metadata.get("fds"));
        let secret = fds.and_then(|fds| fds.get(fd)).and_then(Value::as_str);
        let secret = secret.ok_or_else(|| Error::protocol(uri.as_str(), format!("there is no stream {fd:?}")))?;
        let uri = uri.query("secret", secret).query_some("resume", self.resumes.then_some("1"));
        let offset = offset.filter(|_| self.resumes).map(|offset| offset.to_string());
        self.client.websocket(uri.query_some("offset", offset.as_deref())).await
    }

    /// Asks for the console again, unless another stream of it has already.
    async fn renew(&self, known: &str) -> Result<()> {
        let Some((name, post)) = &self.console else { return Ok(()) };
        let mut operation = self.operation.lock().await;
        if operation.id == known {
            let uri = Uri::new("/1.0/instances").part(name).part("console");
            *operation = self.client.send(Method::POST, uri, post, None).await?;
        }
        Ok(())
    }
}

/// Which directions a websocket has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Directions {
    /// To the instance.
    Input,
    /// From the instance.
    Output,
    /// Both.
    Both,
}

/// What the user of a stream has to say.
#[derive(Debug)]
pub(crate) enum Word {
    Bytes(Bytes),
    /// Nothing follows; answered once that was sent.
    End(oneshot::Sender<()>),
}

/// What the far end said of input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Taken {
    at: u64,
    closed: bool,
}

/// Has a task carry a connected websocket. `what` is what errors call it.
pub(crate) fn carry(
    reach: &Arc<Reach>,
    fd: &'static str,
    what: &str,
    way: Directions,
    socket: Socket,
) -> (Input, Output) {
    let (words, said) = mpsc::channel(1);
    let (pieces, received) = mpsc::channel(PIECES);
    let carrier = Carrier {
        reach: reach.clone(),
        fd,
        act: what.to_owned(),
        way,
        offset: None,
        pieces,
        sender: Sender {
            said,
            window: Window::default(),
            keeps: reach.resumes() && reach.console.is_none(),
            both: way == Directions::Both,
            begun: false,
        },
    };
    tokio::spawn(carrier.run(socket));
    (Input::new(what, Some(words)), Output::new(what, received))
}

/// Input that was not told to have been taken.
#[derive(Debug, Default)]
struct Window {
    parts: std::collections::VecDeque<Bytes>,
    /// Position of the first byte that is kept.
    start: u64,
    length: usize,
    /// Nothing follows; whom to tell once that was sent.
    end: Option<Option<oneshot::Sender<()>>>,
}

impl Window {
    fn push(&mut self, bytes: Bytes) {
        self.length += bytes.len();
        self.parts.push_back(bytes);
    }

    /// Everything below a position may go.
    fn forget(&mut self, position: u64) {
        while let Some(part) = self.parts.front_mut() {
            let known = usize::try_from(position.saturating_sub(self.start)).unwrap_or(usize::MAX).min(part.len());
            if known == 0 {
                return;
            }
            let whole = known == part.len();
            let _ = part.split_to(known);
            self.start += known as u64;
            self.length -= known;
            if whole {
                self.parts.pop_front();
            }
        }
    }

    /// What follows a position.
    fn after(&self, position: u64) -> Option<Bytes> {
        let mut at = self.start;
        for part in &self.parts {
            let end = at + part.len() as u64;
            if position < end {
                return Some(part.slice((position - at) as usize..));
            }
            at = end;
        }
        None
    }
}

#[derive(Debug)]
struct Sender {
    said: mpsc::Receiver<Word>,
    window: Window,
    /// What was sent is kept until it was told to have been taken.
    keeps: bool,
    /// The end of the input is the end of the output, too.
    both: bool,
    /// Where the first byte stands is known.
    begun: bool,
}

/// Why nothing more is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    /// The user said that this is the end.
    Ended,
    /// The far end takes no more.
    Closed,
    /// The user let go of this direction.
    Dropped,
}

impl Sender {
    /// Sends input from where the far end wants it. Returns once there is nothing more to be sent on any connection.
    async fn run(&mut self, sink: &mut SplitSink<Socket, Message>, mut taken: watch::Receiver<Option<Taken>>) -> Done {
        let mut sent = self.window.start;
        if self.keeps {
            let Ok(first) = taken.wait_for(Option::is_some).await.map(|taken| *taken) else {
                return std::future::pending().await;
            };
            let wanted = first.map_or(sent, |taken| taken.at);
            if !self.begun {
                // Another client may have sent what is before.
                self.window.start = wanted;
                self.begun = true;
            }
            sent = wanted.max(self.window.start);
        }
        let mut ended = false;
        loop {
            if let Some(known) = *taken.borrow_and_update()
                && self.keeps
            {
                self.window.forget(known.at);
                if known.closed {
                    self.said.close();
                    return Done::Closed;
                }
            }
            if let Some(part) = self.window.after(sent) {
                sent += part.len() as u64;
                if sink.send(Message::Binary(part)).await.is_err() {
                    // What was received before the end of the connection is still to be read.
                    return std::future::pending().await;
                }
                if !self.keeps {
                    self.window.forget(sent);
                }
                continue;
            }
            if let (Some(whom), false) = (&mut self.window.end, ended) {
                ended = true;
                if sink.send(Message::text("")).await.is_err() {
                    return std::future::pending().await;
                }
                drop(whom.take());
                if self.both || !self.keeps {
                    let _ = sink.close().await;
                    return Done::Ended;
                }
            }
            tokio::select! {
                Ok(()) = taken.changed() => {}
                word = self.said.recv(), if self.has_room() => match word {
                    // What is open in both directions may still be listened to.
                    None if self.both => return Done::Dropped,
                    word => self.hear(word),
                },
                else => return std::future::pending().await,
            }
        }
    }

    fn has_room(&self) -> bool {
        self.window.end.is_none() && self.window.length < WINDOW
    }

    fn hear(&mut self, word: Option<Word>) {
        match word {
            Some(Word::Bytes(bytes)) => self.window.push(bytes),
            Some(Word::End(whom)) => self.window.end = Some(Some(whom)),
            None => self.window.end = Some(None),
        }
    }

    /// Takes what is said while nobody listens, as far as there is room: whoever types need not wait for the daemon.
    async fn gather(&mut self) -> std::convert::Infallible {
        while self.keeps && self.has_room() {
            match self.said.recv().await {
                None if self.both => break,
                word => self.hear(word),
            }
        }
        std::future::pending().await
    }
}

struct Carrier {
    reach: Arc<Reach>,
    fd: &'static str,
    act: String,
    way: Directions,
    /// Position of the next byte of output, once it is known.
    offset: Option<u64>,
    pieces: mpsc::Sender<Result<Option<Bytes>>>,
    sender: Sender,
}

impl Carrier {
    async fn run(mut self, mut socket: Socket) {
        loop {
            let error = match self.serve(socket).await {
                Ok(()) => return,
                Err(error) => error,
            };
            if !self.reach.resumes() {
                let _ = self.pieces.send(Err(error)).await;
                return;
            }
            let opened = tokio::select! {
                opened = self.reach.open(self.fd, self.offset) => opened,
                never = self.sender.gather() => match never {},
            };
            match opened {
                Ok(again) => socket = again,
                Err(error) => {
                    let _ = self.pieces.send(Err(error)).await;
                    return;
                }
            }
        }
    }

    /// Carries one connection. An error when it broke before the end of the stream.
    async fn serve(&mut self, socket: Socket) -> Result<()> {
        let (mut sink, mut source) = socket.split();
        let (told, taken) = watch::channel(None);
        let Carrier { act, way, offset, pieces, sender, reach, .. } = self;
        let receiving = Receiver { act, offset, pieces, resumes: reach.resumes(), told };
        let unheard = pieces.clone();
        match way {
            Directions::Input => tokio::select! {
                _ = sender.run(&mut sink, taken) => Ok(()),
                result = receiving.run(&mut source) => result,
            },
            Directions::Output => tokio::select! {
                result = receiving.run(&mut source) => result,
                () = unheard.closed() => Ok(()),
            },
            Directions::Both => {
                let left = async {
                    if sender.run(&mut sink, taken).await != Done::Ended {
                        unheard.closed().await;
                    }
                };
                tokio::select! {
                    result = receiving.run(&mut source) => result,
                    () = left => Ok(()),
                }
            }
        }
    }
}

/// The side that listens.
struct Receiver<'a> {
    act: &'a str,
    offset: &'a mut Option<u64>,
    pieces: &'a mpsc::Sender<Result<Option<Bytes>>>,
    resumes: bool,
    told: watch::Sender<Option<Taken>>,
}

impl Receiver<'_> {
    /// Takes what comes until the end of the stream. An error when the connection broke before.
    async fn run(mut self, source: &mut SplitStream<Socket>) -> Result<()> {
        let act = self.act;
        let end = || Error::stream(act, std::io::ErrorKind::UnexpectedEof);
        loop {
            let bytes = match source.next().await {
                Some(Ok(Message::Binary(bytes))) => bytes,
                Some(Ok(Message::Text(text))) if text.is_empty() => break,
                Some(Ok(Message::Text(text))) if self.resumes => {
                    self.note(&serde_json::from_str(&text).unwrap_or_default());
                    continue;
                }
                Some(Ok(Message::Text(text))) => text.into(),
                // A server that knows no other farewell.
                Some(Ok(Message::Close(_))) if !self.resumes => break,
                Some(Ok(Message::Close(_))) => return Err(end()),
                // Pings are answered below this.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                Some(Err(error)) if !is_gone(&error) => return Err(broken(act, error)),
                Some(Err(_)) | None => return Err(end()),
            };
            if let Some(offset) = &mut *self.offset {
                *offset += bytes.len() as u64;
            }
            // Whoever does not listen may still talk.
            let _ = self.pieces.send(Ok(Some(bytes))).await;
        }
        let _ = self.pieces.send(Ok(None)).await;
        Ok(())
    }

    fn note(&mut self, note: &StreamNote) {
        if note.offset.is_some() {
            *self.offset = note.offset;
        }
        if let Some(at) = note.taken {
            self.told.send_replace(Some(Taken { at, closed: note.closed }));
        }
    }
}
