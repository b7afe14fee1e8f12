//! What tests leave behind on the host: objects that carry the number of a test program that has ended, and objects of
//! daemons whose state directory is gone.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::{process, traces};

/// Directories that tests make their own below.
const SCRATCH: [&str; 2] = ["/var/tmp", "/tmp"];

/// Everything that names one of the given processes, which have ended, and whatever is an orphan now but was none before.
pub(crate) fn of(pids: &BTreeSet<u32>, before: &BTreeSet<String>) -> Vec<String> {
    let theirs = |text: &str| pids.iter().any(|pid| carries(text, *pid));
    let mut found = Vec::new();
    for directory in SCRATCH {
        let names = fs::read_dir(directory).into_iter().flatten().flatten();
        let names = names.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| theirs(name));
        found.extend(names.map(|name| format!("file {directory}/{name}")));
    }
    found.extend(
        traces::groups(&|name| theirs(name)).into_iter().map(|path| format!("control group {}", path.display())),
    );
    let running = process::all().into_iter().filter(|process| process.words.iter().any(|word| theirs(word)));
    found.extend(running.map(|process| format!("process {} ({})", process.pid, process.words.join(" "))));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    found.extend(mounts.lines().filter(|line| theirs(line)).map(|line| format!("mount {line}")));
    found.extend(orphans().difference(before).cloned());
    found
}

/// Whether a text holds the name of a test's object: `…-test-<what>-<pid>`, perhaps with a number behind.
fn carries(text: &str, pid: u32) -> bool {
    let number = format!("-{pid}");
    let ends = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_digit());
    text.contains("-test-") && text.match_indices(&number).any(|(at, _)| ends(&text[at + number.len()..]))
}

/// Objects with the mark of a daemon that is no more. There should never be one.
pub(crate) fn orphans() -> BTreeSet<String> {
    let marks = claimed();
    let is_orphan = |mark: &str| is_mark(mark) && !marks.contains(mark);
    let mut found = BTreeSet::new();
    for (link, alias) in traces::links() {
        if alias.strip_prefix("sysctl:").and_then(|rest| rest.split(':').next()).is_some_and(is_orphan) {
            found.insert(format!("link {link} ({alias})"));
        }
    }
    for table in crate::nft::tables().unwrap_or_default() {
        if table.strip_prefix("sysctl-").is_some_and(is_orphan) {
            found.insert(format!("nft table {table}"));
        }
    }
    for group in traces::groups(&|name| name.strip_prefix("sysctl-").is_some_and(is_orphan)) {
        found.insert(format!("control group {}", group.display()));
    }
    found
}

fn is_mark(text: &str) -> bool {
    text.len() == 6 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Marks of daemons whose state directory exists.
fn claimed() -> BTreeSet<String> {
    let claim = |entry: fs::DirEntry| {
        let text = fs::read_to_string(entry.path()).ok()?;
        let claim: Value = serde_json::from_str(&text).ok()?;
        Path::new(claim["state_dir"].as_str()?).exists().then(|| entry.file_name().into_string().ok())?
    };
    fs::read_dir(traces::CLAIMS).into_iter().flatten().flatten().filter_map(claim).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_of_a_test_carry_its_number() {
        for text in
            ["sysctl-test-boot-812", "sysctl-test-boot-812-0", "/var/tmp/images-test-812-x/a", "sysctl-test-812"]
        {
            assert!(carries(text, 812), "{text}");
        }
        for text in ["sysctl-test-boot-8123", "sysctl-812", "sysctl-test-boot-1812", ""] {
            assert!(!carries(text, 812), "{text}");
        }
    }

    #[test]
    fn marks_are_six_digits() {
        assert!(is_mark("0a1b2c") && !is_mark("probe") && !is_mark("test-x") && !is_mark("guests"));
    }
}
