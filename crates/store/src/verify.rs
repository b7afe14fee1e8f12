//! Whether a database is whole: SQLite's own check, the schema, and every row against its checksum.

use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row};

use crate::sums::{self, Tally};
use crate::{Kinds, migrate, open};

/// What a look at a database found: its rows in one number, or what is wrong with it.
pub(crate) type Found = Result<Tally, String>;

/// Looks at everything. `Err` is a file that could not be read.
pub(crate) fn whole(path: &Path, connection: &Connection, version: u32, kinds: Kinds) -> rusqlite::Result<Found> {
    std::thread::scope(|scope| {
        // SQLite's check at the same time: a start waits for both.
        let check = scope.spawn(|| quick_check(path));
        let found = match schema(connection)? == migrate::schema(version)? {
            false => Err("its tables are not those of its version".into()),
            true if version < migrate::WITH_SUMS => Ok(Tally::default()),
            true => rows(connection, kinds, version)?,
        };
        let checked = check.join().unwrap_or(Err(rusqlite::Error::InvalidQuery))?;
        Ok(checked.map_or(found, Err))
    })
}

/// The first line of SQLite's check; `None` when it is "ok".
fn quick_check(path: &Path) -> rusqlite::Result<Option<String>> {
    let connection = open::connect_to_look(path)?;
    let line: Option<String> = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).optional()?;
    Ok(line.filter(|line| line != "ok"))
}

/// Every table and index as it was made.
pub(crate) fn schema(connection: &Connection) -> rusqlite::Result<Vec<[Option<String>; 4]>> {
    let mut statement = connection.prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name")?;
    let rows = statement.query_map([], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?]))?;
    rows.collect()
}

/// Every row against its checksum, and all of them against the digest.
fn rows(connection: &Connection, kinds: Kinds, version: u32) -> rusqlite::Result<Found> {
    let mut tally = Tally::default();
    let mut wrong = None;
    let mut documents = connection.prepare("SELECT kind, key, revision, body, sum FROM document")?;
    let mut found = documents.query([])?;
    while let Some(row) = found.next()? {
        match document(row) {
            Some(sum) => {
                tally.digest ^= sum;
                if kinds.is_mirrored(&text(row, 0).map(String::from_utf8_lossy).unwrap_or_default()) {
                    tally.mirrored ^= sum;
                    tally.count += 1;
                }
            }
            None => wrong = wrong.or(Some("a document is not as it was written")),
        }
    }
    if version >= migrate::WITH_NUMBERS && entries(connection, "document NOT INDEXED")? != entries(connection, BY_KEY)?
    {
        wrong = wrong.or(Some("the index of the documents is not theirs"));
    }
    let mut claims = connection.prepare("SELECT space, value, owner, sum FROM claim")?;
    let (mut found, mut of_claims) = (claims.query([])?, 0);
    while let Some(row) = found.next()? {
        match claim(row) {
            Some(sum) => of_claims ^= sum,
            None => wrong = wrong.or(Some("a claim is not as it was written")),
        }
    }
    // The index is a second copy of the claims, too.
    let mut index =
        connection.prepare("SELECT space, value, owner FROM claim INDEXED BY claim_owner ORDER BY owner")?;
    let (mut found, mut of_index) = (index.query([])?, 0);
    while let Some(row) = found.next()? {
        let parts = [text(row, 0), text(row, 1), text(row, 2)].map(Option::unwrap_or_default);
        of_index ^= sums::claim(parts[0], parts[1], parts[2]);
    }
    if of_index != of_claims {
        wrong = wrong.or(Some("the index of the claims is not theirs"));
    }
    tally.digest ^= of_claims;
    let mut events = connection.prepare("SELECT sequence, at_ms, body, sum FROM event")?;
    let mut found = events.query([])?;
    while let Some(row) = found.next()? {
        match event(row) {
            Some(sum) => tally.digest ^= sum,
            None => wrong = wrong.or(Some("an event is not as it was written")),
        }
    }
    let mut revisions = connection.prepare("SELECT value, digest, sum FROM revision")?;
    let mut found = revisions.query([])?;
    let last = match found.next()? {
        Some(row) => [number(row, 0), number(row, 1), number(row, 2)].map(Option::unwrap_or_default),
        None => [0; 3],
    };
    let [revision, digest, sum] = last.map(|n| n as u64);
    if sums::revision(revision, digest) != sum {
        wrong = wrong.or(Some("the revision is not as it was written"));
    }
    if digest != tally.digest {
        wrong = wrong.or(Some("a row is missing"));
    }
    tally.revision = revision;
    Ok(wrong.map_or(Ok(tally), |wrong| Err(wrong.to_owned())))
}

/// The documents as their index has them.
const BY_KEY: &str = "document INDEXED BY document_key ORDER BY kind, key";

/// Which document has which number, in one number. The index is a second copy of that, which SQLite's quick check does not
/// compare with the first.
fn entries(connection: &Connection, of: &str) -> rusqlite::Result<u64> {
    let mut statement = connection.prepare(&format!("SELECT kind, key, number FROM {of}"))?;
    let (mut found, mut all) = (statement.query([])?, 0);
    while let Some(row) = found.next()? {
        let [kind, key] = [text(row, 0), text(row, 1)].map(Option::unwrap_or_default);
        all ^= sums::entry(kind, key, number(row, 2).unwrap_or_default());
    }
    Ok(all)
}

/// The checksum of `kind, key, revision, body, sum`; `None` when it is another than was written.
pub(crate) fn document(row: &Row<'_>) -> Option<u64> {
    let sum = sums::document(text(row, 0)?, text(row, 1)?, number(row, 2)? as u64, text(row, 3)?);
    (number(row, 4)? as u64 == sum).then_some(sum)
}

fn claim(row: &Row<'_>) -> Option<u64> {
    let sum = sums::claim(text(row, 0)?, text(row, 1)?, text(row, 2)?);
    (number(row, 3)? as u64 == sum).then_some(sum)
}

fn event(row: &Row<'_>) -> Option<u64> {
    let sum = sums::event(number(row, 0)?, number(row, 1)?, text(row, 2)?);
    (number(row, 3)? as u64 == sum).then_some(sum)
}

fn text<'a>(row: &'a Row<'_>, column: usize) -> Option<&'a [u8]> {
    match row.get_ref(column).ok()? {
        ValueRef::Text(bytes) => Some(bytes),
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) | ValueRef::Blob(_) => None,
    }
}

fn number(row: &Row<'_>, column: usize) -> Option<i64> {
    match row.get_ref(column).ok()? {
        ValueRef::Integer(number) => Some(number),
        ValueRef::Null | ValueRef::Real(_) | ValueRef::Text(_) | ValueRef::Blob(_) => None,
    }
}
