//! `sysctl-cli`: the command line of sysctl. Words in, requests to the daemon, tables out.
//!
//! What may not be in it: anything that the API does not offer.

mod args;
mod commands;
mod context;
mod failure;
mod output;
mod progress;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

use args::Cli;
use failure::Failure;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::new("start", error.to_string()).tell(),
    };
    let result = runtime.block_on(commands::run(cli));
    // A read of standard input may still be under way in a thread: nobody waits for it.
    runtime.shutdown_background();
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => failure.tell(),
    }
}
