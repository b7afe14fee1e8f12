//! The rows about memory that is given and taken back: the same steps on a guest of ours and on a small virtual machine with
//! a balloon, emulated as in the tests (`qemu -accel tcg`).
//!
//! Both may have little, are given more and fill it, then let go of it, and little is all that they may have again. What is
//! waited for is that the host has the memory: the guest's control group, or the emulator, holds it no more.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::daemons::{Daemon, run};
use crate::figures::Figures;
use crate::http::Http;
use crate::picture::{self, Point};
use crate::rows::{Field, calm};
use crate::{Result, act, now_ms, tell};

/// Megabytes that are given and taken back.
const AMOUNT: u64 = 200;

/// Megabytes that each may have at rest: what the machine's kernel and its image in memory need, and some.
const LITTLE: u64 = 160;

const MORE: u64 = LITTLE + AMOUNT + 40;

/// Of the amount so much must be back; some pages of each are in use for something else by then.
const BACK: u64 = AMOUNT * 9 / 10;

/// The longest that is waited for anything: an emulated machine boots in ten seconds where nobody else works.
const PATIENCE: Duration = Duration::from_secs(120);

/// Between two looks at what is held.
const LOOK: Duration = Duration::from_millis(2);

/// Where the kernel of the machine and a static busybox are: the tree that `cargo xtask vm` keeps.
const TREE: &str = "BENCH_MACHINE_TREE";

/// Where the picture goes, when it is to be drawn.
const PICTURE: &str = "BENCH_PICTURE";

/// Rows 13-give and 13-take.
pub(crate) fn all(field: &Field, scratch: &Path, figures: &mut Figures) -> Result<()> {
    tell("13: memory given and taken back");
    let Some(ours) = field.daemons.iter().find(|daemon| daemon.name == "ours") else { return Ok(()) };
    let rounds = if field.quick { 3 } else { 9 };
    let mut guest = Guest::new(ours)?;
    let own = rounds_of(&mut guest, rounds, "ours", figures);
    let ended = guest.end();
    let own = own.and_then(|own| ended.map(|()| own))?;
    match Machine::new(&scratch.join("machine")) {
        Ok(mut machine) => {
            let points = rounds_of(&mut machine, rounds.min(5), "qemu", figures)?;
            if let Some(path) = std::env::var_os(PICTURE) {
                let text = picture::svg(&[("a container", "#292", &own), ("an emulated machine", "#c33", &points)]);
                fs::write(&path, text).map_err(act("draw"))?;
            }
        }
        Err(text) => figures.notes.push(format!("13: no machine with a balloon to compare with: {text}")),
    }
    Ok(())
}

/// Something that memory is given to and taken from.
trait Contender: Sync {
    /// May have so many megabytes from now on.
    fn allow(&mut self, megabytes: u64) -> Result<()>;
    /// Fills so many megabytes; returns when it has.
    fn fill(&mut self, megabytes: u64) -> Result<()>;
    /// Lets go of them.
    fn free(&mut self) -> Result<()>;
    /// A look at the bytes of the host's that it holds.
    fn gauge(&self) -> Gauge;
}

/// Where it is written how many bytes are held.
#[derive(Debug, Clone)]
enum Gauge {
    /// A file with the number.
    Bytes(PathBuf),
    /// The `statm` of a process.
    Resident(PathBuf),
}

impl Gauge {
    fn read(&self) -> u64 {
        let (Gauge::Bytes(path) | Gauge::Resident(path)) = self;
        let text = fs::read_to_string(path).unwrap_or_default();
        let word = |n: usize| text.split_whitespace().nth(n).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        match self {
            Gauge::Bytes(_) => word(0),
            Gauge::Resident(_) => word(1) * rustix::param::page_size() as u64,
        }
    }
}

