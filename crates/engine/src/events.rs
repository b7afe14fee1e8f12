//! What is told to whoever listens, numbered and kept.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::{Op, Store, TxnError};
use tokio::sync::{Notify, broadcast};

use crate::clock;
use crate::operations::OperationView;

/// Events that a listener may be behind; one that is further behind is told the rest from what is kept.
const BEHIND: usize = 2048;

/// Events that are kept. At 400 bytes each that is 4 MB of the database.
pub(crate) const KEPT: u64 = 10_000;

/// Events that wait to be kept, at most 4 MB. That many pile up only while the database can't be written.
const UNKEPT: usize = 2 * BEHIND;

/// What is kept is counted, and its front cut, each time that so many were added.
const CUT_EVERY: u64 = 256;

/// Numbers that one run of the daemon begins with: no run tells that many, so none is ever told twice.
const RUN: u64 = 1_000_000;

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
    /// Number; grows over restarts of the daemon. A line of the log, which is not kept, has that of the event before it.
    pub sequence: u64,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// Project of the object, empty for what belongs to none.
    pub project: String,
    /// What.
    pub happening: Happening,
}

/// The bus.
///
/// Numbers are `run * 1,000,000 + n`: what was told and lost in a crash leaves a gap, and its numbers are not used again.
#[derive(Debug)]
pub struct Events {
    next: AtomicU64,
    listeners: broadcast::Sender<Arc<Event>>,
    unkept: Mutex<Unkept>,
    /// Something waits to be kept.
    waiting: Notify,
    /// Kept since those that are kept were counted.
    added: AtomicU64,
}

/// What is not known to be on the disk.
#[derive(Debug, Default)]
struct Unkept {
    /// In their order, each with the transaction that it rides; 0 while it waits for one.
    events: VecDeque<(u64, store::Event)>,
    last_ride: u64,
    lost_through: u64,
    /// That has changed, and is to be written down.
    lost_more: bool,
}

/// What is remembered of numbers: how many runs there were, and the newest event that is kept no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Numbers {
    run: u64,
    lost_through: u64,
}

/// Kind and key of their document.
const NUMBERS: (&str, &str) = ("numbers", "events");

impl Numbers {
    /// Those of a new run.
    pub(crate) fn of_next_run(store: &Store) -> Result<Numbers, TxnError> {
        let kept = store.get(NUMBERS.0, NUMBERS.1)?;
        let kept: Numbers = kept.and_then(|document| serde_json::from_str(&document.body).ok()).unwrap_or_default();
        let run = kept.run.max(store.last_event()? / RUN) + 1;
        Ok(Numbers { run, ..kept })
    }

    /// Writes them.
    pub(crate) fn put(self) -> Op {
        let body = serde_json::to_string(&self).unwrap_or_default();
        Op::Put { kind: NUMBERS.0, key: NUMBERS.1.to_owned(), body }
    }
}

/// Events that ride a transaction, until it is known whether they arrived.
#[derive(Debug)]
pub(crate) struct Ride {
    number: u64,
    pub(crate) ops: Vec<Op>,
}

impl Events {
    /// A bus for a run of the daemon.
    pub(crate) fn new(numbers: Numbers) -> Events {
        let unkept = Unkept { lost_through: numbers.lost_through, ..Unkept::default() };
        Events {
            next: AtomicU64::new(numbers.run * RUN + 1),
            listeners: broadcast::channel(BEHIND).0,
            unkept: Mutex::new(unkept),
            waiting: Notify::new(),
            added: AtomicU64::new(0),
        }
    }

