//! Limits that follow the need: what levels mean for knobs, and where a level goes next.

use config::Invalid;
use model::scale::{Autoscale, Levels, Listen, Moves, Need, Range, Resource, ScaleMode, Watch};
use model::{Bytes, CpuAllowance, HostFacts, LimitActions, Limits, Memory, Told};

/// A level of memory of which less is used is no need for more.
const FULL_PERCENT: u64 = 90;

/// A CPU level shrinks only when so much of the new one is used at most; else it would come back at once.
const CPU_USED_PERCENT: u64 = 75;

/// The period that CPU time is given out in.
const PERIOD_US: u64 = 100_000;

/// Memory of the host that is left out of the budget of those that grow.
const HOST_RESERVE: u64 = 1 << 30;

/// Limits as they are with the levels of those that follow the need.
///
/// The most of a memory range is the hard limit, so nobody is killed within it; the level is the soft one.
pub fn scaled(limits: &Limits, autoscale: &Autoscale, levels: &Levels) -> Limits {
    let mut limits = limits.clone();
    if autoscale.mode != ScaleMode::On {
        return limits;
    }
    let bytes = |bytes| Some(Memory::Bytes(Bytes(bytes)));
    if let Some(range) = autoscale.memory {
        limits.memory = bytes(range.max);
        limits.memory_soft = false;
        limits.memory_high = bytes(levels.of(Resource::Memory, range));
    }
    if let Some(range) = autoscale.cpu {
        let quota_us = levels.of(Resource::Cpu, range) * PERIOD_US / 100;
        limits.cpu_allowance = Some(CpuAllowance::Hard { quota_us, period_us: PERIOD_US });
    }
    limits
}

/// What the host has to listen for.
pub fn watch(autoscale: &Autoscale, levels: &Levels, told: Told, actions: LimitActions) -> Watch {
    let listen = |resource| {
        let (range, moves) = (autoscale.range(resource)?, autoscale.moves(resource));
        let level = levels.of(resource, range);
        Some(Listen { level, up: moves.up.when, down: (level > range.min).then_some(moves.down.when) })
    };
    let (memory, cpu) = (listen(Resource::Memory), listen(Resource::Cpu));
    Watch {
        memory,
        cpu,
        // Of nothing that moves there is none to wait for.
        cooldown_ms: if memory.is_some() || cpu.is_some() { autoscale.cooldown_ms } else { 0 },
        advised: autoscale.mode == ScaleMode::Observe,
        told,
        actions,
    }
}

/// Memory that all who grow may have together.
pub fn memory_budget(facts: &HostFacts) -> u64 {
    if facts.memory_bytes > 2 * HOST_RESERVE { facts.memory_bytes - HOST_RESERVE } else { facts.memory_bytes / 2 }
}

/// Where the level of a resource goes, and why; `None` when it stays. `used` is bytes of memory in use, `room` what the budget
/// has left for this one beyond its level.
pub fn next_level(
    resource: Resource,
    range: Range,
    moves: &Moves,
    level: u64,
    need: Need,
    used: u64,
    room: u64,
) -> Option<(u64, &'static str)> {
    let (up, down) = (moves.up.step_percent, moves.down.step_percent);
    let (to, cause) = match (need, resource) {
        (Need::More, Resource::Memory) => {
            let base = level.max(used);
            let wanted = base + base * up / 100;
            // Whoever has much left is helped by no more of it.
            let needs = used >= level / 100 * FULL_PERCENT;
            (if needs { wanted.min(level.saturating_add(room)) } else { level }, "it needs more memory")
        }
        (Need::More, Resource::Cpu) => (level + (level * up / 100).max(1), "it waited for a CPU"),
        (Need::Less { .. }, Resource::Memory) => {
            let spared = level - level * down / 100;
            // What is not in use at all costs nobody anything.
            (spared.min(used + used / 2), "it was quiet for a while")
        }
        (Need::Less { cpu }, Resource::Cpu) => {
            let lower = (level - level * down / 100).min(level.saturating_sub(1)).max(range.min);
            let idle = cpu <= lower * CPU_USED_PERCENT / 100;
            (if idle { lower } else { level }, "it used less for a while")
        }
    };
    // Memory is counted in pages.
    let to = if resource == Resource::Memory { to / 4096 * 4096 } else { to }.clamp(range.min, range.max);
    (to != level && (to > level) == (need == Need::More)).then_some((to, cause))
}

