//! `project`.

use clap::{Args as Words, Subcommand};

use crate::context::Context;
use crate::failure::{Attempt, Result};
use crate::output::{Cell, Table};

/// What to do with projects.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List projects
    #[command(visible_alias = "ls")]
    List,
    /// Print a project
    Show(ShowArgs),
}

/// Words of `project show`.
#[derive(Debug, Words)]
pub(crate) struct ShowArgs {
    /// Name of the project
    name: String,
}

pub(crate) async fn run(cx: &Context, command: Command) -> Result {
    match command {
        Command::List => list(cx).await,
        Command::Show(args) => {
            let attempt = || format!("look at project {:?}", args.name);
            cx.object(&cx.client.get_project(&args.name).await.attempt(attempt)?.value)
        }
    }
}

async fn list(cx: &Context) -> Result {
    let projects = cx.client.get_projects().await.attempt(|| "list projects".into())?;
    cx.list(&projects, || {
        let mut table = Table::new(["NAME", "DESCRIPTION", "USED BY"]);
        for project in &projects {
            let used = Cell::from(&project.used_by.len());
            table.row([Cell::from(&project.name), Cell::from(&project.description), used]);
        }
        table
    })
}
