//! Bytes between websockets and the streams of a session.
//!
//! The end of a stream is an empty text message, in both directions. A client that can come back is also told positions, as
//! [`StreamNote`]s: where its output goes on, and how much of its input it need not send again.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocket};
use engine::{InputPart, InputState, Session};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use sysctl_api::{ExecControl, StreamNote};
use tokio::sync::Mutex;

/// How often a client is looked for whose input waits for the program: nothing else would tell that it is gone.
const LOOK: Duration = Duration::from_millis(400);

/// How a pump ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Everything was carried over.
    Complete,
    /// The client said that it leaves.
    Left,
    /// The client went away before.
    Gone,
}

/// How a client is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Way {
    /// Where its output goes on; from what was acknowledged when it does not say.
    pub(crate) from: Option<u64>,
    /// It can come back, and wants to be told positions.
    pub(crate) resumes: bool,
}

impl Way {
    /// Position of the first byte of input: a client that comes back sends again what was not told to have been taken.
    fn first_input(self, state: InputState) -> u64 {
        if self.resumes { state.taken } else { state.received }
    }
}

type Source = SplitStream<WebSocket>;

/// The direction to the client, for everybody who has something to say.
struct Sink(Mutex<SplitSink<WebSocket, Message>>);

impl Sink {
    async fn send(&self, message: Message) -> bool {
        self.0.lock().await.send(message).await.is_ok()
    }

    async fn note(&self, note: &StreamNote) -> bool {
        self.send(Message::Text(serde_json::to_string(note).unwrap_or_default().into())).await
    }

    /// The end of the stream.
    async fn end(&self) -> bool {
        let mut sink = self.0.lock().await;
        let told = sink.send(Message::Text("".into())).await.is_ok();
        if told {
            let _ = sink.close().await;
        }
        told
    }
}

fn halves(socket: WebSocket) -> (Sink, Source) {
    let (sink, source) = socket.split();
    (Sink(Mutex::new(sink)), source)
}

/// Output to a client that only listens.
pub(crate) async fn output(socket: WebSocket, session: Arc<dyn Session>, stream: u8, way: Way) -> End {
    let (sink, mut source) = halves(socket);
    tokio::select! {
        end = send_output(&sink, &*session, stream, way) => end,
        () = until_closed(&mut source) => End::Gone,
    }
}

/// Input from a client.
pub(crate) async fn input(socket: WebSocket, session: Arc<dyn Session>, way: Way) -> End {
    let (sink, mut source) = halves(socket);
    let start = session.input(None).await;
    let mut at = way.first_input(start);
    let close = async |at| session.write(InputPart { offset: at, eof: true, ..InputPart::default() }).await;
    if !way.resumes {
        // Whatever the reason: this client sends no more, and cannot come back.
        receive_input(&mut source, &sink, &*session, &mut at).await;
        close(at).await;
        return End::Complete;
    }
    let received = async {
        if receive_input(&mut source, &sink, &*session, &mut at).await == End::Left {
            close(at).await;
            // It is told once the program has all of it; until then it may have to send that again.
            until_closed(&mut source).await;
        }
        End::Gone
    };
    tokio::select! {
        end = received => end,
        end = tell_taken(&sink, &*session, start) => end,
    }
}

/// A terminal: output one way, keys the other.
pub(crate) async fn terminal(socket: WebSocket, session: Arc<dyn Session>, way: Way) -> End {
    let (sink, mut source) = halves(socket);
    let start = session.input(None).await;
    let mut at = way.first_input(start);
    let told = async {
        if !way.resumes || tell_taken(&sink, &*session, start).await == End::Complete {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        end = send_output(&sink, &*session, 1, way) => end,
        // The client hung up, or will send no more: then it reads no more either.
        end = receive_input(&mut source, &sink, &*session, &mut at) => end,
        () = told => End::Gone,
    }
}

async fn send_output(sink: &Sink, session: &dyn Session, stream: u8, way: Way) -> End {
    let mut offset = way.from.unwrap_or_else(|| session.acknowledged(stream));
    if way.resumes && !sink.note(&StreamNote { offset: Some(offset), ..StreamNote::default() }).await {
        return End::Gone;
    }
    while let Some((at, bytes)) = session.read(stream, offset).await {
        if way.resumes && at != offset && !sink.note(&StreamNote { offset: Some(at), ..StreamNote::default() }).await {
            return End::Gone;
        }
        offset = at + bytes.len() as u64;
        if !sink.send(Message::Binary(bytes)).await {
            return End::Gone;
        }
        // Flushed to the socket: from here on the kernel has it.
        session.acknowledge(stream, offset).await;
    }
    if sink.end().await { End::Complete } else { End::Gone }
}

/// Tells how far the input is, first from where on it is to be sent, until no more is taken.
async fn tell_taken(sink: &Sink, session: &dyn Session, start: InputState) -> End {
    let mut state = start;
    loop {
        let note = StreamNote { taken: Some(state.taken), closed: state.closed, offset: None };
        match sink.note(&note).await {
            true if state.closed => return End::Complete,
            true => state = session.input(Some(state)).await,
            false => return End::Gone,
        }
    }
}

/// Takes input until its end; `at` is the position after what was handed over.
async fn receive_input(source: &mut Source, sink: &Sink, session: &dyn Session, at: &mut u64) -> End {
    while let Some(Ok(message)) = source.next().await {
        let data: Bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) if text.is_empty() => return End::Left,
            Message::Text(text) => text.into(),
            Message::Close(_) => return End::Gone,
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        let part = InputPart { offset: *at, eof: false, data };
        *at += part.data.len() as u64;
        // A process that takes nothing more is no reason to hang up on the client.
        if !still_there(sink, session.write(part)).await {
            return End::Gone;
        }
    }
    End::Gone
}

/// Waits for input to be taken, as long as there is a client that it came from.
async fn still_there(sink: &Sink, write: impl Future<Output = bool>) -> bool {
    let mut write = std::pin::pin!(write);
    while tokio::time::timeout(LOOK, &mut write).await.is_err() {
        if !sink.send(Message::Ping(Bytes::new())).await {
            return false;
        }
    }
    true
}

/// Reads until the client is gone; what it says is of no interest.
async fn until_closed(source: &mut Source) {
    while let Some(Ok(message)) = source.next().await {
        if matches!(message, Message::Close(_)) {
            return;
        }
    }
}

/// Orders on a control socket, which stays open until the program is over.
pub(crate) async fn control(
    socket: WebSocket,
    session: Arc<dyn Session>,
    over: impl Future<Output = ()>,
    way: Way,
) -> End {
    let (sink, mut source) = halves(socket);
    tokio::select! {
        () = obey(&mut source, &*session) => End::Gone,
        () = over => {
            // A client that can come back has to know that there is nothing to come back for.
            if way.resumes {
                sink.end().await;
            }
            End::Complete
        }
    }
}

async fn obey(source: &mut Source, session: &dyn Session) {
    while let Some(Ok(message)) = source.next().await {
        let text = match &message {
            Message::Text(text) => text.as_bytes(),
            Message::Binary(bytes) => bytes,
            Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        let Ok(order) = serde_json::from_slice::<ExecControl>(text) else { continue };
        match order.command.as_str() {
            "window-resize" => {
                if let (Ok(columns), Ok(rows)) = (order.args.width.parse(), order.args.height.parse()) {
                    session.resize(columns, rows).await;
                }
            }
            "signal" => session.signal(order.signal).await,
            _ => {}
        }
    }
}
