//! What a pidfd tells about its process.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::{Result, checked};

#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup_id: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    ids: [u32; 8],
    exit_code: i32,
    coredump: [u32; 2],
}

/// `_IOWR(0xFF, 11, struct pidfd_info)` for the 64-byte first version of the struct plus the fields of 6.16.
const PIDFD_GET_INFO: libc::c_ulong = 0xC000_FF0B | ((size_of::<PidfdInfo>() as libc::c_ulong) << 16);
const PIDFD_INFO_EXIT: u64 = 1 << 3;

/// The wait status of a process that was reaped by somebody else; `None` before that or where the kernel (< 6.15) keeps none.
///
/// It does not tell a guest's reboot from its halt: only the parent's own wait does.
pub fn exit_status(pidfd: BorrowedFd<'_>) -> Result<Option<i32>> {
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the request number carries the size of `info`, which is writable for the call.
    checked(i64::from(unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) }))?;
    Ok((info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code))
}
