//! One object's commands, in their order, without a task that waits for them.
//!
//! A thousand instances at rest cost a thousand empty queues. A task runs only while there is something in one.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Commands that may wait for one object. Whoever sends more is told to come back: an instance that is stopping for a
/// minute should not pile up an hour of work.
const BOUND: usize = 64;

#[derive(Debug)]
pub(crate) struct Mailbox<C> {
    state: Mutex<State<C>>,
}

#[derive(Debug)]
struct State<C> {
    queue: VecDeque<C>,
    running: bool,
}

/// What became of a command that was posted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Posted<C> {
    /// It waits; somebody works already.
    Queued,
    /// It waits, and the caller must start the work.
    StartWork,
    /// Too many wait.
    Full(C),
}

impl<C> Mailbox<C> {
    pub(crate) fn new() -> Mailbox<C> {
        Mailbox { state: Mutex::new(State { queue: VecDeque::new(), running: false }) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn post(&self, command: C) -> Posted<C> {
        let mut state = self.state();
        if state.queue.len() >= BOUND {
            return Posted::Full(command);
        }
        state.queue.push_back(command);
        if state.running {
            Posted::Queued
        } else {
            state.running = true;
            Posted::StartWork
        }
    }

    /// The next command; with `None` the work is over until somebody is told to start it again.
    pub(crate) fn next(&self) -> Option<C> {
        let mut state = self.state();
        let command = state.queue.pop_front();
        if command.is_none() {
            state.running = false;
            state.queue.shrink_to_fit();
        }
        command
    }

    /// Somebody works.
    pub(crate) fn is_busy(&self) -> bool {
        self.state().running
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_command_of_a_run_starts_work() {
        let mailbox = Mailbox::new();
        assert_eq!(mailbox.post(1), Posted::StartWork);
        assert_eq!(mailbox.post(2), Posted::Queued);
        assert_eq!((mailbox.next(), mailbox.next()), (Some(1), Some(2)));
        assert_eq!(mailbox.post(3), Posted::Queued, "its worker has not seen the end yet");
        assert_eq!((mailbox.next(), mailbox.next()), (Some(3), None));
        assert!(!mailbox.is_busy());
        assert_eq!(mailbox.post(4), Posted::StartWork);
    }

    #[test]
    fn the_queue_is_bounded() {
        let mailbox = Mailbox::new();
        for n in 0..BOUND {
            assert_ne!(mailbox.post(n), Posted::Full(n));
        }
        assert_eq!(mailbox.post(BOUND), Posted::Full(BOUND));
    }
}
