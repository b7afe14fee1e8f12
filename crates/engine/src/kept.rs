//! Events that happened: how they reach the disk, and how they are read again.

use std::sync::Arc;
use std::time::Duration;

use store::{Class, Op, Txn, TxnError};
use tokio::sync::oneshot;

use crate::engine::Engine;
use crate::error::Result;
use crate::events::{Event, Events, KEPT};
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
                cut(&shared, &events).await;
            }
        }
    });
}

/// Drops the oldest events beyond those that are kept, and remembers that there were some.
async fn cut(shared: &Arc<Shared>, events: &Events) {
    let store = shared.store.clone();
    let newest = tokio::task::spawn_blocking(move || store.nth_newest_event(KEPT)).await;
    if let Ok(Ok(Some(newest))) = newest {
        drop(shared.submit(Class::Settled, vec![Op::DropEvents { below: newest + 1 }, events.cut(newest).put()]));
    }
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
