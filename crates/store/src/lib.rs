//! Revisioned documents over SQLite: get, list, transactions with comparisons.
//!
//! A document is JSON text under `(kind, key)`; this crate does not look into it. No SQL leaves this crate, and none of its
//! callers' rules come in. One thread writes; transactions that wait for it at the same moment share one fsync.

mod memory;
mod migrate;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rusqlite::{Connection, OpenFlags, OptionalExtension};
use tokio::sync::oneshot;

pub use memory::{Kept, Memory, Told};
pub use migrate::LATEST;

/// A document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its key within its kind.
    pub key: String,
    /// Revision of its last change.
    pub revision: u64,
    /// JSON text.
    pub body: String,
}

/// An event as it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Number; grows, gaps are possible.
    pub sequence: u64,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// JSON text.
    pub body: String,
}

/// What must be so for a transaction to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// Kind of the document.
    pub kind: &'static str,
    /// Its key.
    pub key: String,
    /// The revision that it must have; `None`: it must not exist.
    pub revision: Option<u64>,
}

/// One change of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Writes a document.
    Put {
        /// Kind of the document.
        kind: &'static str,
        /// Its key.
        key: String,
        /// JSON text.
        body: String,
    },
    /// Deletes a document; one that does not exist stays so.
    Delete {
        /// Kind of the document.
        kind: &'static str,
        /// Its key.
        key: String,
    },
    /// Takes a unique thing. The transaction fails when somebody else has it.
    Claim {
        /// What kind of thing, like `ipv4`.
        space: &'static str,
        /// Which one.
        value: String,
        /// Who takes it.
        owner: String,
    },
    /// Gives one thing back, whoever has it.
    Release {
        /// What kind of thing.
        space: &'static str,
        /// Which one.
        value: String,
    },
    /// Gives everything of an owner back.
    ReleaseAll {
        /// Whose.
        owner: String,
    },
    /// Keeps an event.
    Event(Event),
    /// Drops events numbered below this.
    DropEvents {
        /// The first number to keep.
        below: u64,
    },
}

/// All or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Txn {
    /// What must be so.
    pub compare: Vec<Compare>,
    /// What is changed then, in this order.
    pub ops: Vec<Op>,
}

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
    /// Its content is damaged.
    #[error("{path} is damaged: {detail}")]
    Damaged {
        /// The file.
        path: String,
        /// What the check said.
        detail: String,
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

/// Why a transaction did not happen. Nothing of it did.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TxnError {
    /// A comparison failed: somebody was faster.
    #[error("{kind} {key} was changed meanwhile")]
    Conflict {
        /// Kind of the document.
        kind: &'static str,
        /// Its key.
        key: String,
    },
    /// Somebody has the thing already.
    #[error("{space} {value} is taken by {owner}")]
    Claimed {
        /// What kind of thing.
        space: &'static str,
        /// Which one.
        value: String,
        /// Who has it.
        owner: String,
    },
    /// The disk is full.
    #[error("the disk that holds the database is full: free some space; reading, stopping and deleting go on")]
    Full,
    /// The database cannot be written.
    #[error("the database cannot be written: {0}")]
    Broken(String),
}

impl TxnError {
    /// Whether the disk is full.
    pub fn is_full(&self) -> bool {
        matches!(self, TxnError::Full)
    }
}

/// A handle; clones share the database.
#[derive(Debug, Clone)]
pub struct Store {
    path: Arc<PathBuf>,
    place: Place,
}

/// Where the documents are.
#[derive(Debug, Clone)]
enum Place {
    File { writer: writer::Handle, reader: Arc<Mutex<Connection>> },
    Memory(Memory),
}

impl Store {
    /// Opens the database, makes it when there is none, checks it, and migrates it after copying it to `<path>.bak-<old
    /// version>`.
    pub fn open(path: &Path) -> Result<Store, OpenError> {
        let text = path.display().to_string();
        let failed = |source| OpenError::Io { path: text.clone(), source };
        let mut connection = Connection::open(path).map_err(failed)?;
        migrate::check(&connection, &text)?;
        configure(&connection).map_err(|source| damaged_or(&text, source))?;
        migrate::run(&mut connection, path)?;
        let reader = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(failed)?;
        reader.execute_batch("PRAGMA cache_size = -256; PRAGMA query_only = 1;").map_err(failed)?;
        let writer = writer::start(connection).map_err(|source| OpenError::Io { path: text.clone(), source })?;
        let place = Place::File { writer, reader: Arc::new(Mutex::new(reader)) };
        Ok(Store { path: Arc::new(path.to_owned()), place })
    }

