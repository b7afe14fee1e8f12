//! `explain`.

use clap::Args as Words;

use crate::context::Context;
use crate::failure::{Attempt, Result};

/// Words of `explain`.
#[derive(Debug, Words)]
pub(crate) struct Args {
    /// Name of the instance
    name: String,
}

pub(crate) async fn run(cx: &Context, args: Args) -> Result {
    let attempt = || format!("explain instance {:?}", args.name);
    cx.object(&cx.client.explain_instance(&args.name).await.attempt(attempt)?)
}
