//! Numbered SQL files, forward only, each in one transaction, after a copy of the database was made.

use std::path::Path;
use std::time::Duration;

use rusqlite::backup::Backup;
use rusqlite::{Connection, Transaction};

use crate::{OpenError, sums, verify};

/// A migration: its text, and what SQL cannot do.
struct Migration {
    sql: &'static str,
    then: fn(&Transaction<'_>) -> rusqlite::Result<()>,
}

/// Every migration, in order; its number is its place, from 1.
const MIGRATIONS: &[Migration] = &[
    Migration { sql: include_str!("../../../migrations/0001_documents.sql"), then: |_| Ok(()) },
    Migration { sql: include_str!("../../../migrations/0002_checksums.sql"), then: fill_sums },
    Migration { sql: include_str!("../../../migrations/0003_numbers.sql"), then: |_| Ok(()) },
];

/// Version of a database after all migrations.
pub const LATEST: u32 = MIGRATIONS.len() as u32;

/// The first version whose rows have checksums.
pub(crate) const WITH_SUMS: u32 = 2;

/// The first version whose documents have numbers, and an index of their own.
pub(crate) const WITH_NUMBERS: u32 = 3;

pub(crate) fn version(connection: &Connection) -> rusqlite::Result<u32> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Tables and indices of a version.
pub(crate) fn schema(version: u32) -> rusqlite::Result<Vec<[Option<String>; 4]>> {
    let memory = Connection::open_in_memory()?;
    for migration in MIGRATIONS.iter().take(version as usize) {
        memory.execute_batch(migration.sql)?;
    }
    verify::schema(&memory)
}

/// Brings the database to [`LATEST`]; the version that it had.
pub(crate) fn run(connection: &mut Connection, path: &Path) -> Result<u32, OpenError> {
    let text = path.display().to_string();
    let failed = |source| OpenError::Io { path: text.clone(), source };
    let from = version(connection).map_err(failed)?;
    if from == LATEST {
        return Ok(from);
    }
    if from > 0 {
        backup(connection, &format!("{text}.bak-{from}"))
            .map_err(|source| OpenError::Backup { path: text.clone(), source })?;
    }
    for (number, migration) in (1u32..).zip(MIGRATIONS).skip(from as usize) {
        let transaction = connection.transaction().map_err(failed)?;
        transaction.execute_batch(migration.sql).map_err(failed)?;
        (migration.then)(&transaction).map_err(failed)?;
        transaction.pragma_update(None, "user_version", number).map_err(failed)?;
        transaction.commit().map_err(failed)?;
    }
    Ok(from)
}

/// Gives every row its checksum, and all of them their digest.
fn fill_sums(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let mut digest = 0;
    let mut read = transaction.prepare("SELECT kind, key, revision, body FROM document")?;
    let mut write = transaction.prepare("UPDATE document SET sum = ?3 WHERE kind = ?1 AND key = ?2")?;
    let rows = read.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
    let rows: Vec<(String, String, i64, String)> = rows.collect::<rusqlite::Result<_>>()?;
    for (kind, key, revision, body) in rows {
        let sum = sums::document(kind.as_bytes(), key.as_bytes(), revision as u64, body.as_bytes());
        write.execute((kind, key, sum as i64))?;
        digest ^= sum;
    }
    let mut read = transaction.prepare("SELECT space, value, owner FROM claim")?;
    let mut write = transaction.prepare("UPDATE claim SET sum = ?3 WHERE space = ?1 AND value = ?2")?;
    let rows = read.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let rows: Vec<(String, String, String)> = rows.collect::<rusqlite::Result<_>>()?;
    for (space, value, owner) in rows {
        let sum = sums::claim(space.as_bytes(), value.as_bytes(), owner.as_bytes());
        write.execute((space, value, sum as i64))?;
        digest ^= sum;
    }
    let mut read = transaction.prepare("SELECT sequence, at_ms, body FROM event")?;
    let mut write = transaction.prepare("UPDATE event SET sum = ?2 WHERE sequence = ?1")?;
    let rows = read.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let rows: Vec<(i64, i64, String)> = rows.collect::<rusqlite::Result<_>>()?;
    for (sequence, at_ms, body) in rows {
        let sum = sums::event(sequence, at_ms, body.as_bytes());
        write.execute((sequence, sum as i64))?;
        digest ^= sum;
    }
    let revision: i64 = transaction.query_row("SELECT value FROM revision", [], |row| row.get(0))?;
    let sum = sums::revision(revision as u64, digest);
    transaction.execute("UPDATE revision SET digest = ?1, sum = ?2", (digest as i64, sum as i64)).map(drop)
}

/// Copies the whole database, under another name first, so that a copy is whole when it is there.
fn backup(from: &Connection, to: &str) -> rusqlite::Result<()> {
    let partial = format!("{to}.partial");
    let _ = std::fs::remove_file(&partial);
    let mut copy = Connection::open(&partial)?;
    Backup::new(from, &mut copy)?.run_to_completion(256, Duration::ZERO, None)?;
    copy.close().map_err(|(_, error)| error)?;
    std::fs::rename(&partial, to).map_err(|_| rusqlite::Error::InvalidPath(to.into()))
}
