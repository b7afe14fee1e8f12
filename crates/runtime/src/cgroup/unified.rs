//! Controllers in cgroup2: limits are files of the boot's own group.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use kernel::bpf::Question;
use model::scale::Trigger;
use model::{Bites, BlockDevice, DiskRates, GroupUsage, Hits, Knob, Partition, Rdma, Setting};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::devices;
use super::gauges::keyed;
use super::need::{self, Notice};
use super::{Controllers, Error, failed, number, partition, read, traffic, write};

/// The controllers that guests are limited by and may use for their own groups.
const WANTED: [&str; 8] = ["cpu", "cpuset", "hugetlb", "io", "memory", "misc", "pids", "rdma"];

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
            // No file: the group itself asks.
            Knob::Devices | Knob::NetworkIngress | Knob::NetworkEgress => group,
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

    fn remove(&self, group: &str) -> Result<(), Error> {
        let group = self.base.join(group);
        // The kernel gives back what a group keeps some time after it is gone.
        if group != self.base && partition::is_possible(&group) && partition::kind(&group)? != Partition::Member {
            partition::put(&self.root, &group, Partition::Member)?;
        }
        Ok(())
    }

    fn knobs(&self) -> BTreeSet<Knob> {
        // The base group has the files that those below it have, if it may hand their controllers on.
        let handed_on = read(&self.base.join("cgroup.subtree_control")).unwrap_or_default();
        let has = |knob: &Knob| {
            match knob {
                Knob::Devices => return devices::can_program(&self.base),
                Knob::NetworkIngress | Knob::NetworkEgress => return traffic::is_possible(&self.base),
                _ => {}
            }
            let controller = knob.file().split('.').next().unwrap_or_default();
            let path = self.path("", *knob);
            handed_on.split_whitespace().any(|c| c == controller)
                && match knob {
                    Knob::CpusetPartition => partition::is_possible(&self.base),
                    // They have a line for each thing that there is.
                    Knob::RdmaMax | Knob::MiscMax => read(&path).is_ok_and(|text| !text.is_empty()),
                    _ => path.exists(),
                }
        };
        Knob::ALL.into_iter().filter(has).collect()
    }

    fn write(&self, group: &str, knob: Knob, setting: &Setting) -> Result<PathBuf, Error> {
        let path = self.path(group, knob);
        if let (Knob::MemoryMax, Setting::Number(bytes)) = (knob, setting) {
            make_room(&self.base.join(group), &path, *bytes)?;
        }
        match (knob, setting) {
            (Knob::Devices, setting) => devices::put_program(&path, setting)?,
            (Knob::NetworkIngress, setting) => traffic::put(&path, Question::PacketIn, setting)?,
            (Knob::NetworkEgress, setting) => traffic::put(&path, Question::PacketOut, setting)?,
            (Knob::CpusetPartition, Setting::Partition(kind)) => partition::put(&self.root, &group_of(&path), *kind)?,
            (Knob::CpusetCpus, Setting::Cpus(ids)) => partition::put_cpus(&self.root, &group_of(&path), ids)?,
            (Knob::RdmaMax | Knob::MiscMax, setting) => put_each(&path, setting)?,
            (Knob::CpuMax, Setting::Unlimited) => write(&path, "max 100000")?,
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
        let path = self.path(group, knob);
        match knob {
            Knob::CpusetPartition => return partition::kind(&group_of(&path)).map(Setting::Partition),
            Knob::CpusetCpus => return partition::cpus(&group_of(&path)).map(Setting::Cpus),
            Knob::Devices => return devices::programmed(&path),
            Knob::NetworkIngress => return traffic::rate(&path, Question::PacketIn),
            Knob::NetworkEgress => return traffic::rate(&path, Question::PacketOut),
            _ => {}
        }
        let text = read(&path)?;
        Ok(parse(knob, &text))
    }

    fn usage(&self, group: &str) -> GroupUsage {
        let file = |name: &str| self.base.join(group).join(name);
        let cpu = read(&file("cpu.stat")).unwrap_or_default();
        let ns = |key: &str| {
            let us = cpu.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse::<u64>().ok());
            us.unwrap_or(0) * 1000
        };
        GroupUsage {
            cpu_ns: ns("usage_usec"),
            cpu_user_ns: ns("user_usec"),
            cpu_system_ns: ns("system_usec"),
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

    fn bites(&self, group: &str) -> Bites {
        let keyed = |name: &str, key: &str| keyed(&self.base.join(group).join(name), key);
        // Files without `local` count what groups below met as well, which a guest may make and limit as it likes. That of
        // processes does so since there is the other.
        let is_local = self.base.join(group).join("pids.events.local").exists();
        Bites {
            cpu: keyed("cpu.stat", "nr_throttled"),
            memory: keyed("memory.events.local", "oom"),
            pids: keyed(if is_local { "pids.events.local" } else { "pids.events" }, "max"),
        }
    }

    fn hit_files(&self, group: &str) -> Vec<PathBuf> {
        ["memory.events", "pids.events"].map(|name| self.base.join(group).join(name)).into()
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

    fn memory_need(&self, group: &str, _level: u64, when: Trigger) -> Result<Notice, Error> {
        // Beyond the soft ceiling it is held back, and then waits.
        need::pressure(&self.base.join(group).join("memory.pressure"), when)
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

/// The group that a file is of.
fn group_of(file: &Path) -> PathBuf {
    file.parent().unwrap_or(file).to_owned()
}

/// Sets what a file has a line for each thing of: all RDMA devices alike, other things by name. What this machine has not is
/// refused before anything is set.
fn put_each(path: &Path, setting: &Setting) -> Result<(), Error> {
    let text = read(path)?;
    let names: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    if let Setting::Misc(numbers) = setting
        && let Some(unknown) = numbers.keys().find(|name| !names.contains(&name.as_str()))
    {
        let why = format!("this machine has no {unknown}, only {}", names.join(", "));
        return Err(failed("limit", path)(std::io::Error::new(std::io::ErrorKind::NotFound, why)));
    }
    for name in names {
        let value = match setting {
            Setting::Rdma(_) => setting.to_string(),
            Setting::Misc(numbers) => numbers.get(name).map_or_else(|| "max".to_owned(), u64::to_string),
            _ if path.ends_with("rdma.max") => Setting::Rdma(Rdma::default()).to_string(),
            _ => "max".to_owned(),
        };
        write(path, &format!("{name} {value}"))?;
    }
    Ok(())
}

/// A line like `mlx5_0 hca_handle=2 hca_object=max`; `None` when it limits nothing.
fn rdma_line(line: &str) -> Option<Rdma> {
    let value = |name: &str| line.split(' ').find_map(|v| v.strip_prefix(name)?.strip_prefix('=')?.parse().ok());
    let rdma = Rdma { handles: value("hca_handle"), objects: value("hca_object") };
    (rdma != Rdma::default()).then_some(rdma)
}

/// A line like `sev 5`; `None` when it limits nothing.
fn misc_line(line: &str) -> Option<(String, u64)> {
    let (name, number) = line.split_once(' ')?;
    Some((name.to_owned(), number.parse().ok()?))
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
        Knob::RdmaMax => text.lines().find_map(rdma_line).map_or(Setting::Unlimited, Setting::Rdma),
        Knob::MiscMax => {
            let numbers: BTreeMap<String, u64> = text.lines().filter_map(misc_line).collect();
            if numbers.is_empty() { Setting::Unlimited } else { Setting::Misc(numbers) }
        }
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
    fn what_groups_below_met_bites_nobody() {
        let scratch = testkit::Scratch::new("bites");
        let put = |name: &str, text: &str| std::fs::write(scratch.join("g").join(name), text).expect("write");
        std::fs::create_dir(scratch.join("g")).expect("mkdir");
        let groups = Unified::new("/", &scratch.join(""));
        // As Linux 6.1 has them, and then 6.12.
        put("memory.events", "low 0\nhigh 0\nmax 9\noom 4\noom_kill 4\noom_group_kill 0\n");
        put("memory.events.local", "low 0\nhigh 0\nmax 9\noom 1\noom_kill 0\noom_group_kill 0\n");
        put("pids.events", "max 7\n");
        put("cpu.stat", "usage_usec 5\nnr_periods 9\nnr_throttled 3\nthrottled_usec 70\n");
        assert_eq!(groups.bites("g"), Bites { cpu: 3, memory: 1, pids: 7 });
        put("pids.events.local", "max 2\n");
        assert_eq!(groups.bites("g"), Bites { cpu: 3, memory: 1, pids: 2 });
        assert_eq!(groups.bites("none"), Bites::default());
    }

    #[test]
    fn values_are_read_as_the_kernel_prints_them() {
        assert_eq!(parse(Knob::MemoryMax, "max"), Setting::Unlimited);
        assert_eq!(parse(Knob::MemoryMax, "4096"), Setting::Number(4096));
        assert_eq!(parse(Knob::Hugetlb2MBMax, "9223372036854771712"), Setting::Unlimited);
        assert_eq!(parse(Knob::CpuMax, "max 100000"), Setting::Unlimited);
        assert_eq!(parse(Knob::CpuMax, "25000 100000"), Setting::Quota(25000, 100_000));
        assert_eq!(parse(Knob::CpuUclampMin, "0.00"), Setting::Number(0));
        assert_eq!(parse(Knob::CpuUclampMax, "62.50"), Setting::Number(6250));
        assert_eq!(parse(Knob::CpuUclampMax, "max"), Setting::Unlimited);
        assert_eq!(parse(Knob::CpuWeight, "0"), Setting::Number(1));
        assert_eq!(parse(Knob::IoWeight, "default 100"), Setting::Number(100));
        let disk = BlockDevice { major: 254, minor: 0 };
        let rates = DiskRates { write_bytes: Some(1_048_576), ..DiskRates::default() };
        assert_eq!(parse(Knob::IoMax, "254:0 rbps=max wbps=1048576 riops=max wiops=max"), Setting::Disk(disk, rates));
        assert_eq!(parse(Knob::IoMax, ""), Setting::Unlimited);
        let rdma = Rdma { handles: Some(2), objects: None };
        assert_eq!(parse(Knob::RdmaMax, "mlx5_0 hca_handle=2 hca_object=max"), Setting::Rdma(rdma));
        assert_eq!(parse(Knob::RdmaMax, "mlx5_0 hca_handle=max hca_object=max"), Setting::Unlimited);
        assert_eq!(parse(Knob::MiscMax, "sev max\nsev_es 3"), Setting::Misc([("sev_es".to_owned(), 3)].into()));
        assert_eq!(parse(Knob::MiscMax, "sev max"), Setting::Unlimited);
        assert_eq!(parse(Knob::IoLatency, "254:0 target=75000"), Setting::Latency(disk, 75_000));
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let disk = BlockDevice { major: 8, minor: 16 };
        let rates = DiskRates { read_bytes: Some(5), write_ops: Some(7), ..DiskRates::default() };
        for (knob, setting) in [
            (Knob::MemoryLow, Setting::Number(4096)),
            (Knob::CpuMax, Setting::Quota(5000, 10_000)),
            (Knob::IoMax, Setting::Disk(disk, rates)),
            (Knob::IoLatency, Setting::Latency(disk, 10)),
            (Knob::Hugetlb2MBMax, Setting::Unlimited),
        ] {
            assert_eq!(parse(knob, &setting.to_string()), setting, "{knob:?}");
        }
    }
}
