//! `config get`, `set`, `unset` and `show`.

use std::io::Read;

use clap::{Args as Words, Subcommand};
use serde::Serialize;
use sysctl_api::{Config, Devices, Instance, InstancePut};

use crate::context::{Context, Done};
use crate::failure::{Attempt, Failure, Result};
use crate::output;

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the value of a key
    Get(GetArgs),
    /// Set keys
    Set(SetArgs),
    /// Take keys back
    Unset(UnsetArgs),
    /// Print all that is written about an instance
    Show(ShowArgs),
}

/// Words of `config get`.
#[derive(Debug, Words)]
pub(crate) struct GetArgs {
    /// Name of the instance
    name: String,
    /// Key
    key: String,
    /// With its profiles laid over
    #[arg(long)]
    expanded: bool,
}

/// Words of `config set`.
#[derive(Debug, Words)]
pub(crate) struct SetArgs {
    /// Name of the instance
    name: String,
    #[command(flatten)]
    set: Pairs,
}

/// Keys to set.
#[derive(Debug, Words)]
pub(super) struct Pairs {
    /// KEY=VALUE, or one KEY and its VALUE; the value - is read from standard input
    #[arg(required = true, value_name = "KEY=VALUE")]
    pairs: Vec<String>,
    /// Tell the steps without doing them
    #[arg(long)]
    pub(super) plan: bool,
}

impl Pairs {
    /// As they are written in a change.
    pub(super) fn read(&self) -> Result<Config> {
        pairs(&self.pairs, read_stdin).map_err(Failure::usage)
    }
}

/// Words of `config unset`.
#[derive(Debug, Words)]
pub(crate) struct UnsetArgs {
    /// Name of the instance
    name: String,
    #[command(flatten)]
    unset: Keys,
}

/// Keys to take back.
#[derive(Debug, Words)]
pub(super) struct Keys {
    /// Keys
    #[arg(required = true)]
    keys: Vec<String>,
    /// Tell the steps without doing them
    #[arg(long)]
    pub(super) plan: bool,
}

impl Keys {
    /// As they are written in a change: an empty value takes a key back.
    pub(super) fn read(&self) -> Config {
        self.keys.iter().map(|key| (key.clone(), String::new())).collect()
    }
}

/// Words of `config show`.
#[derive(Debug, Words)]
pub(crate) struct ShowArgs {
    /// Name of the instance
    name: String,
    /// With its profiles laid over
    #[arg(long)]
    expanded: bool,
}

/// How often a change is tried again that somebody else's came before. Each try sees the other's work.
const TRIES: u32 = 5;

pub(crate) async fn run(cx: &Context, command: Command) -> Result {
    match command {
        Command::Get(args) => get(cx, args).await,
        Command::Set(args) => {
            let pairs = args.set.read()?;
            let keys: Vec<&str> = pairs.keys().map(String::as_str).collect();
            let attempt = format!("set {} of instance {:?}", keys.join(", "), args.name);
            change(cx, &args.name, pairs, args.set.plan, &attempt).await
        }
        Command::Unset(args) => {
            let attempt = format!("unset {} of instance {:?}", args.unset.keys.join(", "), args.name);
            change(cx, &args.name, args.unset.read(), args.unset.plan, &attempt).await
        }
        Command::Show(args) => show(cx, args).await,
    }
}

async fn instance(cx: &Context, name: &str) -> Result<Instance> {
    Ok(cx.client.get_instance(name).await.attempt(|| format!("look at instance {name:?}"))?.value)
}

async fn get(cx: &Context, args: GetArgs) -> Result {
    let instance = instance(cx, &args.name).await?;
    let config = if args.expanded { instance.expanded_config } else { instance.config };
    let value = config.get(&args.key).map(String::as_str).unwrap_or_default();
    match cx.format {
        None => output::text(&format!("{value}\n")),
        Some(_) => cx.object(&Config::from([(args.key.clone(), value.to_owned())])),
    }
}

fn read_stdin() -> std::io::Result<String> {
    let mut text = String::new();
    std::io::stdin().lock().read_to_string(&mut text)?;
    Ok(text)
}

/// Reads `KEY=VALUE…`, or `KEY VALUE`.
fn pairs(words: &[String], stdin: impl Fn() -> std::io::Result<String>) -> Result<Config, String> {
    let pairs: Vec<(String, String)> = match words {
        [key, value] if !key.contains('=') => vec![(key.clone(), value.clone())],
        words => words
            .iter()
            .map(|word| crate::args::key_value(word).map_err(|expected| format!("{word:?}: {expected}")))
            .collect::<Result<_, _>>()?,
    };
    let mut read = false;
    let mut config = Config::new();
    for (key, value) in pairs {
        let value = match value.as_str() {
            "-" if std::mem::replace(&mut read, true) => return Err("only one value can be standard input".into()),
            "-" => stdin().map_err(|error| format!("standard input cannot be read: {error}"))?,
            _ => value,
        };
        config.insert(key, value);
    }
    Ok(config)
}

async fn change(cx: &Context, name: &str, pairs: Config, plan: bool, attempt: &str) -> Result {
    let patch = InstancePut { config: Some(pairs), ..InstancePut::default() };
    let attempt = || attempt.to_owned();
    if plan {
        return cx.plan(&cx.client.plan_patch_instance(name, &patch).await.attempt(attempt)?);
    }
    let mut tries = 0;
    let operation = loop {
        tries += 1;
        let tag = cx.client.get_instance(name).await.attempt(attempt)?.etag;
        match cx.client.patch_instance(name, &patch, Some(&tag)).await {
            Err(error) if error.status() == Some(412) && tries < TRIES => {}
            result => break result.attempt(attempt)?,
        }
    };
    cx.finish(&operation, attempt).await?;
    cx.report(&[Done { action: "changed", kind: "instance", name: name.to_owned(), operation: operation.id }])
}

/// What is written about an instance: what a change may send back.
#[derive(Serialize)]
struct Written {
    architecture: String,
    config: Config,
    devices: Devices,
    ephemeral: bool,
    profiles: Vec<String>,
    description: String,
    name: String,
    project: String,
}

async fn show(cx: &Context, args: ShowArgs) -> Result {
    let instance = instance(cx, &args.name).await?;
    let (config, devices) = match args.expanded {
        true => (instance.expanded_config, instance.expanded_devices),
        false => (instance.config, instance.devices),
    };
    cx.object(&Written {
        architecture: instance.architecture,
        config,
        devices,
        ephemeral: instance.ephemeral,
        profiles: instance.profiles,
        description: instance.description,
        name: instance.name,
        project: instance.project,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Config, String> {
        pairs(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>(), || Ok("from stdin".into()))
    }

    #[test]
    fn both_spellings_of_a_pair_are_read() {
        assert_eq!(parse(&["limits.cpu", "2"]), parse(&["limits.cpu=2"]));
        assert_eq!(parse(&["a=b=c", "d="]).map(|c| c["a"].clone()), Ok("b=c".into()));
        assert_eq!(parse(&["a", "b=c"]).map(|c| c["a"].clone()), Ok("b=c".into()));
        assert_eq!(parse(&["user.data=-"]).map(|c| c["user.data"].clone()), Ok("from stdin".into()));
    }

    #[test]
    fn what_is_no_pair_is_refused() {
        assert!(parse(&["a"]).is_err() && parse(&["a=b", "c"]).is_err() && parse(&["=b"]).is_err());
        assert!(parse(&["a=-", "b=-"]).is_err());
    }
}
