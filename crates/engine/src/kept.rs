//! Events that happened: how they reach the disk, and how they are read again.

use std::sync::Arc;
use std::time::Duration;

use store::{Class, Op, Store, Txn, TxnError};
use tokio::sync::oneshot;

use crate::engine::Engine;
use crate::error::Result;
use crate::events::{Event, KEPT};
use crate::shared::Shared;

/// How long an event waits for a commit that it can ride before it gets one of its own: most of them tell of something
/// that is written down right after.
const LINGER: Duration = Duration::from_millis(20);

/// How long the database is left alone that could not be written.
const PAUSE: Duration = Duration::from_secs(1);

/// Events that are read at a time: 100 KB for each listener that asks for the past.
const PAGE: u32 = 256;

/// What the database answers once a transaction is on the disk.
pub(crate) type Answer = oneshot::Receiver<std::result::Result<u64, TxnError>>;

/// A part of the past.
#[derive(Debug, Default)]
pub struct Past {
    /// What happened, in its order.
    pub events: Vec<Event>,
    /// There is more.
    pub more: bool,
}

impl Shared {
    /// Hands changes to the database, together with the events that are to be kept: these wait for the next transaction
    /// when this one is refused.
    pub(crate) fn submit(&self, class: Class, mut ops: Vec<Op>) -> Answer {
        if !ops.is_empty() {
            self.host.passed("before", "commit");
        }
        let Some(mut ride) = self.events.ride() else {
            return self.store.submit_as(class, Txn { compare: Vec::new(), ops });
        };
        ops.append(&mut ride.ops);
        let (told, answer) = oneshot::channel();
        let (commit, events) = (self.store.submit_as(class, Txn { compare: Vec::new(), ops }), self.events.clone());
        tokio::spawn(async move {
            let result = commit.await.unwrap_or_else(|_| Err(TxnError::Broken("its writer has ended".into())));
            events.arrived(ride.number(), result.is_ok());
            // Whoever asked may not want to know.
            let _ = told.send(result);
        });
        answer
    }
}

/// Keeps what is told while nothing else is written, for as long as the engine lives.
pub(crate) fn follow(shared: &Arc<Shared>) {
    let (events, shared) = (shared.events.clone(), Arc::downgrade(shared));
    tokio::spawn(async move {
        // How many are kept. They are counted once: that reads all of them.
        let mut kept = None;
        loop {
            events.waiting().await;
            tokio::time::sleep(LINGER).await;
            let Some(shared) = shared.upgrade() else { return };
            if events.is_waiting()
                && let Err(error) = shared.submit_and_wait(Class::Settled, Vec::new()).await
            {
                tracing::warn!(%error, "events could not be kept; trying again");
                tokio::time::sleep(PAUSE).await;
            }
            if events.is_cut_due() {
                kept = cut(&shared, kept).await;
            }
        }
    });
}

/// Drops the oldest events beyond those that are kept, and remembers that there were some. `kept` is how many there were at
/// the last time; returns how many there are now, as far as that is known.
async fn cut(shared: &Arc<Shared>, kept: Option<u64>) -> Option<u64> {
    let events = &shared.events;
    let (store, added) = (shared.store.clone(), events.added());
    let look = tokio::task::spawn_blocking(move || last_to_drop(&store, kept, added, KEPT));
    let (left, last) = look.await.ok()?.ok()?;
    events.counted(added);
    if let Some(last) = last {
        drop(shared.submit(Class::Settled, vec![Op::DropEvents { below: last + 1 }, events.cut(last).put()]));
    }
    left
}

/// The newest event to drop so that at most `most` are left, and how many are left then; `None` when that must be counted.
fn last_to_drop(
    store: &Store,
    kept: Option<u64>,
    added: u64,
    most: u64,
) -> std::result::Result<(Option<u64>, Option<u64>), TxnError> {
    let count = match kept {
        Some(kept) => kept + added,
        None => store.event_count()?,
    };
    if count <= most {
        return Ok((Some(count), None));
    }
    let last = store.nth_oldest_event(count - most - 1)?;
    Ok((last.map(|_| most), last))
}

impl Engine {
    /// What happened from number `from` on, as far as it is kept, in parts.
    pub async fn past_events(&self, from: u64) -> Result<Past> {
        // Memory before disk: what gets there meanwhile is in both.
        let unkept = self.shared.events.unkept_from(from);
        let store = self.shared.store.clone();
        let read = tokio::task::spawn_blocking(move || store.events(from, PAGE)).await;
        let mut found = read.map_err(|error| crate::Error::Internal(error.to_string()))??;
        let more = found.len() == PAGE as usize;
        if !more {
            let last = found.last().map_or(0, |event| event.sequence);
            found.extend(unkept.into_iter().filter(|event| event.sequence > last));
        }
        let events = found.iter().filter_map(|event| serde_json::from_str(&event.body).ok()).collect();
        Ok(Past { events, more })
    }
}

#[cfg(test)]
mod tests {
    use store::Memory;

    use super::*;

    #[tokio::test]
    async fn what_is_kept_is_counted_once_and_cut_to_its_measure() {
        let memory = Memory::default();
        let store = Store::in_memory(memory.clone());
        let tell = |from: u64, to: u64| {
            let event = |sequence| Op::Event(store::Event { sequence, at_ms: 0, body: String::new() });
            drop(store.submit(Txn { compare: Vec::new(), ops: (from..to).map(event).collect() }));
            memory.take(None).expect("one waits").tell();
        };
        tell(101, 107);
        assert_eq!(last_to_drop(&store, None, 6, 10), Ok((Some(6), None)));
        tell(2_001, 2_008);
        let found = last_to_drop(&store, Some(6), 7, 10);
        assert_eq!(found, Ok((Some(10), Some(103))));
        assert_eq!(last_to_drop(&store, None, 0, 10), found, "the same by counting");
        // Who was wrong counts again.
        assert_eq!(last_to_drop(&store, Some(40), 7, 10), Ok((None, None)));
    }
}
