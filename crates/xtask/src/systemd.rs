//! The product under systemd: where its files go, and having units started and stopped.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::programs::{CLIENT, DAEMON, KEEPER};
use crate::say::say;
use crate::workspace::Workspace;
use crate::{Result, run};

/// Units in the order of their start.
pub(crate) const UNITS: [&str; 4] =
    ["sysctl-keeper.service", "sysctld.socket", "sysctld.service", "sysctl-guests.service"];

/// Below which directory units and the like are installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// `/etc`: what the administrator of this machine put there.
    Local,
    /// `/usr/lib`: what a package brings.
    Package,
}

/// A file of the product: where it comes from and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) from: PathBuf,
    pub(crate) to: PathBuf,
    pub(crate) mode: u32,
}

/// Whether systemd runs this machine (sd_booted(3)).
pub(crate) fn is_here() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Where a program is installed.
pub(crate) fn installed(name: &str) -> PathBuf {
    Path::new(if name == KEEPER { "/usr/libexec/sysctl" } else { "/usr/bin" }).join(name)
}

/// All files of the product.
pub(crate) fn pieces(workspace: &Workspace, level: Level) -> Vec<Piece> {
    let below = Path::new(match level {
        Level::Local => "/etc",
        Level::Package => "/usr/lib",
    });
    let programs = [DAEMON, KEEPER, CLIENT].into_iter().map(|name| Piece {
        from: workspace.release().join(name),
        to: installed(name),
        mode: 0o755,
    });
    let sources = workspace.root.join("systemd");
    let file = |name: &str, to: &str| Piece { from: sources.join(name), to: below.join(to), mode: 0o644 };
    let units = UNITS.iter().map(|unit| file(unit, &format!("systemd/system/{unit}")));
    let others = [file("tmpfiles.conf", "tmpfiles.d/sysctld.conf"), file("sysusers.conf", "sysusers.d/sysctld.conf")];
    programs.chain(units).chain(others).collect()
}

/// Puts a file where it belongs below `root`; `false` when it is there already. Never half: renamed at the end.
pub(crate) fn put(piece: &Piece, root: &Path) -> Result<bool> {
    let to = below(root, &piece.to);
    let failed = |act: &str, path: &Path| {
        let text = format!("{act} {}", path.display());
        move |error: std::io::Error| format!("{text}: {error}")
    };
    let content = fs::read(&piece.from).map_err(failed("read", &piece.from))?;
    if fs::read(&to).is_ok_and(|there| there == content) {
        return Ok(false);
    }
    let directory = to.parent().unwrap_or(root);
    fs::create_dir_all(directory).map_err(failed("make", directory))?;
    // systemd reads neither units nor configuration under this name.
    let temporary = to.with_extension("sysctl-new");
    fs::write(&temporary, content).map_err(failed("write", &temporary))?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(piece.mode)).map_err(failed("chmod", &temporary))?;
    fs::rename(&temporary, &to).map_err(failed("rename to", &to))?;
    Ok(true)
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Installs what is not installed and starts what does not run. Returns what was done, nothing when nothing was to do.
pub(crate) fn up(workspace: &Workspace) -> Result<Vec<String>> {
    let mut done = Vec::new();
    let (mut programs, mut units) = (false, false);
    for piece in pieces(workspace, Level::Local) {
        if put(&piece, Path::new("/"))? {
            done.push(format!("installed {}", piece.to.display()));
            if piece.mode == 0o755 { programs = true } else { units = true }
        }
    }
    if units {
        run::shown(&mut Command::new("systemd-sysusers"))?;
        run::shown(Command::new("systemd-tmpfiles").arg("--create").arg("sysctld.conf"))?;
        systemctl(&["daemon-reload"])?;
    }
    let idle = UNITS.iter().any(|unit| !is_active(unit));
    if idle {
        systemctl(&[&["enable", "--quiet", "--now"], UNITS.as_slice()].concat())?;
        done.push(format!("started {}", UNITS.join(", ")));
    }
    if programs && !idle {
        // The spawn process and keepers are told by the daemon to go on in their new program; guests do not notice.
        systemctl(&["restart", "sysctld.service"])?;
        done.push("restarted the daemon; instances went on".to_owned());
    }
    Ok(done)
}

/// Stops the units, last first.
pub(crate) fn down() -> Result<()> {
    let mut units = UNITS;
    units.reverse();
    let there: Vec<&str> = units.into_iter().filter(|unit| is_known(unit)).collect();
    if there.is_empty() {
        return Ok(());
    }
    systemctl(&[&["disable", "--quiet", "--now"], there.as_slice()].concat())
}

/// Whether a unit is up.
pub(crate) fn is_active(unit: &str) -> bool {
    run::succeeds(Command::new("systemctl").args(["is-active", "--quiet", unit]))
}

fn is_known(unit: &str) -> bool {
    run::succeeds(Command::new("systemctl").args(["cat", unit]))
}

/// Takes away what [`up`] installed.
pub(crate) fn remove(workspace: &Workspace) -> Result<()> {
    for piece in pieces(workspace, Level::Local) {
        match fs::remove_file(&piece.to) {
            Ok(()) => say!("removed {}", piece.to.display()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("remove {}: {error}", piece.to.display())),
        }
    }
    // Only when it is empty: then it was ours.
    let _ = fs::remove_dir("/usr/libexec/sysctl");
    if is_here() { systemctl(&["daemon-reload"]) } else { Ok(()) }
}

fn systemctl(words: &[&str]) -> Result<()> {
    run::captured(Command::new("systemctl").args(words)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace() -> Workspace {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        Workspace { root, target: "/t".into(), packages: Vec::new() }
    }

    #[test]
    fn every_file_below_systemd_is_installed_somewhere() {
        let workspace = workspace();
        let mut there: Vec<PathBuf> =
            fs::read_dir(workspace.root.join("systemd")).expect("units").flatten().map(|entry| entry.path()).collect();
        let mut known: Vec<PathBuf> =
            pieces(&workspace, Level::Package).into_iter().map(|p| p.from).filter(|p| !p.starts_with("/t")).collect();
        there.sort();
        known.sort();
        assert_eq!(known, there);
    }

    #[test]
    fn units_name_the_programs_where_they_are_installed() {
        for unit in UNITS.iter().filter(|unit| unit.ends_with(".service")) {
            let text = fs::read_to_string(workspace().root.join("systemd").join(unit)).expect("unit");
            let line = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("ExecStart");
            let program = line.split(' ').next().expect("a program");
            assert!(
                [DAEMON, KEEPER, CLIENT].iter().any(|name| Path::new(program) == installed(name)),
                "{unit}: {program}"
            );
        }
    }

    #[test]
    fn a_file_is_put_once() {
        let root = std::env::temp_dir().join(format!("xtask-put-{}", std::process::id()));
        let piece = Piece { from: std::env::current_exe().expect("we"), to: "/a/b".into(), mode: 0o755 };
        let outcome = (put(&piece, &root), put(&piece, &root));
        let _ = fs::remove_dir_all(&root);
        assert_eq!(outcome, (Ok(true), Ok(false)));
    }
}
