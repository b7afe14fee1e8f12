//! The system calls that guests are refused, as a classic BPF program.
//!
//! A denylist: a full operating system makes nearly every call. Refused is what acts on the host's kernel as a whole and
//! what has been the way out of too many containers while hardly any guest needs it. Programs are answered with the
//! errors that they know from kernels built without the feature, so they fall back.

use kernel::seccomp::Instruction;
use model::Seccomp;

/// One refused call: its name, its number here and as a 32-bit program makes it (`None`: unknown there), and the error.
struct Refused {
    name: &'static str,
    native: libc::c_long,
    compat: Option<u32>,
    errno: i32,
}

macro_rules! refused {
    ($($name:ident $number:ident $compat:expr, $errno:ident;)*) => {
        &[$(Refused { name: stringify!($name), native: libc::$number, compat: $compat, errno: libc::$errno },)*]
    };
}

/// Numbers of 32-bit x86 are those of the kernel's `syscall_32.tbl`.
const REFUSED: &[Refused] = refused! {
    acct SYS_acct Some(51), EPERM;
    bpf SYS_bpf Some(357), EPERM;
    clock_settime SYS_clock_settime Some(264), EPERM;
    delete_module SYS_delete_module Some(129), EPERM;
    finit_module SYS_finit_module Some(350), EPERM;
    init_module SYS_init_module Some(128), EPERM;
    io_uring_enter SYS_io_uring_enter Some(426), EPERM;
    io_uring_register SYS_io_uring_register Some(427), EPERM;
    io_uring_setup SYS_io_uring_setup Some(425), EPERM;
    kexec_file_load SYS_kexec_file_load None, EPERM;
    kexec_load SYS_kexec_load Some(283), EPERM;
    lookup_dcookie SYS_lookup_dcookie Some(253), ENOSYS;
    nfsservctl SYS_nfsservctl Some(169), ENOSYS;
    open_by_handle_at SYS_open_by_handle_at Some(342), EPERM;
    perf_event_open SYS_perf_event_open Some(336), EPERM;
    quotactl SYS_quotactl Some(131), EPERM;
    quotactl_fd SYS_quotactl_fd Some(443), EPERM;
    settimeofday SYS_settimeofday Some(79), EPERM;
    swapoff SYS_swapoff Some(115), EPERM;
    swapon SYS_swapon Some(87), EPERM;
    userfaultfd SYS_userfaultfd Some(374), EPERM;
};

#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[Refused] = refused! {
    ioperm SYS_ioperm Some(101), EPERM;
    iopl SYS_iopl Some(110), EPERM;
};
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[Refused] = &[];

/// Refused calls that only 32-bit x86 has: stime, vm86old, vm86, clock_settime64.
#[cfg(target_arch = "x86_64")]
const REFUSED_COMPAT: [u32; 4] = [25, 113, 166, 404];

/// Address families that guests may open sockets of: local, IPv4, IPv6, netlink, packet.
const FAMILIES: [i32; 5] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_PACKET];

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "x86_64")]
const COMPAT: u32 = 0x4000_0003;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

const ALLOW: u32 = 0x7fff_0000;
const fn errno(number: i32) -> u32 {
    0x0005_0000 | number as u32
}

/// `struct seccomp_data`: where number, architecture and the low half of the first argument are.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const ARGUMENT_0_AT: u32 = 16;

fn load(offset: u32) -> Instruction {
    Instruction { code: 0x20, jump_true: 0, jump_false: 0, value: offset } // BPF_LD | BPF_W | BPF_ABS
}

fn give(action: u32) -> Instruction {
    Instruction { code: 0x06, jump_true: 0, jump_false: 0, value: action } // BPF_RET | BPF_K
}

/// If the loaded value equals `value`, the next `then` are run, else they are skipped.
fn when_equal(value: u32, then: &[Instruction], program: &mut Vec<Instruction>) {
    // BPF_JMP | BPF_JEQ | BPF_K; every block here is far below 255 instructions.
    program.push(Instruction { code: 0x15, jump_true: 0, jump_false: then.len() as u8, value });
    program.extend_from_slice(then);
}

/// The program for a level, as the keeper protocol carries it: 8 bytes per instruction; empty for none.
pub fn compile(level: Seccomp) -> Vec<u8> {
    let program = match level {
        Seccomp::Off => Vec::new(),
        Seccomp::Base => base(),
    };
    program
        .iter()
        .flat_map(|i| {
            let [a, b] = i.code.to_le_bytes();
            let [c, d, e, f] = i.value.to_le_bytes();
            [a, b, i.jump_true, i.jump_false, c, d, e, f]
        })
        .collect()
}

fn base() -> Vec<Instruction> {
    let mut program = vec![load(ARCHITECTURE_AT)];
    #[cfg(target_arch = "x86_64")]
    when_equal(COMPAT, &compat(), &mut program);
    let native = native();
    // Neither of the two: a third way in that nobody has.
    program.push(Instruction { code: 0x15, jump_true: 1, jump_false: 0, value: ARCHITECTURE });
    program.push(give(errno(libc::ENOSYS)));
    program.extend(native);
    program
}

fn native() -> Vec<Instruction> {
    let mut program = vec![load(NUMBER_AT)];
    #[cfg(target_arch = "x86_64")]
    {
        // x32: the same calls under other numbers. BPF_JMP | BPF_JGE | BPF_K.
        program.push(Instruction { code: 0x35, jump_true: 0, jump_false: 1, value: 0x4000_0000 });
        program.push(give(errno(libc::ENOSYS)));
    }
    for refused in REFUSED.iter().chain(REFUSED_HERE) {
        when_equal(refused.native as u32, &[give(errno(refused.errno))], &mut program);
    }
    when_equal(libc::SYS_socket as u32, &families(), &mut program);
    program.push(give(ALLOW));
    program
}

