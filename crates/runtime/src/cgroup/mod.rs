//! Control groups of guests.
//!
//! ```text
//! <base>/<instance>.<generation>            limits, freeze, kill: the host's
//! <base>/<instance>.<generation>/payload    the guest's root group: delegated, and the root of its cgroup namespace
//! <base>/<instance>.<generation>/payload/.exec-<n>   one per exec'd process
//! ```
//!
//! This tree is in cgroup2 on every host, as freezing, killing and pressure need no controller. Where the controllers are
//! in v1 hierarchies ([`hybrid`]), a group of the same name stands in each of them and carries the limits.
//!
//! A group is never used again after it was killed: on Linux 6.18 a clone into it would die at once.

mod devices;
mod gauges;
mod hybrid;
mod layout;
mod need;
mod partition;
mod programs;
mod traffic;
mod turn;
mod unified;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use model::scale::Trigger;
use model::{Bites, Boot, CgroupLayout, Gauges, GroupUsage, Hits, Knob, KnobChange, Scarce, Setting, Settings};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::inotify::{self, WatchFlags};

pub use layout::{LayoutError, find as find_layout};
pub use need::Notice;

/// A failed act on a control group.
#[derive(Debug, thiserror::Error)]
#[error("control group: {act} {path}")]
pub struct Error {
    /// What was attempted.
    pub act: &'static str,
    /// On which file or directory.
    pub path: String,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

fn failed(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.display().to_string();
    move |source| Error { act, path, source }
}

/// The part that differs between host layouts: where limits are kept.
trait Controllers: Send + Sync + std::fmt::Debug {
    /// Prepares the base group so that groups below it can be limited.
    fn prepare(&self) -> Result<(), Error>;
    /// Makes what a boot's group needs beside its cgroup2 directory; false when some of it was there.
    fn create(&self, group: &str) -> Result<bool, Error>;
    /// Removes that again, except what is gone already, before that directory goes.
    fn remove(&self, group: &str) -> Result<(), Error>;
    /// Which knobs the kernel has.
    fn knobs(&self) -> BTreeSet<Knob>;
    /// Sets a knob and tells the file that was written.
    fn write(&self, group: &str, knob: Knob, setting: &Setting) -> Result<PathBuf, Error>;
    /// What a knob is set to.
    fn read(&self, group: &str, knob: Knob) -> Result<Setting, Error>;
    /// Directories that processes must be written to in addition to being born in the cgroup2 group.
    fn extra_groups(&self, group: &str) -> Vec<PathBuf>;
    /// What a group uses; 0 for what the kernel does not count.
    fn usage(&self, group: &str) -> GroupUsage;
    /// How often a group's limits were met.
    fn hits(&self, group: &str) -> Hits;
    /// How often limits of a group itself were met at which something else may follow.
    fn bites(&self, group: &str) -> Bites;
    /// Files that the kernel says were modified when a limit was met.
    fn hit_files(&self, group: &str) -> Vec<PathBuf>;
    /// The file that a knob is turned by.
    fn file(&self, group: &str, knob: Knob) -> PathBuf;
    /// A descriptor that can be read when memory ran out in a watched group. One serves all.
    fn oom_notices(&self) -> kernel::Result<OwnedFd>;
    /// Has it be readable for a group, until that is gone.
    fn watch_oom(&self, group: &str, notices: &OwnedFd) -> Result<(), Error>;
    /// Tells when a group whose level of memory is so many bytes needs more.
    fn memory_need(&self, group: &str, level: u64, when: Trigger) -> Result<Notice, Error>;
    /// Whether that is told of use that no ceiling of the group's stands in the way of.
    fn tells_of_use(&self) -> bool;
    /// Takes memory that can be spared until so many bytes are used at most, as far as it goes. Kills nobody.
    fn take_memory(&self, group: &str, down_to: u64) -> Result<(), Error>;
    /// Names of groups that exist in addition to the cgroup2 ones.
    fn extra_names(&self) -> BTreeSet<String>;
}

/// All guests' groups of one daemon.
#[derive(Debug)]
pub struct Groups {
    base: PathBuf,
    controllers: Box<dyn Controllers>,
    /// Looked for once: thirty files, and each look at a group asks.
    knobs: OnceLock<BTreeSet<Knob>>,
}

/// The files of a delegated group that belong to its owner (`/sys/kernel/cgroup/delegate`).
const DELEGATED: [&str; 3] = ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"];

impl Groups {
    /// The groups below `<cgroup2>/<base>`; `base` may have several parts.
    pub fn new(layout: &CgroupLayout, base: &str) -> Groups {
        match layout {
            CgroupLayout::Unified { root } => {
                let base = Path::new(root).join(base);
                Groups { controllers: Box::new(unified::Unified::new(root, &base)), base, knobs: OnceLock::new() }
            }
            CgroupLayout::Hybrid { root, v1 } => {
                let second = unified::Unified::new(root, &Path::new(root).join(base));
                let controllers = Box::new(hybrid::Hybrid::new(v1, base, second));
                Groups { base: Path::new(root).join(base), controllers, knobs: OnceLock::new() }
            }
        }
    }