/// All rounds of one; what it held in the last one, second by second.
fn rounds_of(who: &mut dyn Contender, rounds: usize, name: &str, figures: &mut Figures) -> Result<Vec<Point>> {
    let mut last = Vec::new();
    for _ in 0..rounds {
        calm();
        let (gauge, over) = (who.gauge(), AtomicBool::new(false));
        last = std::thread::scope(|scope| {
            let watched = scope.spawn(|| watch(&gauge, &over));
            let outcome = round(who, name, figures);
            over.store(true, Ordering::Release);
            let points = watched.join().map_err(|_| "the watcher failed".to_owned())?;
            outcome.map(|()| points)
        })?;
    }
    Ok(last)
}

fn watch(gauge: &Gauge, over: &AtomicBool) -> Vec<Point> {
    let (begun, mut points) = (Instant::now(), Vec::new());
    while !over.load(Ordering::Acquire) && begun.elapsed() < 2 * PATIENCE {
        points.push(Point { at: begun.elapsed().as_secs_f64(), megabytes: gauge.read() as f64 / f64::from(1 << 20) });
        std::thread::sleep(Duration::from_millis(20));
    }
    points
}

fn round(who: &mut dyn Contender, name: &str, figures: &mut Figures) -> Result<()> {
    let gauge = who.gauge();
    let begun = now_ms();
    who.allow(MORE)?;
    who.fill(AMOUNT)?;
    figures.put("13-give", name, now_ms() - begun);
    let full = gauge.read();
    let begun = now_ms();
    who.free()?;
    who.allow(LITTLE)?;
    let deadline = Instant::now() + PATIENCE;
    while gauge.read() + (BACK << 20) > full {
        if Instant::now() > deadline {
            return Err(format!("{name} still holds {} of {full} bytes", gauge.read()));
        }
        std::thread::sleep(LOOK);
    }
    figures.put("13-take", name, now_ms() - begun);
    Ok(())
}

/// A guest of ours.
struct Guest {
    http: Http,
    gauge: Gauge,
}

impl Guest {
    fn new(daemon: &Daemon) -> Result<Guest> {
        let mut http = daemon.http();
        http.make("mem", "bb", "default", false, true, &json!({"limits.memory": format!("{LITTLE}MiB")}))?;
        let knobs = http.ask("GET", "/1.0/instances/mem/limits", &Value::Null)?;
        let file = knobs.as_array().into_iter().flatten().find(|knob| knob["knob"] == "memory.max");
        let file = file.and_then(|knob| knob["file"].as_str()).ok_or("its group has no limit of memory")?;
        // What is used stands beside what may be, under the name of either hierarchy.
        let names = ["memory.current", "memory.usage_in_bytes"].map(|name| Path::new(file).with_file_name(name));
        let gauge = names.into_iter().find(|path| path.exists()).ok_or("its group does not tell what it uses")?;
        Ok(Guest { http, gauge: Gauge::Bytes(gauge) })
    }

    fn exec(&mut self, script: &str) -> Result<()> {
        let order = json!({"command": ["sh", "-c", script], "wait-for-websocket": false, "interactive": false});
        let done = self.http.finish("POST", "/1.0/instances/mem/exec", &order)?;
        let code = &done["metadata"]["return"];
        if *code == 0 { Ok(()) } else { Err(format!("{script}: it returned {code}")) }
    }

    fn end(mut self) -> Result<()> {
        self.http.state("mem", "stop")?;
        self.http.delete("mem")
    }
}

impl Contender for Guest {
    fn allow(&mut self, megabytes: u64) -> Result<()> {
        let limit = json!({"limits.memory": format!("{megabytes}MiB")});
        self.http.ask("PATCH", "/1.0/instances/mem/limits", &limit).map(drop)
    }

    fn fill(&mut self, megabytes: u64) -> Result<()> {
        self.exec(&format!("dd if=/dev/zero of=/dev/shm/work bs=1M count={megabytes} 2>/dev/null"))
    }

    fn free(&mut self) -> Result<()> {
        self.exec("rm /dev/shm/work")
    }

    fn gauge(&self) -> Gauge {
        self.gauge.clone()
    }
}

/// An emulated machine with a kernel, a shell that takes orders from a serial line, and a balloon.
struct Machine {
    emulator: Child,
    orders: BufReader<UnixStream>,
    monitor: BufReader<UnixStream>,
}