/// What follows for a call of socket(2).
fn families() -> Vec<Instruction> {
    let mut program = vec![load(ARGUMENT_0_AT)];
    for family in FAMILIES {
        when_equal(family as u32, &[give(ALLOW)], &mut program);
    }
    program.push(give(errno(libc::EAFNOSUPPORT)));
    program
}

#[cfg(target_arch = "x86_64")]
fn compat() -> Vec<Instruction> {
    let mut program = vec![load(NUMBER_AT)];
    for refused in REFUSED.iter().chain(REFUSED_HERE) {
        if let Some(number) = refused.compat {
            when_equal(number, &[give(errno(refused.errno))], &mut program);
        }
    }
    for number in REFUSED_COMPAT {
        when_equal(number, &[give(errno(libc::EPERM))], &mut program);
    }
    // By these numbers of the 32-bit table: socket(2), and the old call that takes its arguments from memory, where they
    // can't be looked at. Programs use the former since Linux 4.3; other uses of the latter (connect(2), …) go on.
    const SOCKET: u32 = 359;
    const SOCKETCALL: u32 = 102;
    const OF_SOCKET: u32 = 1;
    const OF_SOCKETPAIR: u32 = 8;
    when_equal(SOCKET, &families(), &mut program);
    let mut old = vec![load(ARGUMENT_0_AT)];
    for made in [OF_SOCKET, OF_SOCKETPAIR] {
        when_equal(made, &[give(errno(libc::ENOSYS))], &mut old);
    }
    old.push(give(ALLOW));
    when_equal(SOCKETCALL, &old, &mut program);
    program.push(give(ALLOW));
    program
}

/// All that the files helper calls once it serves; everything else fails with `EPERM`.
const FILES: &[libc::c_long] = &[
    // Its socket, its deadline, its end.
    libc::SYS_read,
    libc::SYS_sendto,
    libc::SYS_ppoll,
    libc::SYS_setitimer,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    // Memory.
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Files.
    libc::SYS_close,
    libc::SYS_fchmod,
    libc::SYS_fchown,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getdents64,
    libc::SYS_linkat,
    libc::SYS_lseek,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_openat2,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_readlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_write,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_alarm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
];

/// The program of the files helper.
pub fn files() -> Vec<Instruction> {
    let mut program = vec![load(ARCHITECTURE_AT)];
    program.push(Instruction { code: 0x15, jump_true: 1, jump_false: 0, value: ARCHITECTURE });
    program.push(give(errno(libc::EPERM)));
    program.push(load(NUMBER_AT));
    for number in FILES {
        when_equal(*number as u32, &[give(ALLOW)], &mut program);
    }
    program.push(give(errno(libc::EPERM)));
    program
}

/// Names of the refused calls, for people.
pub fn refused(level: Seccomp) -> Vec<&'static str> {
    match level {
        Seccomp::Off => Vec::new(),
        Seccomp::Base => REFUSED.iter().chain(REFUSED_HERE).map(|r| r.name).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would, over (number, architecture, first argument).
    fn run(program: &[Instruction], number: u32, architecture: u32, argument: u32) -> u32 {
        let (mut at, mut loaded) = (0, 0);
        loop {
            let i = program[at];
            at += 1;
            match i.code {
                0x20 => {
                    loaded = match i.value {
                        NUMBER_AT => number,
                        ARCHITECTURE_AT => architecture,
                        _ => argument,
                    }
                }
                0x06 => return i.value,
                code => {
                    let hit = if code == 0x15 { loaded == i.value } else { loaded >= i.value };
                    at += usize::from(if hit { i.jump_true } else { i.jump_false });
                }
            }
        }
    }

    #[test]
    fn what_is_refused_is_refused_and_the_rest_is_not() {
        let program = base();
        for r in REFUSED.iter().chain(REFUSED_HERE) {
            assert_eq!(run(&program, r.native as u32, ARCHITECTURE, 0), errno(r.errno), "{}", r.name);
        }
        for fine in [libc::SYS_read, libc::SYS_clone, libc::SYS_mount, libc::SYS_keyctl, libc::SYS_execveat] {
            assert_eq!(run(&program, fine as u32, ARCHITECTURE, 0), ALLOW);
        }
        assert_eq!(run(&program, libc::SYS_socket as u32, ARCHITECTURE, libc::AF_INET6 as u32), ALLOW);
        assert_eq!(
            run(&program, libc::SYS_socket as u32, ARCHITECTURE, libc::AF_ALG as u32),
            errno(libc::EAFNOSUPPORT)
        );
        assert_eq!(run(&program, 0, 0xdead_beef, 0), errno(libc::ENOSYS));
    }

    #[test]
    fn the_files_helper_may_do_little() {
        let program = files();
        for fine in FILES {
            assert_eq!(run(&program, *fine as u32, ARCHITECTURE, 0), ALLOW);
        }
        for refused in [libc::SYS_execve, libc::SYS_mount, libc::SYS_socket, libc::SYS_ptrace, libc::SYS_mknodat] {
            assert_eq!(run(&program, refused as u32, ARCHITECTURE, 0), errno(libc::EPERM));
        }
        assert_eq!(run(&program, libc::SYS_read as u32, 0x4000_0003, 0), errno(libc::EPERM), "another architecture");
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn no_other_calling_convention_leads_around_it() {
        let program = base();
        assert_eq!(run(&program, 0x4000_0000 + 321, ARCHITECTURE, 0), errno(libc::ENOSYS));
        assert_eq!(run(&program, 357, COMPAT, 0), errno(libc::EPERM), "bpf by int 0x80");
        assert_eq!(run(&program, 4, COMPAT, 0), ALLOW, "write by int 0x80");
    }
}
