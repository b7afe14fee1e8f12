//! A database without a disk, for tests of whoever keeps things in one: transactions wait until they are told to happen, so
//! that a test sees every moment of a commit. It gives the answers of the real one; `tests/memory.rs` compares them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use crate::{Class, Document, Event, Op, Txn, TxnError};

/// What is on the disk that is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    revision: u64,
    documents: BTreeMap<(String, String), (u64, String)>,
    claims: BTreeMap<(String, String), String>,
    events: BTreeMap<u64, (i64, String)>,
}

/// A handle; clones share the database.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    state: Arc<Mutex<State>>,
    submitted: Arc<Notify>,
}

type Waiting = (Class, Txn, oneshot::Sender<Result<u64, TxnError>>);

#[derive(Debug, Default)]
struct State {
    kept: Kept,
    /// In their order. Bounded by the test that has it.
    waiting: VecDeque<Waiting>,
    /// What happened and could not be written; it goes before the next transaction that can.
    owed: Vec<Op>,
}

impl Memory {
    /// A database with what an earlier one left.
    pub fn new(kept: Kept) -> Memory {
        let state = State { kept, ..State::default() };
        Memory { state: Arc::new(Mutex::new(state)), submitted: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is left when the power goes now.
    pub fn kept(&self) -> Kept {
        self.state().kept.clone()
    }

    /// What is left when everything that waits has happened before.
    pub fn kept_with_waiting(&self) -> Kept {
        let state = self.state();
        let mut kept = state.kept.clone();
        for (_, txn, _) in &state.waiting {
            // One that is refused changes nothing.
            let _ = kept.commit(txn);
        }
        kept
    }

    /// Waits until a transaction waits.
    pub async fn submitted(&self) {
        while self.state().waiting.is_empty() {
            self.submitted.notified().await;
        }
    }

    /// Lets the oldest transaction that waits happen, or fail with what is given, and keeps its answer back.
    pub fn take(&self, failure: Option<TxnError>) -> Option<Told> {
        let mut state = self.state();
        let (class, txn, answer) = state.waiting.pop_front()?;
        let result = match failure {
            Some(error) => {
                let settled = class == Class::Settled;
                state.owed.extend(txn.ops.into_iter().filter(|op| settled || matches!(op, Op::Event(_))));
                Err(error)
            }
            None => {
                let ops = std::mem::take(&mut state.owed);
                if !ops.is_empty() {
                    // Somebody else may have what was to be claimed: that is for good.
                    let _ = state.kept.commit(&Txn { compare: Vec::new(), ops });
                }
                state.kept.commit(&txn)
            }
        };
        Some(Told { answer, result })
    }

    pub(crate) fn submit(&self, class: Class, txn: Txn) -> oneshot::Receiver<Result<u64, TxnError>> {
        let (answer, receiver) = oneshot::channel();
        self.state().waiting.push_back((class, txn, answer));
        self.submitted.notify_one();
        receiver
    }

    pub(crate) fn list(&self, kind: &str) -> Vec<Document> {
        let state = self.state();
        let from = (kind.to_owned(), String::new());
        let of_kind = state.kept.documents.range(from..).take_while(|((of, _), _)| of == kind);
        of_kind.map(|((_, key), (revision, body))| document(key, *revision, body)).collect()
    }

    pub(crate) fn get(&self, kind: &str, key: &str) -> Option<Document> {
        let state = self.state();
        let (revision, body) = state.kept.documents.get(&(kind.to_owned(), key.to_owned()))?;
        Some(document(key, *revision, body))
    }

    pub(crate) fn claims(&self, space: &str) -> Vec<(String, String)> {
        let state = self.state();
        let of_space = state.kept.claims.iter().filter(|((of, _), _)| of == space);
        of_space.map(|((_, value), owner)| (value.clone(), owner.clone())).collect()
    }

    pub(crate) fn events(&self, from: u64, limit: u32) -> Vec<Event> {
        let state = self.state();
        let newer = state.kept.events.range(from..).take(limit as usize);
        newer
            .map(|(sequence, (at_ms, body))| Event { sequence: *sequence, at_ms: *at_ms, body: body.clone() })
            .collect()
    }

    pub(crate) fn last_event(&self) -> u64 {
        self.state().kept.events.keys().next_back().copied().unwrap_or(0)
    }
}

fn document(key: &str, revision: u64, body: &str) -> Document {
    Document { key: key.to_owned(), revision, body: body.to_owned() }
}

/// A transaction whose end has not been told yet: a moment at which power may go.
#[derive(Debug)]
pub struct Told {
    answer: oneshot::Sender<Result<u64, TxnError>>,
    result: Result<u64, TxnError>,
}

impl Told {
    /// Tells it to whoever waits.
    pub fn tell(self) {
        // Whoever asked may have gone: the transaction stands.
        let _ = self.answer.send(self.result);
    }
}

impl Kept {
    /// Does a transaction whole or not at all.
    fn commit(&mut self, txn: &Txn) -> Result<u64, TxnError> {
        for compare in &txn.compare {
            let found =
                self.documents.get(&(compare.kind.to_owned(), compare.key.clone())).map(|(revision, _)| *revision);
            if found != compare.revision {
                return Err(TxnError::Conflict { kind: compare.kind, key: compare.key.clone() });
            }
        }
        self.check_claims(txn)?;
        let revision = self.revision + 1;
        for op in &txn.ops {
            self.op(op, revision);
        }
        self.revision = revision;
        Ok(revision)
    }

    /// Claims are all that can refuse; they see what the transaction released before.
    fn check_claims(&self, txn: &Txn) -> Result<(), TxnError> {
        let mut taken: BTreeMap<(&str, &str), &str> = self
            .claims
            .iter()
            .map(|((space, value), owner)| ((space.as_str(), value.as_str()), owner.as_str()))
            .collect();
        for op in &txn.ops {
            match op {
                Op::Claim { space, value, owner } => match taken.insert((space, value), owner) {
                    Some(holder) if holder != owner => {
                        let (value, owner) = (value.clone(), holder.to_owned());
                        return Err(TxnError::Claimed { space, value, owner });
                    }
                    _ => {}
                },
                Op::Release { space, value } => drop(taken.remove(&(*space, value.as_str()))),
                Op::ReleaseAll { owner } => taken.retain(|_, holder| holder != owner),
                Op::Put { .. } | Op::Delete { .. } | Op::Event(_) | Op::DropEvents { .. } => {}
            }
        }
        Ok(())
    }

    fn op(&mut self, op: &Op, revision: u64) {
        match op {
            Op::Put { kind, key, body } => {
                self.documents.insert(((*kind).to_owned(), key.clone()), (revision, body.clone()));
            }
            Op::Delete { kind, key } => drop(self.documents.remove(&((*kind).to_owned(), key.clone()))),
            Op::Claim { space, value, owner } => {
                self.claims.insert(((*space).to_owned(), value.clone()), owner.clone());
            }
            Op::Release { space, value } => drop(self.claims.remove(&((*space).to_owned(), value.clone()))),
            Op::ReleaseAll { owner } => self.claims.retain(|_, holder| holder != owner),
            Op::Event(event) => drop(self.events.insert(event.sequence, (event.at_ms, event.body.clone()))),
            Op::DropEvents { below } => self.events = self.events.split_off(below),
        }
    }
}
