//! `file`: copying, listing and deleting files of instances.

use std::path::{Path, PathBuf};

use clap::{Args as Words, Subcommand};
use sysctl_client::{Attributes, FileKind, Sftp};

use super::{pull, push};
use crate::context::{Context, Done};
use crate::failure::{Attempt, Failure, Result};
use crate::output::{Cell, Table};

/// What to do with files.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Copy files into an instance
    Push(push::Args),
    /// Copy files out of an instance
    Pull(pull::Args),
    /// List a directory of an instance
    #[command(visible_alias = "ls")]
    List(PathArgs),
    /// Delete a file of an instance
    #[command(visible_alias = "rm")]
    Delete(PathArgs),
}

/// A path in an instance.
#[derive(Debug, Words)]
pub(crate) struct PathArgs {
    /// Path in an instance
    #[arg(value_name = "INSTANCE/PATH")]
    path: Remote,
}

/// A path in an instance: `INSTANCE/PATH`. It is absolute there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remote {
    pub(crate) instance: String,
    pub(crate) path: PathBuf,
    /// It was written as a directory.
    pub(crate) directory: bool,
}

impl std::str::FromStr for Remote {
    type Err = String;

    fn from_str(text: &str) -> Result<Remote, String> {
        match text.split_once('/') {
            Some((instance, path)) if !instance.is_empty() => Ok(Remote {
                instance: instance.to_owned(),
                path: PathBuf::from(format!("/{}", path.trim_end_matches('/'))),
                directory: path.is_empty() || path.ends_with('/'),
            }),
            _ => Err("INSTANCE/PATH is expected, like web1/etc/hosts".to_owned()),
        }
    }
}

impl Remote {
    /// The same in words.
    pub(crate) fn text(&self) -> String {
        format!("{}{}", self.instance, self.path.display())
    }
}

pub(crate) async fn run(cx: &Context, command: Command) -> Result {
    match command {
        Command::Push(args) => push::run(cx, args).await,
        Command::Pull(args) => pull::run(cx, args).await,
        Command::List(args) => list(cx, &args.path).await,
        Command::Delete(args) => delete(cx, &args.path).await,
    }
}

/// A session for the files of an instance.
pub(super) async fn session(cx: &Context, instance: &str) -> Result<Sftp> {
    let attempt = || format!("reach the files of instance {instance:?}");
    cx.client.get_instance_sftp(instance).await.attempt(attempt)
}

/// What a path of this side leads to, for the words of a failure.
pub(super) fn local(act: &str, path: &Path) -> String {
    format!("{act} {}", path.display())
}

async fn list(cx: &Context, remote: &Remote) -> Result {
    let attempt = || format!("list {}", remote.text());
    let mut sftp = session(cx, &remote.instance).await?;
    let entries = sftp.readdir(&remote.path).await.attempt(attempt)?;
    let objects: Vec<serde_json::Value> = entries
        .iter()
        .map(|entry| {
            let Attributes { size, ids, mode, times } = entry.attributes;
            serde_json::json!({
                "name": entry.name.to_string_lossy(), "type": kind(&entry.attributes), "size": size,
                "uid": ids.map(|ids| ids.0), "gid": ids.map(|ids| ids.1),
                "mode": mode.map(|mode| format!("{:04o}", mode & 0o7777)), "modified": times.map(|times| times.1),
            })
        })
        .collect();
    cx.list(&objects, || {
        let mut table = Table::new(["NAME", "TYPE", "MODE", "UID", "GID", "SIZE"]);
        for (entry, object) in entries.iter().zip(&objects) {
            let field = |key: &str| Cell::from(object[key].to_string().trim_matches('"'));
            let name = Cell::from(entry.name.to_string_lossy().as_ref());
            table.row([name, field("type"), field("mode"), field("uid"), field("gid"), field("size")]);
        }
        table
    })
}

fn kind(attributes: &Attributes) -> &'static str {
    match attributes.kind() {
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symlink",
        FileKind::Other => "other",
    }
}

async fn delete(cx: &Context, remote: &Remote) -> Result {
    let attempt = || format!("delete {}", remote.text());
    let mut sftp = session(cx, &remote.instance).await?;
    let attributes = sftp.lstat(&remote.path).await.attempt(attempt)?;
    match attributes.kind() {
        FileKind::Directory => sftp.rmdir(&remote.path).await,
        _ => sftp.remove(&remote.path).await,
    }
    .attempt(attempt)?;
    cx.report(&[Done { action: "deleted", kind: "file", name: remote.text(), operation: String::new() }])
}

/// Reads a mode in octal digits.
pub(super) fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err("octal digits up to 7777 are expected, like 0644".to_owned()),
    }
}

/// A directory cannot be copied as a file.
pub(super) fn needs_recursive(attempt: String) -> Failure {
    Failure::new(attempt, "it is a directory").with_hint("-r copies directories with all that is in them.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_instances_are_absolute() {
        let remote: Remote = "web1/etc/hosts".parse().expect("a path");
        assert_eq!((remote.instance.as_str(), remote.path.as_path()), ("web1", Path::new("/etc/hosts")));
        assert!(!remote.directory);
        let remote: Remote = "web1/srv//".parse().expect("a path");
        assert!(remote.directory && remote.path == Path::new("/srv"));
        let root: Remote = "web1/".parse().expect("a path");
        assert!(root.directory && root.path == Path::new("/"));
        assert!("web1".parse::<Remote>().is_err() && "/etc".parse::<Remote>().is_err());
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!((mode("0644"), mode("755")), (Ok(0o644), Ok(0o755)));
        assert!(mode("8").is_err() && mode("10000").is_err() && mode("rw").is_err());
    }
}
