//! Who has a root file system mounted: one holder at a time, by a lock on a file beside it.
//!
//! ```text
//! keeper (by its stage)   asks others to go, waits, and holds the lock for as long as its guest runs
//! help files              the first one takes the lock and mounts; others find it in the lock's list, take a copy of its
//!                         lock and join its namespaces; all end when somebody asks
//! ```
//!
//! The same upper directory under two overlays at a time is undefined (they have no index), so nothing is mounted without
//! the lock. Asking is a change of the lock file's mode: its holders watch for that and nobody else ever does it.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use kernel::process::SingleThread;
use kernel::{Errno, Result};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{CreateFlags, WatchFlags};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, ResolveFlags};
use rustix::mount::{MountPropagationFlags, MoveMountFlags, UnmountFlags};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};

use super::overlay;
use crate::protocol::{Failure, RootSpec};

const STAGE: &str = "root";
const LOCK_MODE: Mode = Mode::from_raw_mode(0o600);

/// How often, and each time for how many seconds, others are asked to let go. A holder lets go within one request, so
/// this is only reached by one that hangs on a broken disk.
const ASK: (u32, u32) = (5, 2);

/// Seconds that a helper waits for another one that has the lock and is about to mount.
const JOIN_SECONDS: u64 = 5;

/// Most holders that are looked at; as a session each they are far fewer.
const MAX_HOLDERS: usize = 512;

fn failed(call: &'static str, target: &str) -> impl Fn(Errno) -> Failure {
    let target = target.to_owned();
    move |errno| Failure::new(STAGE, call, target.clone(), errno)
}

/// A mount namespace of our own, from which nothing reaches the host's.
pub fn private_mounts(proof: SingleThread) -> std::result::Result<(), Failure> {
    kernel::process::unshare(proof, kernel::process::Namespaces::MOUNT).map_err(failed("unshare(mnt)", ""))?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(failed("mount(private)", "/"))
}

/// Ids for new inodes, our capabilities kept: those of overlay's work directory must be the guest's root's.
pub fn own_new_inodes(base: u32) -> std::result::Result<(), Failure> {
    rustix::thread::set_capabilities_secure_bits(rustix::thread::CapabilitiesSecureBits::NO_SETUID_FIXUP)
        .map_err(failed("prctl(securebits)", ""))?;
    kernel::process::set_fs_ids(base, base).map_err(failed("setfsuid", &base.to_string()))
}

/// Mounts the root file system, detached. The caller has its lock, and the ids of [`own_new_inodes`].
pub fn mount(spec: &RootSpec, scratch: &str, userns: impl AsFd) -> std::result::Result<OwnedFd, Failure> {
    overlay::mount(spec, scratch, userns.as_fd())
}

