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

/// A small ext4 disk in a file, unmounted and removed at the end of the test.
#[derive(Debug)]
pub struct SmallDisk {
    scratch: crate::Scratch,
}

impl SmallDisk {
    /// Makes one of so many MiB.
    ///
    /// # Panics
    /// When that fails.
    pub fn new(what: &str, mebibytes: u64) -> SmallDisk {
        let scratch = crate::Scratch::new(what);
        let (file, at) = (scratch.join("disk"), scratch.join("mnt"));
        std::fs::File::create(&file).and_then(|f| f.set_len(mebibytes << 20)).expect("make the disk's file");
        std::fs::create_dir(&at).expect("mkdir");
        let run = |program: &str, arguments: &[&std::ffi::OsStr]| {
            let done = std::process::Command::new(program).args(arguments).status();
            assert!(done.is_ok_and(|status| status.success()), "{program} {arguments:?}");
        };
        run("mkfs.ext4", &["-q".as_ref(), file.as_os_str()]);
        run("mount", &["-o".as_ref(), "loop".as_ref(), file.as_os_str(), at.as_os_str()]);
        SmallDisk { scratch }
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.scratch.join("mnt")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let gone = unmount(self.path(), UnmountFlags::empty());
        assert!(gone.is_ok() || std::thread::panicking(), "unmount the small disk: {gone:?}");
        let _ = unmount(self.path(), UnmountFlags::DETACH);
    }
}
