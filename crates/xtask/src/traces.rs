//! What a daemon may have left on this machine: processes, mounts, control groups, links, tables, settings, files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::places::Places;
use crate::process::{self, Process};
use crate::programs::{DAEMON, KEEPER};

/// The file in the state directory that says which settings of the host were changed: `key old new` a line.
const SETTINGS: &str = "host-settings";
/// Where daemons say what they took.
pub(crate) const CLAIMS: &str = "/run/lock/sysctl";

/// A setting of the host that a daemon changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    key: String,
    old: String,
    new: String,
}

/// Settings that the daemon of `places` changed. To be read before it leaves.
pub(crate) fn settings(places: &Places) -> Vec<Setting> {
    parse_settings(&fs::read_to_string(places.state.join(SETTINGS)).unwrap_or_default())
}

fn parse_settings(text: &str) -> Vec<Setting> {
    let line = |line: &str| {
        let mut words = line.split(' ').map(str::to_owned);
        Some(Setting { key: words.next()?, old: words.next()?, new: words.next()? })
    };
    text.lines().filter_map(line).collect()
}

/// Everything of a daemon that still is on this machine, each in words. `changed` are [`settings`] of before.
pub(crate) fn all(places: &Places, changed: &[Setting]) -> Vec<String> {
    let mark = places.mark();
    let mut found = Vec::new();
    found.extend(
        process::all()
            .iter()
            .filter(|process| is_theirs(process, places))
            .map(|process| format!("process {} ({})", process.pid, process.words.join(" "))),
    );
    found.extend(mounts(places).into_iter().map(|line| format!("mount {line}")));
    let name = format!("sysctl-{mark}");
    found.extend(groups(&|found| found == name).into_iter().map(|path| format!("control group {}", path.display())));
    let alias = format!("sysctl:{mark}:");
    found.extend(
        links().into_iter().filter(|(_, found)| found.starts_with(&alias)).map(|(link, _)| format!("link {link}")),
    );
    match crate::nft::tables() {
        Ok(tables) => {
            found.extend(tables.into_iter().filter(|table| *table == name).map(|table| format!("nft table {table}")))
        }
        Err(error) => found.push(format!("the firewall could not be looked at: {error}")),
    }
    for Setting { key, old, new } in changed {
        let now = fs::read_to_string(Path::new("/proc/sys").join(key)).unwrap_or_default();
        if old != new && now.trim() == new {
            found.push(format!("setting {key} is {new}, was {old} before"));
        }
    }
    let files = [places.state.clone(), places.runtime.clone(), Path::new(CLAIMS).join(&mark)];
    found.extend(files.iter().filter(|path| path.exists()).map(|path| format!("file {}", path.display())));
    found
}

/// Whether a process is one of the product's that works in these directories.
fn is_theirs(process: &Process, places: &Places) -> bool {
    if !matches!(process.name(), DAEMON | KEEPER) {
        return false;
    }
    let environment = fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
    let environment = String::from_utf8_lossy(&environment);
    let dirs = [&places.state, &places.runtime];
    let named = |text: &str| dirs.iter().any(|directory| mentions(text, directory));
    // Keepers are told apart by the files that they hold open.
    let files = fs::read_dir(format!("/proc/{}/fd", process.pid)).into_iter().flatten().flatten();
    let mut files = files.filter_map(|file| fs::read_link(file.path()).ok());
    process.words.iter().skip(1).any(|word| named(word))
        || environment.split('\0').any(named)
        || files.any(|file| named(&file.to_string_lossy()))
}

/// Whether a text holds the path, or one below it.
fn mentions(text: &str, path: &Path) -> bool {
    let path = path.to_string_lossy();
    let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.'));
    text.match_indices(&*path).any(|(at, _)| ends(&text[at + path.len()..]))
}

