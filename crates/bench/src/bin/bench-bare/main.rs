//! The bare limit: what the kernel itself takes for a guest, without an API, a database, or a process that stays.
//!
//! One process with one thread that is told what to do by lines on its standard input and answers each with a line:
//!
//! ```text
//! commit              one record made durable            → nanoseconds
//! start N nic|plain   a guest of its own                 → its pid, and when it was begun (monotonic clock)
//! stop N              killed, reaped, its groups removed → nanoseconds
//! exec N              `true` in the guest                → nanoseconds
//! remove N            its directories                    → 0
//! ```
//!
//! The same kernel work as the daemon's: directories of a root file system, the same control groups with the same writes
//! (v1 hierarchies included), an overlay of idmapped layers, the same namespaces and mounts, a pair of links, the exec.

mod groups;
mod link;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{BufRead, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use groups::{Groups, delegate, enter_v1, remove_tree};
use kernel::Errno;
use kernel::process::{Clone, Namespaces, Side, SingleThread};
use link::veth;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags,
};
use rustix::process::{Pid, WaitOptions};
use rustix::thread::{CapabilitiesSecureBits, Gid};
use rustix::time::{ClockId, clock_gettime};

/// What goes wrong, with the act in words.
type Result<T> = std::result::Result<T, String>;

const BASE: u32 = 0x7f00_0000;
const COUNT: u32 = 65_536;
/// Made before the tree stands, as the daemon does; cgroup is unshared by the child.
const NAMESPACES: Namespaces = Namespaces::USER
    .union(Namespaces::PID)
    .union(Namespaces::NET)
    .union(Namespaces::IPC)
    .union(Namespaces::UTS)
    .union(Namespaces::MOUNT);

fn act<E: std::fmt::Display>(what: &str) -> impl Fn(E) -> String {
    let what = what.to_owned();
    move |error| format!("{what}: {error}")
}

fn now() -> u128 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u128 * 1_000_000_000 + now.tv_nsec as u128
}

struct Guest {
    pid: Pid,
    pidfd: OwnedFd,
    group: PathBuf,
    v1: Vec<PathBuf>,
}

struct Bare {
    proof: SingleThread,
    lower: OwnedFd,
    userns: OwnedFd,
    work: PathBuf,
    init: CString,
    bridge: Option<u32>,
    groups: Groups,
    journal: File,
    guests: BTreeMap<u32, Guest>,
    execs: u32,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            let _ = writeln!(std::io::stderr(), "bench-bare: {text}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let [lower, work, init, bridge] = arguments else {
        return Err("to be started by `cargo xtask bench`: LAYER WORK INIT BRIDGE-INDEX".into());
    };
    let proof = SingleThread::claim().ok_or("it must have one thread")?;
    rustix::process::umask(Mode::empty());
    let work = PathBuf::from(work);
    fs::create_dir_all(&work).map_err(act("mkdir"))?;
    rustix::thread::set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP).map_err(act("securebits"))?;
    let userns = user_namespace(proof)?;
    let mut bare = Bare {
        proof,
        lower: idmapped(Path::new(lower), &userns)?,
        userns,
        journal: File::create(work.join("journal")).map_err(act("create the journal"))?,
        init: CString::new(init.as_str()).map_err(act("init"))?,
        bridge: bridge.parse().ok().filter(|index| *index != 0),
        groups: Groups::new()?,
        guests: BTreeMap::new(),
        execs: 0,
        work,
    };
    let result = bare.serve();
    let numbers: Vec<u32> = bare.guests.keys().copied().collect();
    for number in numbers {
        let _ = bare.stop(number);
    }
    bare.groups.remove();
    result
}

