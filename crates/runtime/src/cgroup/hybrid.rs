//! Controllers in v1 hierarchies beside a cgroup2 tree that has none: limits are files of a group of the same name in each.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use model::knob::{DEFAULT_SHARES, V1_RATES, shares};
use model::scale::Trigger;
use model::{Bites, BlockDevice, DiskRates, GroupUsage, Hits, Knob, Setting, V1Hierarchy};
use rustix::event::{EventfdFlags, eventfd};

use super::devices;
use super::gauges::keyed;
use super::need::Notice;
use super::unified::{Unified, disk_number};
use super::{Controllers, Error, failed, make_dir, number, read, remove_dir, subdirectories, write};

#[derive(Debug)]
pub(super) struct Hybrid {
    hierarchies: Vec<Hierarchy>,
    /// Controllers that no v1 hierarchy took are in cgroup2 here, too.
    second: Unified,
}

#[derive(Debug)]
struct Hierarchy {
    base: PathBuf,
    controllers: Vec<String>,
}

impl Hybrid {
    pub(super) fn new(v1: &[V1Hierarchy], base: &str, second: Unified) -> Hybrid {
        let hierarchies = v1
            .iter()
            .map(|h| Hierarchy { base: Path::new(&h.root).join(base), controllers: h.controllers.clone() })
            .collect();
        Hybrid { hierarchies, second }
    }

    fn with(&self, controller: &str) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|h| h.controllers.iter().any(|c| c == controller))
    }

    /// The group's directory in the hierarchy that has the knob; `None` when that is cgroup2.
    fn directory(&self, group: &str, knob: Knob) -> Option<PathBuf> {
        let (controller, _) = knob.v1()?;
        self.with(controller).map(|h| h.base.join(group))
    }
}

/// A new cpuset group has no CPU and no memory node, and takes no process: copy the parent's.
fn inherit_cpuset(group: &Path) -> Result<(), Error> {
    let Some(parent) = group.parent() else { return Ok(()) };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if read(&group.join(file))?.is_empty() {
            write(&group.join(file), &read(&parent.join(file))?)?;
        }
    }
    Ok(())
}

/// Makes a group in a hierarchy; false when it was there.
fn make(hierarchy: &Hierarchy, directory: &Path) -> Result<bool, Error> {
    let is_new = make_dir(directory)?;
    if hierarchy.controllers.iter().any(|c| c == "cpuset") {
        inherit_cpuset(directory)?;
    }
    Ok(is_new)
}

impl Controllers for Hybrid {
    fn prepare(&self) -> Result<(), Error> {
        for hierarchy in &self.hierarchies {
            if let Some(parent) = hierarchy.base.parent() {
                fs::create_dir_all(parent).map_err(failed("mkdir", parent))?;
            }
            make(hierarchy, &hierarchy.base)?;
        }
        // What cgroup2 cannot hand on, as inside of another container, are knobs that there are not.
        let _ = self.second.prepare();
        Ok(())
    }

    fn create(&self, group: &str) -> Result<bool, Error> {
        self.hierarchies.iter().try_fold(true, |all, h| Ok(make(h, &h.base.join(group))? && all))
    }

    fn remove(&self, group: &str) -> Result<(), Error> {
        // Every hierarchy is tried, so that one failure leaves as little as possible.
        let failures: Vec<Error> =
            self.hierarchies.iter().filter_map(|h| remove_dir(&h.base.join(group)).err()).collect();
        failures.into_iter().next().map_or(Ok(()), Err)
    }

    fn knobs(&self) -> BTreeSet<Knob> {
        // Groups below the base have what one has that is made there; the root lacks some.
        let has = |knob: &Knob| {
            let file = knob.v1().map(|(_, file)| file);
            let directory = self.directory("", *knob);
            if *knob == Knob::Devices {
                return directory.is_some_and(|directory| devices::is_unrestricted(&directory));
            }
            directory.zip(file).is_some_and(|(directory, file)| directory.join(file).exists())
        };
        let second = self.second.knobs().into_iter().filter(|knob| self.directory("", *knob).is_none());
        Knob::ALL.into_iter().filter(has).chain(second).collect()
    }

