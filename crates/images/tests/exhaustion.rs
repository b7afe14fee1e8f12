//! Archives made to lie about sizes or to exhaust the machine, and ones that are not what was asked for. The numbers are the
//! rows of the project's attack table.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;

use images::compress::{Compression, Encoder};
use images::error::HeaderProblem;
use images::limits::Limit;
use images::unpack::{Options, unpack_split, unpack_unified};
use images::{Error, Limits};
use support::refusal::{unpack, unpack_within};
use support::{Archive, Guarded, Raw};

#[test]
fn row_12_sizes_that_lie_are_refused() {
    let sized = |size: u64| Archive::image().with(Raw { size, ..Raw::new(b'0', "rootfs/f") }, b"x");
    assert_refused!(sized(100_000), Error::Truncated { .. });
    for size in [1 << 40, i64::MAX as u64] {
        assert_refused!(sized(size), Error::Limit { limit: Limit::Bytes, .. });
    }
    let mut block = Raw::new(b'0', "rootfs/f").block();
    block[124..136].fill(0xff);
    support::seal(&mut block);
    let mut negative = Archive::image();
    negative.0.extend_from_slice(&block);
    assert_refused!(negative, Error::Header { problem: HeaderProblem::Number("size"), .. });
    for size in ["9223372036854775807", "68719476737"] {
        let archive = Archive::image().pax(b'x', &[(b"size", size.as_bytes())]).file("rootfs/f", b"x");
        assert_refused!(archive, Error::Limit { limit: Limit::Bytes, .. });
    }
    let archive = Archive::image().pax(b'x', &[(b"size", b"9223372036854775808")]).file("rootfs/f", b"x");
    assert_refused!(archive, Error::Header { problem: HeaderProblem::PaxValue("size"), .. });
    assert_refused!(
        Archive::image().with(Raw { size: 5, ..Raw::new(b'2', "rootfs/l") }, b"xxxxx"),
        Error::Header { problem: HeaderProblem::Target | HeaderProblem::UnexpectedData, .. }
    );
    let huge = Raw { size: 1 << 62, ..Raw::new(b'x', "PaxHeaders/x") };
    assert_refused!(Archive::image().add(huge.clone()), Error::Limit { limit: Limit::HeaderBytes, .. });
    assert_refused!(
        Archive::image().add(Raw { kind: b'L', ..huge.clone() }),
        Error::Limit { limit: Limit::HeaderBytes, .. }
    );
    assert_refused!(Archive::image().add(Raw { kind: b'V', ..huge }), Error::Limit { limit: Limit::HeaderBytes, .. });
}

