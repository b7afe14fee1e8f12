//! What a guest sees of its limits in `/proc`: files that lxcfs(1) answers by the control groups of whoever reads them.
//!
//! ```text
//! help lxcfs   a mount namespace of its own, with nothing in it but what the program needs and, at /view, its FUSE mount
//!               │ setns, open_tree by a process that goes away: copies of single files of that mount
//! stage ────────┘ hands them down to init, which binds each over the file of the same name once its tree is locked
//! help renew      does the same for a guest that runs, after lxcfs was started again
//! ```
//!
//! The mount is on no path of the host or of a guest: it dies with lxcfs, whatever that dies of, and there is nothing to
//! take away. A file that is bound leads nowhere else. The mount is made before lxcfs runs, which finds the kernel's requests
//! waiting: nobody has to guess when it is ready.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use kernel::Errno;
use kernel::process::{Clone, Namespaces, Side, SingleThread};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountAttrFlags, OpenTreeFlags, UnmountFlags};
use rustix::process::{PidfdGetfdFlags, WaitId, WaitIdOptions};

use super::{root, tree};
use crate::protocol::{Failure, MAX_MESSAGE};
use crate::record;
use crate::wire::Field;

record! {
    /// An lxcfs that runs.
    pub struct View {
        /// Its pid.
        1 => pid: u32,
        /// Start time of that process in clock ticks, as in `/proc/PID/stat`.
        2 => start: u64,
    }
}

record! {
    /// What `help lxcfs` is to do: become lxcfs.
    pub struct LxcfsOrder {
        /// The program.
        1 => program: String,
        /// The file that is locked for as long as it lives, and tells `1 <pid> <start>`. Its path is in the program's command
        /// line, so that it is known whose it is.
        2 => note: String,
        /// An empty directory of the host where it may mount, in its own mount namespace.
        3 => scratch: String,
    }
}

record! {
    /// What `help renew` is to do: give a guest that runs the files of this lxcfs.
    pub struct RenewOrder {
        /// The lxcfs; without one, files of a dead one are only taken away.
        1 => view: Option<View>,
        /// Pid of the guest's init.
        2 => pid: u32,
        /// Start time of init in clock ticks.
        3 => start: u64,
    }
}

/// Where lxcfs' files are in its own mount namespace.
const PLACE: &str = "view";

/// The descriptor by which lxcfs holds the mount namespace that its files are in.
pub const NAMESPACE: i32 = 5;

/// What is bound, from the path below [`PLACE`] to the same path in the guest.
///
/// `proc/uptime` is none of them: a guest's own clock knows that, with any offset that it was given, and one that lives in the
/// host's time was to see that. Nor is `proc/slabinfo`: lxcfs falls back on the host's, which guests cannot read otherwise.
/// Of `sys` it is one file and not the directory, through which lxcfs would pass everything on with the rights of the host's
/// root.
pub const FILES: [&str; 7] = [
    "proc/cpuinfo",
    "proc/diskstats",
    "proc/loadavg",
    "proc/meminfo",
    "proc/stat",
    "proc/swaps",
    "sys/devices/system/cpu/online",
];

/// What lxcfs finds of the host, besides `/sys`: programs and libraries, and what tells of processes.
const NEEDED: [&str; 8] = ["bin", "dev", "etc", "lib", "lib64", "proc", "sbin", "usr"];

const STAGE: &str = "view";

fn failed(call: &'static str, target: &str) -> impl Fn(Errno) -> Failure {
    let target = target.to_owned();
    move |errno| Failure::new(STAGE, call, target.clone(), errno)
}

