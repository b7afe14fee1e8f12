//! The one thread that writes. What waits for it is done in one SQLite transaction: one fsync for all.
//!
//! When the disk is full or broken, nothing is lost that happened: see [`Class`]. A connection is not opened again after a
//! failure, on purpose: a commit whose fsync failed lies in the log without being one, and is overwritten by the next; opening
//! the log anew would find it and make it one, although its caller was told that it had failed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension};
use tokio::sync::{oneshot, watch};

use crate::ballast::Ballast;
use crate::log::Log;
use crate::mirror::{self, Change};
use crate::owed::Owed;
use crate::sums::{self, Tally};
use crate::{Class, Compare, Document, Kinds, Op, Txn, TxnError, open};

type Answer = Result<u64, TxnError>;

struct Job {
    class: Class,
    txn: Txn,
    answer: oneshot::Sender<Answer>,
}

/// Transactions that may wait. Each instance's actor has one at a time, so this is more than ever are.
const QUEUE: usize = 4096;

/// Most transactions that share one fsync: bounds how long the first of them waits for the others' work.
const BATCH: usize = 256;

/// Waits between tries to write down what is owed: this, doubled each time up to 8 s.
const AGAIN: Duration = Duration::from_millis(500);
const MOST_DOUBLINGS: u32 = 4;

/// What everybody may see of the writer.
#[derive(Debug)]
pub(crate) struct Handle {
    /// `None` at the end alone.
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
    pub(crate) mirror: Arc<mirror::Handle>,
    pub(crate) trouble: watch::Receiver<Option<TxnError>>,
    mirror_again: Arc<AtomicBool>,
}

