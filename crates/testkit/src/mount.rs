//! Small disks for tests that fill them.

use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// A tmpfs that is unmounted at the end of the test.
#[derive(Debug)]
pub struct Tmpfs {
    at: PathBuf,
}

impl Tmpfs {
    /// Mounts one with `options` (like `size=1m`) over an empty directory.
    ///
    /// # Panics
    /// When that fails.
    pub fn new(at: &Path, options: &str) -> Tmpfs {
        let options = std::ffi::CString::new(options).expect("no NUL");
        mount("tmpfs", at, "tmpfs", MountFlags::empty(), options.as_c_str()).expect("mount tmpfs");
        Tmpfs { at: at.to_owned() }
    }

    /// Unmounts it; false while it is in use.
    pub fn try_unmount(&self) -> bool {
        unmount(&self.at, UnmountFlags::empty()).is_ok()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Gone already, or still used by a test that failed.
        let _ = unmount(&self.at, UnmountFlags::DETACH);
    }
}
