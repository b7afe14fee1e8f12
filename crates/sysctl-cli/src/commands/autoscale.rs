//! `autoscale`: where limits are that follow the need, and how they came there.

use clap::Args as Words;
use sysctl_api::{Autoscaling, ScaleLevel};

use super::list::bytes;
use crate::context::Context;
use crate::failure::{Attempt, Result};
use crate::output::Table;

/// Words of `autoscale`.
#[derive(Debug, Words)]
#[command(after_help = "Example: sysctl-cli config set web1 autoscale.memory=256MiB..4GiB autoscale.cpu=25%..400%")]
pub(crate) struct Args {
    /// Name of the instance
    name: String,
}

pub(crate) async fn run(cx: &Context, args: Args) -> Result {
    let name = &args.name;
    let found = cx.client.get_instance_autoscale(name).await.attempt(|| format!("look at the levels of {name:?}"))?;
    cx.list(&found, || table(&found))
}

/// A level in its unit.
fn amount(resource: &str, level: u64) -> String {
    if resource == "cpu" { format!("{level}%") } else { bytes(level as i64) }
}

fn table(found: &Autoscaling) -> Table {
    let mut table = Table::new(["WHEN", "WHAT", "FROM", "TO", "AFTER", "WHY"]);
    for one in &found.history {
        let (from, to) = (amount(&one.resource, one.from), amount(&one.resource, one.to));
        let after = format!("{} us", one.us);
        table.row([
            one.at.as_str().into(),
            one.resource.as_str().into(),
            from.into(),
            to.into(),
            after.into(),
            one.cause.as_str().into(),
        ]);
    }
    let mut now = |resource: &str, level: Option<ScaleLevel>| {
        if let Some(ScaleLevel { min, max, level }) = level {
            let range = format!("{}..{}", amount(resource, min), amount(resource, max));
            let level = amount(resource, level);
            table.row([
                "now".into(),
                resource.into(),
                range.into(),
                level.into(),
                "".into(),
                found.mode.as_str().into(),
            ]);
        }
    };
    now("memory", found.memory);
    now("cpu", found.cpu);
    table
}
