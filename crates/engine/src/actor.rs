//! One instance: takes commands in their order, keeps its wish, and works until the host is as wished.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use model::{BootGen, End, GuestSeen, InstanceId, Observed, Power, RootSource, Step, StopKind, Wish};
use store::{Class, Op};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::allocate;
use crate::clock;
use crate::engine::Shared;
use crate::error::{Error, Result};
use crate::events::{Happening, Lifecycle};
use crate::gate::{Gate, pass};
use crate::host::{Effect, StepError};
use crate::live::LimitsOrder;
use crate::lost::keep_lost;
use crate::mailbox::{Mailbox, Posted};
use crate::operations::{self, NewOperation, Operation, OperationView};
use crate::pace::{Pace, Reboot};
use crate::record::{InstanceRecord, Record, Telling, WishState};
use crate::rest::RestHeard;
use crate::scale::NeedHeard;
use crate::sharing::FOLLOW_TIMEOUT_S;
use crate::telling::telling_of_end;
use crate::unwind::guarded;
use crate::verbs::{self, Verb};
use crate::view::InstanceView;

/// Tries of the same wish without success before it is given up until something changes, or for a while.
pub(crate) const TRIES: u32 = 3;

/// Pauses between looks at an instance whose wish was given up: the first, and the longest after doublings.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));

/// What is said to whoever comes when the mailbox is full.
const TOO_MANY: &str = "too many requests wait for this instance; try again later";

/// The pause after a try.
pub(crate) fn pause(attempt: u32) -> Duration {
    Duration::from_millis(100 << attempt)
}

/// Seconds that a guest has for its shutdown when the host goes down; systemd gives its own services 90.
const HALT_TIMEOUT_S: u32 = 30;

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
    /// Something may have changed on the host, or the daemon has just started.
    Look,
    /// The same, from how it was seen just now.
    LookFrom(Box<Observed>),
    /// The daemon ends and takes its guests along.
    Halt,
}

