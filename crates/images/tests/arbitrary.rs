//! Generated archives: nothing panics, nothing outside the root is touched, and what was written is read back.

mod support;

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use images::tar::{Entry, Extent, Kind, Reader, Timestamp, Writer, Xattr};
use images::unpack::{Options, unpack_split, unpack_unified};
use images::{ArchivePath, Limits, metadata::ImageMetadata, recipe::Recipe};
use proptest::prelude::*;
use support::{Archive, Guarded, Raw, open, seal};

/// Small, so that no case takes long.
fn limits() -> Limits {
    Limits { entries: 500, directories: 500, bytes: 1 << 20, archive_bytes: 1 << 22, ..Limits::default() }
}

/// Unpacks into a new directory of one scratch place, which is looked at from outside afterwards.
fn unpack(guarded: &Guarded, bytes: &[u8]) -> bool {
    let options = Options { limits: limits(), expected: None };
    let result = unpack_unified(bytes, guarded.fd(), &options, &mut |_| ());
    guarded.check();
    empty(&guarded.stage());
    result.is_ok()
}

fn empty(directory: &Path) {
    for found in fs::read_dir(directory).expect("the root") {
        let path = found.expect("an entry").path();
        let directory = fs::symlink_metadata(&path).expect("an entry").is_dir();
        if directory { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.expect("to remove");
    }
}

/// Names that meet one another often, with the ones that hurt among them.
fn name() -> impl Strategy<Value = Vec<u8>> {
    // Twice what shall come more often.
    let part = prop::sample::select(vec!["a", "a", "a", "b", "b", "b", "c", "..", ".", "", "outside", "canary"]);
    let prefix =
        prop::sample::select(vec!["rootfs", "rootfs", "rootfs", "rootfs", "rootfs", "", "templates", "/rootfs"]);
    (prefix, prop::collection::vec(part, 0..4)).prop_map(|(prefix, parts)| {
        let mut name = prefix.as_bytes().to_vec();
        for part in parts {
            name.push(b'/');
            name.extend_from_slice(part.as_bytes());
        }
        name
    })
}

fn target() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        name(),
        Just(b"../outside".to_vec()),
        Just(b"../outside/canary".to_vec()),
        Just(b"/".to_vec()),
        Just(b"/proc/self/cwd".to_vec()),
        Just(b".".to_vec()),
    ]
}

fn raw() -> impl Strategy<Value = (Raw, Vec<u8>)> {
    let kinds = prop::sample::select(b"001122555556634SLKxgVDZ\0".to_vec());
    let data = prop::collection::vec(any::<u8>(), 0..700);
    let size = prop_oneof![6 => Just(None), 1 => any::<u64>().prop_map(Some), 1 => (0u64..2000).prop_map(Some)];
    (kinds, name(), target(), 0u64..0o17777, 0u64..70_000, data, size).prop_map(
        |(kind, name, link, mode, uid, data, size)| {
            let data = if matches!(kind, b'0' | b'S' | b'L' | b'K' | b'x' | b'g' | 0) { data } else { Vec::new() };
            let size = size.unwrap_or(data.len() as u64);
            let raw = Raw { link, mode, uid, size, device: (uid % 3, mode % 3), ..Raw::new(kind, name) };
            (raw, data)
        },
    )
}

fn entry() -> impl Strategy<Value = (Entry, Vec<u8>)> {
    let part = prop::collection::vec(any::<u8>().prop_filter("not in names", |byte| !b"\0/".contains(byte)), 1..60);
    let path = prop::collection::vec(part.prop_filter("means something", |part| part != b"." && part != b".."), 1..8);
    let path = path.prop_map(|parts| ArchivePath::parse(&parts.join(&b'/')).expect("good parts"));
    let xattr = (prop::collection::vec(1u8.., 1..100), prop::collection::vec(any::<u8>(), 0..300));
    let xattr = xattr.prop_map(|(name, value)| Xattr { name: [b"user.", name.as_slice()].concat(), value });
    let ids = (0u64..1 << 40, 0u64..1 << 40);
    let time = (-(1i64 << 40)..1 << 40, 0u32..1_000_000_000);
    let regions = prop::collection::vec((1u64..5000, 1u64..600), 0..6);
    (path, 0u32..=0o7777, ids, time, prop::collection::vec(xattr, 0..3), regions, 0u64..3000).prop_map(
        |(path, mode, (uid, gid), (seconds, nanoseconds), mut xattrs, regions, tail)| {
            let (mut end, mut extents) = (0, Vec::new());
            for (hole, length) in regions {
                extents.push(Extent { offset: end + hole, length });
                end += hole + length;
            }
            if tail == 0 && extents.len() == 1 {
                extents[0].offset = 0;
                end = extents[0].length;
            }
            xattrs.sort_by(|one, other| one.name.cmp(&other.name));
            xattrs.dedup_by(|one, other| one.name == other.name);
            let mut entry = Entry::new(path, Kind::File, mode);
            (entry.uid, entry.gid, entry.mtime) = (uid, gid, Timestamp { seconds, nanoseconds });
            (entry.size, entry.extents, entry.xattrs) = (end + tail, extents, xattrs);
            let data = (0..entry.stored()).map(|at| at as u8).collect();
            (entry, data)
        },
    )
}

