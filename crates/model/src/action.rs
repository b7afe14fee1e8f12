//! What happens to an instance that meets a limit of its own.

use serde::{Deserialize, Serialize};

/// What is to happen then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitAction {
    /// It is told, and what the kernel does by itself is all.
    #[default]
    Event,
    /// The kernel slows it down there.
    Throttle,
    /// It is held still until somebody lets it go on.
    Freeze,
    /// It is ended at once.
    Kill,
}

impl LimitAction {
    /// Whether it takes somebody who does it once the limit is met.
    pub fn is_ours(self) -> bool {
        matches!(self, LimitAction::Freeze | LimitAction::Kill)
    }
}

/// What is limited, as far as something else than an event can follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bounded {
    /// CPU time: the allowance of a period was used up.
    Cpu,
    /// Memory: it was at its limit, and there was nothing more to take from it.
    Memory,
    /// Processes and threads: one was not made.
    Pids,
}

impl Bounded {
    /// All of them.
    pub const ALL: [Bounded; 3] = [Bounded::Cpu, Bounded::Memory, Bounded::Pids];

    /// The key that says what happens.
    pub fn key(self) -> &'static str {
        match self {
            Bounded::Cpu => "limits.action.cpu",
            Bounded::Memory => "limits.action.memory",
            Bounded::Pids => "limits.action.pids",
        }
    }
}

/// One for each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OfBounded<T> {
    /// That of CPU time.
    pub cpu: T,
    /// That of memory.
    pub memory: T,
    /// That of processes.
    pub pids: T,
}

impl<T: Copy> OfBounded<T> {
    /// That of one of them.
    pub fn of(&self, bounded: Bounded) -> T {
        match bounded {
            Bounded::Cpu => self.cpu,
            Bounded::Memory => self.memory,
            Bounded::Pids => self.pids,
        }
    }
}

/// What is to happen at each limit.
pub type LimitActions = OfBounded<LimitAction>;

/// How often each limit of a group itself was met. What groups met that the guest made in it does not count.
pub type Bites = OfBounded<u64>;
