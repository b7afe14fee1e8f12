//! Finding and ending processes of the product, each by its own number.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::places::Places;
use crate::programs::{DAEMON, KEEPER};
use crate::{Result, run};

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) words: Vec<String>,
}

impl Process {
    /// Reads one; `None` when it is gone, or is one of the kernel's.
    pub(crate) fn read(pid: u32) -> Option<Process> {
        let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words = words(&bytes);
        (!words.is_empty()).then_some(Process { pid, words })
    }

    /// Name of its program, without directories.
    pub(crate) fn name(&self) -> &str {
        let program = self.words.first().map_or("", String::as_str);
        program.rsplit('/').next().unwrap_or(program)
    }

    /// Whether it runs the very file that is at `path` now, and not one that was there before.
    pub(crate) fn runs(&self, path: &Path) -> bool {
        let file = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
        let own = file(&PathBuf::from(format!("/proc/{}/exe", self.pid)));
        own.is_some() && own == file(path)
    }

    /// Asks it to end and waits; says so when it stays.
    pub(crate) fn end(&self, limit: Duration) -> Result<()> {
        let failed = |errno| format!("end {} (process {}): {errno}", self.name(), self.pid);
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
        let descriptor = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            other => other.map_err(failed)?,
        };
        // The number may have been given to another process since it was read.
        if Process::read(self.pid).as_ref() != Some(self) {
            return Ok(());
        }
        match pidfd_send_signal(&descriptor, Signal::TERM) {
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            other => other.map_err(failed)?,
        }
        if run::ends_within(self.pid, limit) {
            return Ok(());
        }
        let (name, pid, limit) = (self.name(), self.pid, limit.as_secs());
        Err(format!("{name} (process {pid}) still runs {limit} s after it was asked to end: look at its log"))
    }
}

fn words(cmdline: &[u8]) -> Vec<String> {
    let words = cmdline.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
    let mut words: Vec<String> = words.collect();
    while words.last().is_some_and(String::is_empty) {
        words.pop();
    }
    words
}

/// All processes that this user may look at.
pub(crate) fn all() -> Vec<Process> {
    pids().filter_map(Process::read).collect()
}

/// Numbers of all processes.
pub(crate) fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The daemon that `up` started in the background.
pub(crate) fn daemon(places: &Places) -> Option<Process> {
    let pid = fs::read_to_string(places.pid_file()).ok()?.trim().parse().ok()?;
    Process::read(pid).filter(|process| process.name() == DAEMON)
}

/// The spawn process that serves at this runtime directory.
pub(crate) fn spawn(places: &Places) -> Option<Process> {
    let socket = places.spawn_socket();
    all().into_iter().find(|process| is_spawn(process, &socket))
}

fn is_spawn(process: &Process, socket: &Path) -> bool {
    let words: Vec<&str> = process.words.iter().skip(1).map(String::as_str).collect();
    let ["spawn", "--socket", path, ..] = words.as_slice() else { return false };
    process.name() == KEEPER && Path::new(path) == socket
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spawn_process_is_known_by_its_socket() {
        let process = |text: &str| Process { pid: 1, words: words(text.replace(' ', "\0").as_bytes()) };
        let socket = Path::new("/run/sysctl/spawn.socket");
        assert!(is_spawn(&process("/x/sysctl-keeper spawn --socket /run/sysctl/spawn.socket --detach"), socket));
        assert!(!is_spawn(&process("sysctl-keeper spawn --socket /run/other/spawn.socket"), socket));
        assert!(!is_spawn(&process("sysctl-keeper keep --wait 3"), socket));
        assert!(!is_spawn(&process("vi spawn --socket /run/sysctl/spawn.socket"), socket));
    }

    #[test]
    fn a_process_knows_its_program() {
        let own = Process::read(std::process::id()).expect("that is us");
        assert!(own.runs(&std::env::current_exe().expect("our program")));
        assert!(!own.runs(Path::new("/bin/true")) && !own.runs(Path::new("/nowhere")));
    }

    #[test]
    fn a_process_that_is_gone_has_ended() {
        let gone = Process { pid: 0x3fff_ffff, words: vec!["x".into()] };
        assert_eq!(gone.end(Duration::ZERO), Ok(()));
    }
}
