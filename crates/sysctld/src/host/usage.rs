//! What a running guest uses, read from its control group and through the socket in its network namespace.

use engine::{LinkUsage, StepError, Usage};
use model::{Boot, Knob, Setting};

use super::keeper::Keeper;
use super::{RealHost, launch, words};

/// Clock ticks per second, which the kernel fixed for `/proc` long ago (USER_HZ).
const TICKS: u64 = 100;

pub(super) async fn of(host: &RealHost, boot: Boot) -> Result<Usage, StepError> {
    let keeper = host.boots.running(boot)?;
    let pid = keeper.state().pid;
    let group = host.boots.groups.usage(boot);
    let settings = host.boots.groups.settings(boot).map_err(|e| words::because("usage", &e))?.unwrap_or_default();
    let limit = match settings.get(&Knob::MemoryMax) {
        Some(Setting::Number(bytes)) => (*bytes).min(host.facts.memory_bytes),
        _ => host.facts.memory_bytes,
    };
    let allowed = match settings.get(&Knob::CpuMax) {
        Some(Setting::Quota(quota, period)) => 1_000_000_000 / period.max(&1) * quota,
        _ => 0,
    };
    // A keeper that has no socket to give, as one of an older release, costs the links and not all else.
    let links = links(&keeper).await.unwrap_or_else(|error| {
        tracing::warn!(%boot, %error, "its links cannot be looked at");
        Vec::new()
    });
    Ok(Usage {
        pid,
        processes: group.processes as i64,
        cpu_ns: group.cpu_ns as i64,
        cpu_allowed_ns: allowed as i64,
        memory_bytes: group.memory_bytes as i64,
        memory_peak_bytes: group.memory_peak_bytes as i64,
        memory_limit_bytes: limit as i64,
        swap_bytes: group.swap_bytes as i64,
        started_at: started_at(pid).unwrap_or(0),
        disk_bytes: 0,
        links,
    })
}

async fn links(keeper: &Keeper) -> Result<Vec<LinkUsage>, StepError> {
    let mut network = keeper.network().await?;
    let Some(network) = network.as_mut() else { return Ok(Vec::new()) };
    let states = network::link::guest_state(&mut network.socket).map_err(|e| words::because("usage", &e))?;
    Ok(states.into_iter().map(|state| link_usage(&state.link, &state.addresses)).collect())
}

/// A link as it is told.
pub(super) fn link_usage(link: &network::link::Link, addresses: &[network::link::Address]) -> LinkUsage {
    let s = &link.statistics;
    let loopback = link.name == "lo";
    LinkUsage {
        name: link.name.clone(),
        addresses: addresses.iter().map(|a| a.cidr).collect(),
        mac: link.mac.filter(|_| !loopback).map(|mac| mac.to_string()).unwrap_or_default(),
        host_name: String::new(),
        mtu: link.mtu,
        up: link.up,
        loopback,
        counters: [
            s.rx_bytes,
            s.tx_bytes,
            s.rx_packets,
            s.tx_packets,
            s.rx_errors,
            s.tx_errors,
            s.rx_dropped,
            s.tx_dropped,
        ]
        .map(|n| n as i64),
    }
}

/// When a process was started, in seconds since 1970.
fn started_at(pid: u32) -> Option<i64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let booted: u64 = stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())?;
    Some((booted + launch::start_time(pid)? / TICKS) as i64)
}
