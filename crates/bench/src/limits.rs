//! The rows about what is done to a guest that runs: a limit that changes, a guest that is held still.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::daemons::Daemon;
use crate::figures::Figures;
use crate::http::Http;
use crate::rows::{Field, calm};
use crate::{Result, act, now_ms, tell};

/// Processes of the guest that is held still, beside its init.
const SLEEPERS: usize = 20;

/// Rows 9, 9-effect, 9-freeze and 9-freeze-effect.
pub(crate) fn all(field: &Field, scratch: &Path, figures: &mut Figures) -> Result<()> {
    tell("9: limits of a running guest");
    let path = scratch.join("bare-write");
    let mut disk = File::create(&path).map_err(act("a file for bare writes"))?;
    for daemon in &field.daemons {
        let mut http = daemon.http();
        http.create("lim", "bb", false)?;
        http.state("lim", "start")?;
        http.pid("lim")?;
        calm();
        sleepers(&mut http)?;
    }
    for round in 0..if field.quick { 9 } else { 30 } {
        for daemon in &field.daemons {
            calm();
            figures.take("9", "fsync", bare_write(&mut disk));
            limit(daemon, round, figures);
            calm();
            figures.take("9-freeze", "fsync", bare_write(&mut disk));
            hold(daemon, figures)?;
        }
    }
    for daemon in &field.daemons {
        let mut http = daemon.http();
        http.state("lim", "stop")?;
        http.delete("lim")?;
    }
    fs::remove_file(path).map_err(act("remove the file for bare writes"))
}

/// What a promise costs at the least: a page written to the same disk.
fn bare_write(disk: &mut File) -> Result<f64> {
    let begun = now_ms();
    disk.write_all(&[7; 4096]).map_err(act("write"))?;
    disk.sync_data().map_err(act("fsync"))?;
    Ok(now_ms() - begun)
}

fn sleepers(http: &mut Http) -> Result<()> {
    let script = format!("i=0; while [ $i -lt {SLEEPERS} ]; do sleep 100000 & i=$((i+1)); done");
    let order = json!({"command": ["sh", "-c", script], "wait-for-websocket": false, "interactive": false});
    http.finish("POST", "/1.0/instances/lim/exec", &order).map(drop)
}

fn limit(daemon: &Daemon, round: usize, figures: &mut Figures) {
    let size = format!("{}MiB", 300 + round % 7);
    let mut http = daemon.http();
    let _ = http.ask("GET", "/1.0", &serde_json::Value::Null);
    let begun = now_ms();
    if daemon.name == "ours" {
        let done = http.ask("PATCH", "/1.0/instances/lim/limits", &json!({"limits.memory": size}));
        let replied = now_ms() - begun;
        let effect = done.as_ref().ok().and_then(|done| done["total_us"].as_f64()).map(|us| us / 1e3);
        figures.take("9", "ours", done.map(|_| replied));
        figures.take("9-effect", "ours", effect.ok_or_else(|| "it was not told".to_owned()));
    } else {
        let done = http.finish("PATCH", "/1.0/instances/lim", &json!({"config": {"limits.memory": size}}));
        figures.take("9", daemon.name, done.map(|_| now_ms() - begun));
    }
}

/// A guest is held still and let go again; when every process stood is seen by another thread.
fn hold(daemon: &Daemon, figures: &mut Figures) -> Result<()> {
    let mut http = daemon.http();
    let group = if daemon.name == "ours" { Some(group(http.pid("lim")?)?) } else { None };
    let seen = group.map(|group| std::thread::spawn(move || until_frozen(&group.join("cgroup.events"))));
    let begun = now_ms();
    let done = http.state("lim", "freeze");
    let replied = now_ms() - begun;
    if let Some(seen) = seen {
        let at = seen.join().map_err(|_| "the watcher failed".to_owned())?;
        figures.take("9-freeze-effect", "ours", at.map(|at| at - begun));
    }
    figures.take("9-freeze", daemon.name, done.map(|()| replied));
    http.state("lim", "unfreeze")
}

/// The cgroup2 directory that a guest is held still by: the one above its own.
fn group(pid: u32) -> Result<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).map_err(act("its group"))?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).ok_or("it is in no cgroup2")?;
    let (path, _) = path.split_once("/payload").ok_or("its group has another name")?;
    let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(|root| Path::new(root).join(path));
    roots.into_iter().find(|path| path.join("cgroup.events").exists()).ok_or_else(|| "its group is nowhere".to_owned())
}

fn until_frozen(events: &Path) -> Result<f64> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if fs::read_to_string(events).is_ok_and(|text| text.contains("frozen 1")) {
            return Ok(now_ms());
        }
        // Short beside what is measured, and long enough to leave the processor to who is measured.
        std::thread::sleep(Duration::from_micros(20));
    }
    Err("it never stood still".into())
}
