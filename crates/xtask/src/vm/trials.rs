//! Programs of the host's ring that are also run in the machine: its kernel has every controller in cgroup2, and systemd
//! runs beside them. They bring daemons of their own.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::programs::DAEMON;
use crate::results;
use crate::systemd::{self, Piece};
use crate::test::Program;
use crate::workspace::Workspace;
use crate::{Result, run};

/// A program, by its package and the name of its file in `tests/`.
pub(crate) type Trial = (&'static str, &'static str);

/// All of them, in the order in which they are run.
pub(crate) const ALL: [Trial; 5] =
    [("runtime", "host_cgroup"), (DAEMON, "limits"), (DAEMON, "autoscale"), (DAEMON, "bites"), (DAEMON, "view")];

/// Where they are in the machine.
const DIRECTORY: &str = "/usr/local/lib/trials";

/// Lines of a failed one that are told.
const SHOWN: usize = 40;

/// Where the tests of the daemon leave an image that takes long to build, for whoever comes later.
pub(crate) fn kept(workspace: &Workspace, name: &str) -> PathBuf {
    workspace.target.join("tmp").join(name)
}

/// The words by which cargo builds them alone.
pub(crate) fn words() -> Vec<&'static str> {
    ALL.iter().flat_map(|(package, target)| ["--package", package, "--test", target]).collect()
}

/// The files that they need: themselves, and what they read of the repository under the names that are compiled in.
pub(crate) fn pieces(workspace: &Workspace, programs: &[Program]) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    for trial in ALL {
        let program = programs.iter().find(|program| program.is(trial));
        let program = program.ok_or_else(|| format!("the tests {} {} were not compiled", trial.0, trial.1))?;
        pieces.push(Piece { from: program.executable.clone(), to: path(trial), mode: 0o755 });
    }
    let read = ["README.md", "crates/sysctld/Cargo.toml", "images/busybox.toml"].map(|file| workspace.root.join(file));
    // Younger than its recipe, or it would be built there again.
    let busybox = Some(kept(workspace, "busybox.tar.zst")).filter(|path| path.exists());
    let same = |from: PathBuf| Piece { to: from.clone(), from, mode: 0o644 };
    pieces.extend(read.into_iter().chain(busybox).map(same));
    Ok(pieces)
}

fn path((package, target): Trial) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{package}-{target}"))
}

/// Runs one, in the machine. Its figures, or its last words.
pub(crate) fn run(trial: Trial) -> Result<Vec<String>> {
    let mut command = Command::new(path(trial));
    // Daemon and client as they are installed.
    let daemon = systemd::installed(DAEMON);
    command.arg("--show-output").env("SYSCTL_BIN_DIR", daemon.parent().unwrap_or(Path::new("/")));
    // The machine has two slow processors, and other checks run beside.
    command.arg("--test-threads=2").env("RUST_BACKTRACE", "0").env("SYSCTL_TEST_EMULATED", "1").current_dir("/");
    let (status, output, complaint) = run::all(&mut command)?;
    let said = format!("{output}\n{complaint}");
    if status.success() {
        return Ok(results::figures(&said).into_iter().map(str::to_owned).collect());
    }
    Err(format!("{status}\n{}", run::tail(&output, SHOWN)))
}
