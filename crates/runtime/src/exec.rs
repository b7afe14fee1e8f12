//! Running a process in a guest that is up.
//!
//! ```text
//! keeper ──clone3(INTO_CGROUP leaf)──▶ stage   host root: joins the v1 groups, waits for its order
//!        ── order, stdio fds ────────▶  │      setns(all of init's), clone3(CLONE_PARENT)
//!        ◀── pid, pidfd ─────────────── ├────▶ child   in the guest: terminal, ids, confinement, exec
//! ```
//!
//! The stage can be made ahead of its order: on hosts with v1 hierarchies joining them takes up to 15 ms, which then
//! nobody waits for.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use kernel::Errno;
use kernel::process::{Clone, Namespaces, Side, SingleThread};
use rustix::fs::{Mode, OFlags};
use rustix::process::{DumpableBehavior, Pid, Uid, set_dumpable_behavior};
use rustix::thread::Gid;

use crate::cgroup;
use crate::launch::{confine, raise_rlimits};
use crate::protocol::{ExecSpec, Failure, MAX_MESSAGE};
use crate::wire::Field;

/// Group of terminals in every distribution that we know.
const TTY_GROUP: u32 = 5;

fn failed(call: &'static str, target: &str) -> impl Fn(Errno) -> Failure {
    let target = target.to_owned();
    move |errno| Failure::new("exec", call, target.clone(), errno)
}

/// A stage that waits for its order.
#[derive(Debug)]
pub struct Stage {
    /// Orders go in, reports come out.
    pub socket: OwnedFd,
    /// Becomes readable when the stage has exited.
    pub pidfd: OwnedFd,
    /// Its pid.
    pub pid: Pid,
    /// The control group that the process will be in.
    pub leaf: PathBuf,
}

/// Descriptors for a process's standard streams; a process on a terminal needs none.
pub struct Stdio {
    /// Standard input, output and error.
    pub fds: [OwnedFd; 3],
}

/// What a stage reports.
#[derive(Debug)]
pub enum Report {
    /// The process exists.
    Started {
        /// Its pid on the host.
        pid: u32,
        /// A pidfd of it.
        pidfd: OwnedFd,
    },
    /// The master of its terminal.
    Terminal(OwnedFd),
    /// It could not be run.
    Failed(Failure),
    /// It runs foreign code now, or is gone.
    Closed,
}

/// Where the processes of a guest are put.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// The delegated cgroup2 group.
    pub payload: PathBuf,
    /// The v1 groups.
    pub v1_groups: Vec<PathBuf>,
    /// Host id of the guest's root.
    pub owner: u32,
}

/// Makes a stage in a new leaf group, number `number`.
pub fn prepare(proof: SingleThread, place: &Place, number: u32) -> Result<Stage, Failure> {
    let leaf = cgroup::create_leaf(&place.payload, number, place.owner).map_err(|error| {
        let errno = error.source.raw_os_error().unwrap_or(libc::EIO);
        Failure::new("exec", error.act, error.path, Errno::from_raw_os_error(errno))
    })?;
    let group = rustix::fs::open(&leaf, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed("open", "leaf"))?;
    let (socket, child_socket) = kernel::scm::pair().map_err(failed("socketpair", ""))?;
    let clone = Clone { into_cgroup: Some(group.as_fd()), ..Clone::default() };
    match clone.clone3(proof).map_err(failed("clone3", ""))? {
        Side::Parent(pid, pidfd) => Ok(Stage { socket, pidfd, pid, leaf }),
        Side::Child => {
            if let Err(failure) = stage(proof, &place.v1_groups, &child_socket) {
                report_failure(child_socket.as_fd(), &failure);
            }
            kernel::process::exit(1)
        }
    }
}

impl Stage {
    /// Gives the order: run `spec` in the namespaces of `init`. Reports follow on the socket.
    pub fn order(&self, spec: &ExecSpec, init: BorrowedFd<'_>, stdio: Option<&Stdio>) -> kernel::Result<()> {
        let mut record = Vec::new();
        spec.put(&mut record);
        let mut fds = vec![init];
        if let Some(stdio) = stdio {
            fds.extend(stdio.fds.iter().map(AsFd::as_fd));
        }
        kernel::scm::send(self.socket.as_fd(), &record, &fds, false)
    }

