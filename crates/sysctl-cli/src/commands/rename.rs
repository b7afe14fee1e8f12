//! `rename`.

use clap::Args as Words;

use crate::context::{Context, Done};
use crate::failure::{Attempt, Result};

/// Words of `rename`.
#[derive(Debug, Words)]
pub(crate) struct Args {
    /// Name of the instance
    name: String,
    /// Its new name
    new: String,
}

pub(crate) async fn run(cx: &Context, args: Args) -> Result {
    let attempt = || format!("rename instance {:?} to {:?}", args.name, args.new);
    let operation = cx.client.rename_instance(&args.name, &args.new).await.attempt(attempt)?;
    cx.finish(&operation, attempt).await?;
    cx.report(&[Done { action: "renamed", kind: "instance", name: args.new.clone(), operation: operation.id }])
}
