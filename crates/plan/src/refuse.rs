//! Limits that make no sense together, or that this host's kernel cannot keep.

use config::Invalid;
use model::{CgroupLayout, CpuAllowance, DiskRates, HostFacts, Knob, Limits, Memory, Swap};

use crate::settings::{ceiling, memory_bytes};

/// Refuses, with the reason, what is upside down and what this host does not have.
pub fn refuse_limits(limits: &Limits, facts: &HostFacts) -> Result<(), Invalid> {
    for (key, knob) in asked(limits) {
        if !facts.knobs.contains(&knob) {
            return Err(invalid(key, missing(knob, facts)));
        }
    }
    let needs_disk = limits.disk_rates != DiskRates::default() || limits.disk_latency_us.is_some();
    if needs_disk && facts.disk.is_none() {
        let reason =
            "the pool is on no disk that can be named: a network file system, memory, or several disks at once";
        return Err(invalid("limits.read, limits.write, limits.disk.latency", reason));
    }
    upside_down(limits, facts)?;
    let swaps_apart = matches!(limits.memory_swap, Some(Swap::Allowed(false) | Swap::Bytes(_)));
    if swaps_apart && ceiling(limits, facts).is_none() && matches!(facts.cgroups, CgroupLayout::Hybrid { .. }) {
        return Err(invalid(
            "limits.memory.swap",
            "cgroup v1 counts swap together with memory: set limits.memory as well",
        ));
    }
    if let Some(burst_us) = limits.cpu_burst_us {
        match limits.cpu_allowance {
            Some(CpuAllowance::Hard { quota_us, .. }) if burst_us <= quota_us => {}
            Some(CpuAllowance::Hard { quota_us, .. }) => {
                let reason = format!("must not be more than the {} ms of limits.cpu.allowance", quota_us / 1000);
                return Err(invalid("limits.cpu.burst", reason));
            }
            _ => {
                let reason = "needs a hard limits.cpu.allowance like 25ms/100ms, whose unused time it is";
                return Err(invalid("limits.cpu.burst", reason));
            }
        }
    }
    Ok(())
}

/// Knobs that somebody asked to turn, by key. Those that every supported host has are not among them.
fn asked(limits: &Limits) -> Vec<(&'static str, Knob)> {
    let rates = limits.disk_rates != DiskRates::default();
    let candidates = [
        ("limits.memory.min", Knob::MemoryMin, limits.memory_min.is_some()),
        ("limits.memory.low", Knob::MemoryLow, limits.memory_low.is_some()),
        ("limits.memory.high", Knob::MemoryHigh, limits.memory_high.is_some()),
        ("limits.memory.swap", Knob::MemorySwapMax, matches!(limits.memory_swap, Some(Swap::Bytes(_)))),
        ("limits.memory.zswap", Knob::MemoryZswapMax, limits.memory_zswap.is_some()),
        ("limits.memory.oom_group", Knob::MemoryOomGroup, limits.memory_oom_group),
        ("limits.cpu.burst", Knob::CpuMaxBurst, limits.cpu_burst_us.is_some()),
        ("limits.cpu.idle", Knob::CpuIdle, limits.cpu_idle),
        ("limits.cpu.uclamp.min", Knob::CpuUclampMin, limits.cpu_uclamp_min.is_some()),
        ("limits.cpu.uclamp.max", Knob::CpuUclampMax, limits.cpu_uclamp_max.is_some()),
        ("limits.read, limits.write, limits.max", Knob::IoMax, rates),
        ("limits.disk.priority", Knob::IoWeight, limits.disk_priority.is_some()),
        ("limits.disk.latency", Knob::IoLatency, limits.disk_latency_us.is_some()),
        ("limits.hugepages.64KB", Knob::Hugetlb64KBMax, limits.hugepages.contains_key(&Knob::Hugetlb64KBMax)),
        ("limits.hugepages.1MB", Knob::Hugetlb1MBMax, limits.hugepages.contains_key(&Knob::Hugetlb1MBMax)),
        ("limits.hugepages.2MB", Knob::Hugetlb2MBMax, limits.hugepages.contains_key(&Knob::Hugetlb2MBMax)),
        ("limits.hugepages.1GB", Knob::Hugetlb1GBMax, limits.hugepages.contains_key(&Knob::Hugetlb1GBMax)),
    ];
    candidates.into_iter().filter(|(_, _, wanted)| *wanted).map(|(key, knob, _)| (key, knob)).collect()
}

/// Why a knob is not to be had, as far as the kernel's own options tell.
fn missing(knob: Knob, facts: &HostFacts) -> String {
    let option = match knob {
        Knob::MemoryZswapMax => "CONFIG_ZSWAP",
        Knob::CpuMaxBurst => "CONFIG_CFS_BANDWIDTH",
        Knob::CpuUclampMin | Knob::CpuUclampMax => "CONFIG_UCLAMP_TASK_GROUP",
        Knob::IoMax => "CONFIG_BLK_DEV_THROTTLING",
        Knob::IoWeight => "CONFIG_BFQ_GROUP_IOSCHED or CONFIG_BLK_CGROUP_IOCOST",
        Knob::IoLatency => "CONFIG_BLK_CGROUP_IOLATENCY",
        Knob::Hugetlb64KBMax | Knob::Hugetlb1MBMax | Knob::Hugetlb2MBMax | Knob::Hugetlb1GBMax => {
            return format!(
                "this machine has no huge pages of that size, or its kernel no control of them ({})",
                knob.file()
            );
        }
        _ => "the memory and cpu controllers",
    };
    match facts.cgroups {
        CgroupLayout::Hybrid { .. } => format!(
            "this kernel cannot: it has no {}, which cgroup v1 never had or which takes {option} (boot with systemd.unified_cgroup_hierarchy=1 for cgroup v2)",
            knob.file()
        ),
        CgroupLayout::Unified { .. } => format!("this kernel cannot: it has no {}, which takes {option}", knob.file()),
    }
}