    /// Reads one report without waiting; `None` when there is none now.
    pub fn report(&self) -> Option<Report> {
        let mut buffer = [0u8; 8192];
        let broken = |errno| Some(Report::Failed(failed("recvmsg", "stage")(errno)));
        let (length, fds) = match kernel::scm::receive(self.socket.as_fd(), &mut buffer, false) {
            Ok(received) => received,
            Err(Errno::AGAIN) => return None,
            Err(Errno::CONNRESET) => return Some(Report::Closed),
            Err(errno) => return broken(errno),
        };
        let fd = fds.into_iter().next();
        match (&buffer[..length], fd) {
            ([], _) => Some(Report::Closed),
            ([b'P', a, b, c, d], Some(pidfd)) => {
                Some(Report::Started { pid: u32::from_le_bytes([*a, *b, *c, *d]), pidfd })
            }
            ([b'T'], Some(master)) => Some(Report::Terminal(master)),
            ([b'F', record @ ..], _) => match Failure::take(record) {
                Some(failure) => Some(Report::Failed(failure)),
                None => broken(Errno::PROTO),
            },
            _ => broken(Errno::PROTO),
        }
    }
}

fn report_failure(to: BorrowedFd<'_>, failure: &Failure) {
    let mut bytes = vec![b'F'];
    failure.put(&mut bytes);
    let _ = kernel::scm::send(to, &bytes, &[], true);
}

fn stage(proof: SingleThread, v1_groups: &[PathBuf], socket: &OwnedFd) -> Result<(), Failure> {
    kernel::process::close_except(proof, &[socket.as_fd()]).map_err(failed("close_range", ""))?;
    // A guest that could look into us would see the host's root: nobody may trace what enters it.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("prctl(dumpable)", ""))?;
    for group in v1_groups {
        join(group)?;
    }
    let order = kernel::scm::receive_whole(socket.as_fd(), MAX_MESSAGE, true);
    let (bytes, fds) = order.map_err(failed("recvmsg", "order"))?;
    if bytes.is_empty() {
        kernel::process::exit(0); // never needed
    }
    let spec = ExecSpec::take(&bytes).ok_or_else(|| failed("decode", "order")(Errno::PROTO))?;
    let mut fds = fds.into_iter();
    let init = fds.next().ok_or_else(|| failed("recvmsg", "pidfd")(Errno::BADF))?;
    let stdio: Vec<OwnedFd> = fds.collect();

    raise_rlimits(&spec.confinement);
    let namespaces = match spec.namespaces {
        0 => Namespaces::all(),
        some => Namespaces::from_bits_truncate(some),
    };
    kernel::process::enter(proof, init.as_fd(), namespaces).map_err(failed("setns", &format!("{namespaces:?}")))?;
    // A child of the keeper, which thereby learns its exit status; and in the pid namespace that setns chose for children.
    match (Clone { as_sibling: true, ..Clone::default() }).clone3(proof).map_err(failed("clone3", ""))? {
        Side::Child => child(&spec, socket, stdio),
        Side::Parent(pid, pidfd) => {
            let mut bytes = vec![b'P'];
            bytes.extend_from_slice(&pid.as_raw_nonzero().get().to_le_bytes());
            kernel::scm::send(socket.as_fd(), &bytes, &[pidfd.as_fd()], true).map_err(failed("sendmsg", "report"))?;
            kernel::process::exit(0)
        }
    }
}

fn join(group: &Path) -> Result<(), Failure> {
    let path = group.join("cgroup.procs");
    let target = path.display().to_string();
    let fd =
        rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed("open", &target))?;
    rustix::io::write(fd, b"0").map(drop).map_err(failed("write", &target))
}

fn child(spec: &ExecSpec, socket: &OwnedFd, stdio: Vec<OwnedFd>) -> ! {
    let (call, target, errno) = match enter(spec, socket, stdio) {
        Ok(()) => {
            let errno = exec(spec);
            ("execve", spec.argv.first().cloned().unwrap_or_default(), errno)
        }
        Err(failure) => ("prepare", failure.to_string(), failure.errno()),
    };
    report_failure(socket.as_fd(), &Failure::new("exec", call, target, errno));
    // As shells do: 127 for what is not there, 126 for what cannot be run.
    kernel::process::exit(if errno == Errno::NOENT { 127 } else { 126 })
}