impl Drop for Handle {
    /// What was submitted is done first.
    fn drop(&mut self) {
        drop(self.jobs.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Handle {
    /// Has the mirror compared with everything. The writer reads it, as nobody else knows what the mirror was told.
    pub(crate) fn mirror_again(&self) {
        self.mirror_again.store(true, Ordering::Release);
        drop(self.submit(Class::Settled, Txn::default()));
    }

    pub(crate) fn submit(&self, class: Class, txn: Txn) -> oneshot::Receiver<Answer> {
        let (answer, receiver) = oneshot::channel();
        if let Some(jobs) = &self.jobs
            && let Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) =
                jobs.try_send(Job { class, txn, answer })
        {
            let _ = job.answer.send(Err(TxnError::Broken("too many transactions wait for it".into())));
        }
        receiver
    }
}

/// Starts the writer; it ends when the handle is dropped, once all that was submitted is done.
pub(crate) fn start(
    connection: Connection,
    path: &Path,
    kinds: Kinds,
    tally: Tally,
    mirror: mirror::Handle,
) -> std::io::Result<Handle> {
    let (jobs, receiver) = sync_channel(QUEUE);
    let (tell, trouble) = watch::channel(None);
    let mirror = Arc::new(mirror);
    let mirror_again = Arc::new(AtomicBool::new(false));
    let mut writer = Writer {
        table: Table { connection, tally, kinds, changes: Vec::new() },
        ballast: Ballast::of(path),
        log: Log::of(path),
        owed: Owed::default(),
        failures: 0,
        trouble: tell,
        mirror: mirror.clone(),
        mirror_again: mirror_again.clone(),
    };
    let thread = std::thread::Builder::new().name("store".into()).stack_size(256 * 1024);
    let thread = thread.spawn(move || writer.run(&receiver))?;
    Ok(Handle { jobs: Some(jobs), thread: Some(thread), mirror, trouble, mirror_again })
}

/// Does changes on a connection that nobody else writes to, as one transaction.
pub(crate) fn once(connection: Connection, tally: Tally, kinds: Kinds, ops: Vec<Op>) -> Result<Connection, TxnError> {
    let mut table = Table { connection, tally, kinds, changes: Vec::new() };
    let answers = table.batch(&[&Txn { compare: Vec::new(), ops }]).map_err(|error| broken(&error))?;
    answers.into_iter().collect::<Result<Vec<u64>, TxnError>>()?;
    Ok(table.connection)
}

struct Writer {
    table: Table,
    ballast: Ballast,
    log: Log,
    owed: Owed,
    /// Tries in a row that the disk refused.
    failures: u32,
    trouble: watch::Sender<Option<TxnError>>,
    mirror: Arc<mirror::Handle>,
    mirror_again: Arc<AtomicBool>,
}

impl Writer {
    fn run(&mut self, jobs: &Receiver<Job>) {
        loop {
            // After a failure something is written now and then, so that it is known when the disk answers again.
            let due = match self.failures {
                0 => self.log.due(),
                failures => Some(AGAIN * (1 << (failures - 1).min(MOST_DOUBLINGS))),
            };
            let first = match due {
                Some(wait) => jobs.recv_timeout(wait),
                None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match first {
                Ok(first) => self.serve(std::iter::once(first).chain(jobs.try_iter().take(BATCH - 1)).collect()),
                Err(RecvTimeoutError::Timeout) if self.failures == 0 => self.log.lengthen(),
                Err(RecvTimeoutError::Timeout) => self.serve(Vec::new()),
                Err(RecvTimeoutError::Disconnected) => {
                    if self.failures > 0 {
                        self.serve(Vec::new());
                    }
                    return;
                }
            }
        }
    }

    /// Does all that can be done in one commit; an answer each.
    fn serve(&mut self, mut batch: Vec<Job>) {
        if !batch.is_empty() && batch.iter().all(|job| job.txn.is_empty()) && self.is_settled() {
            // Whoever waits for all that came before: each commit was on the disk when it was answered.
            for job in batch {
                let _ = job.answer.send(Ok(self.table.tally.revision));
            }
            return;
        }
        self.ballast.refill();
        if self.ballast.is_spent() {
            // The room that is left is for what frees some.
            batch = refuse_wishes(batch, &TxnError::Full);
        }
        self.pay();
        let mut done = self.table.batch(&batch.iter().map(|job| &job.txn).collect::<Vec<_>>());
        if done.as_ref().is_err_and(|error| broken(error) == TxnError::Full) && self.ballast.spend() {
            batch = refuse_wishes(batch, &TxnError::Full);
            self.pay();
            done = self.table.batch(&batch.iter().map(|job| &job.txn).collect::<Vec<_>>());
        }
        self.committed(done.as_ref().err());
        match done {
            Ok(answers) => {
                for (job, answer) in batch.into_iter().zip(answers) {
                    // Whoever asked may have gone: the transaction stands.
                    let _ = job.answer.send(answer);
                }
            }
            Err(error) => {
                let error = broken(&error);
                for job in batch {
                    let settled = job.class == Class::Settled;
                    self.owed.keep(job.txn.ops.into_iter().filter(|op| settled || matches!(op, Op::Event(_))));
                    let _ = job.answer.send(Err(error.clone()));
                }
            }
        }
    }

    /// Nothing is owed, and the disk took what came last.
    fn is_settled(&self) -> bool {
        self.failures == 0 && self.owed.is_empty() && !self.mirror_again.load(Ordering::Acquire)
    }

    /// Writes down what is owed, before anything that came later.
    fn pay(&mut self) {
        if self.owed.is_empty() {
            return;
        }
        let txn = Txn { compare: Vec::new(), ops: self.owed.take() };
        // A refusal is for good: somebody else has what was to be claimed.
        if self.table.batch(&[&txn]).is_err() {
            self.owed.keep(txn.ops);
        }
    }

    /// Tells whoever watches, and the mirror.
    fn committed(&mut self, error: Option<&rusqlite::Error>) {
        let trouble = match error {
            Some(error) => Some(broken(error)),
            None if self.ballast.is_spent() => Some(TxnError::Full),
            None => None,
        };
        self.failures = if trouble.is_some() || !self.owed.is_empty() { self.failures.saturating_add(1) } else { 0 };
        self.trouble.send_if_modified(|told| {
            let changed = *told != trouble;
            *told = trouble;
            changed
        });
        if self.ballast.is_spent() {
            // So that the log does not grow.
            let _ = self.table.connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()));
        }
        let changes = std::mem::take(&mut self.table.changes);
        if error.is_none() {
            self.log.written();
            self.mirror.note(changes, self.table.tally);
            if self.mirror_again.swap(false, Ordering::AcqRel)
                && let Ok(documents) = open::mirrored(&self.table.connection, self.table.kinds)
            {
                self.mirror.compare(documents);
            }
        }
    }
}

/// Answers those that ask for something new; the others are left.
fn refuse_wishes(batch: Vec<Job>, error: &TxnError) -> Vec<Job> {
    let is_wish = |op: &Op| !matches!(op, Op::Event(_) | Op::DropEvents { .. });
    let (refused, left): (Vec<Job>, Vec<Job>) =
        batch.into_iter().partition(|job| job.class == Class::Wish && job.txn.ops.iter().any(is_wish));
    for job in refused {
        let _ = job.answer.send(Err(error.clone()));
    }
    left
}

/// The tables, and the checksums over them.
struct Table {
    connection: Connection,
    tally: Tally,
    kinds: Kinds,
    /// What the mirror is to be told of the transactions that were committed.
    changes: Vec<Change>,
}

/// Why one transaction of a batch failed.
enum Failure {
    /// It alone; the others go on.
    Refused(TxnError),
    /// The database; none of the batch happened.
    Database(rusqlite::Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Failure::Database(error)
    }
}

impl Table {
    fn batch(&mut self, txns: &[&Txn]) -> rusqlite::Result<Vec<Answer>> {
        let (before, told) = (self.tally, self.changes.len());
        self.try_batch(txns).inspect_err(|_| {
            self.tally = before;
            self.changes.truncate(told);
            let _ = self.connection.execute_batch("ROLLBACK");
        })
    }

