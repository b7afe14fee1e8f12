//! From limits as users ask for them to what each knob is set to.

use model::{
    CgroupLayout, CpuAllowance, CpuSelection, DiskRates, HostFacts, InstanceId, Knob, Limits, Memory, Rdma, Setting,
    Settings, Swap,
};

use crate::devices;

/// Most processes and threads when nothing else is said: enough for a busy server, and no fork bomb takes the host's table.
const DEFAULT_PROCESSES: u64 = 16_384;

/// Memory that guests without a limit leave to the host.
const HOST_RESERVE: u64 = 1 << 30;

/// `cpu.weight` of a group for which nothing is said.
const DEFAULT_WEIGHT: u64 = 100;

/// A setting for each knob that the host has and that means something.
pub fn settings(limits: &Limits, id: InstanceId, facts: &HostFacts) -> Settings {
    // A group that runs only when nobody else wants to has no weight.
    let weightless = limits.cpu_idle && facts.knobs.contains(&Knob::CpuIdle);
    let knobs = facts.knobs.iter().filter(|knob| !(weightless && **knob == Knob::CpuWeight));
    knobs.map(|knob| (*knob, setting(*knob, limits, id, facts))).collect()
}

fn setting(knob: Knob, limits: &Limits, id: InstanceId, facts: &HostFacts) -> Setting {
    // Where the soft ceiling does not slow anybody down the hard one must do.
    let soft = limits.memory_soft && slows_down(facts);
    let bytes = |bytes: Option<u64>| bytes.map_or(Setting::Unlimited, |n| Setting::Number(whole_pages(n)));
    let floor = |memory: Option<Memory>| Setting::Number(whole_pages(memory.map_or(0, |m| memory_bytes(m, facts))));
    let hundredths = |share: Option<u32>| share.map(|n| Setting::Number(n.into()));
    match knob {
        Knob::MemoryMin => floor(limits.memory_min),
        Knob::MemoryLow => floor(limits.memory_low),
        Knob::MemoryMax if soft => Setting::Unlimited,
        Knob::MemoryMax => bytes(ceiling(limits, facts)),
        Knob::MemoryHigh => match limits.memory_high {
            Some(high) => bytes(Some(memory_bytes(high, facts))),
            None if soft => bytes(ceiling(limits, facts)),
            None => Setting::Unlimited,
        },
        Knob::MemorySwapMax => match limits.memory_swap {
            Some(Swap::Allowed(false)) => Setting::Number(0),
            Some(Swap::Bytes(size)) => bytes(Some(size.0)),
            Some(Swap::Allowed(true)) | None => Setting::Unlimited,
        },
        Knob::MemoryZswapMax => bytes(limits.memory_zswap.map(|size| size.0)),
        Knob::MemoryOomGroup => Setting::Number(limits.memory_oom_group.into()),
        Knob::CpuMax => match limits.cpu_allowance {
            Some(CpuAllowance::Hard { quota_us, period_us }) => Setting::Quota(quota_us, period_us),
            Some(CpuAllowance::Soft(_)) | None => Setting::Unlimited,
        },
        Knob::CpuMaxBurst => Setting::Number(limits.cpu_burst_us.unwrap_or(0)),
        Knob::CpuIdle => Setting::Number(limits.cpu_idle.into()),
        Knob::CpuWeight => Setting::Number(weight(limits)),
        Knob::CpuUclampMin => hundredths(limits.cpu_uclamp_min).unwrap_or(Setting::Number(0)),
        // The kernel says "max" for all of it.
        Knob::CpuUclampMax => hundredths(limits.cpu_uclamp_max.filter(|n| *n < 10_000)).unwrap_or(Setting::Unlimited),
        Knob::CpusetCpus => Setting::Cpus(cpus(limits, id, facts)),
        Knob::CpusetPartition => Setting::Partition(limits.cpu_partition),
        Knob::PidsMax => Setting::Number(limits.processes.unwrap_or(DEFAULT_PROCESSES)),
        Knob::IoMax => match facts.disk {
            Some(disk) if limits.disk_rates != DiskRates::default() => Setting::Disk(disk, limits.disk_rates),
            _ => Setting::Unlimited,
        },
        // 5, the middle, is the weight of everything else on the host.
        Knob::IoWeight => Setting::Number(limits.disk_priority.map_or(100, |p| (u64::from(p) * 20).max(10))),
        Knob::IoLatency => match (facts.disk, limits.disk_latency_us) {
            (Some(disk), Some(us)) => Setting::Latency(disk, us),
            _ => Setting::Unlimited,
        },
        Knob::Hugetlb64KBMax | Knob::Hugetlb1MBMax | Knob::Hugetlb2MBMax | Knob::Hugetlb1GBMax => {
            let page = knob.huge_page_bytes().unwrap_or(1);
            limits.hugepages.get(&knob).map_or(Setting::Unlimited, |size| Setting::Number(size.0 / page * page))
        }
        Knob::RdmaMax if limits.rdma == Rdma::default() => Setting::Unlimited,
        Knob::RdmaMax => Setting::Rdma(limits.rdma),
        Knob::MiscMax if limits.misc.is_empty() => Setting::Unlimited,
        Knob::MiscMax => Setting::Misc(limits.misc.clone()),
        Knob::NetworkIngress => limits.network_ingress_bytes.map_or(Setting::Unlimited, Setting::Number),
        Knob::NetworkEgress => limits.network_egress_bytes.map_or(Setting::Unlimited, Setting::Number),
        Knob::Devices => devices::usable(limits, facts).map_or(Setting::Unlimited, Setting::Devices),
    }
}

