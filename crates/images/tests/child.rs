//! The real thing: a child that is root only in a user namespace unpacks and builds through an id-mapped descriptor.
//!
//! A program of its own, not one of the usual test threads, because only a process with one thread may be copied. It needs
//! root, `mmdebstrap` and the distribution's mirror, and fails without them. `cargo test -p images --test child NAME` runs
//! what contains NAME.
#![allow(clippy::print_stdout, reason = "it is its own test runner")]

#[path = "support/child.rs"]
mod child;
mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use images::recipe::{Architecture, Recipe};
use images::unpack::{Options, unpack_unified};
use images::{Limits, build};
use support::{Archive, Raw, Scratch};

type Test = fn();

const TESTS: [(&str, Test); 6] = [
    ("ids_land_unshifted_and_capabilities_stay_plain", ids_land_unshifted_and_capabilities_stay_plain),
    ("a_confined_child_cannot_open_anything_by_path", a_confined_child_cannot_open_anything_by_path),
    ("the_busybox_recipe_gives_a_tree_that_runs", the_busybox_recipe_gives_a_tree_that_runs),
    ("the_debian_12_recipe_gives_a_system_that_is_ready_to_boot", || debian_is_ready_to_boot("debian/12", "12")),
    ("the_debian_13_recipe_gives_a_system_that_is_ready_to_boot", || debian_is_ready_to_boot("debian", "13")),
    ("a_mirror_that_does_not_answer_ends_in_the_builders_own_words", a_mirror_that_does_not_answer),
];