/// What the machine does instead of booting a system.
const INIT: &str = "#!/bin/busybox sh\n\
    /bin/busybox mkdir -p /proc /dev /filled\n\
    /bin/busybox mount -t proc proc /proc\n\
    /bin/busybox mount -t devtmpfs dev /dev\n\
    /bin/busybox mount -t tmpfs -o size=300m filled /filled\n\
    /bin/busybox insmod /virtio_balloon.ko || exec /bin/busybox poweroff -f\n\
    exec 3<>/dev/ttyS1\n\
    /bin/busybox stty -F /dev/ttyS1 raw -echo\n\
    echo ready >&3\n\
    while read -r order amount <&3; do\n\
    case $order in\n\
    fill) /bin/busybox dd if=/dev/zero of=/filled/x bs=1M count=$amount 2>/dev/null;;\n\
    free) /bin/busybox rm /filled/x;;\n\
    esac\n\
    echo done >&3\n\
    done\n";

impl Machine {
    fn new(directory: &Path) -> Result<Machine> {
        let tree = std::env::var_os(TREE).map(PathBuf::from).filter(|tree| tree.join("boot").exists());
        let tree = tree.ok_or("its kernel is not here: `cargo xtask vm` fetches it")?;
        if run(Command::new("qemu-system-x86_64").arg("--version")).is_err() {
            return Err("qemu-system-x86_64 is not installed".into());
        }
        fs::create_dir_all(directory).map_err(act("mkdir"))?;
        let kernel = newest(&tree.join("boot"), "vmlinuz-")?;
        let initrd = initrd(&tree, directory)?;
        let (orders, monitor) = (directory.join("orders"), directory.join("monitor"));
        let socket = |path: &Path| format!("unix:{},server=on,wait=off", path.display());
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-machine", "q35,usb=off", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1"]);
        command.args([
            "-m",
            &MORE.next_multiple_of(64).to_string(),
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
        ]);
        command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
        command.args(["-append", "console=ttyS0 quiet mitigations=off no_timer_check panic=-1", "-no-reboot"]);
        command.args(["-device", "virtio-balloon-pci", "-serial", "null", "-serial", &socket(&orders)]);
        command.args(["-qmp", &socket(&monitor)]).stdin(Stdio::null()).stdout(Stdio::null());
        let log = File::create(directory.join("log")).map_err(act("a log"))?;
        let emulator = command.stderr(log).spawn().map_err(act("run qemu-system-x86_64"))?;
        let mut machine = match (connect(&orders), connect(&monitor)) {
            (Ok(orders), Ok(monitor)) => Machine { emulator, orders, monitor },
            (Err(text), _) | (_, Err(text)) => return Err(kill(emulator, text)),
        };
        machine.hear("ready")?;
        machine.say("qmp_capabilities", &json!({}))?;
        machine.allow(LITTLE)?;
        Ok(machine)
    }

    /// Reads lines of the machine until this one comes.
    fn hear(&mut self, word: &str) -> Result<()> {
        let mut line = String::new();
        loop {
            line.clear();
            let length = self.orders.read_line(&mut line).map_err(act("listen to the machine"))?;
            if line.trim() == word {
                return Ok(());
            }
            if length == 0 {
                return Err(format!("the machine ended before it said {word}"));
            }
        }
    }

    fn order(&mut self, order: &str) -> Result<()> {
        writeln!(self.orders.get_mut(), "{order}").map_err(act("order"))?;
        self.hear("done")
    }

    /// Says something to the emulator, and waits for its answer; what happened meanwhile is passed over.
    fn say(&mut self, command: &str, arguments: &Value) -> Result<()> {
        let words = json!({"execute": command, "arguments": arguments});
        writeln!(self.monitor.get_mut(), "{words}").map_err(act(command))?;
        let mut line = String::new();
        loop {
            line.clear();
            if self.monitor.read_line(&mut line).map_err(act(command))? == 0 {
                return Err(format!("{command}: the emulator ended"));
            }
            let answer: Value = serde_json::from_str(&line).map_err(act(command))?;
            if answer.get("return").is_some() {
                return Ok(());
            }
            if let Some(error) = answer.get("error") {
                return Err(format!("{command}: {error}"));
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.emulator.kill();
        let _ = self.emulator.wait();
    }
}

impl Contender for Machine {
    fn allow(&mut self, megabytes: u64) -> Result<()> {
        self.say("balloon", &json!({"value": megabytes << 20}))
    }

    fn fill(&mut self, megabytes: u64) -> Result<()> {
        self.order(&format!("fill {megabytes}"))
    }

    fn free(&mut self) -> Result<()> {
        self.order("free")
    }

    fn gauge(&self) -> Gauge {
        Gauge::Resident(format!("/proc/{}/statm", self.emulator.id()).into())
    }
}

fn kill(mut emulator: Child, why: String) -> String {
    let _ = emulator.kill();
    let _ = emulator.wait();
    why
}

/// A socket of the emulator's, once that listens.
fn connect(path: &Path) -> Result<BufReader<UnixStream>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE)).map_err(act("a time-out"))?;
                return Ok(BufReader::new(stream));
            }
            Err(error) if Instant::now() > deadline => return Err(format!("connect to {}: {error}", path.display())),
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}

