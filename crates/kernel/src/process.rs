//! Making processes: `clone3`, `execveat`, `unshare`, file-system ids.
//!
//! A process with threads must not run arbitrary code in a forked child, so every call that copies the process takes a
//! [`SingleThread`], which can only be had where there is one thread.

use std::ffi::{CStr, CString};
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::process::{Pid, WaitStatus};

use crate::{Errno, Result, checked};

/// Proof that the calling process has exactly one thread.
#[derive(Debug, Clone, Copy)]
pub struct SingleThread(PhantomData<*const ()>);

impl SingleThread {
    /// Looks at `/proc/self/task`; `None` where the process has more than one thread or `/proc` cannot be read.
    pub fn claim() -> Option<SingleThread> {
        let tasks = std::fs::read_dir("/proc/self/task").ok()?.count();
        (tasks == 1).then_some(SingleThread(PhantomData))
    }
}

bitflags::bitflags! {
    /// Which namespaces to make or enter, as in `clone(2)`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct Namespaces: u64 {
        /// Clocks: monotonic and boot time (only with `unshare` and `setns`; takes effect for children).
        const TIME = 0x80;
        /// Mounts.
        const MOUNT = libc::CLONE_NEWNS as u64;
        /// The view of the cgroup tree.
        const CGROUP = libc::CLONE_NEWCGROUP as u64;
        /// Host and domain name.
        const UTS = libc::CLONE_NEWUTS as u64;
        /// System V IPC and POSIX message queues.
        const IPC = libc::CLONE_NEWIPC as u64;
        /// Users, groups and capabilities.
        const USER = libc::CLONE_NEWUSER as u64;
        /// Process ids.
        const PID = libc::CLONE_NEWPID as u64;
        /// Network devices, addresses, routes, firewall.
        const NET = libc::CLONE_NEWNET as u64;
    }
}

/// What a `clone3` shall do beyond copying the process.
#[derive(Debug, Default)]
pub struct Clone<'a> {
    /// Namespaces that the child gets new.
    pub namespaces: Namespaces,
    /// The child becomes the caller's sibling (`CLONE_PARENT`); it then sends no exit signal of its own.
    pub as_sibling: bool,
    /// The cgroup2 directory that the child is born in.
    pub into_cgroup: Option<BorrowedFd<'a>>,
}

/// Which side of a `clone3` we are on.
#[derive(Debug)]
pub enum Side {
    /// The caller: the child's pid and a pidfd for it (close-on-exec).
    Parent(Pid, OwnedFd),
    /// The new process.
    Child,
}

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

impl Clone<'_> {
    /// Copies the process.
    ///
    /// The child is a full copy with its own memory, as after `fork(2)`, but no at-fork handler runs.
    pub fn clone3(&self, _proof: SingleThread) -> Result<Side> {
        let mut pidfd: libc::c_int = -1;
        let mut args = CloneArgs {
            flags: self.namespaces.bits() | libc::CLONE_PIDFD as u64,
            pidfd: (&raw mut pidfd) as u64,
            exit_signal: libc::SIGCHLD as u64,
            ..CloneArgs::default()
        };
        if self.as_sibling {
            args.flags |= libc::CLONE_PARENT as u64;
            args.exit_signal = 0;
        }
        if let Some(group) = self.into_cgroup {
            args.flags |= 0x2_0000_0000; // CLONE_INTO_CGROUP
            args.cgroup = group.as_raw_fd() as u64;
        }
        // SAFETY: `args` is a valid clone_args of the size given and `pidfd` outlives the call. Without CLONE_VM the child
        // gets a copy of all memory; as the process has one thread (the proof), no lock can be held by a thread that the
        // child lacks, so it may go on running ordinary code.
        let pid = checked(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) })?;
        match Pid::from_raw(pid as i32) {
            // SAFETY: the kernel stored a new descriptor there that nobody else owns.
            Some(pid) => Ok(Side::Parent(pid, unsafe { OwnedFd::from_raw_fd(pidfd) })),
            None => Ok(Side::Child),
        }
    }
}

/// Moves the calling process into new namespaces.
pub fn unshare(_proof: SingleThread, namespaces: Namespaces) -> Result<()> {
    // SAFETY: the process has one thread, so no other thread's view changes; memory and descriptors stay shared with no one.
    checked(unsafe { libc::syscall(libc::SYS_unshare, namespaces.bits()) }).map(drop)
}

