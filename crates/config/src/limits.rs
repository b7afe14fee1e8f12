//! Limits, from text to types.

use model::limits::{CpuAllowance, CpuSelection, Memory, Swap, parse_cpu_list};
use model::scale::{Autoscale, Mover, Moves, Range, ScaleMode, Trigger};
use model::{Bounded, Bytes, DiskRates, Knob, LimitAction, LimitActions, Limits, Partition, Rdma, Scarce, Told};

use crate::device_rules::devices;
use crate::instance::{boolean, given};
use crate::written::Map;

/// The keys of huge pages, and the knobs that they turn.
const HUGEPAGES: [(&str, Knob); 4] = [
    ("limits.hugepages.1GB", Knob::Hugetlb1GBMax),
    ("limits.hugepages.1MB", Knob::Hugetlb1MBMax),
    ("limits.hugepages.2MB", Knob::Hugetlb2MBMax),
    ("limits.hugepages.64KB", Knob::Hugetlb64KBMax),
];

/// The keys of a configuration that are limits. What is no limit, or none that can be read, is left out.
pub fn limits(config: &Map) -> Limits {
    let memory_of = |key: &str| given(config, key).and_then(memory);
    let is = |key: &str| given(config, key).and_then(boolean) == Some(true);
    let hugepages =
        HUGEPAGES.iter().filter_map(|(key, knob)| Some((*knob, given(config, key)?.parse::<Bytes>().ok()?)));
    let (device_policy, device_rules) = devices(config);
    let actions = actions(config);
    Limits {
        memory: memory_of("limits.memory"),
        memory_soft: given(config, "limits.memory.enforce") == Some("soft") || actions.memory == LimitAction::Throttle,
        memory_high: memory_of("limits.memory.high"),
        memory_low: memory_of("limits.memory.low"),
        memory_min: memory_of("limits.memory.min"),
        memory_swap: given(config, "limits.memory.swap").and_then(swap),
        memory_zswap: given(config, "limits.memory.zswap").and_then(|v| v.parse().ok()),
        memory_oom_group: is("limits.memory.oom_group"),
        actions,
        cpu: given(config, "limits.cpu").and_then(cpus),
        cpu_partition: match given(config, "limits.cpu.partition") {
            Some("root") => Partition::Root,
            Some("isolated") => Partition::Isolated,
            _ => Partition::Member,
        },
        cpu_allowance: given(config, "limits.cpu.allowance").and_then(allowance),
        cpu_burst_us: given(config, "limits.cpu.burst").and_then(time_us),
        cpu_idle: is("limits.cpu.idle"),
        cpu_priority: given(config, "limits.cpu.priority").and_then(|v| v.parse().ok()),
        cpu_uclamp_min: given(config, "limits.cpu.uclamp.min").and_then(percent),
        cpu_uclamp_max: given(config, "limits.cpu.uclamp.max").and_then(percent),
        processes: given(config, "limits.processes").and_then(|v| v.parse().ok()),
        disk_priority: given(config, "limits.disk.priority").and_then(|v| v.parse().ok()),
        disk_latency_us: given(config, "limits.disk.latency").and_then(time_us),
        hugepages: hugepages.collect(),
        rdma: Rdma {
            handles: given(config, "limits.rdma.handles").and_then(|v| v.parse().ok()),
            objects: given(config, "limits.rdma.objects").and_then(|v| v.parse().ok()),
        },
        misc: config.iter().filter_map(misc).collect(),
        network_ingress_bytes: given(config, "limits.network.ingress").and_then(bit_rate),
        network_egress_bytes: given(config, "limits.network.egress").and_then(bit_rate),
        device_policy,
        device_rules,
        // Rates are keys of the root disk.
        disk_rates: DiskRates::default(),
    }
}

/// What happens when limits are met.
pub fn actions(config: &Map) -> LimitActions {
    let of = |bounded: Bounded| match given(config, bounded.key()) {
        Some("throttle") => LimitAction::Throttle,
        Some("freeze") => LimitAction::Freeze,
        Some("kill") => LimitAction::Kill,
        _ => LimitAction::Event,
    };
    LimitActions { cpu: of(Bounded::Cpu), memory: of(Bounded::Memory), pids: of(Bounded::Pids) }
}

