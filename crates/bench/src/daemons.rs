//! The daemons under test: each with its own directories, started here and gone at the end, also on failure.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::http::Http;
use crate::{Result, act, now_ms, programs};

/// A daemon.
#[derive(Debug)]
pub(crate) struct Daemon {
    /// `ours` or `incus`.
    pub(crate) name: &'static str,
    /// Its API.
    pub(crate) socket: PathBuf,
    directory: PathBuf,
    child: Option<Child>,
    /// Pools, by what their figures are called.
    pub(crate) pools: Vec<(&'static str, &'static str)>,
    /// What could not be had.
    pub(crate) missing: Option<String>,
    /// Control groups of liblxc's that were not there before; it leaves them behind.
    pivots: Vec<PathBuf>,
}

const INCUSD: &str = "/usr/libexec/incus/incusd";
const READY: Duration = Duration::from_secs(60);

impl Daemon {
    /// Ours, on an empty state directory.
    pub(crate) fn ours(directory: &Path) -> Result<Daemon> {
        fs::create_dir_all(directory).map_err(act("mkdir"))?;
        let mut daemon = Daemon {
            name: "ours",
            socket: directory.join("run/unix.socket"),
            directory: directory.to_owned(),
            child: None,
            pools: vec![("ours", "default")],
            missing: None,
            pivots: Vec::new(),
        };
        daemon.start()?;
        Ok(daemon)
    }

    /// Incus, where it is installed, with a directory pool, a btrfs pool where that can be had, and
    /// NICs on `bridge`, which is not its own (so it needs no dnsmasq).
    pub(crate) fn incus(directory: &Path, bridge: &str) -> Result<Option<Daemon>> {
        if !Path::new(INCUSD).exists() {
            return Ok(None);
        }
        fs::create_dir_all(directory).map_err(act("mkdir"))?;
        let mut daemon = Daemon {
            name: "incus",
            socket: directory.join("unix.socket"),
            directory: directory.to_owned(),
            child: None,
            pools: vec![("incus", "default")],
            missing: None,
            pivots: pivots().into_iter().filter(|path| !path.exists()).collect(),
        };
        daemon.start()?;
        let mut http = daemon.http();
        http.ask("POST", "/1.0/storage-pools", &json!({"name": "default", "driver": "dir"}))?;
        let devices = json!({"root": {"type": "disk", "path": "/", "pool": "default"},
            "eth0": {"type": "nic", "name": "eth0", "nictype": "bridged", "parent": bridge}});
        http.ask("PUT", "/1.0/profiles/default", &json!({"devices": devices, "config": {}}))?;
        let btrfs = json!({"name": "loop", "driver": "btrfs", "config": {"size": "4GiB"}});
        match http.ask("POST", "/1.0/storage-pools", &btrfs) {
            Ok(_) => daemon.pools.push(("incus-btrfs", "loop")),
            Err(text) => daemon.missing = Some(format!("Incus has no btrfs pool: {text}")),
        }
        Ok(Some(daemon))
    }

    fn is_ours(&self) -> bool {
        self.name == "ours"
    }

    /// Its runtime directory.
    pub(crate) fn runtime(&self) -> PathBuf {
        self.directory.join("run")
    }