#[test]
fn row_12_maps_of_sparse_files_that_lie_are_refused() {
    let sparse = |records: &[(&[u8], &[u8])], data: &[u8]| {
        let all = [&[(&b"GNU.sparse.major"[..], &b"0"[..]), (b"GNU.sparse.minor", b"1")][..], records].concat();
        Archive::image().pax(b'x', &all).file("rootfs/f", data)
    };
    let size: &[u8] = b"GNU.sparse.size";
    let map: &[u8] = b"GNU.sparse.map";
    assert_refused!(sparse(&[(size, b"8646911284551352320"), (map, b"0,1")], b"x"), Error::Limit { .. });
    assert_refused!(sparse(&[(size, b"18446744073709551615"), (map, b"0,1")], b"x"), Error::Header { .. });
    for wrong in ["0,2", "0,0", "5,1,4,0", "100,1", "0,1,9223372036854775807,1", "0", "x", "", "0,1,", "-1,1"] {
        let archive = sparse(&[(size, b"10"), (map, wrong.as_bytes())], b"x");
        assert_refused!(archive, Error::Header { .. });
    }
    let many = (0..70_000u64).map(|n| format!("{},0", n * 2)).collect::<Vec<_>>().join(",");
    assert_refused!(
        sparse(&[(size, b"1000000"), (map, many.as_bytes())], b""),
        Error::Limit { limit: Limit::Extents, .. }
    );
    assert_refused!(sparse(&[(map, b"0,1")], b"x"), Error::Header { problem: HeaderProblem::Sparse, .. });
    let version_1 = |text: &str| {
        let mut data = text.as_bytes().to_vec();
        data.resize(512, 0);
        let keys: &[(&[u8], &[u8])] = &[(b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", b"10")];
        Archive::image().pax(b'x', keys).file("rootfs/f", &data)
    };
    for wrong in ["", "1\n", "1\n0\n5\n", "x\n", "99999999999999999999\n", "1\n11\n1\n"] {
        assert_refused!(version_1(wrong), Error::Header { .. });
    }
    assert_refused!(version_1("9999999\n"), Error::Limit { limit: Limit::Extents, .. });
    let mut block = Raw::new(b'S', "rootfs/f").block();
    block[345..500].fill(0);
    block[386..398].copy_from_slice(b"77777777777\0");
    block[398..410].copy_from_slice(b"77777777777\0");
    block[257..265].copy_from_slice(b"ustar  \0");
    support::seal(&mut block);
    let mut old = Archive::image();
    old.0.extend_from_slice(&block);
    assert_refused!(old, Error::Header { problem: HeaderProblem::Sparse, .. });
}

#[test]
fn row_13_bombs_end_at_the_ratio_long_before_the_disk_is_full() {
    for format in [Compression::Gzip, Compression::Zstd, Compression::Xz, Compression::Bzip2] {
        let mut encoder = Encoder::new(format, Vec::new(), true).expect("to memory");
        let bomb = Raw { size: 4 << 30, ..Raw::new(b'0', "rootfs/bomb") };
        encoder.write_all(&Archive::image().add(bomb).0).expect("to memory");
        // zstd and bzip2 press zeros 10,000 times; gzip cannot do 1:1000 or worse, so it must end at its true length.
        let zeros = vec![0; 1 << 20];
        (0..if format == Compression::Gzip { 100 } else { 400 })
            .for_each(|_| encoder.write_all(&zeros).expect("to memory"));
        let bytes = encoder.finish().expect("to memory");
        let guarded = Guarded::new(&format!("bomb-{format}"));
        let error = unpack_within(&guarded, bytes.as_slice(), Limits::default()).expect_err("a bomb");
        let written = fs::metadata(guarded.stage().join("bomb")).map_or(0, |file| file.len());
        assert!(written <= 512 << 20, "{format}: {written} bytes were written");
        match error {
            Error::Limit { limit: Limit::Ratio, .. } => assert!(written < 400 << 20),
            Error::Truncated { .. } | Error::Decompress { .. } => assert!(bytes.len() as u64 * 1000 > written),
            other => panic!("{format}: another error: {other:?}"),
        }
    }
}

#[test]
fn row_13_an_archive_within_an_archive_is_one_file() {
    let inner = Archive::image().file("rootfs/../x", b"").end();
    let (guarded, result) = unpack("nested", &Archive::image().file("rootfs/inner.tar", &inner).end());
    result.expect("nobody looks inside");
    assert_eq!(fs::read(guarded.stage().join("inner.tar")).expect("the file"), inner);
}

#[test]
fn row_14_too_many_entries_directories_and_levels_are_refused() {
    let guarded = Guarded::new("entries");
    let limits = Limits { entries: 1000, ..Limits::default() };
    let mut archive = Archive::image();
    for number in 0..1001 {
        archive = archive.file(format!("rootfs/{number}"), b"");
    }
    let error = unpack_within(&guarded, archive.end().as_slice(), limits).expect_err("too many");
    assert!(matches!(error, Error::Limit { limit: Limit::Entries, allowed: 1000 }), "{error:?}");

    // Directories that nobody named count too: one entry could make 255 of them.
    let guarded = Guarded::new("directories");
    let limits = Limits { directories: 1000, ..Limits::default() };
    let mut archive = Archive::image();
    for number in 0..10 {
        let path = format!("rootfs/{number}{}/f", "/d".repeat(200));
        archive = archive.pax(b'x', &[(b"path", path.as_bytes())]).file("x", b"");
    }
    let error = unpack_within(&guarded, archive.end().as_slice(), limits).expect_err("too many");
    assert!(matches!(error, Error::Limit { limit: Limit::Directories, .. }), "{error:?}");

    let deep = format!("rootfs{}", "/d".repeat(10_000));
    assert_refused!(Archive::image().pax(b'x', &[(b"path", deep.as_bytes())]).directory("x"), Error::Path { .. });
    let extensions = Archive((0..2000).fold(Archive::image(), |archive, _| archive.pax(b'g', &[(b"comment", b"x")])).0);
    let guarded = Guarded::new("extensions");
    let limits = Limits { entries: 1000, ..Limits::default() };
    let error = unpack_within(&guarded, extensions.end().as_slice(), limits).expect_err("too many");
    assert!(matches!(error, Error::Limit { limit: Limit::Entries, .. }), "{error:?}");
}

#[test]
fn row_14_what_must_be_remembered_until_the_end_is_bounded() {
    // A directory's attributes are set last: a thousand with a megabyte each would fill the memory.
    let value = vec![b'x'; 60_000];
    let records: Vec<(Vec<u8>, &[u8])> =
        (0..15).map(|n| (format!("SCHILY.xattr.user.n{n}").into_bytes(), value.as_slice())).collect();
    let records: Vec<(&[u8], &[u8])> = records.iter().map(|(key, value)| (key.as_slice(), *value)).collect();
    let mut archive = Archive::image();
    for number in 0..10 {
        archive = archive.pax(b'x', &records).directory(format!("rootfs/{number}"));
    }
    let guarded = Guarded::new("held");
    let limits = Limits { held_bytes: 4 << 20, ..Limits::default() };
    let error = unpack_within(&guarded, archive.end().as_slice(), limits).expect_err("too much");
    assert!(matches!(error, Error::Limit { limit: Limit::HeldBytes, .. }), "{error:?}");
    // Extension headers are no files, but they are bytes.
    let guarded = Guarded::new("headers");
    let limits = Limits { bytes: 4 << 20, ..Limits::default() };
    let archive = (0..10).fold(Archive::image(), |archive, _| archive.pax(b'g', &[(b"comment", &vec![b'x'; 900_000])]));
    let error = unpack_within(&guarded, archive.end().as_slice(), limits).expect_err("too much");
    assert!(matches!(error, Error::Limit { limit: Limit::Bytes, .. }), "{error:?}");
}

#[test]
fn row_14_names_that_differ_only_in_case_are_different_files() {
    let (guarded, result) = unpack("case", &Archive::image().file("rootfs/A", b"1").file("rootfs/a", b"2").end());
    result.expect("fine on Linux");
    assert_eq!(fs::read(guarded.stage().join("A")).expect("the file"), b"1");
}

#[test]
fn row_18_an_image_with_another_fingerprint_is_refused() {
    let bytes = Archive::image().file("rootfs/f", b"x").end();
    let guarded = Guarded::new("fingerprint");
    let wrong = "00".repeat(32).parse().expect("a fingerprint");
    let options = Options { expected: Some(wrong), ..Options::default() };
    let error = unpack_unified(bytes.as_slice(), guarded.fd(), &options, &mut |_| ()).expect_err("another one");
    let Error::Fingerprint { expected, found } = error else { panic!("another error: {error:?}") };
    assert_eq!(expected, wrong);
    // The hash covers what stands behind the end of the archive too.
    let longer = [bytes.as_slice(), b"and more"].concat();
    let guarded = Guarded::new("fingerprint-longer");
    let options = Options { expected: Some(found), ..Options::default() };
    assert!(unpack_unified(longer.as_slice(), guarded.fd(), &options, &mut |_| ()).is_err());
    let guarded = Guarded::new("fingerprint-right");
    assert!(unpack_unified(bytes.as_slice(), guarded.fd(), &options, &mut |_| ()).is_ok());
}

#[test]
fn row_18_both_files_of_a_split_image_count_for_the_fingerprint() {
    let metadata = Archive::new().file("metadata.yaml", b"architecture: x86_64\ncreation_date: 1\n").end();
    let rootfs = Archive::new().file("f", b"x").end();
    let mut hash = images::hash::Fingerprinter::default();
    hash.update(&metadata);
    hash.update(&rootfs);
    let right = hash.finish();
    let mut only = images::hash::Fingerprinter::default();
    only.update(&rootfs);
    for (expected, good) in [(right, true), (only.finish(), false)] {
        let guarded = Guarded::new(&format!("split-{good}"));
        let options = Options { expected: Some(expected), ..Options::default() };
        let result = unpack_split(metadata.as_slice(), rootfs.as_slice(), guarded.fd(), &options, &mut |_| ());
        assert_eq!(result.is_ok(), good, "{result:?}");
    }
    let guarded = Guarded::new("split-rootfs-in-metadata");
    let both = Archive::image().file("rootfs/f", b"x").end();
    let result = unpack_split(both.as_slice(), rootfs.as_slice(), guarded.fd(), &Options::default(), &mut |_| ());
    assert!(matches!(result, Err(Error::TopLevel { .. })), "{result:?}");
}

#[test]
fn a_stream_cut_anywhere_is_an_error_and_leaves_nothing_outside() {
    let bytes = Archive::image().file("rootfs/f", &[7; 2000]).symlink("rootfs/l", "f").end();
    let end_mark = bytes.len() - 1024;
    for length in (0..=end_mark).step_by(173) {
        let guarded = Guarded::new("cut");
        let result = unpack_within(&guarded, &bytes[..length], Limits::default());
        assert!(matches!(result, Err(Error::Truncated { .. } | Error::UnknownFormat)), "{length}: {result:?}");
    }
}

#[test]
fn a_read_error_in_the_middle_is_told_as_such_through_any_decoder() {
    struct Broken<'a>(&'a [u8]);
    impl Read for Broken<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if self.0.is_empty() { Err(std::io::Error::other("the connection broke")) } else { self.0.read(buffer) }
        }
    }
    let noise: Vec<u8> = (0u32..400_000).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let archive = Archive::image().file("rootfs/f", &noise).end();
    for format in [Compression::None, Compression::Gzip, Compression::Zstd, Compression::Xz, Compression::Bzip2] {
        let mut encoder = Encoder::new(format, Vec::new(), true).expect("to memory");
        encoder.write_all(&archive).expect("to memory");
        let bytes = encoder.finish().expect("to memory");
        let guarded = Guarded::new(&format!("broken-{format}"));
        let result = unpack_within(&guarded, Broken(&bytes[..bytes.len() / 2]), Limits::default());
        assert!(matches!(result, Err(Error::Input(_))), "{format}: {result:?}");
    }
}

