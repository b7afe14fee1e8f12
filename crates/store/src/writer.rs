//! The one thread that writes. What waits for it is done in one SQLite transaction: one fsync for all.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rusqlite::{Connection, ErrorCode, OptionalExtension};
use tokio::sync::oneshot;

use crate::{Compare, Op, Txn, TxnError};

type Answer = Result<u64, TxnError>;
type Job = (Txn, oneshot::Sender<Answer>);

/// Transactions that may wait. Each instance's actor has one at a time, so this is more than ever are.
const QUEUE: usize = 4096;

/// Most transactions that share one fsync: bounds how long the first of them waits for the others' work.
const BATCH: usize = 256;

#[derive(Debug, Clone)]
pub(crate) struct Handle {
    jobs: Arc<SyncSender<Job>>,
}

impl Handle {
    pub(crate) fn submit(&self, txn: Txn) -> oneshot::Receiver<Answer> {
        let (answer, receiver) = oneshot::channel();
        if let Err(error) = self.jobs.try_send((txn, answer)) {
            let (_, answer) = match error {
                std::sync::mpsc::TrySendError::Full(job) | std::sync::mpsc::TrySendError::Disconnected(job) => job,
            };
            let _ = answer.send(Err(TxnError::Broken("too many transactions wait for it".into())));
        }
        receiver
    }
}

/// Starts the writer; it ends when the last handle is dropped.
pub(crate) fn start(connection: Connection) -> rusqlite::Result<Handle> {
    let revision = last_revision(&connection)?;
    let (jobs, receiver) = sync_channel(QUEUE);
    let mut writer = Writer { connection, revision };
    std::thread::Builder::new()
        .name("store".into())
        .stack_size(256 * 1024)
        .spawn(move || writer.run(&receiver))
        .map_err(|_| rusqlite::Error::InvalidQuery)?;
    Ok(Handle { jobs: Arc::new(jobs) })
}

fn last_revision(connection: &Connection) -> rusqlite::Result<u64> {
    connection.query_row("SELECT value FROM revision", [], |row| row.get::<_, i64>(0)).map(|n| n as u64)
}

struct Writer {
    connection: Connection,
    revision: u64,
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

impl Writer {
    fn run(&mut self, jobs: &Receiver<Job>) {
        while let Ok(first) = jobs.recv() {
            let batch: Vec<Job> = std::iter::once(first).chain(jobs.try_iter().take(BATCH - 1)).collect();
            let (txns, answers): (Vec<Txn>, Vec<oneshot::Sender<Answer>>) = batch.into_iter().unzip();
            let results = self.batch(&txns);
            for (answer, result) in answers.into_iter().zip(results) {
                // Whoever asked may have gone: the transaction stands.
                let _ = answer.send(result);
            }
        }
    }

    /// Does all that can be done in one commit; an answer each.
    fn batch(&mut self, txns: &[Txn]) -> Vec<Answer> {
        let before = self.revision;
        match self.try_batch(txns) {
            Ok(answers) => answers,
            Err(error) => {
                self.revision = before;
                let _ = self.connection.execute_batch("ROLLBACK");
                let error = broken(&error);
                txns.iter().map(|_| Err(error.clone())).collect()
            }
        }
    }

    fn try_batch(&mut self, txns: &[Txn]) -> rusqlite::Result<Vec<Answer>> {
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        let mut answers = Vec::with_capacity(txns.len());
        for txn in txns {
            self.connection.execute_batch("SAVEPOINT one")?;
            match self.one(txn) {
                Ok(revision) => answers.push(Ok(revision)),
                Err(Failure::Refused(refusal)) => {
                    self.connection.execute_batch("ROLLBACK TO one")?;
                    answers.push(Err(refusal));
                }
                Err(Failure::Database(error)) => return Err(error),
            }
            self.connection.execute_batch("RELEASE one")?;
        }
        self.connection.prepare_cached("UPDATE revision SET value = ?1")?.execute([self.revision as i64])?;
        self.connection.execute_batch("COMMIT")?;
        Ok(answers)
    }

    fn one(&mut self, txn: &Txn) -> Result<u64, Failure> {
        for compare in &txn.compare {
            self.compare(compare)?;
        }
        let revision = self.revision + 1;
        for op in &txn.ops {
            self.op(op, revision)?;
        }
        self.revision = revision;
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

    fn op(&self, op: &Op, revision: u64) -> Result<(), Failure> {
        let execute = |sql: &str, parameters: &[&dyn rusqlite::ToSql]| {
            self.connection.prepare_cached(sql)?.execute(parameters).map(drop)
        };
        match op {
            Op::Put { kind, key, body } => execute(
                "INSERT INTO document (kind, key, revision, body) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (kind, key) DO UPDATE SET revision = ?3, body = ?4",
                &[kind, key, &(revision as i64), body],
            )?,
            Op::Delete { kind, key } => execute("DELETE FROM document WHERE kind = ?1 AND key = ?2", &[kind, key])?,
            Op::Claim { space, value, owner } => return self.claim(space, value, owner),
            Op::Release { space, value } => {
                execute("DELETE FROM claim WHERE space = ?1 AND value = ?2", &[space, value])?
            }
            Op::ReleaseAll { owner } => execute("DELETE FROM claim WHERE owner = ?1", &[owner])?,
            Op::Event(event) => execute(
                "INSERT INTO event (sequence, at_ms, body) VALUES (?1, ?2, ?3)",
                &[&(event.sequence as i64), &event.at_ms, &event.body],
            )?,
            Op::DropEvents { below } => execute("DELETE FROM event WHERE sequence < ?1", &[&(*below as i64)])?,
        }
        Ok(())
    }

    fn claim(&self, space: &'static str, value: &str, owner: &str) -> Result<(), Failure> {
        let holder: Option<String> = self
            .connection
            .prepare_cached("SELECT owner FROM claim WHERE space = ?1 AND value = ?2")?
            .query_row((space, value), |row| row.get(0))
            .optional()?;
        match holder {
            Some(holder) if holder == owner => Ok(()),
            Some(holder) => Err(Failure::Refused(TxnError::Claimed { space, value: value.to_owned(), owner: holder })),
            None => {
                let sql = "INSERT INTO claim (space, value, owner) VALUES (?1, ?2, ?3)";
                self.connection.prepare_cached(sql)?.execute((space, value, owner))?;
                Ok(())
            }
        }
    }
}

fn broken(error: &rusqlite::Error) -> TxnError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => TxnError::Full,
        _ => TxnError::Broken(error.to_string()),
    }
}
