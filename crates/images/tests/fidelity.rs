//! A tree with everything that a file system can hold goes through GNU tar and through us, and comes out the same.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use images::apply::LeftOut;
use images::compress::Compression;
use images::metadata::ImageMetadata;
use images::unpack::{Options, unpack_split, unpack_unified};
use images::{ArchivePath, acl, pack, tar};
use rustix::fs::{Timespec, Timestamps, XattrFlags};
use support::{Archive, Scratch, open, tree};

fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).expect("a time");
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap_or_else(|errno| panic!("{name}: {errno}"));
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions");
}

/// About 30 entries: what CRATES' fidelity table lists.
fn build(root: &Path) {
    let at = |name: &str| root.join(name);
    for directory in ["a", "a/deep", "dir-with-acl", "sticky", "setgid", "secret"] {
        fs::create_dir(at(directory)).expect("a directory");
    }
    let long = ["d".repeat(120), "e".repeat(120), "f".repeat(50)].join("/");
    fs::create_dir_all(at(&long)).expect("long directories");
    for (name, content) in [
        ("plain", "content\n"),
        ("empty", ""),
        ("suid", "binary"),
        ("caps", "binary"),
        ("xattrs", "x"),
        ("acl", "x"),
        ("owned", "x"),
        ("old", "from before 1970"),
        ("odd", "even older"),
        ("first", "two names"),
        ("a/deep/plain", "deep"),
        ("secret/file", "hidden"),
    ] {
        fs::write(at(name), content).expect("a file");
    }
    fs::write(at(&format!("{long}/leaf")), vec![7; 1_000_001]).expect("a file with a long path");
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"not-utf8-\xff\xfe")), "bytes").expect("a strange name");
    fs::write(at("line\nbreak"), "x").expect("a name with a line break");
    fs::hard_link(at("first"), at("a/second")).expect("a link");
    fs::hard_link(at("first"), at("zzz")).expect("a link");
    for (name, target) in [("link", "plain"), ("dangling", "/no/where"), ("outside", "../../../../etc/passwd")] {
        symlink(target, at(name)).expect("a link");
    }
    symlink("t".repeat(200), at("long-target")).expect("a link");
    fs::hard_link(at("link"), at("link-again")).expect("a hard link to a symbolic one");
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), fifo, rustix::fs::Mode::RUSR, 0).expect("a pipe");

    sparse_files(root);
    attributes(root);
}

/// Files with holes in front, between and behind.
fn sparse_files(root: &Path) {
    let at = |name: &str| root.join(name);
    let sparse = fs::File::create(at("sparse")).expect("a file");
    sparse.write_all_at(b"begin", 0).expect("data");
    sparse.write_all_at(&[1; 9000], 50 << 20).expect("data");
    sparse.set_len(100 << 20).expect("a hole at the end");
    fs::File::create(at("all-hole")).expect("a file").set_len(10 << 20).expect("a hole");
    let many = fs::File::create(at("many-holes")).expect("a file");
    (0..300).for_each(|n| many.write_all_at(b"island", n * 65_536).expect("data"));
}

/// Owners, permissions, extended attributes, access control lists; times last.
fn attributes(root: &Path) {
    let at = |name: &str| root.join(name);
    for (name, uid, gid) in [("owned", 1000, 1001), ("suid", 0, 42), ("link", 7, 8), ("a", 65_535, 65_535)] {
        std::os::unix::fs::lchown(at(name), Some(uid), Some(gid)).expect("an owner");
    }
    chown(at("setgid"), Some(0), Some(50)).expect("a group");
    for (name, mode) in [
        ("suid", 0o4755),
        ("sticky", 0o1777),
        ("setgid", 0o2775),
        ("secret", 0o700),
        ("secret/file", 0),
        ("owned", 0o640),
    ] {
        set_mode(&at(name), mode);
    }
    set_xattr(&at("xattrs"), "user.text", b"value");
    set_xattr(&at("xattrs"), "user.binary", b"\0\n12 a=b\n\xff");
    set_xattr(&at("xattrs"), "user.odd=%name", b"");
    set_xattr(&at("a"), "user.on-directory", b"yes");
    let capability = [&0x0200_0001u32.to_le_bytes()[..], &0x2000u32.to_le_bytes(), &[0; 12]].concat();
    set_xattr(&at("caps"), "security.capability", &capability);
    let list = |text: &[u8]| acl::Acl::from_text(text).expect("well formed").0.to_xattr();
    set_xattr(&at("acl"), "system.posix_acl_access", &list(b"u::rw-,u:1000:r--,g::r--,g:4:rw-,m::rw-,o::---"));
    set_xattr(&at("dir-with-acl"), "system.posix_acl_default", &list(b"u::rwx,u:7:r-x,g::r-x,m::r-x,o::---"));
    set_xattr(&at("dir-with-acl"), "system.posix_acl_access", &list(b"u::rwx,u:7:rwx,g::r-x,m::rwx,o::--x"));
    fs::write(at("dir-with-acl/heir"), "inherits").expect("a file");

    set_time(&at("old"), -86_400, 0);
    set_time(&at("odd"), -100_000_000, 123_456_789);
    set_time(&at("plain"), 1_700_000_000, 987_654_321);
    set_time(&at("link"), 1_000_000_000, 5);
    set_time(&at("fifo"), 1, 1);
    set_time(&at("a/deep"), 12_345, 999_999_999);
    set_time(&at("a"), 4_000_000_000, 1);
    set_time(root, 1_234_567_890, 42);
}

