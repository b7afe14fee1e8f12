//! `cargo xtask release`: one archive that is unpacked at `/`, with the checksum of each file and of itself.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::say::say;
use crate::systemd::{self, Level, Piece};
use crate::workspace::{self, Workspace};
use crate::{Result, programs, run};

/// Where recipes of images go; the daemon has them built in, these are for people to start their own from.
const RECIPES: &str = "/usr/share/sysctl/images";

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    crate::only(arguments, &[])?;
    let workspace = workspace::load()?;
    say!("building {}", programs::ALL.join(", "));
    programs::build(&workspace, programs::Seen::All)?;
    let version = version(&workspace)?;
    let name = format!("sysctl-{version}-{}", std::env::consts::ARCH);
    let directory = workspace.target.join("release-artifacts");
    let root = directory.join(&name);
    let _ = fs::remove_dir_all(&root);
    let mut sums = String::new();
    for piece in all(&workspace)? {
        systemd::put(&piece, &root)?;
        let content = fs::read(&piece.from).map_err(|e| format!("read {}: {e}", piece.from.display()))?;
        let _ = writeln!(sums, "{}  {}", hex(&content), relative(&piece.to).display());
    }
    let list = Piece {
        from: directory.join(format!("{name}.files")),
        to: format!("/usr/share/sysctl/{name}.sha256").into(),
        mode: 0o644,
    };
    write(&list.from, &sums)?;
    systemd::put(&list, &root)?;
    let archive = directory.join(format!("{name}.tar.gz"));
    // The same files give the same archive.
    let mut tar = Command::new("tar");
    tar.args([
        "--create",
        "--gzip",
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--mtime=@0",
        "--file",
    ]);
    run::captured(tar.arg(&archive).arg("--directory").arg(&root).arg("."))?;
    fs::remove_dir_all(&root).map_err(|e| format!("remove {}: {e}", root.display()))?;
    let content = fs::read(&archive).map_err(|e| format!("read {}: {e}", archive.display()))?;
    let sum = hex(&content);
    write(&directory.join(format!("{name}.tar.gz.sha256")), &format!("{sum}  {name}.tar.gz\n"))?;
    say!("{} ({:.1} MB)\nsha256 {sum}", archive.display(), content.len() as f64 / 1e6);
    Ok(())
}

fn all(workspace: &Workspace) -> Result<Vec<Piece>> {
    let mut pieces = systemd::pieces(workspace, Level::Package);
    let recipes = workspace.root.join("images");
    let entries = fs::read_dir(&recipes).map_err(|e| format!("read {}: {e}", recipes.display()))?;
    for entry in entries.flatten() {
        pieces.push(Piece { from: entry.path(), to: Path::new(RECIPES).join(entry.file_name()), mode: 0o644 });
    }
    for name in ["LICENSE", "NAMESPACES.md", "README.md", "SECURITY.md", "autoscale.svg"] {
        let from = workspace.root.join(name);
        if from.exists() {
            pieces.push(Piece { from, to: Path::new("/usr/share/doc/sysctl").join(name), mode: 0o644 });
        }
    }
    pieces.sort_by(|a, b| a.to.cmp(&b.to));
    Ok(pieces)
}

fn version(workspace: &Workspace) -> Result<String> {
    let program = workspace.release().join(programs::DAEMON);
    let text = run::captured(Command::new(program).arg("--version"))?;
    text.split_whitespace().last().map(str::to_owned).ok_or_else(|| format!("{text:?} is no version"))
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

fn hex(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|e| format!("write {}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_sha256sum() {
        assert_eq!(&hex(b"")[..16], "e3b0c44298fc1c14");
        assert_eq!(relative(Path::new("/usr/bin/x")), Path::new("usr/bin/x"));
    }
}
