//! `chain`: functions between a network and an instance. Extension `sysctl_chains`.

use std::collections::BTreeMap;

use clap::{Args as Words, Subcommand};
use sysctl_api::{Network, NetworkPut, NetworkState, NetworksPost};
use sysctl_client::ListOptions;

use crate::context::{Context, Done};
use crate::failure::{Attempt, Failure, Result};
use crate::output::{self, Cell, Table};

const FUNCTIONS: &str = "chain.functions";
const BYPASS: &str = "chain.bypass";

/// What to do with chains.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List chains
    #[command(visible_alias = "ls")]
    List,
    /// Put functions between a network and an instance's NIC
    Create(CreateArgs),
    /// Show the hops of a chain and what went through each
    Show(NameArgs),
    /// Draw a chain
    Graph(NameArgs),
    /// Put a function into a chain, while packets flow
    Insert(InsertArgs),
    /// Take a function out of a chain, while packets flow
    Remove(FunctionArgs),
    /// Have packets pass a function by, or not any more
    Bypass(BypassArgs),
    /// Delete a chain: the NIC at its end is on the network again
    Delete(DeleteArgs),
}

/// Words of `chain create`.
#[derive(Debug, Words)]
pub(crate) struct CreateArgs {
    /// Name of the chain
    name: String,
    /// The NIC that it leads to
    #[arg(long, value_name = "INSTANCE:DEVICE")]
    to: String,
    /// The network that it begins at; that of the NIC when left out
    #[arg(long, value_name = "NETWORK")]
    from: Option<String>,
    /// A function, from the network to the instance; its links are called in and out unless named
    #[arg(long, value_name = "INSTANCE[:LINK/LINK]")]
    via: Vec<String>,
    /// What becomes of packets while a function does not run: block or bypass
    #[arg(long, value_name = "WORD", default_value = "block")]
    on_failure: String,
    /// Tell what that would do without doing it
    #[arg(long)]
    plan: bool,
}

/// Which chain.
#[derive(Debug, Words)]
pub(crate) struct NameArgs {
    /// Name of the chain
    name: String,
}

/// Words of `chain delete`.
#[derive(Debug, Words)]
pub(crate) struct DeleteArgs {
    /// Name of the chain
    name: String,
    /// Tell what that would do without doing it
    #[arg(long)]
    plan: bool,
}

/// Which function of which chain.
#[derive(Debug, Words)]
pub(crate) struct FunctionArgs {
    /// Name of the chain
    name: String,
    /// Name of the instance
    function: String,
    /// Tell what that would do without doing it
    #[arg(long)]
    plan: bool,
}

/// Words of `chain insert`.
#[derive(Debug, Words)]
pub(crate) struct InsertArgs {
    /// Name of the chain
    name: String,
    /// The function; its links are called in and out unless named
    #[arg(value_name = "INSTANCE[:LINK/LINK]")]
    function: String,
    /// Behind this function; at the end when neither is said
    #[arg(long, value_name = "INSTANCE")]
    after: Option<String>,
    /// Before this function
    #[arg(long, value_name = "INSTANCE", conflicts_with = "after")]
    before: Option<String>,
    /// Give it its links, and let packets pass it by until it is set up
    #[arg(long)]
    bypassed: bool,
    /// Tell what that would do without doing it
    #[arg(long)]
    plan: bool,
}

/// Words of `chain bypass`.
#[derive(Debug, Words)]
pub(crate) struct BypassArgs {
    /// Name of the chain
    name: String,
    /// Name of the instance
    function: String,
    /// Let packets go through it again
    #[arg(long)]
    off: bool,
    /// Tell what that would do without doing it
    #[arg(long)]
    plan: bool,
}

