//! Websockets: the handshake, and the two directions of a stream of bytes.
//!
//! The end of a stream is an empty text message, in both directions.

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper::{Method, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use sysctl_api::{ExecControl, WindowSize};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::{client::generate_key, derive_accept_key};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};

use crate::client::{Client, act};
use crate::connection::whole;
use crate::error::{Error, Result};
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
        Ok(WebSocketStream::from_raw_socket(TokioIo::new(stream), Role::Client, Some(config)).await)
    }
}

/// The direction to the instance.
#[derive(Debug)]
pub struct Input {
    act: String,
    sink: SplitSink<Socket, Message>,
}

impl Input {
    /// Sends bytes. Returns once they are on their way, so that a slow receiver slows the sender down.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.sink.send(Message::Binary(bytes)).await.map_err(|error| broken(&self.act, error))
    }

    /// Says that there will be no more. On a stream that goes both ways, that is the end of the other way, too.
    pub async fn close(mut self) -> Result<()> {
        match self.sink.send(Message::text("")).await {
            Ok(()) => drop(self.sink.close().await),
            // Whoever does not listen any more need not be told.
            Err(error) if is_gone(&error) || matches!(error, tungstenite::Error::Io(_)) => {}
            Err(error) => return Err(broken(&self.act, error)),
        }
        Ok(())
    }
}

/// The direction from the instance.
#[derive(Debug)]
pub struct Output {
    act: String,
    stream: SplitStream<Socket>,
}

impl Output {
    /// The next bytes; `None` at the end. A stream that stops without saying that this is its end was cut off: an error.
    pub async fn read(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.stream.next().await {
                Some(Ok(Message::Binary(bytes))) => return Ok(Some(bytes)),
                Some(Ok(Message::Text(text))) if text.is_empty() => return Ok(None),
                Some(Ok(Message::Text(text))) => return Ok(Some(text.into())),
                Some(Ok(Message::Close(_))) => return Ok(None),
                // Pings are answered below this.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Err(error)) if !is_gone(&error) => return Err(broken(&self.act, error)),
                Some(Err(_)) | None => return Err(Error::stream(&self.act, std::io::ErrorKind::UnexpectedEof)),
            }
        }
    }
}

/// Both directions of a websocket.
pub(crate) fn directions(what: &str, socket: Socket) -> (Input, Output) {
    let (sink, stream) = socket.split();
    (Input { act: what.to_owned(), sink }, Output { act: what.to_owned(), stream })
}

/// Orders beside a stream: sizes and signals.
#[derive(Debug)]
pub struct Control {
    socket: Socket,
}

impl Control {
    pub(crate) fn new(socket: Socket) -> Control {
        Control { socket }
    }

    /// Tells the size of the terminal.
    pub async fn resize(&mut self, columns: u16, rows: u16) -> Result<()> {
        let args = WindowSize { width: columns.to_string(), height: rows.to_string() };
        self.order(&ExecControl { command: "window-resize".into(), args, signal: 0 }).await
    }

    /// Sends a signal to the program.
    pub async fn signal(&mut self, signal: i32) -> Result<()> {
        self.order(&ExecControl { command: "signal".into(), args: WindowSize::default(), signal }).await
    }

    async fn order(&mut self, order: &ExecControl) -> Result<()> {
        const ACT: &str = "control of the program";
        let text = serde_json::to_string(order).map_err(|error| Error::protocol(ACT, error.to_string()))?;
        self.socket.send(Message::text(text)).await.map_err(|error| broken(ACT, error))
    }

    /// Returns when the server hangs up. Has to be awaited beside the rest, so that its pings are answered.
    pub async fn closed(&mut self) {
        while let Some(Ok(message)) = self.socket.next().await {
            if matches!(message, Message::Close(_)) {
                return;
            }
        }
    }
}
