//! The mounts of a guest. Every function works below a directory descriptor and never follows a link of the guest's.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kernel::Errno;
use kernel::process::{Clone, Namespaces, Side, SingleThread};
use model::sandbox::{COVERED, OWN_OF_READ_ONLY, READ_ONLY};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, fsconfig_create, fsconfig_set_fd,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
};

use crate::protocol::{Failure, Node};

const STAGE: &str = "tree";

pub(super) const HARDENED: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV).union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

fn failed(call: &'static str, target: &str) -> impl Fn(Errno) -> Failure {
    let target = target.to_owned();
    move |errno| Failure::new(STAGE, call, target.clone(), errno)
}

/// A tmpfs over a directory of the host, in a private mount namespace.
pub(super) fn mount_tmpfs_at(path: &str) -> kernel::Result<()> {
    kernel::mount::mount_with_data("tmpfs", path, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, "mode=711,size=64k")
}

/// Makes a file system with string options and returns it as a detached mount.
pub(super) fn filesystem(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> Result<OwnedFd, Failure> {
    let fs = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed("fsopen", kind))?;
    // What the guest's mount table calls it.
    for (key, value) in [("source", kind)].iter().chain(options) {
        let set = if value.is_empty() { fsconfig_set_flag(&fs, *key) } else { fsconfig_set_string(&fs, *key, *value) };
        set.map_err(failed("fsconfig", &format!("{kind} {key}={value}")))?;
    }
    fsconfig_create(&fs).map_err(failed("fsconfig(create)", kind))?;
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(failed("fsmount", kind))
}

/// The directory (or file) `path` of the guest, without following links.
pub(super) fn open_target(root: BorrowedFd<'_>, path: &str) -> kernel::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Attaches a detached mount at the directory `path` of the guest, which is made when missing.
pub(super) fn attach(root: BorrowedFd<'_>, path: &str, mount: &OwnedFd) -> Result<(), Failure> {
    let target = match open_target(root, path) {
        Err(Errno::NOENT) => {
            rustix::fs::mkdirat(root, path, Mode::from_raw_mode(0o755)).map_err(failed("mkdir", path))?;
            open_target(root, path)
        }
        other => other,
    };
    let target = target.map_err(failed("openat2", path))?;
    attach_to(&target, path, mount)
}

pub(super) fn attach_to(target: &OwnedFd, path: &str, mount: &OwnedFd) -> Result<(), Failure> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags).map_err(failed("move_mount", path))
}

/// `/proc`, without flags: flags set before the lock could never be changed by the guest's own fstab.
///
/// `pid_namespace` is the guest's, and the caller stands outside it.
pub(super) fn proc(
    proof: SingleThread,
    root: BorrowedFd<'_>,
    pid_namespace: &OwnedFd,
    by_descriptor: bool,
    strict: bool,
) -> Result<(), Failure> {
    let attributes = if strict { HARDENED } else { MountAttrFlags::empty() };
    let mount = if by_descriptor {
        let fs = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed("fsopen", "proc"))?;
        fsconfig_set_string(&fs, "source", "proc").map_err(failed("fsconfig", "source"))?;
        fsconfig_set_fd(&fs, "pidns", pid_namespace).map_err(failed("fsconfig(pidns)", "proc"))?;
        fsconfig_create(&fs).map_err(failed("fsconfig(create)", "proc"))?;
        fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(failed("fsmount", "proc"))?
    } else {
        proc_from_within(proof, pid_namespace, attributes)?
    };
    attach(root, "proc", &mount)
}

/// Before Linux 6.17 a proc shows the pid namespace of the process that makes it: a child that is in it does.
fn proc_from_within(
    proof: SingleThread,
    pid_namespace: &OwnedFd,
    attributes: MountAttrFlags,
) -> Result<OwnedFd, Failure> {
    let (ours, theirs) = kernel::scm::pair().map_err(failed("socketpair", "proc"))?;
    kernel::process::enter_namespace(proof, pid_namespace.as_fd(), Namespaces::PID)
        .map_err(failed("setns(pid)", ""))?;
    match Clone::default().clone3(proof).map_err(failed("clone3", "proc"))? {
        Side::Child => {
            let sent = filesystem("proc", &[], attributes)
                .map_err(|failure| failure.errno())
                .and_then(|mount| kernel::scm::send(theirs.as_fd(), b"m", &[mount.as_fd()], true));
            kernel::process::exit(sent.map_or_else(Errno::raw_os_error, |()| 0))
        }
        Side::Parent(_, child) => {
            drop(theirs);
            let mut byte = [0u8; 1];
            let received = kernel::scm::receive(ours.as_fd(), &mut byte, true).map_err(failed("recvmsg", "proc"))?;
            let id = rustix::process::WaitId::PidFd(child.as_fd());
            let status = rustix::process::waitid(id, rustix::process::WaitIdOptions::EXITED);
            received.1.into_iter().next().ok_or_else(|| {
                let code = status.ok().flatten().and_then(|s| s.exit_status()).unwrap_or(libc::EIO);
                Failure::new(STAGE, "mount(proc) in the pid namespace", "", Errno::from_raw_os_error(code))
            })
        }
    }
}

