//! Options of netlink sockets.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::{Result, checked};

/// What a netlink socket can be told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum NetlinkOption {
    /// Leave the refused request out of the refusal (`NETLINK_CAP_ACK`).
    ShortRefusals = 10,
    /// Say in words why a request was refused (`NETLINK_EXT_ACK`).
    Reasons = 11,
    /// Check the headers of dump requests instead of ignoring what is wrong in them (`NETLINK_GET_STRICT_CHK`).
    StrictDumps = 12,
}

/// Switches an option of a netlink socket on.
pub fn enable(socket: BorrowedFd<'_>, option: NetlinkOption) -> Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: `on` is an int of the length given.
    checked(i64::from(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_NETLINK,
            option as i32,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as u32,
        )
    }))
    .map(drop)
}
