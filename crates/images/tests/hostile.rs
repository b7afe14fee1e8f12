//! Archives made to break out: each is refused with a typed error, and nothing outside the root is touched. The numbers are
//! the rows of the project's attack table.

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;

use images::Error;
use images::Limits;
use images::error::HeaderProblem;
use images::limits::Limit;
use images::unpack::{Options, unpack_split};
use support::refusal::{unpack, unpack_within};
use support::{Archive, Guarded, Raw};

#[test]
fn row_1_a_root_file_system_that_is_a_link_or_comes_as_two_types_is_refused() {
    let meta = || Archive::new().file("metadata.yaml", b"architecture: x86_64\ncreation_date: 1\n");
    assert_refused!(meta().symlink("rootfs", "../outside"), Error::TopLevel { .. });
    assert_refused!(Archive::image().symlink("rootfs", "../outside").file("rootfs/x", b"x"), Error::TopLevel { .. });
    assert_refused!(Archive::image().file("rootfs", b""), Error::TopLevel { .. });
    assert_refused!(Archive::image().hard_link("rootfs", "metadata.yaml"), Error::TopLevel { .. });
    assert_refused!(meta(), Error::TopLevel { .. });
}

#[test]
fn row_2_templates_that_are_links_or_have_odd_names_are_refused() {
    assert_refused!(Archive::image().symlink("templates", "/etc"), Error::TopLevel { .. });
    assert_refused!(Archive::image().symlink("templates/a.tpl", "/etc/shadow"), Error::TopLevel { .. });
    assert_refused!(Archive::image().file("templates/a/b.tpl", b""), Error::TopLevel { .. });
    assert_refused!(Archive::image().file("templates/.hidden", b""), Error::TopLevel { .. });
    assert_refused!(Archive::image().file("templates/a", b"").file("templates/a", b""), Error::Duplicate { .. });
    let mut many = Archive::image();
    for number in 0..129 {
        many = many.file(format!("templates/{number}"), b"");
    }
    assert_refused!(many, Error::Limit { limit: Limit::Templates, .. });
    let large = vec![b'x'; (1 << 20) + 1];
    assert_refused!(Archive::image().file("templates/a", &large), Error::Limit { limit: Limit::TemplateBytes, .. });
}

#[test]
fn rows_3_and_5_files_of_a_daemon_beside_the_root_are_left_out() {
    let archive = Archive::image()
        .symlink("exec-output", "../outside")
        .symlink("backup.yaml", "../outside/canary")
        .file("backup.yaml", b"evil")
        .directory("logs");
    let (guarded, result) = unpack("foreign", &archive.end());
    assert_eq!(result.expect("the rest is fine").left_out.foreign, 4);
    assert_eq!(fs::read_dir(guarded.stage()).expect("the root").count(), 0);
}

#[test]
fn row_4_metadata_must_be_one_small_file() {
    let good: &[u8] = b"architecture: x86_64\ncreation_date: 1\n";
    let root = || Archive::new().directory("rootfs");
    assert_refused!(root().symlink("metadata.yaml", "/etc/passwd"), Error::TopLevel { .. });
    assert_refused!(root().directory("metadata.yaml"), Error::TopLevel { .. });
    assert_refused!(root().file("metadata.yaml/x", good), Error::TopLevel { .. });
    assert_refused!(root().file("metadata.yaml", good).file("./metadata.yaml", good), Error::Duplicate { .. });
    let large = [good, &vec![b'#'; 1 << 20]].concat();
    assert_refused!(root().file("metadata.yaml", &large), Error::Limit { limit: Limit::MetadataBytes, .. });
    assert_refused!(root().file("metadata.yaml", b"{{{"), Error::Metadata { .. });
    assert_refused!(root(), Error::NoMetadata);
    let with_template = b"architecture: x86_64\ncreation_date: 1\ntemplates: {/etc/x: {template: gone.tpl}}\n";
    assert_refused!(root().file("metadata.yaml", with_template), Error::Metadata { .. });
}

