//! `delete`.

use clap::Args as Words;
use sysctl_api::{StatePut, code};

use crate::context::{Context, Done};
use crate::failure::{Attempt, Failure, Result};

/// Words of `delete`.
#[derive(Debug, Words)]
pub(crate) struct Args {
    /// Names of instances
    #[arg(required = true)]
    names: Vec<String>,
    /// Kill it first when it runs
    #[arg(long)]
    force: bool,
    /// Tell the steps without doing them
    #[arg(long)]
    plan: bool,
}

pub(crate) async fn run(cx: &Context, args: Args) -> Result {
    let attempt = |name: &str| format!("delete instance {name:?}");
    if args.plan {
        for name in &args.names {
            cx.plan(&cx.client.plan_delete_instance(name).await.attempt(|| attempt(name))?)?;
        }
        return Ok(());
    }
    let (force, attempt) = (args.force, &attempt);
    cx.each(&args.names, |name| async move {
        if force && kill(cx, &name, attempt).await? {
            return Ok(Done { action: "deleted", kind: "instance", name, operation: String::new() });
        }
        let started = cx.client.delete_instance(&name).await.attempt(|| attempt(&name));
        let operation = started.map_err(|failure| running_hint(failure, &name))?;
        cx.finish(&operation, || attempt(&name)).await?;
        Ok(Done { action: "deleted", kind: "instance", name, operation: operation.id })
    })
    .await
}

/// Kills an instance that runs. Returns whether that has deleted it, too.
async fn kill(cx: &Context, name: &str, attempt: &impl Fn(&str) -> String) -> Result<bool> {
    let instance = cx.client.get_instance(name).await.attempt(|| attempt(name))?.value;
    if instance.status_code == code::STOPPED {
        return Ok(false);
    }
    let put = StatePut { action: "stop".into(), timeout: -1, force: true, stateful: false };
    match cx.client.update_instance_state(name, &put).await {
        Ok(operation) => drop(cx.finish(&operation, || attempt(name)).await?),
        // It stopped by itself meanwhile; if that is not why, deleting it says so.
        Err(error) if error.status() == Some(400) => {}
        Err(error) => return Err(Failure::of(attempt(name), &error)),
    }
    Ok(instance.ephemeral)
}

fn running_hint(failure: Failure, name: &str) -> Failure {
    if failure.says("running") {
        failure.with_hint(format!("sysctl-cli delete --force {name} kills and deletes it."))
    } else {
        failure
    }
}
