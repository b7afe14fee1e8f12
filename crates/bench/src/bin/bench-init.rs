//! `/sbin/init` of the measured guests: writes down when it began, in nanoseconds of the time of day, and becomes
//! busybox's init. Static, as there is nothing else in those images.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use rustix::time::{ClockId, clock_gettime};

fn main() -> ExitCode {
    let now = clock_gettime(ClockId::Realtime);
    let written = std::fs::write("/ts", format!("{}{:09}\n", now.tv_sec, now.tv_nsec));
    if written.is_err() {
        return ExitCode::FAILURE;
    }
    let _ = Command::new("/bin/busybox").arg0("init").exec();
    ExitCode::FAILURE
}
