//! Controllers in v1 hierarchies beside a cgroup2 tree that has none: limits are files of a group of the same name in each.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use model::{Knob, Setting, V1Hierarchy};

use super::{Controllers, Error, GroupUsage, failed, make_dir, number, read, remove_dir, subdirectories, write};

#[derive(Debug)]
pub(super) struct Hybrid {
    hierarchies: Vec<Hierarchy>,
}

#[derive(Debug)]
struct Hierarchy {
    base: PathBuf,
    controllers: Vec<String>,
}

/// `cpu.shares` of a group with cgroup2's default weight of 100.
const DEFAULT_SHARES: u64 = 1024;

impl Hybrid {
    pub(super) fn new(v1: &[V1Hierarchy], base: &str) -> Hybrid {
        let hierarchies = v1
            .iter()
            .map(|h| Hierarchy { base: Path::new(&h.root).join(base), controllers: h.controllers.clone() })
            .collect();
        Hybrid { hierarchies }
    }

    fn with(&self, controller: &str) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|h| h.controllers.iter().any(|c| c == controller))
    }

    fn directory(&self, group: &str, knob: Knob) -> Result<PathBuf, Error> {
        let missing = || Error {
            act: "find the controller",
            path: knob.controller().to_owned(),
            source: io::ErrorKind::NotFound.into(),
        };
        self.with(knob.controller()).map(|h| h.base.join(group)).ok_or_else(missing)
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

fn make(hierarchy: &Hierarchy, directory: &Path) -> Result<(), Error> {
    make_dir(directory)?;
    if hierarchy.controllers.iter().any(|c| c == "cpuset") { inherit_cpuset(directory) } else { Ok(()) }
}

impl Controllers for Hybrid {
    fn prepare(&self) -> Result<(), Error> {
        for hierarchy in &self.hierarchies {
            if let Some(parent) = hierarchy.base.parent() {
                fs::create_dir_all(parent).map_err(failed("mkdir", parent))?;
            }
            make(hierarchy, &hierarchy.base)?;
        }
        Ok(())
    }

    fn create(&self, group: &str) -> Result<(), Error> {
        self.hierarchies.iter().try_for_each(|h| make(h, &h.base.join(group)))
    }

    fn remove(&self, group: &str) -> Result<(), Error> {
        // Every hierarchy is tried, so that one failure leaves as little as possible.
        let failures: Vec<Error> =
            self.hierarchies.iter().filter_map(|h| remove_dir(&h.base.join(group)).err()).collect();
        failures.into_iter().next().map_or(Ok(()), Err)
    }

    fn knobs(&self) -> BTreeSet<Knob> {
        // v1 has neither a soft ceiling nor a limit of swap alone.
        let known = [Knob::MemoryMax, Knob::CpuMax, Knob::CpuWeight, Knob::CpusetCpus, Knob::PidsMax];
        known.into_iter().filter(|knob| self.with(knob.controller()).is_some()).collect()
    }

    fn write(&self, group: &str, knob: Knob, setting: &Setting) -> Result<PathBuf, Error> {
        let directory = self.directory(group, knob)?;
        let put = |file: &str, text: &str| write(&directory.join(file), text).map(|()| directory.join(file));
        match (knob, setting) {
            (Knob::MemoryMax, Setting::Number(bytes)) => put("memory.limit_in_bytes", &bytes.to_string()),
            (Knob::MemoryMax, _) => put("memory.limit_in_bytes", "-1"),
            (Knob::CpuMax, Setting::Quota(quota, period)) => {
                put("cpu.cfs_period_us", &period.to_string())?;
                put("cpu.cfs_quota_us", &quota.to_string())
            }
            (Knob::CpuMax, _) => put("cpu.cfs_quota_us", "-1"),
            (Knob::CpuWeight, Setting::Number(weight)) => put("cpu.shares", &shares(*weight).to_string()),
            (Knob::CpuWeight, _) => put("cpu.shares", &DEFAULT_SHARES.to_string()),
            (Knob::CpusetCpus, Setting::Cpus(ids)) if !ids.is_empty() => put("cpuset.cpus", &setting.to_string()),
            (Knob::CpusetCpus, _) => {
                let all = read(&directory.join("../cpuset.cpus"))?;
                put("cpuset.cpus", &all)
            }
            (_, setting) => put("pids.max", &setting.to_string()),
        }
    }

    fn read(&self, group: &str, knob: Knob) -> Result<Setting, Error> {
        let directory = self.directory(group, knob)?;
        let number = |file: &str| read(&directory.join(file)).map(|text| text.parse::<u64>().ok());
        let or_unlimited = |value: Option<u64>| value.map_or(Setting::Unlimited, Setting::Number);
        Ok(match knob {
            // "Unlimited" reads as the largest multiple of the page size.
            Knob::MemoryMax => or_unlimited(number("memory.limit_in_bytes")?.filter(|bytes| *bytes < 1 << 62)),
            Knob::CpuMax => match (number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?) {
                (Some(quota), Some(period)) => Setting::Quota(quota, period),
                _ => Setting::Unlimited,
            },
            Knob::CpuWeight => Setting::Number(weight(number("cpu.shares")?.unwrap_or(DEFAULT_SHARES))),
            Knob::CpusetCpus => {
                let (own, parent) = (read(&directory.join("cpuset.cpus"))?, read(&directory.join("../cpuset.cpus"))?);
                let ids = if own == parent { None } else { model::limits::parse_cpu_list(&own) };
                Setting::Cpus(ids.unwrap_or_default())
            }
            _ => or_unlimited(number("pids.max")?),
        })
    }

    fn usage(&self, group: &str) -> GroupUsage {
        let file =
            |controller: &str, name: &str| self.with(controller).map_or(0, |h| number(&h.base.join(group).join(name)));
        GroupUsage {
            cpu_ns: file("cpuacct", "cpuacct.usage"),
            memory_bytes: file("memory", "memory.usage_in_bytes"),
            memory_peak_bytes: file("memory", "memory.max_usage_in_bytes"),
            swap_bytes: 0,
            processes: file("pids", "pids.current"),
        }
    }

    fn extra_groups(&self, group: &str) -> Vec<PathBuf> {
        self.hierarchies.iter().map(|h| h.base.join(group)).collect()
    }

    fn extra_names(&self) -> BTreeSet<String> {
        self.hierarchies.iter().filter_map(|h| subdirectories(&h.base).ok()).flatten().collect()
    }
}

/// `cpu.shares` for a cgroup2 weight; both count from 1 and are linear.
fn shares(weight: u64) -> u64 {
    (weight * DEFAULT_SHARES / 100).max(2)
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
