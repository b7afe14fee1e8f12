//! The settings under `/proc/sys/net` that have no netlink form, and how to take changes of them back.
//!
//! Keys are paths below `/proc/sys`, with slashes as sysctl(8) also takes them, because names of links may hold dots.

use std::io;
use std::path::{Path, PathBuf};

use crate::link::LinkName;
use crate::{Error, Result};

/// A setting that was changed, with what is needed to change it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The setting, like `net/ipv4/ip_forward`.
    pub key: String,
    /// Its value before.
    pub old: String,
    /// Its value now.
    pub new: String,
}

/// Lets this host forward packets. Returns what was changed, in order; nothing when all was so already.
///
/// A host that forwards IPv6 stops taking its own default route from router advertisements, so links that do that now
/// (`accept_ra` 1) are first told to go on (2).
pub fn ensure_forwarding(ipv4: bool, ipv6: bool) -> Result<Vec<Changed>> {
    let mut changed = Vec::new();
    if ipv4 {
        changed.extend(ensure("net/ipv4/ip_forward", "1")?);
    }
    if ipv6 && get("net/ipv6/conf/all/forwarding")? != "1" {
        for link in names("net/ipv6/conf")? {
            let key = format!("net/ipv6/conf/{link}/accept_ra");
            // A link may vanish between the listing and the look.
            if is_uplink(&link) && get(&key).is_ok_and(|value| value == "1") {
                changed.extend(ensure(&key, "2")?);
            }
        }
        changed.extend(ensure("net/ipv6/conf/all/forwarding", "1")?);
    }
    Ok(changed)
}

/// The forwarding settings that are off and should be on.
pub fn lost_forwarding(ipv4: bool, ipv6: bool) -> Vec<String> {
    let wanted = [(ipv4, "net/ipv4/ip_forward"), (ipv6, "net/ipv6/conf/all/forwarding")];
    let is_off = |key: &str| get(key).is_ok_and(|value| value == "0");
    wanted.into_iter().filter(|(is_wanted, key)| *is_wanted && is_off(key)).map(|(_, key)| key.to_owned()).collect()
}

/// Whether the host may learn routes over a link: not over the loopback, what has no addresses of neighbours, and ports of
/// bridges, as those of guests are.
fn is_uplink(link: &str) -> bool {
    const LOOPBACK: u32 = 0x8;
    const NOARP: u32 = 0x80;
    let directory = PathBuf::from("/sys/class/net").join(link);
    let flags = std::fs::read_to_string(directory.join("flags")).unwrap_or_default();
    let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16);
    !flags.is_ok_and(|flags| flags & (LOOPBACK | NOARP) != 0) && !directory.join("brport").exists()
}

/// Takes changes back, the last first. A setting that somebody else has changed since, or that is gone, is left alone.
///
/// Goes on after a failure and returns all of them.
pub fn restore(changes: &[Changed]) -> Vec<Error> {
    let mut failures = Vec::new();
    for change in changes.iter().rev() {
        match get(&change.key) {
            Ok(now) if now == change.new => failures.extend(set(&change.key, &change.old).err()),
            Ok(_) => {}
            Err(Error::Tunable { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => failures.push(error),
        }
    }
    failures
}

/// Adds changes to a file of ours, one `key old new` a line; values are numbers here.
pub fn add_notes(path: &Path, changes: &[Changed]) -> io::Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    let lines: String = changes.iter().map(|c| format!("{} {} {}\n", c.key, c.old, c.new)).collect();
    let mut file = std::fs::File::options().append(true).create(true).open(path)?;
    io::Write::write_all(&mut file, lines.as_bytes())?;
    file.sync_all()
}

/// Reads such a file; none is as good as an empty one, and a line that was not finished counts for nothing.
pub fn read_notes(path: &Path) -> Vec<Changed> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let change = |line: &str| {
        let mut words = line.split(' ').map(str::to_owned);
        Some(Changed { key: words.next()?, old: words.next()?, new: words.next()? })
    };
    text.split_inclusive('\n').filter_map(|line| change(line.strip_suffix('\n')?)).collect()
}

/// Sets one IPv6 setting of a link; returns whether the host has IPv6 at all.
pub(crate) fn set_ipv6(link: &LinkName, name: &str, value: &str) -> Result<bool> {
    match ensure(&format!("net/ipv6/conf/{link}/{name}"), value) {
        Err(Error::Tunable { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(false),
        other => other.map(|_| true),
    }
}

/// Sets `key` to `value` unless it is so.
fn ensure(key: &str, value: &str) -> Result<Option<Changed>> {
    let old = get(key)?;
    if old == value {
        return Ok(None);
    }
    set(key, value)?;
    Ok(Some(Changed { key: key.to_owned(), old, new: value.to_owned() }))
}

fn get(key: &str) -> Result<String> {
    let text = std::fs::read_to_string(path(key));
    text.map(|text| text.trim().to_owned()).map_err(|source| failed("read", key, source))
}

fn set(key: &str, value: &str) -> Result<()> {
    std::fs::write(path(key), value).map_err(|source| failed("set", key, source))
}

fn names(key: &str) -> Result<Vec<String>> {
    let failed = |source| failed("list", key, source);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path(key)).map_err(failed)? {
        names.extend(entry.map_err(failed)?.file_name().into_string());
    }
    Ok(names)
}

fn path(key: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(key)
}

fn failed(act: &'static str, key: &str, source: io::Error) -> Error {
    Error::Tunable { act, key: key.to_owned(), source }
}
