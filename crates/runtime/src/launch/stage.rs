//! The stage: host root in a mount namespace of its own, which builds the guest's tree and then goes away.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kernel::Errno;
use kernel::process::{Clone, Namespaces, Side, SingleThread};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use super::{clocks, init, join, report, root, tree, view};
use crate::protocol::{Failure, LaunchSpec};

/// Namespaces that init makes itself, once its cgroup and its tree are in place.
const BY_INIT: Namespaces = Namespaces::MOUNT.union(Namespaces::CGROUP);

fn failed(call: &'static str, target: &str) -> impl Fn(Errno) -> Failure {
    let target = target.to_owned();
    move |errno| Failure::new("stage", call, target.clone(), errno)
}

/// Runs the stage in a fresh child of the keeper and exits.
pub(super) fn run(proof: SingleThread, spec: &LaunchSpec, report: OwnedFd, go: OwnedFd) -> ! {
    if let Err(failure) = stage(proof, spec, &report, &go) {
        report::failed(report.as_fd(), &failure);
        kernel::process::exit(1);
    }
    kernel::process::exit(0)
}

/// Fails on purpose where the spec asks for it.
pub(super) fn checkpoint(spec: &LaunchSpec, name: &str) -> Result<(), Failure> {
    if spec.fail_at == name { Err(Failure::new(name, "failpoint", "", Errno::CANCELED)) } else { Ok(()) }
}

fn stage(proof: SingleThread, spec: &LaunchSpec, report: &OwnedFd, go: &OwnedFd) -> Result<(), Failure> {
    // Nothing of the keeper's (sockets, terminals, other guests' descriptors) is carried along.
    kernel::process::close_except(proof, &[report.as_fd(), go.as_fd()]).map_err(failed("close_range", ""))?;
    // Until init has its own root it stands in the host's, and so do all who lead to it: whoever has rights over the users, or
    // sees the processes, that it is to share must not look into any of them. Its exec ends that.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("prctl(dumpable)", ""))?;
    checkpoint(spec, "stage")?;

    // A mount namespace owned by the host's user ns: what is mounted here will be locked in the guest's copy. Private, so
    // that nothing reaches the host.
    root::private_mounts(proof)?;

    // Modes of nodes and directories are meant as they are written; init has its own mask again.
    rustix::process::umask(Mode::empty());
    super::raise_rlimits(&spec.confinement);
    // New inodes shall be the guest root's, with our capabilities kept: overlay's work directory, /dev, /dev/mqueue.
    root::own_new_inodes(spec.id_base)?;

    // Before clocks of the guest's own are made: whoever is made after that lives by them.
    let views = match &spec.view {
        // A guest is made without an lxcfs that is dead, as the daemon knows, or that does not answer.
        Some(view) => view::copies(proof, view).unwrap_or_default(),
        None => view::Copies::new(),
    };
    let shared = join::open(&spec.joins)?;
    let joined_user = join::user_namespace(&spec.joins)?;
    if let Some(clocks) = &spec.clocks {
        clocks::make(proof, clocks)?;
    }

    checkpoint(spec, "clone")?;
    let init = make_init(proof, spec, (&shared, &views), report, go)?;
    // Idmapped by the guest's own user namespace: no other holder of it is needed.
    let user = match joined_user {
        // Whoever made it has written its maps.
        Some(user) => user,
        None => {
            write_maps(spec, init.pid)?;
            open_namespace(init.pid, "user")?
        }
    };
    let lock = root::Lock::open(&spec.root)?.take(proof)?;
    let root = root::mount(&spec.root, &spec.scratch, &user)?;
    checkpoint(spec, "root")?;

    // Init has unshared its cgroup namespace now; sysfs, mqueue and cgroup2 take the namespaces of whoever mounts them.
    init.wait_for(b'c')?;
    let joined = Namespaces::NET | Namespaces::IPC | Namespaces::CGROUP;
    kernel::process::enter(proof, init.pidfd.as_fd(), joined).map_err(failed("setns(net,ipc,cgroup)", ""))?;
    let netlink = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None, // protocol 0 is NETLINK_ROUTE
    )
    .map_err(failed("socket(netlink)", ""))?;
    let netns = open_namespace(init.pid, "net")?;
    let fds = [init.pidfd.as_fd(), netns.as_fd(), netlink.as_fd(), lock.as_fd()];
    report::prepared(report.as_fd(), init.pid, fds).map_err(failed("sendmsg", "report"))?;

    checkpoint(spec, "tree")?;
    build(proof, spec, (&init, &root), &views, report)?;
    init.tell(b'g')
}

/// The stage's hold on the waiting init.
struct Waiting {
    pid: u32,
    pidfd: OwnedFd,
    sync: OwnedFd,
}

