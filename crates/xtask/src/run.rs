//! Running other programs: shown, captured, or logged with a deadline.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::Result;

/// How a program ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// By itself.
    With(ExitStatus),
    /// It was killed when its time was over.
    TooLate,
}

/// The words of a command, for people.
pub(crate) fn words(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let words = std::iter::once(program.file_name().unwrap_or_default()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Runs it with our own input and output.
pub(crate) fn shown(command: &mut Command) -> Result<()> {
    let status = command.status().map_err(|e| format!("run {}: {e}", words(command)))?;
    if status.success() { Ok(()) } else { Err(format!("{}: {status}", words(command))) }
}

/// Runs it and returns what it wrote to standard output; its complaints are part of the error.
pub(crate) fn captured(command: &mut Command) -> Result<String> {
    let (status, output, complaint) = all(command)?;
    // Some programs tell what they found where others tell their results.
    let said = if complaint.trim().is_empty() { &output } else { &complaint };
    if status.success() { Ok(output) } else { Err(format!("{}: {status}: {}", words(command), said.trim())) }
}

/// Runs it and returns how it ended with both outputs.
pub(crate) fn all(command: &mut Command) -> Result<(ExitStatus, String, String)> {
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("run {}: {e}", words(command)))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status, text(&output.stdout), text(&output.stderr)))
}

/// Whether it can be run and succeeds.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    let silent = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    silent.status().is_ok_and(|status| status.success())
}

/// Runs it with all output to a file, for `limit` at most. Also tells its pid.
pub(crate) fn logged(command: &mut Command, log: &Path, limit: Duration) -> Result<(Ended, u32)> {
    if let Some(directory) = log.parent() {
        fs::create_dir_all(directory).map_err(|e| format!("make {}: {e}", directory.display()))?;
    }
    let open = || File::create(log).and_then(|file| Ok((file.try_clone()?, file)));
    let (out, errors) = open().map_err(|e| format!("write {}: {e}", log.display()))?;
    command.stdin(Stdio::null()).stdout(out).stderr(errors);
    let mut child = command.spawn().map_err(|e| format!("run {}: {e}", words(command)))?;
    let pid = child.id();
    let failed = |e: std::io::Error| format!("wait for {}: {e}", words(command));
    if !ends_within(pid, limit) {
        child.kill().map_err(failed)?;
        child.wait().map_err(failed)?;
        return Ok((Ended::TooLate, pid));
    }
    Ok((Ended::With(child.wait().map_err(failed)?), pid))
}

/// Waits until a process has ended; `false` when it still runs after `limit`. One that is gone has ended.
pub(crate) fn ends_within(pid: u32, limit: Duration) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return true };
    let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) else { return true };
    let limit = Timespec { tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 };
    let mut fds = [PollFd::new(&descriptor, PollFlags::IN)];
    loop {
        match poll(&mut fds, Some(&limit)) {
            Ok(ready) => return ready > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// The last lines of a text.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_takes_too_long_is_killed() {
        let log = std::env::temp_dir().join(format!("xtask-run-{}", std::process::id()));
        let ended = logged(Command::new("cat").arg("/dev/zero"), &log, Duration::ZERO).map(|(ended, _)| ended);
        let _ = fs::remove_file(&log);
        assert!(matches!(ended, Ok(Ended::TooLate)), "{ended:?}");
    }

    #[test]
    fn a_failure_tells_the_words_and_the_complaint() {
        let text = captured(Command::new("ls").arg("/nowhere/at/all")).expect_err("fails");
        assert!(text.starts_with("ls /nowhere/at/all: exit status: 2: ls:"), "{text}");
    }

    #[test]
    fn a_tail_is_the_end_of_a_text() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a", 2), "a");
    }
}
