//! The three programs of the product: built, and found.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::workspace::{Workspace, cargo};
use crate::{Result, run};

/// The daemon.
pub(crate) const DAEMON: &str = "sysctld";
/// The helper that stands between daemon and guests.
pub(crate) const KEEPER: &str = "sysctl-keeper";
/// The client.
pub(crate) const CLIENT: &str = "sysctl-cli";

/// All of them.
pub(crate) const ALL: [&str; 3] = [DAEMON, KEEPER, CLIENT];

/// What people see of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Cargo's own progress: the first build takes minutes.
    All,
    /// Complaints alone, where somebody else tells what goes on.
    Complaints,
}

/// Builds all three for use.
pub(crate) fn build(workspace: &Workspace, seen: Seen) -> Result<()> {
    let build = |verb: &str| {
        let mut command = cargo();
        command.current_dir(&workspace.root).args([verb, "--release"]);
        if seen == Seen::Complaints {
            command.arg("--quiet");
        }
        command
    };
    run::shown(build("build").args(["-p", DAEMON, "-p", CLIENT]))?;
    let mut keeper = build("rustc");
    // Static and at a fixed address: it is exec'd for each guest, and nothing of the host's is there to be found by it.
    keeper.args(["-p", "keeper", "--bin", KEEPER, "--"]);
    run::shown(keeper.args(["-C", "target-feature=+crt-static", "-C", "relocation-model=static"]))?;
    let keeper = workspace.release().join(KEEPER);
    let bytes = std::fs::read(&keeper).map_err(|e| format!("read {}: {e}", keeper.display()))?;
    if has_interpreter(&bytes) != Some(false) {
        return Err(format!("{} is not a static program, as keepers must be", keeper.display()));
    }
    Ok(())
}

/// Whether a 64-bit little-endian ELF file asks for a dynamic loader (elf(5)); `None` when it is no such file.
fn has_interpreter(elf: &[u8]) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    let number = |at: usize, length: usize| -> Option<usize> {
        let bytes = elf.get(at..at.checked_add(length)?)?;
        Some(bytes.iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
    };
    if elf.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for entry in 0..count {
        if number(table + entry * size, 4)? == PT_INTERP as usize {
            return Some(true);
        }
    }
    Some(false)
}

/// Our client, speaking to the daemon at `socket`.
pub(crate) fn client(directory: &Path, socket: &Path) -> Command {
    let mut command = Command::new(directory.join(CLIENT));
    command.env("SYSCTL_SOCKET", socket);
    command
}

/// A program where `up` installs it, or where it was built: the first that exists.
pub(crate) fn installed_or_built(workspace: &Workspace, name: &str) -> Option<PathBuf> {
    let places = [crate::systemd::installed(name), workspace.release().join(name)];
    places.into_iter().find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(kinds: &[u32]) -> Vec<u8> {
        let mut bytes = vec![0u8; 64];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = kinds.len() as u8;
        for kind in kinds {
            bytes.extend(kind.to_le_bytes());
            bytes.extend([0; 52]);
        }
        bytes
    }

    #[test]
    fn programs_with_a_loader_are_told_from_static_ones() {
        assert_eq!(has_interpreter(&elf(&[6, 1, 1])), Some(false));
        assert_eq!(has_interpreter(&elf(&[6, 3, 1])), Some(true));
        assert_eq!(has_interpreter(b"#!/bin/sh"), None);
        assert_eq!(has_interpreter(&elf(&[1])[..66]), None);
    }
}
