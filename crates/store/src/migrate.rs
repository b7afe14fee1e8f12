//! Numbered SQL files, forward only, each in one transaction, after a copy of the database was made.

use std::path::Path;
use std::time::Duration;

use rusqlite::backup::Backup;
use rusqlite::{Connection, OptionalExtension};

use crate::{OpenError, damaged_or};

/// Every migration, in order; its number is its place, from 1.
const MIGRATIONS: &[&str] = &[include_str!("../../../migrations/0001_documents.sql")];

/// Version of a database after all migrations.
pub const LATEST: u32 = MIGRATIONS.len() as u32;

fn version(connection: &Connection) -> rusqlite::Result<u32> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Refuses a newer or damaged file before anything is written to it.
pub(crate) fn check(connection: &Connection, path: &str) -> Result<(), OpenError> {
    let found = version(connection).map_err(|source| damaged_or(path, source))?;
    if found > LATEST {
        return Err(OpenError::Newer { path: path.to_owned(), found });
    }
    match quick_check(connection).map_err(|source| damaged_or(path, source))? {
        None => Ok(()),
        Some(detail) => Err(OpenError::Damaged { path: path.to_owned(), detail }),
    }
}

/// The first line of SQLite's check; `None` when it is "ok".
pub(crate) fn quick_check(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let line: Option<String> = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).optional()?;
    Ok(line.filter(|line| line != "ok"))
}

/// Brings the database to [`LATEST`].
pub(crate) fn run(connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
    let text = path.display().to_string();
    let failed = |source| OpenError::Io { path: text.clone(), source };
    let from = version(connection).map_err(failed)?;
    if from == LATEST {
        return Ok(());
    }
    if from > 0 {
        backup(connection, &format!("{text}.bak-{from}"))
            .map_err(|source| OpenError::Backup { path: text.clone(), source })?;
    }
    for (number, sql) in (1u32..).zip(MIGRATIONS).skip(from as usize) {
        let transaction = connection.transaction().map_err(failed)?;
        transaction.execute_batch(sql).map_err(failed)?;
        transaction.pragma_update(None, "user_version", number).map_err(failed)?;
        transaction.commit().map_err(failed)?;
    }
    Ok(())
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
