//! What is told to whoever listens, numbered and kept.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::Op;
use tokio::sync::broadcast;

use crate::clock;
use crate::operations::OperationView;

/// Events that a listener may be behind; one that is further behind is cut off and asks again with `since`.
const BEHIND: usize = 2048;

/// Events that are kept. At 400 bytes each that is 4 MB of the database.
const KEPT: u64 = 10_000;

/// Events that wait to be kept. Each is on its way with the next commit; beyond this the oldest are not kept.
const UNKEPT: usize = 2 * BEHIND;

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "metadata", rename_all = "kebab-case")]
pub enum Happening {
    /// An operation changed.
    Operation(OperationView),
    /// Something began, changed or ended.
    Lifecycle(Lifecycle),
    /// A line of the log.
    Logging(Logging),
}

/// A step in the life of an object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lifecycle {
    /// What, like `instance-started`.
    pub action: String,
    /// Path of the object.
    pub source: String,
    /// More about it.
    pub context: BTreeMap<String, Value>,
    /// Who asked; `None` for the daemon or the guest itself.
    pub requestor: Option<String>,
    /// Name of the object.
    pub name: String,
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Logging {
    /// What it says.
    pub message: String,
    /// `debug`, `info`, `warning` or `error`.
    pub level: String,
    /// Values that belong to it.
    pub context: BTreeMap<String, String>,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Number; grows over restarts of the daemon.
    pub sequence: u64,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// Project of the object, empty for what belongs to none.
    pub project: String,
    /// What.
    pub happening: Happening,
}

/// The bus.
#[derive(Debug)]
pub struct Events {
    next: AtomicU64,
    listeners: broadcast::Sender<Arc<Event>>,
    unkept: Mutex<Vec<store::Event>>,
}

impl Events {
    /// A bus whose first event gets the number after `last`.
    ///
    /// Numbers of events that were told but not kept before a crash are not used again: a gap is left.
    pub(crate) fn new(last: u64) -> Events {
        let (listeners, _) = broadcast::channel(BEHIND);
        Events { next: AtomicU64::new(last + 1 + UNKEPT as u64), listeners, unkept: Mutex::new(Vec::new()) }
    }

    /// Everything from now on.
    pub fn listen(&self) -> broadcast::Receiver<Arc<Event>> {
        self.listeners.subscribe()
    }

    /// Number of the newest event.
    pub fn newest(&self) -> u64 {
        self.next.load(Ordering::Acquire) - 1
    }

    pub(crate) fn tell(&self, project: &str, happening: Happening) {
        let keep = !matches!(happening, Happening::Logging(_));
        let mut unkept = self.unkept.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock, so that numbers are told in their order.
        let event = Arc::new(Event {
            sequence: self.next.fetch_add(1, Ordering::AcqRel),
            at_ms: clock::now_ms(),
            project: project.to_owned(),
            happening,
        });
        if keep && let Ok(body) = serde_json::to_string(&*event) {
            if unkept.len() == UNKEPT {
                unkept.remove(0);
            }
            unkept.push(store::Event { sequence: event.sequence, at_ms: event.at_ms, body });
        }
        let _ = self.listeners.send(event);
    }

    /// Takes what is to be kept, as operations for the next transaction.
    pub(crate) fn take_unkept(&self) -> Vec<Op> {
        let events = std::mem::take(&mut *self.unkept.lock().unwrap_or_else(PoisonError::into_inner));
        let newest = events.last().map(|event| event.sequence);
        // Every few hundred numbers the front is cut.
        let cut = newest.filter(|n| n % 256 < events.len() as u64 && *n > KEPT);
        events.into_iter().map(Op::Event).chain(cut.map(|n| Op::DropEvents { below: n - KEPT })).collect()
    }
}
