//! `help pin HEX`: has a namespace live on without a process in it, at the file that a [`PinOrder`] names, or lets it go.
//!
//! ```text
//! <file>              nsfs bound over an empty file: the namespace lives as long as that
//! /run/netns/<name>   the same once more, for ip-netns(8)
//! ```
//!
//! A namespace that has to be made is made by a child, which only lives until we hold it by a descriptor. Each file is made
//! first and bound over then, in one call: a file without a namespace is half a pin, and the same order makes it whole.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use kernel::Errno;
use kernel::process::{Clone, Namespaces, Side, SingleThread};
use runtime::launch::{make_clocks, root};
use runtime::order::Done as Outcome;
use runtime::pin::{NSFS_MAGIC, PinOrder, namespace_at};
use runtime::protocol::{Clocks, Failure};
use runtime::wire::Field;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::process::{WaitId, WaitIdOptions};

type Done<T> = Result<T, Failure>;

fn failed(call: &'static str, target: impl Into<String>) -> impl FnOnce(Errno) -> Failure {
    let target = target.into();
    move |errno| Failure::new("pin", call, target, errno)
}

/// Runs the helper.
pub(crate) fn run(proof: SingleThread, words: &[&str]) -> ExitCode {
    super::obey("pin", words, |order| obey(proof, order))
}

fn obey(proof: SingleThread, order: &PinOrder) -> Done<()> {
    let directory = Path::new(&order.file).parent().map(|path| path.display().to_string()).unwrap_or_default();
    // Two helpers that make the same pin would bind it twice: one of an order that a dead daemon gave may still be at work.
    let lock = rustix::fs::open(&*directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed("open", &directory))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(failed("flock", &directory))?;
    if !order.unlink.is_empty() && namespace_at(&order.unlink) == Some(order.inode) {
        unbind(&order.unlink)?;
    }
    if order.remove {
        return unbind(&order.file);
    }
    if namespace_at(&order.file).is_none() {
        let namespace = find(proof, order)?;
        bind(&namespace, &order.file)?;
    }
    if order.link.is_empty() || namespace_at(&order.link) == namespace_at(&order.file) {
        return Ok(());
    }
    if let Some(parent) = Path::new(&order.link).parent() {
        std::fs::create_dir_all(parent)
            .map_err(|error| failed("mkdir", parent.display().to_string())(errno_of(&error)))?;
        share(&parent.display().to_string())?;
    }
    let namespace = open(&order.file)?;
    bind(&namespace, &order.link)
}

/// Makes a directory a mount that is shared, as ip-netns(8) does with its own before its first namespace: done later, that would
/// cover what is bound in there, and a name whose namespace is covered cannot be removed.
fn share(path: &str) -> Done<()> {
    let lock = open(path)?;
    // That program makes it by turns with others in the same way.
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(failed("flock", path))?;
    let shared = || rustix::mount::mount_change(path, MountPropagationFlags::SHARED | MountPropagationFlags::REC);
    match shared() {
        // It is no mount yet.
        Err(Errno::INVAL) => {
            rustix::mount::mount_bind_recursive(path, path).map_err(failed("mount", path))?;
            shared()
        }
        other => other,
    }
    .map_err(failed("share", path))
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

fn open(path: &str) -> Done<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed("open", path))
}

/// Binds a namespace over a file of ours, which is made; over nothing else.
fn bind(namespace: &OwnedFd, path: &str) -> Done<()> {
    let flags = OFlags::CREATE | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o444)).map_err(failed("create", path))?;
    let found = rustix::fs::fstat(&file).map_err(failed("fstat", path))?;
    let is_namespace = rustix::fs::fstatfs(&file).is_ok_and(|fs| fs.f_type as u32 == NSFS_MAGIC);
    if is_namespace || found.st_size != 0 || !rustix::fs::FileType::from_raw_mode(found.st_mode).is_file() {
        return Err(failed("bind over", format!("{path}, which is somebody else's"))(Errno::EXIST));
    }
    let source = format!("/proc/self/fd/{}", namespace.as_raw_fd());
    rustix::mount::mount_bind(&*source, path).map_err(failed("mount", path))
}

/// Takes a namespace from a file, and the file away.
fn unbind(path: &str) -> Done<()> {
    loop {
        match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Nothing is mounted there (any more).
            Err(Errno::INVAL | Errno::NOENT) => break,
            Err(errno) => return Err(failed("umount", path)(errno)),
        }
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed("unlink", path)(errno_of(&error))),
        _ => Ok(()),
    }
}

