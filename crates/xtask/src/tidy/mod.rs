//! `cargo xtask tidy`: the house's rules that no compiler knows. Each check is a function of texts, with tests of its own.

mod absences;
mod code;
mod edges;
mod manifest;
mod sizes;
mod tables;
mod words;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::results::Count;
use crate::say::say;
use crate::workspace::{self, Workspace};
use crate::{Result, run};

/// A text file of the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    /// Relative to the top of the repository, with slashes.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl File {
    /// The crate that it belongs to, by its folder.
    fn package(&self) -> Option<&str> {
        self.path.strip_prefix("crates/")?.split('/').next()
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }
}

/// What a check found.
#[derive(Debug, Default)]
struct Found {
    /// Against the rules.
    wrong: Vec<String>,
    /// Near the edge.
    warned: Vec<String>,
}

impl From<Vec<String>> for Found {
    fn from(wrong: Vec<String>) -> Found {
        Found { wrong, warned: Vec::new() }
    }
}

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    crate::only(arguments, &[])?;
    let count = all(&workspace::load()?)?;
    say!("tidy: {} passed, {} failed", count.passed, count.failed);
    if count.failed == 0 {
        Ok(())
    } else {
        Err("the rules above are broken; DESIGN's reasons are in ARCHITECTURE.md".to_owned())
    }
}

/// Runs every check; prints what they find.
pub(crate) fn all(workspace: &Workspace) -> Result<Count> {
    let files = files(&workspace.root)?;
    let text = |path: &str| files.iter().find(|file| file.path == path).map_or("", |file| file.text.as_str());
    let (engine, crash) = (tables::folder(&files, tables::ENGINE), tables::folder(&files, tables::CRASH));
    let checks: [(&str, Found); 10] = [
        ("layers", edges::check(&workspace.packages).into()),
        ("outside crates", manifest::check(text("Cargo.toml"), &manifests(&files)).into()),
        ("lock file", manifest::check_lock(text("Cargo.lock")).into()),
        ("unsafe", absences::check_unsafe(&files).into()),
        ("absences", absences::check_daemon(&files).into()),
        ("crash table", tables::check(text(tables::STEPS), text(tables::VERBS), &crash).into()),
        ("crash table of functions", tables::check_functions(&engine, &crash).into()),
        ("sizes", sizes::check(&files)),
        ("tests", absences::check_tests(&files).into()),
        ("words", words::check(&files).into()),
    ];
    let mut count = Count::default();
    for (name, found) in checks {
        count += Count::of(found.wrong.is_empty());
        found.warned.iter().for_each(|line| say!("  tidy {name}: warning: {line}"));
        found.wrong.iter().for_each(|line| say!("  tidy {name}: {line}"));
    }
    Ok(count)
}

fn manifests(files: &[File]) -> Vec<&File> {
    files.iter().filter(|file| file.path.starts_with("crates/") && file.path.ends_with("/Cargo.toml")).collect()
}

/// All text files that belong to the repository, also those that are not committed yet.
fn files(root: &Path) -> Result<Vec<File>> {
    let mut list = Command::new("git");
    list.current_dir(root).args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"]);
    let paths = match run::captured(&mut list) {
        Ok(paths) => paths.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect(),
        // An unpacked archive of the sources is no git repository.
        Err(_) => walk(root, root),
    };
    let mut files = Vec::new();
    for path in paths {
        // Deleted and not yet committed, a link, or no text.
        let Ok(text) = fs::read_to_string(root.join(&path)) else { continue };
        files.push(File { path, text });
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn walk(root: &Path, directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path: PathBuf = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && !matches!(entry.file_name().to_str(), Some("target" | ".git")) => {
                found.extend(walk(root, &path));
            }
            Ok(kind) if kind.is_file() => {
                found.extend(path.strip_prefix(root).ok().and_then(Path::to_str).map(str::to_owned));
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
pub(crate) fn file(path: &str, text: &str) -> File {
    File { path: path.into(), text: text.into() }
}