    /// Makes the base group where it is missing. To be called once before the other functions.
    pub fn prepare(&self) -> Result<(), Error> {
        fs::create_dir_all(&self.base).map_err(failed("mkdir", &self.base))?;
        self.controllers.prepare()
    }

    /// Removes the base groups; fails while there is a group below.
    pub fn remove_base(&self) -> Result<(), Error> {
        self.controllers.remove("")?;
        remove_dir(&self.base)
    }

    /// The cgroup2 directory of a boot.
    pub fn directory(&self, boot: Boot) -> PathBuf {
        self.base.join(boot.to_string())
    }

    /// The delegated group that a guest is born in.
    pub fn payload(&self, boot: Boot) -> PathBuf {
        self.directory(boot).join("payload")
    }

    /// Directories whose `cgroup.procs` every process of the guest is also written to.
    pub fn extra_groups(&self, boot: Boot) -> Vec<PathBuf> {
        self.controllers.extra_groups(&boot.to_string())
    }

    /// Which knobs the kernel has. To be asked once the base is prepared.
    pub fn knobs(&self) -> &BTreeSet<Knob> {
        self.knobs.get_or_init(|| self.controllers.knobs())
    }

    /// Makes the group of a boot, limited and with its payload delegated to host id `owner`. One that is left of an earlier
    /// try goes first: it may have been killed, and whoever is cloned into a killed group dies. One with processes is not
    /// touched, and an error. Done twice it is the same.
    pub fn create(&self, boot: Boot, settings: &Settings, owner: u32) -> Result<(), Error> {
        let group = self.directory(boot);
        if group.exists() {
            self.remove(boot)?;
        }
        make_dir(&group)?;
        if self.controllers.create(&boot.to_string())? {
            // Nobody is in it, so no order is unsafe, and most knobs of a new group are where they should be.
            for (knob, setting) in settings.iter().filter(|(knob, setting)| **setting != knob.initial()) {
                self.controllers.write(&boot.to_string(), *knob, setting)?;
            }
        } else {
            self.apply(boot, settings)?;
        }
        // A guest's runaway nesting must not eat the host's memory; systemd needs a few hundred groups, 10 deep.
        write(&group.join("cgroup.max.descendants"), "4096")?;
        write(&group.join("cgroup.max.depth"), "32")?;
        let payload = self.payload(boot);
        make_dir(&payload)?;
        delegate(&payload, owner)
    }

    /// Sets knobs, all or none, and tells those that were at something else.
    pub fn apply(&self, boot: Boot, settings: &Settings) -> Result<Vec<KnobChange>, Error> {
        turn::turn(&*self.controllers, &boot.to_string(), settings)
    }