pub(crate) async fn run(cx: &Context, command: Command) -> Result {
    match command {
        Command::List => list(cx).await,
        Command::Create(args) => create(cx, args).await,
        Command::Show(args) => show(cx, &args.name).await,
        Command::Graph(args) => graph(cx, &args.name).await,
        Command::Insert(args) => {
            let InsertArgs { name, function, after, before, bypassed, plan } = args;
            let place = (after.as_deref(), before.as_deref());
            change(cx, (&name, plan), "insert", |config| insert(config, &function, place, bypassed)).await
        }
        Command::Remove(args) => {
            change(cx, (&args.name, args.plan), "remove", |config| remove(config, &args.function)).await
        }
        Command::Bypass(args) => {
            change(cx, (&args.name, args.plan), "bypass", |config| bypass(config, &args.function, !args.off)).await
        }
        Command::Delete(args) => {
            let attempt = || format!("delete chain {:?}", args.name);
            if args.plan {
                return cx.plan(&cx.client.plan_delete_network(&args.name).await.attempt(attempt)?);
            }
            cx.client.delete_network(&args.name).await.attempt(attempt)?;
            cx.report(&[done("deleted", args.name)])
        }
    }
}

fn done(action: &'static str, name: String) -> Done {
    Done { action, kind: "chain", name, operation: String::new() }
}

type Keys = BTreeMap<String, String>;

