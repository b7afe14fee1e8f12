//! `help lxcfs HEX`: becomes lxcfs(1), which answers what guests read in `/proc` by the limits that they have.
//!
//! It makes the mount (see `runtime::launch::view`) and then replaces itself, which its socket's end tells: the process stays, and
//! with it the lock by which there is one for each daemon. Only a failure is told in words.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use kernel::Errno;
use kernel::process::SingleThread;
use runtime::launch::root;
use runtime::launch::view::{self, LxcfsOrder};
use runtime::protocol::Failure;
use rustix::fs::{FlockOperation, Mode, OFlags};

fn failed(call: &'static str, target: &str) -> impl FnOnce(Errno) -> Failure {
    let target = target.to_owned();
    move |errno| Failure::new("lxcfs", call, target, errno)
}

/// Runs the helper.
pub(crate) fn run(proof: SingleThread, words: &[&str]) -> ExitCode {
    let (socket, order) = match super::order::<LxcfsOrder>("lxcfs", words) {
        Ok(begun) => begun,
        Err(code) => return code,
    };
    // Out of the way of what lxcfs is given, so that nothing but its beginning closes it.
    let Ok(told) = rustix::io::fcntl_dupfd_cloexec(&socket, SOCKET) else { return ExitCode::FAILURE };
    drop(socket);
    let failure = match settle(proof, &order) {
        Ok(settled) => failed("execveat", &order.program)(become_lxcfs(proof, &order, settled)),
        Err(failure) => failure,
    };
    let _ = kernel::scm::send(told.as_fd(), &super::told(&Err(failure)), &[], true);
    ExitCode::FAILURE
}

/// The least number of our socket: above all that lxcfs begins with.
const SOCKET: i32 = 16;

/// What lxcfs is started with.
struct Settled {
    program: OwnedFd,
    /// The kernel's end of its mount.
    fuse: OwnedFd,
    /// Locked for as long as one of us has it open.
    note: OwnedFd,
    /// Where that mount is.
    namespace: OwnedFd,
}

fn settle(proof: SingleThread, order: &LxcfsOrder) -> Result<Settled, Failure> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let note =
        rustix::fs::open(&*order.note, flags, Mode::from_raw_mode(0o600)).map_err(failed("open", &order.note))?;
    // `AGAIN` where there is one: its note tells which.
    rustix::fs::flock(&note, FlockOperation::NonBlockingLockExclusive).map_err(failed("flock", &order.note))?;
    let pid = rustix::process::getpid().as_raw_nonzero().get() as u32;
    let start = root::start_time(pid).ok_or_else(|| failed("read", "/proc/self/stat")(Errno::SRCH))?;
    let fuse = view::settle(proof, &order.scratch)?;
    // Among what of the host it sees from here on.
    let program = rustix::fs::open(&*order.program, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed("open", &order.program))?;
    // As on the host, for its pid file.
    let directory = Path::new(&order.note).parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(directory).map_err(|error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        failed("mkdir", &directory.display().to_string())(errno)
    })?;
    rustix::fs::ftruncate(&note, 0).map_err(failed("ftruncate", &order.note))?;
    rustix::io::write(&note, format!("1 {pid} {start}\n").as_bytes()).map_err(failed("write", &order.note))?;
    let path = "/proc/self/ns/mnt";
    let namespace =
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed("open", path))?;
    Ok(Settled { program, fuse, note, namespace })
}

fn become_lxcfs(proof: SingleThread, order: &LxcfsOrder, settled: Settled) -> Errno {
    // Its streams are nobody's: what it prints is a banner.
    let quiet = || -> kernel::Result<()> {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)
    };
    if let Err(errno) = quiet() {
        return errno;
    }
    // Load is reckoned by a thread of its own, where that is asked for; the mount is descriptor 3.
    let pid_file = format!("{}.pid", order.note);
    let words = ["lxcfs", "--foreground", "--enable-loadavg", "--pidfile", &pid_file, "/dev/fd/3"];
    let Ok(words) = words.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>() else { return Errno::INVAL };
    kernel::signal::reset_all();
    let environment = kernel::process::environment();
    // From 3 on; the last is `view::NAMESPACE`.
    let fds = [settled.fuse.as_fd(), settled.note.as_fd(), settled.namespace.as_fd()];
    kernel::process::exec_with_fds(proof, settled.program.as_fd(), &words, &environment, &fds)
}