/// Floors below ceilings, each of which is given.
fn upside_down(limits: &Limits, facts: &HostFacts) -> Result<(), Invalid> {
    let bytes = |memory: Option<Memory>| memory.map(|memory| memory_bytes(memory, facts));
    let ladder = [
        ("limits.memory.min", bytes(limits.memory_min)),
        ("limits.memory.low", bytes(limits.memory_low)),
        ("limits.memory.high", bytes(limits.memory_high)),
        ("limits.memory", ceiling(limits, facts)),
    ];
    let given: Vec<_> = ladder.into_iter().filter_map(|(key, bytes)| Some((key, bytes?))).collect();
    for pair in given.windows(2) {
        let [(low_key, low), (high_key, high)] = pair else { continue };
        if low > high {
            return Err(invalid(
                low_key,
                format!("{low} bytes are more than the {high} of {high_key}: the range is upside down"),
            ));
        }
    }
    match (limits.cpu_uclamp_min, limits.cpu_uclamp_max) {
        (Some(min), Some(max)) if min > max => {
            Err(invalid("limits.cpu.uclamp.min", "is more than limits.cpu.uclamp.max: the range is upside down"))
        }
        _ => Ok(()),
    }
}

fn invalid(key: &str, reason: impl Into<String>) -> Invalid {
    Invalid { key: key.into(), value: String::new(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use model::{Bytes, V1Hierarchy};

    use super::*;
    use crate::settings::tests::facts;

    fn refused(limits: Limits, facts: &HostFacts) -> String {
        refuse_limits(&limits, facts).expect_err("refused").to_string()
    }

    #[test]
    fn ranges_that_are_upside_down_are_refused_by_name() {
        let mib = |n: u64| Some(Memory::Bytes(Bytes(n << 20)));
        for (limits, keys) in [
            (
                Limits { memory: mib(10), memory_min: mib(20), ..Limits::default() },
                ["limits.memory.min", "limits.memory:"],
            ),
            (
                Limits { memory_high: mib(10), memory_low: mib(20), ..Limits::default() },
                ["limits.memory.low", "limits.memory.high"],
            ),
            (
                Limits { memory: mib(10), memory_high: mib(11), ..Limits::default() },
                ["limits.memory.high", "limits.memory:"],
            ),
            (
                Limits { cpu_uclamp_min: Some(2), cpu_uclamp_max: Some(1), ..Limits::default() },
                ["limits.cpu.uclamp.min", "limits.cpu.uclamp.max"],
            ),
            (Limits { cpu_burst_us: Some(1000), ..Limits::default() }, ["limits.cpu.burst", "limits.cpu.allowance"]),
        ] {
            let text = refused(limits, &facts());
            assert!(keys.iter().all(|key| text.contains(key)), "{text}");
        }
        let hard = Some(CpuAllowance::Hard { quota_us: 20_000, period_us: 100_000 });
        let text = refused(Limits { cpu_allowance: hard, cpu_burst_us: Some(30_000), ..Limits::default() }, &facts());
        assert!(text.contains("20 ms"), "{text}");
        let fine = Limits { cpu_allowance: hard, cpu_burst_us: Some(20_000), memory_min: mib(5), ..Limits::default() };
        assert_eq!(refuse_limits(&fine, &facts()), Ok(()));
    }

    #[test]
    fn what_the_kernel_does_not_have_is_refused_with_the_reason() {
        let less =
            |knob: Knob| HostFacts { knobs: facts().knobs.into_iter().filter(|k| *k != knob).collect(), ..facts() };
        let limits = Limits { cpu_uclamp_max: Some(5000), ..Limits::default() };
        let text = refused(limits.clone(), &less(Knob::CpuUclampMax));
        assert!(text.contains("limits.cpu.uclamp.max") && text.contains("CONFIG_UCLAMP_TASK_GROUP"), "{text}");
        assert_eq!(refuse_limits(&limits, &facts()), Ok(()));
        let v1 = vec![V1Hierarchy { root: "/sys/fs/cgroup/memory".into(), controllers: vec!["memory".into()] }];
        let hybrid = HostFacts { cgroups: CgroupLayout::Hybrid { root: String::new(), v1 }, ..less(Knob::MemoryLow) };
        let low = Limits { memory_low: Some(Memory::Percent(1)), ..Limits::default() };
        assert!(refused(low, &hybrid).contains("cgroup v1"));
        let rates = DiskRates { read_bytes: Some(1), ..DiskRates::default() };
        let text = refused(Limits { disk_rates: rates, ..Limits::default() }, &HostFacts { disk: None, ..facts() });
        assert!(text.contains("no disk"), "{text}");
    }
}
