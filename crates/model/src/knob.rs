//! What control groups can be told: knobs and what they are set to.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::devices::DeviceRange;
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
    /// `cpuset.cpus.partition`: whether others may run on its CPUs.
    CpusetPartition,
    /// `pids.max`.
    PidsMax,
    /// `io.max` of one disk.
    IoMax,
    /// `io.weight`, 1 to 1000, by default 100.
    IoWeight,
    /// `io.latency` of one disk.
    IoLatency,
    /// `rdma.max` of every RDMA device.
    RdmaMax,
    /// `misc.max`, of what the machine has a limited number of.
    MiscMax,
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
    /// Which devices may be opened: in cgroup2 no file, but a program that the kernel asks.
    Devices,
    /// Bytes that its sockets receive each second, by whichever link: a program as well.
    NetworkIngress,
    /// Bytes that its sockets send each second.
    NetworkEgress,
}

impl Knob {
    /// Every knob.
    pub const ALL: [Knob; 28] = [
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
        Knob::CpusetPartition,
        Knob::PidsMax,
        Knob::IoMax,
        Knob::IoWeight,
        Knob::IoLatency,
        Knob::RdmaMax,
        Knob::MiscMax,
        Knob::Hugetlb64KBMax,
        Knob::Hugetlb1MBMax,
        Knob::Hugetlb2MBMax,
        Knob::Hugetlb1GBMax,
        Knob::Devices,
        Knob::NetworkIngress,
        Knob::NetworkEgress,
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
            Knob::CpusetPartition => "cpuset.cpus.partition",
            Knob::PidsMax => "pids.max",
            Knob::IoMax => "io.max",
            Knob::IoWeight => "io.weight",
            Knob::IoLatency => "io.latency",
            Knob::RdmaMax => "rdma.max",
            Knob::MiscMax => "misc.max",
            Knob::Hugetlb64KBMax => "hugetlb.64KB.max",
            Knob::Hugetlb1MBMax => "hugetlb.1MB.max",
            Knob::Hugetlb2MBMax => "hugetlb.2MB.max",
            Knob::Hugetlb1GBMax => "hugetlb.1GB.max",
            Knob::Devices => "devices",
            Knob::NetworkIngress => "network.ingress",
            Knob::NetworkEgress => "network.egress",
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
            Knob::CpusetPartition => Setting::Partition(Partition::Member),
            Knob::MemoryHigh
            | Knob::MemoryMax
            | Knob::MemorySwapMax
            | Knob::MemoryZswapMax
            | Knob::CpuMax
            | Knob::CpuUclampMax
            | Knob::PidsMax
            | Knob::IoMax
            | Knob::IoLatency
            | Knob::RdmaMax
            | Knob::MiscMax
            | Knob::Hugetlb64KBMax
            | Knob::Hugetlb1MBMax
            | Knob::Hugetlb2MBMax
            | Knob::Hugetlb1GBMax
            | Knob::Devices
            | Knob::NetworkIngress
            | Knob::NetworkEgress => Setting::Unlimited,
        }
    }

    /// The controller of cgroup v1 that has it, and its file there; `None` where v1 never had it.
    pub fn v1(self) -> Option<(&'static str, &'static str)> {
        Some(match self {
            // Not quite the same: it slows nobody down, but says whose memory is taken first.
            Knob::MemoryHigh => ("memory", "memory.soft_limit_in_bytes"),
            Knob::MemoryMax => ("memory", "memory.limit_in_bytes"),
            // Memory and swap together.
            Knob::MemorySwapMax => ("memory", "memory.memsw.limit_in_bytes"),
            Knob::CpuMax => ("cpu", "cpu.cfs_quota_us"),
            Knob::CpuMaxBurst => ("cpu", "cpu.cfs_burst_us"),
            Knob::CpuIdle => ("cpu", "cpu.idle"),
            Knob::CpuWeight => ("cpu", "cpu.shares"),
            Knob::CpuUclampMin => ("cpu", "cpu.uclamp.min"),
            Knob::CpuUclampMax => ("cpu", "cpu.uclamp.max"),
            Knob::CpusetCpus => ("cpuset", "cpuset.cpus"),
            Knob::PidsMax => ("pids", "pids.max"),
            Knob::IoMax => ("blkio", "blkio.throttle.read_bps_device"),
            Knob::IoWeight => ("blkio", "blkio.bfq.weight"),
            Knob::Hugetlb64KBMax => ("hugetlb", "hugetlb.64KB.limit_in_bytes"),
            Knob::Hugetlb1MBMax => ("hugetlb", "hugetlb.1MB.limit_in_bytes"),
            Knob::Hugetlb2MBMax => ("hugetlb", "hugetlb.2MB.limit_in_bytes"),
            Knob::Hugetlb1GBMax => ("hugetlb", "hugetlb.1GB.limit_in_bytes"),
            Knob::Devices => ("devices", "devices.list"),
            Knob::MemoryMin
            | Knob::MemoryLow
            | Knob::MemoryZswapMax
            | Knob::MemoryOomGroup
            | Knob::IoLatency
            | Knob::CpusetPartition
            | Knob::RdmaMax
            | Knob::MiscMax
            | Knob::NetworkIngress
            | Knob::NetworkEgress => return None,
        })
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

/// `cpu.shares` of a group with cgroup2's default weight of 100.
pub const DEFAULT_SHARES: u64 = 1024;

/// The `cpu.shares` of cgroup v1 that are a `cpu.weight`.
pub fn shares(weight: u64) -> u64 {
    (weight * DEFAULT_SHARES / 100).max(2)
}

/// The files of cgroup v1 for what is one line of `io.max`: bytes read and written, reads, writes.
pub const V1_RATES: [&str; 4] = [
    "blkio.throttle.read_bps_device",
    "blkio.throttle.write_bps_device",
    "blkio.throttle.read_iops_device",
    "blkio.throttle.write_iops_device",
];

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

/// Who else runs on the CPUs of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Partition {
    /// Everybody.
    #[default]
    Member,
    /// Nobody.
    Root,
    /// Nobody, and the scheduler does not balance them either.
    Isolated,
    /// Nobody was to, and the kernel does not keep to that any more. Nobody can wish for it.
    Invalid,
}

impl Partition {
    /// The kernel's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Partition::Member => "member",
            Partition::Root => "root",
            Partition::Isolated => "isolated",
            Partition::Invalid => "invalid",
        }
    }
}

/// How much of an RDMA device may be used; `None` means any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Rdma {
    /// Handles.
    pub handles: Option<u64>,
    /// Objects.
    pub objects: Option<u64>,
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
    /// Who else runs on its CPUs.
    Partition(Partition),
    /// What may be used of each RDMA device.
    Rdma(Rdma),
    /// Numbers of what there is a limited number of, by name.
    Misc(BTreeMap<String, u64>),
    /// Devices that may be opened, sorted; no others.
    Devices(Vec<DeviceRange>),
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
            Setting::Partition(partition) => f.write_str(partition.as_str()),
            Setting::Rdma(Rdma { handles, objects }) => {
                let text = |n: Option<u64>| n.map_or_else(|| "max".to_owned(), |n| n.to_string());
                write!(f, "hca_handle={} hca_object={}", text(*handles), text(*objects))
            }
            Setting::Misc(numbers) => {
                let numbers: Vec<String> = numbers.iter().map(|(name, n)| format!("{name} {n}")).collect();
                f.write_str(&numbers.join(", "))
            }
            Setting::Devices(ranges) if ranges.is_empty() => f.write_str("none"),
            Setting::Devices(ranges) => {
                let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
                f.write_str(&ranges.join(", "))
            }
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
