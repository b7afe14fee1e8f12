//! What cargo knows about this repository.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::Result;
use crate::run;

/// The repository.
#[derive(Debug)]
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) packages: Vec<Package>,
}

/// One of our crates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) directory: PathBuf,
    /// What it depends on, with the kind: "normal", "dev" or "build".
    pub(crate) dependencies: Vec<Dependency>,
}

/// An edge to another crate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) dev: bool,
    /// It stands in this repository.
    pub(crate) ours: bool,
}

/// The cargo that runs us, or the one on the path.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Asks cargo.
pub(crate) fn load() -> Result<Workspace> {
    let mut command = cargo();
    command.args(["metadata", "--format-version", "1", "--no-deps"]);
    parse(&run::captured(&mut command)?).ok_or_else(|| "cargo metadata answers in a form that is not known".to_owned())
}

/// Reads what `cargo metadata` prints.
pub(crate) fn parse(text: &str) -> Option<Workspace> {
    let value: Value = serde_json::from_str(text).ok()?;
    let path = |key: &str| value[key].as_str().map(PathBuf::from);
    let packages = value["packages"].as_array()?.iter().map(package).collect::<Option<Vec<_>>>()?;
    Some(Workspace { root: path("workspace_root")?, target: path("target_directory")?, packages })
}

fn package(value: &Value) -> Option<Package> {
    let manifest = Path::new(value["manifest_path"].as_str()?);
    let dependency = |value: &Value| {
        Some(Dependency {
            name: value["name"].as_str()?.to_owned(),
            dev: value["kind"] == "dev",
            ours: value["path"].is_string(),
        })
    };
    Some(Package {
        name: value["name"].as_str()?.to_owned(),
        directory: manifest.parent()?.to_owned(),
        dependencies: value["dependencies"].as_array()?.iter().map(dependency).collect::<Option<Vec<_>>>()?,
    })
}

impl Workspace {
    /// Where release binaries are.
    pub(crate) fn release(&self) -> PathBuf {
        self.target.join("release")
    }

    /// Where we keep what is slow to make, and logs.
    pub(crate) fn own(&self, name: &str) -> PathBuf {
        self.target.join("xtask").join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_and_edges_are_read() {
        let text = r#"{"workspace_root":"/r","target_directory":"/t","packages":[{"name":"a","manifest_path":"/r/crates/a/Cargo.toml",
            "dependencies":[{"name":"b","kind":null,"path":"/r/crates/b"},{"name":"serde","kind":"dev"}]}]}"#;
        let workspace = parse(text).expect("parses");
        assert_eq!(workspace.release(), Path::new("/t/release"));
        let a = &workspace.packages[0];
        assert_eq!((a.name.as_str(), a.directory.as_path()), ("a", Path::new("/r/crates/a")));
        assert_eq!(a.dependencies[0], Dependency { name: "b".into(), dev: false, ours: true });
        assert_eq!(a.dependencies[1], Dependency { name: "serde".into(), dev: true, ours: false });
        assert!(parse("{}").is_none() && parse("no json").is_none());
    }
}