    /// Its state directory.
    pub(crate) fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// A connection to it.
    pub(crate) fn http(&self) -> Http {
        Http::new(&self.socket)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    fn command(&self) -> Result<Command> {
        let mut command = if self.is_ours() {
            let mut command = Command::new(programs("sysctld")?);
            command.arg("--state-dir").arg(self.state()).arg("--runtime-dir").arg(self.runtime());
            if let Some(level) = std::env::var_os("BENCH_LOG_LEVEL") {
                command.arg("--log-level").arg(level);
            }
            command
        } else {
            let mut command = Command::new(INCUSD);
            command.arg("--logfile").arg(self.directory.join("log")).env("INCUS_DIR", &self.directory);
            command.env_remove("INCUS_SOCKET");
            command
        };
        let log = File::options().create(true).append(true).open(self.directory.join("output")).map_err(act("log"))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Ok(command)
    }

    /// Starts it and waits until it answers everything.
    pub(crate) fn start(&mut self) -> Result<()> {
        let mut command = self.command()?;
        if self.is_ours() {
            let path = self.directory.join("notify");
            let _ = fs::remove_file(&path);
            let notify = UnixDatagram::bind(&path).map_err(act("notify socket"))?;
            notify.set_read_timeout(Some(READY)).map_err(act("notify socket"))?;
            self.child = Some(command.env("NOTIFY_SOCKET", &path).spawn().map_err(act("start sysctld"))?);
            let mut said = [0u8; 256];
            return notify.recv(&mut said).map(drop).map_err(act("sysctld does not get ready"));
        }
        self.child = Some(command.spawn().map_err(act("start incusd"))?);
        let mut wait = Command::new(INCUSD);
        wait.args(["waitready", "--timeout=60"]).env("INCUS_DIR", &self.directory).env_remove("INCUS_SOCKET");
        run(&mut wait).map(drop)
    }

    /// Ends it by a signal, starts it again and tells the milliseconds until it answers.
    pub(crate) fn restart(&mut self, signal: Signal) -> Result<f64> {
        let mut child = self.child.take().ok_or("it does not run")?;
        send(child.id(), signal);
        child.wait().map_err(act("wait"))?;
        let mut command = self.command()?;
        let begun = now_ms();
        self.child = Some(command.spawn().map_err(act("start"))?);
        let deadline = Instant::now() + READY;
        // A list as well: an answer that says nothing of instances is none.
        while self.http().ask("GET", "/1.0/instances?recursion=1", &Value::Null).is_err() {
            if Instant::now() > deadline {
                return Err("it does not come back".into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(now_ms() - begun)
    }

    /// Its command-line client.
    pub(crate) fn client(&self, words: &[&str]) -> Result<Command> {
        let mut command = if self.is_ours() {
            let mut command = Command::new(programs("sysctl-cli")?);
            command.env("SYSCTL_SOCKET", &self.socket);
            command
        } else {
            let mut command = Command::new("incus");
            command.env("INCUS_DIR", &self.directory).env("INCUS_CONF", self.directory.join("conf"));
            command.env_remove("INCUS_SOCKET");
            command
        };
        command.args(words).stdin(Stdio::null());
        Ok(command)
    }

    /// Makes an image known under an alias.
    pub(crate) fn import(&self, archive: &Path, alias: &str) -> Result<()> {
        if !self.is_ours() {
            let path = archive.display().to_string();
            return run(&mut self.client(&["image", "import", &path, "--alias", alias])?).map(drop);
        }
        let bytes = fs::read(archive).map_err(act("read the image"))?;
        let headers = format!("Content-Type: application/octet-stream\r\nX-Incus-aliases: alias={alias}\r\n");
        let mut http = self.http();
        let (_, answer) = http.raw("POST", "/1.0/images", &headers, &bytes)?;
        let answer: Value = serde_json::from_slice(&answer).map_err(act("import"))?;
        if answer["type"] == "error" {
            return Err(format!("import: {}", answer["error"]));
        }
        http.ended(&answer["metadata"]).map(drop)
    }

    /// Where ours has the unpacked layer of an image.
    pub(crate) fn layer(&self, alias: &str) -> Result<PathBuf> {
        let found = self.http().ask("GET", &format!("/1.0/images/aliases/{alias}"), &Value::Null)?;
        let fingerprint = found["target"].as_str().ok_or("no fingerprint")?;
        Ok(self.state().join("pools/default/layers").join(fingerprint))
    }

    fn end(&mut self) -> Result<()> {
        let mut http = self.http();
        let names = http.ask("GET", "/1.0/instances", &Value::Null)?;
        let last = |value: &Value| value.as_str().and_then(|path| path.rsplit('/').next()).map(str::to_owned);
        for name in names.as_array().into_iter().flatten().filter_map(last) {
            let _ = http.state(&name, "stop");
            let _ = http.delete(&name);
        }
        if self.is_ours() {
            return Ok(());
        }
        for path in http.ask("GET", "/1.0/images", &Value::Null)?.as_array().into_iter().flatten() {
            let _ = http.finish("DELETE", path.as_str().unwrap_or_default(), &Value::Null);
        }
        let _ = http.ask("PUT", "/1.0/profiles/default", &json!({"devices": {}, "config": {}}));
        for (_, pool) in &self.pools {
            let _ = http.ask("DELETE", &format!("/1.0/storage-pools/{pool}"), &Value::Null);
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let mut wrong = Vec::new();
        if let Err(text) = self.end() {
            wrong.push(text);
        }
        if let Some(mut child) = self.child.take() {
            send(child.id(), Signal::TERM);
            if !ends(&mut child) {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        if self.is_ours() {
            let purged = self.command().and_then(|mut command| run(command.arg("--purge")));
            wrong.extend(purged.err());
        } else {
            unmount_below(&self.directory);
            // Only those that are empty go.
            self.pivots.iter().for_each(|path| drop(fs::remove_dir(path)));
        }
        wrong.extend(fs::remove_dir_all(&self.directory).err().map(|e| e.to_string()));
        for text in wrong {
            let _ = writeln!(std::io::stderr(), "bench: clean up {}: {text}", self.name);
        }
    }
}

fn ends(child: &mut Child) -> bool {
    let deadline = Instant::now() + READY;
    while Instant::now() < deadline {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

/// Where liblxc may make a group of its own.
fn pivots() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let groups = mounts.lines().filter(|line| line.contains(" - cgroup ") || line.contains(" - cgroup2 "));
    groups.filter_map(|line| line.split(' ').nth(4)).map(|root| Path::new(root).join("lxc.pivot")).collect()
}

/// What Incus leaves mounted below its directory when it ends.
fn unmount_below(directory: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut below: Vec<&str> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|m| Path::new(m).starts_with(directory))
        .collect();
    below.sort_unstable();
    for path in below.into_iter().rev() {
        let _ = rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH);
    }
}

pub(crate) fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Runs a program and tells its output; its complaints are the error.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().display().to_string();
    let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().map_err(act(&name))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("{name}: {}: {}", output.status, text(&output.stderr)))
    }
}
