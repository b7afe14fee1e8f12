//! What a process of the guest gives up before it runs foreign code.

use kernel::seccomp::Instruction;
use kernel::{Errno, Result};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::CapabilitySet;

use crate::protocol::Confinement;

/// Sets resource limits while the process still has the host's capabilities, as raising a hard limit needs them.
/// What cannot be raised stays as it is: a daemon without `CAP_SYS_RESOURCE` starts guests all the same.
pub(crate) fn raise_rlimits(confinement: &Confinement) {
    for limit in &confinement.rlimits {
        let Some(resource) = resource(limit.resource) else { continue };
        let value = |n: u64| (n != u64::MAX).then_some(n);
        let wanted = Rlimit { current: value(limit.soft), maximum: value(limit.hard) };
        if setrlimit(resource, wanted).is_err() {
            let hard = rustix::process::getrlimit(resource).maximum;
            let soft = match (value(limit.soft), hard) {
                (Some(soft), Some(hard)) => Some(soft.min(hard)),
                (soft, hard) => soft.or(hard),
            };
            // Lowering the soft limit below the hard one is always allowed.
            let _ = setrlimit(resource, Rlimit { current: soft, maximum: hard });
        }
    }
}

fn resource(number: u32) -> Option<Resource> {
    Some(match number {
        0 => Resource::Cpu,
        1 => Resource::Fsize,
        2 => Resource::Data,
        3 => Resource::Stack,
        4 => Resource::Core,
        5 => Resource::Rss,
        6 => Resource::Nproc,
        7 => Resource::Nofile,
        8 => Resource::Memlock,
        9 => Resource::As,
        10 => Resource::Locks,
        11 => Resource::Sigpending,
        12 => Resource::Msgqueue,
        13 => Resource::Nice,
        14 => Resource::Rtprio,
        15 => Resource::Rttime,
        _ => return None,
    })
}

/// Keyring, bounding set, system calls: the last steps before the exec, as guest root in the guest's user namespace.
/// Returns the name of the failed call with its error.
pub(crate) fn confine(confinement: &Confinement) -> std::result::Result<(), (&'static str, Errno)> {
    if confinement.keyring {
        kernel::keyring::join_new_session().map_err(|errno| ("keyctl(join_session)", errno))?;
    }
    drop_capabilities(confinement.capabilities).map_err(|errno| ("prctl(capbset_drop)", errno))?;
    let filter = program(&confinement.seccomp.0);
    if !filter.is_empty() {
        kernel::seccomp::load(&filter).map_err(|errno| ("seccomp", errno))?;
    }
    Ok(())
}

fn drop_capabilities(keep: u64) -> Result<()> {
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if keep & (1 << number) != 0 {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The first number that the kernel does not know ends the list.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn program(bytes: &[u8]) -> Vec<Instruction> {
    bytes
        .chunks_exact(8)
        .map(|b| Instruction {
            code: u16::from_le_bytes([b[0], b[1]]),
            jump_true: b[2],
            jump_false: b[3],
            value: u32::from_le_bytes([b[4], b[5], b[6], b[7]]),
        })
        .collect()
}
