//! What the parts of the engine share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use model::{Power, Wish};
use store::{Op, Store, TxnError};
use tokio::sync::watch;
use uuid::Uuid;

use crate::actor::Instance;
use crate::catalog::Catalog;
use crate::defaults;
use crate::error::{Error, Result};
use crate::events::Events;
use crate::host::Host;
use crate::images::Images;
use crate::instances::Instances;
use crate::kept::Answer;
use crate::operations::{Operation, Operations};
use crate::record::InstanceRecord;

/// What the parts share.
pub(crate) struct Shared {
    pub(crate) host: Arc<dyn Host>,
    pub(crate) store: Store,
    pub(crate) events: Arc<Events>,
    pub(crate) operations: Operations,
    pub(crate) images: Images,
    pub(crate) catalog: RwLock<Catalog>,
    pub(crate) instances: RwLock<Instances>,
    pub(crate) unfinished: Mutex<HashMap<Uuid, Operation>>,
    /// The daemon ends and takes its guests along: nothing is to run, whatever is wished.
    pub(crate) halting: AtomicBool,
    /// Everything is being removed: who needs whom does not matter any more.
    pub(crate) purging: AtomicBool,
    /// The numbers of this run's events are on the disk.
    pub(crate) is_numbered: watch::Sender<bool>,
    /// Everything was looked at once, or could not be in time.
    pub(crate) is_looked: watch::Sender<bool>,
    /// What a first start makes.
    pub(crate) first_start: defaults::FirstStart,
    /// Counts the changes of profiles.
    pub(crate) profiles_version: std::sync::atomic::AtomicU64,
    /// One after the other makes, changes or removes profiles, so that each sees the work of those before it.
    pub(crate) profiles: tokio::sync::Mutex<()>,
    /// One after the other makes or removes namespace objects.
    pub(crate) namespaces: tokio::sync::Mutex<()>,
    /// One after the other makes, changes or removes chains.
    pub(crate) chains: tokio::sync::Mutex<()>,
}

impl Shared {
    pub(crate) fn catalog(&self) -> RwLockReadGuard<'_, Catalog> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn catalog_mut(&self) -> RwLockWriteGuard<'_, Catalog> {
        self.catalog.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be had after the catalogue, where both are needed.
    pub(crate) fn instances(&self) -> RwLockReadGuard<'_, Instances> {
        self.instances.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn instances_mut(&self) -> RwLockWriteGuard<'_, Instances> {
        self.instances.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn submit_and_wait(&self, class: store::Class, ops: Vec<Op>) -> Result<()> {
        self.written(self.submit(class, ops)).await
    }

    /// Waits for a commit.
    pub(crate) async fn written(&self, commit: Answer) -> Result<()> {
        let answer = commit.await;
        self.committed();
        answer.unwrap_or_else(|_| Err(TxnError::Broken("its writer has ended".into())))?;
        Ok(())
    }

    /// A commit is on the disk, or was refused.
    pub(crate) fn committed(&self) {
        self.host.passed("after", "commit");
    }

    /// What the loop works towards for a record.
    pub(crate) fn wish(&self, record: &InstanceRecord) -> Result<Wish> {
        let mut wish = self.wish_of(record)?;
        if let (Power::On { boot, .. }, true) = (wish.power, record.asleep) {
            wish.power = Power::On { boot, frozen: true };
        }
        if self.halting.load(Ordering::Acquire) {
            wish.power = Power::Off;
        }
        Ok(wish)
    }

    /// The same, whether the daemon is ending or not.
    pub(crate) fn wish_of(&self, record: &InstanceRecord) -> Result<Wish> {
        self.wish_by(&self.catalog(), record)
    }

    /// The same by another catalogue than the one that holds.
    pub(crate) fn wish_by(&self, catalog: &Catalog, record: &InstanceRecord) -> Result<Wish> {
        let config = catalog.config(&record.project, &record.wish)?;
        let instances = self.instances();
        let grain = crate::sharing::grain(catalog, &instances, self.host.facts(), record, &config)?;
        let wires = crate::wires::nics(catalog, &instances, record, &config);
        catalog.wish(record, config, grain, (wires, self.host.facts()))
    }

    /// Why nobody answers, told once what was begun is taken back.
    pub(crate) async fn unanswered(&self, instance: &Instance) -> Error {
        if let Err(error) = self.check_open() {
            return error;
        }
        while instance.is_busy() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        Error::Internal("a defect of the daemon ended this as it began; please report it".into())
    }

    /// Refuses what comes too late, or could not be remembered.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.halting.load(Ordering::Acquire) {
            return Err(Error::Cancelled("the daemon is ending".into()));
        }
        match self.store.read_only() {
            Some(reason) => Err(TxnError::ReadOnly(reason).into()),
            None => Ok(()),
        }
    }

    /// The operation that an earlier daemon did not live to end.
    pub(crate) fn take_unfinished(&self, id: Uuid) -> Option<Operation> {
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner).remove(&id)
    }
}
