//! What control groups can be told: knobs and what they are set to.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::format_cpu_list;

/// One thing that a control group can be told, named after the file of cgroup2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Knob {
    /// `memory.min`: so much is never taken away from the guest. In bytes.
    MemoryMin,
    /// `memory.low`: so much is taken away from the guest only when nobody else has anything. In bytes.
    MemoryLow,
    /// `memory.high`: beyond it the guest is slowed down. In bytes.
    MemoryHigh,
    /// `memory.max`: beyond it the guest's processes are killed. In bytes.
    MemoryMax,
    /// `memory.swap.max`, in bytes.
    MemorySwapMax,
    /// `memory.zswap.max`, in bytes.
    MemoryZswapMax,
    /// `memory.oom.group`: 1 when all processes of the guest are killed together.
    MemoryOomGroup,
    /// `cpu.max`: microseconds in each period.
    CpuMax,
    /// `cpu.max.burst`: microseconds that were not used and may be used later.
    CpuMaxBurst,
    /// `cpu.idle`: 1 when it runs only while nobody else wants to.
    CpuIdle,
    /// `cpu.weight`, 1 to 10000, by default 100. An idle group has none.
    CpuWeight,
    /// `cpu.uclamp.min`, in hundredths of a percent.
    CpuUclampMin,
    /// `cpu.uclamp.max`, in hundredths of a percent.
    CpuUclampMax,
    /// `cpuset.cpus`.
    CpusetCpus,
    /// `pids.max`.
    PidsMax,
    /// `io.max` of one disk.
    IoMax,
    /// `io.weight`, 1 to 1000, by default 100.
    IoWeight,
    /// `io.latency` of one disk.
    IoLatency,
    /// `hugetlb.64KB.max`, in bytes.
    #[serde(rename = "hugetlb_64kb_max")]
    Hugetlb64KBMax,
    /// `hugetlb.1MB.max`, in bytes.
    #[serde(rename = "hugetlb_1mb_max")]
    Hugetlb1MBMax,
    /// `hugetlb.2MB.max`, in bytes.
    #[serde(rename = "hugetlb_2mb_max")]
    Hugetlb2MBMax,
    /// `hugetlb.1GB.max`, in bytes.
    #[serde(rename = "hugetlb_1gb_max")]
    Hugetlb1GBMax,
}

impl Knob {
    /// Every knob.
    pub const ALL: [Knob; 22] = [
        Knob::MemoryMin,
        Knob::MemoryLow,
        Knob::MemoryHigh,
        Knob::MemoryMax,
        Knob::MemorySwapMax,
        Knob::MemoryZswapMax,
        Knob::MemoryOomGroup,
        Knob::CpuMax,
        Knob::CpuMaxBurst,
        Knob::CpuIdle,
        Knob::CpuWeight,
        Knob::CpuUclampMin,
        Knob::CpuUclampMax,
        Knob::CpusetCpus,
        Knob::PidsMax,
        Knob::IoMax,
        Knob::IoWeight,
        Knob::IoLatency,
        Knob::Hugetlb64KBMax,
        Knob::Hugetlb1MBMax,
        Knob::Hugetlb2MBMax,
        Knob::Hugetlb1GBMax,
    ];