    fn write(&self, group: &str, knob: Knob, setting: &Setting) -> Result<PathBuf, Error> {
        let Some((directory, (_, file))) = self.directory(group, knob).zip(knob.v1()) else {
            return self.second.write(group, knob, setting);
        };
        let path = directory.join(file);
        let put = |file: &str, text: &str| write(&directory.join(file), text);
        match (knob, setting) {
            (Knob::Devices, setting) => devices::put_list(&directory, setting)?,
            (Knob::MemoryMax, setting) => put_memory(&directory, setting)?,
            (Knob::MemorySwapMax, setting) => put_swap(&directory, setting)?,
            (Knob::CpuMax, Setting::Quota(quota, period)) => {
                put("cpu.cfs_period_us", &period.to_string())?;
                write(&path, &quota.to_string())?;
            }
            (Knob::CpuWeight, Setting::Number(weight)) => write(&path, &shares(*weight).to_string())?,
            (Knob::CpuUclampMin | Knob::CpuUclampMax, Setting::Number(n)) => {
                write(&path, &format!("{}.{:02}", n / 100, n % 100))?;
            }
            (Knob::CpusetCpus, Setting::Cpus(ids)) if ids.is_empty() => {
                write(&path, &read(&directory.join("../cpuset.cpus"))?)?;
            }
            (Knob::IoMax, setting) => put_rates(&directory, setting)?,
            (Knob::PidsMax | Knob::CpuUclampMax, Setting::Unlimited) => write(&path, "max")?,
            (_, Setting::Unlimited) => write(&path, "-1")?,
            (_, setting) => write(&path, &setting.to_string())?,
        }
        Ok(path)
    }

    fn read(&self, group: &str, knob: Knob) -> Result<Setting, Error> {
        let Some((directory, (_, file))) = self.directory(group, knob).zip(knob.v1()) else {
            return self.second.read(group, knob);
        };
        if knob == Knob::Devices {
            return devices::listed(&directory);
        }
        let text = read(&directory.join(file))?;
        let number = text.parse::<u64>().ok();
        let or_unlimited = |value: Option<u64>| value.map_or(Setting::Unlimited, Setting::Number);
        Ok(match knob {
            Knob::CpuMax => match (number, read(&directory.join("cpu.cfs_period_us"))?.parse().ok()) {
                (Some(quota), Some(period)) => Setting::Quota(quota, period),
                _ => Setting::Unlimited,
            },
            Knob::CpuWeight => Setting::Number(weight(number.unwrap_or(DEFAULT_SHARES))),
            Knob::CpusetCpus => {
                let parent = read(&directory.join("../cpuset.cpus"))?;
                let ids = if text == parent { None } else { model::limits::parse_cpu_list(&text) };
                Setting::Cpus(ids.unwrap_or_default())
            }
            Knob::MemorySwapMax => match (bounded(number), bounded(bytes_of(&directory, LIMIT)?)) {
                (Some(both), Some(memory)) => Setting::Number(both.saturating_sub(memory)),
                _ => Setting::Unlimited,
            },
            Knob::CpuUclampMin | Knob::CpuUclampMax => {
                let hundredths = text.replacen('.', "", 1).parse().ok();
                or_unlimited(hundredths)
            }
            Knob::IoMax => rates(&directory)?,
            _ => or_unlimited(bounded(number)),
        })
    }

    fn usage(&self, group: &str) -> GroupUsage {
        let file =
            |controller: &str, name: &str| self.with(controller).map_or(0, |h| number(&h.base.join(group).join(name)));
        GroupUsage {
            cpu_ns: file("cpuacct", "cpuacct.usage"),
            cpu_user_ns: file("cpuacct", "cpuacct.usage_user"),
            cpu_system_ns: file("cpuacct", "cpuacct.usage_sys"),
            memory_bytes: file("memory", "memory.usage_in_bytes"),
            memory_peak_bytes: file("memory", "memory.max_usage_in_bytes"),
            swap_bytes: 0,
            processes: file("pids", "pids.current"),
        }
    }

    fn hits(&self, group: &str) -> Hits {
        let file = |controller: &str, name: &str| self.with(controller).map(|h| h.base.join(group).join(name));
        let keyed =
            |controller: &str, name: &str, key: &str| file(controller, name).map_or(0, |path| keyed(&path, key));
        Hits {
            // The soft limit of v1 counts nothing.
            memory_high: 0,
            memory_max: file("memory", "memory.failcnt").map_or(0, |path| number(&path)),
            oom_kills: keyed("memory", "memory.oom_control", "oom_kill"),
            processes: keyed("pids", "pids.events", "max"),
            cpu_throttled: keyed("cpu", "cpu.stat", "nr_throttled"),
            cpu_throttled_us: keyed("cpu", "cpu.stat", "throttled_time") / 1000,
        }
    }