    /// What the knobs are set to; `None` when nothing of a group is there.
    pub fn settings(&self, boot: Boot) -> Result<Option<Settings>, Error> {
        let group = boot.to_string();
        if !self.directory(boot).exists() && !self.controllers.extra_groups(&group).iter().any(|path| path.exists()) {
            return Ok(None);
        }
        let mut settings = Settings::new();
        for &knob in self.knobs() {
            match self.controllers.read(&group, knob) {
                Ok(setting) => drop(settings.insert(knob, setting)),
                // Half made, or half removed.
                Err(error) if error.source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        // What its weight reads as while it is idle is the kernel's own affair.
        if settings.get(&Knob::CpuIdle) == Some(&Setting::Number(1)) {
            settings.remove(&Knob::CpuWeight);
        }
        Ok(Some(settings))
    }

    /// Directories that a boot's group consists of and that are not there.
    pub fn missing(&self, boot: Boot) -> Vec<PathBuf> {
        let mut wanted = vec![self.directory(boot), self.payload(boot)];
        wanted.extend(self.extra_groups(boot));
        wanted.retain(|path| !path.exists());
        wanted
    }

    /// Whether a process is in the groups of a boot, in every hierarchy. One that is gone is.
    pub fn holds(&self, boot: Boot, pid: u32) -> bool {
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/cgroup")) else { return true };
        let base = self.base.file_name().unwrap_or_default().to_string_lossy();
        let group = format!("/{base}/{boot}");
        let inside = text.lines().filter(|line| line.contains(&group)).count();
        inside > self.extra_groups(boot).len()
    }

    /// Puts a process of a boot back into its groups.
    pub fn regroup(&self, boot: Boot, pid: u32) -> Result<(), Error> {
        let groups = self.extra_groups(boot).into_iter().chain([self.payload(boot)]);
        groups.into_iter().try_for_each(|group| write(&group.join("cgroup.procs"), &pid.to_string()))
    }

    /// Removes a group among ours that is no boot's; fails while there are processes in it.
    pub fn remove_stranger(&self, name: &str) -> Result<(), Error> {
        if name.is_empty() || name.contains('/') || name.starts_with('.') || name.parse::<Boot>().is_ok() {
            return Ok(());
        }
        self.controllers.remove(name)?;
        remove_tree(&self.base.join(name))
    }

    /// Whether all of a boot's group was made: its last act was to give the payload's last file away.
    pub fn is_complete(&self, boot: Boot) -> bool {
        if self.extra_groups(boot).iter().any(|group| !group.exists()) {
            return false;
        }
        let last = self.payload(boot).join(DELEGATED[DELEGATED.len() - 1]);
        fs::metadata(last).is_ok_and(|file| std::os::unix::fs::MetadataExt::uid(&file) != 0)
    }

    /// Has the processes of a boot held still, or go on. They are soon.
    pub fn set_frozen(&self, boot: Boot, frozen: bool) -> Result<(), Error> {
        write(&self.directory(boot).join("cgroup.freeze"), if frozen { "1" } else { "0" })
    }

    /// Waits until that is so, a second at most: a process in uninterruptible sleep freezes when it wakes.
    pub fn wait_frozen(&self, boot: Boot, frozen: bool) -> Result<(), Error> {
        let line = if frozen { "frozen 1" } else { "frozen 0" };
        wait_for_event(&self.directory(boot), line, Duration::from_secs(1)).map(drop)
    }

    /// Whether the group is frozen or asked to be.
    pub fn is_frozen(&self, boot: Boot) -> Result<bool, Error> {
        match read(&self.directory(boot).join("cgroup.freeze")) {
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(false),
            other => Ok(other? == "1"),
        }
    }

    /// Kills every process of a boot. A group that is gone has none.
    pub fn kill(&self, boot: Boot) -> Result<(), Error> {
        let path = self.directory(boot).join("cgroup.kill");
        match fs::write(&path, "1") {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(failed("write", &path)),
        }
    }

    /// Removes the group of a boot with all that the guest made below it. Waits up to five seconds for processes that are
    /// still exiting.
    pub fn remove(&self, boot: Boot) -> Result<(), Error> {
        let group = self.directory(boot);
        if group.exists() {
            wait_for_event(&group, "populated 0", Duration::from_secs(5))?;
        }
        self.controllers.remove(&boot.to_string())?;
        remove_tree(&group)
    }

    /// What the processes of a boot use; 0 for what the kernel does not count.
    pub fn usage(&self, boot: Boot) -> GroupUsage {
        self.controllers.usage(&boot.to_string())
    }

    /// What the processes of a boot use, wait for, and are limited by.
    pub fn gauges(&self, boot: Boot) -> Gauges {
        let group = boot.to_string();
        Gauges {
            usage: self.controllers.usage(&group),
            pressure: gauges::pressure(&self.directory(boot)),
            hits: self.controllers.hits(&group),
        }
    }

    /// How often the limits of a boot were met.
    pub fn hits(&self, boot: Boot) -> Hits {
        self.controllers.hits(&boot.to_string())
    }

    /// How often a boot met limits at which something else may follow.
    pub fn bites(&self, boot: Boot) -> Bites {
        self.controllers.bites(&boot.to_string())
    }

    /// The file that a knob of a boot is turned by.
    pub fn file(&self, boot: Boot, knob: Knob) -> PathBuf {
        self.controllers.file(&boot.to_string(), knob)
    }

    /// Has an inotify descriptor tell when a boot meets those of its limits that the kernel tells of; the numbers by which.
    pub fn watch_hits(&self, boot: Boot, notices: &OwnedFd) -> Vec<i32> {
        let files = self.controllers.hit_files(&boot.to_string());
        files.iter().filter_map(|path| inotify::add_watch(notices, path, WatchFlags::MODIFY).ok()).collect()
    }

    /// A descriptor that can be read when memory ran out in a boot that is watched. One serves all of them.
    pub fn oom_notices(&self) -> kernel::Result<OwnedFd> {
        self.controllers.oom_notices()
    }

    /// Has that descriptor be readable when memory runs out in a boot, until its group is gone.
    pub fn watch_oom(&self, boot: Boot, notices: &OwnedFd) -> Result<(), Error> {
        self.controllers.watch_oom(&boot.to_string(), notices)
    }

    /// Tells when a boot whose level of memory is so many bytes needs more.
    pub fn memory_need(&self, boot: Boot, level: u64, when: Trigger) -> Result<Notice, Error> {
        self.controllers.memory_need(&boot.to_string(), level, when)
    }

    /// Whether that is told of a boot whose level is only advice, no ceiling.
    pub fn tells_of_use(&self) -> bool {
        self.controllers.tells_of_use()
    }

    /// Tells when processes of a boot wait so much for something.
    pub fn pressed(&self, boot: Boot, scarce: Scarce, when: Trigger) -> Result<Notice, Error> {
        need::pressure(&self.directory(boot).join(format!("{}.pressure", scarce.name())), when)
    }

    /// Takes memory from a boot that it can spare until it uses so many bytes at most, as far as it goes. Kills nobody.
    pub fn take_memory(&self, boot: Boot, down_to: u64) -> Result<(), Error> {
        self.controllers.take_memory(&boot.to_string(), down_to)
    }

    /// All boots that have a group here, and names that are no boot.
    pub fn list(&self) -> Result<(BTreeSet<Boot>, BTreeSet<String>), Error> {
        let mut names = self.controllers.extra_names();
        match subdirectories(&self.base) {
            Ok(found) => names.extend(found),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed("list", &self.base)(e)),
        }
        let (mut boots, mut strangers) = (BTreeSet::new(), BTreeSet::new());
        for name in names {
            match name.parse() {
                Ok(boot) => drop(boots.insert(boot)),
                Err(_) => drop(strangers.insert(name)),
            }
        }
        Ok((boots, strangers))
    }
}

/// Makes a group for one exec'd process below a delegated payload.
pub(crate) fn create_leaf(payload: &Path, number: u32, owner: u32) -> Result<PathBuf, Error> {
    let leaf = payload.join(format!(".exec-{number}"));
    make_dir(&leaf)?;
    delegate(&leaf, owner)?;
    Ok(leaf)
}

/// Gives a group to the host id `owner`, who may then make groups below it and move its own processes among them.
fn delegate(group: &Path, owner: u32) -> Result<(), Error> {
    let chown = |path: &Path| std::os::unix::fs::lchown(path, Some(owner), Some(owner)).map_err(failed("chown", path));
    chown(group)?;
    DELEGATED.iter().try_for_each(|file| chown(&group.join(file)))
}

/// Makes a directory; false when it was there.
fn make_dir(path: &Path) -> Result<bool, Error> {
    match fs::create_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        other => other.map(|()| true).map_err(failed("mkdir", path)),
    }
}

fn remove_dir(path: &Path) -> Result<(), Error> {
    match fs::remove_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(failed("rmdir", path)),
    }
}

