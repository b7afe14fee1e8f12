//! Limits that make no sense together, or that this host's kernel cannot keep.

use config::Invalid;
use model::{
    Bounded, CgroupLayout, CpuAllowance, CpuSelection, DeviceName, DevicePolicy, DiskRates, HostFacts, Knob,
    LimitAction, Limits, Memory, NicLimits, Partition, Rdma, Swap, V1Hierarchy,
};

use crate::devices;
use crate::scale::NO_PRESSURE;
use crate::settings::{ceiling, memory_bytes, slows_down};

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
    devices::refuse(limits, facts)?;
    refuse_actions(limits, facts)?;
    refuse_partition(limits, facts)?;
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

/// Refuses limits of a NIC that this host's kernel cannot keep.
pub fn refuse_nic_limits(device: &DeviceName, limits: NicLimits, facts: &HostFacts) -> Result<(), Invalid> {
    if facts.link_limits || limits == NicLimits::default() {
        return Ok(());
    }
    let reason = "this kernel cannot: it takes CONFIG_NET_SCH_INGRESS (clsact), CONFIG_NET_CLS_BPF, and that the daemon may load \
                  programs (CAP_BPF)";
    Err(invalid(&format!("{device}.limits.ingress, .egress, .max, .priority"), reason))
}

/// Knobs that somebody asked to turn, by key. Those that every supported host has are not among them.
fn asked(limits: &Limits) -> Vec<(&'static str, Knob)> {
    let rates = limits.disk_rates != DiskRates::default();
    let devices = limits.device_policy != DevicePolicy::Default || !limits.device_rules.is_empty();
    let candidates = [
        ("limits.memory.min", Knob::MemoryMin, limits.memory_min.is_some()),
        ("limits.memory.low", Knob::MemoryLow, limits.memory_low.is_some()),
        ("limits.memory.high", Knob::MemoryHigh, limits.memory_high.is_some()),
        ("limits.memory.swap", Knob::MemorySwapMax, matches!(limits.memory_swap, Some(Swap::Bytes(_)))),
        ("limits.memory.zswap", Knob::MemoryZswapMax, limits.memory_zswap.is_some()),
        ("limits.memory.oom_group", Knob::MemoryOomGroup, limits.memory_oom_group),
        ("limits.cpu.burst", Knob::CpuMaxBurst, limits.cpu_burst_us.is_some()),
        ("limits.cpu.idle", Knob::CpuIdle, limits.cpu_idle),
        ("limits.cpu.partition", Knob::CpusetPartition, limits.cpu_partition != Partition::Member),
        ("limits.rdma.handles, limits.rdma.objects", Knob::RdmaMax, limits.rdma != Rdma::default()),
        ("limits.misc.*", Knob::MiscMax, !limits.misc.is_empty()),
        ("limits.cpu.uclamp.min", Knob::CpuUclampMin, limits.cpu_uclamp_min.is_some()),
        ("limits.cpu.uclamp.max", Knob::CpuUclampMax, limits.cpu_uclamp_max.is_some()),
        ("limits.read, limits.write, limits.max", Knob::IoMax, rates),
        ("limits.disk.priority", Knob::IoWeight, limits.disk_priority.is_some()),
        ("limits.disk.latency", Knob::IoLatency, limits.disk_latency_us.is_some()),
        ("limits.hugepages.64KB", Knob::Hugetlb64KBMax, limits.hugepages.contains_key(&Knob::Hugetlb64KBMax)),
        ("limits.hugepages.1MB", Knob::Hugetlb1MBMax, limits.hugepages.contains_key(&Knob::Hugetlb1MBMax)),
        ("limits.hugepages.2MB", Knob::Hugetlb2MBMax, limits.hugepages.contains_key(&Knob::Hugetlb2MBMax)),
        ("limits.hugepages.1GB", Knob::Hugetlb1GBMax, limits.hugepages.contains_key(&Knob::Hugetlb1GBMax)),
        ("limits.network.ingress", Knob::NetworkIngress, limits.network_ingress_bytes.is_some()),
        ("limits.network.egress", Knob::NetworkEgress, limits.network_egress_bytes.is_some()),
        ("devices.policy, devices.rules", Knob::Devices, devices),
    ];
    candidates.into_iter().filter(|(_, _, wanted)| *wanted).map(|(key, knob, _)| (key, knob)).collect()
}

