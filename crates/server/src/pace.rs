//! How slow the other side of a connection may be: bodies that trickle in, answers that nobody reads.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// How long nothing of a body may come, and what a client gains by sending: a second for each KiB, up to this again.
const BODY_PATIENCE: Duration = Duration::from_secs(30);

/// How long a client may take nothing of an answer that waits for it.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);

/// A time that runs only while the other side is waited for.
#[derive(Debug, Default)]
struct Wait {
    since: Option<Instant>,
    /// Made when something is waited for the first time: most requests never do.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Wait {
    /// Waiting goes on; ready when it has taken longer than `left`.
    fn poll(&mut self, cx: &mut Context<'_>, left: Duration) -> Poll<()> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(since + left)));
        if alarm.deadline() != since + left {
            alarm.as_mut().reset(since + left);
        }
        alarm.as_mut().poll(cx)
    }

    /// Waiting is over; how long it was.
    fn end(&mut self) -> Duration {
        self.since.take().map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// How long the rest of a body is taken that nobody wants any more.
const REST_PATIENCE: Duration = Duration::from_secs(5);

/// A request's body whose sender has to keep pace. Time in which the daemon itself takes nothing does not count.
#[derive(Debug)]
pub(crate) struct Paced<B: Content> {
    /// `None` once all of it came.
    body: Option<B>,
    left: Duration,
    wait: Wait,
    /// Set when the body was too slow.
    late: Arc<AtomicBool>,
}

/// What a request's body is made of.
pub(crate) trait Content:
    Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin + Send + 'static
{
}
impl<B> Content for B where B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin + Send + 'static {}

impl<B: Content> Paced<B> {
    pub(crate) fn new(body: B, late: Arc<AtomicBool>) -> Paced<B> {
        Paced { body: Some(body), left: BODY_PATIENCE, wait: Wait::default(), late }
    }
}

impl<B: Content> Drop for Paced<B> {
    /// Takes what still comes of a body that was refused: to close the connection of a client that sends would lose it the answer.
    fn drop(&mut self) {
        let Some(mut rest) = self.body.take().filter(|body| !body.is_end_stream()) else { return };
        if self.late.load(Ordering::Acquire) {
            return;
        }
        let taking = async move {
            while let Some(Ok(_)) = std::future::poll_fn(|cx| Pin::new(&mut rest).poll_frame(cx)).await {}
        };
        // At the daemon's end there is none.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async { tokio::time::timeout(REST_PATIENCE, taking).await });
        }
    }
}

impl<B: Content> Body for Paced<B> {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        match Pin::new(body).poll_frame(cx) {
            Poll::Ready(None) => {
                this.body = None;
                Poll::Ready(None)
            }
            Poll::Ready(frame) => {
                let length = frame.as_ref().and_then(|f| f.as_ref().ok()?.data_ref().map(Bytes::len)).unwrap_or(0);
                let gained = Duration::from_secs(1).mul_f64(length as f64 / 1024.0);
                this.left = (this.left.saturating_sub(this.wait.end()) + gained).min(BODY_PATIENCE);
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending => {
                std::task::ready!(this.wait.poll(cx, this.left));
                this.late.store(true, Ordering::Release);
                Poll::Ready(Some(Err("the body came too slowly".into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

/// A connection that is given up when its client takes nothing for too long. `endless` turns that off.
#[derive(Debug)]
pub(crate) struct Patient<S> {
    stream: S,
    wait: Wait,
    endless: Arc<AtomicBool>,
}

impl<S> Patient<S> {
    pub(crate) fn new(stream: S, endless: Arc<AtomicBool>) -> Patient<S> {
        Patient { stream, wait: Wait::default(), endless }
    }

    fn bounded<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.wait.end();
            return written;
        }
        if self.endless.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        self.wait.poll(cx, ANSWER_PATIENCE).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.bounded(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, parts);
        this.bounded(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.bounded(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let closed = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.bounded(cx, closed)
    }
}
