//! The emulator.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::image::Disk;
use super::inside;
use crate::Result;
use crate::run;

/// How a machine's life went.
#[derive(Debug)]
pub(crate) struct Report {
    /// What its checks said.
    pub(crate) results: String,
    /// It went down by itself.
    pub(crate) ended: bool,
}

const MEMORY: &str = "3072";

/// From the last check until the machine is off: guests are halted, and units stop. A guest that is not told to halt
/// would be waited for by systemd for longer than this.
const GOING_DOWN: Duration = Duration::from_secs(80);

/// Emulation works everywhere. A KVM in a virtual machine of somebody else's may be there, open, and hang.
const ACCELERATOR: &str = "tcg,thread=multi,tb-size=512";

/// Words for the kernel: its console on the first serial line, and no time lost on what is not tried here.
const KERNEL: &str = "console=ttyS0 root=/dev/vda rw loglevel=4 mitigations=off no_timer_check audit=0 \
    random.trust_cpu=1 systemd.show_status=1 panic=-1";

/// Boots the disk and waits until the machine is down. `tell` hears of each line that the checks write.
pub(crate) fn run(disk: &Disk, limit: Duration, tell: &dyn Fn(&str)) -> Result<Report> {
    let (console, results) = (disk.console(), disk.results());
    for file in [&console, &results] {
        File::create(file).map_err(|e| format!("write {}: {e}", file.display()))?;
    }
    let cpus = std::thread::available_parallelism().map_or(1, usize::from).min(4).to_string();
    let file = |path: &Path, rest: &str| format!("file={},{rest}", path.display());
    let serial = |path: &Path| format!("file:{}", path.display());
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-machine", "q35,usb=off", "-accel", ACCELERATOR, "-cpu", "max", "-smp", &cpus, "-m", MEMORY]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command.arg("-kernel").arg(&disk.kernel).arg("-initrd").arg(&disk.initrd).args(["-append", KERNEL]);
    command.args(["-drive", &file(&disk.image, "format=raw,if=none,id=d0,cache=unsafe,aio=threads,discard=unmap")]);
    command.args(["-device", "virtio-blk-pci,drive=d0", "-device", "virtio-rng-pci"]);
    command.args(["-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0,romfile="]);
    command.args(["-serial", &serial(&console), "-serial", &serial(&results)]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| format!("run {}: {e}", run::words(&command)))?;
    let failed = |e: std::io::Error| format!("wait for the emulator: {e}");
    let mut deadline = Instant::now() + limit;
    let (mut told, mut over) = (0, false);
    let ended = loop {
        if run::ends_within(child.id(), Duration::from_secs(1)) {
            break true;
        }
        told = tell_new(&results, told, tell);
        if !over && fs::read_to_string(&results).is_ok_and(|text| text.lines().any(|line| line == inside::END)) {
            (over, deadline) = (true, deadline.min(Instant::now() + GOING_DOWN));
        }
        if Instant::now() >= deadline {
            child.kill().map_err(failed)?;
            break false;
        }
    };
    let output = child.wait_with_output().map_err(failed)?;
    if ended && !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        return Err(format!("the emulator: {}: {}", output.status, run::tail(&complaint, 5)));
    }
    let results = fs::read(&results).map_err(|e| format!("read {}: {e}", results.display()))?;
    Ok(Report { results: String::from_utf8_lossy(&results).into_owned(), ended })
}

/// Tells the last line that was written since `from`; returns where the next begin.
fn tell_new(path: &Path, from: u64, tell: &dyn Fn(&str)) -> u64 {
    let mut text = String::new();
    let read = File::open(path).and_then(|mut file| {
        file.seek(SeekFrom::Start(from))?;
        file.read_to_string(&mut text)
    });
    let Ok(length) = read else { return from };
    if let Some(line) = text.lines().rfind(|line| !line.trim().is_empty()) {
        tell(line.trim());
    }
    from + length as u64
}