#[test]
fn row_6_names_that_climb_out_are_refused_in_every_place_that_can_hold_a_name() {
    let up: &[u8] = b"rootfs/../../outside/new";
    for name in [up, b"../outside/new", b"/../outside/new", b"./../outside/new", b"rootfs/..", b"rootfs/a/../../x"] {
        assert_refused!(Archive::image().file(name, b"x"), Error::Path { .. });
        assert_refused!(Archive::image().directory(name), Error::Path { .. });
        assert_refused!(Archive::image().symlink(name, "x"), Error::Path { .. });
    }
    assert_refused!(Archive::image().long(b'L', up).file("rootfs/x", b""), Error::Path { .. });
    assert_refused!(Archive::image().pax(b'x', &[(b"path", up)]).file("rootfs/x", b""), Error::Path { .. });
    let nul = b"rootfs/a\0/../../x";
    assert_refused!(Archive::image().pax(b'x', &[(b"path", nul)]).file("rootfs/x", b""), Error::Path { .. });
    let sparse: &[(&[u8], &[u8])] = &[(b"GNU.sparse.name", up), (b"GNU.sparse.realsize", b"0")];
    assert_refused!(Archive::image().pax(b'x', sparse).file("rootfs/x", b""), Error::Path { .. });
    let global = Archive::image().pax(b'g', &[(b"path", up)]).file("rootfs/x", b"");
    assert_refused!(global, Error::Header { problem: HeaderProblem::PaxGlobal("path"), .. });
    for (length, name) in [(4097, "x/".repeat(2049)), (300, "n".repeat(300)), (257, "d/".repeat(300))] {
        let archive = Archive::image().pax(b'x', &[(b"path", &[b"rootfs/", name.as_bytes()].concat())]);
        assert!(length > 0);
        assert_refused!(archive.file("rootfs/x", b""), Error::Path { .. });
    }
    assert_refused!(Archive::image().long(b'L', b"").file("", b""), Error::Path { .. });
}

#[test]
fn row_6_absolute_names_and_doubled_slashes_stay_below_the_root() {
    let archive = Archive::new()
        .file("/metadata.yaml", b"architecture: x86_64\ncreation_date: 1\n")
        .file("//rootfs///etc//passwd", b"ours")
        .file("./rootfs/./a", b"x");
    let (guarded, result) = unpack("absolute", &archive.end());
    result.expect("harmless");
    assert_eq!(fs::read(guarded.stage().join("etc/passwd")).expect("the file"), b"ours");
    assert_eq!(fs::metadata(guarded.stage().join("etc")).expect("made").mode() & 0o7777, 0o755);
}

#[test]
fn row_7_hard_links_lead_only_to_files_of_this_very_archive() {
    let link = |target: &str| Archive::image().file("rootfs/f", b"x").hard_link("rootfs/l", target);
    for target in ["../outside/canary", "rootfs/../../outside/canary"] {
        assert_refused!(link(target), Error::Path { .. });
    }
    for target in ["outside/canary", "metadata.yaml", "/etc/passwd", "rootfs", "rootfs/none", "rootfs/none/none"] {
        assert_refused!(link(target), Error::LinkTarget { .. });
    }
    assert_refused!(Archive::image().directory("rootfs/d").hard_link("rootfs/l", "rootfs/d"), Error::LinkTarget { .. });
    let fifo = Archive::image().add(Raw::new(b'6', "rootfs/p")).hard_link("rootfs/l", "rootfs/p");
    assert_refused!(fifo, Error::LinkTarget { .. });
    assert_refused!(link("rootfs/f").hard_link("rootfs/l", "rootfs/f"), Error::Duplicate { .. });
    assert_refused!(link("rootfs/f/x"), Error::Parent { .. });
}

#[test]
fn row_7_a_hard_link_to_a_symbolic_link_is_the_link_and_not_what_it_points_to() {
    let archive = Archive::image().symlink("rootfs/s", "../outside/canary").hard_link("rootfs/h", "rootfs/s");
    let (guarded, result) = unpack("link-to-link", &archive.end());
    result.expect("harmless");
    assert!(fs::symlink_metadata(guarded.stage().join("h")).expect("a link").is_symlink());
    assert_eq!(fs::metadata(guarded.outside().join("canary")).expect("the canary").nlink(), 1);
    // A file in its place would be written through the link.
    let over = Archive::image()
        .symlink("rootfs/s", "../outside/canary")
        .hard_link("rootfs/h", "rootfs/s")
        .file("rootfs/h", b"dead");
    assert_refused!(over, Error::Duplicate { .. });
    // Through a link on the way.
    let through = Archive::image().symlink("rootfs/out", "../outside").hard_link("rootfs/h", "rootfs/out/canary");
    assert_refused!(through, Error::Parent { .. });
}

