//! What goes wrong, asked for by the number of the step, of the look or of the commit at which it does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use store::{Kept, Memory, Store, TxnError};
use tokio::sync::Notify;

/// Where something may go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// A step on the host.
    Step,
    /// A look at an instance.
    Look,
    /// A transaction.
    Commit,
}

/// What goes wrong there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The daemon dies before it.
    CrashBefore,
    /// The daemon dies after it, before it learns that it was done.
    CrashAfter,
    /// It is refused. A commit: the disk is full.
    Refuse,
    /// It is refused, and so are all of its kind until [`Faults::heal`]: steps of the same name, looks, commits.
    RefuseAlways,
    /// It is done twice (steps only).
    Twice,
    /// All keepers die just before it (steps only).
    LoseKeepers,
}

/// What is on the disk after a crash.
#[derive(Debug, Clone, Default)]
pub struct Left {
    /// When everything goes at that instant.
    pub now: Kept,
    /// When the disk still gets what was on its way.
    pub flushed: Kept,
}

/// The faults of one daemon's life.
#[derive(Debug)]
pub struct Faults {
    memory: Memory,
    state: Mutex<State>,
    died: Notify,
}

#[derive(Debug, Default)]
struct State {
    counts: [usize; 3],
    armed: Vec<(At, usize, Fault)>,
    always: Vec<(At, &'static str)>,
    left: Option<Left>,
}

impl Faults {
    /// A life on what an earlier one left, with faults counted from its beginning.
    pub fn new(kept: Kept, armed: &[(At, usize, Fault)]) -> Arc<Faults> {
        let state = State { armed: armed.into(), ..State::default() };
        Arc::new(Faults { memory: Memory::new(kept), state: Mutex::new(state), died: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets faults, counted from now.
    pub fn arm(&self, armed: &[(At, usize, Fault)]) {
        let mut state = self.state();
        (state.counts, state.armed) = ([0; 3], armed.into());
    }

    /// The disk is full, or the host refuses everything of a kind, from now on.
    pub fn refuse_always(&self, at: At, what: &'static str) {
        self.state().always.push((at, what));
    }

    /// Nothing goes wrong any more.
    pub fn heal(&self) {
        let mut state = self.state();
        state.armed.clear();
        state.always.clear();
    }

    /// Steps, looks and commits since faults were last set.
    pub fn counts(&self) -> [usize; 3] {
        self.state().counts
    }

    /// Counts one and tells what goes wrong with it.
    pub(crate) fn next(&self, at: At, what: &'static str) -> Option<Fault> {
        let mut state = self.state();
        let now = state.counts[at as usize];
        state.counts[at as usize] += 1;
        if state.always.contains(&(at, what)) {
            return Some(Fault::Refuse);
        }
        let found = state.armed.iter().position(|(of, n, _)| *of == at && *n == now)?;
        let (_, _, fault) = state.armed.remove(found);
        if fault == Fault::RefuseAlways {
            state.always.push((at, what));
            return Some(Fault::Refuse);
        }
        Some(fault)
    }

    /// The daemon dies here and now. What it still does from now on is not done.
    pub fn die(&self) {
        let left = Left { now: self.memory.kept(), flushed: self.memory.kept_with_waiting() };
        self.state().left.get_or_insert(left);
        self.died.notify_one();
    }

    /// Never returns to a daemon that is dead.
    pub(crate) async fn live_on(&self) {
        if self.state().left.is_some() {
            std::future::pending::<()>().await;
        }
    }

    /// Dies and does not return.
    pub(crate) async fn die_now(&self) {
        self.die();
        std::future::pending::<()>().await;
    }

    /// Waits for the daemon's death.
    pub async fn died(&self) -> Left {
        loop {
            if let Some(left) = &self.state().left {
                return left.clone();
            }
            self.died.notified().await;
        }
    }

    /// A database whose disk takes a moment for each transaction, and fails when it is told to.
    pub fn open_store(self: &Arc<Self>) -> Store {
        let faults = self.clone();
        tokio::spawn(async move {
            loop {
                faults.memory.submitted().await;
                // A real disk takes as long as a few steps.
                for _ in 0..3 {
                    tokio::task::yield_now().await;
                }
                faults.live_on().await;
                faults.commit().await;
            }
        });
        Store::in_memory(self.memory.clone())
    }

    async fn commit(&self) {
        let fault = self.next(At::Commit, "commit");
        if fault == Some(Fault::CrashBefore) {
            self.die_now().await;
        }
        let failure = (fault == Some(Fault::Refuse)).then_some(TxnError::Full);
        let told = self.memory.take(failure);
        if fault == Some(Fault::CrashAfter) {
            self.die_now().await;
        }
        if let Some(told) = told {
            told.tell();
        }
    }
}
