//! What is tried in the machine. This runs there, as root, in a unit of its own, and ends by turning the machine off.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::trials::{self, Trial};
use crate::places::Places;
use crate::programs::{self, CLIENT, KEEPER};
use crate::{Result, process, run, systemd, up};

/// How a line begins that tells of a check which held.
pub(crate) const GOOD: &str = "check ok ";
/// How a line begins that tells of one which did not.
pub(crate) const BAD: &str = "check failed ";
/// The last line.
pub(crate) const END: &str = "checks end";

/// The serial line that is a file on the host.
const LINE: &str = "/dev/ttyS1";

/// The instance of most checks.
const NAME: &str = "m1";

/// `CAP_SYS_ADMIN` in a mask (capabilities(7)).
const SYS_ADMIN: u64 = 1 << 21;

const DAEMON: &str = "sysctld.service";
const SPAWN: &str = "sysctl-keeper.service";
const KILL: &[&str] = &["kill", "--signal=KILL", "--kill-whom=main"];

/// The image of a full guest, where the host has one.
pub(crate) const GUEST: &str = "/usr/local/share/debian.tar.zst";

type Check = (&'static str, fn() -> Result<()>);

/// Before all others.
const FIRST: Check = ("the units come up by themselves", units_come_up);

/// One after the other: they are about the same daemon.
const CHECKS: [Check; 14] = [
    ("the daemon's sandbox lacks CAP_SYS_ADMIN", sandbox_is_there),
    ("an image is built and an instance launched", launches),
    ("a command runs in it", executes),
    ("limits are set and outlive a reload of systemd", limits_stay),
    ("the guest sees its limits", limits_are_seen),
    ("a restart of the daemon leaves it running", || survives(DAEMON, &["restart"])),
    ("a killed daemon comes back and leaves it running", || survives(DAEMON, KILL)),
    ("a restart of the spawn process leaves it running", || survives(SPAWN, &["restart"])),
    ("a killed spawn process comes back and leaves it running", || survives(SPAWN, KILL)),
    ("the guest sees its limits after all this", limits_are_seen),
    ("a restart of the daemon is an upgrade of the spawn process", upgrades),
    ("the socket starts a daemon that was ended", socket_starts),
    ("it stops and starts again", stops_and_starts),
    ("Debian boots to running", debian_runs),
];

/// After all others.
const LAST: Check = ("nothing is orphaned, half-made or missing", || client(&["doctor"]).map(drop));

pub(crate) fn run() -> Result<()> {
    let line = File::options().write(true).open(LINE).map_err(|e| format!("write {LINE}: {e}"))?;
    let line = Line(Mutex::new(line));
    line.tell(&format!("booted after {:.0} s", uptime()));
    if line.check(FIRST) {
        std::thread::scope(|scope| {
            scope.spawn(|| trials::ALL.iter().for_each(|trial| line.trial(*trial)));
            for check in CHECKS {
                line.check(check);
            }
        });
        line.check(LAST);
    } else {
        line.tell(&format!("{BAD}the other checks were not tried"));
    }
    line.tell(END);
    // With instances that still run: they are halted on the way.
    run::captured(Command::new("systemctl").args(["poweroff", "--no-block"])).map(drop)
}

/// The way out of the machine.
struct Line(Mutex<File>);

impl Line {
    fn tell(&self, text: &str) {
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(line, "{text}").and_then(|()| line.flush());
    }

    /// Tells how a check went; true when it held.
    fn check(&self, (name, check): Check) -> bool {
        let begin = Instant::now();
        let outcome = check();
        self.outcome(name, begin.elapsed(), outcome.as_ref().map(drop))
    }

    fn trial(&self, trial: Trial) {
        let (begin, name) = (Instant::now(), format!("{} {} with all limits in cgroup2", trial.0, trial.1));
        let outcome = trials::run(trial);
        self.outcome(&name, begin.elapsed(), outcome.as_ref().map(drop));
        outcome.iter().flatten().for_each(|figure| self.tell(&format!("figure: {figure}")));
    }

    fn outcome(&self, name: &str, elapsed: Duration, outcome: std::result::Result<(), &String>) -> bool {
        let seconds = elapsed.as_secs_f64();
        match outcome {
            Ok(()) => self.tell(&format!("{GOOD}{name} ({seconds:.1} s)")),
            Err(text) => {
                self.tell(&format!("{BAD}{name} ({seconds:.1} s): {}", text.trim().replace('\n', "; ")));
                self.tell(&journal(elapsed));
            }
        }
        outcome.is_ok()
    }
}

fn units_come_up() -> Result<()> {
    for unit in systemd::UNITS {
        within(Duration::from_secs(180), &format!("{unit} is not active"), || systemd::is_active(unit))?;
    }
    client(&["admin", "waitready", "--timeout", "60"]).map(drop)
}

fn sandbox_is_there() -> Result<()> {
    let status = fs::read_to_string(format!("/proc/{}/status", main_pid(DAEMON)?)).map_err(|e| e.to_string())?;
    let mask = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap_or_default().trim();
    match u64::from_str_radix(mask, 16) {
        Ok(mask) if mask & SYS_ADMIN == 0 => Ok(()),
        _ => Err(format!("its bounding set is {mask}")),
    }
}

fn launches() -> Result<()> {
    client(&["launch", "busybox", NAME])?;
    is(NAME, "Running")
}

fn executes() -> Result<()> {
    let output = client(&["exec", NAME, "--", "echo", "hello from", NAME])?;
    if output.trim() == format!("hello from {NAME}") { Ok(()) } else { Err(format!("it wrote {output:?}")) }
}

fn limits_stay() -> Result<()> {
    client(&["config", "set", NAME, "limits.memory", "64MiB"])?;
    client(&["limits", NAME, "processes=500", "cpu=1"])?;
    limits_hold()?;
    run::captured(Command::new("systemctl").arg("daemon-reload"))?;
    run::captured(Command::new("systemctl").arg("daemon-reexec"))?;
    limits_hold()
}

/// What was set is in the files of the guest's group.
fn limits_hold() -> Result<()> {
    const WANTED: [(&str, &str); 3] = [("memory.max", "67108864"), ("pids.max", "500"), ("cpuset.cpus.effective", "0")];
    let group = crate::traces::groups(&|name| name == format!("sysctl-{}", Places::of_environment().mark()));
    let group = group.first().ok_or("the daemon has no control group")?;
    let boots = fs::read_dir(group).map_err(|e| e.to_string())?.flatten();
    let boot = boots.map(|boot| boot.path()).find(|boot| boot.is_dir()).ok_or("the instance has no control group")?;
    for (file, wanted) in WANTED {
        let text = fs::read_to_string(boot.join(file)).map_err(|e| format!("read {file}: {e}"))?;
        // One CPU, whichever was free.
        let fits = if file.starts_with("cpuset") { !text.contains(['-', ',']) } else { text.trim() == wanted };
        if !fits {
            return Err(format!("{file} is {}, not {wanted}", text.trim()));
        }
    }
    Ok(())
}

/// By lxcfs, which the daemon has started.
fn limits_are_seen() -> Result<()> {
    const WANTED: [(&str, &str); 2] =
        [("awk '/^MemTotal/ {print $2}' /proc/meminfo", "65536"), ("grep -c ^processor /proc/cpuinfo", "1")];
    for (command, wanted) in WANTED {
        let seen = client(&["exec", NAME, "--", "sh", "-c", command])?;
        if seen.trim() != wanted {
            return Err(format!("{command} prints {}, not {wanted}", seen.trim()));
        }
    }
    Ok(())
}

/// Ends a unit's main process some way; another comes, the instance's init does not notice, and a command runs in it.
fn survives(unit: &str, how: &[&str]) -> Result<()> {
    let (process, init) = (main_pid(unit)?, beginning()?);
    run::captured(Command::new("systemctl").args(how).arg(unit))?;
    let is_new = || main_pid(unit).is_ok_and(|new| new != process) && systemd::is_active(unit);
    within(Duration::from_secs(60), &format!("{unit} does not come back"), is_new)?;
    client(&["admin", "waitready", "--timeout", "60"])?;
    let now = beginning()?;
    if init == now { Ok(()) } else { Err(format!("its init began at {init}, now at {now}")) }
}

/// Another program in the place of the keepers': a restart of the daemon has the very same processes go on in it.
fn upgrades() -> Result<()> {
    let installed = systemd::installed(KEEPER);
    let mut program = fs::read(&installed).map_err(|e| e.to_string())?;
    // Works like the former, and is none.
    program.push(0);
    let new = installed.with_extension("new");
    let put = fs::write(&new, &program)
        .and_then(|()| fs::set_permissions(&new, fs::Permissions::from_mode(0o755)))
        .and_then(|()| fs::rename(&new, &installed));
    put.map_err(|e| format!("replace {}: {e}", installed.display()))?;
    let (process, length) = (main_pid(SPAWN)?, program.len() as u64);
    survives(DAEMON, &["restart"])?;
    let runs = |pid: u32| fs::metadata(format!("/proc/{pid}/exe")).is_ok_and(|file| file.len() == length);
    within(Duration::from_secs(60), "the spawn process runs its former program", || runs(process))?;
    if main_pid(SPAWN)? == process { Ok(()) } else { Err("another spawn process took its place".to_owned()) }
}

/// When the instance's init began, in ticks after the boot (proc_pid_stat(5), field 22).
fn beginning() -> Result<String> {
    let stat = client(&["exec", NAME, "--", "cat", "/proc/1/stat"])?;
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    fields.split_whitespace().nth(19).map(str::to_owned).ok_or_else(|| format!("{stat:?} is no stat file"))
}

fn socket_starts() -> Result<()> {
    run::captured(Command::new("systemctl").args(["stop", DAEMON]))?;
    is(NAME, "Running")?;
    if systemd::is_active(DAEMON) { Ok(()) } else { Err("something else answered".to_owned()) }
}

fn stops_and_starts() -> Result<()> {
    client(&["stop", NAME])?;
    is(NAME, "Stopped")?;
    client(&["start", NAME])?;
    is(NAME, "Running")
}

fn debian_runs() -> Result<()> {
    if Path::new(GUEST).exists() {
        client(&["image", "import", GUEST, "--alias", "debian"])?;
    }
    client(&["launch", "debian", "m2"])?;
    let state = || client(&["exec", "m2", "--", "systemctl", "is-system-running"]).unwrap_or_else(|text| text);
    let runs = || state().trim().ends_with("running");
    within(Duration::from_secs(180), "it does not become `running`", runs)
        .map_err(|text| format!("{text}: {}", state()))
}

fn is(name: &str, wanted: &str) -> Result<()> {
    let status = up::status(&client(&["list", "--format", "json"])?, name)?;
    if status.as_deref() == Some(wanted) { Ok(()) } else { Err(format!("{name} is {status:?}, not {wanted}")) }
}

fn client(words: &[&str]) -> Result<String> {
    let program = systemd::installed(CLIENT);
    let directory = program.parent().unwrap_or(&program);
    run::captured(programs::client(directory, &Places::of_environment().socket()).args(words))
}

fn main_pid(unit: &str) -> Result<u32> {
    let text = run::captured(Command::new("systemctl").args(["show", "--value", "--property=MainPID", unit]))?;
    let pid = text.trim().parse().ok().filter(|pid| process::Process::read(*pid).is_some());
    pid.ok_or_else(|| format!("{unit} has no main process ({})", text.trim()))
}

/// Looks until something of another program is so; systemd tells of units by D-Bus alone.
fn within(limit: Duration, otherwise: &str, look: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !look() {
        if Instant::now() > deadline {
            return Err(format!("{otherwise} within {} s", limit.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

fn uptime() -> f64 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split(' ').next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0.0)
}

/// The last words of our units in the time of a check.
fn journal(time: Duration) -> String {
    let mut command = Command::new("journalctl");
    let since = format!("--since=-{}s", time.as_secs() + 1);
    command.args(["--no-pager", "--output=cat", "--lines=25", &since]);
    for unit in systemd::UNITS {
        command.args(["--unit", unit]);
    }
    let text = run::captured(&mut command).unwrap_or_else(|text| text);
    text.lines().map(|line| format!("    {line}\n")).collect()
}