#[test]
fn row_8_nothing_is_written_through_a_link_made_earlier_in_the_archive() {
    for target in ["../outside", "/", ".", "/proc/self/root", "/proc/self/cwd", "../../outside"] {
        let start = || Archive::image().symlink("rootfs/esc", target);
        assert_refused!(start().file("rootfs/esc/canary", b"dead"), Error::Parent { .. });
        assert_refused!(start().file("rootfs/esc/a/b", b"dead"), Error::Parent { .. });
        assert_refused!(start().directory("rootfs/esc"), Error::Duplicate { .. });
        assert_refused!(start().directory("rootfs/esc/new"), Error::Parent { .. });
        assert_refused!(start().symlink("rootfs/esc/new", "x"), Error::Parent { .. });
        assert_refused!(start().add(Raw::new(b'6', "rootfs/esc/new")), Error::Parent { .. });
        let file = start().file("rootfs/f", b"x").hard_link("rootfs/esc/canary2", "rootfs/f");
        assert_refused!(file, Error::Parent { .. });
    }
    let file = Archive::image().symlink("rootfs/f", "../outside/canary").file("rootfs/f", b"dead");
    assert_refused!(file, Error::Duplicate { .. });
    // A directory that was opened already, then its name comes again as a link.
    let swapped = Archive::image().file("rootfs/d/one", b"x").symlink("rootfs/d", "../outside");
    assert_refused!(swapped, Error::Duplicate { .. });
    assert_refused!(Archive::image().file("rootfs/f", b"x").file("rootfs/f/x", b"x"), Error::Parent { .. });
}

#[test]
fn row_9_device_nodes_are_left_out_and_whiteouts_refused() {
    let device = |kind, name: &str, device| Raw { device, ..Raw::new(kind, name) };
    let archive = Archive::image()
        .add(device(b'3', "rootfs/null", (1, 3)))
        .add(device(b'4', "rootfs/disk", (254, 0)))
        .hard_link("rootfs/again", "rootfs/disk")
        .add(device(b'4', "rootfs/zero", (0, 0)));
    let (guarded, result) = unpack("devices", &archive.end());
    assert_eq!(result.expect("the rest is fine").left_out.devices, 4);
    assert_eq!(fs::read_dir(guarded.stage()).expect("the root").count(), 0);
    assert_refused!(Archive::image().add(device(b'3', "rootfs/gone", (0, 0))), Error::Whiteout { .. });
    let opaque: &[(&[u8], &[u8])] = &[(b"SCHILY.xattr.trusted.overlay.opaque", b"y")];
    assert_refused!(Archive::image().pax(b'x', opaque).directory("rootfs/d"), Error::Whiteout { .. });
}

#[test]
fn row_10_attributes_that_speak_to_the_host_are_left_out_and_capabilities_belong_to_the_images_root() {
    let capability = |version: u32, tail: &[u8]| [&version.to_le_bytes()[..], &[1, 0, 0, 0], &[0; 12], tail].concat();
    let strangers = capability(0x0300_0001, &1000u32.to_le_bytes());
    let ours = capability(0x0300_0001, &0u32.to_le_bytes());
    let archive = Archive::image()
        .pax(
            b'x',
            &[
                (b"SCHILY.xattr.trusted.evil", b"1"),
                (b"SCHILY.xattr.security.selinux", b"system_u:object_r:shadow_t:s0"),
                (b"SCHILY.xattr.security.ima", b"x"),
                (b"SCHILY.xattr.system.sockprotoname", b"x"),
                (b"SCHILY.xattr.security.capability", &strangers),
                (b"SCHILY.xattr.user.kept", b"yes"),
                (b"LIBARCHIVE.xattr.user.kept%32", b"eWVz"),
            ],
        )
        .file("rootfs/f", b"x")
        .pax(b'x', &[(b"SCHILY.xattr.security.capability", &ours)])
        .with(Raw { mode: 0o6755, size: 1, ..Raw::new(b'0', "rootfs/ping") }, b"x");
    let (guarded, result) = unpack("xattrs", &archive.end());
    assert_eq!(result.expect("the rest is fine").left_out.xattrs, 5);
    let text = support::tree(&guarded.stage());
    assert!(text.contains("user.kept=yes user.kept2=yes"), "{text}");
    assert!(!text.contains("trusted") && !text.contains("selinux"), "{text}");
    let plain = capability(0x0200_0001, b"");
    assert!(
        text.contains(&format!(
            "106755 0:0 1700000000.000000000 same-as=ping size=1 security.capability={}",
            plain.escape_ascii()
        )),
        "{text}"
    );
}