/// The file of a directory whose name begins so and that comes last.
fn newest(directory: &Path, begin: &str) -> Result<PathBuf> {
    let files = fs::read_dir(directory).map_err(act(&directory.display().to_string()))?.flatten();
    let fits = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(begin));
    files.map(|file| file.path()).filter(fits).max().ok_or_else(|| format!("no {begin} in {}", directory.display()))
}

/// What the machine boots into: busybox, the balloon's driver and the script.
fn initrd(tree: &Path, directory: &Path) -> Result<PathBuf> {
    let modules = newest(&tree.join("usr/lib/modules"), "")?;
    let driver = newest(&modules.join("kernel/drivers/virtio"), "virtio_balloon.ko")?;
    let packed = directory.join(driver.file_name().unwrap_or_default());
    fs::copy(&driver, &packed).map_err(act("copy the driver"))?;
    match packed.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => run(Command::new("xz").args(["-d", "-f"]).arg(&packed)).map(drop)?,
        Some("zst") => run(Command::new("zstd").args(["-d", "-q", "--rm", "-f"]).arg(&packed)).map(drop)?,
        _ => {}
    }
    let read = |path: &Path| fs::read(path).map_err(act(&path.display().to_string()));
    let busybox = read(&tree.join("usr/bin/busybox"))?;
    let driver = read(&directory.join("virtio_balloon.ko"))?;
    let mut archive = Vec::new();
    for (name, mode, content) in [
        ("bin", 0o040_755, &[][..]),
        ("bin/busybox", 0o100_755, &busybox),
        ("virtio_balloon.ko", 0o100_644, &driver),
        ("init", 0o100_755, INIT.as_bytes()),
        // What ends an archive.
        ("TRAILER!!!", 0, &[]),
    ] {
        add(&mut archive, name, mode, content);
    }
    let path = directory.join("initrd");
    fs::write(&path, archive).map_err(act("write the initrd"))?;
    Ok(path)
}

/// Adds a file to an archive in the form that kernels unpack (`Documentation/driver-api/early-userspace/buffer-format.rst`).
fn add(archive: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) {
    let inode = archive.len() as u32;
    let fields = [inode, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0]
        .map(|n| format!("{n:08x}"));
    archive.extend(format!("070701{}{name}\0", fields.concat()).bytes());
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_laid_out_as_kernels_read_it() {
        let mut archive = Vec::new();
        add(&mut archive, "init", 0o100_755, b"hello");
        let text = String::from_utf8_lossy(&archive);
        assert!(text.starts_with("070701") && archive.len().is_multiple_of(4), "{text}");
        // 110 bytes of header and the name with its end make 115, padded to 116.
        assert_eq!((&archive[110..115], &archive[116..121]), (&b"init\0"[..], &b"hello"[..]));
        assert_eq!(&text[6 + 6 * 8..6 + 7 * 8], "00000005");
        assert_eq!(&text[6 + 11 * 8..6 + 12 * 8], "00000005");
    }
}