fn remove_tree(path: &Path) -> Result<(), Error> {
    let children = match subdirectories(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed("list", path))?,
    };
    for child in children {
        remove_tree(&path.join(child))?;
    }
    remove_dir(path)
}

fn subdirectories(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.extend(entry.file_name().into_string());
        }
    }
    Ok(names)
}

/// A file with one number; 0 when it is missing.
fn number(path: &Path) -> u64 {
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(failed("write", path))
}

/// The text of an attribute. Each look at a group reads two dozen, so each is one call: the kernel makes a file of this kind
/// as a whole, and fills less than half of the buffer only when there is no more.
fn read(path: &Path) -> Result<String, Error> {
    let reading = || -> io::Result<String> {
        let (mut file, mut buffer, mut bytes) = (fs::File::open(path)?, [0u8; 4096], Vec::new());
        loop {
            let length = file.read(&mut buffer)?;
            bytes.extend_from_slice(&buffer[..length]);
            if length < buffer.len() / 2 {
                return String::from_utf8(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e));
            }
        }
    };
    reading().map(|text| text.trim_end().to_owned()).map_err(failed("read", path))
}

/// Waits until `cgroup.events` of a group has the line; true when it came in time. The kernel wakes us (`POLLPRI`).
fn wait_for_event(group: &Path, line: &str, limit: Duration) -> Result<bool, Error> {
    let path = group.join("cgroup.events");
    let deadline = Instant::now() + limit;
    let file = fs::File::open(&path).map_err(failed("open", &path))?;
    loop {
        // Each look must come after arming, and arming is reading: so read first, then poll.
        let mut text = [0u8; 256];
        let length = rustix::io::pread(&file, &mut text, 0).map_err(|e| failed("read", &path)(e.into()))?;
        if text[..length].split(|b| *b == b'\n').any(|l| l == line.as_bytes()) {
            return Ok(true);
        }
        let Some(rest) = deadline.checked_duration_since(Instant::now()) else { return Ok(false) };
        let mut fds = [PollFd::from_borrowed_fd(file.as_fd(), PollFlags::PRI)];
        let timeout =
            rustix::event::Timespec { tv_sec: rest.as_secs() as i64, tv_nsec: i64::from(rest.subsec_nanos()) };
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(kernel::Errno::INTR) => {}
            Err(errno) => return Err(failed("poll", &path)(errno.into())),
        }
    }
}
