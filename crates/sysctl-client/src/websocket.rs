//! Websockets: the handshake, and the two directions of a stream of bytes as their users see them.
//!
//! The end of a stream is an empty text message, in both directions.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper::{Method, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use sysctl_api::{ExecControl, WindowSize};
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::{client::generate_key, derive_accept_key};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};

use crate::client::{Client, act};
use crate::connection::whole;
use crate::error::{Error, Result};
use crate::stream::{MAX_PART, Reach, Word};
use crate::uri::Uri;

/// Largest message that is taken from the server. It sends at most 64 KiB of output, and events of a few KB.
const MAX_MESSAGE: usize = 16 << 20;

pub(crate) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// A broken websocket as an error.
pub(crate) fn broken(act: &str, error: tungstenite::Error) -> Error {
    match error {
        tungstenite::Error::Io(source) => Error::stream(act, source),
        other => Error::protocol(act, other.to_string()),
    }
}

/// The far end is gone, without the farewell that the protocol has: clients and servers of this API do that.
pub(crate) fn is_gone(error: &tungstenite::Error) -> bool {
    use tungstenite::error::ProtocolError::ResetWithoutClosingHandshake;
    matches!(
        error,
        tungstenite::Error::ConnectionClosed
            | tungstenite::Error::AlreadyClosed
            | tungstenite::Error::Protocol(ResetWithoutClosingHandshake)
    )
}

impl Client {
    /// Turns a connection into something else.
    pub(crate) async fn upgrade(&self, uri: Uri, headers: &[(&str, &str)]) -> Result<(Response<()>, Upgraded)> {
        let act = act(&Method::GET, &uri);
        let response = self.request(Method::GET, uri, headers, whole(""), Some(self.deadline())).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(Error::protocol(&act, format!("status 101 was expected, not {}", response.status())));
        }
        let mut head = Response::new(());
        head.headers_mut().clone_from(response.headers());
        let transport = |source| Error::Transport { act: act.clone(), source };
        Ok((head, hyper::upgrade::on(response).await.map_err(transport)?))
    }

    /// Opens a websocket.
    pub(crate) async fn websocket(&self, uri: Uri) -> Result<Socket> {
        self.websocket_with_head(uri).await.map(|(_, socket)| socket)
    }

    /// The same, with what the server said about it.
    pub(crate) async fn websocket_with_head(&self, uri: Uri) -> Result<(Response<()>, Socket)> {
        let act = act(&Method::GET, &uri);
        let key = generate_key();
        let headers = [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", key.as_str()),
        ];
        let (response, stream) = self.upgrade(uri, &headers).await?;
        let accepted = response.headers().get(header::SEC_WEBSOCKET_ACCEPT).map(|value| value.as_bytes());
        if accepted != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
            return Err(Error::protocol(&act, "the websocket's key was answered wrongly"));
        }
        let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
        Ok((response, WebSocketStream::from_raw_socket(TokioIo::new(stream), Role::Client, Some(config)).await))
    }
}

/// The direction to the instance.
#[derive(Debug)]
pub struct Input {
    act: String,
    /// `None` when the far end was gone from the start.
    words: Option<mpsc::Sender<Word>>,
}

impl Input {
    pub(crate) fn new(act: &str, words: Option<mpsc::Sender<Word>>) -> Input {
        Input { act: act.to_owned(), words }
    }

    /// Sends bytes. Returns once they are on their way, so that a slow receiver slows the sender down. An error when the
    /// far end takes no more.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let refused = || Error::stream(&self.act, std::io::ErrorKind::BrokenPipe);
        let words = self.words.as_ref().ok_or_else(refused)?;
        let mut bytes = bytes;
        while !bytes.is_empty() {
            let part = bytes.split_to(bytes.len().min(MAX_PART));
            words.send(Word::Bytes(part)).await.map_err(|_| refused())?;
        }
        Ok(())
    }

    /// Says that there will be no more. On a stream that goes both ways, that is the end of the other way, too.
    pub async fn close(self) -> Result<()> {
        let Some(words) = self.words else { return Ok(()) };
        let (whom, sent) = oneshot::channel();
        // Whoever does not listen any more need not be told.
        if words.send(Word::End(whom)).await.is_ok() {
            let _ = sent.await;
        }
        Ok(())
    }
}

