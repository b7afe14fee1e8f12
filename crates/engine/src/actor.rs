//! One instance: takes commands in their order, one at a time, and shows what it is.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use model::{Boot, Bounded, InstanceId, Observed};
use tokio::sync::{oneshot, watch};

use crate::error::{Error, Result};
use crate::live::LimitsOrder;
use crate::mailbox::{Mailbox, Posted};
use crate::operations::{Operation, OperationView};
use crate::pace::Pace;
use crate::record::InstanceRecord;
use crate::rest::RestHeard;
use crate::scale::NeedHeard;
use crate::shared::Shared;
use crate::unwind::guarded;
use crate::verbs::Verb;
use crate::view::InstanceView;
use crate::worker::Worker;

/// Pauses between looks at an instance whose wish was given up: the first, and the longest after doublings.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));

/// What is said to whoever comes when the mailbox is full.
const TOO_MANY: &str = "too many requests wait for this instance; try again later";

/// Told once the first transaction of a command is on the disk: the operation that does the rest.
pub(crate) type Accepted = oneshot::Sender<Result<OperationView>>;

pub(crate) enum Command {
    /// Somebody asks for something.
    Verb { verb: Verb, expect: Option<String>, requestor: Option<String>, accepted: Accepted },
    /// It was just made.
    Create { operation: Box<Operation>, accepted: Accepted },
    /// Somebody waits for limits to hold.
    Limits(Box<LimitsOrder>),
    /// The kernel says that it needs more or less of something.
    Scale(NeedHeard),
    /// It does nothing, or is called in its sleep.
    Rest(RestHeard),
    /// It met a limit at which something is to happen.
    Bitten(Boot, Bounded),
    /// Something may have changed on the host, or the daemon has just started.
    Look,
    /// The daemon ends and takes its guests along.
    Halt,
}

/// An instance.
pub(crate) struct Instance {
    pub(crate) id: InstanceId,
    mailbox: Mailbox<Command>,
    view: RwLock<Arc<InstanceView>>,
    pub(crate) pace: Pace,
    /// Times in a row that it was given up.
    pub(crate) given_up: AtomicU32,
    /// Somebody waits to have it look again.
    looks_again: AtomicBool,
    /// This daemon put it to sleep, and hears of calls since.
    pub(crate) sleeps: AtomicBool,
    changed: watch::Sender<()>,
}

impl Instance {
    pub(crate) fn new(record: InstanceRecord) -> Arc<Instance> {
        let view = InstanceView { record, observed: Observed::default(), looked: false, version: 1 };
        let (id, view) = (view.record.id, RwLock::new(Arc::new(view)));
        let (given_up, looks_again, sleeps) = (AtomicU32::new(0), AtomicBool::new(false), AtomicBool::new(false));
        let (mailbox, pace, changed) = (Mailbox::new(), Pace::default(), watch::channel(()).0);
        Arc::new(Instance { id, mailbox, view, pace, given_up, looks_again, sleeps, changed })
    }

    /// As it is now.
    pub(crate) fn view(&self) -> Arc<InstanceView> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn show(&self, change: impl FnOnce(&mut InstanceView)) {
        let mut slot = self.view.write().unwrap_or_else(PoisonError::into_inner);
        let mut view = (**slot).clone();
        change(&mut view);
        view.version += 1;
        *slot = Arc::new(view);
        drop(slot);
        self.changed.send_replace(());
    }

    /// Tells when it is shown in another way.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Hands it a command.
    pub(crate) fn post(self: &Arc<Self>, shared: &Arc<Shared>, command: Command) {
        match self.mailbox.post(command) {
            Posted::Queued => {}
            Posted::StartWork => {
                let (instance, shared) = (self.clone(), shared.clone());
                tokio::spawn(async move { instance.work(shared).await });
            }
            Posted::Full(Command::Verb { accepted, .. } | Command::Create { accepted, .. }) => {
                let _ = accepted.send(Err(Error::Conflict(TOO_MANY.into())));
            }
            Posted::Full(Command::Limits(order)) => {
                let _ = order.done.send(Err(Error::Conflict(TOO_MANY.into())));
            }
            // It will look anyway when it comes to the others; who goes on meeting a limit is told of again.
            Posted::Full(
                Command::Scale(_) | Command::Rest(_) | Command::Bitten(..) | Command::Look | Command::Halt,
            ) => {}
        }
    }

    /// Looks again after a while, longer each time: nothing may tell us that the host is well again.
    pub(crate) fn look_again(self: &Arc<Self>, shared: &Arc<Shared>) {
        if self.looks_again.swap(true, Ordering::AcqRel) {
            return;
        }
        let times = self.given_up.fetch_add(1, Ordering::AcqRel).min(16);
        let (first, longest) = LOOK_AGAIN;
        let (instance, shared) = (self.clone(), shared.clone());
        tokio::spawn(async move {
            tokio::time::sleep((first * (1 << times)).min(longest)).await;
            instance.looks_again.store(false, Ordering::Release);
            instance.post(&shared, Command::Look);
        });
    }

    /// It is doing something.
    pub(crate) fn is_busy(&self) -> bool {
        self.mailbox.is_busy()
    }

    /// One command after the other. Each has a task of its own: a panic, a defect of ours, ends the command and not the actor.
    async fn work(self: Arc<Self>, shared: Arc<Shared>) {
        while let Some(command) = self.mailbox.next() {
            let (instance, engine) = (self.clone(), shared.clone());
            let obeyed = guarded(async move { instance.obey(&engine, command).await }).await;
            if let Err(why) = obeyed {
                let (instance, engine) = (self.clone(), shared.clone());
                let recovery =
                    guarded(async move { Worker { instance: &instance, shared: &engine }.after_panic(&why).await });
                let recovered = recovery.await;
                recovered
                    .unwrap_or_else(|why| tracing::error!(instance = %self.id, why, "not recovered from a defect"));
            }
        }
    }

    async fn obey(self: &Arc<Self>, shared: &Arc<Shared>, command: Command) {
        let worker = Worker { instance: self, shared };
        match command {
            Command::Verb { verb, expect, requestor, accepted } => {
                worker.verb(verb, expect.as_deref(), requestor, accepted).await;
            }
            Command::Create { operation, accepted } => worker.create(*operation, accepted).await,
            Command::Limits(order) => worker.limits(*order).await,
            Command::Scale(heard) => worker.scale(heard).await,
            Command::Rest(heard) => worker.rest(heard).await,
            Command::Bitten(boot, bounded) => worker.bitten(boot, bounded).await,
            Command::Look => worker.look().await,
            Command::Halt => worker.halt().await,
        }
    }
}
