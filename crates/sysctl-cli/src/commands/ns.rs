//! `ns`: namespaces, and who shares them.

use clap::{Args as Words, Subcommand, ValueEnum};

use super::ns_object;
use crate::context::Context;
use crate::failure::{Attempt, Result};
use crate::output::{self, Cell, Table};

/// What to do with namespaces.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the namespaces that instances live in, and namespace objects
    #[command(visible_alias = "ls")]
    List,
    /// Tell whose namespaces an instance lives in; or about a namespace object
    Show(ShowArgs),
    /// Draw who shares what with whom
    Graph(GraphArgs),
    /// Make a namespace that lives on without an instance
    Create(ns_object::CreateArgs),
    /// Keep a namespace that there is already
    Adopt(ns_object::AdoptArgs),
    /// Change a namespace object
    Set(ns_object::SetArgs),
    /// Delete namespace objects that nobody uses
    #[command(visible_alias = "rm")]
    Delete(ns_object::DeleteArgs),
    /// Remove all namespace objects that nobody uses, and pins that belong to nothing
    Gc(ns_object::GcArgs),
    /// Run a program of this host in namespace objects
    Enter(ns_object::EnterArgs),
}

/// Words of `ns show`.
#[derive(Debug, Words)]
pub(crate) struct ShowArgs {
    /// Name of the instance, or kind and name of an object, like net/blue
    name: String,
}

/// Words of `ns graph`.
#[derive(Debug, Words)]
pub(crate) struct GraphArgs {
    /// How
    #[arg(long, value_enum, default_value_t = Picture::Text)]
    to: Picture,
}

/// A way to draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Picture {
    Text,
    Json,
    Dot,
    Mermaid,
}

impl Picture {
    fn name(self) -> &'static str {
        match self {
            Picture::Text => "text",
            Picture::Json => "json",
            Picture::Dot => "dot",
            Picture::Mermaid => "mermaid",
        }
    }
}

pub(crate) async fn run(cx: &Context, command: Command) -> Result {
    match command {
        Command::List => list(cx).await,
        Command::Show(args) => show(cx, args).await,
        Command::Graph(args) => graph(cx, args).await,
        Command::Create(args) => ns_object::create(cx, args).await,
        Command::Adopt(args) => ns_object::adopt(cx, args).await,
        Command::Set(args) => ns_object::set(cx, args).await,
        Command::Delete(args) => ns_object::delete(cx, args).await,
        Command::Gc(args) => ns_object::gc(cx, args).await,
        Command::Enter(args) => ns_object::enter(cx, args).await,
    }
}

async fn list(cx: &Context) -> Result {
    let namespaces = cx.client.get_namespaces().await.attempt(|| "list namespaces".into())?;
    cx.list(&namespaces, || {
        let mut table = Table::new(["TYPE", "INODE", "OWNER", "WHO LIVES IN IT"]);
        for namespace in &namespaces {
            let (kind, inode) = (Cell::from(&namespace.kind), Cell::from(&namespace.inode));
            table.row([kind, inode, Cell::from(&namespace.owner), namespace.holders.clone().into()]);
        }
        table
    })
}

async fn show(cx: &Context, args: ShowArgs) -> Result {
    if let Ok(label) = args.name.parse::<ns_object::Label>() {
        let found = cx.client.get_namespace(label.kind(), label.name()).await;
        return cx.object(&found.attempt(|| format!("look at namespace {label}"))?.value);
    }
    let attempt = || format!("look at the namespaces of instance {:?}", args.name);
    let namespaces = cx.client.get_instance_namespaces(&args.name).await.attempt(attempt)?;
    cx.list(&namespaces, || {
        let mut table = Table::new(["TYPE", "MODE", "INODE", "RIGHTS", "SHARED WITH"]);
        for namespace in &namespaces {
            let rights = if namespace.own { "yes" } else { "no" };
            let (kind, mode) = (Cell::from(&namespace.kind), Cell::from(&namespace.mode));
            let shared = namespace.shared_with.clone();
            table.row([kind, mode, Cell::from(&namespace.inode), rights.to_owned().into(), shared.into()]);
        }
        table
    })
}

async fn graph(cx: &Context, args: GraphArgs) -> Result {
    let graph = cx.client.get_namespace_graph(args.to.name()).await.attempt(|| "draw the namespaces".into())?;
    match graph.as_str() {
        Some(text) => output::text(text),
        None => cx.object(&graph),
    }
}