/// Refuses events of waits where the kernel tells of none.
pub fn refuse_told(told: Told, facts: &HostFacts) -> Result<(), Invalid> {
    if told == Told::default() || facts.pressure {
        return Ok(());
    }
    Err(Invalid { key: "pressure.events".into(), value: String::new(), reason: NO_PRESSURE.into() })
}

/// Why nothing that is about waiting is to be had.
pub(crate) const NO_PRESSURE: &str = "this kernel keeps no pressure stall information: boot it with psi=1";

/// Refuses what cannot follow the need on this host, or at all.
pub fn refuse_autoscale(autoscale: &Autoscale, limits: &Limits, facts: &HostFacts) -> Result<(), Invalid> {
    let invalid =
        |key: &str, reason: &str| Err(Invalid { key: key.into(), value: String::new(), reason: reason.into() });
    for resource in Resource::ALL.into_iter().filter(|resource| autoscale.range(*resource).is_some()) {
        let key = format!("autoscale.{}", resource.name());
        if !facts.pressure {
            return invalid(&key, NO_PRESSURE);
        }
        refuse_window(&format!("{key}.up"), autoscale.moves(resource).up.when.window_ms, facts)?;
        let range = autoscale.range(resource).unwrap_or(Range { min: 0, max: 0 });
        if resource == Resource::Memory && range.max > facts.memory_bytes {
            return invalid(&key, &format!("the host has {} MiB in all", facts.memory_bytes >> 20));
        }
        if resource == Resource::Cpu && range.max > 100 * facts.cpus.len() as u64 {
            return invalid(&key, &format!("the host has {0} CPUs, which is {0}00%", facts.cpus.len()));
        }
    }
    if autoscale.range(Resource::Memory).is_some() && (limits.memory_high.is_some() || limits.memory_soft) {
        return invalid(
            "autoscale.memory",
            "moves limits.memory.high itself: take that key and limits.memory.enforce back",
        );
    }
    if autoscale.range(Resource::Cpu).is_some() && limits.cpu_allowance.is_some() {
        return invalid("autoscale.cpu", "moves limits.cpu.allowance itself: take that key back");
    }
    Ok(())
}

/// Windows that the kernel watches over (`kernel/sched/psi.c`), in milliseconds.
const WINDOWS: std::ops::RangeInclusive<u64> = 500..=10_000;

/// Windows that it grants whoever may not raise resource limits are multiples of this.
const COARSE: u64 = 2000;

