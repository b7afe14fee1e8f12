//! `file push`.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::Args as Words;
use sysctl_client::{Attributes, FileKind, Sftp};

use super::file::{self, Remote, local};
use crate::context::{Context, Done};
use crate::failure::{Attempt, Failure, Result};

/// Words of `file push`.
#[derive(Debug, Words)]
pub(crate) struct Args {
    /// Files of this side, - for standard input; and last where they go
    #[arg(required = true, num_args = 2.., value_names = ["SOURCE", "INSTANCE/PATH"])]
    paths: Vec<String>,
    /// Directories with all that is in them
    #[arg(short, long)]
    recursive: bool,
    /// Make the directories that lead there
    #[arg(short = 'p', long)]
    create_dirs: bool,
    /// User that they belong to
    #[arg(long, default_value_t = 0)]
    uid: u32,
    /// Group that they belong to
    #[arg(long, default_value_t = 0)]
    gid: u32,
    /// Permissions of files, instead of those they have here
    #[arg(long, value_name = "OCTAL", value_parser = file::mode)]
    mode: Option<u32>,
}

/// What every copied file gets.
struct Wanted {
    uid: u32,
    gid: u32,
    mode: Option<u32>,
}

pub(crate) async fn run(cx: &Context, mut args: Args) -> Result {
    // Two at least were parsed.
    let target: Remote = args.paths.pop().unwrap_or_default().parse().map_err(Failure::usage)?;
    let mut sftp = file::session(cx, &target.instance).await?;
    let found = sftp.stat(&target.path).await.map(|attributes| attributes.kind());
    let into = target.directory || args.paths.len() > 1 || matches!(found, Ok(FileKind::Directory));
    let wanted = Wanted { uid: args.uid, gid: args.gid, mode: args.mode };
    if args.create_dirs {
        let parent = if into { Some(target.path.as_path()) } else { target.path.parent() };
        make_parents(&mut sftp, parent.unwrap_or(Path::new("/")), &wanted).await?;
    }
    for source in &args.paths {
        let source = Path::new(source);
        let destination = if into { target.path.join(name(source)?) } else { target.path.clone() };
        push(cx, &mut sftp, source, &destination, &wanted, args.recursive).await?;
    }
    cx.report(&[Done { action: "written", kind: "file", name: target.text(), operation: String::new() }])
}

/// The name that a file has in a directory it is copied to.
fn name(source: &Path) -> Result<PathBuf> {
    let whole = if source == Path::new(".") || source.ends_with("..") { source.canonicalize().ok() } else { None };
    let name = whole.as_deref().unwrap_or(source).file_name().map(PathBuf::from);
    name.filter(|_| source != Path::new("-"))
        .ok_or_else(|| Failure::usage(format!("{} has no name: say where it goes", source.display())))
}

async fn make_parents(sftp: &mut Sftp, directory: &Path, wanted: &Wanted) -> Result {
    for part in directory.ancestors().collect::<Vec<_>>().into_iter().rev() {
        if sftp.stat(part).await.is_err() {
            make_directory(sftp, part, wanted, 0o755).await?;
        }
    }
    Ok(())
}

async fn make_directory(sftp: &mut Sftp, path: &Path, wanted: &Wanted, mode: u32) -> Result {
    let attributes = Attributes { mode: Some(mode), ..Attributes::default() };
    let attempt = || format!("make directory {}", path.display());
    sftp.mkdir(path, &attributes).await.attempt(attempt)?;
    let attributes = Attributes { ids: Some((wanted.uid, wanted.gid)), mode: Some(mode), ..Attributes::default() };
    sftp.setstat(path, &attributes).await.attempt(attempt)
}

/// Copies one thing, and what is in it. A list instead of recursion: depths are somebody else's choice.
async fn push(
    cx: &Context,
    sftp: &mut Sftp,
    source: &Path,
    destination: &Path,
    wanted: &Wanted,
    recursive: bool,
) -> Result {
    if source == Path::new("-") {
        return write(sftp, &mut tokio::io::stdin(), destination, wanted, wanted.mode.unwrap_or(0o644)).await;
    }
    let mut pending = vec![(source.to_owned(), destination.to_owned(), true)];
    while let Some((from, to, named)) = pending.pop() {
        // Links that were named are followed, links that were found are copied.
        let metadata = if named { std::fs::metadata(&from) } else { std::fs::symlink_metadata(&from) };
        let metadata = metadata.attempt(|| local("read", &from))?;
        let mode = metadata.mode() & 0o7777;
        cx.progress.tell("push", &format!("Pushing {}", from.display()));
        if metadata.is_dir() {
            if !recursive {
                return Err(file::needs_recursive(local("copy", &from)));
            }
            if sftp.stat(&to).await.is_err() {
                make_directory(sftp, &to, wanted, mode).await?;
            }
            for entry in std::fs::read_dir(&from).attempt(|| local("read", &from))? {
                let entry = entry.attempt(|| local("read", &from))?;
                pending.push((entry.path(), to.join(entry.file_name()), false));
            }
        } else if metadata.is_symlink() {
            let link = std::fs::read_link(&from).attempt(|| local("read", &from))?;
            // One that is there is replaced; that there is none is fine.
            let _ = sftp.remove(&to).await;
            sftp.symlink(&link, &to).await.attempt(|| format!("make the link {}", to.display()))?;
        } else if metadata.is_file() {
            let mut reader = tokio::fs::File::open(&from).await.attempt(|| local("read", &from))?;
            write(sftp, &mut reader, &to, wanted, wanted.mode.unwrap_or(mode)).await?;
        } else {
            let what = "it is neither a file nor a directory nor a link";
            return Err(Failure::new(local("copy", &from), what));
        }
    }
    cx.progress.clear();
    Ok(())
}

async fn write(
    sftp: &mut Sftp,
    reader: &mut (impl tokio::io::AsyncRead + Unpin),
    to: &Path,
    wanted: &Wanted,
    mode: u32,
) -> Result {
    let attempt = || format!("write {}", to.display());
    let attributes = Attributes { mode: Some(mode), ..Attributes::default() };
    sftp.write_file(to, reader, &attributes).await.attempt(attempt)?;
    // Owners after the content and before the mode: a change of owner takes set-id bits away.
    let owner = Attributes { ids: Some((wanted.uid, wanted.gid)), ..Attributes::default() };
    sftp.setstat(to, &owner).await.attempt(attempt)?;
    sftp.setstat(to, &attributes).await.attempt(attempt)
}
