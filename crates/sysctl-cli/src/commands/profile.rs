//! `profile`.

use clap::{Args as Words, Subcommand};
use sysctl_api::{Config, Devices, ProfilePut, ProfilesPost};

use super::config::{Keys, Pairs};
use crate::args::key_value;
use crate::context::{Context, Done};
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
    /// Make a profile
    Create(CreateArgs),
    /// Set keys of a profile, and so of whoever uses it
    Set(SetArgs),
    /// Take keys of a profile back
    Unset(UnsetArgs),
    /// Delete profiles that nobody uses
    #[command(visible_alias = "rm")]
    Delete(DeleteArgs),
}

/// Words of `profile show`.
#[derive(Debug, Words)]
pub(crate) struct ShowArgs {
    /// Name of the profile
    name: String,
}

/// Words of `profile create`.
#[derive(Debug, Words)]
pub(crate) struct CreateArgs {
    /// Name of the profile
    name: String,
    /// Key
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = key_value)]
    config: Vec<(String, String)>,
    /// Words about it
    #[arg(long, value_name = "TEXT", default_value = "")]
    description: String,
    /// Tell the steps without doing them
    #[arg(long)]
    plan: bool,
}

/// Words of `profile set`.
#[derive(Debug, Words)]
pub(crate) struct SetArgs {
    /// Name of the profile
    name: String,
    #[command(flatten)]
    set: Pairs,
}

/// Words of `profile unset`.
#[derive(Debug, Words)]
pub(crate) struct UnsetArgs {
    /// Name of the profile
    name: String,
    #[command(flatten)]
    unset: Keys,
}

/// Words of `profile delete`.
#[derive(Debug, Words)]
pub(crate) struct DeleteArgs {
    /// Names of the profiles
    #[arg(required = true)]
    names: Vec<String>,
    /// Tell the steps without doing them
    #[arg(long)]
    plan: bool,
}

pub(crate) async fn run(cx: &Context, command: Command) -> Result {
    match command {
        Command::List => list(cx).await,
        Command::Show(args) => {
            let attempt = || format!("look at profile {:?}", args.name);
            cx.object(&cx.client.get_profile(&args.name).await.attempt(attempt)?.value)
        }
        Command::Create(args) => create(cx, args).await,
        Command::Set(args) => change(cx, &args.name, args.set.read()?, args.set.plan).await,
        Command::Unset(args) => change(cx, &args.name, args.unset.read(), args.unset.plan).await,
        Command::Delete(args) => delete(cx, args).await,
    }
}

fn done(action: &'static str, name: &str) -> Done {
    Done { action, kind: "profile", name: name.to_owned(), operation: String::new() }
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

async fn create(cx: &Context, args: CreateArgs) -> Result {
    let CreateArgs { name, config, description, plan } = args;
    let post = ProfilesPost { name, description, config: config.into_iter().collect(), devices: Devices::new() };
    let attempt = || format!("create profile {:?}", post.name);
    if plan {
        return cx.plan(&cx.client.plan_create_profile(&post).await.attempt(attempt)?);
    }
    cx.client.create_profile(&post).await.attempt(attempt)?;
    cx.report(&[done("created", &post.name)])
}

async fn change(cx: &Context, name: &str, pairs: Config, plan: bool) -> Result {
    let keys: Vec<&str> = pairs.keys().map(String::as_str).collect();
    let attempt = || format!("change {} of profile {name:?}", keys.join(", "));
    let patch = ProfilePut { config: Some(pairs.clone()), ..ProfilePut::default() };
    if plan {
        return cx.plan(&cx.client.plan_patch_profile(name, &patch).await.attempt(attempt)?);
    }
    cx.client.patch_profile(name, &patch, None).await.attempt(attempt)?;
    cx.report(&[done("changed", name)])
}

async fn delete(cx: &Context, args: DeleteArgs) -> Result {
    for name in &args.names {
        let attempt = || format!("delete profile {name:?}");
        if args.plan {
            cx.plan(&cx.client.plan_delete_profile(name).await.attempt(attempt)?)?;
            continue;
        }
        cx.client.delete_profile(name).await.attempt(attempt)?;
        cx.report(&[done("deleted", name)])?;
    }
    Ok(())
}