#[test]
fn no_sequence_of_entries_writes_outside_or_panics() {
    let guarded = Guarded::new("arbitrary-entries");
    let good = std::cell::Cell::new(0);
    proptest!(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() }, |(entries in prop::collection::vec(raw(), 1..12))| {
        let mut archive = Archive::image();
        for (raw, data) in entries {
            archive = archive.with(raw, &data);
        }
        good.set(good.get() + u32::from(unpack(&guarded, &archive.end())));
    });
    assert!(good.get() > 0, "not one of them was an image: the generator tests nothing");
}

#[test]
fn no_broken_byte_of_an_image_writes_outside_or_panics() {
    let guarded = Guarded::new("arbitrary-bytes");
    let capability = b"\x01\0\0\x03\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let whole = Archive::image()
        .file("rootfs/a", &[7; 700])
        .symlink("rootfs/l", "../outside")
        .hard_link("rootfs/h", "rootfs/a")
        .pax(b'x', &[(b"SCHILY.xattr.security.capability", capability), (b"mtime", b"1.5"), (b"path", b"rootfs/p")])
        .file("x", b"x")
        .pax(b'x', &[(b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", b"9000"), (b"GNU.sparse.name", b"rootfs/s")])
        .file("x", &[&b"2\n0\n512\n8192\n512\n"[..], &[0; 495], &[1; 1024]].concat())
        .pax(b'x', &[(b"SCHILY.acl.access", b"u::rwx,u:5:r--,g::r--,m::r--,o::---")])
        .file("rootfs/acl", b"")
        .long(b'L', &[b"rootfs/", [b'n'; 150].as_slice()].concat())
        .file("x", b"long")
        .end();
    assert!(unpack(&guarded, &whole));
    let config = ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(changes in prop::collection::vec((0..whole.len(), any::<u8>()), 1..4))| {
        let mut bytes = whole.clone();
        for (at, value) in changes {
            bytes[at] = value;
            // With a right checksum, so that the change reaches what comes after it.
            let start = at / 512 * 512;
            if bytes[start + 257..start + 262] == *b"ustar" {
                let mut block: [u8; 512] = bytes[start..start + 512].try_into().expect("a block");
                seal(&mut block);
                bytes[start..start + 512].copy_from_slice(&block);
            }
        }
        unpack(&guarded, &bytes);
    });
}

#[test]
fn no_bytes_at_all_make_a_parser_panic() {
    let guarded = Guarded::new("arbitrary-noise");
    let magic = prop::sample::select(vec![
        &b""[..],
        b"\x1f\x8b\x08\0",
        b"\xfd7zXZ\0",
        b"\x5d\0\0\x80\0",
        b"\x28\xb5\x2f\xfd",
        b"BZh9",
        b"hsqs",
        b"QFI\xfb",
    ]);
    let config = ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(magic in magic, noise in prop::collection::vec(any::<u8>(), 0..2000))| {
        unpack(&guarded, &[magic, &noise].concat());
        let _ = ArchivePath::parse(&noise);
        let _ = images::acl::Acl::from_text(&noise);
        let _ = images::acl::Acl::from_xattr(&noise);
        let _ = ImageMetadata::parse(&noise, &limits());
        let _ = Recipe::parse("noise", &String::from_utf8_lossy(&noise));
    });
}

#[test]
fn what_the_writer_writes_the_reader_reads() {
    let config = ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(entries in prop::collection::vec(entry(), 1..6))| {
        let mut writer = Writer::new(Vec::new());
        for (entry, data) in &entries {
            writer.begin(entry).expect("to memory");
            writer.data(data).expect("to memory");
        }
        let bytes = writer.finish().expect("to memory");
        let mut reader = Reader::new(bytes.as_slice(), Limits::default(), None);
        for (entry, data) in &entries {
            prop_assert_eq!(&reader.next_entry().expect("own output").expect("not the end"), entry);
            let mut got = Vec::new();
            while got.len() < data.len() {
                got.extend_from_slice(reader.chunk(u64::MAX).expect("own output"));
            }
            prop_assert_eq!(&got, data);
        }
        prop_assert!(reader.next_entry().expect("own output").is_none());
    });
}

#[test]
fn a_root_file_system_of_any_entries_is_unpacked_below_the_root_or_refused() {
    let guarded = Guarded::new("arbitrary-split");
    let metadata = Archive::new().file("metadata.yaml", b"architecture: x86_64\ncreation_date: 1\n").end();
    let config = ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(entries in prop::collection::vec(raw(), 1..12))| {
        let archive = entries.into_iter().fold(Archive::new(), |archive, (raw, data)| archive.with(raw, &data)).end();
        let options = Options { limits: limits(), expected: None };
        let root = open(&guarded.stage());
        let _ = unpack_split(metadata.as_slice(), archive.as_slice(), root.as_fd(), &options, &mut |_| ());
        guarded.check();
        empty(&guarded.stage());
    });
}
