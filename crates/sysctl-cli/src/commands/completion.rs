//! `completion`.

use clap::{Args as Words, CommandFactory};
use clap_complete::Shell;

use crate::args::Cli;
use crate::failure::Result;
use crate::output;

/// Words of `completion`.
#[derive(Debug, Words)]
#[command(after_help = "Example: sysctl-cli completion bash > /etc/bash_completion.d/sysctl-cli")]
pub(crate) struct Args {
    /// Shell
    shell: Shell,
}

pub(crate) fn run(args: Args) -> Result {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "sysctl-cli", &mut script);
    output::bytes(&script)
}