#[test]
fn row_11_owners_outside_the_images_range_are_refused() {
    for id in [65_536, 1_000_000, u64::from(u32::MAX), u64::from(u32::MAX) + 1, i64::MAX as u64] {
        let file = |raw: Raw| Archive::image().add(raw);
        assert_refused!(
            file(Raw { uid: id, ..Raw::new(b'0', "rootfs/f") }),
            Error::Owner { .. } | Error::Header { .. }
        );
        assert_refused!(
            file(Raw { gid: id, ..Raw::new(b'5', "rootfs/f") }),
            Error::Owner { .. } | Error::Header { .. }
        );
        let text = id.to_string();
        for key in [&b"uid"[..], b"gid"] {
            let archive = Archive::image().pax(b'x', &[(key, text.as_bytes())]).symlink("rootfs/l", "x");
            assert_refused!(archive, Error::Owner { .. });
        }
    }
    for negative in ["-1", "-4294967296", "+1", "0x0", "1.5", "18446744073709551616"] {
        let archive = Archive::image().pax(b'x', &[(b"uid", negative.as_bytes())]).file("rootfs/f", b"");
        assert_refused!(archive, Error::Header { problem: HeaderProblem::PaxValue("uid"), .. });
    }
    let mut block = Raw::new(b'0', "rootfs/f").block();
    block[108..116].fill(0xff);
    support::seal(&mut block);
    let mut archive = Archive::image();
    archive.0.extend_from_slice(&block);
    assert_refused!(archive, Error::Header { problem: HeaderProblem::Number("uid"), .. });
    let list: &[(&[u8], &[u8])] = &[(b"SCHILY.acl.access", b"u::rwx,u:100000:rwx,g::---,o::---")];
    assert_refused!(Archive::image().pax(b'x', list).file("rootfs/f", b""), Error::Owner { .. });
}

#[test]
fn images_for_virtual_machines_and_squashfs_are_named_as_such() {
    assert_refused!(Archive::image().file("rootfs.img", b"QFI\xfb"), Error::Unsupported { .. });
    assert_refused!(Archive::image().file("rootfs.squashfs", b"hsqs"), Error::Unsupported { what: "squashfs", .. });
    let metadata = Archive::new().file("metadata.yaml", b"architecture: x86_64\ncreation_date: 1\n").end();
    for (bytes, what) in [(&b"hsqs\0\0\0\0"[..], "squashfs"), (b"QFI\xfb\0\0", "qcow2")] {
        let guarded = Guarded::new(what);
        let result = unpack_split(metadata.as_slice(), bytes, guarded.fd(), &Options::default(), &mut |_| ());
        assert!(matches!(&result, Err(Error::Unsupported { what: found, .. }) if *found == what), "{result:?}");
    }
    for bytes in [&b""[..], b"PK\x03\x04", b"<html>", &[0x7f; 4096]] {
        let guarded = Guarded::new("unknown");
        let result = unpack_within(&guarded, bytes, Limits::default());
        assert!(matches!(result, Err(Error::UnknownFormat)), "{result:?}");
    }
}

#[test]
fn an_archive_is_unpacked_only_into_an_empty_directory() {
    let guarded = Guarded::new("not-empty");
    fs::create_dir(guarded.stage().join("here")).expect("a directory");
    let result = unpack_within(&guarded, Archive::image().end().as_slice(), Limits::default());
    assert!(matches!(result, Err(Error::Act { act: "unpack into", .. })), "{result:?}");
}

#[test]
fn pipes_are_made_without_waiting_for_a_reader() {
    let pipe = Raw { uid: 5, gid: 6, mode: 0o620, ..Raw::new(b'6', "rootfs/p") };
    let (guarded, result) = unpack("pipe", &Archive::image().add(pipe).end());
    result.expect("harmless");
    let found = fs::symlink_metadata(guarded.stage().join("p")).expect("a pipe");
    assert_eq!((found.mode(), found.uid(), found.gid()), (0o010_620, 5, 6));
}

#[test]
fn attributes_of_directories_are_those_of_the_last_entry_and_not_inherited() {
    let list: &[(&[u8], &[u8])] = &[(b"SCHILY.acl.default", b"u::rwx,u:1:rwx,g::rwx,m::rwx,o::rwx")];
    let archive = Archive::image()
        .pax(b'x', list)
        .add(Raw { mode: 0o2777, gid: 50, ..Raw::new(b'5', "rootfs/d") })
        .file("rootfs/d/f", b"x")
        .directory("rootfs/d/sub")
        .add(Raw { mode: 0o700, mtime: 5, ..Raw::new(b'5', "rootfs/twice") })
        .file("rootfs/twice/f", b"x")
        .add(Raw { mode: 0o751, mtime: 6, uid: 3, ..Raw::new(b'5', "rootfs/twice") });
    let (guarded, result) = unpack("directories-last", &archive.end());
    result.expect("harmless");
    let text = support::tree(&guarded.stage());
    assert!(
        text.contains("\"d/f\" 100644 0:0") && text.contains("\"d/sub\" 40755 0:0 1700000000.000000000\n"),
        "{text}"
    );
    assert!(text.contains("\"twice\" 40751 3:0 6.000000000\n"), "{text}");
}