/// Why a knob is not to be had, as far as the kernel's own options tell.
fn missing(knob: Knob, facts: &HostFacts) -> String {
    let option = match knob {
        Knob::MemoryZswapMax => "CONFIG_ZSWAP",
        Knob::CpuMaxBurst => "CONFIG_CFS_BANDWIDTH",
        Knob::CpuUclampMin | Knob::CpuUclampMax => "CONFIG_UCLAMP_TASK_GROUP",
        Knob::CpusetPartition => {
            "Linux 6.7, the cpuset controller, and CAP_SYS_ADMIN, which the daemon does without under systemd"
        }
        Knob::RdmaMax => "CONFIG_CGROUP_RDMA and an RDMA device",
        Knob::MiscMax => "CONFIG_CGROUP_MISC and something that it counts",
        Knob::IoMax => "CONFIG_BLK_DEV_THROTTLING",
        Knob::IoWeight => "CONFIG_BFQ_GROUP_IOSCHED or CONFIG_BLK_CGROUP_IOCOST",
        Knob::IoLatency => "CONFIG_BLK_CGROUP_IOLATENCY",
        Knob::Hugetlb64KBMax | Knob::Hugetlb1MBMax | Knob::Hugetlb2MBMax | Knob::Hugetlb1GBMax => {
            return format!(
                "this machine has no huge pages of that size, or its kernel no control of them ({})",
                knob.file()
            );
        }
        Knob::NetworkIngress | Knob::NetworkEgress => {
            return "this kernel cannot: it takes CONFIG_CGROUP_BPF, and that the daemon may load programs (CAP_BPF)"
                .to_owned();
        }
        Knob::Devices => {
            return "this kernel cannot: it takes the devices controller of cgroup v1, unrestricted, or CONFIG_CGROUP_BPF and that \
                    the daemon may load programs (CAP_BPF)"
                .to_owned();
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

/// What is to happen at a limit takes somebody who tells that it was met.
fn refuse_actions(limits: &Limits, facts: &HostFacts) -> Result<(), Invalid> {
    if limits.actions.memory == LimitAction::Throttle && !slows_down(facts) {
        let reason = "throttle is not to be had: this host's memory is controlled by cgroup v1, which slows nobody down (it has no \
                      memory.high): event, freeze or kill, or boot with systemd.unified_cgroup_hierarchy=1";
        return Err(invalid(Bounded::Memory.key(), reason));
    }
    let v1: &[V1Hierarchy] = match &facts.cgroups {
        CgroupLayout::Hybrid { v1, .. } => v1,
        CgroupLayout::Unified { .. } => &[],
    };
    let is_v1 = v1.iter().any(|hierarchy| hierarchy.controllers.iter().any(|controller| controller == "pids"));
    if limits.actions.pids.is_ours() && is_v1 {
        let reason = "only event is to be had: this host's processes are controlled by cgroup v1, where the kernel tells nobody that a \
                      process was not made (its pids.events has no notice since Linux 6.11); boot with \
                      systemd.unified_cgroup_hierarchy=1";
        return Err(invalid(Bounded::Pids.key(), reason));
    }
    if !limits.actions.cpu.is_ours() {
        return Ok(());
    }
    if !facts.pressure {
        return Err(invalid(Bounded::Cpu.key(), NO_PRESSURE));
    }
    if !matches!(limits.cpu_allowance, Some(CpuAllowance::Hard { .. })) {
        return Err(invalid(
            Bounded::Cpu.key(),
            "needs a hard limits.cpu.allowance like 25ms/100ms, which can be used up",
        ));
    }
    Ok(())
}

/// A partition is of CPUs that are named or counted, and leaves others some.
fn refuse_partition(limits: &Limits, facts: &HostFacts) -> Result<(), Invalid> {
    if limits.cpu_partition == Partition::Member {
        return Ok(());
    }
    let cpus = match &limits.cpu {
        Some(CpuSelection::Count(count)) => *count as usize,
        Some(CpuSelection::Set(ids)) => ids.len(),
        None => 0,
    };
    if cpus == 0 {
        return Err(invalid("limits.cpu.partition", "needs limits.cpu: how many CPUs are its alone, or which"));
    }
    if cpus >= facts.cpus.len() {
        let reason = format!("takes all {} CPUs of the host, and leaves none for anybody else", facts.cpus.len());
        return Err(invalid("limits.cpu.partition", reason));
    }
    Ok(())
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
    use model::{Bytes, LimitActions};

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
    fn actions_that_nothing_would_call_for_are_refused() {
        let unified = facts();
        let hierarchy = |name: &str| V1Hierarchy { root: format!("/cgroup/{name}"), controllers: vec![name.into()] };
        let v1 = vec![hierarchy("memory"), hierarchy("pids")];
        let hybrid = HostFacts { cgroups: CgroupLayout::Hybrid { root: String::new(), v1 }, ..facts() };
        let of = |cpu, memory, pids| Limits { actions: LimitActions { cpu, memory, pids }, ..Limits::default() };
        let (event, throttle, kill) = (LimitAction::Event, LimitAction::Throttle, LimitAction::Kill);
        assert!(refused(of(event, throttle, event), &hybrid).contains("memory.high"));
        assert_eq!(refuse_limits(&of(throttle, throttle, kill), &unified), Ok(()));
        assert_eq!(refuse_limits(&of(event, kill, event), &hybrid), Ok(()));
        assert!(refused(of(event, event, kill), &hybrid).contains("pids.events"));
        assert!(refused(of(kill, event, event), &unified).contains("limits.cpu.allowance"));
        let hard = Some(CpuAllowance::Hard { quota_us: 20_000, period_us: 100_000 });
        let held = Limits { cpu_allowance: hard, ..of(kill, event, event) };
        assert_eq!(refuse_limits(&held, &unified), Ok(()));
        assert!(refused(held, &HostFacts { pressure: false, ..facts() }).contains("psi=1"));
    }

    #[test]
    fn limits_of_nics_are_refused_where_links_keep_none() {
        let eth0: DeviceName = "eth0".parse().expect("name");
        let poor = HostFacts { link_limits: false, ..facts() };
        for limits in [
            NicLimits { ingress_bytes: Some(1000), ..NicLimits::default() },
            NicLimits { egress_bytes: Some(1000), ..NicLimits::default() },
            NicLimits { priority: Some(1), ..NicLimits::default() },
        ] {
            let text = refuse_nic_limits(&eth0, limits, &poor).expect_err("refused").to_string();
            assert!(text.contains("eth0.limits") && text.contains("clsact"), "{text}");
            assert_eq!(refuse_nic_limits(&eth0, limits, &facts()), Ok(()));
        }
        assert_eq!(refuse_nic_limits(&eth0, NicLimits::default(), &poor), Ok(()));
    }

    #[test]
    fn a_partition_is_of_some_cpus_and_not_of_all() {
        let limits = |cpu| Limits { cpu, cpu_partition: Partition::Root, ..Limits::default() };
        assert!(refused(limits(None), &facts()).contains("needs limits.cpu"));
        assert!(refused(limits(Some(CpuSelection::Count(4))), &facts()).contains("all 4 CPUs"));
        assert_eq!(refuse_limits(&limits(Some(CpuSelection::Set(vec![1, 2]))), &facts()), Ok(()));
        for (key, knob, limits) in [
            ("limits.cpu.partition", Knob::CpusetPartition, limits(Some(CpuSelection::Count(1)))),
            (
                "limits.rdma",
                Knob::RdmaMax,
                Limits { rdma: Rdma { handles: Some(1), objects: None }, ..Limits::default() },
            ),
            ("limits.misc", Knob::MiscMax, Limits { misc: [("sev".to_owned(), 1)].into(), ..Limits::default() }),
        ] {
            let less = HostFacts { knobs: facts().knobs.into_iter().filter(|k| *k != knob).collect(), ..facts() };
            let text = refused(limits, &less);
            assert!(text.contains(key) && text.contains("this kernel cannot"), "{text}");
        }
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
