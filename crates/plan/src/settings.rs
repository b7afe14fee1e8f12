//! From limits as users ask for them to what each knob is set to.

use model::{CpuAllowance, CpuSelection, HostFacts, InstanceId, Knob, Limits, Memory, Setting, Settings};

/// Most processes and threads when nothing else is said: enough for a busy server, and no fork bomb takes the host's table.
const DEFAULT_PROCESSES: u64 = 16_384;

/// Memory that guests without a limit leave to the host.
const HOST_RESERVE: u64 = 1 << 30;

/// `cpu.weight` of a group for which nothing is said.
const DEFAULT_WEIGHT: u64 = 100;

/// A setting for each knob that the host has.
pub fn settings(limits: &Limits, id: InstanceId, facts: &HostFacts) -> Settings {
    facts.knobs.iter().map(|knob| (*knob, setting(*knob, limits, id, facts))).collect()
}

fn setting(knob: Knob, limits: &Limits, id: InstanceId, facts: &HostFacts) -> Setting {
    // Without a soft ceiling in the kernel the hard one must do.
    let soft = limits.memory_soft && facts.knobs.contains(&Knob::MemoryHigh);
    match knob {
        Knob::MemoryMax if soft => Setting::Unlimited,
        Knob::MemoryMax => memory(limits, facts),
        Knob::MemoryHigh if soft => memory(limits, facts),
        Knob::MemoryHigh => Setting::Unlimited,
        Knob::MemorySwapMax => match limits.memory_swap {
            Some(false) => Setting::Number(0),
            Some(true) | None => Setting::Unlimited,
        },
        Knob::CpuMax => match limits.cpu_allowance {
            Some(CpuAllowance::Hard { quota_us, period_us }) => Setting::Quota(quota_us, period_us),
            Some(CpuAllowance::Soft(_)) | None => Setting::Unlimited,
        },
        Knob::CpuWeight => Setting::Number(weight(limits)),
        Knob::CpusetCpus => Setting::Cpus(cpus(limits, id, facts)),
        Knob::PidsMax => Setting::Number(limits.processes.unwrap_or(DEFAULT_PROCESSES)),
    }
}

/// Kernels count memory in pages, so what is written is what is read back.
fn whole_pages(bytes: u64) -> u64 {
    bytes / 4096 * 4096
}

fn memory(limits: &Limits, facts: &HostFacts) -> Setting {
    match limits.memory {
        Some(Memory::Bytes(bytes)) => Setting::Number(whole_pages(bytes.0)),
        Some(Memory::Percent(percent)) => Setting::Number(whole_pages(facts.memory_bytes / 100 * u64::from(percent))),
        // A hog is stopped by its own limit before the host is in need. Small hosts have nothing to reserve from.
        None if facts.memory_bytes > 2 * HOST_RESERVE => {
            Setting::Number(whole_pages(facts.memory_bytes - HOST_RESERVE))
        }
        None => Setting::Unlimited,
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
            overlay: OverlayWay::Descriptors,
            proc_by_descriptor: true,
            time_namespaces: true,
            pressure: true,
            cpus: (0..4).collect(),
            memory_bytes: 8 << 30,
            landlock: 7,
            devices: ["fuse".to_owned()].into(),
            may_raise_limits: true,
        }
    }

    pub(crate) fn wish() -> Wish {
        let nic = NicSpec {
            device: "eth0".parse().expect("name"),
            guest_name: "eth0".into(),
            network: "br0".parse().expect("name"),
            mac: Mac([10, 0, 0, 0, 0, 1]),
            mtu: None,
            ipv4: None,
            ipv6: None,
            gateway4: None,
            gateway6: None,
            spoofing: false,
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
                    let user_of = InstanceId(Uuid::from_u128(1));
                    let grain = crate::Grain { namespaces: Default::default(), ids, user_of };
                    crate::sandbox(&config::SandboxChoice::default(), grain, &facts())
                },
                limits: Limits::default(),
                nics: vec![nic],
                first_boot: Vec::new(),
                environment: Vec::new(),
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