/// Mounts of any process at, of, or from below these directories.
fn mounts(places: &Places) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut found = BTreeSet::new();
    for pid in process::pids() {
        // Threads of one namespace show the same.
        let namespace = fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap_or_default();
        if !seen.insert(namespace) {
            continue;
        }
        let text = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        let ours = |line: &&str| mentions(line, &places.state) || mentions(line, &places.runtime);
        found.extend(
            text.lines()
                .filter(ours)
                .filter(|line| !is_cover(line, places))
                .map(|line| format!("{line} (process {pid})")),
        );
    }
    found
}

/// A directory of ours may itself be a mount that the administrator made.
fn is_cover(line: &str, places: &Places) -> bool {
    let point = line.split(' ').nth(4).unwrap_or_default();
    Path::new(point) == places.state || Path::new(point) == places.runtime
}

/// Control groups whose own name `wanted` accepts, in every hierarchy, where a daemon may put them.
pub(crate) fn groups(wanted: &dyn Fn(&str) -> bool) -> Vec<PathBuf> {
    // /sys/fs/cgroup / <hierarchy> / <slice> / <unit> / <group>
    const DEPTH: usize = 5;
    let mut found = Vec::new();
    let mut open = vec![(PathBuf::from("/sys/fs/cgroup"), 0)];
    while let Some((directory, depth)) = open.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if entry.file_name().to_str().is_some_and(wanted) {
                found.push(entry.path());
            } else if depth + 1 < DEPTH {
                open.push((entry.path(), depth + 1));
            }
        }
    }
    found.sort();
    found
}

/// Links of this network namespace that have an alias, with it.
pub(crate) fn links() -> Vec<(String, String)> {
    let alias = |entry: fs::DirEntry| {
        let alias = fs::read_to_string(entry.path().join("ifalias")).ok()?;
        Some((entry.file_name().into_string().ok()?, alias.trim().to_owned())).filter(|(_, alias)| !alias.is_empty())
    };
    fs::read_dir("/sys/class/net").into_iter().flatten().flatten().filter_map(alias).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Places {
        Places { state: "/var/lib/sysctl".into(), runtime: "/run/sysctl".into() }
    }

    #[test]
    fn a_path_is_not_taken_for_a_longer_one() {
        let state = Path::new("/var/lib/sysctl");
        for text in
            ["/var/lib/sysctl", "upperdir=/var/lib/sysctl/pools/x", "A=/var/lib/sysctl:x", "31 /var/lib/sysctl rw"]
        {
            assert!(mentions(text, state), "{text}");
        }
        for text in ["/var/lib/sysctl2", "/var/lib/sysctl-other/x", "/var/lib", ""] {
            assert!(!mentions(text, state), "{text}");
        }
    }

    #[test]
    fn a_mount_that_covers_a_directory_is_the_administrators() {
        assert!(is_cover("31 1 0:5 / /var/lib/sysctl rw - ext4 /dev/sdb rw", &places()));
        assert!(!is_cover("31 1 0:5 / /var/lib/sysctl/x rw - overlay overlay rw", &places()));
    }

    #[test]
    fn only_programs_of_the_product_are_theirs() {
        let process =
            |words: &[&str]| Process { pid: 0x3fff_ffff, words: words.iter().map(|w| (*w).to_owned()).collect() };
        assert!(is_theirs(&process(&["/x/sysctl-keeper", "spawn", "--socket", "/run/sysctl/spawn.socket"]), &places()));
        assert!(!is_theirs(&process(&["less", "/var/lib/sysctl/sysctld.log"]), &places()));
        assert!(!is_theirs(&process(&["sysctld", "--state-dir", "/srv/other"]), &places()));
    }

    #[test]
    fn settings_are_key_old_and_new() {
        let read = parse_settings("net/ipv4/ip_forward 0 1\nbroken\n");
        assert_eq!(read, [Setting { key: "net/ipv4/ip_forward".into(), old: "0".into(), new: "1".into() }]);
    }
}