impl Waiting {
    fn wait_for(&self, expected: u8) -> Result<(), Failure> {
        let mut byte = [0u8; 1];
        match rustix::io::read(&self.sync, &mut byte) {
            Ok(1) if byte[0] == expected => Ok(()),
            Ok(_) => Err(Failure::new("stage", "wait for init", "it died early", Errno::CHILD)),
            Err(errno) => Err(Failure::new("stage", "read", "init", errno)),
        }
    }

    fn tell(&self, byte: u8) -> Result<(), Failure> {
        rustix::io::write(&self.sync, &[byte]).map(drop).map_err(failed("write", "init"))
    }
}

fn make_init(
    proof: SingleThread,
    spec: &LaunchSpec,
    (shared, views): (&[join::Shared], &view::Copies),
    report: &OwnedFd,
    go: &OwnedFd,
) -> Result<Waiting, Failure> {
    let (sync, init_sync) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(failed("socketpair", ""))?;
    let group_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let group = rustix::fs::open(&*spec.group, group_flags, Mode::empty()).map_err(failed("open", &spec.group))?;
    // The stage has made the time namespace, if any.
    let namespaces = Namespaces::from_bits_truncate(spec.namespaces).difference(BY_INIT.union(Namespaces::TIME));
    if !shared.is_empty() {
        let init = || init::run(proof, spec, views, report, go, &init_sync);
        let (pid, pidfd) = join::make(proof, shared, namespaces, group.as_fd(), report, init)?;
        return Ok(Waiting { pid, pidfd, sync });
    }
    let clone = Clone { namespaces, as_sibling: true, into_cgroup: Some(group.as_fd()) };
    match clone.clone3(proof).map_err(failed("clone3", &format!("{namespaces:?}")))? {
        Side::Child => {
            drop(sync);
            init::run(proof, spec, views, report, go, &init_sync)
        }
        Side::Parent(pid, pidfd) => Ok(Waiting { pid: pid.as_raw_nonzero().get() as u32, pidfd, sync }),
    }
}

fn write_maps(spec: &LaunchSpec, pid: u32) -> Result<(), Failure> {
    let map = format!("0 {} {}", spec.id_base, spec.id_count);
    for file in ["uid_map", "gid_map"] {
        let path = format!("/proc/{pid}/{file}");
        let fd =
            rustix::fs::open(&*path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed("open", &path))?;
        rustix::io::write(fd, map.as_bytes()).map_err(failed("write", &format!("{path} ({map})")))?;
    }
    Ok(())
}

fn open_namespace(pid: u32, kind: &str) -> Result<OwnedFd, Failure> {
    let path = format!("/proc/{pid}/ns/{kind}");
    rustix::fs::open(&*path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed("open", &path))
}

/// Mounts the tree, makes it the root of everybody in this mount namespace (us and the waiting init) and drops the host's.
fn build(
    proof: SingleThread,
    spec: &LaunchSpec,
    (init, overlay): (&Waiting, &OwnedFd),
    views: &view::Copies,
    report: &OwnedFd,
) -> Result<(), Failure> {
    let pid_namespace = open_namespace(init.pid, "pid")?;
    let null = rustix::fs::open("/dev/null", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed("open", "/dev/null"))?;
    let root = root::enter(overlay, &spec.scratch)?;
    mounts(proof, spec, root.as_fd(), (&pid_namespace, &null), views, report)?;

    // Before the lock: a locked mount cannot be pivoted. It moves the waiting init's root along, which stands in the old one.
    root::pivot()
}

fn mounts(
    proof: SingleThread,
    spec: &LaunchSpec,
    root: BorrowedFd<'_>,
    (pid_namespace, null): (&OwnedFd, &OwnedFd),
    views: &view::Copies,
    report: &OwnedFd,
) -> Result<(), Failure> {
    tree::proc(proof, root, pid_namespace, spec.proc_by_descriptor, spec.strict)?;
    tree::sys(root, spec.sys_writable)?;
    tree::dev(root, spec.id_base, &spec.devices)?;
    let foreign = Namespaces::from_bits_truncate(spec.foreign);
    // Only the owner of a namespace may mount what shows it, and of these the guest is none.
    tree::views(root, foreign)?;
    if spec.strict {
        let console = tree::children(root, spec.id_base, foreign)?;
        report::console(report.as_fd(), console.as_fd()).map_err(failed("sendmsg", "console"))?;
        tree::masks(root, null)?;
        view::attach(root, views)?;
    } else if spec.view.is_some() {
        // Also for files that the guest may be given later.
        tree::hidden_proc(root)?;
    }
    Ok(())
}
