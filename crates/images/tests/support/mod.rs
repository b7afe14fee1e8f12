//! What the tests of this crate share: a scratch place, archives made by hand, a tree as text.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test program uses a part")]

pub mod refusal;

use std::fmt::Write as _;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use images::hash::Fingerprinter;

/// A directory of our own below `/var/tmp`, removed at the end.
pub struct Scratch {
    pub path: PathBuf,
}

impl Scratch {
    pub fn new(name: &str) -> Scratch {
        assert!(rustix::process::geteuid().is_root(), "these tests make files of other owners: run them as root");
        let path = PathBuf::from(format!("/var/tmp/images-test-{}-{name}", std::process::id()));
        fs::create_dir(&path).expect("a scratch directory");
        Scratch { path }
    }

    /// A new directory in it.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        fs::create_dir(&path).expect("a directory");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

pub fn open(path: &Path) -> OwnedFd {
    fs::File::open(path).expect("a directory to open").into()
}

/// A directory to unpack into, beside a place that must stay untouched.
pub struct Guarded {
    pub scratch: Scratch,
    pub root: OwnedFd,
    before: String,
}

impl Guarded {
    pub fn new(name: &str) -> Guarded {
        let scratch = Scratch::new(name);
        let outside = scratch.directory("outside");
        fs::write(outside.join("canary"), b"alive").expect("a canary");
        let stage = scratch.directory("stage");
        let before = tree(&outside);
        Guarded { root: open(&stage), scratch, before }
    }

    pub fn stage(&self) -> PathBuf {
        self.scratch.path.join("stage")
    }

    pub fn outside(&self) -> PathBuf {
        self.scratch.path.join("outside")
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Fails when anything outside the root was touched.
    pub fn check(&self) {
        assert_eq!(tree(&self.outside()), self.before, "the outside was touched");
        let mut names: Vec<_> = fs::read_dir(&self.scratch.path)
            .expect("the scratch directory")
            .map(|found| found.expect("an entry").file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["outside", "stage"], "something was made beside the root");
    }
}

/// A header by its parts; every test breaks another one.
#[derive(Debug, Clone)]
pub struct Raw {
    pub name: Vec<u8>,
    pub kind: u8,
    pub link: Vec<u8>,
    pub mode: u64,
    pub uid: u64,
    pub gid: u64,
    pub size: u64,
    pub mtime: u64,
    pub device: (u64, u64),
}

impl Raw {
    pub fn new(kind: u8, name: impl AsRef<[u8]>) -> Raw {
        Raw {
            name: name.as_ref().to_vec(),
            kind,
            link: Vec::new(),
            mode: if kind == b'5' { 0o755 } else { 0o644 },
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 1_700_000_000,
            device: (0, 0),
        }
    }

