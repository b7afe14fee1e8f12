//! Revisioned documents over SQLite: get, list, transactions with comparisons.
//!
//! A document is JSON text under `(kind, key)`; this crate does not look into it. No SQL leaves this crate, and none of its
//! callers' rules come in. One thread writes; transactions that wait for it at the same moment share one fsync. Every row has
//! a checksum, and every document that matters a second copy beside the database.

mod ballast;
mod log;
mod memory;
mod migrate;
mod mirror;
mod open;
mod owed;
mod rescue;
mod sums;
mod verify;
mod writer;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rusqlite::{Connection, OptionalExtension};
use tokio::sync::{oneshot, watch};

pub use memory::{Kept, Memory, Told};
pub use migrate::LATEST;
pub use open::OpenError;

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

impl Txn {
    /// Whether it asks for nothing: whoever waits for it waits for those before it.
    pub fn is_empty(&self) -> bool {
        self.compare.is_empty() && self.ops.is_empty()
    }
}

/// What a transaction is for: what happens to it when the disk is full or broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Class {
    /// Something new. It is refused while the disk is short of room.
    #[default]
    Wish,
    /// It frees something: it may use the room that is kept for that.
    Frees,
    /// It says what happened already. It may use that room, and when even that fails, it is kept and written down later.
    Settled,
}

/// Which kinds of documents have a second copy in the mirror: all but these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Kinds {
    /// Kinds of documents that may be lost with the database.
    pub unmirrored: &'static [&'static str],
}

impl Kinds {
    pub(crate) fn is_mirrored(self, kind: &str) -> bool {
        !self.unmirrored.contains(&kind)
    }
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
    /// Another program holds the database.
    #[error(
        "the database is locked by another program: end it (`fuser -v sysctl.db` in the state directory names it) and try again"
    )]
    Locked,
    /// The database cannot be written.
    #[error("the database cannot be written: {0}; reading and what runs go on, and it is tried again")]
    Broken(String),
    /// The database is damaged, and nothing is written until it is made anew.
    #[error("nothing can be changed until the database is made anew: `sysctl-cli doctor --repair` does that ({0})")]
    ReadOnly(String),
}

impl TxnError {
    /// Whether the disk is full.
    pub fn is_full(&self) -> bool {
        matches!(self, TxnError::Full)
    }

    /// Whether the same may be done once something else has happened: a repair, the end of another program.
    pub fn is_for_later(&self) -> bool {
        matches!(self, TxnError::Locked | TxnError::ReadOnly(_))
    }

    /// Whether the disk, or whoever else uses it, is at fault and not what was asked for.
    pub fn is_of_the_disk(&self) -> bool {
        matches!(self, TxnError::Full | TxnError::Locked | TxnError::Broken(_))
    }
}

/// Looks before manifests are said to be wrong: what was committed while one looked is right at the next look.
const LOOKS: u32 = 3;

/// A handle; clones share the database.
#[derive(Debug, Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    kinds: Kinds,
    state: RwLock<State>,
}

/// The database, or what stands in for it.
#[derive(Debug)]
enum State {
    Open {
        reader: Arc<Mutex<Connection>>,
        writer: Arc<writer::Handle>,
    },
    Damaged {
        reader: Arc<Mutex<Connection>>,
        reason: String,
        rescued: rescue::Rescued,
    },
    Memory(Memory),
    /// Its directory is about to be removed.
    Ended {
        reader: Arc<Mutex<Connection>>,
    },
}

/// What became of a database that was made anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt {
    /// What was done and what is missing, in sentences.
    pub notes: Vec<String>,
    /// Everything that was remembered is remembered again.
    pub complete: bool,
}

impl Store {
    /// Opens the database, makes it when there is none, checks every row of it, and migrates it after copying it to
    /// `<path>.bak-<old version>`. Every document is mirrored.
    pub fn open(path: &Path) -> Result<Store, OpenError> {
        Store::open_with(path, Kinds::default())
    }

    /// The same; some kinds of documents are not mirrored.
    pub fn open_with(path: &Path, kinds: Kinds) -> Result<Store, OpenError> {
        let (reader, writer) = open::writable(path, kinds)?;
        Ok(Store::of(path, kinds, State::Open { reader: Arc::new(Mutex::new(reader)), writer: Arc::new(writer) }))
    }

    /// The same; what is damaged is not opened: instead there is what can be rescued, for reading.
    pub fn open_or_rescue(path: &Path, kinds: Kinds) -> Result<Store, OpenError> {
        let reason = match Store::open_with(path, kinds) {
            Err(error @ OpenError::Damaged { .. }) => error.to_string(),
            other => return other,
        };
        let rescued = rescue::look(path, kinds);
        let io = |source| OpenError::Io { path: path.display().to_string(), source };
        let reader = Arc::new(Mutex::new(rescue::in_memory(&rescued).map_err(io)?));
        Ok(Store::of(path, kinds, State::Damaged { reader, reason, rescued }))
    }