/// Enters the given namespaces of the process behind a pidfd, all or none.
pub fn enter(_proof: SingleThread, pidfd: BorrowedFd<'_>, namespaces: Namespaces) -> Result<()> {
    // SAFETY: plain integers; the process has one thread.
    checked(unsafe { libc::syscall(libc::SYS_setns, pidfd.as_raw_fd(), namespaces.bits()) }).map(drop)
}

/// Enters one namespace given by its own descriptor (from `/proc/PID/ns` or a pin), whose kind must be among `kind`.
pub fn enter_namespace(_proof: SingleThread, fd: BorrowedFd<'_>, kind: Namespaces) -> Result<()> {
    // SAFETY: plain integers; the process has one thread.
    checked(unsafe { libc::syscall(libc::SYS_setns, fd.as_raw_fd(), kind.bits()) }).map(drop)
}

/// The kind of the namespace behind a descriptor (from `/proc/PID/ns` or a pin). `NOTTY` for anything else.
pub fn namespace_kind(fd: BorrowedFd<'_>) -> Result<Namespaces> {
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    // SAFETY: this request takes no argument and changes nothing.
    let kind = checked(unsafe { libc::syscall(libc::SYS_ioctl, fd.as_raw_fd(), NS_GET_NSTYPE) })?;
    Ok(Namespaces::from_bits_retain(kind as u64))
}

/// Sets the ids used for file access and for new files, and leaves all other ids and the capabilities alone.
///
/// The caller must have `SECBIT_NO_SETUID_FIXUP` set to keep its file capabilities when leaving id 0.
pub fn set_fs_ids(uid: u32, gid: u32) -> Result<()> {
    // The calls return the former id and never fail loudly, so the second pair asks what came of the first.
    // SAFETY: plain integers.
    let now = unsafe {
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
        (libc::syscall(libc::SYS_setfsuid, u32::MAX) as u32, libc::syscall(libc::SYS_setfsgid, u32::MAX) as u32)
    };
    if now == (uid, gid) { Ok(()) } else { Err(Errno::PERM) }
}

/// Closes every descriptor from `first` up.
pub fn close_from(_proof: SingleThread, first: u32) -> Result<()> {
    // SAFETY: the caller is about to exec or exit with one thread; `OwnedFd`s above `first` must not be used after this,
    // which holds as every caller only execs or exits.
    checked(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// Marks every descriptor from `first` up close-on-exec.
pub fn cloexec_from(first: u32) -> Result<()> {
    // SAFETY: plain integers; CLOSE_RANGE_CLOEXEC (4) closes nothing now.
    checked(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 4) }).map(drop)
}

/// Replaces the program; returns only when that failed.
pub fn exec(path: &CStr, argv: &[CString], env: &[CString]) -> Errno {
    let cwd = rustix::fs::CWD;
    exec_at(cwd.as_fd(), path, argv, env, 0)
}

/// Replaces the program by the one behind a descriptor; returns only when that failed.
pub fn exec_fd(program: BorrowedFd<'_>, argv: &[CString], env: &[CString]) -> Errno {
    exec_at(program, c"", argv, env, libc::AT_EMPTY_PATH)
}

fn exec_at(dir: BorrowedFd<'_>, path: &CStr, argv: &[CString], env: &[CString], flags: i32) -> Errno {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both arrays end with a null pointer and their strings live until the call returns.
    let ret = unsafe {
        libc::syscall(libc::SYS_execveat, dir.as_raw_fd(), path.as_ptr(), argv.as_ptr(), env.as_ptr(), flags)
    };
    checked(ret).err().unwrap_or(Errno::IO)
}

/// Ends the process at once: no destructors, no buffers flushed. For children of a `clone3`.
pub fn exit(code: i32) -> ! {
    // SAFETY: exit_group never returns.
    unsafe {
        libc::syscall(libc::SYS_exit_group, code);
    }
    std::process::abort()
}

