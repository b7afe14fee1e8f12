//! What is known without the database: the mirror, what can still be read of the damaged file, and copies from before
//! migrations. First to read from while the file is damaged, then to make a new one of.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::Connection;

use crate::mirror::{self, Mirror};
use crate::sums::{self, Tally};
use crate::{Document, Kinds, LATEST, Op, OpenError, configure, migrate, open, verify, writer};

type Documents = BTreeMap<(String, String), Document>;

/// What was rescued.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rescued {
    pub(crate) documents: Documents,
    /// The last revision that is known to have been given out.
    pub(crate) revision: u64,
    /// It is all there was.
    pub(crate) complete: bool,
    /// Where it comes from and what is missing, in sentences.
    pub(crate) notes: Vec<String>,
}

/// Looks for everything, without changing anything.
pub(crate) fn look(database: &Path, kinds: Kinds) -> Rescued {
    let (mirror, mut notes) = match mirror::read(&mirror::directory(database)) {
        Ok(mirror) => (mirror, Vec::new()),
        Err(error) => (Mirror::default(), vec![format!("the manifests could not be read: {error}")]),
    };
    let Mirror { head, mut documents, mut unreadable } = mirror;
    if !documents.is_empty() {
        notes.push(format!("{} documents come from their manifests", documents.len()));
    }
    let without_mirror = head.is_none() && documents.is_empty();
    let newest = head.map_or(0, |head| head.tally.revision);
    // Whole rows of the damaged file: those that the mirror has not or cannot tell, then those that are newer than it.
    let rows: Vec<(String, Document)> =
        salvage(database).into_iter().filter(|(kind, _)| kinds.is_mirrored(kind)).collect();
    let mut take =
        |rows: &[(String, Document)], documents: &mut Documents, whence: &str, wants: &dyn Fn(&str) -> bool| {
            let mut taken = 0;
            for (kind, document) in rows {
                let name = mirror::file_name(kind, &document.key);
                if wants(&name) || unreadable.remove(&name) {
                    documents.insert((kind.clone(), document.key.clone()), document.clone());
                    taken += 1;
                }
            }
            if taken > 0 {
                notes.push(format!("{taken} documents come from {whence}"));
            }
        };
    take(&rows, &mut documents, "the damaged file", &|_| without_mirror);
    for copy in copies(database) {
        let missing = without_mirror && documents.is_empty();
        take(&salvage(&copy), &mut documents, &format!("{}, as they were then", copy.display()), &|_| missing);
    }
    let mirrored = documents.iter().fold(0, |all, ((kind, _), d)| {
        all ^ sums::document(kind.as_bytes(), d.key.as_bytes(), d.revision, d.body.as_bytes())
    });
    let complete = head.is_some_and(|h| (h.tally.mirrored, h.tally.count) == (mirrored, documents.len() as u64));
    let newer: Vec<_> = rows.into_iter().filter(|(_, d)| head.is_some() && d.revision > newest).collect();
    if !newer.is_empty() {
        notes.push(format!("{} documents are newer in the damaged file, and whole there", newer.len()));
    }
    documents.extend(newer.into_iter().map(|(kind, document)| ((kind, document.key.clone()), document)));
    notes.extend(unreadable.iter().map(|name| format!("the manifest {name} is damaged: what it was about is lost")));
    if !complete {
        notes.push(
            "it is not certain that this is everything: what is on the disk and belongs to nothing is kept".into(),
        );
    }
    notes.push("what is lost: operations, and the events of before".into());
    let revision = documents.values().map(|d| d.revision).fold(newest, u64::max);
    Rescued { documents, revision, complete, notes }
}

/// Copies from before migrations, newest first.
fn copies(database: &Path) -> Vec<PathBuf> {
    (1..LATEST).rev().map(|version| PathBuf::from(format!("{}.bak-{version}", database.display()))).collect()
}

