//! A machine's disk: a Debian tree by mmdebstrap, kept between runs; our files and units in it; a file system made of it.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{inside, trials};
use crate::say::say;
use crate::systemd::{self, Level, Piece};
use crate::test::Program;
use crate::workspace::Workspace;
use crate::{Result, run};

/// Debian packages that this host needs for it.
pub(crate) const PACKAGES: [&str; 3] = ["e2fsprogs", "mmdebstrap", "qemu-system-x86"];

/// What is in the machine beyond the essential: a kernel, an init, a network, and what builds images.
const INSIDE: [&str; 11] = [
    "busybox-static",
    "ca-certificates",
    "dbus",
    "iproute2",
    "kmod",
    "linux-image-cloud-amd64",
    "lxcfs",
    "mmdebstrap",
    "nftables",
    "systemd-sysv",
    "udev",
];

/// Bytes of the disk; the file is sparse.
const DISK_BYTES: u64 = 6 << 30;

/// Nothing that is tried needs them, and under emulation each costs seconds.
const MASKED: [&str; 8] = [
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@tty1.service",
    "systemd-networkd-wait-online.service",
];

/// The unit that runs the checks.
const CHECKS: &str = "[Unit]\n\
    Description=Checks of this machine\n\
    After=systemd-networkd.service systemd-user-sessions.service\n\
    [Service]\n\
    ExecStart=/usr/local/bin/xtask vm-inside\n\
    StandardOutput=journal+console\n";

const NETWORK: &str = "[Match]\nName=en*\n[Network]\nDHCP=ipv4\n";

/// A release of Debian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Release {
    pub(crate) number: u32,
    name: &'static str,
}

impl Release {
    pub(crate) const TWELVE: Release = Release { number: 12, name: "bookworm" };
    pub(crate) const THIRTEEN: Release = Release { number: 13, name: "trixie" };
}

/// A disk and what is needed to boot it.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) image: PathBuf,
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
    directory: PathBuf,
}

impl Disk {
    /// The machine's console.
    pub(crate) fn console(&self) -> PathBuf {
        self.directory.join("console.log")
    }

    /// What its checks say.
    pub(crate) fn results(&self) -> PathBuf {
        self.directory.join("results.log")
    }

    /// Frees the space; logs stay.
    pub(crate) fn remove(&self) {
        let _ = fs::remove_file(&self.image);
    }
}

/// Why this host cannot have such a machine.
pub(crate) fn impossible(release: Release) -> Option<String> {
    if std::env::consts::ARCH != "x86_64" {
        return Some(format!("machines are only built for x86_64 yet, and this is {}", std::env::consts::ARCH));
    }
    let host = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let host = host.lines().find_map(|line| line.strip_prefix("VERSION_ID="))?.trim_matches('"').parse::<u32>().ok()?;
    (host > release.number).then(|| {
        format!("programs built on Debian {host} do not run on the older Debian {}: build there", release.number)
    })
}

fn directory(workspace: &Workspace, release: Release) -> PathBuf {
    workspace.target.join("vm").join(format!("debian-{}", release.number))
}

