//! Init before its exec: in the guest's namespaces, becoming the guest's root.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kernel::Errno;
use kernel::process::{Namespaces, SingleThread};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::thread::Gid;

use super::stage::checkpoint;
use super::{confine, report, tree, view};
use crate::protocol::{Failure, File, LaunchSpec};

fn failed(call: &'static str, target: &str) -> impl Fn(Errno) -> Failure {
    let target = target.to_owned();
    move |errno| Failure::new("init", call, target.clone(), errno)
}

/// Runs in the child of the stage's clone; ends in the guest's program or in an exit.
pub(super) fn run(
    proof: SingleThread,
    spec: &LaunchSpec,
    views: &view::Copies,
    report: &OwnedFd,
    go: &OwnedFd,
    sync: &OwnedFd,
) -> ! {
    match prepare(proof, spec, views, report, go, sync) {
        // The keeper or the stage is gone: there is nobody who could want this guest.
        Ok(false) => kernel::process::exit(1),
        Ok(true) => {}
        Err(failure) => {
            report::failed(report.as_fd(), &failure);
            kernel::process::exit(1);
        }
    }
    let errno = exec(spec);
    report::failed(report.as_fd(), &failed("execve", spec.argv.first().map_or("", String::as_str))(errno));
    kernel::process::exit(1)
}

/// Everything up to the exec; false when whoever would let us go has gone.
fn prepare(
    proof: SingleThread,
    spec: &LaunchSpec,
    views: &view::Copies,
    report: &OwnedFd,
    go: &OwnedFd,
    sync: &OwnedFd,
) -> Result<bool, Failure> {
    let own = Namespaces::from_bits_truncate(spec.namespaces);
    // After the clone into the cgroup, so that the group itself is this namespace's root.
    kernel::process::unshare(proof, own & Namespaces::CGROUP).map_err(failed("unshare(cgroup)", ""))?;
    rustix::process::setsid().map_err(failed("setsid", ""))?;
    if !own.contains(Namespaces::PID) {
        // Not the first process where it lives: what its processes leave behind comes to it all the same, as to any init.
        let itself = Some(rustix::process::getpid());
        rustix::process::set_child_subreaper(itself).map_err(failed("prctl(subreaper)", ""))?;
    }
    checkpoint(spec, "init")?;
    match rustix::io::write(sync, b"c") {
        // The stage has failed and says why itself, perhaps after us.
        Err(Errno::PIPE) => return Ok(false),
        written => written.map_err(failed("write", "stage"))?,
    };
    if !told(sync) {
        return Ok(false);
    }

    // The maps are written and the tree stands: become the guest's root.
    rustix::thread::set_thread_groups(&[]).map_err(failed("setgroups", ""))?;
    let (uid, gid) = (rustix::process::Uid::ROOT, Gid::ROOT);
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(failed("setresgid", "0"))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(failed("setresuid", "0"))?;

    // THE lock: this copy of the tree belongs to another user namespace than the original, so the kernel locks each of
    // its mounts and their flags.
    kernel::process::unshare(proof, Namespaces::MOUNT).map_err(failed("unshare(mnt)", ""))?;
    rustix::process::chdir("/").map_err(failed("chdir", "/"))?;
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed("open", "/"))?;
    if !spec.strict {
        tree::harden_proc(root.as_fd())?;
        let console = tree::children(root.as_fd(), 0, Namespaces::from_bits_truncate(spec.foreign))?;
        report::console(report.as_fd(), console.as_fd()).map_err(failed("sendmsg", "console"))?;
        view::attach(root.as_fd(), views)?;
    }
    furnish(spec, root.as_fd())?;
    if !own.contains(Namespaces::PID) {
        refuse_systemd(spec)?;
    }
    console_as_stdio()?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    checkpoint(spec, "confine")?;
    confine(&spec.confinement).map_err(|(call, errno)| Failure::new("init", call, "", errno))?;
    // The report socket closes by the exec, which is how the keeper learns of it.
    kernel::process::cloexec_from(3).map_err(failed("close_range", ""))?;
    kernel::signal::reset_all();

    checkpoint(spec, "exec")?;
    report::ready(report.as_fd()).map_err(failed("sendmsg", "report"))?;
    Ok(told(go))
}

