//! What processes take of the host: `/proc`.

use std::fs;
use std::path::Path;

use crate::{Result, act};

/// A thread's stack in the kernel (x86-64, arm64).
const KERNEL_STACK_KB: u64 = 16;

/// One process, in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) pss: u64,
    pub(crate) page_tables: u64,
    pub(crate) stacks: u64,
    pub(crate) fds: u64,
}

impl Memory {
    /// Reads it.
    pub(crate) fn of(pid: u32) -> Result<Memory> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            fs::read_to_string(&path).map_err(act(&path))
        };
        let status = read("status")?;
        let entries = |name: &str| fs::read_dir(format!("/proc/{pid}/{name}")).map_or(0, |list| list.count() as u64);
        Ok(Memory {
            pss: field(&read("smaps_rollup")?, "Pss:"),
            page_tables: field(&status, "VmPTE:"),
            stacks: field(&status, "Threads:") * KERNEL_STACK_KB,
            fds: entries("fd"),
        })
    }

    /// Everything but descriptors.
    pub(crate) fn total(&self) -> u64 {
        self.pss + self.page_tables + self.stacks
    }
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// The number of a process's parent.
pub(crate) fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    u32::try_from(field(&status, "PPid:")).ok().filter(|parent| *parent > 1)
}

/// Processor time of a process so far, in milliseconds.
pub(crate) fn cpu_ms(pid: u32) -> f64 {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        sum += text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
    }
    sum as f64 / 1e6
}

/// The spawn process of a runtime directory and its children that wait for a guest.
pub(crate) fn spawn_and_spare(runtime: &Path) -> Vec<u32> {
    let socket = runtime.join("spawn.socket").display().to_string();
    let all: Vec<(u32, String)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, fs::read_to_string(entry.path().join("cmdline")).ok()?.replace('\0', " ")))
        })
        .collect();
    let spawn: Vec<u32> = all
        .iter()
        .filter(|(_, words)| words.contains(" spawn ") && words.contains(&socket))
        .map(|(pid, _)| *pid)
        .collect();
    let children = |pid: u32| {
        let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        list.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()).collect::<Vec<_>>()
    };
    // A keeper that has a guest has a child.
    let spare = spawn.iter().flat_map(|pid| children(*pid)).filter(|pid| children(*pid).is_empty());
    let spare: Vec<u32> = spare.collect();
    [spawn, spare].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process_takes_something() {
        let own = Memory::of(std::process::id()).expect("our own");
        assert!(own.pss > 0 && own.page_tables > 0 && own.stacks >= KERNEL_STACK_KB && own.fds > 2, "{own:?}");
    }
}