    /// A database that ends with its process, for tests.
    pub fn in_memory(memory: Memory) -> Store {
        Store::of(Path::new(":memory:"), Kinds::default(), State::Memory(memory))
    }

    fn of(path: &Path, kinds: Kinds, state: State) -> Store {
        Store { shared: Arc::new(Shared { path: path.to_owned(), kinds, state: RwLock::new(state) }) }
    }

    fn with<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.shared.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Why nothing can be written; `None` when it can.
    pub fn read_only(&self) -> Option<String> {
        self.with(|state| match state {
            State::Open { .. } | State::Memory(_) | State::Ended { .. } => None,
            State::Damaged { reason, .. } => Some(reason.clone()),
        })
    }

    /// What is in the way of writing, as it changes; `None` from a database that is damaged.
    pub fn trouble(&self) -> Option<watch::Receiver<Option<TxnError>>> {
        self.with(|state| match state {
            State::Open { writer, .. } => Some(writer.trouble.clone()),
            State::Damaged { .. } | State::Memory(_) | State::Ended { .. } => None,
        })
    }

    /// Makes the database anew of what was rescued and `ops`, moves the damaged file aside, and goes on with the new one.
    /// Does nothing when the database is whole. Blocks.
    pub fn rebuild(&self, ops: Vec<Op>) -> Result<Rebuilt, OpenError> {
        let mut state = self.shared.state.write().unwrap_or_else(PoisonError::into_inner);
        let State::Damaged { rescued, .. } = &*state else {
            return Ok(Rebuilt { notes: Vec::new(), complete: true });
        };
        let (path, kinds) = (&self.shared.path, self.shared.kinds);
        let aside = rescue::rebuild(path, kinds, rescued, ops)?;
        let mut notes = vec![format!("the database was made anew; the damaged one is {}", aside.display())];
        notes.extend(rescued.notes.iter().cloned());
        let complete = rescued.complete;
        let (reader, writer) = open::writable(path, kinds)?;
        *state = State::Open { reader: Arc::new(Mutex::new(reader)), writer: Arc::new(writer) };
        Ok(Rebuilt { notes, complete })
    }

    /// Ends its threads, once all that was submitted is on the disk and mirrored: its directory is about to be removed, and
    /// what comes later is refused. Blocks.
    pub fn end(&self) {
        let mut state = self.shared.state.write().unwrap_or_else(PoisonError::into_inner);
        let (State::Open { reader, .. } | State::Damaged { reader, .. }) = &*state else { return };
        let ended = State::Ended { reader: reader.clone() };
        let former = std::mem::replace(&mut *state, ended);
        // Its threads may ask what state it is in.
        drop(state);
        drop(former);
    }

    /// Hands a transaction to the writer. The receiver resolves once it is on the disk, with its revision.
    pub fn submit(&self, txn: Txn) -> oneshot::Receiver<Result<u64, TxnError>> {
        self.submit_as(Class::Wish, txn)
    }

    /// The same, and says what it is for.
    pub fn submit_as(&self, class: Class, txn: Txn) -> oneshot::Receiver<Result<u64, TxnError>> {
        let refused = |why| {
            let (answer, receiver) = oneshot::channel();
            let _ = answer.send(Err(why));
            receiver
        };
        self.with(|state| match state {
            State::Open { writer, .. } => writer.submit(class, txn),
            State::Memory(memory) => memory.submit(class, txn),
            State::Damaged { reason, .. } => refused(TxnError::ReadOnly(reason.clone())),
            State::Ended { .. } => refused(TxnError::Broken("its writer has ended".into())),
        })
    }

    /// Does a transaction and waits until it is on the disk; its revision.
    pub async fn commit(&self, txn: Txn) -> Result<u64, TxnError> {
        self.submit(txn).await.unwrap_or_else(|_| Err(TxnError::Broken("its writer has ended".into())))
    }

    /// Before an orderly end: merges the log into the file, and waits until the mirror has everything, too, or cannot be
    /// written. What is left is one file that can be copied, and that the next start need not put together. Blocks.
    pub fn settle(&self) {
        self.settle_mirror();
        if self.trouble().is_some_and(|trouble| trouble.borrow().is_none()) {
            // Where it is not possible now, the next start does it.
            let merge = |c: &Connection| c.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            let _ = open::connect(self.path()).and_then(|connection| merge(&connection));
        }
    }

    /// Waits until the mirror has everything that was committed, or cannot be written. Blocks.
    pub fn settle_mirror(&self) {
        let mirror = self.with(|state| match state {
            State::Open { writer, .. } => Some(writer.mirror.clone()),
            State::Damaged { .. } | State::Memory(_) | State::Ended { .. } => None,
        });
        if let Some(mirror) = mirror {
            mirror.settle();
        }
    }