    fn try_batch(&mut self, txns: &[&Txn]) -> rusqlite::Result<Vec<Answer>> {
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        let mut answers = Vec::with_capacity(txns.len());
        for txn in txns {
            let (before, told) = (self.tally, self.changes.len());
            self.connection.execute_batch("SAVEPOINT one")?;
            match self.one(txn) {
                Ok(revision) => answers.push(Ok(revision)),
                Err(Failure::Refused(refusal)) => {
                    self.connection.execute_batch("ROLLBACK TO one")?;
                    self.tally = before;
                    self.changes.truncate(told);
                    answers.push(Err(refusal));
                }
                Err(Failure::Database(error)) => return Err(error),
            }
            self.connection.execute_batch("RELEASE one")?;
        }
        let Tally { revision, digest, .. } = self.tally;
        let numbers = [revision, digest, sums::revision(revision, digest)].map(|n| n as i64);
        self.connection.prepare_cached("UPDATE revision SET value = ?1, digest = ?2, sum = ?3")?.execute(numbers)?;
        self.connection.execute_batch("COMMIT")?;
        Ok(answers)
    }

    fn one(&mut self, txn: &Txn) -> Result<u64, Failure> {
        for compare in &txn.compare {
            self.compare(compare)?;
        }
        let revision = self.tally.revision + 1;
        for op in &txn.ops {
            self.op(op, revision)?;
        }
        self.tally.revision = revision;
        Ok(revision)
    }

    fn compare(&self, compare: &Compare) -> Result<(), Failure> {
        let found: Option<i64> = self
            .connection
            .prepare_cached("SELECT revision FROM document WHERE kind = ?1 AND key = ?2")?
            .query_row((compare.kind, &compare.key), |row| row.get(0))
            .optional()?;
        if found.map(|n| n as u64) == compare.revision {
            Ok(())
        } else {
            Err(Failure::Refused(TxnError::Conflict { kind: compare.kind, key: compare.key.clone() }))
        }
    }