/// Attaches a root file system in our mount namespace and goes there; its `/`.
pub fn enter(root: &OwnedFd, scratch: &str) -> std::result::Result<OwnedFd, Failure> {
    rustix::mount::move_mount(root, "", CWD, scratch, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(failed("move_mount", scratch))?;
    rustix::process::chdir(scratch).map_err(failed("chdir", scratch))?;
    rustix::fs::open(".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed("open", "the guest's root"))
}

/// Makes it the root of everybody in this mount namespace and drops the host's.
pub fn pivot() -> std::result::Result<(), Failure> {
    rustix::process::pivot_root(".", ".").map_err(failed("pivot_root", ""))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(failed("umount2", "the host's root"))?;
    rustix::process::chdir("/").map_err(failed("chdir", "/"))
}

/// The lock file of a root file system, open.
#[derive(Debug)]
pub struct Lock {
    file: OwnedFd,
    path: String,
    /// When we were started, for [`Lock::announce`]: where that is called there may be no `/proc`.
    start: u64,
}

/// What a helper got.
#[derive(Debug)]
pub enum Share {
    /// The lock: it is to mount.
    First(Lock),
    /// A copy of the lock, and the process whose namespaces have the mount.
    Join(Lock, OwnedFd),
}

impl Lock {
    /// Opens the lock of a root file system, and makes it where it is missing.
    pub fn open(spec: &RootSpec) -> std::result::Result<Lock, Failure> {
        let name = format!("{}/lock", spec.volume);
        let path = format!("{}/{name}", spec.pool);
        let pool = rustix::fs::open(&*spec.pool, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed("open", &spec.pool))?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let file = rustix::fs::openat2(&pool, &*name, flags, LOCK_MODE, resolve).map_err(failed("openat2", &name))?;
        Ok(Lock { file, path, start: 0 })
    }

    /// Takes it for a guest: whoever has it is asked to let go.
    pub fn take(self, proof: SingleThread) -> std::result::Result<OwnedFd, Failure> {
        let mut result = rustix::fs::flock(&self.file, FlockOperation::NonBlockingLockExclusive);
        for _ in 0..ASK.0 {
            if result != Err(Errno::AGAIN) {
                break;
            }
            rustix::fs::fchmod(&self.file, LOCK_MODE).map_err(failed("fchmod", &self.path))?;
            result = kernel::lock::exclusive_within(proof, self.file.as_fd(), ASK.1);
        }
        match result {
            Ok(()) => Ok(self.file),
            Err(Errno::AGAIN) => Err(Failure::new(STAGE, "lock: it is in use", self.path, Errno::BUSY)),
            Err(errno) => Err(failed("flock", &self.path)(errno)),
        }
    }

    /// A descriptor that becomes readable when somebody wants the lock.
    pub fn wanted(&self) -> std::result::Result<OwnedFd, Failure> {
        self.watch(WatchFlags::ATTRIB)
    }

    fn watch(&self, what: WatchFlags) -> std::result::Result<OwnedFd, Failure> {
        let watch = rustix::fs::inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(failed("inotify_init1", ""))?;
        rustix::fs::inotify::add_watch(&watch, &*self.path, what).map_err(failed("inotify_add_watch", &self.path))?;
        Ok(watch)
    }

    /// Takes it for a helper, or joins those who have it.
    pub fn share(mut self) -> std::result::Result<Share, Failure> {
        let own = rustix::process::getpid().as_raw_nonzero().get() as u32;
        self.start = start_time(own).ok_or_else(|| failed("read", "/proc/self/stat")(Errno::SRCH))?;
        let news = self.watch(WatchFlags::MODIFY | WatchFlags::CLOSE_WRITE)?;
        let until = std::time::Instant::now() + std::time::Duration::from_secs(JOIN_SECONDS);
        loop {
            match rustix::fs::flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    // Of those who had it before nobody is left.
                    rustix::fs::ftruncate(&self.file, 0).map_err(failed("ftruncate", &self.path))?;
                    return Ok(Share::First(self));
                }
                Err(Errno::AGAIN) => {}
                Err(errno) => return Err(failed("flock", &self.path)(errno)),
            }
            if let Some((file, holder)) = self.holder().map_err(failed("read", &self.path))? {
                return Ok(Share::Join(Lock { file, ..self }, holder));
            }
            let rest = until.saturating_duration_since(std::time::Instant::now());
            if rest.is_zero() {
                return Err(Failure::new(STAGE, "lock: the instance has it", self.path, Errno::BUSY));
            }
            // Somebody is about to mount, or to end: both are told by what they do to the file. A death is, too.
            let timeout = Timespec { tv_sec: rest.as_secs() as i64, tv_nsec: i64::from(rest.subsec_nanos()) };
            rustix::event::poll(&mut [PollFd::new(&news, PollFlags::IN)], Some(&timeout))
                .map_err(failed("poll", ""))?;
            let _ = rustix::io::read(&news, &mut [0u8; 4096]);
        }
    }

    /// Lets others find us and our mount, once we are where they are to join us.
    pub fn announce(&self) -> std::result::Result<(), Failure> {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let line = format!("{pid} {} {}\n", self.start, self.file.as_raw_fd());
        rustix::io::write(&self.file, line.as_bytes()).map(drop).map_err(failed("write", &self.path))
    }

    /// A copy of the lock of somebody who has it mounted, and a pidfd of them.
    fn holder(&self) -> Result<Option<(OwnedFd, OwnedFd)>> {
        let ours = rustix::fs::fstat(&self.file)?;
        let mut buffer = vec![0u8; 64 * MAX_HOLDERS];
        let length = rustix::io::pread(&self.file, &mut buffer, 0)?;
        let text = String::from_utf8_lossy(&buffer[..length]);
        for line in text.lines().rev() {
            let mut fields = line.split(' ').map(str::parse::<u64>);
            let (Some(Ok(pid)), Some(Ok(start)), Some(Ok(number))) = (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let Ok(pidfd) = open_process(pid as u32, start) else { continue };
            let Ok(copy) = rustix::process::pidfd_getfd(&pidfd, number as i32, PidfdGetfdFlags::empty()) else {
                continue;
            };
            let theirs = rustix::fs::fstat(&copy)?;
            if (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino) {
                return Ok(Some((copy, pidfd)));
            }
        }
        Ok(None)
    }
}

/// A pidfd of the process with this pid that started then; `SRCH` where the pid is another one's now.
pub fn open_process(pid: u32, start: u64) -> Result<OwnedFd> {
    let id = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    let pidfd = rustix::process::pidfd_open(id, PidfdFlags::empty())?;
    // Looked at after opening: the same start time means that the pid was not given to another process.
    if start_time(pid) == Some(start) { Ok(pidfd) } else { Err(Errno::SRCH) }
}

/// Whether a process is the first of its pid namespace, with which all others there end: its innermost number is 1 (proc(5)).
/// So is one of which nothing can be read any more.
pub fn is_first(pid: u32) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let numbers = text.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.and_then(|numbers| numbers.split_whitespace().last()).is_none_or(|innermost| innermost == "1")
}

/// Start time of a process in clock ticks since boot: field 22 of `/proc/PID/stat` (proc(5)).
pub fn start_time(pid: u32) -> Option<u64> {
    let path = format!("/proc/{pid}/stat");
    let fd = rustix::fs::open(&*path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut buffer = [0u8; 1024];
    let length = rustix::io::read(&fd, &mut buffer).ok()?;
    let text = std::str::from_utf8(&buffer[..length]).ok()?;
    text.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}