/// Another mount of the guest's proc that no path leads to.
///
/// The kernel lets a nested user namespace mount proc only where it sees one with nothing bound over it. It counts this one,
/// though what it lies in is covered: one tmpfs holds it and another is over that, on a directory of `/sys` that is always empty.
pub(super) fn hidden_proc(root: BorrowedFd<'_>) -> Result<(), Failure> {
    let Some(path) = EMPTY.into_iter().find(|path| open_target(root, path).is_ok()) else { return Ok(()) };
    let small = || filesystem("tmpfs", &[("mode", "000"), ("size", "4k"), ("nr_inodes", "2")], HARDENED);
    attach(root, path, &small()?)?;
    let proc = kernel::mount::clone_tree(root, "proc").map_err(failed("open_tree", "proc"))?;
    attach(root, &format!("{path}/proc"), &proc)?;
    attach(root, path, &small()?)
}

/// `/sys`, of the network namespace that the caller stands in.
pub(super) fn sys(root: BorrowedFd<'_>, writable: bool) -> Result<(), Failure> {
    let attributes = if writable { HARDENED } else { HARDENED | MountAttrFlags::MOUNT_ATTR_RDONLY };
    attach(root, "sys", &filesystem("sysfs", &[], attributes)?)
}

/// `/dev`: a small tmpfs with real nodes, which only the host's root can make.
pub(super) fn dev(root: BorrowedFd<'_>, owner: u32, nodes: &[Node]) -> Result<(), Failure> {
    let owner = owner.to_string();
    // 4 MiB and 4096 inodes hold every node and link a guest makes, and are no place to hide memory in.
    let options = [("mode", "755"), ("size", "4m"), ("nr_inodes", "4096"), ("uid", &*owner), ("gid", &*owner)];
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let dev = filesystem("tmpfs", &options, attributes)?;
    for directory in ["net", "pts", "shm", "mqueue"] {
        rustix::fs::mkdirat(&dev, directory, Mode::from_raw_mode(0o755)).map_err(failed("mkdir", directory))?;
    }
    for node in nodes {
        let device = rustix::fs::makedev(node.major, node.minor);
        let mode = Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(&dev, &*node.path, FileType::CharacterDevice, mode, device)
            .map_err(failed("mknod", &node.path))?;
    }
    const LINKS: [(&str, &str); 6] = [
        ("/proc/self/fd", "fd"),
        ("fd/0", "stdin"),
        ("fd/1", "stdout"),
        ("fd/2", "stderr"),
        ("pts/ptmx", "ptmx"),
        ("/proc/kcore", "core"),
    ];
    for (target, name) in LINKS {
        rustix::fs::symlinkat(target, &dev, name).map_err(failed("symlink", name))?;
    }
    attach(root, "dev", &dev)
}

/// The file systems that show a namespace of the process that mounts them: groups and message queues.
pub(super) fn views(root: BorrowedFd<'_>, of: Namespaces) -> Result<(), Failure> {
    if of.contains(Namespaces::CGROUP) {
        attach(root, "sys/fs/cgroup", &filesystem("cgroup2", &[], HARDENED)?)?;
    }
    if of.contains(Namespaces::IPC) {
        attach(root, "dev/mqueue", &filesystem("mqueue", &[], HARDENED)?)?;
    }
    Ok(())
}

/// Directories of `/sys` that are there to be mounted on.
const EMPTY: [&str; 4] = ["sys/kernel/debug", "sys/kernel/tracing", "sys/kernel/config", "sys/fs/fuse/connections"];

