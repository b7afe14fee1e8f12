//! The mirror: a small file for each document that matters, written behind each commit, and a head that says how far it is.
//!
//! It is a second source when the database is damaged, and the witness that the database has not gone back in time. Files are
//! replaced by rename and not synced: a power cut may cost the mirror its last seconds, never the database. Nobody waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::OFlags;

use crate::sums::{self, Tally};
use crate::{Document, LATEST};

/// Name of the file that says how far the mirror is.
const HEAD: &str = "head";

/// What the files begin with; the number is that of their format.
const DOCUMENT_WORD: &str = "sysctl-document-1";
const HEAD_WORD: &str = "sysctl-head-1";

/// Largest file that is read back: the largest document there is (a body of the API is bounded by 1 MiB) and some.
const LARGEST: u64 = 4 << 20;

/// How long a change waits for others: an operation is two commits, and whoever asked for it goes first.
const LINGER: Duration = Duration::from_millis(20);

/// Waits between tries when a file cannot be written: this, doubled each time up to 64 s.
const AGAIN: Duration = Duration::from_secs(1);
const MOST_DOUBLINGS: u32 = 6;

/// How far a mirror is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// Version of the database that it mirrors.
    pub(crate) version: u32,
    pub(crate) tally: Tally,
}

/// A mirror as it was read back.
#[derive(Debug, Default)]
pub(crate) struct Mirror {
    pub(crate) head: Option<Head>,
    /// Documents by kind and key.
    pub(crate) documents: BTreeMap<(String, String), Document>,
    /// Names of files that are not as they were written.
    pub(crate) unreadable: BTreeSet<String>,
}

/// A change of a document: as it is now, or `None` for one that is gone.
pub(crate) type Change = ((String, String), Option<Document>);

/// Where the mirror of a database is.
pub(crate) fn directory(database: &Path) -> PathBuf {
    PathBuf::from(format!("{}.manifests", database.display()))
}

/// Name of a document's file. Keys are not all good names of files, so this is made of their checksum.
pub(crate) fn file_name(kind: &str, key: &str) -> String {
    format!("{kind}.{:016x}", sums::name(kind, key))
}

/// The head; `None` when there is none that can be read.
pub(crate) fn read_head(directory: &Path) -> Option<Head> {
    let text = String::from_utf8(read_file(&directory.join(HEAD)).ok()?).ok()?;
    let mut words = text.split_ascii_whitespace();
    if words.next()? != HEAD_WORD {
        return None;
    }
    let mut numbers = words.map(|word| u64::from_str_radix(word, 16));
    let mut next = || numbers.next()?.ok();
    let (sum, version) = (next()?, u32::try_from(next()?).ok()?);
    let tally = Tally { revision: next()?, digest: next()?, mirrored: next()?, count: next()? };
    (sums::head(version, &tally) == sum).then_some(Head { version, tally })
}

fn head_text(head: &Head) -> String {
    let Tally { revision, digest, mirrored, count } = head.tally;
    let (sum, version) = (sums::head(head.version, &head.tally), head.version);
    format!("{HEAD_WORD} {sum:x} {version:x} {revision:x} {digest:x} {mirrored:x} {count:x}\n")
}

fn document_text(kind: &str, document: &Document) -> String {
    let Document { key, revision, body } = document;
    let sum = sums::document(kind.as_bytes(), key.as_bytes(), *revision, body.as_bytes());
    format!(
        "{DOCUMENT_WORD} {sum:016x} {revision} {} {} {}\n{kind}\n{key}\n{body}\n",
        kind.len(),
        key.len(),
        body.len()
    )
}

