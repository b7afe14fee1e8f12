//! Programs that the kernel asks about the processes of a control group: whether they may open a device, whether a packet of
//! theirs may pass.
//!
//! Loading one takes `CAP_BPF` and `CAP_NET_ADMIN`, all else `CAP_NET_ADMIN`.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::{Errno, Result, checked};

/// One instruction of an extended BPF program, as the kernel's `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u8,
    /// Destination register in the lower four bits, source in the upper ones.
    pub registers: u8,
    /// Distance of a jump, or offset of a field.
    pub offset: i16,
    /// Constant.
    pub value: i32,
}

/// What a program is asked about, and so what it is given and what its answers mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// A `struct bpf_cgroup_dev_ctx`: 1 when the device may be opened.
    Device,
    /// A `struct __sk_buff` that came for a socket: 1 when it passes.
    PacketIn,
    /// One that a socket sends: 1 when it passes, 2 when it is dropped and the sender told to slow down.
    PacketOut,
    /// One that goes through a link, where a classifier of rtnetlink asks: see `linux/pkt_cls.h` for its answers. No group
    /// asks this.
    Link,
}

impl Question {
    /// Its kind of program and its place, from `linux/bpf.h`.
    fn numbers(self) -> (u32, u32) {
        match self {
            Question::Device => (15, 6),
            Question::PacketIn => (8, 0),
            Question::PacketOut => (8, 1),
            Question::Link => (3, 0),
        }
    }
}

// Operations that all of them have, from `linux/bpf_common.h` and `linux/bpf.h`: class, size or operation, and whether with a
// constant.

/// Loads a field.
pub const LOAD_WORD: u8 = 0x61;
/// Sets a register.
pub const MOVE: u8 = 0xb7;
/// Sets a register to another.
pub const MOVE_REGISTER: u8 = 0xbf;
/// Ends with the first register as the answer.
pub const EXIT: u8 = 0x95;

/// An instruction: to a register, from another.
pub fn op(code: u8, to: u8, from: u8, offset: i16, value: i32) -> Instruction {
    Instruction { code, registers: from << 4 | to, offset, value }
}

// Commands from `linux/bpf.h`.
const MAP_CREATE: libc::c_int = 0;
const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const PROG_QUERY: libc::c_int = 16;

/// A map that is an array.
const ARRAY: u32 = 2;

/// Fields of `union bpf_attr` for each command, with those behind left out, which the kernel takes as zero. That of a query is
/// whole, as newer kernels write to its end.
#[repr(C)]
struct Map {
    kind: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
    flags: u32,
}

#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    link: u32,
    place: u32,
}

#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    place: u32,
    flags: u32,
}

#[repr(C)]
struct Query {
    target: u32,
    place: u32,
    flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
    program_flags: u64,
    link_ids: u64,
    link_flags: u64,
    revision: u64,
}

#[repr(C)]
struct InfoOf {
    program: u32,
    length: u32,
    info: u64,
}

/// The first fields of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
struct Info {
    kind: u32,
    id: u32,
}

/// Makes a call of `bpf(2)`.
///
/// # Safety
///
/// Every address in `attributes` must be valid for what the command reads or writes there.
unsafe fn call<T>(command: libc::c_int, attributes: &mut T) -> Result<libc::c_long> {
    // SAFETY: the kernel reads and writes at most as many bytes of `attributes` as it has; the rest is the caller's promise.
    checked(unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) })
}

/// Makes a place for one number of 64 bits, 0 at first, that programs may change. It lives as long as they do.
pub fn cell() -> Result<OwnedFd> {
    let mut attributes = Map { kind: ARRAY, key_size: 4, value_size: 8, entries: 1, flags: 0 };
    // SAFETY: no addresses; the descriptor that is returned is ours alone.
    unsafe { call(MAP_CREATE, &mut attributes).map(|fd| OwnedFd::from_raw_fd(fd as i32)) }
}

/// Loads a program.
pub fn load(question: Question, instructions: &[Instruction]) -> Result<OwnedFd> {
    let (kind, place) = question.numbers();
    let mut name = [0; 16];
    name[..6].copy_from_slice(b"sysctl");
    let mut attributes = Load {
        kind,
        count: u32::try_from(instructions.len()).map_err(|_| Errno::INVAL)?,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name,
        link: 0,
        place,
    };
    // SAFETY: `instructions` and the license live for the call; the kernel verifies and copies them, and returns a descriptor
    // that is ours alone.
    unsafe { call(PROG_LOAD, &mut attributes).map(|fd| OwnedFd::from_raw_fd(fd as i32)) }
}

/// The number by which the kernel knows a program; it is never given out again.
pub fn program_id(program: BorrowedFd<'_>) -> Result<u32> {
    let mut info = Info::default();
    let mut attributes =
        InfoOf { program: program.as_raw_fd() as u32, length: size_of::<Info>() as u32, info: (&raw mut info) as u64 };
    // SAFETY: `info` has the length that is told, and lives for the call.
    unsafe { call(OBJ_GET_INFO_BY_FD, &mut attributes)? };
    Ok(info.id)
}

/// Has a control group of cgroup2 ask a program, and no other that was attached to it in this way. There is no moment between.
pub fn attach(group: BorrowedFd<'_>, question: Question, program: BorrowedFd<'_>) -> Result<()> {
    let (_, place) = question.numbers();
    let (target, program) = (group.as_raw_fd() as u32, program.as_raw_fd() as u32);
    // SAFETY: no addresses.
    unsafe { call(PROG_ATTACH, &mut Attach { target, program, place, flags: 0 }).map(drop) }
}

/// Has a control group ask no program any more; `NOENT` when it asked none.
pub fn detach(group: BorrowedFd<'_>, question: Question) -> Result<()> {
    let (_, place) = question.numbers();
    // Descriptor 0 stands for whichever there is, where there can be one only.
    let mut attributes = Attach { target: group.as_raw_fd() as u32, program: 0, place, flags: 0 };
    // SAFETY: no addresses.
    unsafe { call(PROG_DETACH, &mut attributes).map(drop) }
}

/// The number of the program that a control group itself asks; `None` when it asks none.
pub fn attached(group: BorrowedFd<'_>, question: Question) -> Result<Option<u32>> {
    let mut ids = [0u32; 1];
    let (_, place) = question.numbers();
    let mut attributes = Query {
        target: group.as_raw_fd() as u32,
        place,
        flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: 1,
        padding: 0,
        program_flags: 0,
        link_ids: 0,
        link_flags: 0,
        revision: 0,
    };
    // SAFETY: `ids` has room for as many numbers as are told, and lives for the call.
    match unsafe { call(PROG_QUERY, &mut attributes) } {
        // More than one: somebody else attached theirs; ours is not told from them.
        Err(Errno::NOSPC) => Ok(Some(ids[0])),
        other => other.map(|_| (attributes.count > 0).then_some(ids[0])),
    }
}