/// The mounts below the big four, and the guest's console, whose master is returned.
///
/// In lean mode init makes them itself after the lock (`owner` 0); in strict mode the stage does, before it. `owner` is
/// what the guest's root is called by the caller, since devpts and tmpfs take ids of the mounter's user namespace.
/// `foreign`: namespaces whose views the stage has mounted already.
pub(super) fn children(root: BorrowedFd<'_>, owner: u32, foreign: Namespaces) -> Result<OwnedFd, Failure> {
    views(root, (Namespaces::CGROUP | Namespaces::IPC).difference(foreign))?;
    // Already "mounted" for the guest's units of the same name, which would fail on a foreign sysfs.
    for path in EMPTY {
        if let Ok(target) = open_target(root, path) {
            let itself = kernel::mount::clone_tree(target.as_fd(), "").map_err(failed("open_tree", path))?;
            attach_to(&target, path, &itself)?;
        }
    }
    let (id, tty) = (owner.to_string(), (owner + 5).to_string());
    let pts_attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let pts = [("ptmxmode", "0666"), ("mode", "0620"), ("gid", &*tty), ("max", "1024")];
    attach(root, "dev/pts", &filesystem("devpts", &pts, pts_attributes)?)?;
    let plain = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let shm = [("mode", "1777"), ("uid", &*id), ("gid", &*id)];
    attach(root, "dev/shm", &filesystem("tmpfs", &shm, plain)?)?;
    let run = [("mode", "755"), ("size", "20%"), ("uid", &*id), ("gid", &*id)];
    // A guest whose /run is a link gets its files on the root file system.
    if !matches!(open_target(root, "run"), Err(Errno::LOOP)) {
        attach(root, "run", &filesystem("tmpfs", &run, plain)?)?;
    }
    console(root)
}

/// A pty of the guest's own devpts, bound to `/dev/console`.
fn console(root: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let master =
        rustix::fs::openat(root, "dev/pts/ptmx", flags, Mode::empty()).map_err(failed("open", "dev/pts/ptmx"))?;
    rustix::pty::unlockpt(&master).map_err(failed("ioctl(TIOCSPTLCK)", "console"))?;
    let number = kernel::terminal::slave_number(master.as_fd()).map_err(failed("ioctl(TIOCGPTN)", "console"))?;
    let slave =
        kernel::mount::clone_tree(root, &format!("dev/pts/{number}")).map_err(failed("open_tree", "console"))?;
    let create = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(root, "dev/console", create, Mode::from_raw_mode(0o600))
        .map_err(failed("open", "dev/console"))?;
    let target = open_target(root, "dev/console").map_err(failed("openat2", "dev/console"))?;
    attach_to(&target, "dev/console", &slave)?;
    Ok(master)
}

/// Flags for `/proc` that the guest may change again, as they are set after the lock.
pub(super) fn harden_proc(root: BorrowedFd<'_>) -> Result<(), Failure> {
    let proc = open_target(root, "proc").map_err(failed("openat2", "proc"))?;
    kernel::mount::set_attributes(proc.as_fd(), HARDENED).map_err(failed("mount_setattr", "proc"))
}

/// Strict mode: what tells of the host as a whole is covered by the host's own `/dev/null`, the rest of it read-only.
pub(super) fn masks(root: BorrowedFd<'_>, null: &OwnedFd) -> Result<(), Failure> {
    for name in COVERED {
        let path = format!("proc/{name}");
        if let Ok(target) = open_target(root, &path) {
            let cover = kernel::mount::clone_tree(null.as_fd(), "").map_err(failed("open_tree", "/dev/null"))?;
            attach_to(&target, &path, &cover)?;
        }
    }
    let own = OWN_OF_READ_ONLY.map(|name| format!("proc/{name}"));
    let trees = own.each_ref().map(|path| kernel::mount::clone_tree(root, path).map_err(failed("open_tree", path)));
    for name in READ_ONLY {
        let path = format!("proc/{name}");
        if let Ok(target) = open_target(root, &path) {
            let itself = kernel::mount::clone_tree(target.as_fd(), "").map_err(failed("open_tree", &path))?;
            let attributes = HARDENED | MountAttrFlags::MOUNT_ATTR_RDONLY;
            kernel::mount::set_attributes(itself.as_fd(), attributes).map_err(failed("mount_setattr", &path))?;
            attach_to(&target, &path, &itself)?;
        }
    }
    for (path, tree) in own.iter().zip(trees) {
        let target = open_target(root, path).map_err(failed("openat2", path))?;
        attach_to(&target, path, &tree?)?;
    }
    Ok(())
}
