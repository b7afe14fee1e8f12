//! Opening a database: is it one, is it whole, is it the newest, and only then is it written to.

use std::fs;
use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::mirror::{self, Head};
use crate::sums::Tally;
use crate::{Document, Kinds, LATEST, ballast, configure, migrate, verify, writer};

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Written by a newer release. It was not touched.
    #[error(
        "{path} has version {found}, newer than this program's {}: start the newer release again, or restore {path}.bak-{} and accept the loss of everything since",
        LATEST,
        LATEST
    )]
    Newer {
        /// The file.
        path: String,
        /// Its version.
        found: u32,
    },
    /// Its content is damaged, it is gone, or it is older than it was. It was not touched.
    #[error("{path} is damaged: {detail}")]
    Damaged {
        /// The file.
        path: String,
        /// What the check said.
        detail: String,
    },
    /// Another program has it open.
    #[error("{path} is locked by another program: end it (`fuser -v {path}` names it) and try again")]
    Locked {
        /// The file.
        path: String,
    },
    /// It could not be read or written.
    #[error("open database {path}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// The copy before a migration could not be made.
    #[error("copy database {path} before its migration")]
    Backup {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
}

/// Makes a connection as all of this process do: nobody else opens the file meanwhile, and the index of its log is in our
/// memory. SQLite's other way, a file that is mapped, ends a process with SIGBUS when the disk is full and its blocks are
/// smaller than 4 KiB, and lets any program that can read the file hold its locks.
fn connect_with(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let flags = flags | OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags_and_vfs(path, flags, c"unix-excl")
}

/// A connection that may write; the file is made when there is none.
pub(crate) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    connect_with(path, OpenFlags::SQLITE_OPEN_CREATE)
}

/// A connection that changes nothing, not even by merging the log into the file when it is closed.
pub(crate) fn connect_to_look(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect_with(path, OpenFlags::empty())?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.execute_batch("PRAGMA busy_timeout = 5000; PRAGMA query_only = 1;")?;
    Ok(connection)
}

/// What a look at a database before anything is written to it found.
struct Checked {
    /// 0 for one that is not there yet.
    version: u32,
    tally: Tally,
}

/// Opens a database that is whole, and starts its writer: the connection for reading, and the writer.
pub(crate) fn writable(path: &Path, kinds: Kinds) -> Result<(Connection, writer::Handle), OpenError> {
    match try_writable(path, kinds) {
        // Its log needs room, too: what is kept for that is given up.
        Err(OpenError::Io { .. }) if ballast::give_up(&ballast::path(path)) => try_writable(path, kinds),
        other => other,
    }
}

fn try_writable(path: &Path, kinds: Kinds) -> Result<(Connection, writer::Handle), OpenError> {
    let text = path.display().to_string();
    let failed = |source| OpenError::Io { path: text.clone(), source };
    let directory = mirror::directory(path);
    let head = mirror::read_head(&directory);
    let checked = check(path, kinds, head)?;
    let mut connection = connect(path).map_err(failed)?;
    configure(&connection).map_err(|source| damaged_or(&text, source))?;
    migrate::run(&mut connection, path)?;
    let tally = match checked.version {
        LATEST => checked.tally,
        _ => verify::whole(path, &connection, LATEST, kinds)
            .map_err(failed)?
            .map_err(|detail| OpenError::Damaged { path: text.clone(), detail })?,
    };
    if head.is_some_and(|head| head.version > LATEST) {
        // A newer release's, which may be wanted again; the database says what holds now.
        let _ = fs::rename(&directory, format!("{text}.manifests.newer-{}", tally.revision));
    }
    let reader = connect_to_look(path).map_err(failed)?;
    reader.execute_batch("PRAGMA cache_size = -256;").map_err(failed)?;
    let no_thread = |_| OpenError::Io { path: text.clone(), source: rusqlite::Error::InvalidQuery };
    let documents = mirrored(&reader, kinds).map_err(failed)?;
    let mirror = mirror::Handle::start(directory, documents, tally).map_err(no_thread)?;
    let writer = writer::start(connection, path, kinds, tally, mirror).map_err(no_thread)?;
    Ok((reader, writer))
}