/// An instance.
pub(crate) struct Instance {
    pub(crate) id: InstanceId,
    mailbox: Mailbox<Command>,
    view: RwLock<Arc<InstanceView>>,
    pace: Pace,
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
        let view = InstanceView { record, observed: Observed::default(), version: 1 };
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
            // It will look anyway when it comes to the others.
            Posted::Full(
                Command::Scale(_) | Command::Rest(_) | Command::Look | Command::LookFrom(_) | Command::Halt,
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
            Command::Look => worker.look(None).await,
            Command::LookFrom(seen) => worker.look(Some(*seen)).await,
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
            self.look(None).await;
        }
        let record = self.record();
        if record.operation.is_some() {
            let text = "what was begun with it before the daemon ended cannot be ended yet; try again later";
            return Err(Error::Conflict(text.into()));
        }
        Ok(record)
    }

    /// A verb: new wish, operation, work, end.
    async fn verb(&self, verb: Verb, expect: Option<&str>, requestor: Option<String>, accepted: Accepted) {
        let before = match self.settled_record().await {
            Ok(before) => before,
            Err(error) => {
                let _ = accepted.send(Err(error));
                return;
            }
        };
        // A deletion that got stuck may be asked for again.
        if !before.wish.exists && (verb != Verb::Delete || !self.shared.knows(before.id)) {
            let _ = accepted.send(Err(Error::NotFound("Instance not found".into())));
            return;
        }
        let verb = verb.meant(before.wish.power);
        let after = match self.decide(&before, &verb, expect) {
            Ok(after) => after,
            Err(error) => {
                let _ = accepted.send(Err(error));
                return;
            }
        };
        let ends = matches!(verb, Verb::Stop(_) | Verb::Restart(_));
        if matches!(verb, Verb::Stop(_))
            && let Err(error) = self.shared.stop_sharers(&before).await
        {
            let _ = accepted.send(Err(error));
            return;
        }
        let new = NewOperation::on_instance(before.project.as_str(), verb.description(), before.name.as_str());
        let operation = self.shared.operations.start(new);
        let mut after = InstanceRecord { operation: Some(operation.id()), ..after };
        after.telling.push(Telling {
            action: verb.action().into(),
            context: Default::default(),
            requestor,
            always: false,
        });
        let regranted = before.wish.nics != after.wish.nics || before.wish.ids != after.wish.ids;
        let ops = if regranted { allocate::claims_anew(&after) } else { Vec::new() };
        let had = [before.wish, after.wish.clone()];
        let class = match verb {
            Verb::Stop(_) | Verb::Delete => Class::Frees,
            _ => Class::Wish,
        };
        let mut accepted = Some(accepted);
        let result = self.run(&after, class, ops, &operation, &mut accepted).await;
        let refusal = result.as_ref().err().cloned();
        self.finish(Some(&operation), result, &had);
        refuse(accepted, refusal);
        if ends {
            self.shared.wake_sharers(&self.record());
        }
    }

    /// The record with the verb's wish, everything checked and given out.
    fn decide(&self, before: &InstanceRecord, verb: &Verb, expect: Option<&str>) -> Result<InstanceRecord> {
        expect_seen(before, expect)?;
        let (mut wish, newest_boot) = verbs::next(before, verb)?;
        self.shared.check_sharing(before, verb, &wish)?;
        if matches!(verb, Verb::Update(_) | Verb::Patch(_)) {
            self.shared.regrant(before, &mut wish)?;
        }
        let mut after = before.clone();
        if matches!(verb, Verb::Start | Verb::Restart(_)) {
            after.last_used_ms = clock::now_ms();
            let wish = self.shared.wish(before)?;
            after.joined = self.shared.boots_of_owners(&wish);
            after.pins = wish.spec.sandbox.namespaces.pins().collect();
        }
        // Whatever is asked of it wakes it.
        after.asleep = false;
        after.previous = Some(Box::new(before.wish.clone()));
        after.wish = wish;
        after.newest_boot = newest_boot;
        after.error = None;
        Ok(after)
    }

    /// The first command of a new instance; its record is in place already.
    async fn create(&self, operation: Operation, accepted: Accepted) {
        let record = self.record();
        let mut accepted = Some(accepted);
        let result = self.run(&record, Class::Wish, allocate::claims(&record), &operation, &mut accepted).await;
        let refusal = result.as_ref().err().cloned();
        self.finish(Some(&operation), result, &[record.wish]);
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
        let ((), worked) = tokio::join!(committing, self.converge(None, Some(&gate), Some(operation)));
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
        let mut ops = if gone {
            vec![record.delete(), Op::ReleaseAll { owner: record.id.to_string() }]
        } else {
            let regranted = had.iter().any(|wish| wish.nics != record.wish.nics || wish.ids != record.wish.ids);
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
        self.shared.publish_names();
        if let Some((operation, view)) = ended {
            let old = self.shared.operations.retire(&view);
            if !old.is_empty() {
                drop(self.shared.submit(store::Class::Settled, old));
            }
            operation.end(view);
        }
    }

    /// Looks whether the host is as it should be, and makes it so: after a start of the daemon, or when told of a change.
    async fn look(&self, seen: Option<Observed>) {
        if !self.shared.knows(self.instance.id) {
            return;
        }
        let record = self.record();
        let seen = match seen {
            Some(seen) => Ok(seen),
            None => self.observe(&record).await,
        };
        let observed = match seen {
            Ok(observed) => observed,
            Err(error) => {
                tracing::error!(instance = %record.name, %error, "cannot look");
                self.instance.look_again(self.shared);
                return;
            }
        };
        // Nothing is done that could not be remembered: guests run on as they do.
        if self.shared.store.read_only().is_some() {
            return;
        }
        if let Some(operation) = record.operation.and_then(|id| self.shared.take_unfinished(id)) {
            // What an earlier daemon began and did not live to end.
            let had: Vec<_> = [Some(&record.wish), record.previous.as_deref()].into_iter().flatten().cloned().collect();
            let result = match self.converge(Some(observed), None, Some(&operation)).await {
                Ok(()) => Ok(()),
                Err(failure) => self.after_failure(failure, &operation).await,
            };
            self.finish(Some(&operation), result, &had);
            // Its guest may have ended meanwhile.
            self.instance.post(self.shared, Command::Look);
            return;
        }
        if self.holds_back(&record, &observed) {
            return;
        }
        if record.asleep && !self.instance.sleeps.load(Ordering::Acquire) {
            self.wake("a daemon that did not hear of calls before", std::time::Instant::now()).await;
        }
        let record = self.record();
        let ran = self.instance.view().pid().is_some();
        match self.react(&record, &observed).await {
            Ok(()) => {}
            Err(error) => {
                // Nothing may follow from what would be forgotten: another daemon would start what has ended.
                tracing::error!(instance = %record.name, %error, "the guest's end could not be written down yet");
                self.instance.look_again(self.shared);
                return;
            }
        }
        let is_as_seen = self.record() == record;
        let settled = self.settle_seen(is_as_seen.then_some(observed)).await;
        let now = self.record();
        if now.wish.power != record.wish.power {
            self.shared.wake_sharers(&now);
        }
        if !settled {
            return;
        }
        // It was to run before the daemon or the host went down.
        let started = !ran && now.telling.is_empty() && self.instance.view().pid().is_some();
        if started {
            self.tell(Telling {
                action: "instance-started".into(),
                context: Default::default(),
                requestor: None,
                always: false,
            });
        }
        let changed =
            now.operation.is_some() || now.previous.is_some() || !now.telling.is_empty() || record.error.is_some();
        if changed || !now.wish.exists {
            self.finish(None, Ok(()), &[]);
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
                self.tell(Telling {
                    action: "instance-restart-delayed".into(),
                    context: [("cause".to_owned(), why.into())].into(),
                    requestor: None,
                    always: false,
                });
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
        self.wait_for_sharers().await;
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

    /// The guest's own end, or that of whom it shares with, changes the wish, which is committed before anything follows from it.
    async fn react(&self, record: &InstanceRecord, observed: &Observed) -> Result<()> {
        let Ok(wish) = self.shared.wish(record) else { return Ok(()) };
        let own = plan::react(&wish, observed, record.newest_boot);
        let own = own.map(|(next, end)| (next.power, next.stop, telling_of_end(end)));
        let follow = || {
            let (power, telling) = self.shared.follow(&self.instance.view())?;
            Some((power, StopKind::Clean { timeout_s: FOLLOW_TIMEOUT_S }, telling))
        };
        let Some((power, stop, telling)) = own.or_else(follow) else { return Ok(()) };
        let mut after = record.clone();
        after.asleep = false;
        after.wish.power = power;
        after.wish.stop = stop;
        after.newest_boot = power.boot().map_or(after.newest_boot, |boot: BootGen| boot.max(after.newest_boot));
        if power == Power::Off && after.wish.ephemeral {
            after.wish.exists = false;
        }
        after.telling.push(telling);
        self.shared.submit_and_wait(store::Class::Settled, vec![after.put()]).await?;
        self.set_record(&after);
        Ok(())
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

/// Refuses to change what is not as the caller saw it.
pub(crate) fn expect_seen(before: &InstanceRecord, expect: Option<&str>) -> Result<()> {
    match (expect.map(|tag| tag.trim_matches('"')), crate::etag::of_instance(before)) {
        (Some(wanted), found) if wanted != found => Err(Error::Stale { wanted: wanted.to_owned(), found }),
        _ => Ok(()),
    }
}

/// Tells whoever asked for what could not be committed.
fn refuse(accepted: Option<Accepted>, refusal: Option<Error>) {
    if let (Some(accepted), Some(error)) = (accepted, refusal) {
        let _ = accepted.send(Err(error));
    }
}