fn gnu_tar(arguments: &[&str], directory: &Path, archive: &Path) {
    let mut command = Command::new("tar");
    command.args(arguments).arg("--warning=no-timestamp").arg("-f").arg(archive).arg("-C").arg(directory);
    if arguments.contains(&"-c") {
        command.arg(".");
    }
    let output = command.output().expect("GNU tar");
    assert!(output.status.success(), "tar: {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "tar has something to say");
}

/// The metadata part of a split image.
fn metadata() -> Vec<u8> {
    Archive::new().file("metadata.yaml", b"architecture: x86_64\ncreation_date: 1\n").end()
}

fn unpack_tree(archive: &[u8], into: &Path) -> LeftOut {
    let root = open(into);
    let metadata = metadata();
    let fd = std::os::fd::AsFd::as_fd(&root);
    unpack_split(metadata.as_slice(), archive, fd, &Options::default(), &mut |_| ()).expect("a good archive").left_out
}

const PAX: &[&str] = &["-c", "--format=pax", "--xattrs", "--xattrs-include=*", "--acls", "--sparse", "--numeric-owner"];

#[test]
fn what_gnu_tar_packs_we_unpack_to_the_same_tree() {
    let scratch = Scratch::new("from-gnu");
    let (source, target) = (scratch.directory("source"), scratch.directory("target"));
    build(&source);
    let archive = scratch.path.join("a.tar");
    gnu_tar(PAX, &source, &archive);
    let left_out = unpack_tree(&fs::read(&archive).expect("the archive"), &target);
    assert_eq!(tree(&source), tree(&target));
    assert_eq!(left_out, LeftOut::default());
}

#[test]
fn all_of_gnu_tars_formats_and_sparse_versions_are_understood() {
    let scratch = Scratch::new("formats");
    let source = scratch.directory("source");
    build(&source);
    for (number, extra) in [
        &["--format=gnu", "--sparse"][..],
        &["--format=gnu"],
        &["--format=pax", "--sparse-version=0.0", "--sparse"],
        &["--format=pax", "--sparse-version=0.1", "--sparse"],
        &["--format=pax", "--sparse-version=1.0", "--sparse"],
        &["--format=oldgnu", "--sparse"],
    ]
    .iter()
    .enumerate()
    {
        let archive = scratch.path.join(format!("{number}.tar"));
        gnu_tar(&[&["-c", "--numeric-owner"][..], extra].concat(), &source, &archive);
        let (ours, theirs) = (scratch.directory(&format!("ours{number}")), scratch.directory(&format!("gnu{number}")));
        unpack_tree(&fs::read(&archive).expect("the archive"), &ours);
        gnu_tar(&["-x", "--numeric-owner", "--same-permissions"], &theirs, &archive);
        assert_eq!(tree(&theirs), tree(&ours), "{extra:?}");
    }
}

#[test]
fn old_formats_without_long_names_are_understood() {
    let scratch = Scratch::new("old");
    let source = scratch.directory("source");
    fs::create_dir(source.join("d")).expect("a directory");
    fs::write(source.join("d/f"), "x").expect("a file");
    symlink("f", source.join("d/l")).expect("a link");
    for path in ["d/f", "d/l", "d", "."] {
        set_time(&source.join(path), 1_700_000_000, 0);
    }
    for format in ["v7", "ustar"] {
        let archive = scratch.path.join(format);
        gnu_tar(&["-c", &format!("--format={format}")], &source, &archive);
        let target = scratch.directory(&format!("{format}-target"));
        unpack_tree(&fs::read(&archive).expect("the archive"), &target);
        assert_eq!(tree(&source), tree(&target), "{format}");
    }
}

#[test]
fn what_we_pack_gnu_tar_unpacks_to_the_same_tree() {
    let scratch = Scratch::new("to-gnu");
    let (source, target) = (scratch.directory("source"), scratch.directory("target"));
    build(&source);
    let mut writer = tar::Writer::new(Vec::new());
    let root = open(&source);
    pack::pack_tree(&mut writer, std::os::fd::AsFd::as_fd(&root), &ArchivePath::root(), &mut |_| ()).expect("packed");
    let archive = scratch.path.join("a.tar");
    let bytes = writer.finish().expect("to memory");
    assert!(bytes.len() < 8 << 20, "holes are not stored: {} bytes", bytes.len());
    fs::File::create(&archive).expect("a file").write_all(&bytes).expect("the archive");
    gnu_tar(&["-x", "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "-p"], &target, &archive);
    assert_eq!(tree(&source), tree(&target));
}

#[test]
fn an_image_survives_being_packed_and_unpacked_in_every_compression_and_is_always_the_same_bytes() {
    let scratch = Scratch::new("round-trip");
    let source = scratch.directory("source");
    build(&source);
    let metadata = ImageMetadata { architecture: "x86_64".to_owned(), creation_date: 7, ..ImageMetadata::default() };
    let templates = BTreeMap::from([("hosts.tpl".to_owned(), b"127.0.0.1 localhost\n".to_vec())]);
    for format in [Compression::None, Compression::Gzip, Compression::Zstd, Compression::Xz, Compression::Bzip2] {
        let root = open(&source);
        let pack = || {
            let root = std::os::fd::AsFd::as_fd(&root);
            pack::pack_unified(Vec::new(), format, &metadata, &templates, root, &mut |_| ()).expect("packed")
        };
        let ((bytes, packed), (again, _)) = (pack(), pack());
        assert!(bytes == again, "{format}: the same tree gave other bytes");
        let target = scratch.directory(&format!("target-{format}"));
        let staged = open(&target);
        let options = Options { expected: Some(packed.fingerprint), ..Options::default() };
        let root = std::os::fd::AsFd::as_fd(&staged);
        let unpacked = unpack_unified(bytes.as_slice(), root, &options, &mut |_| ()).expect("own output");
        assert_eq!(tree(&source), tree(&target), "{format}");
        assert_eq!((&unpacked.metadata, &unpacked.templates), (&metadata, &templates));
        assert_eq!(unpacked.archive_bytes, bytes.len() as u64);
    }
}

#[test]
fn a_guest_cannot_make_the_packer_hold_more_than_allowed_nor_pack_what_does_not_unpack() {
    let scratch = Scratch::new("pack-hostile");
    let source = scratch.directory("source");
    let mut deep = source.clone();
    for _ in 0..255 {
        deep.push("d");
    }
    fs::create_dir_all(&deep).expect("deep directories");
    let pack = || {
        let root = open(&source);
        let mut writer = tar::Writer::new(Vec::new());
        let root = std::os::fd::AsFd::as_fd(&root);
        pack::pack_tree(&mut writer, root, &ArchivePath::root(), &mut |_| ()).map(|tree| (tree, writer.finish()))
    };
    let (tree, _) = pack().expect("just deep enough");
    assert_eq!(tree.entries, 256);
    fs::create_dir_all(deep.join("d/d")).expect("a deeper one");
    assert!(matches!(pack(), Err(images::Error::Path { .. })), "deeper than what is unpacked");
    fs::remove_dir_all(source.join("d")).expect("to remove");
    let whiteout = rustix::fs::FileType::CharacterDevice;
    rustix::fs::mknodat(rustix::fs::CWD, source.join("w"), whiteout, rustix::fs::Mode::RUSR, 0).expect("a whiteout");
    assert!(matches!(pack(), Err(images::Error::Whiteout { .. })), "a layer is no tree");
    fs::remove_file(source.join("w")).expect("to remove");
    let _listener = std::os::unix::net::UnixListener::bind(source.join("socket")).expect("a socket");
    assert_eq!(pack().expect("packed").0.left_out.devices, 1);
}
