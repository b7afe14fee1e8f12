//! Where a daemon keeps its things, as the daemon itself finds them.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Directories of one daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) state: PathBuf,
    pub(crate) runtime: PathBuf,
}

const STATE: &str = "/var/lib/sysctl";
const RUNTIME: &str = "/run/sysctl";

impl Places {
    /// By `SYSCTL_STATE_DIR` and `SYSCTL_RUNTIME_DIR`, or the usual ones.
    pub(crate) fn of_environment() -> Places {
        let or = |name: &str, usual: &str| {
            let found = std::env::var_os(name).filter(|value| !value.is_empty());
            found.map_or_else(|| PathBuf::from(usual), PathBuf::from)
        };
        let places = Places { state: or("SYSCTL_STATE_DIR", STATE), runtime: or("SYSCTL_RUNTIME_DIR", RUNTIME) };
        Places { state: resolved(&places.state), runtime: resolved(&places.runtime) }
    }

    /// The ones that the units name.
    pub(crate) fn are_usual(&self) -> bool {
        *self == Places { state: resolved(Path::new(STATE)), runtime: resolved(Path::new(RUNTIME)) }
    }

    /// The socket of the API.
    pub(crate) fn socket(&self) -> PathBuf {
        self.runtime.join("unix.socket")
    }

    /// The socket of the spawn process.
    pub(crate) fn spawn_socket(&self) -> PathBuf {
        self.runtime.join("spawn.socket")
    }

    /// Says which process is the daemon that `up` started in the background.
    pub(crate) fn pid_file(&self) -> PathBuf {
        self.runtime.join("sysctld.pid")
    }

    /// What that daemon says.
    pub(crate) fn log(&self) -> PathBuf {
        self.state.join("sysctld.log")
    }

    /// What tells its objects on the host from those of another daemon.
    pub(crate) fn mark(&self) -> String {
        use std::os::unix::ffi::OsStrExt;
        let digest = Sha256::digest(self.state.as_os_str().as_bytes());
        digest.iter().take(3).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Absolute and without symbolic links as far as it exists, which is what the daemon makes its mark of.
fn resolved(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if let Ok(found) = absolute.canonicalize() {
        return found;
    }
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => resolved(parent).join(name),
        _ => absolute,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_the_daemons_own() {
        let places = Places { state: "/var/lib/sysctl".into(), runtime: "/run/sysctl".into() };
        // `printf /var/lib/sysctl | sha256sum`
        assert_eq!(places.mark(), "663d40");
        assert_eq!(places.socket(), Path::new("/run/sysctl/unix.socket"));
    }

    #[test]
    fn what_does_not_exist_yet_is_resolved_by_its_parents() {
        // `/proc/self/cwd` is a symbolic link on every system.
        let here = std::env::current_dir().expect("a directory").canonicalize().expect("it exists");
        assert_eq!(resolved(Path::new("/proc/self/cwd/not/there")), here.join("not/there"));
    }
}
