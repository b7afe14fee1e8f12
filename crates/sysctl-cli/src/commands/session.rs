//! Streams of this side connected to streams of an instance, until those of the instance end.

use std::convert::Infallible;
use std::io::ErrorKind;

use bytes::{Bytes, BytesMut};
use sysctl_client::{Control, Input, Output};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::console::Detach;
use crate::failure::{Attempt, Failure, Result};
use crate::terminal;

/// Bytes per message.
const CHUNK: usize = 32 * 1024;

/// What Ctrl-D is to a terminal: the end of the input.
const END_OF_TRANSMISSION: &[u8] = &[4];

/// Number of the signal for a reader that went away, on every Linux.
const SIGPIPE: i32 = 13;

/// The streams of an instance.
pub(super) struct Streams {
    pub(super) input: Input,
    pub(super) output: Output,
    pub(super) errors: Option<Output>,
    pub(super) control: Control,
}

/// How this side is connected.
pub(super) struct Connection {
    /// Both ends are terminals: sizes are told.
    pub(super) terminal: bool,
    /// Standard input is read.
    pub(super) reads: bool,
    /// Keys that end it from this side.
    pub(super) detach: Option<Detach>,
}

/// Signals that are passed on to the program.
const PASSED_ON: [fn() -> SignalKind; 6] = [
    SignalKind::interrupt,
    SignalKind::terminate,
    SignalKind::hangup,
    SignalKind::quit,
    SignalKind::user_defined1,
    SignalKind::user_defined2,
];

/// Carries bytes, sizes and signals. Returns once the instance's side has ended, or the keys to leave were pressed.
pub(super) async fn run(streams: Streams, connection: Connection) -> Result {
    let Streams { input, mut output, errors, control } = streams;
    let (orders, ordered) = mpsc::unbounded_channel();
    let outputs = async {
        let errors = async {
            match errors {
                Some(mut errors) => carry(&mut errors, tokio::io::stderr(), &orders).await,
                None => Ok(()),
            }
        };
        let (output, errors) = tokio::join!(carry(&mut output, tokio::io::stdout(), &orders), errors);
        output.and(errors)
    };
    let signals = signals().attempt(|| "listen for signals".into())?;
    tokio::select! {
        result = outputs => result,
        result = feed(input, &connection) => result,
        never = steer(control, ordered, signals, connection.terminal) => match never {},
    }
}

/// Output of the instance to this side.
async fn carry(from: &mut Output, mut to: impl AsyncWrite + Unpin, orders: &mpsc::UnboundedSender<i32>) -> Result {
    let mut listened = true;
    while let Some(bytes) = from.read().await.attempt(|| "read output".into())? {
        if !listened {
            continue;
        }
        let written = async {
            to.write_all(&bytes).await?;
            to.flush().await
        };
        match written.await {
            Ok(()) => {}
            // The program is told as if it had written there itself; what it still says is read to its end.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                listened = false;
                // The one who passes it on is there as long as this is.
                let _ = orders.send(SIGPIPE);
            }
            Err(error) => return Err(Failure::from(error)),
        }
    }
    Ok(())
}

/// Standard input to the instance. Returns only when the user leaves: the end of the input is not the end of the output.
async fn feed(mut input: Input, connection: &Connection) -> Result {
    if connection.reads {
        match read(&mut input, connection.detach.clone()).await? {
            Read::Left => return Ok(()),
            // A program that ended takes no more; its output tells its end.
            Read::Refused => return std::future::pending().await,
            Read::Ended => {}
        }
    }
    if connection.terminal {
        // The stream goes both ways: closing it would end the output, too.
        let _ = input.write(Bytes::from_static(END_OF_TRANSMISSION)).await;
        let _held = input;
        return std::future::pending().await;
    }
    let _ = input.close().await;
    std::future::pending().await
}

/// How standard input came to its end.
enum Read {
    Ended,
    Refused,
    Left,
}

async fn read(input: &mut Input, mut detach: Option<Detach>) -> Result<Read> {
    let mut stdin = tokio::io::stdin();
    let mut buffer = BytesMut::with_capacity(CHUNK);
    loop {
        buffer.reserve(CHUNK);
        let count = stdin.read_buf(&mut buffer).await.attempt(|| "read standard input".into())?;
        if count == 0 {
            return Ok(Read::Ended);
        }
        let mut bytes = buffer.split().freeze();
        if let Some(detach) = &mut detach {
            match detach.keys(&bytes) {
                Some(keys) => bytes = keys.into(),
                None => return Ok(Read::Left),
            }
        }
        if input.write(bytes).await.is_err() {
            return Ok(Read::Refused);
        }
    }
}

fn signals() -> std::io::Result<Vec<Signal>> {
    PASSED_ON.iter().map(|kind| signal(kind())).collect()
}

/// The number of the next signal that arrives.
async fn next_signal(signals: &mut [Signal]) -> i32 {
    std::future::poll_fn(|context| {
        for (signal, kind) in signals.iter_mut().zip(PASSED_ON) {
            if signal.poll_recv(context).is_ready() {
                return std::task::Poll::Ready(kind().as_raw_value());
            }
        }
        std::task::Poll::Pending
    })
    .await
}

/// Sizes and signals. What cannot be told any more need not be: the streams are about to end.
async fn steer(
    mut control: Control,
    mut ordered: mpsc::UnboundedReceiver<i32>,
    mut signals: Vec<Signal>,
    terminal: bool,
) -> Infallible {
    let mut resized = signal(SignalKind::window_change()).ok().filter(|_| terminal);
    let mut open = true;
    loop {
        let size = async {
            match &mut resized {
                Some(resized) => resized.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = control.closed(), if open => open = false,
            _ = size => {
                let (columns, rows) = terminal::size();
                let _ = control.resize(columns, rows).await;
            }
            number = next_signal(&mut signals) => drop(control.signal(number).await),
            Some(number) = ordered.recv() => drop(control.signal(number).await),
        }
    }
}
