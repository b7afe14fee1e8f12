//! Limits at once, and what they do: extension `sysctl_limits_sync`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `PATCH /1.0/instances/NAME/limits`: keys that are limits; `null` or an empty text takes one back.
pub type LimitsPatch = BTreeMap<String, Option<String>>;

/// Its answer: all of it holds and is on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct LimitsApplied {
    /// Knobs that were turned, in that order. None while the instance does not run.
    pub applied: Vec<AppliedKnob>,
    /// Microseconds from the arrival of the request until the last knob was turned.
    pub total_us: u64,
    /// It outlives a crash.
    pub durable: bool,
}

/// A knob that was turned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct AppliedKnob {
    /// Its name in cgroup2.
    pub knob: String,
    /// The file that was written.
    pub file: String,
    /// What was in it.
    pub old: String,
    /// What is in it.
    pub new: String,
    /// Microseconds that the write took.
    pub us: u64,
}

/// One entry of `GET /1.0/instances/NAME/limits`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct LimitKnob {
    /// Its name in cgroup2.
    pub knob: String,
    /// Its file on this host.
    pub file: String,
    /// What it is set to.
    pub value: String,
    /// What is used of it now, where that is counted.
    pub used: Option<u64>,
}

/// How much of the time something was waited for, in hundredths.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Stall {
    /// Of the last 10 seconds.
    pub avg10: f64,
    /// Of the last minute.
    pub avg60: f64,
    /// Of the last five minutes.
    pub avg300: f64,
    /// Microseconds since the start.
    pub total: u64,
}

/// How much of the time some processes waited, and how much all of them did.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Stalls {
    /// At least one waited.
    pub some: Stall,
    /// None did anything else.
    pub full: Stall,
}

/// `GET /1.0/instances/NAME/pressure`: what an instance waits for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Pressure {
    /// For a CPU.
    pub cpu: Stalls,
    /// For memory.
    pub memory: Stalls,
    /// For disks.
    pub io: Stalls,
}

/// `GET /1.0/instances/NAME/limits/hits`: which limit bit, and how often since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct LimitHits {
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

/// One entry of `GET /1.0/load`: a running instance, cheap enough to be asked for every second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct InstanceLoad {
    /// Name.
    pub name: String,
    /// Project.
    pub project: String,
    /// Nanoseconds of CPU time since the start.
    pub cpu_ns: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Most bytes of memory; 0 for no limit.
    pub memory_limit_bytes: u64,
    /// Processes and threads.
    pub processes: u64,
    /// What it waits for; absent where the kernel does not tell.
    pub pressure: Option<Pressure>,
    /// Which limits bit.
    pub hits: LimitHits,
}
