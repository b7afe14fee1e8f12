//! Root file systems for tests.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// A statically linked busybox (Debian's `busybox-static`).
pub const BUSYBOX: &str = "/bin/busybox";

/// A root file system with busybox, its applets and an init that runs `script` as a shell.
///
/// # Panics
/// When it cannot be made.
pub fn busybox(root: &Path, script: &str) {
    for directory in ["bin", "sbin", "etc", "proc", "sys", "dev", "run", "tmp", "root", "var"] {
        fs::create_dir_all(root.join(directory)).expect("mkdir");
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).expect("chmod");
    fs::copy(BUSYBOX, root.join("bin/busybox")).expect("busybox-static is installed");
    let applets = std::process::Command::new(BUSYBOX).arg("--list").output().expect("busybox runs");
    for applet in String::from_utf8_lossy(&applets.stdout).lines().filter(|a| !matches!(*a, "busybox" | "init")) {
        let _ = symlink("busybox", root.join("bin").join(applet));
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n").expect("write");
    fs::write(root.join("sbin/init"), format!("#!/bin/sh\n{script}\n")).expect("write");
    fs::set_permissions(root.join("sbin/init"), fs::Permissions::from_mode(0o755)).expect("chmod");
}

/// A script for [`busybox`] that reaps, and halts or reboots when told as sysvinit would be.
pub const IDLE: &str = "trap 'poweroff -f' PWR INT TERM; while :; do sleep 1000 & wait $!; done";
