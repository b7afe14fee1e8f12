//! `network`.

use clap::{Args as Words, Subcommand};
use sysctl_api::Network;
use sysctl_client::ListOptions;

use crate::context::Context;
use crate::failure::{Attempt, Result};
use crate::output::{Cell, Table};

/// What to do with networks.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List networks, and the links of the host
    #[command(visible_alias = "ls")]
    List,
    /// Print a network
    Show(NameArgs),
    /// Print addresses and counters of a network
    Info(NameArgs),
    /// List the addresses that a network has given out
    Leases(NameArgs),
}

/// Which network.
#[derive(Debug, Words)]
pub(crate) struct NameArgs {
    /// Name of the network
    name: String,
}

pub(crate) async fn run(cx: &Context, command: Command) -> Result {
    let attempt = |name: &str| format!("look at network {name:?}");
    match command {
        Command::List => list(cx).await,
        Command::Show(args) => {
            cx.object(&cx.client.get_network(&args.name).await.attempt(|| attempt(&args.name))?.value)
        }
        Command::Info(args) => {
            cx.object(&cx.client.get_network_state(&args.name).await.attempt(|| attempt(&args.name))?)
        }
        Command::Leases(args) => leases(cx, &args.name).await,
    }
}

async fn list(cx: &Context) -> Result {
    let networks = cx.client.get_networks(&ListOptions::default()).await.attempt(|| "list networks".into())?;
    cx.list(&networks, || {
        let mut table = Table::new(["NAME", "TYPE", "MANAGED", "IPV4", "IPV6", "DESCRIPTION", "USED BY"]);
        for network in &networks {
            let Network { name, kind, description, .. } = network;
            let key = |key: &str| Cell::from(network.config.get(key).map(String::as_str).unwrap_or_default());
            let managed = Cell::from(if network.managed { "yes" } else { "no" });
            let (ipv4, ipv6) = (key("ipv4.address"), key("ipv6.address"));
            let used = Cell::from(&network.used_by.len());
            table.row([Cell::from(name), Cell::from(kind), managed, ipv4, ipv6, Cell::from(description), used]);
        }
        table
    })
}

async fn leases(cx: &Context, name: &str) -> Result {
    let attempt = || format!("list the addresses of network {name:?}");
    let leases = cx.client.get_network_leases(name).await.attempt(attempt)?;
    cx.list(&leases, || {
        let mut table = Table::new(["HOSTNAME", "MAC ADDRESS", "IP ADDRESS", "TYPE"]);
        for lease in &leases {
            let cells = [&lease.hostname, &lease.hwaddr, &lease.address, &lease.kind];
            table.row(cells.map(Cell::from));
        }
        table
    })
}
