//! `exec` and `shell`.

use std::collections::BTreeMap;

use clap::Args as Words;
use sysctl_api::ExecPost;
use sysctl_client::Exec;

use super::session::{self, Connection, Streams};
use crate::args::key_value;
use crate::context::Context;
use crate::failure::{Attempt, Result};
use crate::terminal::{self, Raw};

/// Words of `exec`.
#[derive(Debug, Words)]
#[command(
    after_help = "Example: sysctl-cli exec web1 --env A=b -- sh -c 'echo $A'\nIt goes on through restarts of the daemon. After its client was killed, `exec --attach` has ten seconds to go on with it."
)]
pub(crate) struct Args {
    /// Name of the instance
    #[arg(required_unless_present = "attach", default_value = "")]
    name: String,
    /// Go on with a program whose client is gone: the id of its operation, see `operation list`
    #[arg(long, value_name = "OPERATION", conflicts_with_all = ["name", "command", "terminal", "env", "user", "group", "cwd"])]
    attach: Option<String>,
    /// On a terminal, even if this side has none
    #[arg(short = 't', long, conflicts_with = "no_terminal")]
    terminal: bool,
    /// Without a terminal, even if this side has one
    #[arg(short = 'T', long)]
    no_terminal: bool,
    /// Without input
    #[arg(short = 'n', long)]
    no_stdin: bool,
    /// Variable of its environment
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = key_value)]
    env: Vec<(String, String)>,
    /// Number of the user that it runs as
    #[arg(long, value_name = "UID", default_value_t = 0)]
    user: u32,
    /// Number of the group that it runs as
    #[arg(long, value_name = "GID", default_value_t = 0)]
    group: u32,
    /// Directory that it starts in
    #[arg(long, value_name = "PATH", default_value = "")]
    cwd: String,
    /// A program of the host, in these namespaces of the instance alone: cgroup, ipc, net, pid, time, uts
    #[arg(long = "in", value_name = "KIND", value_delimiter = ',', conflicts_with = "attach")]
    inside: Vec<String>,
    /// Program and arguments
    #[arg(
        required_unless_present = "attach",
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    command: Vec<String>,
}

/// Words of `shell`.
#[derive(Debug, Words)]
pub(crate) struct ShellArgs {
    /// Name of the instance
    name: String,
    /// Number of the user that it runs as
    #[arg(long, value_name = "UID", default_value_t = 0)]
    user: u32,
}

/// The best shell that is there, as a login shell, in the home directory.
const SHELL: &str = "cd 2>/dev/null || cd /; if [ -x /bin/bash ]; then exec /bin/bash -l; else exec /bin/sh -l; fi";

pub(crate) async fn shell(cx: &Context, args: ShellArgs) -> Result<u8> {
    let command = ["/bin/sh", "-c", SHELL].map(str::to_owned).into();
    let post = ExecPost { command, user: args.user, ..ExecPost::default() };
    execute(cx, &args.name, post, terminal::is_interactive(), true).await
}

pub(crate) async fn run(cx: &Context, args: Args) -> Result<u8> {
    if let Some(id) = &args.attach {
        let attempt = format!("go on with the program of operation {id}");
        let exec = cx.client.attach_exec(id).await.attempt(|| attempt.clone())?;
        return carry(cx, exec, !args.no_stdin, attempt).await;
    }
    let interactive = args.terminal || !args.no_terminal && !args.no_stdin && terminal::is_interactive();
    let post = ExecPost {
        command: args.command,
        environment: args.env.into_iter().collect(),
        user: args.user,
        group: args.group,
        cwd: args.cwd,
        namespaces: args.inside,
        ..ExecPost::default()
    };
    execute(cx, &args.name, post, interactive, !args.no_stdin).await
}

async fn execute(cx: &Context, name: &str, post: ExecPost, interactive: bool, reads: bool) -> Result<u8> {
    let attempt = format!("run {:?} in instance {name:?}", post.command.first().map_or("", String::as_str));
    let post = if interactive { on_terminal(post) } else { post };
    let exec = cx.client.exec_instance(name, &post).await.attempt(|| attempt.clone())?;
    carry(cx, exec, reads, attempt).await
}

/// Connects a program to this side's streams until it ends; its code.
async fn carry(cx: &Context, exec: Exec, reads: bool, attempt: String) -> Result<u8> {
    let id = exec.operation.id;
    let terminal = exec.stderr.is_none();
    let raw = if terminal { Raw::enter().attempt(|| "switch the terminal to raw mode".into())? } else { None };
    let streams = Streams { input: exec.stdin, output: exec.stdout, errors: exec.stderr, control: exec.control };
    let carried = session::run(streams, Connection { terminal, reads, detach: None }).await;
    drop(raw);
    // Why it could not be run says more than that its streams broke.
    let code = cx.client.exec_result(&id).await.attempt(|| attempt)?;
    carried?;
    // What a process can end with: eight bits.
    Ok((code & 0xff) as u8)
}

fn on_terminal(post: ExecPost) -> ExecPost {
    let (width, height) = terminal::size();
    let mut environment: BTreeMap<String, String> = post.environment;
    if let Ok(kind) = std::env::var("TERM") {
        environment.entry("TERM".into()).or_insert(kind);
    }
    ExecPost { interactive: true, width, height, environment, ..post }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Cli;
    use crate::commands::Command;

    fn args(words: &[&str]) -> Args {
        match Cli::try_parse_from([&["sysctl-cli", "exec"], words].concat()).expect("words").command {
            Command::Exec(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_follows_the_name_belongs_to_the_command() {
        for words in [&["web1", "--", "ls", "-la", "--env", "x"][..], &["web1", "ls", "-la", "--env", "x"]] {
            let args = args(words);
            assert_eq!((args.name.as_str(), args.command.join(" ").as_str()), ("web1", "ls -la --env x"));
        }
        let args = args(&["web1", "-T", "--env", "A=b", "--user", "1000", "--cwd", "/tmp", "--", "env"]);
        assert!(args.no_terminal && !args.terminal);
        assert_eq!((args.user, args.cwd.as_str(), args.env[0].0.as_str()), (1000, "/tmp", "A"));
    }

    #[test]
    fn a_program_that_runs_is_attached_to_by_its_operation() {
        let args = args(&["--attach", "x"]);
        assert_eq!((args.attach.as_deref(), args.name.as_str(), args.command.len()), (Some("x"), "", 0));
        let both = Cli::try_parse_from(["sysctl-cli", "exec", "--attach", "x", "web1", "--", "ls"]);
        assert_eq!(both.expect_err("one or the other").exit_code(), 2);
    }

    #[test]
    fn a_command_is_needed() {
        let error = Cli::try_parse_from(["sysctl-cli", "exec", "web1", "--"]).expect_err("no command");
        assert_eq!(error.exit_code(), 2);
    }
}
