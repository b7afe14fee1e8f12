//! A child as `sysctl-keeper unpack` is one: root of its own user namespace, with an id-mapped descriptor of the staging
//! directory. Straight down, a comment per step; this is the reference for how this crate is to be run.

#![allow(unreachable_pub, reason = "part of test programs")]

use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use kernel::process::{Clone, Namespaces, Side, SingleThread};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags};

/// Host id of the image range's root: any free range of 65,536 does.
pub const BASE: u32 = 1_900_000_000;

/// Runs `work` in such a child and tells what it said: what it did, or why it could not.
///
/// The calling process must have one thread. The child is process 1 of a PID namespace, so nothing of `work` outlives it.
/// `scratch`, if any, becomes its `/tmp`.
pub fn in_child(
    stage: &Path,
    scratch: Option<&Path>,
    work: impl FnOnce(BorrowedFd<'_>) -> Result<String, String>,
) -> Result<String, String> {
    let failed = |what: &'static str| move |errno: rustix::io::Errno| format!("{what}: {errno}");
    let proof = SingleThread::claim().ok_or("this process has several threads")?;
    let (ours, theirs) = kernel::scm::pair().map_err(failed("socketpair"))?;
    let (answer, answers) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed("pipe"))?;

    // All namespaces at once: the user namespace then owns the others, so its root may mount in them.
    let namespaces = Namespaces::USER | Namespaces::MOUNT | Namespaces::PID | Namespaces::IPC | Namespaces::UTS;
    let side = Clone { namespaces, ..Clone::default() }.clone3(proof).map_err(failed("clone3"))?;
    let (pid, pidfd) = match side {
        Side::Child => {
            drop((ours, answer));
            let said = child(theirs, work);
            let (code, text) = said.map_or_else(|error| (1, error), |text| (0, text));
            let _ = std::fs::File::from(answers).write_all(text.as_bytes());
            kernel::process::exit(code)
        }
        Side::Parent(pid, pidfd) => (pid.as_raw_pid(), pidfd),
    };
    drop((theirs, answers));

    // The whole range, once and for ever.
    for map in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{pid}/{map}"), format!("0 {BASE} 65536\n")).map_err(|error| error.to_string())?;
    }
    // A detached mount of the staging directory that shows ids unshifted to that user namespace: what its root writes as
    // 1000 is 1000 on the disk.
    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/user")).map_err(|error| error.to_string())?;
    let stage = stage.to_str().ok_or("the staging directory is not text")?;
    let mount = kernel::mount::clone_tree(rustix::fs::CWD, stage).map_err(failed("open_tree"))?;
    kernel::mount::idmap(mount.as_fd(), namespace.as_fd()).map_err(failed("idmap"))?;
    // The scratch directory goes over as a mount too: the child may not walk through the daemon's directories. It is not
    // id-mapped: what the build leaves there belongs to nobody on this host.
    let scratch = match scratch {
        Some(scratch) => {
            std::os::unix::fs::chown(scratch, Some(BASE), Some(BASE)).map_err(|error| error.to_string())?;
            let scratch = scratch.to_str().ok_or("the scratch directory is not text")?;
            Some(kernel::mount::clone_tree(rustix::fs::CWD, scratch).map_err(failed("open_tree"))?)
        }
        None => None,
    };
    let mut fds = vec![mount.as_fd()];
    fds.extend(scratch.as_ref().map(|scratch| scratch.as_fd()));
    kernel::scm::send(ours.as_fd(), b"go", &fds, true).map_err(failed("send"))?;

    let mut text = String::new();
    std::fs::File::from(answer).read_to_string(&mut text).map_err(|error| error.to_string())?;
    let status =
        rustix::process::waitid(rustix::process::WaitId::PidFd(pidfd.as_fd()), rustix::process::WaitIdOptions::EXITED)
            .map_err(failed("waitid"))?;
    match status.and_then(|status| status.exit_status()) {
        Some(0) => Ok(text),
        Some(_) => Err(text),
        None => Err(format!("the child died: {status:?} {text}")),
    }
}

fn child(socket: OwnedFd, work: impl FnOnce(BorrowedFd<'_>) -> Result<String, String>) -> Result<String, String> {
    let failed = |what: &'static str| move |errno: rustix::io::Errno| format!("{what}: {errno}");
    // Ids exist only after the parent has written the maps.
    let mut buffer = [0; 8];
    let (_, fds) = kernel::scm::receive(socket.as_fd(), &mut buffer, true).map_err(failed("receive"))?;
    let mut fds = fds.into_iter();
    let (root, scratch) = (fds.next().ok_or("no descriptor of the staging directory")?, fds.next());
    // From the kernel's nobody to root of the namespace; groups first, while that is still allowed.
    rustix::thread::set_thread_groups(&[]).map_err(failed("setgroups"))?;
    let (uid, gid) = (rustix::fs::Uid::ROOT, rustix::fs::Gid::ROOT);
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(failed("setresgid"))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(failed("setresuid"))?;
    // The builder mounts; nothing of it may be seen outside.
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", flags).map_err(failed("make mounts private"))?;
    if let Some(scratch) = scratch {
        let flags = rustix::mount::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(&scratch, "", rustix::fs::CWD, "/tmp", flags).map_err(failed("mount /tmp"))?;
    }
    // Of the new PID namespace: apt's and dpkg's scripts look at it.
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("proc", "/proc", "proc", flags, None).map_err(failed("mount /proc"))?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    work(root.as_fd())
}

/// Gives up all access by path save below `root`: after the inputs are open, and after the builder was started.
pub fn confine(root: BorrowedFd<'_>) -> Result<(), String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(root, c".", flags, Mode::empty()).map_err(|errno| errno.to_string())?;
    kernel::landlock::restrict(&[root.as_fd()], &[]).map_err(|errno| format!("landlock: {errno}"))
}