impl Bare {
    fn serve(&mut self) -> Result<()> {
        for line in std::io::stdin().lock().lines() {
            let line = line.map_err(act("read"))?;
            let words: Vec<&str> = line.split(' ').collect();
            let number = || words.get(1).and_then(|w| w.parse::<u32>().ok()).unwrap_or(0);
            let answer = match words.as_slice() {
                ["commit"] => self.commit(),
                ["start", _, nic] => self.start(number(), *nic == "nic"),
                ["stop", _] => self.stop(number()),
                ["exec", _] => self.exec(number()),
                ["remove", n] => {
                    Ok(fs::remove_dir_all(self.work.join(n)).map_or_else(|e| e.to_string(), |()| "0".into()))
                }
                _ => Err(format!("{line:?} is not known")),
            };
            let answer = answer.unwrap_or_else(|text| format!("error {text}"));
            let mut out = std::io::stdout().lock();
            writeln!(out, "{answer}").and_then(|()| out.flush()).map_err(act("write"))?;
        }
        Ok(())
    }

    /// What one transaction of a database costs at least: two pages appended and on the disk.
    fn commit(&mut self) -> Result<String> {
        let begun = now();
        self.journal.write_all(&[7; 8192]).map_err(act("write"))?;
        self.journal.sync_data().map_err(act("fdatasync"))?;
        Ok((now() - begun).to_string())
    }

