//! One instance: takes commands in their order, keeps its wish, and works until the host is as wished.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use model::{Boot, BootGen, End, GuestSeen, InstanceId, Observed, Power, RootSource, Step, StopKind, Wish};
use store::{Class, Op};
use tokio::sync::{oneshot, watch};

use crate::allocate;
use crate::clock;
use crate::engine::Shared;
use crate::error::{Error, Result};
use crate::events::{Happening, Lifecycle};
use crate::gate::{Gate, pass};
use crate::host::{Effect, StepError};
use crate::lost::keep_lost;
use crate::mailbox::{Mailbox, Posted};
use crate::operations::{self, NewOperation, Operation, OperationView};
use crate::pace::{Pace, Reboot};
use crate::record::{InstanceRecord, Record, WishState};
use crate::unwind::guarded;
use crate::verbs::{self, Verb};

/// Tries of the same wish without success before it is given up until something changes.
const TRIES: u32 = 3;

/// Seconds that a guest has for its shutdown when the host goes down; systemd gives its own services 90.
const HALT_TIMEOUT_S: u32 = 30;

/// An instance as it is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct InstanceView {
    /// What is remembered of it.
    pub record: InstanceRecord,
    /// What was last seen of it.
    pub observed: Observed,
    /// Counts its changes, for whoever keeps something made from it.
    pub version: u64,
}

/// How an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstanceStatus {
    /// It does not run.
    Stopped,
    /// It runs.
    Running,
    /// It runs and is held still.
    Frozen,
    /// It is on its way up.
    Starting,
    /// It is on its way down.
    Stopping,
    /// It could not be brought where it should be.
    Error,
}

impl InstanceView {
    /// The boot that should run.
    pub fn boot(&self) -> Option<Boot> {
        Some(Boot { id: self.record.id, generation: self.record.wish.power.boot()? })
    }

    /// The pid of its init on the host; `None` when it does not run.
    pub fn pid(&self) -> Option<u32> {
        let seen = self.observed.boots.get(&self.record.wish.power.boot()?)?;
        match seen.guest {
            GuestSeen::Running { pid } => Some(pid),
            GuestSeen::Absent | GuestSeen::Prepared { .. } | GuestSeen::Ended(_) => None,
        }
    }

    /// How it is.
    pub fn status(&self) -> InstanceStatus {
        if self.record.error.is_some() {
            return InstanceStatus::Error;
        }
        let alive = self.observed.boots.values().any(|seen| matches!(seen.guest, GuestSeen::Running { .. }));
        match (self.record.wish.power, self.pid(), alive) {
            (Power::On { frozen: true, .. }, Some(_), _) => InstanceStatus::Frozen,
            (Power::On { .. }, Some(_), _) => InstanceStatus::Running,
            (Power::On { .. }, None, _) => InstanceStatus::Starting,
            (Power::Off, _, true) => InstanceStatus::Stopping,
            (Power::Off, _, false) => InstanceStatus::Stopped,
        }
    }
}

/// Told once the first transaction of a command is on the disk: the operation that does the rest.
pub(crate) type Accepted = oneshot::Sender<Result<OperationView>>;

pub(crate) enum Command {
    /// Somebody asks for something.
    Verb { verb: Verb, expect: Option<String>, requestor: Option<String>, accepted: Accepted },
    /// It was just made: `record` is what `Instance::record` holds.
    Create { start: bool, requestor: Option<String>, operation: Box<Operation>, accepted: Accepted },
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
    pace: Pace,
}

impl Instance {
    pub(crate) fn new(record: InstanceRecord) -> Arc<Instance> {
        let view = InstanceView { record, observed: Observed::default(), version: 1 };
        let (id, view) = (view.record.id, RwLock::new(Arc::new(view)));
        Arc::new(Instance { id, mailbox: Mailbox::new(), view, pace: Pace::default() })
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
                let text = "too many requests wait for this instance; try again later".to_owned();
                let _ = accepted.send(Err(Error::Conflict(text)));
            }
            // It will look anyway when it comes to the others.
            Posted::Full(Command::Look | Command::Halt) => {}
        }
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
            Command::Create { start, requestor, operation, accepted } => {
                worker.create(start, requestor, *operation, accepted).await;
            }
            Command::Look => worker.look().await,
            Command::Halt => worker.halt().await,
        }
    }
}

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
struct Failure {
    error: Error,
    discarded: bool,
    discarding: bool,
}

