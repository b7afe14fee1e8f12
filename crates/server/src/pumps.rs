//! Bytes between websockets and the streams of a session.
//!
//! The end of a stream is an empty text message, in both directions.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocket};
use engine::Session;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use sysctl_api::ExecControl;

/// How a pump ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Everything was carried over.
    Complete,
    /// The client went away before.
    Gone,
}

type Sink = SplitSink<WebSocket, Message>;
type Source = SplitStream<WebSocket>;

/// Output to a client that only listens.
pub(crate) async fn output(socket: WebSocket, session: Arc<dyn Session>, stream: u8, from: u64) -> End {
    let (sink, mut source) = socket.split();
    tokio::select! {
        end = send_output(sink, &*session, stream, from) => end,
        () = until_closed(&mut source) => End::Gone,
    }
}

/// Input from a client.
pub(crate) async fn input(mut socket: WebSocket, session: Arc<dyn Session>) -> End {
    receive_input(&mut socket, &*session).await;
    session.close_input().await;
    End::Complete
}

/// A terminal: output one way, keys the other.
pub(crate) async fn terminal(socket: WebSocket, session: Arc<dyn Session>, from: u64) -> End {
    let (sink, mut source) = socket.split();
    tokio::select! {
        end = send_output(sink, &*session, 1, from) => end,
        // The client hung up, or will send no more: then it reads no more either.
        () = receive_input(&mut source, &*session) => End::Gone,
    }
}

async fn send_output(mut sink: Sink, session: &dyn Session, stream: u8, from: u64) -> End {
    let mut offset = from;
    while let Some((at, bytes)) = session.read(stream, offset).await {
        offset = at + bytes.len() as u64;
        if sink.send(Message::Binary(bytes)).await.is_err() {
            return End::Gone;
        }
        // Flushed to the socket: from here on the kernel has it.
        session.acknowledge(stream, offset);
    }
    match sink.send(Message::Text("".into())).await {
        Ok(()) => {
            let _ = sink.close().await;
            End::Complete
        }
        Err(_) => End::Gone,
    }
}

/// Takes input until its end.
async fn receive_input<S>(source: &mut S, session: &dyn Session)
where
    S: StreamExt<Item = Result<Message, axum::Error>> + Unpin,
{
    while let Some(Ok(message)) = source.next().await {
        let bytes: Bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) if text.is_empty() => return,
            Message::Text(text) => text.into(),
            Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        // A process that takes nothing more is no reason to hang up on the client.
        let _ = session.write(bytes).await;
    }
}

/// Reads until the client is gone; what it says is of no interest.
async fn until_closed(source: &mut Source) {
    while let Some(Ok(message)) = source.next().await {
        if matches!(message, Message::Close(_)) {
            return;
        }
    }
}

/// Orders on a control socket.
pub(crate) async fn control(mut socket: WebSocket, session: Arc<dyn Session>) -> End {
    while let Some(Ok(message)) = socket.next().await {
        let text = match &message {
            Message::Text(text) => text.as_bytes(),
            Message::Binary(bytes) => bytes,
            Message::Close(_) => break,
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        let Ok(order) = serde_json::from_slice::<ExecControl>(text) else { continue };
        match order.command.as_str() {
            "window-resize" => {
                if let (Ok(columns), Ok(rows)) = (order.args.width.parse(), order.args.height.parse()) {
                    session.resize(columns, rows);
                }
            }
            "signal" => session.signal(order.signal),
            _ => {}
        }
    }
    End::Gone
}
