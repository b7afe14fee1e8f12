//! `file pull`.

use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use clap::Args as Words;
use sysctl_client::{Attributes, FileKind, Sftp};

use super::file::{self, Remote, local};
use crate::context::{Context, Done};
use crate::failure::{Attempt, Failure, Result};

/// Words of `file pull`.
#[derive(Debug, Words)]
pub(crate) struct Args {
    /// Files of an instance; and last where they go on this side, - for standard output
    #[arg(required = true, num_args = 2.., value_names = ["INSTANCE/PATH", "TARGET"])]
    paths: Vec<String>,
    /// Directories with all that is in them
    #[arg(short, long)]
    recursive: bool,
    /// Make the directories that lead there
    #[arg(short = 'p', long)]
    create_dirs: bool,
}

pub(crate) async fn run(cx: &Context, mut args: Args) -> Result {
    // Two at least were parsed.
    let target = args.paths.pop().unwrap_or_default();
    let sources: Vec<Remote> =
        args.paths.iter().map(|p| p.parse()).collect::<Result<_, _>>().map_err(Failure::usage)?;
    let path = PathBuf::from(&target);
    let into = target.ends_with('/') || sources.len() > 1 || path.is_dir();
    if args.create_dirs {
        let parent = if into { Some(path.as_path()) } else { path.parent() };
        let parent = parent.unwrap_or(Path::new("."));
        std::fs::create_dir_all(parent).attempt(|| local("make directory", parent))?;
    }
    for source in &sources {
        let mut sftp = file::session(cx, &source.instance).await?;
        if target == "-" {
            let read = sftp.read_file(&source.path, &mut tokio::io::stdout()).await;
            read.attempt(|| format!("read {}", source.text()))?;
            continue;
        }
        let name = || source.path.file_name().ok_or_else(|| Failure::usage("the root has no name: say where it goes"));
        let destination = if into { path.join(name()?) } else { path.clone() };
        pull(cx, &mut sftp, source, &destination, args.recursive).await?;
    }
    if target == "-" {
        return Ok(());
    }
    cx.report(&[Done { action: "written", kind: "file", name: target, operation: String::new() }])
}

/// Copies one thing, and what is in it.
async fn pull(cx: &Context, sftp: &mut Sftp, source: &Remote, destination: &Path, recursive: bool) -> Result {
    let attempt = || format!("copy {}", source.text());
    let attributes = sftp.stat(&source.path).await.attempt(attempt)?;
    let mut pending = vec![(source.path.clone(), destination.to_owned(), attributes)];
    // Directories get their modes last: one without permission to write could not be filled.
    let mut modes = Vec::new();
    while let Some((from, to, attributes)) = pending.pop() {
        cx.progress.tell("pull", &format!("Pulling {}", from.display()));
        match attributes.kind() {
            FileKind::Directory if !recursive => return Err(file::needs_recursive(attempt())),
            FileKind::Directory => {
                // Only the directory that was named may be a link: the guest must not lead its tree elsewhere.
                let there = if modes.is_empty() { to.metadata() } else { to.symlink_metadata() };
                if !there.is_ok_and(|metadata| metadata.is_dir()) {
                    std::fs::create_dir(&to).attempt(|| local("make directory", &to))?;
                }
                modes.push((to.clone(), attributes));
                let entries = sftp.readdir(&from).await.attempt(|| format!("list {}", from.display()))?;
                pending.extend(
                    entries.into_iter().map(|entry| (from.join(&entry.name), to.join(&entry.name), entry.attributes)),
                );
            }
            FileKind::File => read(sftp, &from, &to, &attributes).await?,
            FileKind::Symlink => {
                let link = sftp.readlink(&from).await.attempt(|| format!("read {}", from.display()))?;
                // One that is there is replaced; that there is none is fine.
                let _ = std::fs::remove_file(&to);
                std::os::unix::fs::symlink(link, &to).attempt(|| local("make the link", &to))?;
            }
            FileKind::Other => {
                cx.progress.clear();
                let what = "it is a device, socket or pipe; it was left out";
                Failure::new(format!("copy {}", from.display()), what).show();
            }
        }
    }
    for (path, attributes) in modes.into_iter().rev() {
        set_mode(&path, &attributes)?;
    }
    cx.progress.clear();
    Ok(())
}

/// Copies a file. The guest chooses links and names: in a tree that is being written, no link is followed.
async fn read(sftp: &mut Sftp, from: &Path, to: &Path, attributes: &Attributes) -> Result {
    if std::fs::symlink_metadata(to).is_ok_and(|metadata| metadata.is_symlink()) {
        std::fs::remove_file(to).attempt(|| local("replace the link", to))?;
    }
    let mut options = std::fs::OpenOptions::new();
    let no_follow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let options = options.write(true).create(true).truncate(true).mode(0o600).custom_flags(no_follow);
    let file = options.open(to).attempt(|| local("write", to))?;
    let mut file = tokio::fs::File::from_std(file);
    sftp.read_file(from, &mut file).await.attempt(|| format!("read {}", from.display()))?;
    drop(file);
    set_mode(to, attributes)
}

/// Permissions as in the instance, but for set-id bits: whoever they meant there is somebody else here.
fn set_mode(path: &Path, attributes: &Attributes) -> Result {
    let Some(mode) = attributes.mode else { return Ok(()) };
    let permissions = std::fs::Permissions::from_mode(mode & 0o777);
    std::fs::set_permissions(path, permissions).attempt(|| local("set the mode of", path))
}
