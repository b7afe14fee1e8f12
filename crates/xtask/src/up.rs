//! `cargo xtask up`: from a fresh machine to a running instance. Done again it changes nothing, and says so.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::places::Places;
use crate::process;
use crate::programs::{self, DAEMON};
use crate::say::say;
use crate::workspace::{self, Workspace};
use crate::{Result, apt, run, systemd};

/// The instance that shows that all works.
const INSTANCE: &str = "web1";
const IMAGE: &str = "debian";

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    crate::only(arguments, &[])?;
    crate::need_root("starting the daemon")?;
    let mut changed = apt::ensure(&apt::RUN)?;
    let workspace = workspace::load()?;
    say!("building {}", programs::ALL.join(", "));
    programs::build(&workspace, programs::Seen::All)?;
    let places = Places::of_environment();
    let done = if systemd::is_here() && places.are_usual() {
        systemd::up(&workspace)?
    } else {
        in_background(&workspace, &places)?
    };
    changed |= !done.is_empty();
    done.iter().for_each(|line| say!("{line}"));
    let client = || programs::client(&workspace.release(), &places.socket());
    run::shown(client().args(["admin", "waitready", "--timeout", "30"]))
        .map_err(|text| format!("the daemon does not get ready ({text}): {}", where_it_says_why(&places)))?;
    changed |= instance(&client)?;
    run::shown(client().arg("list"))?;
    if !changed {
        say!("nothing was to do: the daemon of this build already runs, and so does {INSTANCE}");
    }
    say!("socket: {}", places.socket().display());
    Ok(())
}

fn where_it_says_why(places: &Places) -> String {
    if systemd::is_here() && places.are_usual() {
        return "see `journalctl --unit sysctld`".to_owned();
    }
    let log = fs::read_to_string(places.log()).unwrap_or_default();
    format!("{} ends with\n{}", places.log().display(), run::tail(&log, 20))
}

/// Has the daemon of this build run in a session of its own. Returns what was done.
fn in_background(workspace: &Workspace, places: &Places) -> Result<Vec<String>> {
    let program = workspace.release().join(DAEMON);
    let mut done = Vec::new();
    if let Some(daemon) = process::daemon(places) {
        if daemon.runs(&program) {
            return Ok(done);
        }
        say!("another build of the daemon runs (process {}): it ends, instances go on", daemon.pid);
        daemon.end(Duration::from_secs(60))?;
    } else if UnixStream::connect(places.socket()).is_ok() {
        let (socket, file) = (places.socket(), places.pid_file());
        return Err(format!(
            "a daemon that was not started by `up` answers at {} ({} names no process): end it first, or set \
             SYSCTL_STATE_DIR and SYSCTL_RUNTIME_DIR for a second one",
            socket.display(),
            file.display()
        ));
    }
    // The daemon has the spawn process and keepers of running instances go on in their new program.
    let pid = start(&program, places)?;
    done.push(format!("started the daemon: process {pid}, log {}", places.log().display()));
    Ok(done)
}

fn start(program: &Path, places: &Places) -> Result<u32> {
    let failed = |act: &str, path: &Path| {
        let text = format!("{act} {}", path.display());
        move |error: std::io::Error| format!("{text}: {error}")
    };
    for (directory, mode) in [(&places.state, 0o700), (&places.runtime, 0o755)] {
        DirBuilder::new().recursive(true).mode(mode).create(directory).map_err(failed("make", directory))?;
    }
    let log = places.log();
    let open = || File::options().append(true).create(true).open(&log).and_then(|file| Ok((file.try_clone()?, file)));
    let (out, errors) = open().map_err(failed("write", &log))?;
    // setsid(1) becomes the daemon itself, as a child of ours leads no group of processes.
    let mut command = Command::new("setsid");
    command.arg(program).arg("--state-dir").arg(&places.state).arg("--runtime-dir").arg(&places.runtime);
    command.current_dir("/").stdin(Stdio::null()).stdout(out).stderr(errors);
    let pid = command.spawn().map_err(|e| format!("run {}: {e}", run::words(&command)))?.id();
    let file = places.pid_file();
    fs::write(&file, format!("{pid}\n")).map_err(failed("write", &file))?;
    Ok(pid)
}

/// Has the instance run; whether anything was to do.
fn instance(client: &dyn Fn() -> Command) -> Result<bool> {
    let list = run::captured(client().args(["list", "--format", "json"]))?;
    match status(&list, INSTANCE)?.as_deref() {
        Some("Running") => Ok(false),
        Some(other) => {
            say!("{INSTANCE} is there and {other}: starting it");
            run::shown(client().args(["start", INSTANCE])).map(|()| true)
        }
        None => run::shown(client().args(["launch", IMAGE, INSTANCE])).map(|()| true),
    }
}

/// Status of an instance by a list in JSON; `None` when there is no such instance.
pub(crate) fn status(list: &str, name: &str) -> Result<Option<String>> {
    let list: Value = serde_json::from_str(list).map_err(|e| format!("the list of instances is no JSON: {e}"))?;
    let found = list.as_array().into_iter().flatten().find(|instance| instance["name"] == name);
    Ok(found.map(|instance| instance["status"].as_str().unwrap_or_default().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_found_by_name() {
        let list = r#"[{"name":"web10","status":"Stopped"},{"name":"web1","status":"Running"}]"#;
        assert_eq!(status(list, "web1"), Ok(Some("Running".into())));
        assert_eq!(status("[]", "web1"), Ok(None));
        assert!(status("", "web1").is_err());
    }
}