/// Refuses a time that the kernel does not watch over.
fn refuse_window(key: &str, window_ms: u64, facts: &HostFacts) -> Result<(), Invalid> {
    let invalid = |reason: &str| Err(Invalid { key: key.into(), value: String::new(), reason: reason.into() });
    if !WINDOWS.contains(&window_ms) {
        return invalid("the kernel watches over times from 500ms to 10s");
    }
    if !facts.may_raise_limits && !window_ms.is_multiple_of(COARSE) {
        return invalid("without CAP_SYS_RESOURCE, as here, the kernel only watches over 2s, 4s, 6s, 8s and 10s");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::tests::facts;

    const MIB: u64 = 1 << 20;
    const RANGE: Range = Range { min: 64 * MIB, max: 512 * MIB };

    #[test]
    fn a_need_is_met_in_quarters_up_to_the_most_and_to_what_the_budget_has() {
        let next = |level, used, room| {
            next_level(Resource::Memory, RANGE, &Moves::default(), level * MIB, Need::More, used * MIB, room * MIB)
                .map(|(to, _)| to / MIB)
        };
        assert_eq!(next(100, 90, 1000), Some(125));
        assert_eq!(next(100, 200, 1000), Some(250), "more than the level is used already");
        assert_eq!(next(500, 500, 1000), Some(512));
        assert_eq!(next(512, 512, 1000), None);
        assert_eq!(next(100, 90, 10), Some(110));
        assert_eq!(next(100, 90, 0), None, "the budget is given out");
        assert_eq!(next(100, 50, 1000), None, "half of it is free");
    }

    #[test]
    fn quiet_takes_a_tenth_back_down_to_the_least() {
        let next = |level, used| {
            next_level(Resource::Memory, RANGE, &Moves::default(), level * MIB, Need::Less { cpu: 0 }, used * MIB, 0)
        };
        assert_eq!(next(100, 100).map(|(to, _)| to / MIB), Some(90));
        assert_eq!(next(400, 100).map(|(to, _)| to / MIB), Some(150), "what is not in use goes at once");
        assert_eq!(next(65, 60).map(|(to, _)| to / MIB), Some(64));
        assert_eq!(next(64, 0), None);
        let cpu = Range { min: 25, max: 400 };
        let next = |level, used| {
            next_level(Resource::Cpu, cpu, &Moves::default(), level, Need::Less { cpu: used }, 0, 0).map(|(to, _)| to)
        };
        assert_eq!(next(100, 10), Some(90));
        assert_eq!(next(100, 80), None, "it would come back at once");
        assert_eq!(next(25, 0), None);
    }

    #[test]
    fn no_sequence_of_needs_leaves_the_range() {
        let mut level = RANGE.min;
        for n in 0..200u64 {
            let need = if n % 7 < 5 { Need::More } else { Need::Less { cpu: 0 } };
            if let Some((to, _)) = next_level(Resource::Memory, RANGE, &Moves::default(), level, need, level, u64::MAX)
            {
                assert!((RANGE.min..=RANGE.max).contains(&to) && to != level);
                level = to;
            }
        }
        assert!(level > RANGE.max / 2, "{level}");
    }

    #[test]
    fn the_most_of_a_range_is_the_hard_limit_and_the_level_the_soft_one() {
        let autoscale =
            Autoscale { memory: Some(RANGE), cpu: Some(Range { min: 25, max: 200 }), ..Autoscale::default() };
        let levels = Levels { memory: Some(100 * MIB), cpu: None };
        let limits = scaled(&Limits::default(), &autoscale, &levels);
        assert_eq!(limits.memory, Some(Memory::Bytes(Bytes(512 * MIB))));
        assert_eq!(limits.memory_high, Some(Memory::Bytes(Bytes(100 * MIB))));
        assert_eq!(limits.cpu_allowance, Some(CpuAllowance::Hard { quota_us: 25_000, period_us: 100_000 }));
        let observed = Autoscale { mode: ScaleMode::Observe, ..autoscale };
        assert_eq!(scaled(&Limits::default(), &observed, &levels), Limits::default());
        let (up, down) = (Moves::default().up.when, Moves::default().down.when);
        let memory = Some(Listen { level: 100 * MIB, up, down: Some(down) });
        // At its least there is no less.
        let heard = Watch { memory, cpu: Some(Listen { level: 25, up, down: None }), ..Watch::default() };
        assert_eq!(watch(&autoscale, &levels, Told::default(), LimitActions::default()), heard);
        assert_eq!(
            watch(&observed, &levels, Told::default(), LimitActions::default()),
            Watch { advised: true, ..heard }
        );
        let off = Autoscale { mode: ScaleMode::Off, ..autoscale };
        assert_eq!(watch(&off, &levels, Told::default(), LimitActions::default()), Watch::default());
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let memory = |max| Autoscale { memory: Some(Range { min: MIB, max }), ..Autoscale::default() };
        let refused = |autoscale: &Autoscale, limits: &Limits, facts: &HostFacts| {
            refuse_autoscale(autoscale, limits, facts).expect_err("refused").to_string()
        };
        assert!(refuse_autoscale(&memory(1 << 30), &Limits::default(), &facts()).is_ok());
        assert!(refused(&memory(1 << 60), &Limits::default(), &facts()).contains("8192 MiB"));
        let deaf = HostFacts { pressure: false, ..facts() };
        assert!(refused(&memory(1 << 30), &Limits::default(), &deaf).contains("psi=1"));
        let told = Told { cpu: true, ..Told::default() };
        assert!(refuse_told(told, &deaf).expect_err("deaf").to_string().contains("psi=1"));
        assert_eq!((refuse_told(told, &facts()), refuse_told(Told::default(), &deaf)), (Ok(()), Ok(())));
        let high = Limits { memory_high: Some(Memory::Percent(5)), ..Limits::default() };
        assert!(refused(&memory(1 << 30), &high, &facts()).contains("limits.memory.high"));
        let cpu = |window_ms| {
            let mut autoscale = Autoscale { cpu: Some(Range { min: 10, max: 500 }), ..Autoscale::default() };
            autoscale.cpu_moves.up.when.window_ms = window_ms;
            autoscale
        };
        assert!(refused(&cpu(60_000), &Limits::default(), &facts()).contains("autoscale.cpu.up"));
        let poor = HostFacts { may_raise_limits: false, ..facts() };
        assert!(refused(&cpu(500), &Limits::default(), &poor).contains("CAP_SYS_RESOURCE"));
        let cpu = cpu(500);
        assert!(refused(&cpu, &Limits::default(), &facts()).contains("400%"));
    }
}
