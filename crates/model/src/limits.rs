//! Limits as users ask for them, and as kernels are told.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::action::LimitActions;
use crate::devices::{DevicePolicy, DeviceRule};
use crate::knob::{DiskRates, Knob, Partition, Rdma};

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

/// How much of an instance's memory may be swapped out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Swap {
    /// All of it, or nothing.
    Allowed(bool),
    /// So many bytes.
    Bytes(Bytes),
}

/// The limits of an instance as its definition asks for them; `None` means the default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Most memory.
    pub memory: Option<Memory>,
    /// Beyond [`Self::memory`] the guest is slowed down rather than killed.
    pub memory_soft: bool,
    /// Memory beyond which the guest is slowed down.
    pub memory_high: Option<Memory>,
    /// Memory that is taken away only when nobody else has any to give.
    pub memory_low: Option<Memory>,
    /// Memory that is never taken away.
    pub memory_min: Option<Memory>,
    /// Whether the guest may be swapped out, and how much of it; `None` lets the host decide.
    pub memory_swap: Option<Swap>,
    /// Most memory in the compressed cache before swap.
    pub memory_zswap: Option<Bytes>,
    /// Out of memory, all processes are killed together.
    pub memory_oom_group: bool,
    /// What happens when limits are met. That of memory is [`Self::memory_soft`] as well when it is to be slowed down.
    pub actions: LimitActions,
    /// CPUs.
    pub cpu: Option<CpuSelection>,
    /// Who else runs on them.
    pub cpu_partition: Partition,
    /// CPU time.
    pub cpu_allowance: Option<CpuAllowance>,
    /// CPU time that was not used and may be used later, in microseconds.
    pub cpu_burst_us: Option<u64>,
    /// It runs only while nobody else wants to.
    pub cpu_idle: bool,
    /// Weight against other instances, 0 (least) to 10.
    pub cpu_priority: Option<u8>,
    /// Least speed of the CPUs that it runs on, in hundredths of a percent.
    pub cpu_uclamp_min: Option<u32>,
    /// Most speed of the CPUs that it runs on, in hundredths of a percent.
    pub cpu_uclamp_max: Option<u32>,
    /// Most processes and threads.
    pub processes: Option<u64>,
    /// Weight against other instances on the same disk, 0 (least) to 10.
    pub disk_priority: Option<u8>,
    /// Most traffic of the root disk.
    pub disk_rates: DiskRates,
    /// How long a request to the root disk should take at most, in microseconds.
    pub disk_latency_us: Option<u64>,
    /// Most memory in huge pages, by the knob of their size.
    pub hugepages: BTreeMap<Knob, Bytes>,
    /// What it may use of each RDMA device.
    pub rdma: Rdma,
    /// What it may use of what there is a limited number of, by name.
    pub misc: BTreeMap<String, u64>,
    /// Most bytes that it receives each second, by all links together.
    pub network_ingress_bytes: Option<u64>,
    /// Most bytes that it sends.
    pub network_egress_bytes: Option<u64>,
    /// Devices that it may open when no rule says otherwise.
    pub device_policy: DevicePolicy,
    /// Changes to them, in their order.
    pub device_rules: Vec<DeviceRule>,
}

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
