//! The streams of an exec'd process or a console: rings that the keeper writes and we read, positions in both directions.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use engine::{BoxFuture, InputPart, InputState, Session};
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
    acknowledged: [AtomicU64; 2],
    taken: watch::Sender<Position>,
    /// Input that was handed to the keeper so far.
    sent: AtomicU64,
    /// One writer at a time.
    writing: tokio::sync::Mutex<()>,
    /// `None` until it ended; then its code, or `None` again when nobody knows.
    ended: watch::Sender<Option<Option<i32>>>,
    forgotten: AtomicBool,
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
            acknowledged: Default::default(),
            taken: position(),
            sent: AtomicU64::new(0),
            writing: tokio::sync::Mutex::new(()),
            ended: watch::channel(None).0,
            forgotten: AtomicBool::new(false),
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

    /// Goes on where a former daemon was.
    pub(crate) fn take_up(&self, state: &SessionState, rings: Vec<OwnedFd>) {
        self.set_rings(rings);
        for (known, stream) in self.acknowledged.iter().zip([&state.stdout, &state.stderr]) {
            known.fetch_max(stream.tail, Ordering::Relaxed);
        }
        self.sent.fetch_max(state.received.max(state.input), Ordering::Relaxed);
        self.taken.send_modify(|position| position.at = position.at.max(state.input));
        self.take_state(state);
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
        self.taken.send_modify(|position| {
            position.at = position.at.max(taken.offset);
            position.over |= taken.closed;
        });
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

    /// The keeper is gone, and the session with it: true when how it ended is not known.
    pub(crate) fn lose(&self) -> bool {
        self.rings.send_modify(|rings| {
            rings.get_or_insert_default();
        });
        for output in &self.output {
            output.send_modify(|position| position.over = true);
        }
        self.taken.send_modify(|position| position.over = true);
        self.ended.send_if_modified(|ended| {
            let unknown = ended.is_none();
            ended.get_or_insert(None);
            unknown
        })
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

    async fn write_input(&self, part: InputPart) -> bool {
        let _turn = self.writing.lock().await;
        if self.number == 0 {
            self.keeper.called("the console");
        }
        let mut taken = self.taken.subscribe();
        let mut offset = part.offset;
        // What is missing will not come: whoever sends was told where to go on.
        if offset > self.sent.load(Ordering::Relaxed) {
            return false;
        }
        for chunk in part.data.chunks(MAX_INPUT) {
            let end = offset + chunk.len() as u64;
            // The console takes what it can and tells nothing.
            if self.number != 0 {
                let window = taken.wait_for(|t| t.over || end <= t.at + WINDOW).await;
                let is_open = window.is_ok_and(|t| !t.over);
                if !is_open {
                    return false;
                }
            }
            self.send_input(offset, chunk, false).await;
            offset = end;
        }
        if part.eof {
            self.send_input(offset, &[], true).await;
        }
        true
    }

    async fn send_input(&self, offset: u64, data: &[u8], eof: bool) {
        let input = Input { session: self.number, offset, data: Blob(data.to_vec()), eof };
        self.keeper.tell(&KeepRequest::Input(input)).await;
        self.sent.fetch_max(offset + data.len() as u64, Ordering::Relaxed);
    }

    fn input_state(&self) -> InputState {
        let position = *self.taken.borrow();
        InputState { taken: position.at, received: self.sent.load(Ordering::Relaxed), closed: position.over }
    }
}

impl Session for KeptSession {
    fn read(&self, stream: u8, offset: u64) -> BoxFuture<'_, Option<(u64, Bytes)>> {
        Box::pin(self.read_stream(stream, offset))
    }

    fn acknowledged(&self, stream: u8) -> u64 {
        let known = self.acknowledged.get(usize::from(stream).wrapping_sub(1));
        known.map_or(0, |known| known.load(Ordering::Relaxed))
    }

    fn acknowledge(&self, stream: u8, offset: u64) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Some(known) = self.acknowledged.get(usize::from(stream).wrapping_sub(1)) {
                known.fetch_max(offset, Ordering::Relaxed);
            }
            // Not to be lost: a keeper whose ring is full waits for nothing else.
            self.keeper.tell(&KeepRequest::Ack(Ack { session: self.number, stream, offset })).await;
        })
    }

    fn write(&self, part: InputPart) -> BoxFuture<'_, bool> {
        Box::pin(self.write_input(part))
    }

    fn input(&self, known: Option<InputState>) -> BoxFuture<'_, InputState> {
        Box::pin(async move {
            let mut taken = self.taken.subscribe();
            let is_news = |position: &Position| {
                known.is_none_or(|known| (known.taken, known.closed) != (position.at, position.over))
            };
            // The sender is ours: it does not go away.
            let _ = taken.wait_for(is_news).await;
            self.input_state()
        })
    }

    fn resize(&self, columns: u16, rows: u16) -> BoxFuture<'_, ()> {
        let resize = Resize { session: self.number, columns, rows };
        Box::pin(async move { self.keeper.tell(&KeepRequest::Resize(resize)).await })
    }

    fn signal(&self, signal: i32) -> BoxFuture<'_, ()> {
        let signal = Signal { session: self.number, signal };
        Box::pin(async move { self.keeper.tell(&KeepRequest::Signal(signal)).await })
    }

    fn ended(&self) -> BoxFuture<'_, Option<i32>> {
        Box::pin(async {
            let mut ended = self.ended.subscribe();
            ended.wait_for(Option::is_some).await.ok().and_then(|ended| ended.flatten())
        })
    }

    fn forget(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            if self.number != 0 && !self.forgotten.swap(true, Ordering::Relaxed) {
                self.keeper.forget_session(self.number);
                // What it said was carried over, or nobody came for it: whoever still connects has nothing to read.
                self.rings.send_replace(Some(Arc::default()));
                let which = runtime::protocol::Session { session: self.number };
                self.keeper.tell(&KeepRequest::Forget(which)).await;
            }
        })
    }
}