/// The name and number of a key like `limits.misc.sev`.
fn misc((key, value): (&String, &String)) -> Option<(String, u64)> {
    Some((key.strip_prefix("limits.misc.")?.to_owned(), value.parse().ok()?))
}

/// The keys of a configuration about limits that follow the need.
pub fn autoscale(config: &Map) -> Autoscale {
    let moves = |up: &str, down: &str| {
        let default = Moves::default();
        Moves {
            up: given(config, up).and_then(scale_up).unwrap_or(default.up),
            down: given(config, down).and_then(scale_down).unwrap_or(default.down),
        }
    };
    Autoscale {
        mode: match given(config, "autoscale.mode") {
            Some("off") => ScaleMode::Off,
            Some("observe") => ScaleMode::Observe,
            _ => ScaleMode::On,
        },
        memory: given(config, "autoscale.memory").and_then(memory_range),
        cpu: given(config, "autoscale.cpu").and_then(cpu_range),
        memory_moves: moves("autoscale.memory.up", "autoscale.memory.down"),
        cpu_moves: moves("autoscale.cpu.up", "autoscale.cpu.down"),
        cooldown_ms: given(config, "autoscale.cooldown").and_then(pause_ms).unwrap_or(0),
    }
}

/// Waits that are events.
pub fn told(config: &Map) -> Told {
    given(config, "pressure.events").and_then(scarce).unwrap_or_default()
}

pub(crate) fn scarce(text: &str) -> Option<Told> {
    let named = |name: &str| Scarce::ALL.into_iter().find(|scarce| scarce.name() == name);
    text.split(',').map(str::trim).try_fold(Told::default(), |told, name| Some(told.with(named(name)?)))
}

/// The right way up, and not empty.
fn range(text: &str, parse: impl Fn(&str) -> Option<u64>) -> Option<Range> {
    let (min, max) = text.split_once("..")?;
    let (min, max) = (parse(min.trim())?, parse(max.trim())?);
    (min < max).then_some(Range { min, max })
}

pub(crate) fn scale_up(text: &str) -> Option<Mover> {
    mover(text, '>', Moves::default().up.step_percent).filter(|mover| mover.step_percent <= 400)
}

pub(crate) fn scale_down(text: &str) -> Option<Mover> {
    mover(text, '<', Moves::default().down.step_percent).filter(|mover| mover.step_percent <= 50)
}

/// A text like `some>10%/2s, step 25%`; the step may be left out.
fn mover(text: &str, sign: char, step_percent: u64) -> Option<Mover> {
    let (when, step) = text.split_once(',').map_or((text, None), |(when, step)| (when, Some(step)));
    let (share, window) = when.trim().strip_prefix("some")?.trim_start().strip_prefix(sign)?.split_once('/')?;
    let window_ms = match time_us(window) {
        Some(us) => us / 1000,
        None => pause_ms(window)?,
    };
    let step_percent = match step {
        Some(step) => step.trim().strip_prefix("step")?.trim().strip_suffix('%')?.trim_end().parse().ok()?,
        None => step_percent,
    };
    let when = Trigger { hundredths: percent(share.trim())?, window_ms };
    // What is no whole microsecond no kernel counts.
    (step_percent > 0 && when.stall_us() > 0).then_some(Mover { when, step_percent })
}

pub(crate) fn memory_range(text: &str) -> Option<Range> {
    // Less than this does not hold an init and a shell; whole pages are what kernels count.
    range(text, |part| part.parse::<Bytes>().ok().map(|bytes| bytes.0 / 4096 * 4096).filter(|n| *n >= 4 << 20))
}

pub(crate) fn cpu_range(text: &str) -> Option<Range> {
    range(text, |part| part.strip_suffix('%')?.trim().parse().ok().filter(|n| (1..=100_000).contains(n)))
}

pub(crate) fn memory(text: &str) -> Option<Memory> {
    match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse().ok().filter(|p| (1..=100).contains(p)).map(Memory::Percent),
        // Less than this does not even hold a shell.
        None => text.parse::<Bytes>().ok().filter(|b| b.0 >= 1 << 20).map(Memory::Bytes),
    }
}

pub(crate) fn swap(text: &str) -> Option<Swap> {
    // A lone 0 or 1 is a truth value, as it always was.
    boolean(text).map(Swap::Allowed).or_else(|| text.parse().ok().map(Swap::Bytes))
}