/// Whether the host's soft ceiling of memory slows a guest down: that of cgroup v1 only says whose memory goes first.
pub(crate) fn slows_down(facts: &HostFacts) -> bool {
    facts.knobs.contains(&Knob::MemoryHigh) && matches!(facts.cgroups, CgroupLayout::Unified { .. })
}

/// Kernels count memory in pages, so what is written is what is read back.
fn whole_pages(bytes: u64) -> u64 {
    bytes / 4096 * 4096
}

/// An amount of memory on this host.
pub(crate) fn memory_bytes(memory: Memory, facts: &HostFacts) -> u64 {
    match memory {
        Memory::Bytes(bytes) => bytes.0,
        Memory::Percent(percent) => facts.memory_bytes / 100 * u64::from(percent),
    }
}

/// Most memory that a guest may use; `None` for no limit.
pub(crate) fn ceiling(limits: &Limits, facts: &HostFacts) -> Option<u64> {
    match limits.memory {
        Some(memory) => Some(memory_bytes(memory, facts)),
        // A hog is stopped by its own limit before the host is in need. Small hosts have nothing to reserve from.
        None => (facts.memory_bytes > 2 * HOST_RESERVE).then(|| facts.memory_bytes - HOST_RESERVE),
    }
}

/// A share of 100% is the default weight; a lower priority takes one from it per step, so that it decides between equals.
fn weight(limits: &Limits) -> u64 {
    let share = match limits.cpu_allowance {
        Some(CpuAllowance::Soft(percent)) => u64::from(percent),
        Some(CpuAllowance::Hard { .. }) | None => DEFAULT_WEIGHT,
    };
    let below = 10 - u64::from(limits.cpu_priority.unwrap_or(10).min(10));
    share.saturating_sub(below).clamp(1, 10_000)
}

