//! The socket that clients come to, and the locks that keep a second daemon away.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

/// How long a daemon waits for the locks of the one before: what that was about to start when it was killed has them, too, until
/// it has become another program.
const HELD: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_millis(10);

/// Makes a directory of ours; one that is there keeps its mode.
pub(crate) fn make_dir(path: &Path, mode: u32) -> Result<(), String> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|e| format!("make the directory {}: {e}", path.display()))
}

/// Takes a directory for this daemon alone, for as long as the file is open.
pub(crate) fn lock(directory: &Path) -> Result<File, String> {
    let path = directory.join("lock");
    let open = || -> io::Result<File> {
        let (file, begun) = (File::options().write(true).create(true).truncate(false).open(&path)?, Instant::now());
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(error) if begun.elapsed() > HELD => return Err(error.into()),
                Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(AGAIN),
                Err(error) => return Err(error.into()),
            }
        }
    };
    open().map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => format!(
            "another sysctld works in {}: stop it, or give this one its own --state-dir and --runtime-dir",
            directory.display()
        ),
        _ => format!("lock {}: {error}", path.display()),
    })
}

/// The socket: systemd's where it gives one, else our own at `path`.
pub(crate) fn listen(path: &Path, group: &str) -> Result<UnixListener, String> {
    if let Some(listener) = inherited()? {
        return Ok(listener);
    }
    if UnixStream::connect(path).is_ok() {
        return Err(format!("another daemon answers at {}", path.display()));
    }
    let bind = || -> io::Result<UnixListener> {
        // Under another name until its owner and mode are right.
        let temporary = path.with_extension("new");
        let _ = fs::remove_file(&temporary);
        let listener = UnixListener::bind(&temporary)?;
        match group_id(&fs::read_to_string("/etc/group")?, group) {
            Some(gid) => std::os::unix::fs::chown(&temporary, Some(0), Some(gid))?,
            None => tracing::info!(group, "there is no such group: root alone may use the socket"),
        }
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o660))?;
        fs::rename(&temporary, path)?;
        Ok(listener)
    };
    bind().map_err(|e| format!("listen at {}: {e}", path.display()))
}

/// The first socket that systemd passes (sd_listen_fds(3)).
fn inherited() -> Result<Option<UnixListener>, String> {
    let variable = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    if variable("LISTEN_PID") != Some(std::process::id()) || variable("LISTEN_FDS").unwrap_or(0) == 0 {
        return Ok(None);
    }
    let fd = kernel::process::inherit(3).map_err(|e| format!("take the socket that systemd passed: {e}"))?;
    Ok(Some(UnixListener::from(fd)))
}

/// Number of a group by the text of `/etc/group` (group(5)).
fn group_id(text: &str, name: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_by_name() {
        let text = "root:x:0:\nsysctl:x:998:me,you\nbroken\n";
        assert_eq!(
            (group_id(text, "sysctl"), group_id(text, "sys"), group_id(text, "broken")),
            (Some(998), None, None)
        );
    }
}