/// Bytes each second of a text like `100Mbit`, of bits as links have them; less than a packet each second is no rate.
pub(crate) fn bit_rate(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let factor: u64 = match text[digits..].trim_start() {
        "bit" => 1,
        "kbit" => 1000,
        "Mbit" => 1_000_000,
        "Gbit" => 1_000_000_000,
        "Tbit" => 1_000_000_000_000,
        _ => return None,
    };
    let bits = text[..digits].parse::<u64>().ok()?.checked_mul(factor)?;
    (bits >= 8000).then_some(bits / 8)
}

pub(crate) fn cpus(text: &str) -> Option<CpuSelection> {
    match text.parse::<u32>() {
        Ok(count) => (count > 0).then_some(CpuSelection::Count(count)),
        Err(_) => parse_cpu_list(text).filter(|ids| !ids.is_empty()).map(CpuSelection::Set),
    }
}

pub(crate) fn allowance(text: &str) -> Option<CpuAllowance> {
    if let Some(percent) = text.strip_suffix('%') {
        return percent.trim().parse().ok().filter(|p| (1..=100_000).contains(p)).map(CpuAllowance::Soft);
    }
    let (quota, period) = text.split_once('/')?;
    let (quota_us, period_us) = (time_us(quota)?, time_us(period)?);
    // Bounds of the kernel's bandwidth control: quota from 1 ms, period from 1 ms to 1 s.
    let fine = quota_us >= 1000 && (1000..=1_000_000).contains(&period_us);
    fine.then_some(CpuAllowance::Hard { quota_us, period_us })
}

/// Microseconds of a text like `25ms`.
pub(crate) fn time_us(text: &str) -> Option<u64> {
    text.trim().strip_suffix("ms")?.trim().parse::<u64>().ok()?.checked_mul(1000)
}

/// Milliseconds of a text like `30s`, `5m` or `2h`: from a second to 30 days.
pub(crate) fn pause_ms(text: &str) -> Option<u64> {
    let text = text.trim();
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    let ms = number.trim().parse::<u64>().ok()?.checked_mul(seconds * 1000)?;
    (1000..=30 * 24 * 3_600_000).contains(&ms).then_some(ms)
}

/// Milliseconds without work after which an instance is held still; `None` for never.
pub fn idle_freeze_ms(config: &Map) -> Option<u64> {
    given(config, "idle.freeze").and_then(pause_ms)
}

/// Hundredths of a percent of a text like `12.5%`.
pub(crate) fn percent(text: &str) -> Option<u32> {
    let number = text.strip_suffix('%')?.trim();
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || part.len() > 2 || !digits(whole) || !digits(part) {
        return None;
    }
    let hundredths = whole.parse::<u32>().ok()?.checked_mul(100)? + format!("{part:0<2}").parse::<u32>().ok()?;
    (hundredths <= 10_000).then_some(hundredths)
}

