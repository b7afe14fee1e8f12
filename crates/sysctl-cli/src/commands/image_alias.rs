//! `image alias`.

use clap::{Args as Words, Subcommand};
use sysctl_api::ImageAliasEntry;

use super::image::fingerprint;
use crate::context::{Context, Done};
use crate::failure::{Attempt, Result};
use crate::output::{Cell, Table};

/// What to do with names of images.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List names of images; those that can be built are among them
    #[command(visible_alias = "ls")]
    List,
    /// Give an image another name
    Create(CreateArgs),
    /// Take a name away
    #[command(visible_alias = "rm")]
    Delete(DeleteArgs),
}

/// Words of `image alias create`.
#[derive(Debug, Words)]
pub(crate) struct CreateArgs {
    /// The name
    name: String,
    /// Alias or fingerprint of an image
    image: String,
    /// Words about it
    #[arg(long, value_name = "TEXT", default_value = "")]
    description: String,
}

/// Words of `image alias delete`.
#[derive(Debug, Words)]
pub(crate) struct DeleteArgs {
    /// The name
    name: String,
}

pub(crate) async fn run(cx: &Context, command: Command) -> Result {
    match command {
        Command::List => list(cx).await,
        Command::Create(args) => create(cx, args).await,
        Command::Delete(args) => {
            let attempt = || format!("delete image alias {:?}", args.name);
            cx.client.delete_image_alias(&args.name).await.attempt(attempt)?;
            report(cx, "deleted", args.name.clone())
        }
    }
}

fn report(cx: &Context, action: &'static str, name: String) -> Result {
    cx.report(&[Done { action, kind: "alias", name, operation: String::new() }])
}

async fn create(cx: &Context, args: CreateArgs) -> Result {
    let target = fingerprint(cx, &args.image).await?;
    let (name, description) = (args.name, args.description);
    let post = ImageAliasEntry { description, target, name, kind: "container".into() };
    cx.client.create_image_alias(&post).await.attempt(|| format!("create image alias {:?}", post.name))?;
    report(cx, "created", post.name)
}

async fn list(cx: &Context) -> Result {
    let aliases = cx.client.get_image_aliases().await.attempt(|| "list image aliases".into())?;
    cx.list(&aliases, || {
        let mut table = Table::new(["ALIAS", "FINGERPRINT", "DESCRIPTION"]);
        for alias in &aliases {
            let short: String = alias.target.chars().take(12).collect();
            table.row([Cell::from(&alias.name), short.into(), Cell::from(&alias.description)]);
        }
        table
    })
}