/// Says that this process is there for one test.
const ONE: &str = "--one";

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if std::env::args().any(|argument| argument == "--list") {
        TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let chosen: Vec<_> = TESTS
        .iter()
        .filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|wanted| name.contains(wanted)))
        .collect();
    if std::env::args().any(|argument| argument == ONE) {
        return if chosen.iter().all(|(name, test)| holds(name, *test)) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    // All at once, as they wait for the mirror most of the time; each in a process of its own.
    let program = std::env::current_exe().expect("the path of this program");
    let start = |(name, _): &&(&str, Test)| Command::new(&program).args([ONE, name]).spawn().expect("a process");
    let running: Vec<_> = chosen.iter().map(start).collect();
    let ended = running.into_iter().map(|mut process| process.wait().expect("its end").success());
    let (passed, failed): (Vec<bool>, Vec<bool>) = ended.partition(|good| *good);
    let word = if failed.is_empty() { "ok" } else { "FAILED" };
    println!("\ntest result: {word}. {} passed; {} failed; 0 ignored", passed.len(), failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a test in this process's one thread. Its panic message is printed before the unwinding ends here.
fn holds(name: &str, test: Test) -> bool {
    let begin = Instant::now();
    let good = std::panic::catch_unwind(test).is_ok();
    println!("test {name} ... {} ({:.1} s)", if good { "ok" } else { "FAILED" }, begin.elapsed().as_secs_f64());
    good
}

fn text(error: images::Error) -> String {
    match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn ids_land_unshifted_and_capabilities_stay_plain() {
    let scratch = Scratch::new("child-ids");
    let stage = scratch.directory("stage");
    let capability = [&0x0200_0001u32.to_le_bytes()[..], &0x2000u32.to_le_bytes(), &[0; 12]].concat();
    let archive = Archive::image()
        .add(Raw { uid: 1000, gid: 1001, mode: 0o4755, ..Raw::new(b'0', "rootfs/owned") })
        .add(Raw { uid: 65_535, gid: 65_535, mode: 0o2750, ..Raw::new(b'5', "rootfs/d") })
        .add(Raw { uid: 7, gid: 8, ..Raw::link(b'2', "rootfs/l", "owned") })
        .pax(b'x', &[(b"SCHILY.xattr.security.capability", &capability), (b"SCHILY.xattr.user.a", b"b")])
        .file("rootfs/ping", b"x")
        .pax(b'x', &[(b"SCHILY.acl.access", b"u::rw-,u:1000:rw-,g::r--,m::rw-,o::---")])
        .file("rootfs/acl", b"x")
        .hard_link("rootfs/again", "rootfs/owned")
        .end();
    let said = child::in_child(&stage, None, |root| {
        child::confine(root)?;
        unpack_unified(archive.as_slice(), root, &Options::default(), &mut |_| ()).map(drop).map_err(text)?;
        Ok("done".to_owned())
    });
    assert_eq!(said.as_deref(), Ok("done"));
    let tree = support::tree(&stage);
    for line in [
        "\"\" 40755 0:0 ",
        "\"owned\" 104755 1000:1001 ",
        "\"again\" 104755 1000:1001 1700000000.000000000 same-as=again",
        "\"d\" 42750 65535:65535 ",
        "\"l\" 120777 7:8 ",
    ] {
        assert!(tree.contains(line), "{line} is missing in\n{tree}");
    }
    assert!(tree.contains(&format!("security.capability={} user.a=b", capability.escape_ascii())), "{tree}");
    let list =
        images::acl::Acl::from_text(b"u::rw-,u:1000:rw-,g::r--,m::rw-,o::---").expect("well formed").0.to_xattr();
    assert!(tree.contains(&format!("system.posix_acl_access={}", list.escape_ascii())), "{tree}");
}

fn a_confined_child_cannot_open_anything_by_path() {
    let scratch = Scratch::new("child-confined");
    let stage = scratch.directory("stage");
    let said = child::in_child(&stage, None, |root| {
        let before = fs::read("/etc/passwd").is_ok();
        child::confine(root)?;
        let after = fs::read("/etc/passwd").err().and_then(|error| error.raw_os_error());
        let inside = rustix::fs::mkdirat(root, "made", rustix::fs::Mode::RWXU).is_ok();
        Ok(format!("{before} {after:?} {inside}"))
    });
    assert_eq!(said.as_deref(), Ok("true Some(13) true"));
}

/// Builds a recipe into `stage` as the keeper's child does.
fn build_into(scratch: &Scratch, stage: &Path, recipe: &Recipe) -> Result<String, String> {
    let work = scratch.directory("scratch");
    // As the state directory is: closed to all but the host's root.
    fs::set_permissions(&scratch.path, fs::Permissions::from_mode(0o700)).expect("permissions");
    let architecture = Architecture::host().expect("an architecture with recipes");
    let said = child::in_child(stage, Some(&work), |root| {
        let building = build::start(recipe, architecture, Path::new("/tmp")).map_err(text)?;
        child::confine(root)?;
        let mut stages = Vec::new();
        let built = building.finish(root, &Limits::default(), &mut |progress| {
            if stages.last().is_none_or(|last| last != progress.stage) {
                stages.push(progress.stage.to_owned());
            }
        });
        let built = built.map_err(text)?;
        assert!(stages.iter().any(|stage| stage.starts_with("downloading")), "{stages:?}");
        Ok(format!("{} entries, {} bytes, {:?}", built.entries, built.bytes, built.left_out))
    });
    assert_eq!(fs::read_dir(&work).expect("the scratch").count(), 0, "the builder left something behind");
    said
}

fn recipe(name: &str) -> Recipe {
    let recipes = Recipe::built_in().expect("ours");
    recipes.into_iter().find(|recipe| recipe.names().any(|known| known == name)).expect("a recipe of that name")
}

/// What a program in the tree says.
fn run(root: &Path, command: &[&str]) -> String {
    let output = Command::new("chroot").arg(root).args(command).env_clear().env("PATH", "/usr/sbin:/usr/bin").output();
    let output = output.expect("chroot");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode()
}

fn the_busybox_recipe_gives_a_tree_that_runs() {
    let scratch = Scratch::new("child-busybox");
    let stage = scratch.directory("stage");
    let said = build_into(&scratch, &stage, &recipe("busybox")).expect("a tree");
    println!("  {said}");
    assert_eq!(run(&stage, &["/bin/sh", "-c", "echo hello | tr h j; id -u"]), "jello\n0");
    // Every link leads to an applet that this busybox has.
    let applets = run(&stage, &["/bin/busybox", "--list"]);
    for directory in ["usr/bin", "usr/sbin"] {
        for found in fs::read_dir(stage.join(directory)).expect("a directory") {
            let name = found.expect("an entry").file_name().into_string().expect("text");
            assert!(applets.lines().any(|applet| applet == name), "{name} is no applet");
        }
    }
    assert_eq!(mode(&stage.join("tmp")) & 0o7777, 0o1777);
    assert_eq!(mode(&stage.join("root")) & 0o7777, 0o700);
    assert_eq!(fs::metadata(stage.join("usr/bin/busybox")).expect("the program").uid(), 0);
    let target = fs::read_link(stage.join("usr/sbin/init")).expect("init");
    assert_eq!(target, Path::new("../bin/busybox"));
    assert!(fs::read_dir(stage.join("dev")).expect("/dev").next().is_none());
}

fn debian_is_ready_to_boot(name: &str, version: &str) {
    let scratch = Scratch::new(&format!("child-debian-{version}"));
    let stage = scratch.directory("stage");
    let said = build_into(&scratch, &stage, &recipe(name)).expect("a tree");
    println!("  {said}");
    let at = |path: &str| stage.join(path);
    assert!(run(&stage, &["sh", "-c", ". /etc/os-release; echo $VERSION_ID"]).starts_with(version));
    assert_eq!(run(&stage, &["dpkg", "--audit"]), "");
    assert!(run(&stage, &["/usr/lib/systemd/systemd", "--version"]).starts_with("systemd "));
    for unit in ["systemd-networkd", "systemd-resolved"] {
        assert_eq!(run(&stage, &["systemctl", "is-enabled", unit]), "enabled");
    }
    assert_eq!(run(&stage, &["sh", "-c", "LANG=C.UTF-8 locale charmap"]), "UTF-8");
    assert_eq!(fs::read(at("etc/machine-id")).expect("a file"), b"");
    assert!(fs::read_link(at("etc/resolv.conf")).expect("a link").ends_with("run/systemd/resolve/stub-resolv.conf"));
    for absent in ["etc/hostname", "etc/apt/apt.conf.d/99mmdebstrap", "etc/dpkg/dpkg.cfg.d/99mmdebstrap"] {
        assert!(fs::symlink_metadata(at(absent)).is_err(), "{absent} is the builder's");
    }
    for empty in ["dev", "run", "tmp", "var/lib/apt/lists", "var/cache/ldconfig"] {
        assert!(fs::read_dir(at(empty)).is_ok_and(|mut found| found.next().is_none()), "{empty} is not empty");
    }
    let suite = if version == "12" { "bookworm" } else { "trixie" };
    let sources = fs::read_to_string(at("etc/apt/sources.list")).expect("sources");
    for part in ["", "-updates", "-security"] {
        assert!(sources.contains(&format!(" {suite}{part} main\n")), "{sources}");
    }
    // Ids as Debian gives them, not those of the namespace.
    let shadow = fs::metadata(at("etc/shadow")).expect("shadow");
    assert_eq!((shadow.uid(), shadow.gid(), shadow.mode() & 0o7777), (0, 42, 0o640));
    assert_eq!(mode(&at("usr/bin/passwd")) & 0o7777, 0o4755);
    let kilobytes: u64 =
        run(&stage, &["du", "-sk", "/"]).split('\t').next().and_then(|n| n.parse().ok()).expect("a size");
    println!("  {} MB on disk", kilobytes / 1000);
    assert!(kilobytes < 150_000, "{kilobytes} kB is not lean");
}

fn a_mirror_that_does_not_answer() {
    let scratch = Scratch::new("child-mirror");
    let stage = scratch.directory("stage");
    let text = include_str!("../../../images/busybox.toml");
    // The discard port of this machine: refused at once.
    let recipe = Recipe::parse("t", &text.replace("http://deb.debian.org", "http://127.0.0.1:9")).expect("a recipe");
    let error = build_into(&scratch, &stage, &recipe).expect_err("no mirror there");
    assert!(error.contains("mmdebstrap failed") && error.contains("127.0.0.1"), "{error}");
    assert!(stage.read_dir().expect("the stage").next().is_none());
}