/// The namespace that the order is about.
fn find(proof: SingleThread, order: &PinOrder) -> Done<OwnedFd> {
    let kind = Namespaces::from_bits_truncate(order.kind);
    let name = name_of(kind).ok_or_else(|| failed("pin", format!("{:#x}", order.kind))(Errno::INVAL))?;
    if order.pid != 0 {
        let path = format!("/proc/{}/ns/{name}", order.pid);
        let namespace = open(&path)?;
        // Looked at after opening: the pid was not given to another process meanwhile.
        root::open_process(order.pid, order.start).map_err(failed("pidfd_open", &path))?;
        return Ok(namespace);
    }
    if order.path.is_empty() {
        return make(proof, order, kind, name);
    }
    let namespace = open(&order.path)?;
    match kernel::process::namespace_kind(namespace.as_fd()) {
        Ok(found) if found == kind => Ok(namespace),
        _ => Err(failed("pin", format!("{}, which is no {name} namespace", order.path))(Errno::INVAL)),
    }
}

fn name_of(kind: Namespaces) -> Option<&'static str> {
    Some(match kind {
        Namespaces::NET => "net",
        Namespaces::IPC => "ipc",
        Namespaces::UTS => "uts",
        Namespaces::USER => "user",
        Namespaces::TIME => "time",
        _ => return None,
    })
}

/// A new namespace. Only a process can make one, so a child does; it lives on by its descriptor.
fn make(proof: SingleThread, order: &PinOrder, kind: Namespaces, name: &str) -> Done<OwnedFd> {
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed("pipe2", ""));
    let ((told, tell), (wait, done)) = (pipe()?, pipe()?);
    match Clone::default().clone3(proof).map_err(failed("clone3", ""))? {
        Side::Child => {
            drop((told, done));
            let _ = rustix::io::write(&tell, &super::told(&enter(proof, order, kind)));
            // Until the other end is closed, by what follows or by our parent's death.
            let _ = rustix::io::read(&wait, &mut [0u8; 1]);
            kernel::process::exit(0)
        }
        Side::Parent(pid, child) => {
            drop((tell, wait));
            let pid = pid.as_raw_nonzero().get();
            let namespace = hold(order, (pid, name), told);
            drop(done);
            rustix::process::waitid(WaitId::PidFd(child.as_fd()), WaitIdOptions::EXITED)
                .map_err(failed("waitid", ""))?;
            namespace
        }
    }
}

/// In the child: makes the namespace its own.
fn enter(proof: SingleThread, order: &PinOrder, kind: Namespaces) -> Done<()> {
    if !order.users.is_empty() {
        let users = open(&order.users)?;
        kernel::process::enter_namespace(proof, users.as_fd(), Namespaces::USER)
            .map_err(failed("setns(user)", &order.users))?;
    }
    if kind == Namespaces::TIME {
        return make_clocks(proof, &Clocks { from_zero: true, offset_s: 0 });
    }
    kernel::process::unshare(proof, kind).map_err(failed("unshare", format!("{kind:?}")))
}

/// In the parent: waits for the child's word, gives a user namespace its ids, and opens what was made.
fn hold(order: &PinOrder, (pid, name): (i32, &str), told: OwnedFd) -> Done<OwnedFd> {
    // Far more than a failure with its path has.
    let mut record = [0u8; 8192];
    let length = rustix::io::read(&told, &mut record).map_err(failed("read", "the child"))?;
    match Outcome::take(&record[..length]) {
        Some(Outcome { done: true, .. }) => {}
        Some(Outcome { failure: Some(failure), .. }) => return Err(failure),
        _ => return Err(failed("read", "the child")(Errno::CHILD)),
    }
    if order.id_count > 0 {
        let map = format!("0 {} {}\n", order.id_base, order.id_count);
        for file in ["uid_map", "gid_map"] {
            let path = format!("/proc/{pid}/{file}");
            let file = rustix::fs::open(&*path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
                .map_err(failed("open", &path))?;
            rustix::io::write(&file, map.as_bytes()).map_err(failed("write", &path))?;
        }
    }
    // A process enters its own time namespace only with its next child.
    open(&format!("/proc/{pid}/ns/{}", if name == "time" { "time_for_children" } else { name }))
}
