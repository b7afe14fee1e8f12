//! Controllers in cgroup2: limits are files of the boot's own group.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use model::{BlockDevice, DiskRates, GroupUsage, Hits, Knob, Setting};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::gauges::keyed;
use super::need::{self, Notice};
use super::{Controllers, Error, failed, number, read, write};

/// The controllers that guests are limited by and may use for their own groups.
const WANTED: [&str; 7] = ["cpu", "cpuset", "hugetlb", "io", "memory", "pids", "rdma"];

#[derive(Debug)]
pub(super) struct Unified {
    root: PathBuf,
    base: PathBuf,
}

impl Unified {
    pub(super) fn new(root: &str, base: &Path) -> Unified {
        Unified { root: PathBuf::from(root), base: base.to_owned() }
    }

    fn path(&self, group: &str, knob: Knob) -> PathBuf {
        let group = self.base.join(group);
        match knob {
            // Where nothing but the BFQ scheduler can weigh, it has a file of its own.
            Knob::IoWeight if !group.join("io.weight").exists() => group.join("io.bfq.weight"),
            _ => group.join(knob.file()),
        }
    }

    /// Makes the controllers that `group` has available to groups below it.
    fn enable(group: &Path) -> Result<(), Error> {
        let available = read(&group.join("cgroup.controllers"))?;
        let enabled = read(&group.join("cgroup.subtree_control"))?;
        let missing: Vec<String> = available
            .split_whitespace()
            .filter(|c| WANTED.contains(c) && !enabled.split_whitespace().any(|e| e == *c))
            .map(|c| format!("+{c}"))
            .collect();
        if missing.is_empty() { Ok(()) } else { write(&group.join("cgroup.subtree_control"), &missing.join(" ")) }
    }
}

impl Controllers for Unified {
    fn prepare(&self) -> Result<(), Error> {
        // From the root down to the base, so that each level has what the next one needs.
        let below_root = self.base.strip_prefix(&self.root).unwrap_or(Path::new(""));
        let mut group = self.root.clone();
        Self::enable(&group)?;
        for part in below_root {
            group.push(part);
            Self::enable(&group)?;
        }
        Ok(())
    }

    fn create(&self, group: &str) -> Result<bool, Error> {
        Self::enable(&self.base.join(group)).map(|()| true)
    }

    fn remove(&self, _group: &str) -> Result<(), Error> {
        Ok(())
    }

    fn knobs(&self) -> BTreeSet<Knob> {
        // The base group has the files that those below it have, if it may hand their controllers on.
        let handed_on = read(&self.base.join("cgroup.subtree_control")).unwrap_or_default();
        let has = |knob: &Knob| {
            let controller = knob.file().split('.').next().unwrap_or_default();
            handed_on.split_whitespace().any(|c| c == controller) && self.path("", *knob).exists()
        };
        Knob::ALL.into_iter().filter(has).collect()
    }

    fn write(&self, group: &str, knob: Knob, setting: &Setting) -> Result<PathBuf, Error> {
        let path = self.path(group, knob);
        if let (Knob::MemoryMax, Setting::Number(bytes)) = (knob, setting) {
            make_room(&self.base.join(group), &path, *bytes)?;
        }
        match (knob, setting) {
            (Knob::CpuMax, Setting::Unlimited) => write(&path, "max 100000")?,
            // An empty list must still be a line, or nothing is written at all.
            (_, Setting::Cpus(ids)) if ids.is_empty() => write(&path, "\n")?,
            (Knob::CpuUclampMin | Knob::CpuUclampMax, Setting::Number(n)) => {
                write(&path, &format!("{}.{:02}", n / 100, n % 100))?;
            }
            (Knob::IoMax | Knob::IoLatency, Setting::Unlimited) => {
                // Each disk that has a line is let go.
                for disk in read(&path)?.lines().filter_map(|line| line.split(' ').next()) {
                    let all = if knob == Knob::IoMax { "rbps=max wbps=max riops=max wiops=max" } else { "target=0" };
                    write(&path, &format!("{disk} {all}"))?;
                }
            }
            (_, setting) => write(&path, &setting.to_string())?,
        }
        Ok(path)
    }

    fn read(&self, group: &str, knob: Knob) -> Result<Setting, Error> {
        let text = read(&self.path(group, knob))?;
        Ok(parse(knob, &text))
    }