#[test]
fn a_full_file_system_is_told_with_the_path_that_did_not_fit() {
    let small = |key: &str, value: &str| {
        let context = rustix::mount::fsopen("tmpfs", rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC).expect("tmpfs");
        rustix::mount::fsconfig_set_string(context.as_fd(), key, value).expect("an option");
        rustix::mount::fsconfig_create(context.as_fd()).expect("a file system");
        // Never attached anywhere: the descriptor is the only way to it.
        let flags = rustix::mount::FsMountFlags::FSMOUNT_CLOEXEC;
        let attributes = rustix::mount::MountAttrFlags::empty();
        rustix::mount::fsmount(context.as_fd(), flags, attributes).expect("a mount")
    };
    let large = Archive::image().file("rootfs/small", b"x").file("rootfs/large", &vec![7; 2 << 20]).end();
    let mut many = Archive::image();
    for number in 0..100 {
        many = many.file(format!("rootfs/file{number}"), b"");
    }
    for (mount, archive, named) in
        [(small("size", "1m"), large, "large"), (small("nr_inodes", "50"), many.end(), "file4")]
    {
        let result = unpack_unified(archive.as_slice(), mount.as_fd(), &Options::default(), &mut |_| ());
        let Err(Error::Full { path, .. }) = result else { panic!("another result: {result:?}") };
        assert!(path.starts_with(named), "{path}");
    }
}
