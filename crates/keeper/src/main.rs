//! The program that stands between the daemon and the guests: `spawn`, `keep` and `help`.
//!
//! One thread, no async runtime, no database. Its modes are separate processes; see each module.

mod help;
mod keep;
mod replace;
mod spawn;

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use kernel::process::{Clone, Side, SingleThread};
use kernel::{Errno, Result};
use runtime::protocol::{KeepSpec, MAX_MESSAGE};
use runtime::wire::Field;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// The release of this program.
pub(crate) const RELEASE: &str = env!("CARGO_PKG_VERSION");

const USAGE: &str = "usage: sysctl-keeper spawn --socket PATH [--detach] | keep … | help …
The daemon starts this program; there is nothing for people to do with it.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let Some(proof) = SingleThread::claim() else { return fail("start", "there is another thread") };
    let result = match words.as_slice() {
        ["spawn", "--socket", path] => spawn_here(proof, path),
        ["spawn", "--socket", path, "--detach"] => return detach(proof, path),
        ["spawn", "--socket", path, "--resume", fd] => {
            inherited(fd).and_then(|state| spawn::resume(proof, path, state))
        }
        ["spawn", "--socket", path, "--rehearse", fd] => {
            inherited(fd).and_then(|state| spawn::rehearse(proof, path, state))
        }
        ["help", rest @ ..] => return help::run(proof, rest),
        ["keep", "--wait", fd] => inherited(fd).and_then(|socket| wait_and_keep(proof, socket)),
        ["keep", "--resume", fd] => inherited(fd).and_then(|state| keep::resume(proof, state)),
        ["keep", "--rehearse", fd] => inherited(fd).and_then(|state| keep::rehearse(proof, state)),
        ["--version"] => return say(RELEASE),
        _ => return fail("usage", USAGE),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(errno) => fail(words[0], &std::io::Error::from(errno).to_string()),
    }
}

fn say(text: &str) -> ExitCode {
    let _ = rustix::io::write(rustix::stdio::stdout(), format!("{text}\n").as_bytes());
    ExitCode::SUCCESS
}

fn fail(what: &str, why: &str) -> ExitCode {
    let _ = rustix::io::write(rustix::stdio::stderr(), format!("sysctl-keeper: {what}: {why}\n").as_bytes());
    ExitCode::FAILURE
}

fn inherited(number: &str) -> Result<OwnedFd> {
    kernel::process::inherit(number.parse().map_err(|_| Errno::BADF)?)
}

fn spawn_here(proof: SingleThread, path: &str) -> Result<()> {
    // Guests are made from here: their init stands in the old root until `pivot_root` moves it.
    rustix::process::chdir("/")?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    spawn::run(proof, path, service_manager()?)
}

/// A way to tell systemd that we listen (sd_notify(3)), so that it starts the daemon no earlier.
fn service_manager() -> Result<Option<OwnedFd>> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(None) };
    let path = path.as_bytes();
    let address = match path.strip_prefix(b"@") {
        Some(name) => SocketAddrUnix::new_abstract_name(name)?,
        None => SocketAddrUnix::new(path)?,
    };
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&socket, &address)?;
    Ok(Some(socket))
}

/// Runs `spawn` in the background, in a session of its own, and returns once it listens.
fn detach(proof: SingleThread, path: &str) -> ExitCode {
    let ready = || -> Result<bool> {
        let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        match Clone::default().clone3(proof)? {
            Side::Parent(..) => {
                drop(theirs);
                Ok(rustix::io::read(ours, &mut [0u8; 1])? == 1)
            }
            Side::Child => {
                drop(ours);
                let run = || -> Result<()> {
                    rustix::process::setsid()?;
                    let null = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty())?;
                    rustix::stdio::dup2_stdin(&null)?;
                    rustix::stdio::dup2_stdout(&null)?;
                    rustix::stdio::dup2_stderr(&null)?;
                    rustix::process::chdir("/")?;
                    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
                    spawn::run(proof, path, Some(theirs))
                };
                kernel::process::exit(i32::from(run().is_err()))
            }
        }
    };
    match ready() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => fail("spawn", "it ended before it listened"),
        Err(errno) => fail("spawn", &std::io::Error::from(errno).to_string()),
    }
}

/// Waits for a spec, then keeps. Ends quietly when it is not needed any more.
fn wait_and_keep(proof: SingleThread, socket: OwnedFd) -> Result<()> {
    let (spec, control) = {
        let (bytes, fds) = kernel::scm::receive_whole(std::os::fd::AsFd::as_fd(&socket), MAX_MESSAGE, true)?;
        if bytes.is_empty() {
            return Ok(());
        }
        let spec = KeepSpec::take(&bytes).ok_or(Errno::PROTO)?;
        (spec, fds.into_iter().next().ok_or(Errno::BADF)?)
    };
    drop(socket);
    keep::run(proof, spec, control)
}
