//! `limits`: what an instance may use and does, and changing that at once.

use std::time::Duration;

use clap::Args as Words;
use sysctl_api::{LimitKnob, LimitsApplied, LimitsPatch};

use crate::context::Context;
use crate::failure::{Attempt, Failure, Result};
use crate::output::{self, Table};

/// Words of `limits`.
#[derive(Debug, Words)]
#[command(after_help = "Words: memory, cpu (a number, ids, 150% or 25ms/100ms), processes, swap, any key without its \
    limits. like memory.high, devices.policy and devices.rules.\n\nExample: sysctl-cli limits web1 memory=2GiB cpu=150%")]
pub(crate) struct Args {
    /// Name of the instance
    name: String,
    /// What to change; an empty value takes a limit back
    #[arg(value_name = "WORD=VALUE")]
    pairs: Vec<String>,
    /// Show the limits again every second, after what is to change has changed
    #[arg(long)]
    watch: bool,
    /// Tell the steps without doing them
    #[arg(long, requires = "pairs", conflicts_with = "watch")]
    plan: bool,
}

/// How often `--watch` looks.
const AGAIN: Duration = Duration::from_secs(1);

pub(crate) async fn run(cx: &Context, args: Args) -> Result {
    let name = &args.name;
    if !args.pairs.is_empty() {
        change(cx, name, &args.pairs, args.plan).await?;
        if !args.watch {
            return Ok(());
        }
    }
    loop {
        let knobs = cx.client.get_instance_limits(name).await.attempt(|| format!("look at the limits of {name:?}"))?;
        cx.list(&knobs, || table(&knobs))?;
        if !args.watch {
            return Ok(());
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn change(cx: &Context, name: &str, pairs: &[String], plan: bool) -> Result {
    let patch = pairs.iter().map(|word| pair(word)).collect::<Result<LimitsPatch, String>>().map_err(Failure::usage)?;
    let attempt = || format!("limit {name:?}");
    if plan {
        return cx.plan(&cx.client.plan_patch_instance_limits(name, &patch).await.attempt(attempt)?);
    }
    let done = cx.client.patch_instance_limits(name, &patch, None).await.attempt(attempt)?;
    match cx.format {
        None => output::text(&told(&done)),
        Some(_) => cx.object(&done),
    }
}

/// `cpu=150%` as the key and its value.
fn pair(word: &str) -> Result<(String, Option<String>), String> {
    let (word, value) = crate::args::key_value(word).map_err(|expected| format!("{word:?}: {expected}"))?;
    let key = match (word.as_str(), value.as_str()) {
        // A share or a quota is about time, a number or a set about which CPUs.
        ("cpu", value) if value.contains(['%', '/']) => "limits.cpu.allowance".to_owned(),
        ("swap", _) => "limits.memory.swap".to_owned(),
        ("pids", _) => "limits.processes".to_owned(),
        (key, _) if key.starts_with("limits.") || key.starts_with("devices.") => key.to_owned(),
        (word, _) => format!("limits.{word}"),
    };
    Ok((key, (!value.is_empty()).then_some(value)))
}

fn told(done: &LimitsApplied) -> String {
    if done.applied.is_empty() {
        return "Kept; no knob had to be turned.\n".to_owned();
    }
    let lines =
        done.applied.iter().map(|knob| format!("{}: {} -> {} ({} us)\n", knob.knob, knob.old, knob.new, knob.us));
    format!("{}In force after {} us, and on the disk.\n", lines.collect::<String>(), done.total_us)
}

fn table(knobs: &[LimitKnob]) -> Table {
    let mut table = Table::new(["KNOB", "VALUE", "USED", "FILE"]);
    for knob in knobs {
        let used = knob.used.map(|used| used.to_string()).unwrap_or_default();
        table.row([(&knob.knob).into(), (&knob.value).into(), used.into(), (&knob.file).into()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_keys() {
        for (word, key, value) in [
            ("memory=2GiB", "limits.memory", Some("2GiB")),
            ("cpu=2", "limits.cpu", Some("2")),
            ("cpu=0-1", "limits.cpu", Some("0-1")),
            ("cpu=150%", "limits.cpu.allowance", Some("150%")),
            ("cpu=25ms/100ms", "limits.cpu.allowance", Some("25ms/100ms")),
            ("memory.high=1GiB", "limits.memory.high", Some("1GiB")),
            ("limits.processes=5", "limits.processes", Some("5")),
            ("swap=", "limits.memory.swap", None),
            ("devices.rules=-fuse", "devices.rules", Some("-fuse")),
        ] {
            assert_eq!(pair(word), Ok((key.to_owned(), value.map(str::to_owned))), "{word}");
        }
        assert!(pair("memory").is_err());
    }
}
