//! The commands: one file each, with its words beside what it does.

mod admin;
mod autoscale;
mod chain;
mod completion;
mod config;
mod console;
mod create;
mod delete;
mod devices;
mod doctor;
mod exec;
mod explain;
mod file;
mod filter;
mod image;
mod image_alias;
mod info;
mod limits;
mod list;
mod monitor;
mod network;
mod ns;
mod ns_object;
mod operation;
mod profile;
mod project;
mod pull;
mod push;
mod query;
mod rename;
mod session;
mod state;
mod storage;
mod top;
mod version;

use clap::Subcommand;

use crate::args::Cli;
use crate::context::Context;
use crate::failure::Result;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create an instance and start it
    Launch(create::Args),
    /// Create an instance
    Create(create::Args),
    /// List instances
    #[command(visible_alias = "ls")]
    List(list::Args),
    /// Tell about an instance; or about the server
    Info(info::Args),
    /// Show what an instance may use and does, or change it at once
    Limits(limits::Args),
    /// Show where limits are that follow the need, and how they came there
    Autoscale(autoscale::Args),
    /// Show what running instances use, wait for and are held back by
    Top(top::Args),
    /// Start instances
    Start(state::StartArgs),
    /// Stop instances
    Stop(state::StopArgs),
    /// Restart instances
    Restart(state::StopArgs),
    /// Hold instances still
    #[command(alias = "freeze")]
    Pause(state::HoldArgs),
    /// Let instances go on that were held still
    #[command(alias = "unfreeze")]
    Resume(state::HoldArgs),
    /// Delete instances
    #[command(visible_alias = "rm")]
    Delete(delete::Args),
    /// Give an instance another name
    #[command(alias = "move")]
    Rename(rename::Args),
    /// Run a program in an instance
    Exec(exec::Args),
    /// Run a login shell in an instance
    Shell(exec::ShellArgs),
    /// Attach to the console of an instance, or show its log
    Console(console::Args),
    /// Copy files to and from instances
    #[command(subcommand)]
    File(file::Command),
    /// Keys of instances
    #[command(subcommand)]
    Config(config::Command),
    /// Images
    #[command(subcommand)]
    Image(image::Command),
    /// Profiles
    #[command(subcommand)]
    Profile(profile::Command),
    /// Networks
    #[command(subcommand)]
    Network(network::Command),
    /// Functions between a network and an instance
    #[command(subcommand)]
    Chain(chain::Command),
    /// Storage pools
    #[command(subcommand)]
    Storage(storage::Command),
    /// Projects
    #[command(subcommand)]
    Project(project::Command),
    /// Operations
    #[command(subcommand)]
    Operation(operation::Command),
    /// Namespaces: which there are, and who shares them
    #[command(subcommand)]
    Ns(ns::Command),
    /// Send a request of any kind
    Query(query::Args),
    /// Print events as they happen
    Monitor(monitor::Args),
    /// Tell what isolates a running instance, and from what
    Explain(explain::Args),
    /// Compare the host with what the daemon remembers
    Doctor(doctor::Args),
    /// For the administrator of the daemon
    #[command(subcommand)]
    Admin(admin::Command),
    /// Tell the versions of the client and the daemon
    Version,
    /// Print the completion for a shell
    Completion(completion::Args),
}

/// Does what the words say. Returns the exit code.
pub(crate) async fn run(cli: Cli) -> Result<u8> {
    let context = Context::new(&cli);
    let cx = &context;
    match cli.command {
        Command::Launch(args) => create::run(cx, args, true).await?,
        Command::Create(args) => create::run(cx, args, false).await?,
        Command::List(args) => list::run(cx, args).await?,
        Command::Info(args) => info::run(cx, args).await?,
        Command::Limits(args) => limits::run(cx, args).await?,
        Command::Autoscale(args) => autoscale::run(cx, args).await?,
        Command::Top(args) => top::run(cx, args).await?,
        Command::Start(args) => state::start(cx, args).await?,
        Command::Stop(args) => state::stop(cx, args, &state::STOP).await?,
        Command::Restart(args) => state::stop(cx, args, &state::RESTART).await?,
        Command::Pause(args) => state::hold(cx, args, &state::PAUSE).await?,
        Command::Resume(args) => state::hold(cx, args, &state::RESUME).await?,
        Command::Delete(args) => delete::run(cx, args).await?,
        Command::Rename(args) => rename::run(cx, args).await?,
        Command::Exec(args) => return exec::run(cx, args).await,
        Command::Shell(args) => return exec::shell(cx, args).await,
        Command::Console(args) => console::run(cx, args).await?,
        Command::File(command) => file::run(cx, command).await?,
        Command::Config(command) => config::run(cx, command).await?,
        Command::Image(command) => image::run(cx, command).await?,
        Command::Profile(command) => profile::run(cx, command).await?,
        Command::Network(command) => network::run(cx, command).await?,
        Command::Chain(command) => chain::run(cx, command).await?,
        Command::Storage(command) => storage::run(cx, command).await?,
        Command::Project(command) => project::run(cx, command).await?,
        Command::Operation(command) => operation::run(cx, command).await?,
        Command::Ns(command) => ns::run(cx, command).await?,
        Command::Query(args) => query::run(cx, args).await?,
        Command::Monitor(args) => monitor::run(cx, args).await?,
        Command::Explain(args) => explain::run(cx, args).await?,
        Command::Doctor(args) => return doctor::run(cx, args).await,
        Command::Admin(command) => admin::run(cx, command).await?,
        Command::Version => version::run(cx).await?,
        Command::Completion(args) => completion::run(args)?,
    }
    Ok(0)
}
