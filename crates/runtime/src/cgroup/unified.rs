//! Controllers in cgroup2: limits are files of the boot's own group.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use model::{Knob, Setting};

use super::{Controllers, Error, GroupUsage, number, read, write};

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

fn file(knob: Knob) -> &'static str {
    match knob {
        Knob::MemoryHigh => "memory.high",
        Knob::MemoryMax => "memory.max",
        Knob::MemorySwapMax => "memory.swap.max",
        Knob::CpuMax => "cpu.max",
        Knob::CpuWeight => "cpu.weight",
        Knob::CpusetCpus => "cpuset.cpus",
        Knob::PidsMax => "pids.max",
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

    fn create(&self, group: &str) -> Result<(), Error> {
        Self::enable(&self.base.join(group))
    }

    fn remove(&self, _group: &str) -> Result<(), Error> {
        Ok(())
    }

    fn knobs(&self) -> BTreeSet<Knob> {
        let controllers = read(&self.base.join("cgroup.subtree_control")).unwrap_or_default();
        let has = |knob: &Knob| controllers.split_whitespace().any(|c| c == knob.controller());
        Knob::ALL.into_iter().filter(has).collect()
    }

    fn write(&self, group: &str, knob: Knob, setting: &Setting) -> Result<PathBuf, Error> {
        let path = self.base.join(group).join(file(knob));
        let text = match (knob, setting) {
            (Knob::CpuMax, Setting::Unlimited) => "max 100000".to_owned(),
            // An empty list must still be a line, or nothing is written at all.
            (_, Setting::Cpus(ids)) if ids.is_empty() => "\n".to_owned(),
            (_, setting) => setting.to_string(),
        };
        write(&path, &text)?;
        Ok(path)
    }

    fn read(&self, group: &str, knob: Knob) -> Result<Setting, Error> {
        let text = read(&self.base.join(group).join(file(knob)))?;
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

    fn extra_groups(&self, _group: &str) -> Vec<PathBuf> {
        Vec::new()
    }

    fn extra_names(&self) -> BTreeSet<String> {
        BTreeSet::new()
    }
}

/// Reads a knob's value as cgroup2 prints it.
fn parse(knob: Knob, text: &str) -> Setting {
    let number = |text: &str| text.parse().ok();
    match knob {
        Knob::CpusetCpus => Setting::Cpus(model::limits::parse_cpu_list(text).unwrap_or_default()),
        Knob::CpuMax => match text.split_once(' ').map(|(quota, period)| (number(quota), number(period))) {
            Some((Some(quota), Some(period))) => Setting::Quota(quota, period),
            _ => Setting::Unlimited,
        },
        _ => number(text).map_or(Setting::Unlimited, Setting::Number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_the_kernel_prints_them() {
        assert_eq!(parse(Knob::MemoryMax, "max"), Setting::Unlimited);
        assert_eq!(parse(Knob::MemoryMax, "4096"), Setting::Number(4096));
        assert_eq!(parse(Knob::CpuMax, "max 100000"), Setting::Unlimited);
        assert_eq!(parse(Knob::CpuMax, "25000 100000"), Setting::Quota(25000, 100_000));
        assert_eq!(parse(Knob::CpusetCpus, "0-1"), Setting::Cpus(vec![0, 1]));
        assert_eq!(parse(Knob::CpusetCpus, ""), Setting::Cpus(vec![]));
    }
}
