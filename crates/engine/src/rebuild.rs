//! A damaged database made anew, and a disk that does not take what is written.

use std::collections::BTreeSet;

use model::InstanceId;
use store::{Kinds, Op, Store, TxnError};

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::events::{Happening, Lifecycle};
use crate::record::{InstanceRecord, Record};
use crate::shared::Shared;
use crate::{allocate, defaults, operations};

/// What is not worth a second copy: operations say what happened, not what should be.
pub const UNMIRRORED: Kinds = Kinds { unmirrored: &[operations::KIND] };

/// Kind and key of the document that says that records may be missing.
const INCOMPLETE: (&str, &str) = ("daemon", "incomplete");

/// Whether records of instances may be missing, so that what belongs to nothing is kept: until nothing is there any more that
/// a missing record could be of.
pub(crate) fn is_incomplete(store: &Store) -> bool {
    // In doubt nothing is thrown away.
    store.get(INCOMPLETE.0, INCOMPLETE.1).map_or(true, |found| found.is_some())
}

/// Takes the mark away once everything on the host is somebody's. All instances must have been seen: a pool that is not there
/// at the moment hides what is unknown, too.
pub(crate) async fn end_incompleteness(shared: &Shared, seen: &BTreeSet<InstanceId>) -> Result<()> {
    let mut all_seen = !seen.is_empty() && seen.iter().all(|id| shared.knows(*id));
    shared.for_all(|instance| all_seen &= seen.contains(&instance.id));
    if !all_seen {
        return Ok(());
    }
    tracing::info!("everything on the host is somebody's again: no record is missing");
    let (kind, key) = INCOMPLETE;
    shared.submit_and_wait(store::Class::Settled, vec![Op::Delete { kind, key: key.into() }]).await
}

impl Engine {
    /// Makes a damaged database anew of what was rescued. Does nothing with one that is whole.
    pub(crate) async fn rebuild(&self) -> Result<Vec<String>> {
        let shared = &self.shared;
        if shared.store.read_only().is_none() {
            return Ok(Vec::new());
        }
        // Operations are lost: what they were about is the loop's.
        let mut ops = Vec::new();
        shared.for_all(|instance| {
            instance.forget_operation();
            let record = &instance.view().record;
            ops.push(record.put());
            ops.extend(allocate::claims(record));
        });
        for object in shared.catalog().namespaces.values() {
            ops.push(object.put());
            ops.extend(object.claims());
        }
        let store = shared.store.clone();
        let rebuilt = tokio::task::spawn_blocking(move || store.rebuild(ops)).await;
        let rebuilt = rebuilt.map_err(|error| Error::Internal(error.to_string()))?;
        let rebuilt = rebuilt.map_err(|error| Error::Internal(with_causes(&error)))?;
        tracing::warn!(notes = rebuilt.notes.join("; "), "the database was made anew");
        if !rebuilt.complete {
            let (kind, key) = INCOMPLETE;
            let op = Op::Put { kind, key: key.into(), body: "{}".into() };
            shared.submit_and_wait(store::Class::Wish, vec![op]).await?;
        }
        defaults::make(shared).await?;
        self.follow_disk();
        Ok(rebuilt.notes)
    }

    /// What the disk refuses, and that it takes everything again, is logged and told.
    pub(crate) fn follow_disk(&self) {
        let Some(mut trouble) = self.shared.store.trouble() else { return };
        // Not a handle of the database: its writer ends with the last of those.
        let shared = std::sync::Arc::downgrade(&self.shared);
        tokio::spawn(async move {
            while trouble.changed().await.is_ok() {
                let now = trouble.borrow_and_update().clone();
                let Some(shared) = shared.upgrade() else { return };
                match &now {
                    Some(error) => tracing::error!(%error, "the database cannot be written as usual"),
                    None => tracing::info!("the database is written as usual again"),
                }
                shared.tell_trouble(now);
            }
        });
    }
}

impl Shared {
    fn tell_trouble(&self, trouble: Option<TxnError>) {
        let (action, cause) = match trouble {
            Some(error) => ("database-impaired", error.to_string()),
            None => ("database-recovered", String::new()),
        };
        let lifecycle = Lifecycle {
            action: action.to_owned(),
            source: "/1.0".to_owned(),
            context: [("cause".to_owned(), cause.into())].into(),
            requestor: None,
            name: "database".to_owned(),
        };
        self.events.tell("", Happening::Lifecycle(lifecycle));
    }
}

impl crate::actor::Instance {
    /// The operation of before is lost: what it wished stands.
    fn forget_operation(&self) {
        self.show(|view| {
            let record: &mut InstanceRecord = &mut view.record;
            record.operation = None;
            record.previous = None;
        });
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}
