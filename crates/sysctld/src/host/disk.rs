//! Which disk a directory is on.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use model::BlockDevice;

/// The whole disk that a directory is on, as control groups know disks; `None` when it is on no single one.
pub(super) fn of(directory: &Path) -> Option<BlockDevice> {
    let device = std::fs::metadata(directory).ok()?.dev();
    // A file system of its own kind of numbers (btrfs) names its disk where it is mounted.
    let device = if rustix::fs::major(device) == 0 { mounted_from(device)? } else { device };
    let number = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    whole_disk(&Path::new("/sys/dev/block").join(number))
}

/// The device of the mount whose number this is.
fn mounted_from(device: u64) -> Option<u64> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let source = source_of(&mounts, &format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device)))?;
    let device = std::fs::metadata(source).ok()?.rdev();
    (rustix::fs::major(device) != 0).then_some(device)
}

/// The source of the mount with a device number, from the text of mountinfo (proc(5)).
fn source_of(mounts: &str, number: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (mount, fs) = line.split_once(" - ")?;
        if mount.split(' ').nth(2)? != number {
            return None;
        }
        fs.split(' ').nth(1).filter(|source| source.starts_with("/dev/")).map(PathBuf::from)
    })
}

/// A partition has no queue of its own: limits are on the disk around it.
fn whole_disk(device: &Path) -> Option<BlockDevice> {
    let mut directory = device.canonicalize().ok()?;
    if directory.join("partition").exists() {
        directory.pop();
    }
    let number = std::fs::read_to_string(directory.join("dev")).ok()?;
    let (major, minor) = number.trim().split_once(':')?;
    Some(BlockDevice { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_of_a_mount_is_found_by_its_number() {
        let text = "25 1 254:0 / / rw - ext4 /dev/vda rw\n\
                    60 25 0:44 /sub /pool rw,relatime shared:3 - btrfs /dev/loop3 rw\n\
                    61 25 0:45 / /tmp rw - tmpfs tmpfs rw\n";
        assert_eq!(source_of(text, "0:44"), Some(PathBuf::from("/dev/loop3")));
        assert_eq!(source_of(text, "0:45"), None);
        assert_eq!(source_of(text, "9:9"), None);
    }

    #[test]
    fn what_is_in_memory_is_on_no_disk() {
        assert_eq!(of(Path::new("/proc")), None);
    }
}