/// Files of a running lxcfs as detached mounts, with the path of each.
pub type Copies = Vec<(&'static str, OwnedFd)>;

record! {
    /// What a taker says.
    struct Taken {
        /// Which of [`FILES`] the descriptors are of that come along.
        1 => files: Vec<u32>,
        2 => failure: Option<Failure>,
    }
}

/// How long an lxcfs may take for all of that: a hundred times what it does.
const ANSWER_S: u32 = 2;

/// Takes a copy of each file, or says why it cannot: by a process that goes away, as one that asks an lxcfs which does not answer
/// (held still by a signal, say) is to be had out of that by its death alone.
pub fn copies(proof: SingleThread, view: &View) -> Result<Copies, Failure> {
    let (ours, theirs) = kernel::scm::pair().map_err(failed("socketpair", ""))?;
    match Clone::default().clone3(proof).map_err(failed("clone3", "taker"))? {
        Side::Child => {
            drop(ours);
            kernel::signal::reset_all();
            kernel::signal::deadline(ANSWER_S);
            let (taken, fds) = match take(proof, view) {
                Ok(copies) => {
                    let (files, fds) = copies.into_iter().unzip();
                    (Taken { files, failure: None }, fds)
                }
                Err(failure) => (Taken { files: Vec::new(), failure: Some(failure) }, Vec::new()),
            };
            let mut record = Vec::new();
            taken.put(&mut record);
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(OwnedFd::as_fd).collect();
            let sent = kernel::scm::send(theirs.as_fd(), &record, &fds, true);
            kernel::process::exit(i32::from(sent.is_err()))
        }
        Side::Parent(_, taker) => {
            drop(theirs);
            let received = kernel::scm::receive_whole(ours.as_fd(), MAX_MESSAGE, true);
            let _ = rustix::process::waitid(WaitId::PidFd(taker.as_fd()), WaitIdOptions::EXITED);
            let (record, fds) = received.map_err(failed("recvmsg", "taker"))?;
            match Taken::take(&record).filter(|_| !record.is_empty()) {
                Some(Taken { failure: Some(failure), .. }) => Err(failure),
                Some(Taken { files, failure: None }) => {
                    let path = |number: u32| FILES.get(number as usize).copied();
                    Ok(files.into_iter().zip(fds).filter_map(|(number, fd)| Some((path(number)?, fd))).collect())
                }
                None => Err(failed("wait for", &name_of(view))(Errno::TIMEDOUT)),
            }
        }
    }
}

/// A copy of each file with its number in [`FILES`], from the mount namespace that they are in; the caller stays there.
fn take(proof: SingleThread, view: &View) -> Result<Vec<(u32, OwnedFd)>, Failure> {
    let name = name_of(view);
    let process = root::open_process(view.pid, view.start).map_err(failed("pidfd_open", &name))?;
    // Not the one that it is in: while it begins, that is another one now and then.
    let namespace = rustix::process::pidfd_getfd(&process, NAMESPACE, PidfdGetfdFlags::empty())
        .map_err(failed("pidfd_getfd", &name))?;
    kernel::process::enter_namespace(proof, namespace.as_fd(), Namespaces::MOUNT)
        .map_err(failed("setns(mnt)", &name))?;
    let copies = (0..).zip(FILES).map(|(number, file)| match copy(file) {
        Ok(copy) => Ok(Some((number, copy))),
        // One of another release has others.
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(failed("open_tree", file)(errno)),
    });
    // Dead in the middle of it: half of the numbers would not go with the other half.
    copies.filter_map(Result::transpose).collect()
}

fn name_of(view: &View) -> String {
    format!("lxcfs (process {})", view.pid)
}

fn copy(file: &str) -> kernel::Result<OwnedFd> {
    let copy = kernel::mount::clone_tree(rustix::fs::CWD, &format!("/{PLACE}/{file}"))?;
    kernel::mount::set_attributes(copy.as_fd(), tree::HARDENED | MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    Ok(copy)
}

/// Binds them in the tree below `root`. A guest that has no such file does without.
pub fn attach(root: BorrowedFd<'_>, copies: &Copies) -> Result<(), Failure> {
    copies.iter().try_for_each(|(path, copy)| match tree::open_target(root, path) {
        Ok(target) => tree::attach_to(&target, path, copy),
        Err(_) => Ok(()),
    })
}

/// Takes away those in the tree at `/` whose lxcfs is dead. What the guest has mounted there instead stays.
pub fn detach_dead() {
    for file in FILES {
        let path = format!("/{file}");
        // Each turn takes one away, and one that is locked ends it.
        while rustix::fs::statfs(&*path).err() == Some(Errno::NOTCONN)
            && rustix::mount::unmount(&*path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok()
        {}
    }
}

/// In a process that becomes lxcfs: a mount namespace with what that needs and its mount; the kernel's end of the mount.
pub fn settle(proof: SingleThread, scratch: &str) -> Result<OwnedFd, Failure> {
    root::private_mounts(proof)?;
    tree::mount_tmpfs_at(scratch).map_err(failed("mount(tmpfs)", scratch))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let place = rustix::fs::open(scratch, flags, Mode::empty()).map_err(failed("open", scratch))?;
    for name in NEEDED {
        furnish(place.as_fd(), name).map_err(failed("bind", name))?;
    }
    // With the control groups below it: these are what lxcfs reads.
    let sys = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let sys = rustix::mount::open_tree(rustix::fs::CWD, "/sys", sys).map_err(failed("open_tree", "/sys"))?;
    tree::attach(place.as_fd(), "sys", &sys)?;
    // Where it puts what is its own.
    rustix::fs::mkdirat(&place, "run", Mode::from_raw_mode(0o755)).map_err(failed("mkdir", "run"))?;
    let fuse = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let fuse = fuse.map_err(failed("open", "/dev/fuse"))?;
    // For guests' ids, too; nobody but whoever is in this mount namespace, or was given a file of it, comes there.
    let number = fuse.as_raw_fd().to_string();
    let options = [("subtype", "lxcfs"), ("fd", &*number), ("rootmode", "40000"), ("user_id", "0"), ("group_id", "0")];
    let options: Vec<(&str, &str)> = options.into_iter().chain([("allow_other", "")]).collect();
    tree::attach(place.as_fd(), PLACE, &tree::filesystem("fuse", &options, tree::HARDENED)?)?;
    rustix::process::chdir(scratch).map_err(failed("chdir", scratch))?;
    root::pivot()?;
    Ok(fuse)
}

/// A directory of the host, or the link that is in its place, in the tree at `place`.
fn furnish(place: BorrowedFd<'_>, name: &str) -> kernel::Result<()> {
    let path = format!("/{name}");
    match rustix::fs::readlink(&*path, Vec::new()) {
        Ok(target) => return rustix::fs::symlinkat(&*target, place, name),
        Err(Errno::NOENT) => return Ok(()),
        Err(_) => {}
    }
    let directory = kernel::mount::clone_tree(rustix::fs::CWD, &path)?;
    tree::attach(place, name, &directory).map_err(|failure| failure.errno())
}