/// A number of CPUs starts at a place that depends on the instance, so that small instances do not all share the first CPU.
fn cpus(limits: &Limits, id: InstanceId, facts: &HostFacts) -> Vec<u32> {
    let online: Vec<u32> = facts.cpus.iter().copied().collect();
    match &limits.cpu {
        Some(CpuSelection::Set(ids)) => ids.clone(),
        Some(CpuSelection::Count(count)) if (*count as usize) < online.len() => {
            let start = (id.0.as_u128() % online.len() as u128) as usize;
            let mut ids: Vec<u32> = online.iter().cycle().skip(start).take(*count as usize).copied().collect();
            ids.sort_unstable();
            ids
        }
        Some(CpuSelection::Count(_)) | None => Vec::new(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use model::*;
    use uuid::Uuid;

    use super::*;

    pub(crate) fn facts() -> HostFacts {
        HostFacts {
            kernel: "6.18".into(),
            machine: "x86_64".into(),
            cgroups: CgroupLayout::Unified { root: "/sys/fs/cgroup".into() },
            knobs: Knob::ALL.into(),
            disk: Some(BlockDevice { major: 254, minor: 0 }),
            overlay: OverlayWay::Descriptors,
            proc_by_descriptor: true,
            time_namespaces: true,
            pressure: true,
            cpus: (0..4).collect(),
            memory_bytes: 8 << 30,
            landlock: 7,
            devices: ["fuse".to_owned()].into(),
            link_limits: true,
            lxcfs: true,
            may_raise_limits: true,
        }
    }

    pub(crate) fn wish() -> Wish {
        let nic = NicSpec {
            device: "eth0".parse().expect("name"),
            guest_name: "eth0".into(),
            plug: model::Plug::Network("br0".parse().expect("name")),
            mac: Mac([10, 0, 0, 0, 0, 1]),
            mtu: None,
            ipv4: None,
            ipv6: None,
            gateway4: None,
            gateway6: None,
            spoofing: false,
            limits: NicLimits::default(),
        };
        let ids = IdMap { base: 1 << 20, count: IdMap::ORDINARY };
        Wish {
            id: InstanceId(Uuid::from_u128(1)),
            exists: true,
            power: Power::On { boot: BootGen(1), frozen: false },
            stop: StopKind::Clean { timeout_s: 30 },
            root: RootGen(1),
            source: RootSource::Image(Fingerprint([7; 32])),
            spec: InstanceSpec {
                name: "web1".parse().expect("name"),
                pool: "default".parse().expect("name"),
                sandbox: {
                    let user_of = crate::Users::Instance(InstanceId(Uuid::from_u128(1)));
                    let grain = crate::Grain { namespaces: Default::default(), ids, user_of };
                    crate::sandbox(&config::SandboxChoice::default(), grain, &facts())
                },
                limits: Limits::default(),
                nics: vec![nic],
                first_boot: Vec::new(),
                environment: Vec::new(),
                init: model::INIT.to_owned(),
            },
        }
    }

    fn of(limits: Limits) -> Settings {
        settings(&limits, InstanceId(Uuid::from_u128(6)), &facts())
    }

    #[test]
    fn every_knob_of_the_host_has_a_setting_and_no_other() {
        assert_eq!(of(Limits::default()).len(), Knob::ALL.len());
        let v1 = HostFacts { knobs: [Knob::MemoryMax, Knob::PidsMax].into(), ..facts() };
        let settings = settings(&Limits { memory_soft: true, ..Limits::default() }, InstanceId(Uuid::nil()), &v1);
        assert_eq!(settings.keys().copied().collect::<Vec<_>>(), [Knob::MemoryMax, Knob::PidsMax]);
        assert_eq!(settings[&Knob::MemoryMax], Setting::Number(7 << 30), "hard where soft is not to be had");
        let idle = of(Limits { cpu_idle: true, ..Limits::default() });
        assert_eq!(idle[&Knob::CpuIdle], Setting::Number(1));
        assert!(!idle.contains_key(&Knob::CpuWeight), "an idle group has no weight");
    }

    #[test]
    fn defaults_stop_fork_bombs_and_memory_hogs() {
        let settings = of(Limits::default());
        assert_eq!(settings[&Knob::PidsMax], Setting::Number(16_384));
        assert_eq!(settings[&Knob::MemoryMax], Setting::Number(7 << 30));
        assert_eq!(settings[&Knob::CpuMax], Setting::Unlimited);
        assert_eq!(settings[&Knob::CpuWeight], Setting::Number(100));
        assert_eq!(settings[&Knob::CpusetCpus], Setting::Cpus(vec![]));
    }

    #[test]
    fn a_default_is_what_a_new_group_is_at_save_for_what_protects_the_host() {
        let protects = [Knob::MemoryMax, Knob::PidsMax, Knob::Devices];
        for (knob, setting) in of(Limits::default()) {
            assert_eq!(setting == knob.initial(), !protects.contains(&knob), "{knob:?}");
        }
    }

    #[test]
    fn limits_of_disks_and_huge_pages_become_settings() {
        let disk = facts().disk.expect("a disk");
        let rates = DiskRates { read_bytes: Some(1_000_000), ..DiskRates::default() };
        let limits = Limits {
            disk_rates: rates,
            disk_priority: Some(10),
            disk_latency_us: Some(20_000),
            hugepages: [(Knob::Hugetlb2MBMax, Bytes(5_000_000))].into(),
            ..Limits::default()
        };
        let settings = of(limits);
        assert_eq!(settings[&Knob::IoMax], Setting::Disk(disk, rates));
        assert_eq!(settings[&Knob::IoLatency], Setting::Latency(disk, 20_000));
        assert_eq!(settings[&Knob::IoWeight], Setting::Number(200));
        assert_eq!(settings[&Knob::Hugetlb2MBMax], Setting::Number(4 << 20), "whole pages");
        assert_eq!(settings[&Knob::Hugetlb1GBMax], Setting::Unlimited);
    }

    #[test]
    fn floors_ceilings_and_clamps_become_settings() {
        let mib = |n: u64| Some(Memory::Bytes(Bytes(n << 20)));
        let settings = of(Limits {
            memory: mib(400),
            memory_high: mib(300),
            memory_low: mib(200),
            memory_min: mib(100),
            memory_swap: Some(Swap::Bytes(Bytes(50 << 20))),
            memory_oom_group: true,
            cpu_burst_us: Some(5000),
            cpu_uclamp_min: Some(1250),
            cpu_uclamp_max: Some(10_000),
            ..Limits::default()
        });
        for (knob, bytes) in [
            (Knob::MemoryMax, 400 << 20),
            (Knob::MemoryHigh, 300 << 20),
            (Knob::MemoryLow, 200 << 20),
            (Knob::MemoryMin, 100 << 20),
            (Knob::MemorySwapMax, 50 << 20),
            (Knob::MemoryOomGroup, 1),
            (Knob::CpuMaxBurst, 5000),
            (Knob::CpuUclampMin, 1250),
        ] {
            assert_eq!(settings[&knob], Setting::Number(bytes), "{knob:?}");
        }
        assert_eq!(settings[&Knob::CpuUclampMax], Setting::Unlimited);
    }

    #[test]
    fn limits_become_settings() {
        let memory = |memory, soft| of(Limits { memory: Some(memory), memory_soft: soft, ..Limits::default() });
        assert_eq!(memory(Memory::Bytes(Bytes(5000)), false)[&Knob::MemoryMax], Setting::Number(4096));
        assert_eq!(
            memory(Memory::Percent(50), false)[&Knob::MemoryMax],
            Setting::Number(whole_pages((8 << 30) / 100 * 50))
        );
        let soft = memory(Memory::Bytes(Bytes(8192)), true);
        assert_eq!((&soft[&Knob::MemoryHigh], &soft[&Knob::MemoryMax]), (&Setting::Number(8192), &Setting::Unlimited));
        let cpu = |cpu| of(Limits { cpu: Some(cpu), ..Limits::default() })[&Knob::CpusetCpus].clone();
        assert_eq!(cpu(CpuSelection::Count(2)), Setting::Cpus(vec![2, 3]));
        assert_eq!(cpu(CpuSelection::Count(9)), Setting::Cpus(vec![]));
        assert_eq!(cpu(CpuSelection::Set(vec![1])), Setting::Cpus(vec![1]));
        let weight = |percent, priority| {
            weight(&Limits {
                cpu_allowance: Some(CpuAllowance::Soft(percent)),
                cpu_priority: priority,
                ..Limits::default()
            })
        };
        assert_eq!(
            (weight(50, None), weight(50, Some(3)), weight(5, Some(0)), weight(99_999, None)),
            (50, 43, 1, 10_000)
        );
    }
}