    fn op(&mut self, op: &Op, revision: u64) -> Result<(), Failure> {
        match op {
            Op::Put { kind, key, body } => self.put(kind, key, revision, body)?,
            Op::Delete { kind, key } => self.delete(kind, key)?,
            Op::Claim { space, value, owner } => return self.claim(space, value, owner),
            Op::Release { space, value } => {
                self.drop_rows("DELETE FROM claim WHERE space = ?1 AND value = ?2 RETURNING sum", &[space, value])?;
            }
            Op::ReleaseAll { owner } => {
                self.drop_rows("DELETE FROM claim WHERE owner = ?1 RETURNING sum", &[owner])?;
            }
            Op::Event(event) => {
                let (sequence, body) = (event.sequence as i64, &event.body);
                let sum = sums::event(sequence, event.at_ms, body.as_bytes());
                // One that is here already is the same: who told it was not sure that it had arrived.
                let sql = "INSERT OR IGNORE INTO event (sequence, at_ms, body, sum) VALUES (?1, ?2, ?3, ?4)";
                let added = self.connection.prepare_cached(sql)?.execute((sequence, event.at_ms, body, sum as i64))?;
                self.tally.digest ^= if added == 1 { sum } else { 0 };
            }
            Op::DropEvents { below } => {
                self.drop_rows("DELETE FROM event WHERE sequence < ?1 RETURNING sum", &[&(*below as i64)])?;
            }
        }
        Ok(())
    }

    /// Takes rows away, and their checksums `sum` out of the digest; all of those, and how many.
    fn drop_rows(&mut self, sql: &str, parameters: &[&dyn rusqlite::ToSql]) -> rusqlite::Result<(u64, u64)> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(parameters)?;
        let (mut sum, mut count) = (0, 0);
        while let Some(row) = rows.next()? {
            sum ^= row.get::<_, i64>(0)? as u64;
            count += 1;
        }
        self.tally.digest ^= sum;
        Ok((sum, count))
    }

    fn put(&mut self, kind: &str, key: &str, revision: u64, body: &str) -> rusqlite::Result<()> {
        let old: Option<i64> = self
            .connection
            .prepare_cached("SELECT sum FROM document WHERE kind = ?1 AND key = ?2")?
            .query_row((kind, key), |row| row.get(0))
            .optional()?;
        let sum = sums::document(kind.as_bytes(), key.as_bytes(), revision, body.as_bytes());
        let sql = "INSERT INTO document (kind, key, revision, body, sum) VALUES (?1, ?2, ?3, ?4, ?5)
                   ON CONFLICT (kind, key) DO UPDATE SET revision = ?3, body = ?4, sum = ?5";
        self.connection.prepare_cached(sql)?.execute((kind, key, revision as i64, body, sum as i64))?;
        let change = old.unwrap_or_default() as u64 ^ sum;
        self.tally.digest ^= change;
        if self.kinds.is_mirrored(kind) {
            self.tally.mirrored ^= change;
            self.tally.count += u64::from(old.is_none());
            let document = Document { key: key.to_owned(), revision, body: body.to_owned() };
            self.changes.push(((kind.to_owned(), key.to_owned()), Some(document)));
        }
        Ok(())
    }

    fn delete(&mut self, kind: &str, key: &str) -> rusqlite::Result<()> {
        let sql = "DELETE FROM document WHERE kind = ?1 AND key = ?2 RETURNING sum";
        let (sum, count) = self.drop_rows(sql, &[&kind, &key])?;
        if self.kinds.is_mirrored(kind) {
            self.tally.mirrored ^= sum;
            self.tally.count -= count;
            self.changes.push(((kind.to_owned(), key.to_owned()), None));
        }
        Ok(())
    }

    fn claim(&mut self, space: &'static str, value: &str, owner: &str) -> Result<(), Failure> {
        let holder: Option<String> = self
            .connection
            .prepare_cached("SELECT owner FROM claim WHERE space = ?1 AND value = ?2")?
            .query_row((space, value), |row| row.get(0))
            .optional()?;
        match holder {
            Some(holder) if holder == owner => Ok(()),
            Some(holder) => Err(Failure::Refused(TxnError::Claimed { space, value: value.to_owned(), owner: holder })),
            None => {
                let sum = sums::claim(space.as_bytes(), value.as_bytes(), owner.as_bytes());
                let sql = "INSERT INTO claim (space, value, owner, sum) VALUES (?1, ?2, ?3, ?4)";
                self.connection.prepare_cached(sql)?.execute((space, value, owner, sum as i64))?;
                self.tally.digest ^= sum;
                Ok(())
            }
        }
    }
}

fn broken(error: &rusqlite::Error) -> TxnError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => TxnError::Full,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => TxnError::Locked,
        _ => TxnError::Broken(error.to_string()),
    }
}
