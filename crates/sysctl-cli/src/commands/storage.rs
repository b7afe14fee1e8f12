//! `storage`.

use clap::{Args as Words, Subcommand};

use super::list::bytes;
use crate::context::Context;
use crate::failure::{Attempt, Result};
use crate::output::{Cell, Table};

/// What to do with storage pools.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List storage pools
    #[command(visible_alias = "ls")]
    List,
    /// Print a storage pool
    Show(NameArgs),
    /// Tell how full a storage pool is
    Info(NameArgs),
}

/// Which pool.
#[derive(Debug, Words)]
pub(crate) struct NameArgs {
    /// Name of the pool
    name: String,
}

pub(crate) async fn run(cx: &Context, command: Command) -> Result {
    let attempt = |name: &str| format!("look at storage pool {name:?}");
    match command {
        Command::List => list(cx).await,
        Command::Show(args) => {
            cx.object(&cx.client.get_storage_pool(&args.name).await.attempt(|| attempt(&args.name))?.value)
        }
        Command::Info(args) => {
            let resources = cx.client.get_storage_pool_resources(&args.name).await;
            cx.object(&resources.attempt(|| attempt(&args.name))?)
        }
    }
}

async fn list(cx: &Context) -> Result {
    let pools = cx.client.get_storage_pools().await.attempt(|| "list storage pools".into())?;
    let mut usage = Vec::new();
    for pool in &pools {
        // A pool that cannot be measured is listed all the same.
        let resources = cx.client.get_storage_pool_resources(&pool.name).await.ok();
        let size = |count: u64| bytes(i64::try_from(count).unwrap_or(i64::MAX));
        usage.push(resources.map(|r| format!("{} of {}", size(r.space.used), size(r.space.total))).unwrap_or_default());
    }
    cx.list(&pools, || {
        let mut table = Table::new(["NAME", "DRIVER", "SOURCE", "DESCRIPTION", "SPACE", "USED BY"]);
        for (pool, usage) in pools.iter().zip(&usage) {
            let source = Cell::from(pool.config.get("source").map(String::as_str).unwrap_or_default());
            let (description, used) = (Cell::from(&pool.description), Cell::from(&pool.used_by.len()));
            table.row([Cell::from(&pool.name), Cell::from(&pool.driver), source, description, Cell::from(usage), used]);
        }
        table
    })
}