/// A rate of a disk: bytes each second, operations each second (`500iops`), or both after one another with a comma.
pub(crate) fn rate(text: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (mut bytes, mut ops) = (None, None);
    for part in text.split(',').map(str::trim) {
        let (slot, value) = match part.strip_suffix("iops") {
            Some(number) => (&mut ops, number.trim().parse::<u64>().ok()?),
            None => (&mut bytes, part.parse::<Bytes>().ok()?.0),
        };
        // Nothing at all would be a disk that hangs.
        if value == 0 || slot.replace(value).is_some() {
            return None;
        }
    }
    Some((bytes, ops))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(key: &str, value: &str) -> Limits {
        limits(&[(key.to_owned(), value.to_owned())].into())
    }

    #[test]
    fn limits_are_typed() {
        assert_eq!(of("limits.memory", "2GiB").memory, Some(Memory::Bytes(Bytes(2 << 30))));
        assert_eq!(of("limits.memory", "25%").memory, Some(Memory::Percent(25)));
        assert_eq!(of("limits.memory.high", "1GiB").memory_high, Some(Memory::Bytes(Bytes(1 << 30))));
        assert_eq!(of("limits.memory.swap", "false").memory_swap, Some(Swap::Allowed(false)));
        assert_eq!(of("limits.memory.swap", "0").memory_swap, Some(Swap::Allowed(false)));
        assert_eq!(of("limits.memory.swap", "64MiB").memory_swap, Some(Swap::Bytes(Bytes(64 << 20))));
        assert_eq!(of("limits.memory.zswap", "0").memory_zswap, Some(Bytes(0)));
        assert_eq!(of("limits.cpu", "2").cpu, Some(CpuSelection::Count(2)));
        assert_eq!(of("limits.cpu", "0-1,3").cpu, Some(CpuSelection::Set(vec![0, 1, 3])));
        assert_eq!(of("limits.cpu.allowance", "50%").cpu_allowance, Some(CpuAllowance::Soft(50)));
        let hard = CpuAllowance::Hard { quota_us: 25_000, period_us: 100_000 };
        assert_eq!(of("limits.cpu.allowance", "25ms/100ms").cpu_allowance, Some(hard));
        assert_eq!(of("limits.cpu.burst", "10ms").cpu_burst_us, Some(10_000));
        assert_eq!(of("limits.cpu.uclamp.max", "62.5%").cpu_uclamp_max, Some(6250));
        assert_eq!(of("limits.hugepages.2MB", "64MiB").hugepages, [(Knob::Hugetlb2MBMax, Bytes(64 << 20))].into());
        assert_eq!(of("limits.cpu.partition", "isolated").cpu_partition, Partition::Isolated);
        assert_eq!(of("limits.rdma.handles", "5").rdma, Rdma { handles: Some(5), objects: None });
        assert_eq!(of("limits.misc.sev", "3").misc, [("sev".to_owned(), 3)].into());
        assert_eq!(of("limits.network.egress", "10Mbit").network_egress_bytes, Some(1_250_000));
        assert_eq!(of("limits.network.ingress", "8 kbit").network_ingress_bytes, Some(1000));
        assert_eq!(of("limits.processes", "").processes, None);
        assert_eq!(
            of("limits.action.pids", "kill").actions,
            LimitActions { pids: LimitAction::Kill, ..Default::default() }
        );
        let slowed = of("limits.action.memory", "throttle");
        assert!(slowed.memory_soft && slowed.actions.memory == LimitAction::Throttle);
    }

    #[test]
    fn moves_are_a_share_of_a_time_and_a_step() {
        let of = |key: &str, value: &str| autoscale(&[(key.to_owned(), value.to_owned())].into());
        let up = of("autoscale.memory.up", "some>2.5%/500ms, step 100%").memory_moves.up;
        assert_eq!(up, Mover { when: Trigger { hundredths: 250, window_ms: 500 }, step_percent: 100 });
        assert_eq!(up.when.stall_us(), 12_500);
        let down = of("autoscale.cpu.down", "some < 1% / 60s").cpu_moves.down;
        assert_eq!(down, Mover { when: Trigger { hundredths: 100, window_ms: 60_000 }, step_percent: 10 });
        assert_eq!(of("autoscale.cpu.up", "").cpu_moves, Moves::default());
        assert_eq!(of("autoscale.cooldown", "30s").cooldown_ms, 30_000);
        for wrong in
            ["", "some>10%", "10%/2s", "full>10%/2s", "some>0%/2s", "some>101%/2s", "some>10%/2", "some>10%/2s,25%"]
        {
            assert_eq!(scale_up(wrong), None, "{wrong}");
        }
        assert_eq!((scale_up("some>1%/2s, step 0%"), scale_up("some>1%/2s, step 401%")), (None, None));
        assert_eq!((scale_down("some>1%/2s"), scale_down("some<1%/2s, step 51%")), (None, None));
    }

    #[test]
    fn shares_of_a_hundred_have_at_most_two_decimals() {
        for (text, hundredths) in [("0%", 0), ("100%", 10_000), ("0.01%", 1), ("33.3 %", 3330)] {
            assert_eq!(percent(text), Some(hundredths), "{text}");
        }
        for wrong in ["", "%", "50", "100.01%", "1.234%", ".5%", "-1%", "+1%", "1e2%"] {
            assert_eq!(percent(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn rates_are_bytes_or_operations() {
        assert_eq!(rate("10MB"), Some((Some(10_000_000), None)));
        assert_eq!(rate("500iops"), Some((None, Some(500))));
        assert_eq!(rate("1MiB, 20 iops"), Some((Some(1 << 20), Some(20))));
        for wrong in ["", "0", "0iops", "fast", "1MB,2MB", "10iops,20iops", "-1iops"] {
            assert_eq!(rate(wrong), None, "{wrong}");
        }
    }
}