fn parts(config: &Keys, key: &str) -> Vec<String> {
    let text = config.get(key).map(String::as_str).unwrap_or_default();
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// `fw1:lan/wan` is the function `fw1`.
fn name_of(part: &str) -> &str {
    part.split(':').next().unwrap_or(part)
}

fn position(functions: &[String], name: &str) -> std::result::Result<usize, String> {
    let found = functions.iter().position(|part| name_of(part) == name);
    found.ok_or_else(|| format!("{name} is no function of this chain"))
}

fn insert(
    config: &mut Keys,
    function: &str,
    (after, before): (Option<&str>, Option<&str>),
    bypassed: bool,
) -> std::result::Result<(), String> {
    let mut functions = parts(config, FUNCTIONS);
    let place = match (after, before) {
        (Some(name), _) => position(&functions, name)? + 1,
        (None, Some(name)) => position(&functions, name)?,
        (None, None) => functions.len(),
    };
    functions.insert(place, function.to_owned());
    config.insert(FUNCTIONS.into(), functions.join(","));
    if bypassed { bypass(config, name_of(function), true) } else { Ok(()) }
}

fn remove(config: &mut Keys, function: &str) -> std::result::Result<(), String> {
    let mut functions = parts(config, FUNCTIONS);
    functions.remove(position(&functions, function)?);
    config.insert(FUNCTIONS.into(), functions.join(","));
    bypass_list(config, function, false);
    Ok(())
}

fn bypass(config: &mut Keys, function: &str, on: bool) -> std::result::Result<(), String> {
    position(&parts(config, FUNCTIONS), function)?;
    bypass_list(config, function, on);
    Ok(())
}

fn bypass_list(config: &mut Keys, function: &str, on: bool) {
    let mut bypassed = parts(config, BYPASS);
    bypassed.retain(|name| name != function);
    if on {
        bypassed.push(function.to_owned());
    }
    config.insert(BYPASS.into(), bypassed.join(","));
    config.retain(|_, value| !value.is_empty());
}

async fn change(
    cx: &Context,
    (name, plan): (&str, bool),
    what: &'static str,
    act: impl FnOnce(&mut Keys) -> std::result::Result<(), String>,
) -> Result {
    let attempt = || format!("{what} in chain {name:?}");
    let found = cx.client.get_network(name).await.attempt(attempt)?;
    let mut config: Keys = found.value.config;
    act(&mut config).map_err(|text| Failure::new(attempt(), text))?;
    let put = NetworkPut { config, description: found.value.description };
    if plan {
        return cx.plan(&cx.client.plan_update_network(name, &put, Some(&found.etag)).await.attempt(attempt)?);
    }
    cx.client.update_network(name, &put, Some(&found.etag)).await.attempt(attempt)?;
    cx.report(&[done("changed", name.to_owned())])
}

async fn create(cx: &Context, args: CreateArgs) -> Result {
    let mut config = Keys::from([("chain.to".to_owned(), args.to), ("chain.on_failure".to_owned(), args.on_failure)]);
    config.extend(args.from.map(|from| ("chain.from".to_owned(), from)));
    if !args.via.is_empty() {
        config.insert(FUNCTIONS.into(), args.via.join(","));
    }
    let post = NetworksPost { name: args.name.clone(), kind: "chain".into(), config, ..NetworksPost::default() };
    let attempt = || format!("create chain {:?}", args.name);
    if args.plan {
        return cx.plan(&cx.client.plan_create_network(&post).await.attempt(attempt)?);
    }
    cx.client.create_network(&post).await.attempt(attempt)?;
    cx.report(&[done("created", args.name)])
}

async fn list(cx: &Context) -> Result {
    let all = cx.client.get_networks(&ListOptions::default()).await.attempt(|| "list chains".into())?;
    let chains: Vec<Network> = all.into_iter().filter(|network| network.kind == "chain").collect();
    cx.list(&chains, || {
        let mut table = Table::new(["NAME", "FROM", "FUNCTIONS", "BYPASSED", "TO"]);
        for chain in &chains {
            let key = |key: &str| Cell::from(chain.config.get(key).map(String::as_str).unwrap_or_default());
            table.row([Cell::from(&chain.name), key("chain.from"), key(FUNCTIONS), key(BYPASS), key("chain.to")]);
        }
        table
    })
}

async fn state(cx: &Context, name: &str) -> Result<NetworkState> {
    let attempt = || format!("look at chain {name:?}");
    let state = cx.client.get_network_state(name).await.attempt(attempt)?;
    if state.chain.is_none() {
        return Err(Failure::new(attempt(), "it is no chain"));
    }
    Ok(state)
}

async fn show(cx: &Context, name: &str) -> Result {
    let state = state(cx, name).await?;
    let chain = state.chain.unwrap_or_default();
    cx.list(&chain, || {
        let mut table = Table::new(["HOP", "LINK", "STATE", "RECEIVED", "SENT", "DROPPED"]);
        for hop in &chain.hops {
            let word = match (hop.up, hop.bypassed) {
                (false, _) => "down",
                (true, true) => "bypassed",
                (true, false) => "up",
            };
            for link in &hop.links {
                let counters = [link.packets_received, link.packets_sent, link.packets_dropped].map(|n| Cell::from(&n));
                let [received, sent, dropped] = counters;
                table.row([Cell::from(&hop.name), Cell::from(&link.name), Cell::from(word), received, sent, dropped]);
            }
        }
        table
    })
}

async fn graph(cx: &Context, name: &str) -> Result {
    let chain = state(cx, name).await?.chain.unwrap_or_default();
    let stop = |hop: &sysctl_api::ChainHop| match (hop.up, hop.bypassed) {
        (_, true) => format!("({})", hop.name),
        (false, false) => format!("{} ✗", hop.name),
        (true, false) => hop.name.clone(),
    };
    let stops: Vec<String> = chain.hops.iter().map(stop).collect();
    output::text(&format!("{}\n", stops.join(" ─▶ ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_come_and_go_where_they_are_said_to() {
        let mut config = Keys::from([(FUNCTIONS.to_owned(), "fw1:lan/wan,ids1".to_owned())]);
        let functions = |config: &Keys| config.get(FUNCTIONS).cloned().unwrap_or_default();
        insert(&mut config, "nat1", (Some("fw1"), None), true).expect("inserted");
        assert_eq!((functions(&config).as_str(), config[BYPASS].as_str()), ("fw1:lan/wan,nat1,ids1", "nat1"));
        insert(&mut config, "first:a/b", (None, Some("fw1")), false).expect("inserted");
        assert_eq!(functions(&config), "first:a/b,fw1:lan/wan,nat1,ids1");
        bypass(&mut config, "fw1", true).expect("bypassed");
        bypass(&mut config, "nat1", false).expect("not bypassed");
        assert_eq!(config[BYPASS], "fw1");
        remove(&mut config, "fw1").expect("removed");
        assert_eq!((functions(&config).as_str(), config.get(BYPASS)), ("first:a/b,nat1,ids1", None));
        assert!(remove(&mut config, "fw1").expect_err("gone").contains("no function"));
        assert!(insert(&mut config, "x", (Some("fw1"), None), false).is_err());
    }
}
