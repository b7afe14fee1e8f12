//! Limits as users ask for them, and as kernels are told.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

/// A text that is no amount of bytes.
#[derive(Debug, thiserror::Error)]
#[error(
    "not a size: a number with an optional unit kB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (powers of 1024)"
)]
pub struct ParseBytesError;

impl FromStr for Bytes {
    type Err = ParseBytesError;
    fn from_str(text: &str) -> Result<Self, ParseBytesError> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let number: u64 = text[..digits].parse().map_err(|_| ParseBytesError)?;
        let factor: u64 = match text[digits..].trim_start() {
            "" | "B" | "bytes" => 1,
            "kB" => 1000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "TB" => 1_000_000_000_000,
            "PB" => 1_000_000_000_000_000,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1 << 40,
            "PiB" => 1 << 50,
            _ => return Err(ParseBytesError),
        };
        number.checked_mul(factor).map(Bytes).ok_or(ParseBytesError)
    }
}

/// An amount of memory: absolute, or a share of the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Memory {
    /// So many bytes.
    Bytes(Bytes),
    /// So many hundredths of the host's memory.
    Percent(u8),
}

/// Which CPUs an instance runs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CpuSelection {
    /// So many, the daemon chooses which.
    Count(u32),
    /// Just these, as ids, sorted.
    Set(Vec<u32>),
}

/// How much of its CPUs' time an instance gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CpuAllowance {
    /// A share of one CPU in hundredths, more when nobody else wants it (`50%`).
    Soft(u32),
    /// At most `quota` of each `period`, in microseconds (`25ms/100ms`).
    Hard {
        /// Microseconds of CPU time in each period.
        quota_us: u64,
        /// Length of the period in microseconds.
        period_us: u64,
    },
}

/// The limits of an instance as its definition asks for them; `None` means the default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Most memory.
    pub memory: Option<Memory>,
    /// Beyond [`Self::memory`] the guest is slowed down rather than killed.
    pub memory_soft: bool,
    /// Whether the guest may be swapped out; `None` lets the host decide.
    pub memory_swap: Option<bool>,
    /// CPUs.
    pub cpu: Option<CpuSelection>,
    /// CPU time.
    pub cpu_allowance: Option<CpuAllowance>,
    /// Weight against other instances, 0 (least) to 10.
    pub cpu_priority: Option<u8>,
    /// Most processes and threads.
    pub processes: Option<u64>,
}

/// One thing that a control group can be told, named after the file of cgroup2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Knob {
    /// `memory.high`: beyond it the guest is slowed down. In bytes.
    MemoryHigh,
    /// `memory.max`: beyond it the guest's processes are killed. In bytes.
    MemoryMax,
    /// `memory.swap.max`, in bytes.
    MemorySwapMax,
    /// `cpu.max`: microseconds in each period.
    CpuMax,
    /// `cpu.weight`, 1 to 10000, by default 100.
    CpuWeight,
    /// `cpuset.cpus`.
    CpusetCpus,
    /// `pids.max`.
    PidsMax,
}

impl Knob {
    /// Every knob, in the order in which they are raised.
    pub const ALL: [Knob; 7] = [
        Knob::MemoryMax,
        Knob::MemoryHigh,
        Knob::MemorySwapMax,
        Knob::CpuMax,
        Knob::CpuWeight,
        Knob::CpusetCpus,
        Knob::PidsMax,
    ];

    /// The controller that the knob belongs to.
    pub fn controller(self) -> &'static str {
        match self {
            Knob::MemoryHigh | Knob::MemoryMax | Knob::MemorySwapMax => "memory",
            Knob::CpuMax | Knob::CpuWeight => "cpu",
            Knob::CpusetCpus => "cpuset",
            Knob::PidsMax => "pids",
        }
    }
}

/// What a knob is set to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Setting {
    /// No limit.
    Unlimited,
    /// A number in the knob's unit.
    Number(u64),
    /// Quota and period in microseconds.
    Quota(u64, u64),
    /// A list of CPU ids; empty means those of the parent group.
    Cpus(Vec<u32>),
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Setting::Unlimited => f.write_str("max"),
            Setting::Number(n) => write!(f, "{n}"),
            Setting::Quota(quota, period) => write!(f, "{quota} {period}"),
            Setting::Cpus(ids) => f.write_str(&format_cpu_list(ids)),
        }
    }
}

/// The state of all knobs of one group that this host has.
pub type Settings = BTreeMap<Knob, Setting>;

/// Processors that a kernel can be built for at most (`CONFIG_NR_CPUS`).
const MAX_CPUS: usize = 8192;

/// Longest list: each of them by itself, with up to four digits and a comma, and room for spaces.
const MAX_CPU_LIST: usize = MAX_CPUS * 8;

/// Parses the kernel's list format (`0-3,7`), sorted and without doubles; `None` when it is none.
pub fn parse_cpu_list(text: &str) -> Option<Vec<u32>> {
    if text.len() > MAX_CPU_LIST {
        return None;
    }
    let mut present = vec![false; MAX_CPUS];
    for part in text.trim().split(',').filter(|p| !p.is_empty()) {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let (low, high): (usize, usize) = (low.trim().parse().ok()?, high.trim().parse().ok()?);
        if low > high || high >= MAX_CPUS {
            return None;
        }
        present[low..=high].fill(true);
    }
    Some((0u32..).zip(present).filter_map(|(id, present)| present.then_some(id)).collect())
}

/// The kernel's list format of sorted ids.
pub fn format_cpu_list(ids: &[u32]) -> String {
    let mut text = String::new();
    let mut rest = ids;
    while let [first, ..] = rest {
        let run = rest.iter().zip(*first..).take_while(|(a, b)| **a == *b).count();
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&first.to_string());
        if run > 1 {
            text.push('-');
            text.push_str(&rest[run - 1].to_string());
        }
        rest = &rest[run..];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_decimal_and_binary_units() {
        for (text, bytes) in
            [("0", 0), ("512", 512), ("1kB", 1000), ("2GiB", 2 << 30), ("3 MiB", 3 << 20), ("1TB", 1_000_000_000_000)]
        {
            assert_eq!(text.parse::<Bytes>().expect(text).0, bytes, "{text}");
        }
        for wrong in ["", "GiB", "-1", "1.5GiB", "1 gigabyte", "99999999999999999999", "99999999TiB", "1K"] {
            assert!(wrong.parse::<Bytes>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn cpu_lists_are_read_and_written_as_the_kernel_does() {
        for (text, again) in [("0-3,7", "0-3,7"), ("7,0,1", "0-1,7"), ("5", "5"), ("", ""), ("1-2,2-4", "1-4")] {
            assert_eq!(format_cpu_list(&parse_cpu_list(text).expect(text)), again);
        }
        for wrong in ["a", "3-1", "0-99999", "-", "1-"] {
            assert!(parse_cpu_list(wrong).is_none(), "{wrong}");
        }
    }
}
