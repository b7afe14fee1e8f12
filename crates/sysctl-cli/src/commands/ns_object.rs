//! `ns create`, `adopt`, `set`, `delete`, `gc`, `enter`: namespaces that live on without an instance.

use std::os::unix::process::CommandExt;

use clap::Args as Words;
use sysctl_api::{NamespaceAdoption, NamespacePatch, NamespacesPost};

use crate::context::{Context, Done};
use crate::failure::{Attempt, Failure, Result};
use crate::output;

/// A namespace by kind and name, as `net/blue`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Label {
    kind: String,
    name: String,
}

impl Label {
    pub(crate) fn kind(&self) -> &str {
        &self.kind
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl std::fmt::Display for Label {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

impl std::str::FromStr for Label {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Label, String> {
        match text.split_once('/') {
            Some((kind, name)) if !kind.is_empty() && !name.is_empty() => {
                Ok(Label { kind: kind.to_owned(), name: name.to_owned() })
            }
            _ => Err(format!("{text:?} is not KIND/NAME, like net/blue")),
        }
    }
}

/// Words of `ns create`.
#[derive(Debug, Words)]
pub(crate) struct CreateArgs {
    /// Kind and name, like net/blue; kinds are net, ipc, uts, user and time
    label: Label,
    /// The user namespace object whose users have rights over it
    #[arg(long, value_name = "OBJECT", default_value = "")]
    users: String,
    /// Put it at /run/netns, too, for `ip netns exec`
    #[arg(long)]
    netns: bool,
    /// Words about it
    #[arg(long, default_value = "")]
    description: String,
    /// Tell the steps without doing them
    #[arg(long)]
    plan: bool,
}

/// Words of `ns adopt`.
#[derive(Debug, Words)]
pub(crate) struct AdoptArgs {
    /// Kind and name that it gets, like net/blue
    label: Label,
    /// The running instance that lives in it
    #[arg(long, value_name = "INSTANCE", required_unless_present = "path", conflicts_with = "path")]
    from: Option<String>,
    /// The file that it is at, like /run/netns/blue
    #[arg(long, value_name = "FILE")]
    path: Option<String>,
    /// Put it at /run/netns, too, for `ip netns exec`
    #[arg(long)]
    netns: bool,
    /// Words about it
    #[arg(long, default_value = "")]
    description: String,
    /// Tell the steps without doing them
    #[arg(long)]
    plan: bool,
}

/// Words of `ns set`.
#[derive(Debug, Words)]
pub(crate) struct SetArgs {
    /// Kind and name, like net/blue
    label: Label,
    /// Whether it is at /run/netns, too
    #[arg(long, value_name = "BOOL", required_unless_present = "description")]
    netns: Option<bool>,
    /// Words about it
    #[arg(long)]
    description: Option<String>,
    /// Tell the steps without doing them
    #[arg(long)]
    plan: bool,
}

/// Words of `ns delete`.
#[derive(Debug, Words)]
pub(crate) struct DeleteArgs {
    /// Kinds and names, like net/blue
    #[arg(required = true)]
    labels: Vec<Label>,
    /// Tell the steps without doing them
    #[arg(long)]
    plan: bool,
}

/// Words of `ns gc`.
#[derive(Debug, Words)]
pub(crate) struct GcArgs {
    /// Only tell what would go
    #[arg(long, visible_alias = "plan")]
    dry_run: bool,
}

/// Words of `ns enter`.
#[derive(Debug, Words)]
#[command(
    after_help = "Example: sysctl-cli ns enter net/blue -- ip addr\nIt is nsenter(1) of this host, which needs root."
)]
pub(crate) struct EnterArgs {
    /// Kinds and names, like net/blue
    #[arg(required = true)]
    labels: Vec<Label>,
    /// Program of the host and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

fn done(action: &'static str, label: &Label) -> Done {
    Done { action, kind: "namespace", name: label.to_string(), operation: String::new() }
}

pub(crate) async fn create(cx: &Context, args: CreateArgs) -> Result {
    let CreateArgs { label, users, netns, description, plan } = args;
    let (kind, name) = (label.kind.clone(), label.name.clone());
    let post = NamespacesPost { kind, name, description, netns, user_namespace: users, adopt: None };
    let attempt = || format!("create namespace {label}");
    if plan {
        return cx.plan(&cx.client.plan_create_namespace(&post).await.attempt(attempt)?);
    }
    cx.client.create_namespace(&post).await.attempt(attempt)?;
    cx.report(&[done("created", &label)])
}

pub(crate) async fn adopt(cx: &Context, args: AdoptArgs) -> Result {
    let AdoptArgs { label, from, path, netns, description, plan } = args;
    let adopt = NamespaceAdoption { instance: from.unwrap_or_default(), path: path.unwrap_or_default() };
    let (kind, name) = (label.kind.clone(), label.name.clone());
    let post = NamespacesPost { kind, name, description, netns, adopt: Some(adopt), ..NamespacesPost::default() };
    let attempt = || format!("adopt namespace {label}");
    if plan {
        return cx.plan(&cx.client.plan_create_namespace(&post).await.attempt(attempt)?);
    }
    cx.client.create_namespace(&post).await.attempt(attempt)?;
    cx.report(&[done("adopted", &label)])
}

pub(crate) async fn set(cx: &Context, args: SetArgs) -> Result {
    let SetArgs { label, netns, description, plan } = args;
    let patch = NamespacePatch { description, netns };
    let attempt = || format!("change namespace {label}");
    if plan {
        let steps = cx.client.plan_patch_namespace(&label.kind, &label.name, &patch).await;
        return cx.plan(&steps.attempt(attempt)?);
    }
    cx.client.patch_namespace(&label.kind, &label.name, &patch).await.attempt(attempt)?;
    cx.report(&[done("changed", &label)])
}

pub(crate) async fn delete(cx: &Context, args: DeleteArgs) -> Result {
    // One after the other: what was made in the users of an object may stand before these.
    for label in &args.labels {
        let attempt = || format!("delete namespace {label}");
        if args.plan {
            cx.plan(&cx.client.plan_delete_namespace(&label.kind, &label.name).await.attempt(attempt)?)?;
            continue;
        }
        cx.client.delete_namespace(&label.kind, &label.name).await.attempt(attempt)?;
        cx.report(&[done("deleted", label)])?;
    }
    Ok(())
}

pub(crate) async fn gc(cx: &Context, args: GcArgs) -> Result {
    let garbage = cx.client.collect_namespaces(args.dry_run).await.attempt(|| "collect unused namespaces".into())?;
    if cx.has_format() {
        return cx.object(&garbage);
    }
    let verb = if args.dry_run { "would go" } else { "is gone" };
    let objects = garbage.namespaces.iter().map(|path| path.trim_start_matches("/1.0/namespaces/"));
    let lines: String =
        objects.chain(garbage.pins.iter().map(String::as_str)).map(|o| format!("{o} {verb}\n")).collect();
    output::text(if lines.is_empty() { "Nothing is unused.\n" } else { &lines })
}

/// Becomes `nsenter`: returns only when that failed.
pub(crate) async fn enter(cx: &Context, args: EnterArgs) -> Result {
    let mut words = Vec::new();
    for label in &args.labels {
        let attempt = || format!("enter namespace {label}");
        let found = cx.client.get_namespace(&label.kind, &label.name).await.attempt(attempt)?.value;
        if found.pin.is_empty() {
            let hint = "sysctl-cli exec INSTANCE --in KIND -- COMMAND runs a program in one of an instance.";
            return Err(Failure::new(attempt(), "it is no namespace object").with_hint(hint));
        }
        words.push(format!("--{}={}", label.kind, found.pin));
    }
    let error = std::process::Command::new("nsenter").args(&words).arg("--").args(&args.command).exec();
    Err(Failure::new(format!("run nsenter {}", words.join(" ")), error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_a_kind_and_a_name() {
        let label: Label = "net/blue".parse().expect("a label");
        assert_eq!((label.kind(), label.name(), label.to_string().as_str()), ("net", "blue", "net/blue"));
        for wrong in ["", "blue", "/blue", "net/"] {
            assert!(wrong.parse::<Label>().is_err(), "{wrong}");
        }
    }
}
