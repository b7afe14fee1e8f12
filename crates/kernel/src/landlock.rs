//! Landlock: a process gives up access to the file system outside some directories, for itself and its children.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::{Result, checked};

/// Execute, read files, read directories.
const READ: u64 = 1 | 1 << 2 | 1 << 3;
/// The 13 access rights of ABI 1: everything that can be done to files and directories.
const ALL_V1: u64 = (1 << 13) - 1;
/// Linking and renaming across directories (ABI 2).
const REFER: u64 = 1 << 13;
/// Truncation (ABI 3).
const TRUNCATE: u64 = 1 << 14;

#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
}

#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent_fd: i32,
}

/// The kernel's Landlock version; 0 where there is none.
pub fn abi() -> u32 {
    // SAFETY: a null attribute with size 0 and flag 1 only asks for the version.
    checked(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0usize, 0usize, 1u32) }).map_or(0, |v| v as u32)
}

/// Confines the calling thread: everything may be done below `writable`, only reading and executing below `readable`, and
/// nothing elsewhere by path (open descriptors keep working). Sets `no_new_privs`. Does nothing where [`abi`] is 0.
pub fn restrict(writable: &[BorrowedFd<'_>], readable: &[BorrowedFd<'_>]) -> Result<()> {
    let version = abi();
    if version == 0 {
        return Ok(());
    }
    let mut handled = ALL_V1;
    if version >= 2 {
        handled |= REFER;
    }
    if version >= 3 {
        handled |= TRUNCATE;
    }
    let attr = RulesetAttr { handled_access_fs: handled };
    // SAFETY: `attr` is a landlock_ruleset_attr prefix of the size given; the call returns a new descriptor.
    let ruleset = unsafe {
        let fd =
            checked(libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attr, size_of::<RulesetAttr>(), 0u32))?;
        OwnedFd::from_raw_fd(fd as i32)
    };
    let grant = |parent: &BorrowedFd<'_>, allowed: u64| {
        let rule = PathBeneath { allowed, parent_fd: parent.as_raw_fd() };
        // SAFETY: rule type 1 is PATH_BENEATH and `rule` lives for the call.
        checked(unsafe { libc::syscall(libc::SYS_landlock_add_rule, ruleset.as_raw_fd(), 1, &raw const rule, 0u32) })
    };
    for parent in writable {
        grant(parent, handled)?;
    }
    for parent in readable {
        grant(parent, READ)?;
    }
    rustix::thread::set_no_new_privs(true)?;
    // SAFETY: plain integers.
    checked(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0u32) }).map(drop)
}