/// The guest's side: terminal, directory, confinement, ids, in the order in which the rights for them go away.
fn enter(spec: &ExecSpec, socket: &OwnedFd, stdio: Vec<OwnedFd>) -> Result<(), Failure> {
    rustix::process::setsid().map_err(failed("setsid", ""))?;
    // First the guest's root: until now we are the host's, which is nobody here and must not be the owner of anything.
    let root = (Uid::ROOT, Gid::ROOT);
    rustix::thread::set_thread_groups(&[]).map_err(failed("setgroups", ""))?;
    rustix::thread::set_thread_res_gid(root.1, root.1, root.1).map_err(failed("setresgid", "0"))?;
    rustix::thread::set_thread_res_uid(root.0, root.0, root.0).map_err(failed("setresuid", "0"))?;
    if spec.terminal {
        terminal(spec, socket)?;
    } else {
        streams(stdio)?;
    }
    confine(&spec.confinement).map_err(|(call, errno)| failed(call, "")(errno))?;
    let (uid, gid) = (Uid::from_raw(spec.uid), Gid::from_raw(spec.gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(failed("setresgid", &spec.gid.to_string()))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(failed("setresuid", &spec.uid.to_string()))?;
    // As the user, so that a directory which is closed to them stays closed.
    if spec.cwd.is_empty() {
        // The user's home, as after a login; not everybody has one.
        let home = spec.environment.iter().find_map(|variable| variable.strip_prefix("HOME="));
        if home.is_none_or(|home| rustix::process::chdir(home).is_err()) {
            rustix::process::chdir("/").map_err(failed("chdir", "/"))?;
        }
    } else {
        rustix::process::chdir(&*spec.cwd).map_err(failed("chdir", &spec.cwd))?;
    }
    kernel::process::cloexec_from(3).map_err(failed("close_range", ""))?;
    kernel::signal::reset_all();
    Ok(())
}

fn terminal(spec: &ExecSpec, socket: &OwnedFd) -> Result<(), Failure> {
    let (master, slave) = kernel::terminal::open_pair("/dev/pts/ptmx").map_err(failed("open", "/dev/pts/ptmx"))?;
    if spec.columns > 0 && spec.rows > 0 {
        kernel::terminal::set_size(master.as_fd(), spec.columns, spec.rows).map_err(failed("ioctl(TIOCSWINSZ)", ""))?;
    }
    let owner = (Some(Uid::from_raw(spec.uid)), Some(Gid::from_raw(TTY_GROUP)));
    rustix::fs::fchown(&slave, owner.0, owner.1).map_err(failed("fchown", "terminal"))?;
    kernel::scm::send(socket.as_fd(), b"T", &[master.as_fd()], true).map_err(failed("sendmsg", "terminal"))?;
    rustix::process::ioctl_tiocsctty(&slave).map_err(failed("ioctl(TIOCSCTTY)", ""))?;
    let again = || rustix::io::fcntl_dupfd_cloexec(&slave, 3).map_err(failed("dup", "terminal"));
    streams(vec![again()?, again()?, again()?])
}

fn streams(fds: Vec<OwnedFd>) -> Result<(), Failure> {
    let [input, output, error] =
        <[OwnedFd; 3]>::try_from(fds).map_err(|_| failed("recvmsg", "standard streams")(Errno::BADF))?;
    rustix::stdio::dup2_stdin(&input).map_err(failed("dup2", "stdin"))?;
    rustix::stdio::dup2_stdout(&output).map_err(failed("dup2", "stdout"))?;
    rustix::stdio::dup2_stderr(&error).map_err(failed("dup2", "stderr"))
}

/// Looks the program up along the `PATH` of its own environment and runs it.
fn exec(spec: &ExecSpec) -> Errno {
    let strings = |list: &[String]| list.iter().map(|s| CString::new(s.as_str())).collect::<Result<Vec<_>, _>>();
    let (Ok(argv), Ok(environment)) = (strings(&spec.argv), strings(&spec.environment)) else {
        return Errno::INVAL;
    };
    let Some(program) = spec.argv.first().filter(|p| !p.is_empty()) else { return Errno::NOENT };
    let run = |path: &CStr| kernel::process::exec(path, &argv, &environment);
    if program.contains('/') {
        return run(&argv[0]);
    }
    let path = spec.environment.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or("/usr/bin:/bin");
    let mut worst = Errno::NOENT;
    for directory in path.split(':').filter(|d| d.starts_with('/')) {
        if let Ok(candidate) = CString::new(format!("{directory}/{program}")) {
            match run(&candidate) {
                Errno::NOENT | Errno::NOTDIR => {}
                errno => worst = errno,
            }
        }
    }
    worst
}