    fn bites(&self, group: &str) -> Bites {
        // Guests make no groups in v1.
        let hits = self.hits(group);
        Bites { cpu: hits.cpu_throttled, memory: hits.oom_kills, pids: hits.processes }
    }

    fn hit_files(&self, group: &str) -> Vec<PathBuf> {
        // Of memory nothing is told but that it ran out.
        self.with("pids").map(|h| h.base.join(group).join("pids.events")).into_iter().collect()
    }

    fn file(&self, group: &str, knob: Knob) -> PathBuf {
        match self.directory(group, knob).zip(knob.v1()) {
            Some((directory, (_, file))) => directory.join(file),
            None => self.second.file(group, knob),
        }
    }

    fn oom_notices(&self) -> kernel::Result<OwnedFd> {
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
    }

    fn watch_oom(&self, group: &str, notices: &OwnedFd) -> Result<(), Error> {
        let Some(hierarchy) = self.with("memory") else { return Ok(()) };
        register(&hierarchy.base.join(group), "memory.oom_control", notices, "")
    }

    fn memory_need(&self, group: &str, level: u64, when: Trigger) -> Result<Notice, Error> {
        let Some(hierarchy) = self.with("memory") else { return self.second.memory_need(group, level, when) };
        // The soft ceiling of v1 holds nobody back, so nobody would wait: what tells is the use of more.
        let group = hierarchy.base.join(group);
        let notice = self.oom_notices().map_err(|errno| failed("watch", &group)(errno.into()))?;
        register(&group, "memory.usage_in_bytes", &notice, &level.to_string())?;
        // The kernel tells of crossings: whoever is beyond already crosses nothing.
        if number(&group.join("memory.usage_in_bytes")) >= level {
            rustix::io::write(&notice, &1u64.to_ne_bytes()).map_err(|errno| failed("notify", &group)(errno.into()))?;
        }
        Ok(Notice::Readable(notice))
    }

    fn tells_of_use(&self) -> bool {
        self.with("memory").is_some()
    }

    fn take_memory(&self, group: &str, down_to: u64) -> Result<(), Error> {
        let Some(hierarchy) = self.with("memory") else { return self.second.take_memory(group, down_to) };
        let directory = hierarchy.base.join(group);
        let used = number(&directory.join("memory.usage_in_bytes"));
        // A limit below what is used takes what can be taken, or is refused. It stands for an instant only; at most half of
        // the cached files go, so that whoever allocates in that instant is given the other half and not killed.
        let stat = directory.join("memory.stat");
        let cached = keyed(&stat, "total_inactive_file") + keyed(&stat, "total_active_file");
        let ceiling = down_to.max(used.saturating_sub(cached / 2));
        let before = bounded(bytes_of(&directory, LIMIT)?);
        if ceiling >= used || before.is_some_and(|before| ceiling >= before) {
            return Ok(());
        }
        let path = directory.join(LIMIT);
        let lowered = fs::write(&path, ceiling.to_string());
        write(&path, &before.map_or_else(|| "-1".to_owned(), |bytes| bytes.to_string()))?;
        match lowered {
            Err(error) if error.raw_os_error() == Some(kernel::Errno::BUSY.raw_os_error()) => Ok(()),
            other => other.map_err(failed("lower", &path)),
        }
    }

    fn extra_groups(&self, group: &str) -> Vec<PathBuf> {
        self.hierarchies.iter().map(|h| h.base.join(group)).collect()
    }

    fn extra_names(&self) -> BTreeSet<String> {
        self.hierarchies.iter().filter_map(|h| subdirectories(&h.base).ok()).flatten().collect()
    }
}

/// Has an eventfd be readable when something happens that a file of a v1 group is about.
fn register(group: &Path, file: &str, notices: &OwnedFd, argument: &str) -> Result<(), Error> {
    let watched = group.join(file);
    // Needed only while the kernel is told which file is meant.
    let file = fs::File::open(&watched).map_err(failed("open", &watched))?;
    let text = format!("{} {} {argument}", notices.as_raw_fd(), file.as_raw_fd());
    write(&group.join("cgroup.event_control"), text.trim_end())
}

