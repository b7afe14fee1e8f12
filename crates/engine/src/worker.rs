//! The work on one instance: a wish is committed while the host is brought to it, and ended in one commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use model::{Observed, RootSource, Step, Wish};
use store::{Class, Op};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::actor::{Accepted, Instance};
use crate::allocate;
use crate::error::{Error, Result};
use crate::events::{Happening, Lifecycle};
use crate::gate::{Gate, pass};
use crate::host::{Effect, StepError};
use crate::lost::keep_lost;
use crate::operations::{self, Operation};
use crate::record::{InstanceRecord, Record, Telling, WishState};
use crate::shared::Shared;

/// How far a run of steps came.
#[derive(Debug, Default)]
struct Done {
    /// Something that was is gone.
    discarded: bool,
    /// The last step that was tried discards something.
    discarding: bool,
}

/// Why a run of steps ended early.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    pub(crate) discarded: bool,
    pub(crate) discarding: bool,
}

pub(crate) struct Worker<'a> {
    pub(crate) instance: &'a Arc<Instance>,
    pub(crate) shared: &'a Arc<Shared>,
}

impl Worker<'_> {
    pub(crate) fn record(&self) -> InstanceRecord {
        self.instance.view().record.clone()
    }

    pub(crate) fn set_record(&self, record: &InstanceRecord) {
        self.instance.show(|view| view.record = record.clone());
    }

    /// The record, with nothing under way: what an earlier daemon began comes first.
    pub(crate) async fn settled_record(&self) -> Result<InstanceRecord> {
        if self.record().operation.is_some() {
            self.look().await;
        }
        let record = self.record();
        if record.operation.is_some() {
            let text = "what was begun with it before the daemon ended cannot be ended yet; try again later";
            return Err(Error::Conflict(text.into()));
        }
        Ok(record)
    }

    /// Commits a new wish and works towards it at the same time; goes back to the former wish when that fails. `accepted` is
    /// left when the wish could not be committed: whoever asked is told once nothing is seen of it any more. It is left as
    /// well when all was done before the commit was: whoever asked is told of the end at once, and need not ask for it.
    pub(crate) async fn run(
        &self,
        after: &InstanceRecord,
        class: Class,
        mut ops: Vec<Op>,
        operation: &Operation,
        accepted: &mut Option<Accepted>,
    ) -> Result<()> {
        ops.push(after.put());
        ops.push(operations::document(&operation.view()));
        let commit = self.shared.submit(class, ops);
        self.set_record(after);
        let (told, gate) = watch::channel(None);
        let (mut unwritten, done) = (None, AtomicBool::new(false));
        let committing = async {
            let result = commit.await.unwrap_or_else(|_| Err(store::TxnError::Broken("its writer has ended".into())));
            self.shared.committed();
            // A guest's end discards nothing that lasts: it need not wait for a disk that is broken.
            let result = match result {
                Err(error) if class == Class::Frees && after.wish.exists && error.is_of_the_disk() => {
                    unwritten = Some(error);
                    Ok(0)
                }
                result => result,
            };
            let goes_on = result.is_ok() && (unwritten.is_some() || !done.load(Ordering::Relaxed));
            if let Some(accepted) = accepted.take_if(|_| goes_on) {
                let _ = accepted.send(Ok(operation.view()));
            }
            let _ = told.send(Some(result.map(drop)));
        };
        let working = async {
            let worked = self.converge(None, Some(&gate), Some(operation)).await;
            done.store(worked.is_ok(), Ordering::Relaxed);
            worked
        };
        let ((), worked) = tokio::join!(committing, working);
        let committed = gate.borrow().clone().unwrap_or(Ok(()));
        match (committed, worked) {
            (Ok(()), Ok(())) => match unwritten {
                Some(why) => Err(Error::Unwritten { done: "The instance was stopped", why }),
                None => Ok(()),
            },
            (Ok(()), Err(failure)) => self.after_failure(failure, operation).await,
            // Nothing was promised: back, without writing that down either.
            (Err(error), _) => {
                self.go_back_unwritten().await;
                Err(error.into())
            }
        }
    }

    /// Steps until there are none. `seen`: as it was seen just now; `gate` holds back what must not happen before the commit.
    pub(crate) async fn converge(
        &self,
        seen: Option<Observed>,
        gate: Option<&Gate>,
        operation: Option<&Operation>,
    ) -> std::result::Result<(), Failure> {
        let mut progress = Done::default();
        let result = self.rounds(seen, gate, operation, &mut progress).await;
        self.watch_need();
        self.watch_rest();
        result.map_err(|error| Failure { error, discarded: progress.discarded, discarding: progress.discarding })
    }

    async fn rounds(
        &self,
        mut seen: Option<Observed>,
        gate: Option<&Gate>,
        operation: Option<&Operation>,
        progress: &mut Done,
    ) -> Result<()> {
        if self.at_once(gate.is_some()).await? {
            return Ok(());
        }
        // Each round ends in a look; more than a few rounds mean that something undoes what we do.
        for _ in 0..8 {
            let record = self.record();
            let wish = self.shared.wish(&record)?;
            let observed = match seen.take() {
                Some(observed) => observed,
                None => self.observe(&record).await?,
            };
            let steps = keep_lost(&record, plan::diff(&wish, &observed, self.shared.host.facts()))?;
            if steps.is_empty() {
                return Ok(());
            }
            if self.apply_all(&wish, &steps, gate, operation, progress).await? {
                self.observe(&record).await?;
                return Ok(());
            }
        }
        Err(Error::Internal("the host does not stay as it is made".into()))
    }

    pub(crate) async fn observe(&self, record: &InstanceRecord) -> Result<Observed> {
        let observed = self.shared.host.observe(record.id, &record.pool).await?;
        self.instance.show(|view| {
            view.observed = observed.clone();
            view.looked = true;
        });
        Ok(observed)
    }

    /// Applies steps in their order; false when the wish became another one meanwhile.
    async fn apply_all(
        &self,
        wish: &Wish,
        steps: &[Step],
        gate: Option<&Gate>,
        operation: Option<&Operation>,
        progress: &mut Done,
    ) -> Result<bool> {
        for step in steps {
            let phase = plan::phase_of(step);
            progress.discarding = phase == plan::Phase::Discard;
            if phase > plan::Phase::Prepare {
                pass(gate).await?;
            }
            if let Step::EnsureImage { fingerprint, pool } = step {
                let found = self.shared.images.ensure(self.shared, *fingerprint, pool, operation).await?;
                if wish.source != RootSource::Image(found) {
                    // It was built just now, and is known by what it is instead of what it is made from.
                    let mut record = self.record();
                    record.wish.source = RootSource::Image(found);
                    self.set_record(&record);
                    return Ok(false);
                }
                continue;
            }
            if matches!(step, Step::Spawn { .. }) {
                self.join_owners(wish, gate.is_none()).await?;
            }
            // Who was told to die cannot be told to live, even if the wait for the death has no end.
            progress.discarded |= matches!(step, Step::Kill { .. });
            self.apply(step).await?;
            progress.discarded |= progress.discarding;
        }
        Ok(true)
    }

    pub(crate) async fn apply(&self, step: &Step) -> std::result::Result<Effect, StepError> {
        tracing::debug!(instance = %self.instance.id, step = step.name(), "apply");
        let effect = self.shared.host.apply(step, &|_| {}).await?;
        if let Step::Start { boot } = step {
            self.instance.pace.started(boot.generation, Instant::now());
        }
        debug_assert!(!matches!(effect, Effect::Image(_)), "{} makes no image", step.name());
        Ok(effect)
    }

    /// Ends what was under way: the operation's document, the record without its traces, and the events ride one commit.
    /// `had` is what was given out meanwhile.
    pub(crate) fn finish(&self, operation: Option<&Operation>, result: Result<()>, had: &[WishState]) {
        let mut record = self.record();
        record.operation = None;
        record.previous = None;
        let unfinished = matches!(result, Err(Error::Unfinished(_)));
        for telling in std::mem::take(&mut record.telling) {
            let done = matches!(result, Ok(()) | Err(Error::Unwritten { .. }));
            if done || telling.always && record.wish.exists {
                self.tell(telling);
            } else if unfinished {
                // It is true once the wish is reached.
                record.telling.push(telling);
            }
        }
        // What could not be removed yet keeps its row, so that it is known whose it is.
        let gone = !record.wish.exists && record.error.is_none();
        self.set_record(&record);
        let regranted = had.iter().any(|wish| wish.nics != record.wish.nics || wish.ids != record.wish.ids);
        let mut ops = if gone {
            vec![record.delete(), Op::ReleaseAll { owner: record.id.to_string() }]
        } else {
            let mut ops = if regranted { allocate::claims_anew(&record) } else { Vec::new() };
            ops.push(record.put());
            ops
        };
        let ended =
            operation.map(|operation| (operation, operation.tell_end(result.map_err(|error| error.to_string()))));
        ops.extend(ended.iter().map(|(_, view)| operations::document(view)));
        // Not awaited: after a crash the loop finds the wish reached and says so again.
        drop(self.shared.submit(store::Class::Settled, ops));
        // Only now may others have what it had, and see it ended: what they ask for then is written down after it.
        if gone {
            self.shared.forget(had, &record);
        } else {
            self.shared.take_back(had, &record);
        }
        if gone || regranted {
            self.shared.publish_names();
        }
        if let Some((operation, view)) = ended {
            let old = self.shared.operations.retire(&view);
            if !old.is_empty() {
                drop(self.shared.submit(store::Class::Settled, old));
            }
            operation.end(view);
        }
    }

    pub(crate) fn tell(&self, telling: Telling) {
        let record = self.record();
        let lifecycle = Lifecycle {
            action: telling.action,
            source: format!("/1.0/instances/{}", record.name),
            context: telling.context,
            requestor: telling.requestor,
            name: record.name.to_string(),
        };
        self.shared.events.tell(record.project.as_str(), Happening::Lifecycle(lifecycle));
    }
}