/// Every row of a file that is as it was written, up to the first that cannot be read.
fn salvage(path: &Path) -> Vec<(String, Document)> {
    if !fs::symlink_metadata(path).is_ok_and(|found| found.is_file()) {
        return Vec::new();
    }
    let mut rows = Vec::new();
    let read = |rows: &mut Vec<_>| -> rusqlite::Result<()> {
        let connection = open::connect_to_look(path)?;
        let with_sums = connection.prepare("SELECT sum FROM document").is_ok();
        let sum = if with_sums { "sum" } else { "NULL" };
        let mut statement = connection.prepare(&format!("SELECT kind, key, revision, body, {sum} FROM document"))?;
        let mut found = statement.query([])?;
        while let Some(row) = found.next()? {
            if with_sums && verify::document(row).is_none() {
                continue;
            }
            let document = Document { key: row.get(1)?, revision: row.get::<_, i64>(2)? as u64, body: row.get(3)? };
            rows.push((row.get(0)?, document));
        }
        Ok(())
    };
    // What came before the first error is whole.
    let _ = read(&mut rows);
    rows
}

/// A database in memory with what was rescued, for reading.
pub(crate) fn in_memory(rescued: &Rescued) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open_in_memory()?;
    fill(&mut connection, rescued)?;
    connection.execute_batch("PRAGMA query_only = 1;")?;
    Ok(connection)
}

fn fill(connection: &mut Connection, rescued: &Rescued) -> rusqlite::Result<Tally> {
    let io = |error| match error {
        OpenError::Io { source, .. } | OpenError::Backup { source, .. } => source,
        OpenError::Newer { .. } | OpenError::Damaged { .. } | OpenError::Locked { .. } => rusqlite::Error::InvalidQuery,
    };
    migrate::run(connection, Path::new("the rescued documents")).map_err(io)?;
    let mut tally = Tally { revision: rescued.revision, ..Tally::default() };
    let transaction = connection.transaction()?;
    for ((kind, _), Document { key, revision, body }) in &rescued.documents {
        let sum = sums::document(kind.as_bytes(), key.as_bytes(), *revision, body.as_bytes());
        let sql = "INSERT INTO document (kind, key, revision, body, sum) VALUES (?1, ?2, ?3, ?4, ?5)";
        transaction.execute(sql, (kind, key, *revision as i64, body, sum as i64))?;
        tally.digest ^= sum;
        tally.mirrored ^= sum;
        tally.count += 1;
    }
    transaction.commit()?;
    Ok(tally)
}

/// Makes a new database of what was rescued and `ops`, and puts it in the place of the damaged one, which is moved aside.
pub(crate) fn rebuild(database: &Path, kinds: Kinds, rescued: &Rescued, ops: Vec<Op>) -> Result<PathBuf, OpenError> {
    let text = database.display().to_string();
    let failed = |source| OpenError::Io { path: text.clone(), source };
    let moved = |error: std::io::Error| OpenError::Damaged {
        path: text.clone(),
        detail: format!("it could not be moved aside: {error}"),
    };
    let new = PathBuf::from(format!("{text}.rebuilt"));
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let _ = fs::remove_file(format!("{}{suffix}", new.display()));
    }
    let mut connection = open::connect(&new).map_err(failed)?;
    configure(&connection).map_err(failed)?;
    let tally = fill(&mut connection, rescued).map_err(failed)?;
    let connection = writer::once(connection, tally, kinds, ops).map_err(|error| OpenError::Damaged {
        path: text.clone(),
        detail: format!("it could not be made anew: {error}"),
    })?;
    connection.close().map_err(|(_, error)| failed(error))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    // Twice in one second gets two names.
    let names = std::iter::once(String::new()).chain((2u32..).map(|n| format!(".{n}")));
    let mut free = names.map(|n| PathBuf::from(format!("{text}.damaged-{now}{n}")));
    let is_free = |path: &PathBuf| fs::symlink_metadata(path).is_err();
    let aside = free.find(is_free).unwrap_or_else(|| PathBuf::from(format!("{text}.damaged")));
    for suffix in ["-wal", ""] {
        match fs::rename(format!("{text}{suffix}"), format!("{}{suffix}", aside.display())) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(moved(error)),
            _ => {}
        }
    }
    let _ = fs::remove_file(format!("{text}-shm"));
    fs::rename(&new, database).map_err(moved)?;
    // The new name is on the disk before anybody is told.
    let synced = database.parent().map_or(Ok(()), |parent| fs::File::open(parent)?.sync_all());
    synced.map_err(moved)?;
    Ok(aside)
}
