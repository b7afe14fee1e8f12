//! What tests share: fixtures that clean up after themselves.
//!
//! Never a dependency of anything but tests.

mod access;
pub mod fake;
pub mod faults;
pub mod fuzz;
pub mod model;
pub mod mount;
pub mod tree;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory of its own on a real disk, removed at the end of the test.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes the directory; `what` becomes part of its name.
    ///
    /// # Panics
    /// When it cannot be made: a test without its fixture has nothing to say.
    pub fn new(what: &str) -> Scratch {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!("/var/tmp/sysctl-test-{what}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("make the test's directory");
        Scratch { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path below it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            // A test that failed already says why; one that passed must not leave anything.
            assert!(std::thread::panicking(), "remove {}: {error}", self.path.display());
        }
    }
}

/// Stops a test that needs the real host when it does not run as root.
///
/// # Panics
/// When it does not.
pub fn require_root() {
    assert!(rustix::process::geteuid().is_root(), "this ring runs as root: `sudo cargo xtask test`");
}

/// Looks every few milliseconds until `look` finds something; for states of foreign programs that nobody tells us of.
///
/// # Panics
/// After ten seconds.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(std::time::Instant::now() < deadline, "waited 10 s for {what}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// A network with six addresses, so that one that is not given back is soon missed.
///
/// # Panics
/// Never: its words are right.
pub fn network() -> ::model::NetworkSpec {
    ::model::NetworkSpec {
        name: "br0".parse().expect("name"),
        ipv4: Some("10.9.0.1/29".parse().expect("cidr")),
        ipv6: Some("fd00::1/64".parse().expect("cidr")),
        nat: true,
        mtu: None,
        domain: "sysctl".into(),
        chain: None,
    }
}

/// How long something may take on this machine: where processors are emulated, ten times as long.
pub fn allowed(time: std::time::Duration) -> std::time::Duration {
    if std::env::var_os("SYSCTL_TEST_EMULATED").is_some() { time * 10 } else { time }
}

/// How much of something a test does: `all` when everything is asked for, else what fits a run of all rings.
pub fn budget(ci: usize, all: usize) -> usize {
    if std::env::var_os("SYSCTL_TEST_ALL").is_some() { all } else { ci }
}