struct Worker<'a> {
    instance: &'a Arc<Instance>,
    shared: &'a Arc<Shared>,
}

impl Worker<'_> {
    fn record(&self) -> InstanceRecord {
        self.instance.view().record.clone()
    }

    fn set_record(&self, record: &InstanceRecord) {
        self.instance.show(|view| view.record = record.clone());
    }

    /// A verb: new wish, operation, work, end.
    async fn verb(&self, verb: Verb, expect: Option<&str>, requestor: Option<String>, accepted: Accepted) {
        let before = self.record();
        if !before.wish.exists {
            let _ = accepted.send(Err(Error::NotFound("Instance not found".into())));
            return;
        }
        let after = match self.decide(&before, &verb, expect) {
            Ok(after) => after,
            Err(error) => {
                let _ = accepted.send(Err(error));
                return;
            }
        };
        let new = NewOperation::on_instance(before.project.as_str(), verb.description(), before.name.as_str());
        let operation = self.shared.operations.start(new);
        let after = InstanceRecord { operation: Some(operation.id()), ..after };
        let (owner, mut ops) = (before.id.to_string(), Vec::new());
        if before.wish.nics != after.wish.nics {
            ops.push(Op::ReleaseAll { owner });
            ops.extend(allocate::claims(&after));
        }
        let class = match verb {
            Verb::Stop(_) | Verb::Delete => Class::Frees,
            _ => Class::Wish,
        };
        let mut accepted = Some(accepted);
        let result = self.run(&after, class, ops, &operation, &mut accepted).await;
        let refusal = result.as_ref().err().cloned();
        self.finish(&operation, result, verb.action(), requestor).await;
        refuse(accepted, refusal);
    }

    /// The record with the verb's wish, everything checked and given out.
    fn decide(&self, before: &InstanceRecord, verb: &Verb, expect: Option<&str>) -> Result<InstanceRecord> {
        if let (Some(wanted), found) = (expect, crate::etag::of_instance(before))
            && wanted.trim_matches('"') != found
        {
            return Err(Error::Stale { wanted: wanted.trim_matches('"').to_owned(), found });
        }
        let (mut wish, newest_boot) = verbs::next(before, verb)?;
        if matches!(verb, Verb::Update(_) | Verb::Patch(_)) {
            self.shared.regrant(before, &mut wish)?;
        }
        let mut after = before.clone();
        if matches!(verb, Verb::Start | Verb::Restart(_)) {
            after.last_used_ms = clock::now_ms();
        }
        after.previous = Some(Box::new(before.wish.clone()));
        after.wish = wish;
        after.newest_boot = newest_boot;
        after.error = None;
        Ok(after)
    }

    /// The first command of a new instance; its record is in place already.
    async fn create(&self, start: bool, requestor: Option<String>, operation: Operation, accepted: Accepted) {
        let record = self.record();
        let mut accepted = Some(accepted);
        let result = self.run(&record, Class::Wish, allocate::claims(&record), &operation, &mut accepted).await;
        let refusal = result.as_ref().err().cloned();
        let created = self.record().wish.exists;
        if created {
            let context = [
                ("location".to_owned(), "none".into()),
                ("storage-pool".to_owned(), record.pool.as_str().into()),
                ("type".to_owned(), "container".into()),
            ];
            self.tell("instance-created", requestor.clone(), context.into());
        }
        let action = if start && result.is_ok() { "instance-started" } else { "" };
        self.finish(&operation, result, action, requestor).await;
        refuse(accepted, refusal);
    }

    /// Commits a new wish and works towards it at the same time; goes back to the former wish when that fails. `accepted` is
    /// left when the wish could not be committed: whoever asked is told once nothing is seen of it any more.
    async fn run(
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
        let mut unwritten = None;
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
            if result.is_ok()
                && let Some(accepted) = accepted.take()
            {
                let _ = accepted.send(Ok(operation.view()));
            }
            let _ = told.send(Some(result.map(drop)));
        };
        let ((), worked) = tokio::join!(committing, self.converge(Some(&gate), Some(operation)));
        let committed = gate.borrow().clone().unwrap_or(Ok(()));
        match (committed, worked) {
            (Ok(()), Ok(())) => match unwritten {
                Some(why) => Err(Error::Unwritten { done: "The instance was stopped", why }),
                None => Ok(()),
            },
            (Ok(()), Err(failure)) => self.after_failure(failure).await,
            // Nothing was promised: back, without writing that down either.
            (Err(error), _) => {
                self.go_back_unwritten().await;
                Err(error.into())
            }
        }
    }

    /// Back to the former wish while nothing of what was is gone; from then on only forward.
    async fn after_failure(&self, failure: Failure) -> Result<()> {
        if let Err(error) = self.observe(&self.record()).await {
            tracing::error!(instance = %self.instance.id, %error, "cannot look");
        }
        if !failure.discarded {
            self.go_back(&failure.error).await;
            return Err(failure.error);
        }
        if failure.discarding {
            self.settle().await;
            // What could be done at a later try is done.
            return if self.instance.view().record.error.is_none() { Ok(()) } else { Err(failure.error) };
        }
        // The old boot is gone and the new one can't be made: what is left is an instance that does not run.
        let mut record = self.record();
        record.wish.power = Power::Off;
        record.wish.stop = StopKind::Force;
        self.set_record(&record);
        if let Err(error) = self.shared.submit_and_wait(Class::Settled, vec![record.put()]).await {
            tracing::error!(instance = %record.name, %error, "the stop could not be written down");
        }
        self.settle().await;
        Err(failure.error)
    }

    /// A panic, which is a defect of ours, ended the command under way: its operation fails in words, the former wish holds
    /// again where nothing of it is gone, and the actor goes on.
    async fn after_panic(&self, why: &str) {
        let record = self.record();
        tracing::error!(instance = %record.name, why, "a defect of the daemon: what was asked of the instance was given up");
        let error = Error::Internal(format!("a defect of the daemon ended this ({why}); please report it"));
        let (instance, shared, cause) = (self.instance.clone(), self.shared.clone(), error.clone());
        let settled = guarded(async move {
            let worker = Worker { instance: &instance, shared: &shared };
            let keeps = |before: &WishState| {
                let (now, boot) = (&record.wish, before.power.boot());
                before.exists && now.exists && before.root == now.root && boot == now.power.boot()
            };
            if record.previous.as_deref().is_some_and(keeps) {
                worker.go_back(&cause).await;
            } else {
                worker.settle().await;
            }
        });
        if settled.await.is_err() {
            self.instance.show(|view| view.record.error = Some(error.to_string()));
        }
        if let Some(operation) = self.record().operation.and_then(|id| self.shared.operations.live(id)) {
            self.finish(&operation, Err(error), "", None).await;
        }
    }

    /// The wish before, as the wish again; kept, and worked towards.
    async fn go_back(&self, cause: &Error) {
        let view = self.instance.view();
        let mut record = view.record.clone();
        let Some(mut previous) = record.previous.take() else {
            record.error = Some(cause.to_string());
            self.set_record(&record);
            return;
        };
        tracing::warn!(instance = %record.name, %cause, "going back to the former wish");
        // A new instance that could not be started has been made all the same.
        if !previous.exists && record.wish.exists && view.observed.roots.contains(&record.wish.root) {
            *previous = WishState { power: Power::Off, ..record.wish.clone() };
        }
        let mut ops = Vec::new();
        if previous.nics != record.wish.nics {
            record.wish.nics.clone_from(&previous.nics);
            ops.push(Op::ReleaseAll { owner: record.id.to_string() });
            ops.extend(allocate::claims(&record));
        }
        record.wish = WishState { stop: StopKind::Force, ..*previous };
        self.set_record(&record);
        ops.push(record.put());
        if let Err(error) = self.shared.submit_and_wait(Class::Settled, ops).await {
            tracing::error!(instance = %record.name, %error, "the former wish could not be written down");
        }
        self.settle().await;
    }

    async fn go_back_unwritten(&self) {
        let mut record = self.record();
        if let Some(previous) = record.previous.take() {
            record.wish = WishState { stop: StopKind::Force, ..*previous };
            record.operation = None;
            self.set_record(&record);
            self.settle().await;
        }
    }

    /// Works towards the wish a few times; notes the error when none succeeds.
    async fn settle(&self) {
        for attempt in 1..=TRIES {
            match self.converge(None, None).await {
                Ok(()) => {
                    if self.instance.view().record.error.is_some() {
                        self.instance.show(|view| view.record.error = None);
                    }
                    return;
                }
                Err(Failure { error, .. }) if attempt == TRIES => {
                    tracing::error!(instance = %self.instance.id, %error, "given up");
                    self.instance.show(|view| view.record.error = Some(error.to_string()));
                }
                Err(Failure { error, .. }) => {
                    tracing::warn!(instance = %self.instance.id, %error, attempt, "trying again");
                    tokio::time::sleep(Duration::from_millis(100 << attempt)).await;
                }
            }
        }
    }

    /// Steps until there are none. `gate` holds back what must not happen before the commit.
    async fn converge(&self, gate: Option<&Gate>, operation: Option<&Operation>) -> std::result::Result<(), Failure> {
        let mut progress = Done::default();
        let result = self.rounds(gate, operation, &mut progress).await;
        result.map_err(|error| Failure { error, discarded: progress.discarded, discarding: progress.discarding })
    }

    async fn rounds(&self, gate: Option<&Gate>, operation: Option<&Operation>, progress: &mut Done) -> Result<()> {
        // Each round ends in a look; more than a few rounds mean that something undoes what we do.
        for _ in 0..8 {
            let record = self.record();
            let wish = self.shared.wish(&record)?;
            let observed = self.observe(&record).await?;
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

    async fn observe(&self, record: &InstanceRecord) -> Result<Observed> {
        let observed = self.shared.host.observe(record.id, &record.pool).await?;
        self.instance.show(|view| view.observed = observed.clone());
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
            // Who was told to die cannot be told to live, even if the wait for the death has no end.
            progress.discarded |= matches!(step, Step::Kill { .. });
            self.apply(step).await?;
            progress.discarded |= progress.discarding;
        }
        Ok(true)
    }

    async fn apply(&self, step: &Step) -> std::result::Result<(), StepError> {
        tracing::debug!(instance = %self.instance.id, step = step.name(), "apply");
        let done = self.shared.host.apply(step, &|_| {}).await;
        if let (Step::Start { boot }, Ok(_)) = (step, &done) {
            self.instance.pace.started(boot.generation, Instant::now());
        }
        done.map(|effect| debug_assert_eq!(effect, Effect::Done))
    }

    /// Ends an operation: its document, the record without its traces, and the events ride one commit.
    async fn finish(&self, operation: &Operation, result: Result<()>, action: &str, requestor: Option<String>) {
        let mut record = self.record();
        record.operation = None;
        record.previous = None;
        if result.is_ok() && !action.is_empty() {
            self.tell(action, requestor, Default::default());
        }
        let gone = !record.wish.exists;
        let mut ops = if gone {
            vec![record.delete(), Op::ReleaseAll { owner: record.id.to_string() }]
        } else {
            vec![record.put()]
        };
        if gone {
            self.shared.forget(&record);
        } else {
            self.shared.forget_replaced_grants(&self.record());
            self.set_record(&record);
        }
        let view = operation.tell_end(result.map_err(|error| error.to_string()));
        ops.push(operations::document(&view));
        ops.extend(self.shared.operations.retire(&view));
        // Not awaited: after a crash the loop finds the wish reached and says so again.
        drop(self.shared.submit(Class::Settled, ops));
        self.shared.publish_names();
        operation.end(view);
    }

    /// Looks whether the host is as it should be, and makes it so: after a start of the daemon, or when told of a change.
    async fn look(&self) {
        let record = self.record();
        let observed = match self.observe(&record).await {
            Ok(observed) => observed,
            Err(error) => {
                tracing::error!(instance = %record.name, %error, "cannot look");
                return;
            }
        };
        // Nothing is done that could not be remembered: guests run on as they do.
        if self.shared.store.read_only().is_some() {
            return;
        }
        let operation = record.operation.and_then(|id| self.shared.take_unfinished(id));
        if let Some(operation) = operation {
            // What an earlier daemon began and did not live to end.
            let result = match self.converge(None, Some(&operation)).await {
                Ok(()) => Ok(()),
                Err(failure) => self.after_failure(failure).await,
            };
            self.finish(&operation, result, "", None).await;
            return;
        }
        if self.holds_back(&record, &observed) {
            return;
        }
        match self.react(&record, &observed).await {
            Some(end) => self.after_end(end).await,
            None => {
                let ran = self.instance.view().pid().is_some();
                self.settle().await;
                // It was to run before the daemon or the host went down.
                if !ran && self.instance.view().pid().is_some() {
                    self.tell("instance-started", None, Default::default());
                }
            }
        }
        if !self.record().wish.exists {
            // Deleted by its own end (ephemeral), or a deletion whose operation was lost.
            let record = self.record();
            self.shared.forget(&record);
            let ops = vec![record.delete(), Op::ReleaseAll { owner: record.id.to_string() }];
            drop(self.shared.submit(Class::Settled, ops));
        }
    }

    /// Whether the guest asked for a reboot that has to wait, as it reboots again and again soon after its start.
    fn holds_back(&self, record: &InstanceRecord, observed: &Observed) -> bool {
        let Some(boot) = record.wish.power.boot() else { return false };
        if observed.boots.get(&boot).is_none_or(|seen| seen.guest != GuestSeen::Ended(End::Reboot)) {
            return false;
        }
        match self.instance.pace.reboot(boot, Instant::now()) {
            Reboot::Now => false,
            Reboot::Waits => true,
            Reboot::Later(delay) => {
                let why = format!(
                    "it reboots again and again soon after its start; the next one is in {} s",
                    delay.as_secs()
                );
                tracing::warn!(instance = %record.name, why);
                self.tell("instance-restart-delayed", None, [("cause".to_owned(), why.into())].into());
                let (instance, shared) = (self.instance.clone(), self.shared.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    instance.post(&shared, Command::Look);
                });
                true
            }
        }
    }

    /// Ends the guest, and remembers that it is to run again.
    async fn halt(&self) {
        let mut record = self.record();
        if record.wish.power.boot().is_some() {
            record.newest_boot = record.newest_boot.next();
            record.wish.power = Power::On { boot: record.newest_boot, frozen: false };
            record.wish.stop = StopKind::Clean { timeout_s: HALT_TIMEOUT_S };
            self.set_record(&record);
            if let Err(error) = self.shared.submit_and_wait(Class::Settled, vec![record.put()]).await {
                tracing::error!(instance = %record.name, %error, "it will not run again by itself");
            }
        }
        self.settle().await;
    }

    /// The guest's own end changes the wish, which is committed before anything follows from it.
    async fn react(&self, record: &InstanceRecord, observed: &Observed) -> Option<End> {
        let wish = self.shared.wish(record).ok()?;
        let (next, end) = plan::react(&wish, observed, record.newest_boot)?;
        let mut after = record.clone();
        after.wish.power = next.power;
        after.wish.stop = next.stop;
        after.newest_boot = next.power.boot().map_or(after.newest_boot, |boot: BootGen| boot.max(after.newest_boot));
        if next.power == Power::Off && after.wish.ephemeral {
            after.wish.exists = false;
        }
        self.set_record(&after);
        if let Err(error) = self.shared.submit_and_wait(Class::Settled, vec![after.put()]).await {
            tracing::error!(instance = %record.name, %error, "the guest's end could not be written down");
        }
        Some(end)
    }

    async fn after_end(&self, end: End) {
        self.settle().await;
        let (action, why) = match end {
            End::Reboot => ("instance-restarted", "the guest asked for a reboot".to_owned()),
            End::Halt => ("instance-shutdown", "the guest halted".to_owned()),
            End::Exit(code) => ("instance-shutdown", format!("init exited with {code}")),
            End::Signal(signal) => ("instance-stopped", format!("init was killed by signal {signal}")),
            End::Unknown => ("instance-stopped", "init ended while nobody watched".to_owned()),
        };
        self.tell(action, None, [("cause".to_owned(), why.into())].into());
        self.shared.publish_names();
    }

    fn tell(
        &self,
        action: &str,
        requestor: Option<String>,
        context: std::collections::BTreeMap<String, serde_json::Value>,
    ) {
        let record = self.record();
        let lifecycle = Lifecycle {
            action: action.to_owned(),
            source: format!("/1.0/instances/{}", record.name),
            context,
            requestor,
            name: record.name.to_string(),
        };
        self.shared.events.tell(record.project.as_str(), Happening::Lifecycle(lifecycle));
    }
}

/// Tells whoever asked for what could not be committed.
fn refuse(accepted: Option<Accepted>, refusal: Option<Error>) {
    if let (Some(accepted), Some(error)) = (accepted, refusal) {
        let _ = accepted.send(Err(error));
    }
}