    /// Its file in cgroup2.
    pub fn file(self) -> &'static str {
        match self {
            Knob::MemoryMin => "memory.min",
            Knob::MemoryLow => "memory.low",
            Knob::MemoryHigh => "memory.high",
            Knob::MemoryMax => "memory.max",
            Knob::MemorySwapMax => "memory.swap.max",
            Knob::MemoryZswapMax => "memory.zswap.max",
            Knob::MemoryOomGroup => "memory.oom.group",
            Knob::CpuMax => "cpu.max",
            Knob::CpuMaxBurst => "cpu.max.burst",
            Knob::CpuIdle => "cpu.idle",
            Knob::CpuWeight => "cpu.weight",
            Knob::CpuUclampMin => "cpu.uclamp.min",
            Knob::CpuUclampMax => "cpu.uclamp.max",
            Knob::CpusetCpus => "cpuset.cpus",
            Knob::PidsMax => "pids.max",
            Knob::IoMax => "io.max",
            Knob::IoWeight => "io.weight",
            Knob::IoLatency => "io.latency",
            Knob::Hugetlb64KBMax => "hugetlb.64KB.max",
            Knob::Hugetlb1MBMax => "hugetlb.1MB.max",
            Knob::Hugetlb2MBMax => "hugetlb.2MB.max",
            Knob::Hugetlb1GBMax => "hugetlb.1GB.max",
        }
    }

    /// What it is at in a new group.
    pub fn initial(self) -> Setting {
        match self {
            Knob::MemoryMin
            | Knob::MemoryLow
            | Knob::MemoryOomGroup
            | Knob::CpuMaxBurst
            | Knob::CpuIdle
            | Knob::CpuUclampMin => Setting::Number(0),
            Knob::CpuWeight | Knob::IoWeight => Setting::Number(100),
            Knob::CpusetCpus => Setting::Cpus(Vec::new()),
            Knob::MemoryHigh
            | Knob::MemoryMax
            | Knob::MemorySwapMax
            | Knob::MemoryZswapMax
            | Knob::CpuMax
            | Knob::CpuUclampMax
            | Knob::PidsMax
            | Knob::IoMax
            | Knob::IoLatency
            | Knob::Hugetlb64KBMax
            | Knob::Hugetlb1MBMax
            | Knob::Hugetlb2MBMax
            | Knob::Hugetlb1GBMax => Setting::Unlimited,
        }
    }

    /// Bytes of the huge pages that it is about; `None` for every other knob.
    pub fn huge_page_bytes(self) -> Option<u64> {
        match self {
            Knob::Hugetlb64KBMax => Some(64 << 10),
            Knob::Hugetlb1MBMax => Some(1 << 20),
            Knob::Hugetlb2MBMax => Some(2 << 20),
            Knob::Hugetlb1GBMax => Some(1 << 30),
            _ => None,
        }
    }
}

/// A disk by its device number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BlockDevice {
    /// Which driver.
    pub major: u32,
    /// Which of its disks.
    pub minor: u32,
}

impl fmt::Display for BlockDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// How much may go to and from a disk each second; `None` means any amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskRates {
    /// Bytes read.
    pub read_bytes: Option<u64>,
    /// Bytes written.
    pub write_bytes: Option<u64>,
    /// Reads.
    pub read_ops: Option<u64>,
    /// Writes.
    pub write_ops: Option<u64>,
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
    /// Rates of one disk.
    Disk(BlockDevice, DiskRates),
    /// Microseconds that a request to one disk should not take longer than.
    Latency(BlockDevice, u64),
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Setting::Unlimited => f.write_str("max"),
            Setting::Number(n) => write!(f, "{n}"),
            Setting::Quota(quota, period) => write!(f, "{quota} {period}"),
            Setting::Cpus(ids) => f.write_str(&format_cpu_list(ids)),
            Setting::Disk(disk, rates) => {
                let text = |rate: Option<u64>| rate.map_or_else(|| "max".to_owned(), |n| n.to_string());
                let [rbps, wbps, riops, wiops] =
                    [rates.read_bytes, rates.write_bytes, rates.read_ops, rates.write_ops].map(text);
                write!(f, "{disk} rbps={rbps} wbps={wbps} riops={riops} wiops={wiops}")
            }
            Setting::Latency(disk, us) => write!(f, "{disk} target={us}"),
        }
    }
}

/// The state of all knobs of one group that this host has.
pub type Settings = BTreeMap<Knob, Setting>;

/// A knob that was turned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnobChange {
    /// Which one.
    pub knob: Knob,
    /// The file that was written.
    pub file: String,
    /// What it was set to before.
    pub old: Setting,
    /// What it is set to now.
    pub new: Setting,
    /// Microseconds that the write took.
    pub us: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_disks_are_written_as_the_kernel_reads_them() {
        let disk = BlockDevice { major: 254, minor: 0 };
        let rates = DiskRates { read_bytes: Some(1000), write_ops: Some(5), ..DiskRates::default() };
        assert_eq!(Setting::Disk(disk, rates).to_string(), "254:0 rbps=1000 wbps=max riops=max wiops=5");
        assert_eq!(Setting::Latency(disk, 75_000).to_string(), "254:0 target=75000");
    }

    #[test]
    fn every_knob_is_listed_once_and_has_a_file_of_its_own() {
        let files: std::collections::BTreeSet<_> = Knob::ALL.iter().map(|knob| knob.file()).collect();
        assert_eq!(files.len(), Knob::ALL.len());
        assert!(Knob::ALL.is_sorted());
    }
}
