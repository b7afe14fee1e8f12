//! What control groups tell of their processes: what they use, what they wait for, which limit they met.

use serde::{Deserialize, Serialize};

/// What a group's processes use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GroupUsage {
    /// Nanoseconds of CPU time.
    pub cpu_ns: u64,
    /// Of them those of programs themselves.
    pub cpu_user_ns: u64,
    /// And those of the kernel on their behalf.
    pub cpu_system_ns: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// The most bytes of memory so far.
    pub memory_peak_bytes: u64,
    /// Bytes swapped out.
    pub swap_bytes: u64,
    /// Processes and threads.
    pub processes: u64,
}

/// How much of the time something was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stall {
    /// Hundredths of a percent of the last 10 seconds.
    pub avg10: u32,
    /// Hundredths of a percent of the last minute.
    pub avg60: u32,
    /// Hundredths of a percent of the last five minutes.
    pub avg300: u32,
    /// Microseconds since the group was made.
    pub total_us: u64,
}

/// How much of the time some processes waited, and how much all of them did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stalls {
    /// At least one waited.
    pub some: Stall,
    /// None did anything else.
    pub full: Stall,
}

/// What processes waited for (pressure stall information).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pressure {
    /// For a CPU.
    pub cpu: Stalls,
    /// For memory.
    pub memory: Stalls,
    /// For disks.
    pub io: Stalls,
}

/// What processes can wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scarce {
    /// A CPU.
    Cpu,
    /// Disks.
    Io,
    /// Memory.
    Memory,
}

impl Scarce {
    /// All of them.
    pub const ALL: [Scarce; 3] = [Scarce::Cpu, Scarce::Io, Scarce::Memory];

    /// Its name, also that of its file.
    pub fn name(self) -> &'static str {
        match self {
            Scarce::Cpu => "cpu",
            Scarce::Io => "io",
            Scarce::Memory => "memory",
        }
    }
}

impl Pressure {
    /// What was waited for of one of them.
    pub fn of(&self, scarce: Scarce) -> Stalls {
        match scarce {
            Scarce::Cpu => self.cpu,
            Scarce::Io => self.io,
            Scarce::Memory => self.memory,
        }
    }
}

/// Of which waits events are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Told {
    /// Waits for a CPU.
    pub cpu: bool,
    /// Waits for disks.
    pub io: bool,
    /// Waits for memory.
    pub memory: bool,
}

impl Told {
    /// Whether those for one of them are.
    pub fn of(self, scarce: Scarce) -> bool {
        match scarce {
            Scarce::Cpu => self.cpu,
            Scarce::Io => self.io,
            Scarce::Memory => self.memory,
        }
    }

    /// Those and this one.
    pub fn with(self, scarce: Scarce) -> Told {
        match scarce {
            Scarce::Cpu => Told { cpu: true, ..self },
            Scarce::Io => Told { io: true, ..self },
            Scarce::Memory => Told { memory: true, ..self },
        }
    }
}

/// How often limits were met since the group was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Hits {
    /// Memory was wanted beyond the soft ceiling.
    pub memory_high: u64,
    /// Memory was wanted beyond the limit.
    pub memory_max: u64,
    /// Processes were killed because no memory was left.
    pub oom_kills: u64,
    /// A process or thread was not made.
    pub processes: u64,
    /// Periods in which the CPU allowance was used up.
    pub cpu_throttled: u64,
    /// Microseconds that processes waited for the next period.
    pub cpu_throttled_us: u64,
}

impl Hits {
    /// Limits by the knobs that they are set by, and how often each was met.
    pub fn by_limit(&self) -> [(&'static str, u64); 4] {
        [
            ("memory.high", self.memory_high),
            ("memory.max", self.memory_max),
            ("pids.max", self.processes),
            ("cpu.max", self.cpu_throttled),
        ]
    }
}

/// One look at a group.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Gauges {
    /// What is used.
    pub usage: GroupUsage,
    /// What is waited for; `None` on a kernel that does not tell.
    pub pressure: Option<Pressure>,
    /// Which limits were met.
    pub hits: Hits,
}