fn told(by: &OwnedFd) -> bool {
    let mut byte = [0u8; 1];
    loop {
        match rustix::io::read(by, &mut byte) {
            Ok(n) => return n == 1,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Where systemd is, in every distribution that we know.
const SYSTEMD: [&str; 2] = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"];

/// Among others' processes systemd ends with a word about its options: said here in words that help, wherever links lead.
fn refuse_systemd(spec: &LaunchSpec) -> Result<(), Failure> {
    let Some(program) = spec.argv.first() else { return Ok(()) };
    // One that is not there fails by its exec.
    let Ok(found) = rustix::fs::stat(program.as_str()) else { return Ok(()) };
    let is_it =
        |path: &str| rustix::fs::stat(path).is_ok_and(|it| (it.st_dev, it.st_ino) == (found.st_dev, found.st_ino));
    match SYSTEMD.into_iter().any(is_it) {
        true => Err(failed("look: systemd must be process 1", program)(Errno::INVAL)),
        false => Ok(()),
    }
}

/// Host name, files of the first boot, bounds of the guest's user namespace.
fn furnish(spec: &LaunchSpec, root: BorrowedFd<'_>) -> Result<(), Failure> {
    let own = Namespaces::from_bits_truncate(spec.namespaces);
    if own.contains(Namespaces::UTS) {
        rustix::system::sethostname(spec.hostname.as_bytes()).map_err(failed("sethostname", &spec.hostname))?;
    }
    if spec.max_user_namespaces > 0 && own.contains(Namespaces::USER) {
        let path = "/proc/sys/user/max_user_namespaces";
        let fd =
            rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed("open", path))?;
        rustix::io::write(fd, spec.max_user_namespaces.to_string().as_bytes()).map_err(failed("write", path))?;
    }
    for unit in &spec.masked_units {
        mask(root, unit).map_err(failed("mask", unit))?;
    }
    for file in &spec.files {
        match write_file(root, file) {
            // An image without that directory, or with a link there, does not want the file.
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(errno) => return Err(failed("write", &file.path)(errno)),
        }
    }
    Ok(())
}

/// Masks a unit of systemd for as long as this `/run` lives, as `systemctl mask --runtime` does (systemd.unit(5)).
fn mask(root: BorrowedFd<'_>, unit: &str) -> kernel::Result<()> {
    for directory in ["run/systemd", "run/systemd/system"] {
        match rustix::fs::mkdirat(root, directory, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            // Its `/run` leads elsewhere: no systemd that we know.
            Err(_) => return Ok(()),
        }
    }
    match rustix::fs::symlinkat("/dev/null", root, format!("run/systemd/system/{unit}")) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn write_file(root: BorrowedFd<'_>, file: &File) -> kernel::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(file.mode);
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let fd = rustix::fs::openat2(root, &*file.path, flags, mode, resolve)?;
    rustix::fs::fchmod(&fd, mode)?;
    let mut rest = &file.content.0[..];
    while !rest.is_empty() {
        rest = &rest[rustix::io::write(&fd, rest)?..];
    }
    Ok(())
}

fn console_as_stdio() -> Result<(), Failure> {
    let console = rustix::fs::open("/dev/console", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed("open", "/dev/console"))?;
    rustix::stdio::dup2_stdin(&console).map_err(failed("dup2", "stdin"))?;
    rustix::stdio::dup2_stdout(&console).map_err(failed("dup2", "stdout"))?;
    // Not its controlling terminal: were the keeper to die, the console would hang up and init get a SIGHUP, which many
    // take for an order to reboot.
    rustix::stdio::dup2_stderr(&console).map_err(failed("dup2", "stderr"))
}

fn exec(spec: &LaunchSpec) -> Errno {
    let strings = |list: &[String]| list.iter().map(|s| CString::new(s.as_str())).collect::<Result<Vec<_>, _>>();
    let (Ok(argv), Ok(environment)) = (strings(&spec.argv), strings(&spec.environment)) else {
        return Errno::INVAL;
    };
    match argv.first() {
        Some(program) => kernel::process::exec(program, &argv, &environment),
        None => Errno::INVAL,
    }
}