/// The direction from the instance.
#[derive(Debug)]
pub struct Output {
    act: String,
    pieces: mpsc::Receiver<Result<Option<Bytes>>>,
    is_over: bool,
}

impl Output {
    pub(crate) fn new(act: &str, pieces: mpsc::Receiver<Result<Option<Bytes>>>) -> Output {
        Output { act: act.to_owned(), pieces, is_over: false }
    }

    /// The next bytes; `None` at the end. A stream that stops without saying that this is its end was cut off: an error,
    /// unless it could be gone on with.
    pub async fn read(&mut self) -> Result<Option<Bytes>> {
        if self.is_over {
            return Ok(None);
        }
        let piece = match self.pieces.recv().await {
            Some(piece) => piece,
            None => Err(Error::stream(&self.act, std::io::ErrorKind::UnexpectedEof)),
        };
        self.is_over = matches!(piece, Ok(None));
        piece
    }
}

/// Orders beside a stream: sizes and signals.
#[derive(Debug)]
pub struct Control {
    reach: Arc<Reach>,
    /// `None` when the far end was gone from the start, or is over.
    socket: Option<Socket>,
    /// The size that was last told: told again to a daemon that may not have heard it.
    size: Option<(u16, u16)>,
}

impl Control {
    pub(crate) fn new(reach: &Arc<Reach>, socket: Option<Socket>) -> Control {
        Control { reach: reach.clone(), socket, size: None }
    }

    /// Tells the size of the terminal.
    pub async fn resize(&mut self, columns: u16, rows: u16) -> Result<()> {
        self.size = Some((columns, rows));
        self.order(&resize(columns, rows)).await
    }

    /// Sends a signal to the program.
    pub async fn signal(&mut self, signal: i32) -> Result<()> {
        self.order(&ExecControl { command: "signal".into(), args: WindowSize::default(), signal }).await
    }

    /// An order that finds the connection broken is given once more on the next one.
    async fn order(&mut self, order: &ExecControl) -> Result<()> {
        match self.tell(order).await {
            Err(_) if self.reach.resumes() => {
                self.connect().await?;
                self.tell(order).await
            }
            told => told,
        }
    }

    async fn tell(&mut self, order: &ExecControl) -> Result<()> {
        const ACT: &str = "control of the program";
        let text = serde_json::to_string(order).map_err(|error| Error::protocol(ACT, error.to_string()))?;
        match &mut self.socket {
            Some(socket) => socket.send(Message::text(text)).await.map_err(|error| broken(ACT, error)),
            None => Ok(()),
        }
    }

    async fn connect(&mut self) -> Result<()> {
        self.socket = None;
        self.socket = Some(self.reach.open("control", None).await?);
        match self.size {
            Some((columns, rows)) => self.tell(&resize(columns, rows)).await,
            None => Ok(()),
        }
    }

    /// Returns when there is nothing left to control. Has to be awaited beside the rest, so that pings are answered, and
    /// that it is connected again after a restart of the daemon.
    pub async fn closed(&mut self) {
        while let Some(socket) = &mut self.socket {
            match socket.next().await {
                Some(Ok(Message::Text(text))) if text.is_empty() => return,
                Some(Ok(Message::Close(_))) | Some(Err(_)) | None => {
                    if !self.reach.resumes() || self.connect().await.is_err() {
                        return;
                    }
                }
                Some(Ok(_)) => {}
            }
        }
    }
}

fn resize(columns: u16, rows: u16) -> ExecControl {
    let args = WindowSize { width: columns.to_string(), height: rows.to_string() };
    ExecControl { command: "window-resize".into(), args, signal: 0 }
}