/// Refuses a file that is newer, damaged, or older than its mirror, before anything is written to it.
fn check(path: &Path, kinds: Kinds, head: Option<Head>) -> Result<Checked, OpenError> {
    let text = path.display().to_string();
    let damaged = |detail: String| OpenError::Damaged { path: text.clone(), detail };
    let wal = format!("{text}-wal");
    for name in [text.as_str(), wal.as_str()] {
        if fs::symlink_metadata(name).is_ok_and(|found| !found.is_file()) {
            return Err(damaged(format!("{name} is no file (a link or a directory?) and is not followed")));
        }
    }
    let known = head.filter(|head| head.version <= LATEST).map(|head| head.tally);
    if fs::symlink_metadata(path).map_or(0, |found| found.len()) == 0 {
        return match known {
            Some(_) => Err(damaged("it is gone or empty, and there are manifests of what was in it".into())),
            None => Ok(Checked { version: 0, tally: Tally::default() }),
        };
    }
    let look = || {
        let connection = connect_to_look(path)?;
        connection.execute_batch("PRAGMA cache_size = -4096;")?;
        let version = migrate::version(&connection)?;
        if version <= LATEST {
            return Ok((version, Some(verify::whole(path, &connection, version, kinds)?)));
        }
        // A newer release would have other tables, or its mirror said so: else only this number is another one.
        let is_ours =
            known.is_some() && verify::whole(path, &connection, LATEST, kinds).is_ok_and(|found| found.is_ok());
        let words = format!("it says that it is of version {version}, and all of it is of version {LATEST}");
        Ok((version, is_ours.then_some(Err(words))))
    };
    let (version, found) = look().map_err(|source| damaged_or(&text, source))?;
    let Some(found) = found else { return Err(OpenError::Newer { path: text.clone(), found: version }) };
    let tally = found.map_err(damaged)?;
    if version == 0 && known.is_some() {
        return Err(damaged("it is empty, and there are manifests of what was in it".into()));
    }
    if let Some(known) = known {
        if version < migrate::WITH_SUMS {
            let manifests = mirror::directory(path);
            return Err(damaged(format!(
                "it is of version {version}, and there are manifests of a later one; if this one is wanted, move {} away",
                manifests.display()
            )));
        }
        if tally.revision < known.revision {
            return Err(damaged(format!(
                "it is at revision {} and was at {}: its log was lost, or an old copy was put in its place",
                tally.revision, known.revision
            )));
        }
        if tally.revision == known.revision && tally.digest != known.digest {
            return Err(damaged("it is not the one that its manifests are of".into()));
        }
    }
    Ok(Checked { version, tally })
}

/// All documents that are mirrored, with their kinds.
pub(crate) fn mirrored(connection: &Connection, kinds: Kinds) -> rusqlite::Result<Vec<(String, Document)>> {
    let mut statement = connection.prepare_cached("SELECT kind, key, revision, body FROM document")?;
    let rows = statement.query_map([], |row| {
        let document = Document { key: row.get(1)?, revision: row.get::<_, i64>(2)? as u64, body: row.get(3)? };
        Ok((row.get(0)?, document))
    })?;
    let is_mirrored =
        |row: &rusqlite::Result<(String, _)>| row.as_ref().map_or(true, |(kind, _)| kinds.is_mirrored(kind));
    rows.filter(is_mirrored).collect()
}

/// What a disk or another program did, or else damage: SQLite has many words for that.
fn damaged_or(path: &str, source: rusqlite::Error) -> OpenError {
    use ErrorCode::{
        CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, OutOfMemory, PermissionDenied, SystemIoFailure,
    };
    match source.sqlite_error_code() {
        Some(DatabaseBusy | DatabaseLocked) => OpenError::Locked { path: path.to_owned() },
        Some(CannotOpen | DiskFull | OutOfMemory | PermissionDenied | SystemIoFailure) => {
            OpenError::Io { path: path.to_owned(), source }
        }
        _ => OpenError::Damaged { path: path.to_owned(), detail: source.to_string() },
    }
}
