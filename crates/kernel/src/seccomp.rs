//! Loading seccomp filters.

use crate::{Errno, Result, checked};

/// One instruction of a classic BPF program, as the kernel's `struct sock_filter`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Jump distance when true.
    pub jump_true: u8,
    /// Jump distance when false.
    pub jump_false: u8,
    /// Constant.
    pub value: u32,
}

#[repr(C)]
struct Program {
    length: u16,
    filter: *const Instruction,
}

/// Adds a filter to the calling thread; it holds for everything it will ever exec. Needs `CAP_SYS_ADMIN` in the caller's
/// user namespace or `no_new_privs`.
pub fn load(filter: &[Instruction]) -> Result<()> {
    let length = u16::try_from(filter.len()).map_err(|_| Errno::INVAL)?;
    let program = Program { length, filter: filter.as_ptr() };
    // SAFETY: `program` describes `filter`, which lives for the call; the kernel verifies and copies it.
    checked(unsafe {
        libc::syscall(libc::SYS_seccomp, 1 /* SET_MODE_FILTER */, 0, &raw const program)
    })
    .map(drop)
}
