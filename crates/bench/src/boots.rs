//! The rows about Debian: from a request to systemd, and to the end of its boot.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bare::Bare;
use crate::daemons::{Daemon, run};
use crate::figures::Figures;
use crate::rows::{Field, calm};
use crate::{Result, now_ms};

/// Longest boot of Debian.
const BOOT: Duration = Duration::from_secs(60);

/// Rows 2a, 2b.
pub(crate) fn launches(
    field: &mut Field,
    archive: &Path,
    scratch: &Path,
    bridge: u32,
    figures: &mut Figures,
) -> Result<()> {
    for daemon in &field.daemons {
        daemon.import(archive, "deb")?;
    }
    // The layer is unpacked by the first instance: "cached" is what comes after.
    for daemon in &field.daemons {
        for (_, pool) in daemon.pools.iter().filter(|(who, _)| *who != "incus") {
            daemon.http().make("first-deb", "deb", pool, false, false, &json!({}))?;
            daemon.http().delete("first-deb")?;
        }
    }
    let mut bare = Bare::new(&field.daemons[0].layer("deb")?, &scratch.join("bare-deb"), bridge)?;
    let rounds = if field.quick { 3 } else { 7 };
    for _ in 0..rounds {
        calm();
        let (number, pid, begun) = bare.start(true)?;
        let booted = boot(pid, begun);
        put_boot("bare", booted, figures);
        bare.stop(number)?;
        for daemon in &field.daemons {
            for (who, pool) in &daemon.pools {
                put_boot(who, launch(daemon, pool), figures);
            }
        }
    }
    Ok(())
}

fn put_boot(who: &str, times: Result<(f64, f64)>, figures: &mut Figures) {
    match times {
        Ok((init, finished)) => {
            figures.put("2a", who, init);
            figures.put("2b", who, finished);
        }
        Err(text) => figures.notes.push(format!("2a, 2b {who}: {text}")),
    }
}

fn launch(daemon: &Daemon, pool: &str) -> Result<(f64, f64)> {
    // With a writable /sys and no udevd networkd waits for ever; ours is read-only by itself.
    let config = if daemon.name == "ours" { json!({}) } else { json!({"raw.lxc": "lxc.mount.auto = sys:ro"}) };
    let mut http = daemon.http();
    http.ask("GET", "/1.0", &Value::Null)?;
    calm();
    let begun = now_ms();
    let times = http.make("deb", "deb", pool, true, true, &config).and_then(|()| boot(http.pid("deb")?, begun));
    let _ = http.state("deb", "stop");
    http.delete("deb")?;
    times
}

/// When systemd began and when it had booted, in milliseconds after `begun`, by its own clock.
fn boot(pid: u32, begun: f64) -> Result<(f64, f64)> {
    let deadline = Instant::now() + BOOT;
    loop {
        std::thread::sleep(Duration::from_millis(100));
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid.to_string(), "-a", "systemctl", "show"]);
        let text = run(command.args(["-p", "FinishTimestampMonotonic", "-p", "UserspaceTimestampMonotonic"]));
        let text = text.unwrap_or_default();
        let stamp = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
            value.parse::<f64>().ok().filter(|us| *us > 0.0).map(|us| us / 1e3 - begun)
        };
        if let (Some(init), Some(finished)) = (stamp("UserspaceTimestampMonotonic"), stamp("FinishTimestampMonotonic"))
        {
            return Ok((init, finished));
        }
        if Instant::now() > deadline {
            return Err(format!("it has not booted in a minute: {text}"));
        }
    }
}