    fn start(&mut self, number: u32, nic: bool) -> Result<String> {
        let begun = now();
        let root = self.root(number)?;
        let (group, v1) = self.groups.create(&number.to_string())?;
        let payload = group.join("payload");
        let payload = rustix::fs::open(&payload, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(act("open the group"))?;
        let (wait, go) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(act("pipe"))?;
        let clone = Clone { namespaces: NAMESPACES, into_cgroup: Some(payload.as_fd()), ..Clone::default() };
        let (pid, pidfd) = match clone.clone3(self.proof).map_err(act("clone3"))? {
            Side::Parent(pid, pidfd) => (pid, pidfd),
            Side::Child => {
                drop(go);
                if let Err(text) = become_init(self.proof, &root, &wait, &self.init) {
                    let _ = writeln!(std::io::stderr(), "bench-bare: init: {text}");
                }
                kernel::process::exit(1)
            }
        };
        write_maps(pid)?;
        enter_v1(&v1, pid)?;
        if let (true, Some(bridge)) = (nic, self.bridge) {
            veth(number, pid, bridge)?;
        }
        rustix::io::write(&go, b"g").map_err(act("write"))?;
        self.guests.insert(number, Guest { pid, pidfd, group, v1 });
        Ok(format!("{} {begun}", pid.as_raw_nonzero()))
    }

    /// The directories of a root file system, and the overlay on them as a detached mount.
    fn root(&self, number: u32) -> Result<OwnedFd> {
        let volume = self.work.join(number.to_string());
        let files = volume.join("fs");
        for (path, mode) in
            [(&volume, 0o700), (&files, 0o700), (&files.join("work"), 0o700), (&files.join("upper"), 0o755)]
        {
            fs::DirBuilder::new().mode(mode).create(path).map_err(act("mkdir"))?;
        }
        fs::write(volume.join("layer"), "x").map_err(act("write"))?;
        let volume = idmapped(&files, &self.userns)?;
        kernel::process::set_fs_ids(BASE, BASE).map_err(act("setfsuid"))?;
        let root = overlay(&self.lower, &volume);
        kernel::process::set_fs_ids(0, 0).map_err(act("setfsuid"))?;
        root.map_err(act("overlay"))
    }

    fn stop(&mut self, number: u32) -> Result<String> {
        let guest = self.guests.remove(&number).ok_or("no such guest")?;
        let begun = now();
        fs::write(guest.group.join("cgroup.kill"), "1").map_err(act("cgroup.kill"))?;
        rustix::process::waitpid(Some(guest.pid), WaitOptions::empty()).map_err(act("waitpid"))?;
        remove_tree(&guest.group);
        for group in &guest.v1 {
            let _ = fs::remove_dir(group);
        }
        Ok((now() - begun).to_string())
    }

    fn exec(&mut self, number: u32) -> Result<String> {
        let guest = self.guests.get(&number).ok_or("no such guest")?;
        self.execs += 1;
        let begun = now();
        let leaf = guest.group.join(format!("payload/.exec-{}", self.execs));
        fs::create_dir(&leaf).map_err(act("mkdir"))?;
        delegate(&leaf)?;
        let group = rustix::fs::open(&leaf, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(act("open the group"))?;
        let (wait, go) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(act("pipe"))?;
        let clone = Clone { into_cgroup: Some(group.as_fd()), ..Clone::default() };
        match clone.clone3(self.proof).map_err(act("clone3"))? {
            Side::Parent(pid, _) => {
                enter_v1(&guest.v1, pid)?;
                rustix::io::write(&go, b"g").map_err(act("write"))?;
                let ended = rustix::process::waitpid(Some(pid), WaitOptions::empty()).map_err(act("waitpid"))?;
                if ended.and_then(|(_, status)| status.exit_status()) != Some(0) {
                    return Err("`true` failed".into());
                }
            }
            Side::Child => {
                drop(go);
                let code = run_true(self.proof, guest, &wait).unwrap_or(125);
                kernel::process::exit(code)
            }
        }
        let _ = fs::remove_dir(&leaf);
        Ok((now() - begun).to_string())
    }
}

fn run_true(proof: SingleThread, guest: &Guest, wait: &OwnedFd) -> kernel::Result<i32> {
    told(wait)?;
    kernel::process::enter(proof, guest.pidfd.as_fd(), NAMESPACES | Namespaces::CGROUP)?;
    match Clone::default().clone3(proof)? {
        Side::Parent(pid, _) => {
            let ended = rustix::process::waitpid(Some(pid), WaitOptions::empty())?;
            Ok(ended.and_then(|(_, status)| status.exit_status()).unwrap_or(126))
        }
        Side::Child => {
            become_root()?;
            Err(kernel::process::exec(c"/bin/true", &[c"true".to_owned()], &[]))
        }
    }
}

fn told(wait: &OwnedFd) -> kernel::Result<()> {
    if rustix::io::read(wait, &mut [0u8; 1])? == 1 { Ok(()) } else { Err(Errno::PIPE) }
}

fn become_root() -> kernel::Result<()> {
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    let root = rustix::process::Uid::ROOT;
    rustix::thread::set_thread_res_uid(root, root, root)
}

/// A user namespace to map layers by; nobody stays in it.
fn user_namespace(proof: SingleThread) -> Result<OwnedFd> {
    let (wait, go) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(act("pipe"))?;
    let clone = Clone { namespaces: Namespaces::USER, ..Clone::default() };
    match clone.clone3(proof).map_err(act("clone3"))? {
        Side::Child => {
            drop(go);
            let _ = told(&wait);
            kernel::process::exit(0)
        }
        Side::Parent(pid, _) => {
            write_maps(pid)?;
            let path = format!("/proc/{}/ns/user", pid.as_raw_nonzero());
            let namespace = rustix::fs::open(&*path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .map_err(act("open the user namespace"));
            drop(go);
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
            namespace
        }
    }
}

fn write_maps(pid: Pid) -> Result<()> {
    for file in ["uid_map", "gid_map"] {
        let path = format!("/proc/{}/{file}", pid.as_raw_nonzero());
        let mut file = File::options().write(true).open(&path).map_err(act(&path))?;
        file.write_all(format!("0 {BASE} {COUNT}").as_bytes()).map_err(act(&path))?;
    }
    Ok(())
}

fn idmapped(path: &Path, userns: &OwnedFd) -> Result<OwnedFd> {
    let directory = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(act(&format!("open {}", path.display())))?;
    let tree = kernel::mount::clone_tree(directory.as_fd(), "").map_err(act("open_tree"))?;
    kernel::mount::idmap(tree.as_fd(), userns.as_fd()).map_err(act("mount_setattr"))?;
    Ok(tree)
}

/// Needs Linux 6.13: this is a limit, not a product.
fn overlay(lower: &OwnedFd, volume: &OwnedFd) -> kernel::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let upper = rustix::fs::openat(volume, "upper", flags, Mode::empty())?;
    let work = rustix::fs::openat(volume, "work", flags, Mode::empty())?;
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [("source", "overlay"), ("redirect_dir", "on"), ("metacopy", "on"), ("index", "off")] {
        rustix::mount::fsconfig_set_string(&context, key, value)?;
    }
    rustix::mount::fsconfig_set_fd(&context, "lowerdir+", lower)?;
    rustix::mount::fsconfig_set_fd(&context, "upperdir", upper)?;
    rustix::mount::fsconfig_set_fd(&context, "workdir", work)?;
    rustix::mount::fsconfig_create(&context)?;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)
}

/// In the new namespaces: the tree, the ids, the exec. Returns only when that failed.
fn become_init(proof: SingleThread, root: &OwnedFd, wait: &OwnedFd, init: &CString) -> Result<()> {
    told(wait).map_err(act("wait"))?;
    kernel::process::unshare(proof, Namespaces::CGROUP).map_err(act("unshare(cgroup)"))?;
    rustix::process::setsid().map_err(act("setsid"))?;
    become_root().map_err(act("setresuid"))?;
    mounts(root)?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(act("umount2"))?;
    rustix::process::chdir("/").map_err(act("chdir"))?;
    rustix::system::sethostname(b"bare").map_err(act("sethostname"))?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()).map_err(act("open /dev/null"))?;
    rustix::stdio::dup2_stdin(&null).map_err(act("dup2"))?;
    rustix::stdio::dup2_stdout(&null).map_err(act("dup2"))?;
    kernel::process::cloexec_from(3).map_err(act("close_range"))?;
    kernel::signal::reset_all();
    let environment = [c"PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned(), c"container=lxc".to_owned()];
    let errno = kernel::process::exec(init, std::slice::from_ref(init), &environment);
    Err(format!("execve {init:?}: {errno}"))
}

fn mounts(root: &OwnedFd) -> Result<()> {
    let hardened = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let mount = |kind: &str, path: &str, flags: MountFlags, data: &str| {
        kernel::mount::mount_with_data(kind, path, kind, flags, data).map_err(act(path))
    };
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(act("mount(private)"))?;
    rustix::mount::move_mount(root, "", CWD, "/mnt", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(act("move_mount"))?;
    rustix::process::chdir("/mnt").map_err(act("chdir"))?;
    mount("proc", "proc", hardened, "")?;
    mount("sysfs", "sys", hardened | MountFlags::RDONLY, "")?;
    mount("tmpfs", "dev", MountFlags::NOSUID | MountFlags::NOEXEC, "mode=755,size=4m")?;
    // Root of a user namespace makes no nodes; the daemon's stage does, which is as much work as binding them.
    for node in ["null", "zero", "full", "random", "urandom", "tty"] {
        let target = format!("dev/{node}");
        File::create(&target).map_err(act(&target))?;
        rustix::mount::mount_bind(format!("/dev/{node}"), &target).map_err(act(&target))?;
    }
    for directory in ["dev/net", "dev/pts", "dev/shm", "dev/mqueue"] {
        fs::create_dir(directory).map_err(act(directory))?;
    }
    for (target, name) in
        [("/proc/self/fd", "fd"), ("fd/0", "stdin"), ("fd/1", "stdout"), ("fd/2", "stderr"), ("pts/ptmx", "ptmx")]
    {
        std::os::unix::fs::symlink(target, format!("dev/{name}")).map_err(act(name))?;
    }
    mount("cgroup2", "sys/fs/cgroup", hardened, "")?;
    mount("devpts", "dev/pts", MountFlags::NOSUID | MountFlags::NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5")?;
    mount("tmpfs", "dev/shm", MountFlags::NOSUID | MountFlags::NODEV, "mode=1777")?;
    mount("mqueue", "dev/mqueue", hardened, "")?;
    mount("tmpfs", "run", MountFlags::NOSUID | MountFlags::NODEV, "mode=755,size=20%")?;
    rustix::process::pivot_root(".", ".").map_err(act("pivot_root"))
}