    /// A database that ends with its process, for tests.
    pub fn in_memory(memory: Memory) -> Store {
        Store { path: Arc::new(PathBuf::from(":memory:")), place: Place::Memory(memory) }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Hands a transaction to the writer. The receiver resolves once it is on the disk, with its revision.
    pub fn submit(&self, txn: Txn) -> oneshot::Receiver<Result<u64, TxnError>> {
        match &self.place {
            Place::File { writer, .. } => writer.submit(txn),
            Place::Memory(memory) => memory.submit(txn),
        }
    }

    /// Does a transaction and waits until it is on the disk; its revision.
    pub async fn commit(&self, txn: Txn) -> Result<u64, TxnError> {
        self.submit(txn).await.unwrap_or_else(|_| Err(TxnError::Broken("its writer has ended".into())))
    }

    /// Asks the file, or the memory.
    fn read<T>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
        look: impl FnOnce(&Memory) -> T,
    ) -> Result<T, TxnError> {
        match &self.place {
            Place::File { reader, .. } => {
                let reader = reader.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                query(&reader).map_err(|error| TxnError::Broken(error.to_string()))
            }
            Place::Memory(memory) => Ok(look(memory)),
        }
    }

    /// One document. Blocks for a read of the disk.
    pub fn get(&self, kind: &str, key: &str) -> Result<Option<Document>, TxnError> {
        let query = |c: &Connection| {
            c.prepare_cached("SELECT key, revision, body FROM document WHERE kind = ?1 AND key = ?2")?
                .query_row((kind, key), document)
                .optional()
        };
        self.read(query, |memory| memory.get(kind, key))
    }

    /// All documents of a kind, by key. Blocks for a read of the disk.
    pub fn list(&self, kind: &str) -> Result<Vec<Document>, TxnError> {
        let query = |c: &Connection| {
            c.prepare_cached("SELECT key, revision, body FROM document WHERE kind = ?1 ORDER BY key")?
                .query_map([kind], document)?
                .collect()
        };
        self.read(query, |memory| memory.list(kind))
    }

    /// All that is claimed in a space: (value, owner), by value. Blocks for a read of the disk.
    pub fn claims(&self, space: &str) -> Result<Vec<(String, String)>, TxnError> {
        let query = |c: &Connection| {
            c.prepare_cached("SELECT value, owner FROM claim WHERE space = ?1 ORDER BY value")?
                .query_map([space], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        };
        self.read(query, |memory| memory.claims(space))
    }

    /// Kept events numbered `from` and up, at most `limit`. Blocks for a read of the disk.
    pub fn events(&self, from: u64, limit: u32) -> Result<Vec<Event>, TxnError> {
        let query = |c: &Connection| {
            c.prepare_cached("SELECT sequence, at_ms, body FROM event WHERE sequence >= ?1 ORDER BY sequence LIMIT ?2")?
                .query_map((from as i64, limit), |row| {
                    Ok(Event { sequence: row.get::<_, i64>(0)? as u64, at_ms: row.get(1)?, body: row.get(2)? })
                })?
                .collect()
        };
        self.read(query, |memory| memory.events(from, limit))
    }

    /// Number of the newest kept event, 0 when there is none. Blocks for a read of the disk.
    pub fn last_event(&self) -> Result<u64, TxnError> {
        let query = |c: &Connection| {
            c.query_row("SELECT coalesce(max(sequence), 0) FROM event", [], |row| row.get::<_, i64>(0))
        };
        self.read(|c| query(c).map(|n| n as u64), Memory::last_event)
    }

    /// What SQLite's own check says of the file; `None` when it is whole.
    pub fn check(&self) -> Result<Option<String>, TxnError> {
        self.read(migrate::quick_check, |_| None)
    }
}

fn document(row: &rusqlite::Row<'_>) -> rusqlite::Result<Document> {
    Ok(Document { key: row.get(0)?, revision: row.get::<_, i64>(1)? as u64, body: row.get(2)? })
}

/// Write-ahead log, every commit on the disk before it is told, and little memory: the daemon keeps what it works with.
fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA cache_size = -512;
         PRAGMA wal_autocheckpoint = 1000; PRAGMA journal_size_limit = 4194304; PRAGMA busy_timeout = 5000;
         PRAGMA temp_store = MEMORY;",
    )
}

fn damaged_or(path: &str, source: rusqlite::Error) -> OpenError {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    match source.sqlite_error_code() {
        Some(DatabaseCorrupt | NotADatabase) => {
            OpenError::Damaged { path: path.to_owned(), detail: source.to_string() }
        }
        _ => OpenError::Io { path: path.to_owned(), source },
    }
}
