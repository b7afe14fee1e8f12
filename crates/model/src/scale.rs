//! Limits that follow the need: where they may be, where they are, and how they came there.

use serde::{Deserialize, Serialize};

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

/// What an instance asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Autoscale {
    /// Whether.
    pub mode: ScaleMode,
    /// Bytes of memory.
    pub memory: Option<Range>,
    /// Hundredths of one CPU.
    pub cpu: Option<Range>,
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

/// What the host listens for on behalf of a guest; nothing by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Watch {
    /// Pressure for memory, or use beyond so many bytes where the kernel does not hold the guest back there.
    pub memory: Option<u64>,
    /// Pressure for CPU time, of which it has so many hundredths of one CPU.
    pub cpu: Option<u64>,
    /// Quiet: a level is above its least.
    pub quiet: bool,
    /// Levels are advice: nobody is held back at them.
    pub advised: bool,
}
