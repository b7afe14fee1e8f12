//! Debian packages by name: which are missing, and having them installed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::say::say;
use crate::{Result, run};

/// What building and running need beyond a Rust toolchain: a linker, and what builds images.
pub(crate) const RUN: [&str; 4] = ["gcc", "libc6-dev", "mmdebstrap", "debian-archive-keyring"];

/// What tests on the real host call in addition.
pub(crate) const TEST: [&str; 12] = [
    "busybox-static",
    "ca-certificates",
    "coreutils",
    "e2fsprogs",
    "gnupg",
    "iproute2",
    "iputils-ping",
    "lxcfs",
    "nftables",
    "sqlite3",
    "strace",
    "util-linux",
];

/// Which of `names` are not installed.
pub(crate) fn missing(names: &[&'static str]) -> Result<Vec<&'static str>> {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat", "${Package} ${db:Status-Status}\n"]).args(names);
    // It fails when a name is unknown to it, and tells of the others all the same.
    let (_, output, _) = run::all(&mut query).map_err(|e| format!("this is no Debian system? {e}"))?;
    let installed = installed(&output);
    Ok(names.iter().copied().filter(|name| !installed.contains(name)).collect())
}

fn installed(query: &str) -> BTreeSet<&str> {
    query.lines().filter_map(|line| line.strip_suffix(" installed")).collect()
}

/// Installs what is missing, and prints which. Returns whether anything was.
pub(crate) fn ensure(names: &[&'static str]) -> Result<bool> {
    let missing = missing(names)?;
    if missing.is_empty() {
        return Ok(false);
    }
    crate::need_root(&format!("installing {}", missing.join(" ")))?;
    say!("installing Debian packages: {}", missing.join(" "));
    update()?;
    let Err(error) = install(&missing, None) else { return Ok(true) };
    // What came from backports before breaks the release's own packages beside it: qemu-utils does that to qemu-system-x86.
    let sources = read_sources(Path::new(SOURCES));
    let suite = backports(&codename()?);
    mirror(&sources, &suite).ok_or(error)?;
    say!("they do not go together with what is installed: taking them from {suite}");
    install(&missing, Some(&suite))?;
    Ok(true)
}

/// Where lists of sources are (sources.list(5)).
const SOURCES: &str = "/etc/apt/sources.list.d";

/// The name of this release of Debian.
fn codename() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").map_err(|e| format!("read /etc/os-release: {e}"))?;
    let name = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name.unwrap_or("bookworm").to_owned())
}

fn backports(codename: &str) -> String {
    format!("{codename}-backports")
}

/// Fetches the lists of packages.
fn update() -> Result<()> {
    run::captured(apt_get().args(["update", "-qq"])).map(drop)
}

fn install(names: &[&str], suite: Option<&str>) -> Result<()> {
    let mut command = apt_get();
    command.args(["install", "-qq", "--yes", "--no-install-recommends"]);
    if let Some(suite) = suite {
        command.args(["--target-release", suite]);
    }
    run::captured(command.args(names)).map(drop)
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8");
    command
}

/// Has the stock client, from backports where the release itself has none (Debian 12).
pub(crate) fn ensure_stock_client() -> Result<bool> {
    const NAME: &str = "incus-client";
    if missing(&[NAME])?.is_empty() {
        return Ok(false);
    }
    crate::need_root("installing the stock client")?;
    say!("installing Debian packages: {NAME}");
    update()?;
    let policy = run::captured(Command::new("apt-cache").args(["policy", NAME]))?;
    if has_candidate(&policy) {
        install(&[NAME], None)?;
        return Ok(true);
    }
    let codename = codename()?;
    let suite = backports(&codename);
    let sources = Path::new(SOURCES);
    let mirror = mirror(&read_sources(sources), &codename).ok_or("no mirror of this Debian release is configured")?;
    let file = sources.join("backports.list");
    say!("adding {suite} of {mirror} as {}", file.display());
    fs::write(&file, format!("deb {mirror} {suite} main\n")).map_err(|e| format!("write {}: {e}", file.display()))?;
    update()?;
    install(&[NAME], Some(&suite))?;
    Ok(true)
}

fn has_candidate(policy: &str) -> bool {
    policy.lines().any(|line| line.trim().strip_prefix("Candidate: ").is_some_and(|version| version != "(none)"))
}

/// All lines of all source lists.
fn read_sources(directory: &Path) -> String {
    let mut text = fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "list" || extension == "sources") {
            text.push('\n');
            text.push_str(&fs::read_to_string(path).unwrap_or_default());
            text.push_str("\n\n");
        }
    }
    text
}

/// The mirror that a suite comes from, by one-line entries or by stanzas (sources.list(5)).
fn mirror(sources: &str, suite: &str) -> Option<String> {
    let one_line = sources.lines().find_map(|line| {
        let mut words = line.split_whitespace().filter(|word| !word.starts_with('[') && !word.ends_with(']'));
        (words.next() == Some("deb")).then_some(())?;
        let address = words.next()?;
        (words.next() == Some(suite)).then(|| address.to_owned())
    });
    let stanza = || {
        sources.split("\n\n").find_map(|stanza| {
            let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name));
            let suites = field("Suites:")?;
            suites.split_whitespace().any(|one| one == suite).then_some(())?;
            field("URIs:")?.split_whitespace().next().map(str::to_owned)
        })
    };
    one_line.or_else(stanza)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_installed_packages_count() {
        let found = installed("gcc installed\nincus config-files\nmmdebstrap installed\n");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["gcc", "mmdebstrap"]);
    }

    #[test]
    fn the_mirror_is_found_in_both_forms() {
        let stanzas = "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n\nTypes: deb\n\
                       URIs: http://security.example\nSuites: bookworm-security\n";
        assert_eq!(mirror(stanzas, "bookworm").as_deref(), Some("http://mirror.example/debian"));
        assert_eq!(mirror(stanzas, "bookworm-security").as_deref(), Some("http://security.example"));
        let line = "# deb http://no bookworm main\ndeb [trusted=yes] http://mirror.example/debian bookworm main\n";
        assert_eq!(mirror(line, "bookworm").as_deref(), Some("http://mirror.example/debian"));
        assert_eq!(mirror(line, "trixie"), None);
    }

    #[test]
    fn a_candidate_is_a_version() {
        assert!(has_candidate("incus:\n  Installed: (none)\n  Candidate: 6.0.4-2\n"));
        assert!(!has_candidate("incus:\n  Installed: (none)\n  Candidate: (none)\n"));
        assert!(!has_candidate(""));
    }
}