    fn usage(&self, group: &str) -> GroupUsage {
        let file = |name: &str| self.base.join(group).join(name);
        let cpu = read(&file("cpu.stat")).unwrap_or_default();
        let usage_us = cpu.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse::<u64>().ok());
        GroupUsage {
            cpu_ns: usage_us.unwrap_or(0) * 1000,
            memory_bytes: number(&file("memory.current")),
            memory_peak_bytes: number(&file("memory.peak")),
            swap_bytes: number(&file("memory.swap.current")),
            processes: number(&file("pids.current")),
        }
    }

    fn hits(&self, group: &str) -> Hits {
        let keyed = |name: &str, key: &str| keyed(&self.base.join(group).join(name), key);
        Hits {
            memory_high: keyed("memory.events", "high"),
            memory_max: keyed("memory.events", "max"),
            oom_kills: keyed("memory.events", "oom_kill"),
            processes: keyed("pids.events", "max"),
            cpu_throttled: keyed("cpu.stat", "nr_throttled"),
            cpu_throttled_us: keyed("cpu.stat", "throttled_usec"),
        }
    }

    fn file(&self, group: &str, knob: Knob) -> PathBuf {
        self.path(group, knob)
    }

    fn oom_notices(&self) -> kernel::Result<OwnedFd> {
        inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
    }

    fn watch_oom(&self, group: &str, notices: &OwnedFd) -> Result<(), Error> {
        // The kernel says that the file was modified whenever one of its counters grew.
        let path = self.base.join(group).join("memory.events");
        let watched = inotify::add_watch(notices, &path, WatchFlags::MODIFY);
        watched.map(drop).map_err(|errno| failed("watch", &path)(errno.into()))
    }

    fn memory_need(&self, group: &str, _level: u64) -> Result<Notice, Error> {
        // Beyond the soft ceiling it is held back, and then waits.
        need::pressure(&self.base.join(group).join("memory.pressure"))
    }

    fn tells_of_use(&self) -> bool {
        false
    }

    fn take_memory(&self, group: &str, down_to: u64) -> Result<(), Error> {
        let group = self.base.join(group);
        let excess = number(&group.join("memory.current")).saturating_sub(down_to);
        let path = group.join("memory.reclaim");
        match std::fs::write(&path, excess.to_string()) {
            // It got less than was asked for.
            Err(error) if error.raw_os_error() == Some(kernel::Errno::AGAIN.raw_os_error()) => Ok(()),
            other => other.map_err(failed("write", &path)),
        }
    }

    fn extra_groups(&self, _group: &str) -> Vec<PathBuf> {
        Vec::new()
    }

    fn extra_names(&self) -> BTreeSet<String> {
        BTreeSet::new()
    }
}

/// A ceiling below what is used would kill at once: what can be taken away is taken first, and when that is not enough the
/// ceiling is refused, as cgroup v1 does by itself.
fn make_room(group: &Path, ceiling: &Path, bytes: u64) -> Result<(), Error> {
    let used = || number(&group.join("memory.current"));
    if used() > bytes {
        // Says so when it got less than asked; what counts is what is used then.
        let _ = std::fs::write(group.join("memory.reclaim"), used().saturating_sub(bytes).to_string());
    }
    if used() > bytes { Err(failed("lower", ceiling)(kernel::Errno::BUSY.into())) } else { Ok(()) }
}

/// Reads a knob's value as cgroup2 prints it.
fn parse(knob: Knob, text: &str) -> Setting {
    let number = |text: &str| text.parse::<u64>().ok();
    match knob {
        Knob::CpusetCpus => Setting::Cpus(model::limits::parse_cpu_list(text).unwrap_or_default()),
        Knob::CpuMax => match text.split_once(' ').map(|(quota, period)| (number(quota), number(period))) {
            Some((Some(quota), Some(period))) => Setting::Quota(quota, period),
            _ => Setting::Unlimited,
        },
        Knob::CpuUclampMin | Knob::CpuUclampMax => hundredths(text).map_or(Setting::Unlimited, Setting::Number),
        // An idle group's is 0, which cannot be written.
        Knob::CpuWeight => number(text).map_or_else(|| knob.initial(), |n| Setting::Number(n.max(1))),
        // The first line is the default of all disks; there are no others.
        Knob::IoWeight => {
            let weight = text.lines().next().and_then(|line| number(line.strip_prefix("default ").unwrap_or(line)));
            weight.map_or_else(|| knob.initial(), Setting::Number)
        }
        Knob::IoMax | Knob::IoLatency => text.lines().find_map(disk_line).unwrap_or(Setting::Unlimited),
        // That of huge pages may say the largest number where others say "max".
        _ => number(text).filter(|n| *n < 1 << 62).map_or(Setting::Unlimited, Setting::Number),
    }
}

