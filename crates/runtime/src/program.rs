//! Which program a process of ours runs, so that the daemon can tell those that an upgrade left behind.
//!
//! Keepers run from a copy in memory. Its name, which the kernel shows as the target of `/proc/PID/exe`, says which file it
//! was copied from, so that nobody has to hash anything and no state has to be handed on.

use std::os::fd::AsFd;

use kernel::Result;
use rustix::fs::{Mode, OFlags};

/// How the kernel shows a copy in memory that has the name of [`memory_name`].
const SHOWN: &str = "/memfd:sysctl-keeper-";

/// Tells a program file from the one that takes its place: by device, inode, size and time of its last change.
///
/// The spawn process runs the file itself, so that its inode is given to no other file while it lives. A file that is only
/// touched counts as another one: going on in it loses nothing.
pub fn identity(file: impl AsFd) -> Result<String> {
    let stat = rustix::fs::fstat(file)?;
    Ok(format!("{:x}-{:x}-{:x}-{:x}.{:x}", stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime, stat.st_mtime_nsec))
}

/// The name for a copy in memory of the program that this process runs.
pub fn memory_name() -> Result<String> {
    Ok(format!("sysctl-keeper-{}", own()?))
}

/// The identity of the file that this process runs, or that the copy which it runs was made from.
pub fn own() -> Result<String> {
    let link = rustix::fs::readlink("/proc/self/exe", Vec::new())?;
    let link = link.to_string_lossy();
    match link.strip_prefix(SHOWN) {
        Some(name) => Ok(name.strip_suffix(" (deleted)").unwrap_or(name).to_owned()),
        None => identity(rustix::fs::open("/proc/self/exe", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_file_is_known_until_another_takes_its_place() {
        let scratch = testkit::Scratch::new("identity");
        let path = scratch.join("program");
        let of = || identity(std::fs::File::open(&path).expect("open")).expect("identity");
        std::fs::write(&path, "one").expect("write");
        let first = of();
        assert_eq!(of(), first);
        std::fs::write(scratch.join("new"), "two").expect("write");
        std::fs::rename(scratch.join("new"), &path).expect("rename");
        assert_ne!(of(), first);
    }

    #[test]
    fn a_process_knows_its_own_program() {
        let file = std::fs::File::open(std::env::current_exe().expect("own path")).expect("open");
        assert_eq!(own().expect("own"), identity(&file).expect("identity"));
    }
}
