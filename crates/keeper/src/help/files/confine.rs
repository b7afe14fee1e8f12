//! What we give up before the first request is read.

use std::os::fd::AsFd;

use kernel::Errno;
use runtime::protocol::Failure;
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::enter::Place;

/// What root needs to treat other users' files as its own. `sys_admin`, `mknod` and all the rest go.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID);

/// Address space: program and stack some 10 MiB, packets 1 MiB, 256 directories of up to 64 KiB.
const MEMORY: u64 = 128 << 20;

fn failed(call: &'static str) -> impl FnOnce(Errno) -> Failure {
    move |errno| Failure::new("files", call, "", errno)
}

/// Keeps what file access needs and nothing else: five capabilities, the guest's tree, some forty system calls.
pub(super) fn confine(place: &Place) -> Result<(), Failure> {
    // What a client asks for is what it gets; defaults are chosen where nothing was asked for.
    rustix::process::umask(rustix::fs::Mode::empty());
    for (resource, value) in [(Resource::As, MEMORY), (Resource::Core, 0)] {
        let limit = Rlimit { current: Some(value), maximum: Some(value) };
        rustix::process::setrlimit(resource, limit).map_err(failed("setrlimit"))?;
    }
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The first number that the kernel does not know ends the list.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(failed("prctl(capbset_drop)")(errno)),
        }
    }
    let sets = CapabilitySets { effective: KEPT, permitted: KEPT, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).map_err(failed("capset"))?;
    rustix::thread::set_no_new_privs(true).map_err(failed("prctl(no_new_privs)"))?;
    kernel::landlock::restrict(&[place.root.as_fd()], &[]).map_err(failed("landlock"))?;
    kernel::seccomp::load(&runtime::seccomp::files()).map_err(failed("seccomp"))
}
