//! Paths of the guest, and how they are refused.

use std::borrow::Cow;
use std::os::fd::OwnedFd;

use kernel::Errno;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use sftp::Code;

/// Why a request is refused.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: Code,
    pub(super) message: Cow<'static, str>,
}

impl Refusal {
    pub(super) fn failure(message: &'static str) -> Refusal {
        Refusal { code: Code::Failure, message: message.into() }
    }

    pub(super) fn denied(message: &'static str) -> Refusal {
        Refusal { code: Code::PermissionDenied, message: message.into() }
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Refusal {
        let code = match errno {
            Errno::NOENT => Code::NoSuchFile,
            Errno::ACCESS | Errno::PERM => Code::PermissionDenied,
            Errno::NOSYS | Errno::OPNOTSUPP => Code::Unsupported,
            _ => Code::Failure,
        };
        let text = errno.to_string();
        let text = text.split_once(" (os error").map_or(&*text, |(text, _)| text).to_owned();
        Refusal { code, message: text.into() }
    }
}

/// File systems that are windows into the kernel. What they show depends on the namespaces of whoever opens them, and ours
/// are in part the host's. Numbers as in `linux/magic.h`.
const WINDOWS: [u32; 13] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x6367_7270, // cgroup2
    0x0027_e0eb, // cgroup
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0x6265_6570, // configfs
    0xcafe_4a11, // bpf
    0x1cd1,      // devpts
    0x1980_0202, // mqueue
    0x6e73_6673, // nsfs
    0x4249_4e4d, // binfmt_misc
];

/// Tries while the guest moves directories about: the kernel cannot tell then whether `..` led out, and asks to try again.
const TRIES: usize = 128;

/// Opens a path below the guest's `/`, which it cannot leave: neither by `..` nor over links, whatever changes meanwhile.
pub(super) fn open(root: &OwnedFd, path: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut last = Errno::AGAIN;
    for _ in 0..TRIES {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, mode, resolve) {
            Err(errno @ (Errno::AGAIN | Errno::INTR)) => last = errno,
            other => return other,
        }
    }
    Err(last)
}

/// Refuses what lies in a window into the kernel.
pub(super) fn guard(fd: &OwnedFd) -> Result<(), Refusal> {
    // The field's type differs between machines; the numbers have 32 bits.
    if WINDOWS.contains(&(rustix::fs::fstatfs(fd)?.f_type as u32)) {
        return Err(Refusal::denied("files of the kernel (/proc, /sys and the like) are not served"));
    }
    Ok(())
}

/// The directory in which the last name of a path lies, and that name.
pub(super) fn parent<'a>(root: &OwnedFd, path: &'a [u8]) -> Result<(OwnedFd, &'a [u8]), Refusal> {
    let end = path.iter().rposition(|c| *c != b'/').map_or(0, |at| at + 1);
    let path = &path[..end];
    let (directory, name) = match path.iter().rposition(|c| *c == b'/') {
        Some(at) => (&path[..=at], &path[at + 1..]),
        None => (&b"."[..], path),
    };
    if matches!(name, b"" | b"." | b"..") {
        return Err(Refusal::failure("the path has no name at its end"));
    }
    let directory = open(root, directory, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
    guard(&directory)?;
    Ok((directory, name))
}

/// Opens a regular file or, where `directory` says so, a directory. Nothing else: opening a device or a pipe is an act.
pub(super) fn open_plain(
    root: &OwnedFd,
    path: &[u8],
    flags: OFlags,
    mode: Mode,
    directory: bool,
) -> Result<OwnedFd, Refusal> {
    match open(root, path, OFlags::PATH, Mode::empty()) {
        Ok(there) => plain(&there, directory)?,
        Err(Errno::NOENT) if flags.contains(OFlags::CREATE) => {}
        Err(errno) => return Err(errno.into()),
    }
    // Whatever took its place since then is opened without being waited for, and looked at again.
    let fd = open(root, path, flags | OFlags::NONBLOCK | OFlags::NOCTTY, mode)?;
    plain(&fd, directory)?;
    Ok(fd)
}

fn plain(fd: &OwnedFd, directory: bool) -> Result<(), Refusal> {
    guard(fd)?;
    match FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode) {
        FileType::RegularFile => Ok(()),
        FileType::Directory if directory => Ok(()),
        FileType::Directory => Err(Refusal::failure("Is a directory")),
        _ => Err(Refusal::denied("neither a file nor a directory: devices, pipes and sockets are not served")),
    }
}

/// A path in its plainest form, by its words alone: absolute, without `.`, `..` and doubled slashes.
pub(super) fn plainest(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|c| *c == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    let mut plain = Vec::with_capacity(path.len() + 1);
    for part in &parts {
        plain.push(b'/');
        plain.extend_from_slice(part);
    }
    if plain.is_empty() { b"/".to_vec() } else { plain }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plainest_paths_stay_below_the_root() {
        for (path, plain) in [
            ("", "/"),
            (".", "/"),
            ("/", "/"),
            ("a", "/a"),
            ("//a//b/", "/a/b"),
            ("/a/../../../b/.", "/b"),
            ("..", "/"),
            ("/a/b/../c", "/a/c"),
        ] {
            assert_eq!(plainest(path.as_bytes()), plain.as_bytes(), "{path}");
        }
    }

    #[test]
    fn errors_have_codes_and_plain_words() {
        for (errno, code, text) in [
            (Errno::NOENT, Code::NoSuchFile, "No such file or directory"),
            (Errno::ACCESS, Code::PermissionDenied, "Permission denied"),
            (Errno::NOTEMPTY, Code::Failure, "Directory not empty"),
        ] {
            let refusal = Refusal::from(errno);
            assert_eq!((refusal.code, &*refusal.message), (code, text));
        }
    }
}