    pub fn link(kind: u8, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Raw {
        Raw { link: target.as_ref().to_vec(), ..Raw::new(kind, name) }
    }

    pub fn block(&self) -> [u8; 512] {
        let mut block = [0u8; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.name[..self.name.len().min(100)]);
        put(100, format!("{:07o}", self.mode).as_bytes());
        put(108, &number(self.uid, 8));
        put(116, &number(self.gid, 8));
        put(124, &number(self.size, 12));
        put(136, &number(self.mtime, 12));
        put(156, &[self.kind]);
        put(157, &self.link[..self.link.len().min(100)]);
        put(257, b"ustar\x0000");
        put(329, format!("{:07o}", self.device.0).as_bytes());
        put(337, format!("{:07o}", self.device.1).as_bytes());
        seal(&mut block);
        block
    }
}

/// Octal where it fits, else base 256.
fn number(value: u64, length: usize) -> Vec<u8> {
    let digits = length - 1;
    if digits * 3 >= 64 || value >> (digits * 3) == 0 {
        return format!("{value:0digits$o}").into_bytes();
    }
    let mut bytes = vec![0; length];
    let tail = value.to_be_bytes();
    let kept = length.min(9) - 1;
    bytes[length - kept..].copy_from_slice(&tail[8 - kept..]);
    bytes[0] |= 0x80;
    bytes
}

/// Puts the checksum right.
pub fn seal(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// An archive made by hand; nothing is checked.
#[derive(Clone, Default)]
pub struct Archive(pub Vec<u8>);

impl Archive {
    pub fn new() -> Archive {
        Archive::default()
    }

    /// The start of a good unified image.
    pub fn image() -> Archive {
        Archive::new()
            .file("metadata.yaml", b"architecture: x86_64\ncreation_date: 1\nproperties: {os: Test}\n")
            .add(Raw::new(b'5', "rootfs"))
    }

    pub fn add(self, raw: Raw) -> Archive {
        self.with(raw, b"")
    }

    /// A header with whatever size it claims, and data padded to blocks.
    pub fn with(mut self, raw: Raw, data: &[u8]) -> Archive {
        self.0.extend_from_slice(&raw.block());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, name: impl AsRef<[u8]>, data: &[u8]) -> Archive {
        self.with(Raw { size: data.len() as u64, ..Raw::new(b'0', name) }, data)
    }

    pub fn directory(self, name: impl AsRef<[u8]>) -> Archive {
        self.add(Raw::new(b'5', name))
    }

    pub fn symlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Archive {
        self.add(Raw::link(b'2', name, target))
    }

    pub fn hard_link(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Archive {
        self.add(Raw::link(b'1', name, target))
    }

    pub fn pax(self, kind: u8, records: &[(&[u8], &[u8])]) -> Archive {
        let mut body = Vec::new();
        for (key, value) in records {
            let fixed = key.len() + value.len() + 3;
            let mut length = fixed + 1;
            while fixed + length.to_string().len() != length {
                length = fixed + length.to_string().len();
            }
            body.extend_from_slice(length.to_string().as_bytes());
            body.extend_from_slice(&[b" ", *key, b"=", *value, b"\n"].concat());
        }
        self.with(Raw { size: body.len() as u64, ..Raw::new(kind, "PaxHeaders/x") }, &body)
    }

    pub fn long(self, kind: u8, text: &[u8]) -> Archive {
        let body = [text, b"\0"].concat();
        self.with(Raw { size: body.len() as u64, ..Raw::new(kind, "././@LongLink") }, &body)
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

/// Everything about a tree that a file system keeps, a line per entry, in the order of names.
pub fn tree(root: &Path) -> String {
    let mut text = String::new();
    describe(root, root, &mut std::collections::HashMap::new(), &mut text);
    text
}

fn describe(root: &Path, path: &Path, links: &mut std::collections::HashMap<u64, String>, text: &mut String) {
    let stat = fs::symlink_metadata(path).expect("an entry");
    let name = path.strip_prefix(root).expect("below the root").as_os_str().as_bytes().escape_ascii().to_string();
    let mtime = format!("{}.{:09}", stat.mtime(), stat.mtime_nsec());
    let _ = write!(text, "{name:?} {:o} {}:{} {mtime}", stat.mode(), stat.uid(), stat.gid());
    if stat.is_file() || stat.is_symlink() {
        let first = links.entry(stat.ino()).or_insert_with(|| name.clone());
        let _ = write!(text, " same-as={first} size={}", stat.size());
    }
    if stat.is_symlink() {
        let target = fs::read_link(path).expect("a link");
        let _ = write!(text, " -> {}", target.as_os_str().as_bytes().escape_ascii());
    } else {
        let _ = write!(text, "{}", xattrs(path));
    }
    if stat.is_file() {
        // A hole of more than a quarter of the file must stay one.
        let sparse = stat.blocks() * 512 < stat.size() / 4 * 3;
        let mut hash = Fingerprinter::default();
        hash.update(&fs::read(path).expect("a file"));
        let _ = write!(text, " sparse={sparse} {}", &hash.finish().to_string()[..16]);
    }
    text.push('\n');
    if stat.is_dir() {
        let mut children: Vec<_> =
            fs::read_dir(path).expect("a directory").map(|found| found.expect("an entry").path()).collect();
        children.sort();
        for child in children {
            describe(root, &child, links, text);
        }
    }
}

fn xattrs(path: &Path) -> String {
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, names.as_mut_slice()).unwrap_or(0);
    let mut names: Vec<&[u8]> = names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()).collect();
    names.sort_unstable();
    let mut text = String::new();
    for name in names {
        let mut value = vec![0; 64 << 10];
        let name = std::ffi::OsStr::from_bytes(name);
        let length = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).expect("a value");
        let _ = write!(text, " {}={}", name.display(), value[..length].escape_ascii());
    }
    text
}
