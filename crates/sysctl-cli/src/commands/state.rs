//! `start`, `stop`, `restart`, `pause` and `resume`.

use clap::Args as Words;
use sysctl_api::{Instance, StatePut, code};
use sysctl_client::ListOptions;

use crate::context::{Context, Done};
use crate::failure::{Attempt, Failure, Result};

/// Which instances.
#[derive(Debug, Words)]
pub(crate) struct NamesArgs {
    /// Names of instances
    #[arg(required_unless_present = "all")]
    names: Vec<String>,
    /// All of the project that it makes a difference for
    #[arg(long, conflicts_with = "names")]
    all: bool,
}

/// Words of `start`.
#[derive(Debug, Words)]
pub(crate) struct StartArgs {
    #[command(flatten)]
    which: NamesArgs,
    /// Tell the steps without doing them
    #[arg(long)]
    plan: bool,
}

/// Words of `pause` and `resume`.
#[derive(Debug, Words)]
pub(crate) struct HoldArgs {
    #[command(flatten)]
    which: NamesArgs,
    /// Tell the steps without doing them
    #[arg(long)]
    plan: bool,
}

/// Words of `stop` and `restart`.
#[derive(Debug, Words)]
pub(crate) struct StopArgs {
    #[command(flatten)]
    which: NamesArgs,
    /// Do not let it shut down: kill it
    #[arg(long)]
    force: bool,
    /// How long it may take to shut down; then it is killed
    #[arg(long, value_name = "SECONDS", conflicts_with = "force", value_parser = clap::value_parser!(u32).range(1..))]
    timeout: Option<u32>,
    /// Tell the steps without doing them
    #[arg(long)]
    plan: bool,
}

/// A change of state, in words.
#[derive(Debug)]
pub(crate) struct Change {
    /// For the server.
    action: &'static str,
    /// Like `start`.
    verb: &'static str,
    /// Like `started`.
    done: &'static str,
    /// Whether it makes a difference.
    applies: fn(u16) -> bool,
}

const START: Change =
    Change { action: "start", verb: "start", done: "started", applies: |status| status == code::STOPPED };
/// `stop`.
pub(crate) const STOP: Change =
    Change { action: "stop", verb: "stop", done: "stopped", applies: |status| status != code::STOPPED };
/// `restart`.
pub(crate) const RESTART: Change =
    Change { action: "restart", verb: "restart", done: "restarted", applies: |status| status == code::RUNNING };
/// `pause`.
pub(crate) const PAUSE: Change =
    Change { action: "freeze", verb: "pause", done: "paused", applies: |status| status == code::RUNNING };
/// `resume`.
pub(crate) const RESUME: Change =
    Change { action: "unfreeze", verb: "resume", done: "resumed", applies: |status| status == code::FROZEN };

pub(crate) async fn start(cx: &Context, args: StartArgs) -> Result {
    change(cx, args.which, &START, StatePut::default(), args.plan).await
}

pub(crate) async fn stop(cx: &Context, args: StopArgs, how: &Change) -> Result {
    let put = StatePut { force: args.force, timeout: args.timeout.map_or(-1, i64::from), ..StatePut::default() };
    change(cx, args.which, how, put, args.plan).await
}

pub(crate) async fn hold(cx: &Context, args: HoldArgs, how: &Change) -> Result {
    change(cx, args.which, how, StatePut::default(), args.plan).await
}

async fn change(cx: &Context, which: NamesArgs, how: &Change, put: StatePut, plan: bool) -> Result {
    let names = if which.all { applicable(cx, how).await? } else { which.names };
    let put = StatePut { action: how.action.into(), ..put };
    let attempt = |name: &str| format!("{} instance {name:?}", how.verb);
    if plan {
        for name in &names {
            cx.plan(&cx.client.plan_update_instance_state(name, &put).await.attempt(|| attempt(name))?)?;
        }
        return Ok(());
    }
    cx.each(&names, |name| {
        let (put, attempt) = (&put, &attempt);
        async move {
            let operation = cx.client.update_instance_state(&name, put).await.attempt(|| attempt(&name))?;
            let operation = cx.finish(&operation, || attempt(&name)).await.map_err(|f| log_hint(f, &name, how))?;
            Ok(Done { action: how.done, kind: "instance", name, operation: operation.id })
        }
    })
    .await
}

/// Where to look when an instance did not come up.
fn log_hint(failure: Failure, name: &str, how: &Change) -> Failure {
    match how.verb {
        "start" | "restart" => failure.with_hint(format!("sysctl-cli console {name} --show-log shows what it said.")),
        _ => failure,
    }
}

async fn applicable(cx: &Context, how: &Change) -> Result<Vec<String>> {
    let instances = cx.client.get_instances(&ListOptions::default()).await.attempt(|| "list instances".into())?;
    Ok(instances.into_iter().filter(|i: &Instance| (how.applies)(i.status_code)).map(|i| i.name).collect())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn names_or_all_but_not_both_and_not_neither() {
        let parse = |words: &str| Cli::try_parse_from(format!("sysctl-cli {words}").split(' ')).is_ok();
        assert!(parse("stop a b --force") && parse("stop --all --timeout 3") && parse("start a --plan"));
        assert!(parse("pause a --plan") && parse("resume --all --plan") && parse("restart a --plan"));
        assert!(!parse("stop") && !parse("stop a --all") && !parse("stop a --force --timeout 3"));
        assert!(!parse("stop a --timeout 0"));
    }

    #[test]
    fn all_means_those_that_it_makes_a_difference_for() {
        assert!((START.applies)(code::STOPPED) && !(START.applies)(code::RUNNING));
        assert!((STOP.applies)(code::FROZEN) && (STOP.applies)(code::ERROR) && !(STOP.applies)(code::STOPPED));
        assert!((RESUME.applies)(code::FROZEN) && !(RESUME.applies)(code::RUNNING));
    }
}