/// A document as its file has it, with its kind; `None` when it is not as it was written.
fn parse_document(text: &[u8]) -> Option<(String, Document)> {
    let end = text.iter().position(|byte| *byte == b'\n')?;
    let mut words = std::str::from_utf8(&text[..end]).ok()?.split(' ');
    if words.next()? != DOCUMENT_WORD {
        return None;
    }
    let sum = u64::from_str_radix(words.next()?, 16).ok()?;
    let mut number = || words.next()?.parse::<u64>().ok();
    let revision = number()?;
    let mut rest = &text[end + 1..];
    let mut part = |length: u64| {
        let (part, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        rest = after.strip_prefix(b"\n")?;
        String::from_utf8(part.to_vec()).ok()
    };
    let lengths = [number()?, number()?, number()?];
    let (kind, key, body) = (part(lengths[0])?, part(lengths[1])?, part(lengths[2])?);
    let found = sums::document(kind.as_bytes(), key.as_bytes(), revision, body.as_bytes());
    (rest.is_empty() && found == sum).then_some((kind, Document { key, revision, body }))
}

/// Reads a mirror back, without changing anything.
pub(crate) fn read(directory: &Path) -> io::Result<Mirror> {
    let mut mirror = Mirror { head: read_head(directory), ..Mirror::default() };
    for name in names(directory)? {
        let found = read_file(&directory.join(&name)).ok().and_then(|text| parse_document(&text));
        match found {
            Some((kind, document)) if file_name(&kind, &document.key) == name => {
                mirror.documents.insert((kind, document.key.clone()), document);
            }
            _ => drop(mirror.unreadable.insert(name)),
        }
    }
    Ok(mirror)
}

/// Names of all documents' files.
fn names(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names: Vec<String> = names.collect::<io::Result<_>>()?;
    Ok(names.into_iter().filter(|name| name != HEAD && !name.ends_with(".new")).collect())
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::options().read(true).custom_flags(flags.bits() as i32).open(path)?;
    let mut text = Vec::new();
    file.take(LARGEST).read_to_end(&mut text)?;
    Ok(text)
}

fn write_file(directory: &Path, name: &str, text: &str) -> io::Result<()> {
    let (path, new) = (directory.join(name), directory.join(format!("{name}.new")));
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(OFlags::NOFOLLOW.bits() as i32);
    let written = options.open(&new).and_then(|mut file| file.write_all(text.as_bytes()));
    // What is half written takes room on a disk that is full.
    written.and_then(|()| fs::rename(&new, &path)).inspect_err(|_| drop(fs::remove_file(&new)))
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What waits to be written. It is one entry for each document at most, however far behind the thread is.
#[derive(Debug, Default)]
struct Pending {
    changes: BTreeMap<(String, String), Option<Document>>,
    head: Option<Tally>,
    /// Everything is to be compared with these first.
    compare: Option<Vec<(String, Document)>>,
    /// The thread writes.
    busy: bool,
    /// Why the last try failed.
    failing: Option<String>,
    /// Somebody waits: it is tried at once.
    hurry: bool,
    /// No handle is left.
    ended: bool,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.head.is_none() && self.compare.is_none()
    }
}

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    pending: Mutex<Pending>,
    changed: Condvar,
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread that writes the mirror ends when this is dropped, once everything is written or cannot be; that is waited for,
/// so that nothing is written after the end of a store.
#[derive(Debug)]
pub(crate) struct Handle {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.pending().ended = true;
        self.shared.changed.notify_all();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Handle {
    /// Starts the thread. It compares the mirror with all `documents` first and makes it theirs.
    pub(crate) fn start(directory: PathBuf, documents: Vec<(String, Document)>, tally: Tally) -> io::Result<Handle> {
        let pending = Pending { head: Some(tally), compare: Some(documents), ..Pending::default() };
        let shared = Arc::new(Shared { directory, pending: Mutex::new(pending), changed: Condvar::new() });
        let worker = shared.clone();
        let thread = std::thread::Builder::new().name("mirror".into()).stack_size(256 * 1024);
        let thread = thread.spawn(move || worker.work())?;
        Ok(Handle { shared, thread: Some(thread) })
    }

    /// Tells what a commit changed.
    pub(crate) fn note(&self, changes: Vec<Change>, tally: Tally) {
        let mut pending = self.shared.pending();
        pending.changes.extend(changes);
        pending.head = Some(tally);
        self.shared.changed.notify_all();
    }

    /// Has everything compared with these documents again.
    pub(crate) fn compare(&self, documents: Vec<(String, Document)>) {
        self.shared.pending().compare = Some(documents);
        self.shared.changed.notify_all();
    }

    /// Waits until everything is written, or it was tried and cannot be.
    pub(crate) fn settle(&self) {
        let mut pending = self.shared.pending();
        if pending.failing.take().is_some() || !pending.is_empty() {
            pending.hurry = true;
            self.shared.changed.notify_all();
        }
        let unsettled = |p: &mut Pending| (p.busy || !p.is_empty()) && p.failing.is_none();
        drop(self.shared.changed.wait_while(pending, unsettled));
    }

    /// Why it is behind.
    pub(crate) fn failing(&self) -> Option<String> {
        self.shared.pending().failing.clone()
    }
}

impl Shared {
    fn work(&self) {
        let mut failures = 0;
        while let Some(batch) = self.take(failures) {
            let written = self.write(&batch);
            let mut pending = self.pending();
            pending.busy = false;
            pending.failing = written.as_ref().err().map(ToString::to_string);
            failures = if written.is_ok() { 0 } else { failures + 1 };
            if written.is_err() {
                // What came meanwhile is newer.
                for (key, change) in batch.changes {
                    pending.changes.entry(key).or_insert(change);
                }
                pending.head = pending.head.or(batch.head);
                pending.compare = pending.compare.take().or(batch.compare);
            }
            drop(pending);
            self.changed.notify_all();
        }
    }

    /// Waits for something to write; `None` at the end. After a failure it waits for a while, unless somebody is in a hurry.
    fn take(&self, failures: u32) -> Option<Pending> {
        let mut pending = self.pending();
        if failures > 0 {
            let wait = AGAIN * (1 << (failures - 1).min(MOST_DOUBLINGS));
            pending = self
                .changed
                .wait_timeout_while(pending, wait, |p| !p.ended && !p.hurry)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            if pending.ended {
                return None;
            }
        }
        pending =
            self.changed.wait_while(pending, |p| p.is_empty() && !p.ended).unwrap_or_else(PoisonError::into_inner);
        if pending.is_empty() {
            return None;
        }
        pending = self
            .changed
            .wait_timeout_while(pending, LINGER, |p| !p.ended && !p.hurry)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        pending.hurry = false;
        let batch = Pending {
            changes: std::mem::take(&mut pending.changes),
            head: pending.head.take(),
            compare: pending.compare.take(),
            ..Pending::default()
        };
        pending.busy = true;
        Some(batch)
    }

    /// The head comes last: what it promises is there.
    fn write(&self, batch: &Pending) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        if let Some(documents) = &batch.compare {
            self.make_equal(documents)?;
        }
        for ((kind, key), change) in &batch.changes {
            let name = file_name(kind, key);
            match change {
                Some(document) => write_file(&self.directory, &name, &document_text(kind, document))?,
                None => remove_file(&self.directory.join(name))?,
            }
        }
        match batch.head {
            Some(tally) => write_file(&self.directory, HEAD, &head_text(&Head { version: LATEST, tally })),
            None => Ok(()),
        }
    }

    /// Writes what is missing or other, removes what is too much.
    fn make_equal(&self, documents: &[(String, Document)]) -> io::Result<()> {
        let mut left: BTreeSet<String> = names(&self.directory)?.into_iter().collect();
        for (kind, document) in documents {
            let name = file_name(kind, &document.key);
            let text = document_text(kind, document);
            let same = left.remove(&name)
                && read_file(&self.directory.join(&name)).is_ok_and(|found| found == text.as_bytes());
            if !same {
                write_file(&self.directory, &name, &text)?;
            }
        }
        left.iter().try_for_each(|name| remove_file(&self.directory.join(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_back_as_it_was_written_or_not_at_all() {
        let document = Document { key: "a/b\nc".into(), revision: 9, body: "{\"x\":\"ü\"}".into() };
        let text = document_text("alias", &document).into_bytes();
        assert_eq!(parse_document(&text), Some(("alias".to_owned(), document)));
        for at in 0..text.len() {
            let mut flipped = text.clone();
            flipped[at] ^= 1;
            assert_eq!(parse_document(&flipped), None, "byte {at}");
            assert_eq!(parse_document(&text[..at]), None, "cut at {at}");
        }
    }
}
