//! The streams of an exec'd process or a console: rings that the keeper writes and we read, positions in both directions.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use engine::{BoxFuture, Session};
use runtime::protocol::{
    Ack, CONSOLE_RING, Input, KeepRequest, MAX_INPUT, Output, Resize, SESSION_RING, SessionState, Signal, Taken,
};
use runtime::wire::Blob;
use tokio::sync::watch;

use super::keeper::Keeper;

/// Most bytes handed out at once.
const CHUNK: u64 = 32 * 1024;

/// Input that may be under way to the process, not taken yet: below a ring's size, so that the keeper never refuses it.
const WINDOW: u64 = 3 * MAX_INPUT as u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Position {
    at: u64,
    over: bool,
}

#[derive(Debug)]
pub(crate) struct KeptSession {
    number: u32,
    ring_size: u64,
    keeper: Arc<Keeper>,
    /// `None` until they came.
    rings: watch::Sender<Option<Arc<Vec<OwnedFd>>>>,
    output: [watch::Sender<Position>; 2],
    taken: watch::Sender<Position>,
    sent: tokio::sync::Mutex<u64>,
    /// `None` until it ended; then its code, or `None` again when nobody knows.
    ended: watch::Sender<Option<Option<i32>>>,
    forgotten: Mutex<bool>,
}

impl KeptSession {
    fn make(keeper: Arc<Keeper>, number: u32, ring_size: u64) -> Arc<KeptSession> {
        let position = || watch::channel(Position::default()).0;
        Arc::new(KeptSession {
            number,
            ring_size,
            keeper,
            rings: watch::channel(None).0,
            output: [position(), position()],
            taken: position(),
            sent: tokio::sync::Mutex::new(0),
            ended: watch::channel(None).0,
            forgotten: Mutex::new(false),
        })
    }

    pub(crate) fn new(keeper: Arc<Keeper>, number: u32) -> Arc<KeptSession> {
        Self::make(keeper, number, SESSION_RING)
    }

    pub(crate) fn console(keeper: Arc<Keeper>) -> Arc<KeptSession> {
        Self::make(keeper, 0, CONSOLE_RING)
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Its rings came.
    pub(crate) fn set_rings(&self, rings: Vec<OwnedFd>) {
        self.rings.send_replace(Some(Arc::new(rings)));
    }

    pub(crate) fn take_output(&self, output: &Output) {
        if let Some(sender) = self.output.get(usize::from(output.stream).wrapping_sub(1)) {
            sender.send_if_modified(|position| {
                let new = Position { at: position.at.max(output.head), over: position.over || output.eof };
                std::mem::replace(position, new) != new
            });
        }
    }

    pub(crate) fn take_taken(&self, taken: &Taken) {
        self.taken.send_replace(Position { at: taken.offset, over: taken.closed });
    }

    pub(crate) fn take_state(&self, state: &SessionState) {
        for (stream, known) in [(1, &state.stdout), (2, &state.stderr)] {
            let over = known.eof || state.ended;
            self.take_output(&Output { session: self.number, stream, head: known.head, eof: over });
        }
        if state.ended {
            self.taken.send_modify(|position| position.over = true);
            self.ended.send_replace(Some(Some(state.code)));
        }
    }

    /// The keeper is gone, and the session with it.
    pub(crate) fn lose(&self) {
        self.rings.send_modify(|rings| {
            rings.get_or_insert_default();
        });
        for output in &self.output {
            output.send_modify(|position| position.over = true);
        }
        self.taken.send_modify(|position| position.over = true);
        self.ended.send_modify(|ended| {
            ended.get_or_insert(None);
        });
    }

    async fn read_stream(&self, stream: u8, offset: u64) -> Option<(u64, Bytes)> {
        let mut head = self.output.get(usize::from(stream).wrapping_sub(1))?.subscribe();
        let position = *head.wait_for(|position| position.at > offset || position.over).await.ok()?;
        if position.at <= offset {
            return None;
        }
        let mut rings = self.rings.subscribe();
        let rings = rings.wait_for(Option::is_some).await.ok()?.clone()?;
        let ring = rings.get(usize::from(stream - 1))?;
        // Of a console that nobody acknowledges the oldest bytes are gone.
        let from = offset.max(position.at.saturating_sub(self.ring_size));
        let at = from % self.ring_size;
        let length = (position.at - from).min(self.ring_size - at).min(CHUNK);
        let mut bytes = vec![0u8; length as usize];
        let length = rustix::io::pread(ring, &mut bytes, at).ok()?;
        bytes.truncate(length);
        Some((from, bytes.into()))
    }

    async fn write_input(&self, data: Bytes) -> bool {
        let mut sent = self.sent.lock().await;
        let mut taken = self.taken.subscribe();
        for chunk in data.chunks(MAX_INPUT) {
            // The console takes what it can and tells nothing.
            if self.number != 0 {
                let window = taken.wait_for(|t| t.over || *sent + chunk.len() as u64 <= t.at + WINDOW).await;
                let is_open = window.is_ok_and(|t| !t.over);
                if !is_open {
                    return false;
                }
            }
            let input = Input { session: self.number, offset: *sent, data: Blob(chunk.to_vec()), eof: false };
            self.keeper.tell(&KeepRequest::Input(input)).await;
            *sent += chunk.len() as u64;
        }
        true
    }

    async fn end_input(&self) {
        let sent = self.sent.lock().await;
        let input = Input { session: self.number, offset: *sent, data: Blob::default(), eof: true };
        self.keeper.tell(&KeepRequest::Input(input)).await;
    }
}

impl Session for KeptSession {
    fn read(&self, stream: u8, offset: u64) -> BoxFuture<'_, Option<(u64, Bytes)>> {
        Box::pin(self.read_stream(stream, offset))
    }

    fn acknowledge(&self, stream: u8, offset: u64) {
        let ack = Ack { session: self.number, stream, offset };
        self.keeper.try_tell(&KeepRequest::Ack(ack));
    }

    fn write(&self, data: Bytes) -> BoxFuture<'_, bool> {
        Box::pin(self.write_input(data))
    }

    fn close_input(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.end_input())
    }

    fn resize(&self, columns: u16, rows: u16) {
        self.keeper.try_tell(&KeepRequest::Resize(Resize { session: self.number, columns, rows }));
    }

    fn signal(&self, signal: i32) {
        self.keeper.try_tell(&KeepRequest::Signal(Signal { session: self.number, signal }));
    }

    fn ended(&self) -> BoxFuture<'_, Option<i32>> {
        Box::pin(async {
            let mut ended = self.ended.subscribe();
            ended.wait_for(Option::is_some).await.ok().and_then(|ended| ended.flatten())
        })
    }

    fn forget(&self) {
        let mut forgotten = self.forgotten.lock().unwrap_or_else(PoisonError::into_inner);
        if !*forgotten && self.number != 0 {
            *forgotten = true;
            self.keeper.forget_session(self.number);
            let which = runtime::protocol::Session { session: self.number };
            self.keeper.try_tell(&KeepRequest::Forget(which));
        }
    }
}