/// Throws the kept tree away.
pub(crate) fn forget(workspace: &Workspace, release: Release) -> Result<()> {
    let directory = directory(workspace, release);
    match fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("remove {}: {error}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// A disk with the product as it is built now.
pub(crate) fn build(workspace: &Workspace, release: Release, programs: &[Program]) -> Result<Disk> {
    let tree = prepare(workspace, release)?;
    let directory = directory(workspace, release);
    let own = std::env::current_exe().map_err(|e| format!("find the own program: {e}"))?;
    let own = Piece { from: own, to: "/usr/local/bin/xtask".into(), mode: 0o755 };
    let mut pieces = systemd::pieces(workspace, Level::Package);
    pieces.extend(trials::pieces(workspace, programs)?);
    for piece in pieces.into_iter().chain([own]).chain(guest(workspace)) {
        systemd::put(&piece, &tree)?;
    }
    run::captured(Command::new("chroot").arg(&tree).args(["systemctl", "enable", "--quiet"]).args(systemd::UNITS))?;
    let (kernel, initrd) = (find(&tree.join("boot"), "vmlinuz-")?, find(&tree.join("boot"), "initrd.img-")?);
    let disk = Disk { image: directory.join("disk.ext4"), kernel, initrd, directory };
    let failed = |e: std::io::Error| format!("make {}: {e}", disk.image.display());
    let _ = fs::remove_file(&disk.image);
    File::create(&disk.image).and_then(|file| file.set_len(DISK_BYTES)).map_err(failed)?;
    let mut format = Command::new("mke2fs");
    format.args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-E", "lazy_itable_init=1,root_owner=0:0", "-d"]);
    run::captured(format.arg(&tree).arg(&disk.image))?;
    Ok(disk)
}

/// The image of a full guest as the host's ring built it by its recipe: under emulation that takes four minutes. Where
/// that did not run, the machine builds its own.
fn guest(workspace: &Workspace) -> Option<Piece> {
    let from = trials::kept(workspace, "debian-13.tar.zst");
    let modified = |path: &Path| fs::metadata(path).and_then(|file| file.modified()).ok();
    let is_new = modified(&from) > modified(&workspace.root.join("images/debian-13.toml"));
    is_new.then(|| Piece { from, to: inside::GUEST.into(), mode: 0o644 })
}

/// Where the tree is, once it was made.
pub(crate) fn tree(workspace: &Workspace, release: Release) -> PathBuf {
    directory(workspace, release).join("tree")
}

/// Has the tree, at first without our files; what is slow about a machine. It is complete when it has its name.
pub(crate) fn prepare(workspace: &Workspace, release: Release) -> Result<PathBuf> {
    let directory = directory(workspace, release);
    let tree = self::tree(workspace, release);
    let list = directory.join("packages");
    let wanted = format!("{} {}\n", release.name, INSIDE.join(" "));
    if tree.exists() && fs::read_to_string(&list).is_ok_and(|there| there == wanted) {
        return Ok(tree);
    }
    say!("building a Debian {} system of {} with mmdebstrap", release.number, INSIDE.join(" "));
    let partial = directory.join("tree.partial");
    for old in [&tree, &partial] {
        if old.exists() {
            fs::remove_dir_all(old).map_err(|e| format!("remove {}: {e}", old.display()))?;
        }
    }
    fs::create_dir_all(&directory).map_err(|e| format!("make {}: {e}", directory.display()))?;
    let mut build = Command::new("mmdebstrap");
    build.args(["--quiet", "--mode=root", "--variant=minbase", "--format=directory"]);
    build.arg(format!("--include={}", INSIDE.join(","))).arg(release.name).arg(&partial);
    run::captured(&mut build)?;
    furnish(&partial).map_err(|e| format!("furnish {}: {e}", partial.display()))?;
    let keep = || fs::rename(&partial, &tree).and_then(|()| fs::write(&list, wanted));
    keep().map_err(|e| format!("keep {}: {e}", tree.display()))?;
    Ok(tree)
}

fn furnish(tree: &Path) -> std::io::Result<()> {
    let etc = tree.join("etc");
    fs::write(etc.join("hostname"), "machine\n")?;
    fs::write(etc.join("hosts"), "127.0.0.1 localhost machine\n")?;
    fs::write(etc.join("fstab"), "/dev/vda / ext4 defaults,noatime 0 0\n")?;
    // Made at the first boot.
    fs::write(etc.join("machine-id"), "")?;
    let _ = fs::remove_file(etc.join("resolv.conf"));
    // The emulator's own.
    fs::write(etc.join("resolv.conf"), "nameserver 10.0.2.3\n")?;
    fs::write(etc.join("systemd/network/10-machine.network"), NETWORK)?;
    let units = etc.join("systemd/system");
    fs::write(units.join("checks.service"), CHECKS)?;
    let wanted = units.join("multi-user.target.wants");
    fs::create_dir_all(&wanted)?;
    symlink("../checks.service", wanted.join("checks.service"))?;
    symlink("/usr/lib/systemd/system/systemd-networkd.service", wanted.join("systemd-networkd.service"))?;
    for unit in MASKED {
        let _ = fs::remove_file(units.join(unit));
        symlink("/dev/null", units.join(unit))?;
    }
    Ok(())
}

/// The one file whose name begins so.
fn find(directory: &Path, start: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(directory).map_err(|e| format!("read {}: {e}", directory.display()))?;
    let mut found = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(start));
    found.next().map(|entry| entry.path()).ok_or_else(|| format!("there is no {start}* in {}", directory.display()))
}