/// Starts `program` as a detached process and waits for the intermediate one that the program itself leaves behind; how that
/// ended, which is with 0 where the program serves.
///
/// Safe with threads: `posix_spawn` shares memory with the child only until its exec, and no code of ours runs there.
/// The program is expected to fork and let its first process exit (see `sysctl-keeper spawn --detach`).
pub fn spawn_detaching(program: &CStr, argv: &[CString], env: &[CString]) -> Result<WaitStatus> {
    let pointers = |strings: &[CString]| -> Vec<*mut libc::c_char> {
        strings.iter().map(|s| s.as_ptr().cast_mut()).chain([std::ptr::null_mut()]).collect()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    let mut pid: libc::pid_t = 0;
    // SAFETY: all pointers are valid for the call; null attributes and file actions mean the defaults.
    let error = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            program.as_ptr(),
            std::ptr::null(),
            std::ptr::null(),
            argv.as_ptr(),
            env.as_ptr(),
        )
    };
    if error != 0 {
        return Err(Errno::from_raw_os_error(error));
    }
    let pid = Pid::from_raw(pid).ok_or(Errno::CHILD)?;
    let ended = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())?;
    ended.map(|(_, status)| status).ok_or(Errno::CHILD)
}

/// The environment of this process, as the next program takes it.
pub fn environment() -> Vec<CString> {
    let text = |(key, value): (std::ffi::OsString, std::ffi::OsString)| {
        CString::new([key.as_encoded_bytes(), b"=", value.as_encoded_bytes()].concat()).ok()
    };
    std::env::vars_os().filter_map(text).collect()
}

/// A child that has ended, and stays as it is; `None` when none has. `CHILD` when there are no children.
pub fn ended_child() -> Result<Option<Pid>> {
    // SAFETY: `info` is plain numbers, all zero is one of its values, and the kernel writes nothing but it.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        checked(i64::from(libc::waitid(libc::P_ALL, 0, &raw mut info, options)))?;
        Ok(Pid::from_raw(info.si_pid()))
    }
}

/// Closes every descriptor from 3 up except those in `keep`.
pub fn close_except(_proof: SingleThread, keep: &[BorrowedFd<'_>]) -> Result<()> {
    let mut kept: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd() as u32).collect();
    kept.sort_unstable();
    let mut first = 3;
    for fd in kept.into_iter().filter(|fd| *fd >= 3).map(Some).chain([None]) {
        let last = fd.map_or(u32::MAX, |fd| fd.saturating_sub(1));
        if first <= last {
            // SAFETY: the caller is a fresh child of a `clone3` with one thread that never returns to the code which owns
            // the closed descriptors, so none of them is used or closed again.
            checked(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })?;
        }
        first = fd.map_or(u32::MAX, |fd| fd + 1);
    }
    Ok(())
}

/// Takes over a descriptor that the former program left open for us, and marks it close-on-exec. `BADF` when there is none.
///
/// Each number may be taken once: to be called while starting, before anything else is opened.
pub fn inherit(number: i32) -> Result<OwnedFd> {
    if number < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: the number is checked to be open; whoever passed it on the command line gave it to this program alone.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC)?;
    // SAFETY: as above, nobody else in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Replaces the program by the one behind `program`, with `fds` open from number 3 on and everything above closed.
/// Returns only when that failed.
pub fn exec_with_fds(
    _proof: SingleThread,
    program: BorrowedFd<'_>,
    argv: &[CString],
    env: &[CString],
    fds: &[BorrowedFd<'_>],
) -> Errno {
    // Copies above every number that will be given out, so that putting one in place never closes another.
    let floor = 3 + fds.len() as i32 + 1;
    let copy = |fd: &BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, floor);
    let program = match copy(&program) {
        Ok(program) => program,
        Err(errno) => return errno,
    };
    let copies = match fds.iter().map(copy).collect::<Result<Vec<OwnedFd>>>() {
        Ok(copies) => copies,
        Err(errno) => return errno,
    };
    for (number, fd) in (3..).zip(&copies) {
        // SAFETY: the process only execs or exits after this (it is a fresh child with one thread), so whoever owned
        // that number before does not use it again; dup2 clears close-on-exec on the new number.
        if let Err(errno) = checked(i64::from(unsafe { libc::dup2(fd.as_raw_fd(), number) })) {
            return errno;
        }
    }
    if let Err(errno) = cloexec_from(3 + fds.len() as u32) {
        return errno;
    }
    exec_fd(program.as_fd(), argv, env)
}