    /// Asks the file, or the memory.
    fn read<T>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
        look: impl FnOnce(&Memory) -> T,
    ) -> Result<T, TxnError> {
        let reader = self.with(|state| match state {
            State::Open { reader, .. } | State::Damaged { reader, .. } | State::Ended { reader } => Ok(reader.clone()),
            State::Memory(memory) => Err(memory.clone()),
        });
        match reader {
            Ok(reader) => {
                let reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
                query(&reader).map_err(|error| TxnError::Broken(error.to_string()))
            }
            Err(memory) => Ok(look(&memory)),
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

    /// How many events are kept. Blocks, and reads all of them.
    pub fn event_count(&self) -> Result<u64, TxnError> {
        let query = |c: &Connection| c.query_row("SELECT count(*) FROM event", [], |row| row.get::<_, i64>(0));
        self.read(|c| query(c).map(|n| n as u64), |memory| memory.events(0, u32::MAX).len() as u64)
    }

    /// Number of the event that has `older` kept ones before it; `None` when there are not as many. Blocks for a read, which
    /// takes longer the more are before it.
    pub fn nth_oldest_event(&self, older: u64) -> Result<Option<u64>, TxnError> {
        let query = |c: &Connection| {
            c.prepare_cached("SELECT sequence FROM event ORDER BY sequence LIMIT 1 OFFSET ?1")?
                .query_row([older as i64], |row| row.get::<_, i64>(0))
                .optional()
        };
        let look = |memory: &Memory| memory.events(0, u32::MAX).get(older as usize).map(|event| event.sequence);
        self.read(|c| query(c).map(|found| found.map(|n| n as u64)), look)
    }

    /// What is wrong with the database or its mirror, which is written anew where it is; `None` when both are whole. Blocks.
    pub fn check(&self) -> Result<Option<String>, TxnError> {
        if let Some(reason) = self.read_only() {
            return Ok(Some(reason));
        }
        let kinds = self.shared.kinds;
        let look = |c: &Connection| verify::whole(self.path(), &*c.unchecked_transaction()?, LATEST, kinds);
        if let Err(detail) = self.read(look, |_| Ok(sums::Tally::default()))? {
            return Ok(Some(detail));
        }
        let writer = self.with(|state| match state {
            State::Open { writer, .. } => Some(writer.clone()),
            State::Damaged { .. } | State::Memory(_) | State::Ended { .. } => None,
        });
        let Some(writer) = writer else { return Ok(None) };
        let mut said = None;
        for _ in 0..LOOKS {
            said = self.damaged_manifests(&writer)?;
            if said.is_none() || writer.mirror.failing().is_some() {
                return Ok(said);
            }
        }
        writer.mirror_again();
        Ok(said)
    }

    /// What is wrong with the mirror: of what does not change meanwhile.
    fn damaged_manifests(&self, writer: &writer::Handle) -> Result<Option<String>, TxnError> {
        let kinds = self.shared.kinds;
        let documents = || self.read(|c| open::mirrored(c, kinds), |_| Vec::new());
        let before = documents()?;
        writer.mirror.settle();
        if let Some(error) = writer.mirror.failing() {
            return Ok(Some(format!("its manifests cannot be written: {error}")));
        }
        let Ok(mirror) = mirror::read(&mirror::directory(&self.shared.path)) else {
            return Ok(Some("its manifests cannot be read".into()));
        };
        let after: HashSet<(String, String, u64)> =
            documents()?.into_iter().map(|(kind, d)| (kind, d.key, d.revision)).collect();
        let missing = before.into_iter().filter(|(kind, document)| {
            let stayed = after.contains(&(kind.clone(), document.key.clone(), document.revision));
            let found = mirror.documents.get(&(kind.clone(), document.key.clone()));
            stayed
                && found.is_none_or(|found| found.revision < document.revision)
                && !mirror.unreadable.contains(&mirror::file_name(kind, &document.key))
        });
        let (damaged, missing) = (mirror.unreadable.len(), missing.count());
        let text =
            format!("of its manifests {damaged} were damaged and {missing} missing; they are being written anew");
        Ok((damaged + missing > 0 || mirror.head.is_none()).then_some(text))
    }
}

fn document(row: &rusqlite::Row<'_>) -> rusqlite::Result<Document> {
    Ok(Document { key: row.get(0)?, revision: row.get::<_, i64>(1)? as u64, body: row.get(2)? })
}

/// Write-ahead log, every commit on the disk before it is told, and little memory: the daemon keeps what it works with.
fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(&format!(
        "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
         PRAGMA cache_size = -512; PRAGMA wal_autocheckpoint = 1000; PRAGMA journal_size_limit = {};
         PRAGMA temp_store = MEMORY;",
        log::BYTES,
    ))
}