/// `50.25` as 5025.
fn hundredths(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.')?;
    Some(whole.parse::<u64>().ok()? * 100 + part.parse::<u64>().ok()?)
}

/// A line like `254:0 rbps=1000 wbps=max riops=max wiops=max` or `254:0 target=75000`.
fn disk_line(line: &str) -> Option<Setting> {
    let (disk, values) = line.split_once(' ')?;
    let disk = disk_number(disk)?;
    let value = |name: &str| values.split(' ').find_map(|v| v.strip_prefix(name)?.strip_prefix('=')?.parse().ok());
    if let Some(us) = value("target") {
        return Some(Setting::Latency(disk, us));
    }
    let rates = DiskRates {
        read_bytes: value("rbps"),
        write_bytes: value("wbps"),
        read_ops: value("riops"),
        write_ops: value("wiops"),
    };
    (rates != DiskRates::default()).then_some(Setting::Disk(disk, rates))
}

/// A device number like `254:0`.
pub(super) fn disk_number(text: &str) -> Option<BlockDevice> {
    let (major, minor) = text.split_once(':')?;
    Some(BlockDevice { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_the_kernel_prints_them() {
        assert_eq!(parse(Knob::MemoryMax, "max"), Setting::Unlimited);
        assert_eq!(parse(Knob::MemoryMax, "4096"), Setting::Number(4096));
        assert_eq!(parse(Knob::Hugetlb2MBMax, "9223372036854771712"), Setting::Unlimited);
        assert_eq!(parse(Knob::CpuMax, "max 100000"), Setting::Unlimited);
        assert_eq!(parse(Knob::CpuMax, "25000 100000"), Setting::Quota(25000, 100_000));
        assert_eq!(parse(Knob::CpusetCpus, "0-1"), Setting::Cpus(vec![0, 1]));
        assert_eq!(parse(Knob::CpusetCpus, ""), Setting::Cpus(vec![]));
        assert_eq!(parse(Knob::CpuUclampMin, "0.00"), Setting::Number(0));
        assert_eq!(parse(Knob::CpuUclampMax, "62.50"), Setting::Number(6250));
        assert_eq!(parse(Knob::CpuUclampMax, "max"), Setting::Unlimited);
        assert_eq!(parse(Knob::CpuWeight, "0"), Setting::Number(1));
        assert_eq!(parse(Knob::IoWeight, "default 100"), Setting::Number(100));
        let disk = BlockDevice { major: 254, minor: 0 };
        let rates = DiskRates { write_bytes: Some(1_048_576), ..DiskRates::default() };
        assert_eq!(parse(Knob::IoMax, "254:0 rbps=max wbps=1048576 riops=max wiops=max"), Setting::Disk(disk, rates));
        assert_eq!(parse(Knob::IoMax, ""), Setting::Unlimited);
        assert_eq!(parse(Knob::IoLatency, "254:0 target=75000"), Setting::Latency(disk, 75_000));
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let disk = BlockDevice { major: 8, minor: 16 };
        let rates = DiskRates { read_bytes: Some(5), write_ops: Some(7), ..DiskRates::default() };
        for (knob, setting) in [
            (Knob::MemoryLow, Setting::Number(4096)),
            (Knob::CpuMax, Setting::Quota(5000, 10_000)),
            (Knob::CpusetCpus, Setting::Cpus(vec![0, 2])),
            (Knob::IoMax, Setting::Disk(disk, rates)),
            (Knob::IoLatency, Setting::Latency(disk, 10)),
            (Knob::Hugetlb2MBMax, Setting::Unlimited),
        ] {
            assert_eq!(parse(knob, &setting.to_string()), setting, "{knob:?}");
        }
    }
}
