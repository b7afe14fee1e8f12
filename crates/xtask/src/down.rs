//! `cargo xtask down`: stops instances and ends the daemon; with `--purge` nothing of it is left, which is checked.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::places::Places;
use crate::programs::{self, DAEMON};
use crate::say::say;
use crate::workspace::{self, Workspace};
use crate::{Result, process, run, systemd, traces};

/// Guests have a while to stop; each has a limit of its own, which the daemon keeps.
const STOPPING: Duration = Duration::from_secs(180);

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    crate::only(arguments, &["--purge"])?;
    crate::need_root("ending the daemon")?;
    let purge = !arguments.is_empty();
    let workspace = workspace::load()?;
    let places = Places::of_environment();
    let ended = end(&workspace, &places)?;
    if purge {
        return leave_nothing(&workspace, &places);
    }
    say!("{}", if ended { "the daemon has ended" } else { "nothing was to do: no daemon runs" });
    if places.state.exists() {
        say!(
            "{} stays: `cargo xtask up` goes on with it, `cargo xtask down --purge` removes it",
            places.state.display()
        );
    }
    Ok(())
}

/// Ends daemon and spawn process, instances first. Whether there was anything to end.
fn end(workspace: &Workspace, places: &Places) -> Result<bool> {
    let by_units = systemd::is_here() && places.are_usual();
    let daemon = process::daemon(places);
    // A connection to systemd's socket would start a daemon that has ended.
    let answers = if by_units { systemd::is_active(DAEMON) } else { UnixStream::connect(places.socket()).is_ok() };
    if answers {
        let client =
            programs::installed_or_built(workspace, programs::CLIENT).ok_or("there is no sysctl-cli: build it")?;
        say!("stopping the instances");
        let directory = client.parent().unwrap_or(Path::new("/"));
        run::shown(programs::client(directory, &places.socket()).args(["admin", "shutdown"]))?;
    }
    if by_units {
        systemd::down()?;
    }
    if let Some(daemon) = &daemon
        && !(answers && run::ends_within(daemon.pid, STOPPING))
    {
        daemon.end(Duration::from_secs(30))?;
    }
    let spawn = process::spawn(places);
    if let Some(spawn) = &spawn {
        spawn.end(Duration::from_secs(10))?;
    }
    for file in [places.pid_file(), places.socket(), places.spawn_socket()] {
        let _ = fs::remove_file(file);
    }
    Ok(answers || daemon.is_some() || spawn.is_some())
}

fn leave_nothing(workspace: &Workspace, places: &Places) -> Result<()> {
    let changed = traces::settings(places);
    if places.state.exists() || places.runtime.exists() {
        let program = programs::installed_or_built(workspace, DAEMON)
            .ok_or("there is no sysctld to take its things away: `cargo build --release -p sysctld` builds it")?;
        let mut command = Command::new(program);
        command.arg("--purge").arg("--state-dir").arg(&places.state).arg("--runtime-dir").arg(&places.runtime);
        run::shown(command.args(["--log-level", "warn"]))?;
    }
    if systemd::is_here() && places.are_usual() {
        systemd::remove(workspace)?;
    }
    let left = traces::all(places, &changed);
    if left.is_empty() {
        say!("nothing is left: no process, mount, control group, link, nft table, changed setting or file");
        return Ok(());
    }
    left.iter().for_each(|trace| say!("left: {trace}"));
    Err(format!("{} things are left", left.len()))
}
