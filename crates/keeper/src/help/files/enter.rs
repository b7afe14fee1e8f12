//! From host root to the guest's root.

use std::os::fd::{AsFd, OwnedFd};

use kernel::Errno;
use kernel::process::{Clone, Namespaces, Side, SingleThread};
use runtime::launch::root::{self, Lock, Share};
use runtime::protocol::{Failure, RootSpec};
use rustix::fs::{Mode, OFlags};
use rustix::process::{DumpableBehavior, WaitId, WaitIdOptions};

use super::Ids;

/// Where we serve.
pub(super) struct Place {
    /// The guest's `/`.
    pub(super) root: OwnedFd,
    /// Becomes readable when we are to end.
    pub(super) watch: OwnedFd,
    /// Held for as long as we have it mounted.
    _lock: Option<Lock>,
}

fn failed(call: &'static str, target: impl Into<String>) -> impl FnOnce(Errno) -> Failure {
    let target = target.into();
    move |errno| Failure::new("files", call, target, errno)
}

/// Enters a guest that runs.
pub(super) fn running(proof: SingleThread, pid: u32, start: u64, ids: Ids) -> Result<Place, Failure> {
    let guest = root::open_process(pid, start).map_err(failed("open process", pid.to_string()))?;
    let path = format!("/proc/{pid}/uid_map");
    let map = std::fs::read_to_string(&path)
        .map_err(|error| failed("read", &path)(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
    let numbers: Vec<u32> = map.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    if numbers != [0, ids.base, ids.count] {
        return Err(failed("its ids are not those of the instance", path)(Errno::PERM));
    }
    let root = join(proof, &guest)?;
    // Its end is ours: our hold on its mount namespace would keep its root file system in use.
    Ok(Place { root, watch: guest, _lock: None })
}

/// Enters a root file system at rest: mounts it, or joins a helper that has it mounted.
pub(super) fn stopped(proof: SingleThread, spec: &RootSpec, scratch: &str, ids: Ids) -> Result<Place, Failure> {
    loop {
        let lock = Lock::open(spec)?;
        // Before the lock is ours: whoever asks for it from then on is heard.
        let watch = lock.wanted()?;
        let (lock, holder) = match lock.share()? {
            Share::First(lock) => return mount(proof, spec, scratch, ids, lock, watch),
            Share::Join(lock, holder) => (lock, holder),
        };
        match join(proof, &holder) {
            Ok(root) => {
                lock.announce()?;
                return Ok(Place { root, watch, _lock: Some(lock) });
            }
            // It ended between our look and our step; we are where we were. With our copy of its lock gone, too, the next
            // round finds another one, or nobody: a process that is dying is not found twice.
            Err(failure) if failure.errno() == Errno::SRCH => {}
            Err(failure) => return Err(failure),
        }
    }
}

/// Mounts a root file system whose lock is ours, and enters it.
fn mount(
    proof: SingleThread,
    spec: &RootSpec,
    scratch: &str,
    ids: Ids,
    lock: Lock,
    watch: OwnedFd,
) -> Result<Place, Failure> {
    let namespace = user_namespace(proof, ids)?;
    root::private_mounts(proof)?;
    root::own_new_inodes(ids.base)?;
    let tree = root::mount(spec, scratch, &namespace)?;
    root::enter(&tree, scratch)?;
    // Nothing of the host's stays mounted here: what its administrator unmounts is then really unmounted.
    root::pivot()?;
    close_to_strangers()?;
    kernel::process::enter_namespace(proof, namespace.as_fd(), Namespaces::USER).map_err(failed("setns(user)", ""))?;
    let root = become_root()?;
    // Only now: until here our namespaces were not those to join.
    lock.announce()?;
    Ok(Place { root, watch, _lock: Some(lock) })
}

/// Nobody may trace us or look into our `/proc` directory while we are between host and guest.
fn close_to_strangers() -> Result<(), Failure> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("prctl(dumpable)", ""))
}

/// Into the user and mount namespaces of a process, as their root.
fn join(proof: SingleThread, process: &OwnedFd) -> Result<OwnedFd, Failure> {
    close_to_strangers()?;
    kernel::process::enter(proof, process.as_fd(), Namespaces::USER | Namespaces::MOUNT)
        .map_err(failed("setns(user,mnt)", ""))?;
    become_root()
}

/// Becomes root of the user namespace that we entered; the `/` of the mount namespace.
fn become_root() -> Result<OwnedFd, Failure> {
    let (uid, gid) = (rustix::process::Uid::ROOT, rustix::process::Gid::ROOT);
    rustix::thread::set_thread_groups(&[]).map_err(failed("setgroups", ""))?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(failed("setresgid", "0"))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(failed("setresuid", "0"))?;
    rustix::process::chdir("/").map_err(failed("chdir", "/"))?;
    rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed("open", "/"))
}

/// A user namespace with the guest's ids. Only a process can make one, so a child does; it lives on by its descriptor.
fn user_namespace(proof: SingleThread, ids: Ids) -> Result<OwnedFd, Failure> {
    let (wait, done) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed("pipe2", ""))?;
    let clone = Clone { namespaces: Namespaces::USER, ..Clone::default() };
    let (pid, child) = match clone.clone3(proof).map_err(failed("clone3(user)", ""))? {
        Side::Parent(pid, child) => (pid.as_raw_nonzero().get(), child),
        Side::Child => {
            drop(done);
            // Until the other end is closed, by what follows or by our parent's death.
            let _ = rustix::io::read(&wait, &mut [0u8; 1]);
            kernel::process::exit(0)
        }
    };
    let map = format!("0 {} {}\n", ids.base, ids.count);
    let open = |path: &str, flags: OFlags| {
        rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).map_err(failed("open", path))
    };
    for file in ["uid_map", "gid_map"] {
        let path = format!("/proc/{pid}/{file}");
        rustix::io::write(open(&path, OFlags::WRONLY)?, map.as_bytes()).map_err(failed("write", path))?;
    }
    let namespace = open(&format!("/proc/{pid}/ns/user"), OFlags::RDONLY)?;
    drop(done);
    rustix::process::waitid(WaitId::PidFd(child.as_fd()), WaitIdOptions::EXITED).map_err(failed("waitid", ""))?;
    Ok(namespace)
}
