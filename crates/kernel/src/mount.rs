//! The parts of the mount API that `rustix` lacks.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::mount::OpenTreeFlags;

use crate::{Errno, Result, checked};

const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

#[repr(C)]
#[derive(Default)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// A detached copy of the mount at `path` below `dir`, without the mounts under it.
pub fn clone_tree(dir: BorrowedFd<'_>, path: &str) -> Result<OwnedFd> {
    rustix::mount::open_tree(
        dir,
        path,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH,
    )
}

/// Makes a detached mount show its files with the ids of the user namespace behind `userns`.
///
/// `EINVAL` where the file system cannot be idmapped or the mount already is.
pub fn idmap(mount: BorrowedFd<'_>, userns: BorrowedFd<'_>) -> Result<()> {
    set_attr(mount, &MountAttr { set: MOUNT_ATTR_IDMAP, userns_fd: userns.as_raw_fd() as u64, ..MountAttr::default() })
}

/// Sets mount attributes (`MOUNT_ATTR_*` bits) on a detached mount.
pub fn set_attributes(mount: BorrowedFd<'_>, attributes: rustix::mount::MountAttrFlags) -> Result<()> {
    set_attr(mount, &MountAttr { set: u64::from(attributes.bits()), ..MountAttr::default() })
}

fn set_attr(mount: BorrowedFd<'_>, attr: &MountAttr) -> Result<()> {
    // SAFETY: the path is an empty C string and `attr` a struct mount_attr of the size given.
    checked(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// What the kernel wrote about a failed `fsconfig`, one line per message, empty when it said nothing.
pub fn context_log(fs_context: BorrowedFd<'_>) -> String {
    let mut log = String::new();
    let mut line = [0u8; 512];
    while let Ok(n) = rustix::io::read(fs_context, &mut line) {
        if n == 0 {
            break;
        }
        log.push_str(&String::from_utf8_lossy(&line[..n]));
    }
    log
}

/// Mounts the old way: one string of options. For what the kernel's new API cannot say.
pub fn mount_with_data(
    source: &str,
    target: &str,
    fs: &str,
    flags: rustix::mount::MountFlags,
    data: &str,
) -> Result<()> {
    let data = CString::new(data).map_err(|_| Errno::INVAL)?;
    rustix::mount::mount(source, target, fs, flags, data.as_c_str())
}