    fn unkept(&self) -> MutexGuard<'_, Unkept> {
        self.unkept.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mut unkept = self.unkept();
        // Under the lock, so that numbers are told in their order.
        let event = Arc::new(Event {
            sequence: if keep { self.next.fetch_add(1, Ordering::AcqRel) } else { self.newest() },
            at_ms: clock::now_ms(),
            project: project.to_owned(),
            happening,
        });
        if keep && let Ok(body) = serde_json::to_string(&*event) {
            if unkept.events.len() == UNKEPT
                && let Some((_, lost)) = unkept.events.pop_front()
            {
                unkept.lost_through = unkept.lost_through.max(lost.sequence);
                unkept.lost_more = true;
            }
            unkept.events.push_back((0, store::Event { sequence: event.sequence, at_ms: event.at_ms, body }));
            self.waiting.notify_one();
        }
        let _ = self.listeners.send(event);
    }

    /// Takes what waits along with a transaction; `None` when nothing does.
    pub(crate) fn ride(&self) -> Option<Ride> {
        let mut unkept = self.unkept();
        unkept.last_ride += 1;
        let number = unkept.last_ride;
        let waiting = unkept.events.iter_mut().filter(|(ride, _)| *ride == 0);
        let mut ops: Vec<Op> = waiting
            .map(|(ride, event)| {
                *ride = number;
                Op::Event(event.clone())
            })
            .collect();
        if std::mem::take(&mut unkept.lost_more) {
            ops.push(self.numbers(&unkept).put());
        }
        (!ops.is_empty()).then_some(Ride { number, ops })
    }

    /// A ride is over: its events are kept, or wait for the next one.
    pub(crate) fn arrived(&self, ride: u64, kept: bool) {
        let mut unkept = self.unkept();
        if kept {
            let before = unkept.events.len();
            unkept.events.retain(|(number, _)| *number != ride);
            self.added.fetch_add((before - unkept.events.len()) as u64, Ordering::AcqRel);
        } else {
            unkept.events.iter_mut().filter(|(number, _)| *number == ride).for_each(|(number, _)| *number = 0);
            self.waiting.notify_one();
        }
    }

    /// Waits until something waits to be kept.
    pub(crate) async fn waiting(&self) {
        self.waiting.notified().await;
    }

    /// Whether something still does.
    pub(crate) fn is_waiting(&self) -> bool {
        self.unkept().events.iter().any(|(ride, _)| *ride == 0)
    }

    /// Those numbered `from` and up that are not known to be on the disk.
    pub(crate) fn unkept_from(&self, from: u64) -> Vec<store::Event> {
        let unkept = self.unkept();
        unkept.events.iter().map(|(_, event)| event).filter(|event| event.sequence >= from).cloned().collect()
    }

    /// Number of the newest event that is kept no more; 0 when none was lost.
    pub fn lost_through(&self) -> u64 {
        self.unkept().lost_through
    }

    /// Whether enough was added that the front is to be cut.
    pub(crate) fn is_cut_due(&self) -> bool {
        self.added() >= CUT_EVERY
    }

    /// Events that were kept since they were counted.
    pub(crate) fn added(&self) -> u64 {
        self.added.load(Ordering::Acquire)
    }

    /// So many more have been counted.
    pub(crate) fn counted(&self, added: u64) {
        self.added.fetch_sub(added, Ordering::AcqRel);
    }

    /// The front is cut after `newest`. Returns what is to be remembered of that.
    pub(crate) fn cut(&self, newest: u64) -> Numbers {
        let mut unkept = self.unkept();
        unkept.lost_through = unkept.lost_through.max(newest);
        self.numbers(&unkept)
    }

    fn numbers(&self, unkept: &Unkept) -> Numbers {
        Numbers { run: self.next.load(Ordering::Acquire) / RUN, lost_through: unkept.lost_through }
    }
}

impl Ride {
    /// For whoever tells how it ended.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tell(events: &Events, times: usize) {
        for n in 0..times {
            let lifecycle = Lifecycle {
                action: format!("did-{n}"),
                source: String::new(),
                context: BTreeMap::new(),
                requestor: None,
                name: String::new(),
            };
            events.tell("default", Happening::Lifecycle(lifecycle));
        }
    }

    fn numbers(ops: &[Op]) -> Vec<u64> {
        ops.iter().filter_map(|op| if let Op::Event(event) = op { Some(event.sequence) } else { None }).collect()
    }

    #[test]
    fn events_of_a_refused_transaction_wait_for_the_next_one() {
        let events = Events::new(Numbers { run: 3, lost_through: 0 });
        tell(&events, 2);
        let first = events.ride().expect("two wait");
        tell(&events, 1);
        assert_eq!(numbers(&first.ops), [3_000_001, 3_000_002]);
        events.arrived(first.number(), false);
        let second = events.ride().expect("all wait again");
        assert_eq!(numbers(&second.ops), [3_000_001, 3_000_002, 3_000_003]);
        assert_eq!(events.unkept_from(3_000_002).len(), 2, "they can be read before they are on the disk");
        events.arrived(second.number(), true);
        assert!(events.ride().is_none() && events.unkept_from(0).is_empty());
    }

    #[test]
    fn lines_of_the_log_take_no_numbers() {
        let events = Events::new(Numbers { run: 1, lost_through: 0 });
        tell(&events, 1);
        events.log(Logging { message: String::new(), level: "debug".into(), context: BTreeMap::new() });
        tell(&events, 1);
        assert_eq!((events.newest(), numbers(&events.ride().expect("two").ops).len()), (1_000_002, 2));
    }

    #[test]
    fn what_waits_is_bounded_and_a_loss_is_written_down() {
        let events = Events::new(Numbers { run: 1, lost_through: 0 });
        tell(&events, UNKEPT + 10);
        assert_eq!(events.lost_through(), 1_000_010);
        let ride = events.ride().expect("many");
        assert_eq!(numbers(&ride.ops).len(), UNKEPT);
        let lost = Numbers { run: 1, lost_through: 1_000_010 };
        assert_eq!(ride.ops.last(), Some(&lost.put()));
    }
}
