//! `top`: what running instances use, wait for and are held back by.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use clap::Args as Words;
use sysctl_api::{InstanceLoad, LimitHits, Stalls};

use super::list::bytes;
use crate::context::Context;
use crate::failure::{Attempt, Result};
use crate::output::Table;

/// Words of `top`.
#[derive(Debug, Words)]
pub(crate) struct Args {
    /// Look so many times, then end
    #[arg(short = 'n', long, value_name = "TIMES")]
    count: Option<u32>,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    delay: u64,
}

pub(crate) async fn run(cx: &Context, args: Args) -> Result {
    let mut before: HashMap<(String, String), u64> = HashMap::new();
    let mut looked = Instant::now();
    for look in 0..args.count.unwrap_or(u32::MAX) {
        if look > 0 {
            tokio::time::sleep(Duration::from_secs(args.delay)).await;
        }
        let loads = cx.client.get_load().await.attempt(|| "look at what instances use".into())?;
        let elapsed = looked.elapsed();
        looked = Instant::now();
        cx.list(&loads, || table(&loads, &before, elapsed))?;
        before = loads.iter().map(|load| ((load.project.clone(), load.name.clone()), load.cpu_ns)).collect();
    }
    Ok(())
}

fn table(loads: &[InstanceLoad], before: &HashMap<(String, String), u64>, elapsed: Duration) -> Table {
    let mut table = Table::new([
        "NAME",
        "CPU%",
        "MEMORY",
        "LIMIT",
        "PROCESSES",
        "WAITS CPU%",
        "WAITS MEMORY%",
        "WAITS IO%",
        "BITTEN BY",
    ]);
    for load in loads {
        let key = (load.project.clone(), load.name.clone());
        // At the first look there is nothing to compare with.
        let cpu = before.get(&key).map(|then| {
            let share = load.cpu_ns.saturating_sub(*then) as f64 / elapsed.as_nanos().max(1) as f64;
            format!("{:.0}", share * 100.0)
        });
        let waits = |of: fn(&sysctl_api::Pressure) -> Stalls| {
            load.pressure.as_ref().map(|pressure| format!("{:.0}", of(pressure).some.avg10)).unwrap_or_default()
        };
        let limit = if load.memory_limit_bytes > 0 { bytes(load.memory_limit_bytes as i64) } else { String::new() };
        table.row([
            (&load.name).into(),
            cpu.unwrap_or_default().into(),
            bytes(load.memory_bytes as i64).into(),
            limit.into(),
            load.processes.to_string().into(),
            waits(|p| p.cpu).into(),
            waits(|p| p.memory).into(),
            waits(|p| p.io).into(),
            bitten(&load.hits).into(),
        ]);
    }
    table
}

/// Limits that were met since the start.
fn bitten(hits: &LimitHits) -> String {
    let all = [
        ("killed", hits.oom_kills),
        ("memory", hits.memory_max),
        ("memory.high", hits.memory_high),
        ("processes", hits.processes),
        ("cpu", hits.cpu_throttled),
    ];
    let met: Vec<String> = all.iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!("{name} {n}")).collect();
    met.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_limits_that_bit_are_told() {
        assert_eq!(bitten(&LimitHits::default()), "");
        let hits = LimitHits { oom_kills: 1, cpu_throttled: 20, ..LimitHits::default() };
        assert_eq!(bitten(&hits), "killed 1, cpu 20");
    }
}
