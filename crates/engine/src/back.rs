//! What is done when something failed: back to the former wish, forward, or once more.

use std::sync::atomic::Ordering;

use model::{Observed, Power, StopKind};
use store::Op;

use crate::allocate;
use crate::error::{Error, Result};
use crate::operations::{self, Operation};
use crate::pace::{TRIES, pause};
use crate::record::{InstanceRecord, Record, Telling, WishState};
use crate::unwind::guarded;
use crate::worker::{Failure, Worker};

impl Worker<'_> {
    /// Back to the former wish while nothing of what was is gone; from then on only forward.
    pub(crate) async fn after_failure(&self, failure: Failure, operation: &Operation) -> Result<()> {
        match self.is_reached().await {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => tracing::error!(instance = %self.instance.id, %error, "cannot look"),
        }
        if !failure.discarded {
            return Err(self.go_back(failure.error, operation).await);
        }
        if failure.discarding {
            // What could be done at a later try is done.
            let reached = self.settle().await;
            return if reached { Ok(()) } else { Err(Error::Unfinished(failure.error.to_string())) };
        }
        // The old boot is gone and the new one can't be made: what is left is an instance that does not run.
        let mut record = self.record();
        record.wish.power = Power::Off;
        record.wish.stop = StopKind::Force;
        let context = [("cause".to_owned(), failure.error.to_string().into())].into();
        record.telling.push(Telling { action: "instance-stopped".into(), context, requestor: None, always: true });
        let told = self.write_end(record, Vec::new(), failure.error, operation).await;
        self.settle().await;
        Err(told)
    }

    /// A panic, which is a defect of ours, ended the command under way: its operation fails in words, the former wish holds
    /// again where nothing of it is gone, and the actor goes on.
    pub(crate) async fn after_panic(&self, why: &str) {
        let record = self.record();
        tracing::error!(instance = %record.name, why, "a defect of the daemon: what was asked of the instance was given up");
        let error = Error::Internal(format!("a defect of the daemon ended this ({why}); please report it"));
        let had: Vec<_> = [Some(&record.wish), record.previous.as_deref()].into_iter().flatten().cloned().collect();
        let operation = record.operation.and_then(|id| self.shared.operations.live(id));
        let (instance, shared, cause) = (self.instance.clone(), self.shared.clone(), error.clone());
        let settled = guarded(async move {
            let worker = Worker { instance: &instance, shared: &shared };
            let keeps = |before: &WishState| {
                let (now, boot) = (&record.wish, before.power.boot());
                before.exists && now.exists && before.root == now.root && boot == now.power.boot()
            };
            let operation = record.operation.and_then(|id| shared.operations.live(id));
            match operation.filter(|_| record.previous.as_deref().is_some_and(keeps)) {
                Some(operation) => worker.go_back(cause, &operation).await,
                None => {
                    worker.settle().await;
                    cause
                }
            }
        });
        let error = settled.await.unwrap_or_else(|_| {
            self.instance.show(|view| view.record.error = Some(error.to_string()));
            error
        });
        if let Some(operation) = operation {
            self.finish(Some(&operation), Err(error), &had);
        }
    }

    /// Whether nothing is left to do, whatever failed on the way.
    async fn is_reached(&self) -> Result<bool> {
        let record = self.record();
        let observed = self.observe(&record).await?;
        Ok(plan::diff(&self.shared.wish(&record)?, &observed, self.shared.host.facts()).is_empty())
    }

    /// The wish before, as the wish again; kept, and worked towards. What is to be told of that.
    async fn go_back(&self, cause: Error, operation: &Operation) -> Error {
        let view = self.instance.view();
        let mut record = view.record.clone();
        let Some(mut previous) = record.previous.take() else {
            record.error = Some(cause.to_string());
            self.set_record(&record);
            self.instance.look_again(self.shared);
            return cause;
        };
        tracing::warn!(instance = %record.name, %cause, "going back to the former wish");
        // A new instance that could not be started has been made all the same.
        if !previous.exists && record.wish.exists && view.observed.roots.contains(&record.wish.root) {
            *previous = WishState { power: Power::Off, ..record.wish.clone() };
        }
        let regranted = previous.nics != record.wish.nics || previous.ids != record.wish.ids;
        record.wish = WishState { stop: StopKind::Force, ..*previous };
        let ops = if regranted && record.wish.exists { allocate::claims_anew(&record) } else { Vec::new() };
        let told = self.write_end(record, ops, cause, operation).await;
        self.settle().await;
        told
    }

    /// Writes down that the operation failed and what is wished instead, before anything follows from that: a later daemon
    /// must not try again what is told to have failed. Where that cannot be written, what is to be told says so.
    async fn write_end(
        &self,
        mut record: InstanceRecord,
        mut ops: Vec<Op>,
        cause: Error,
        operation: &Operation,
    ) -> Error {
        // Of what was taken back nothing is true, and the loop of a later daemon would tell it.
        let exists = record.wish.exists;
        record.telling.retain(|telling| telling.always && exists);
        record.previous = None;
        record.operation = None;
        self.set_record(&record);
        ops.push(record.put());
        ops.push(operations::document(&operation.as_ended(Err(cause.to_string()))));
        let Err(why) = self.shared.submit_and_wait(store::Class::Settled, ops).await else { return cause };
        tracing::error!(instance = %record.name, error = %why, "a failure could not be written down");
        Error::Unrecorded { cause: Box::new(cause), why: Box::new(why) }
    }

    pub(crate) async fn go_back_unwritten(&self) {
        let mut record = self.record();
        if let Some(previous) = record.previous.take() {
            record.wish = WishState { stop: StopKind::Force, ..*previous };
            record.operation = None;
            // What happened before that is true nevertheless.
            record.telling.retain(|telling| telling.always);
            self.set_record(&record);
            self.settle().await;
        }
    }

    /// Works towards the wish a few times; notes the error when none succeeds, and looks again later. Whether it is reached.
    pub(crate) async fn settle(&self) -> bool {
        self.settle_seen(None).await
    }

    /// The same, from how it was seen just now.
    pub(crate) async fn settle_seen(&self, mut seen: Option<Observed>) -> bool {
        for attempt in 1..=TRIES {
            match self.converge(seen.take(), None, None).await {
                Ok(()) => {
                    self.instance.given_up.store(0, Ordering::Release);
                    if self.instance.view().record.error.is_some() {
                        self.instance.show(|view| view.record.error = None);
                    }
                    return true;
                }
                Err(Failure { error, .. }) if attempt == TRIES => {
                    tracing::error!(instance = %self.instance.id, %error, "given up for a while");
                    self.instance.show(|view| view.record.error = Some(error.to_string()));
                    self.instance.look_again(self.shared);
                }
                Err(Failure { error, .. }) => {
                    tracing::warn!(instance = %self.instance.id, %error, attempt, "trying again");
                    tokio::time::sleep(pause(attempt)).await;
                }
            }
        }
        false
    }
}