const LIMIT: &str = "memory.limit_in_bytes";
const LIMIT_WITH_SWAP: &str = "memory.memsw.limit_in_bytes";

fn bytes_of(directory: &Path, file: &str) -> Result<Option<u64>, Error> {
    read(&directory.join(file)).map(|text| text.parse().ok())
}

/// "Unlimited" reads as the largest multiple of a page.
fn bounded(bytes: Option<u64>) -> Option<u64> {
    bytes.filter(|bytes| *bytes < 1 << 62)
}

/// Sets the limit of memory. That of memory and swap together, which must never be below it, moves along.
fn put_memory(directory: &Path, setting: &Setting) -> Result<(), Error> {
    let text = |bytes: Option<u64>| bytes.map_or_else(|| "-1".to_owned(), |bytes| bytes.to_string());
    let put = |file: &str, bytes: Option<u64>| write(&directory.join(file), &text(bytes));
    let new = if let Setting::Number(bytes) = setting { Some(*bytes) } else { None };
    let old = bounded(bytes_of(directory, LIMIT)?);
    // A kernel without accounting of swap has no such file.
    let both =
        if directory.join(LIMIT_WITH_SWAP).exists() { bounded(bytes_of(directory, LIMIT_WITH_SWAP)?) } else { None };
    let Some(swap) = both.zip(old).map(|(both, old)| both.saturating_sub(old)) else { return put(LIMIT, new) };
    let with_swap = new.map(|bytes| bytes.saturating_add(swap));
    if new.unwrap_or(u64::MAX) > old.unwrap_or(u64::MAX) {
        put(LIMIT_WITH_SWAP, with_swap)?;
        put(LIMIT, new)
    } else {
        put(LIMIT, new)?;
        put(LIMIT_WITH_SWAP, with_swap)
    }
}

fn put_swap(directory: &Path, setting: &Setting) -> Result<(), Error> {
    let path = directory.join(LIMIT_WITH_SWAP);
    let text = match (setting, bounded(bytes_of(directory, LIMIT)?)) {
        (Setting::Number(swap), Some(memory)) => memory.saturating_add(*swap).to_string(),
        // Without a limit of memory there is none of both; `plan` refuses that.
        _ => "-1".to_owned(),
    };
    write(&path, &text)
}

fn put_rates(directory: &Path, setting: &Setting) -> Result<(), Error> {
    let (disk, wanted) = match setting {
        Setting::Disk(disk, rates) => (Some(*disk), *rates),
        _ => (None, DiskRates::default()),
    };
    let wanted = [wanted.read_bytes, wanted.write_bytes, wanted.read_ops, wanted.write_ops];
    for (file, rate) in V1_RATES.iter().zip(wanted) {
        let path = directory.join(file);
        // Other disks, and this one where it is to have no rate, are let go: 0 takes a line away.
        for other in read(&path)?.lines().filter_map(rate_line).map(|(other, _)| other) {
            if Some(other) != disk || rate.is_none() {
                write(&path, &format!("{other} 0"))?;
            }
        }
        if let Some((disk, rate)) = disk.zip(rate) {
            write(&path, &format!("{disk} {rate}"))?;
        }
    }
    Ok(())
}

fn rates(directory: &Path) -> Result<Setting, Error> {
    let mut found = [None; 4];
    for (slot, file) in found.iter_mut().zip(V1_RATES) {
        *slot = read(&directory.join(file))?.lines().find_map(rate_line);
    }
    let Some(disk) = found.iter().flatten().next().map(|(disk, _)| *disk) else { return Ok(Setting::Unlimited) };
    let [read_bytes, write_bytes, read_ops, write_ops] = found.map(|line| line.map(|(_, rate)| rate));
    Ok(Setting::Disk(disk, DiskRates { read_bytes, write_bytes, read_ops, write_ops }))
}

/// A line like `254:0 1048576`.
fn rate_line(line: &str) -> Option<(BlockDevice, u64)> {
    let (disk, rate) = line.split_once(' ')?;
    Some((disk_number(disk)?, rate.trim().parse().ok()?))
}

/// The cgroup2 weight whose [`shares`] these are.
fn weight(shares: u64) -> u64 {
    (shares * 100).div_ceil(DEFAULT_SHARES).clamp(1, 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_weight_survives_the_way_through_shares() {
        for w in 1..=10_000 {
            assert_eq!(weight(shares(w)), w, "{w}");
        }
    }
}
