//! Limits that follow the need: where they may be, where they are, and how they came there.

use serde::{Deserialize, Serialize};

use crate::action::LimitActions;
use crate::gauges::{Scarce, Told};

/// What is scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// Memory, in bytes.
    Memory,
    /// CPU time, in hundredths of one CPU.
    Cpu,
}

impl Resource {
    /// All of them.
    pub const ALL: [Resource; 2] = [Resource::Memory, Resource::Cpu];

    /// The end of its key, `autoscale.*`.
    pub fn name(self) -> &'static str {
        match self {
            Resource::Memory => "memory",
            Resource::Cpu => "cpu",
        }
    }

    /// What whoever has too little of it waits for.
    pub fn scarce(self) -> Scarce {
        match self {
            Resource::Memory => Scarce::Memory,
            Resource::Cpu => Scarce::Cpu,
        }
    }
}

/// Whether limits follow the need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleMode {
    /// They do.
    #[default]
    On,
    /// What would be done is told, and not done.
    Observe,
    /// They do not.
    Off,
}

/// The least and the most of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Least.
    pub min: u64,
    /// Most.
    pub max: u64,
}

/// A share of a time that is waited for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trigger {
    /// Hundredths of a percent.
    pub hundredths: u32,
    /// Milliseconds.
    pub window_ms: u64,
}

impl Trigger {
    /// A tenth of two seconds: whoever may not raise resource limits is only granted windows of whole multiples of two seconds.
    pub const MUCH: Trigger = Trigger { hundredths: 1000, window_ms: 2000 };

    /// Microseconds of waiting that are the share.
    pub fn stall_us(&self) -> u64 {
        self.window_ms.saturating_mul(u64::from(self.hundredths)) / 10
    }
}

/// When a level moves, and how far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mover {
    /// At so much waiting; down, at less.
    pub when: Trigger,
    /// Hundredths of the level.
    pub step_percent: u64,
}

/// How a level moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moves {
    /// When its guest needs more.
    pub up: Mover,
    /// When less will do.
    pub down: Mover,
}

impl Default for Moves {
    fn default() -> Moves {
        // By a quarter, so that a need that doubles is met in four moves, and back by a tenth, so that what was taken back too
        // soon is little: after two windows without much waiting.
        let little = Trigger { window_ms: 2 * Trigger::MUCH.window_ms, ..Trigger::MUCH };
        Moves { up: Mover { when: Trigger::MUCH, step_percent: 25 }, down: Mover { when: little, step_percent: 10 } }
    }
}

/// What an instance asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Autoscale {
    /// Whether.
    pub mode: ScaleMode,
    /// Bytes of memory.
    pub memory: Option<Range>,
    /// Hundredths of one CPU.
    pub cpu: Option<Range>,
    /// How that of memory moves.
    pub memory_moves: Moves,
    /// How that of CPU time does.
    pub cpu_moves: Moves,
    /// Milliseconds after a move in which there is no other.
    pub cooldown_ms: u64,
}

impl Autoscale {
    /// The range of a resource; `None` when it stays where it is.
    pub fn range(&self, resource: Resource) -> Option<Range> {
        let range = match resource {
            Resource::Memory => self.memory,
            Resource::Cpu => self.cpu,
        };
        range.filter(|_| self.mode != ScaleMode::Off)
    }

    /// How the level of a resource moves.
    pub fn moves(&self, resource: Resource) -> &Moves {
        match resource {
            Resource::Memory => &self.memory_moves,
            Resource::Cpu => &self.cpu_moves,
        }
    }
}

/// Where the levels are; `None` is the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Levels {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Hundredths of one CPU.
    pub cpu: Option<u64>,
}

impl Levels {
    /// The level of a resource within its range.
    pub fn of(&self, resource: Resource, range: Range) -> u64 {
        let level = match resource {
            Resource::Memory => self.memory,
            Resource::Cpu => self.cpu,
        };
        level.unwrap_or(range.min).clamp(range.min, range.max)
    }

    /// With another level of a resource.
    pub fn with(self, resource: Resource, level: u64) -> Levels {
        match resource {
            Resource::Memory => Levels { memory: Some(level), ..self },
            Resource::Cpu => Levels { cpu: Some(level), ..self },
        }
    }
}

/// One move of a level.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scaling {
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// Of what.
    pub resource: Resource,
    /// From this level.
    pub from: u64,
    /// To this one.
    pub to: u64,
    /// Why.
    pub cause: String,
    /// Microseconds from the kernel's word until the limit held; 0 when it was only observed.
    pub us: u64,
}

/// What the kernel said of a guest whose limits follow the need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Need {
    /// It waits for more, or took more.
    More,
    /// For a while it did not, and used so much of its CPUs' time, in hundredths of one CPU.
    Less {
        /// Hundredths of one CPU.
        cpu: u64,
    },
}

/// What is listened for of one resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    /// Where its level is.
    pub level: u64,
    /// So much waiting is a need for more.
    pub up: Trigger,
    /// Less than that is quiet; `None` while the level is at its least.
    pub down: Option<Trigger>,
}

/// What the host listens for on behalf of a guest; nothing by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Watch {
    /// Waits for memory, or use beyond the level where the kernel does not hold the guest back there.
    pub memory: Option<Listen>,
    /// Waits for CPU time.
    pub cpu: Option<Listen>,
    /// Milliseconds from now on in which nothing is listened for that something follows.
    pub cooldown_ms: u64,
    /// Levels are advice: nobody is held back at them.
    pub advised: bool,
    /// Waits that are events, whether or not something follows them.
    pub told: Told,
    /// What happens at limits.
    pub actions: LimitActions,
}

impl Watch {
    /// What is listened for of a resource.
    pub fn of(&self, resource: Resource) -> Option<Listen> {
        match resource {
            Resource::Memory => self.memory,
            Resource::Cpu => self.cpu,
        }
    }
}
