//! `profile`.

use clap::{Args as Words, Subcommand};

use crate::context::Context;
use crate::failure::{Attempt, Result};
use crate::output::{Cell, Table};

/// What to do with profiles.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List profiles
    #[command(visible_alias = "ls")]
    List,
    /// Print a profile
    Show(ShowArgs),
}

/// Words of `profile show`.
#[derive(Debug, Words)]
pub(crate) struct ShowArgs {
    /// Name of the profile
    name: String,
}

pub(crate) async fn run(cx: &Context, command: Command) -> Result {
    match command {
        Command::List => list(cx).await,
        Command::Show(args) => {
            let attempt = || format!("look at profile {:?}", args.name);
            cx.object(&cx.client.get_profile(&args.name).await.attempt(attempt)?.value)
        }
    }
}

async fn list(cx: &Context) -> Result {
    let profiles = cx.client.get_profiles().await.attempt(|| "list profiles".into())?;
    cx.list(&profiles, || {
        let mut table = Table::new(["NAME", "DESCRIPTION", "DEVICES", "USED BY"]);
        for profile in &profiles {
            let devices: Vec<String> = profile.devices.keys().cloned().collect();
            let used = Cell::from(&profile.used_by.len());
            table.row([Cell::from(&profile.name), Cell::from(&profile.description), devices.into(), used]);
        }
        table
    })
}
