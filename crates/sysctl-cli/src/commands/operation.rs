//! `operation`.

use clap::{Args as Words, Subcommand};
use sysctl_api::Operation;

use super::list::time;
use crate::context::{Context, Done};
use crate::failure::{Attempt, Result};
use crate::output::{Cell, Table};

/// What to do with operations.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List operations that run, and those that ended lately
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Print an operation
    Show(IdArgs),
    /// Wait until an operation is over
    Wait(IdArgs),
    /// Ask an operation to end early
    #[command(visible_alias = "delete")]
    Cancel(IdArgs),
}

/// Words of `operation list`.
#[derive(Debug, Words)]
pub(crate) struct ListArgs {
    /// Of every project
    #[arg(long)]
    all_projects: bool,
    /// Those that ended, too
    #[arg(long)]
    all: bool,
}

/// Which operation.
#[derive(Debug, Words)]
pub(crate) struct IdArgs {
    /// Id of the operation
    id: String,
}

pub(crate) async fn run(cx: &Context, command: Command) -> Result {
    match command {
        Command::List(args) => list(cx, args).await,
        Command::Show(IdArgs { id }) => {
            cx.object(&cx.client.get_operation(&id).await.attempt(|| format!("look at operation {id}"))?)
        }
        Command::Wait(IdArgs { id }) => {
            let attempt = || format!("wait for operation {id}");
            let operation = cx.client.get_operation(&id).await.attempt(attempt)?;
            let done = cx.finish(&operation, || format!("finish \"{}\"", operation.description)).await?;
            report(cx, "done", done.id)
        }
        Command::Cancel(IdArgs { id }) => {
            cx.client.cancel_operation(&id).await.attempt(|| format!("cancel operation {id}"))?;
            report(cx, "cancelled", id)
        }
    }
}

fn report(cx: &Context, action: &'static str, id: String) -> Result {
    cx.report(&[Done { action, kind: "operation", name: id.clone(), operation: id }])
}

async fn list(cx: &Context, args: ListArgs) -> Result {
    let by_status = cx.client.get_operations(args.all_projects).await.attempt(|| "list operations".into())?;
    let mut operations: Vec<Operation> =
        by_status.into_values().flatten().filter(|operation| args.all || !operation.is_final()).collect();
    operations.sort_by(|a, b| a.created_at.cmp(&b.created_at));
    cx.list(&operations, || {
        let mut table = Table::new(["ID", "CREATED", "STATUS", "DESCRIPTION", "OBJECTS", "ERROR"]);
        for operation in &operations {
            let objects = operation.resources.values().flatten();
            let objects: Vec<String> = objects.map(|path| path.trim_start_matches("/1.0/").to_owned()).collect();
            let (status, error) = (Cell::from(&operation.status), Cell::from(&operation.err));
            let created = time(&operation.created_at).into();
            let description = Cell::from(&operation.description);
            table.row([Cell::from(&operation.id), created, status, description, objects.into(), error]);
        }
        table
    })
}
