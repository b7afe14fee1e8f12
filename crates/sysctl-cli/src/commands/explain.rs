//! `explain`.

use clap::Args as Words;

use crate::context::Context;
use crate::failure::{Attempt, Result};
use crate::output;

/// Words of `explain`.
#[derive(Debug, Words)]
pub(crate) struct Args {
    /// Name of the instance
    name: String,
    /// Print a script for sh(1) that starts it without the daemon, with unshare, mount, ip and nsenter
    #[arg(long)]
    as_shell: bool,
}

pub(crate) async fn run(cx: &Context, args: Args) -> Result {
    let attempt = || format!("explain instance {:?}", args.name);
    if args.as_shell {
        return output::text(&cx.client.explain_instance_as_shell(&args.name).await.attempt(attempt)?);
    }
    cx.object(&cx.client.explain_instance(&args.name).await.attempt(attempt)?)
}
