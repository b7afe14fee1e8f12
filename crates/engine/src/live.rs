//! Limits at once: the record is committed while the knobs are turned, and the caller is told when both are done.
//!
//! There is no operation to wait for. What the kernel refuses is taken back by a second commit before the caller is told. A
//! daemon that dies in between leaves the new wish, of which nobody was told: the next one works towards it as to any other.

use std::time::{Duration, Instant};

use config::{Map, Written};
use model::{Knob, KnobChange, ProjectName, Setting, Step};
use store::Class;
use tokio::sync::oneshot;

use crate::actor::Command;
use crate::ask::expect_seen;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::host::Effect;
use crate::record::{InstanceRecord, Record, Telling};
use crate::verbs::{self, Patch, Verb};
use crate::worker::Worker;

/// What became of a change of limits. It is on the disk by then.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LimitsDone {
    /// Knobs that were turned, in their order; none while the instance does not run.
    pub turned: Vec<KnobChange>,
    /// When the last of them was; `None` when there was none.
    pub effective: Option<Instant>,
}

/// Somebody's change of limits.
pub(crate) struct LimitsOrder {
    pub(crate) config: Map,
    pub(crate) expect: Option<String>,
    pub(crate) requestor: Option<String>,
    pub(crate) done: oneshot::Sender<Result<LimitsDone>>,
}

impl Engine {
    /// Changes keys that are limits. Returns once they hold and are remembered; after an error all are as they were.
    ///
    /// `expect` is the entity tag that the caller saw. A key with an empty value is taken back.
    pub async fn change_limits(
        &self,
        project: &ProjectName,
        name: &str,
        config: Map,
        expect: Option<String>,
        requestor: Option<String>,
    ) -> Result<LimitsDone> {
        let (done, answer) = oneshot::channel();
        let order = LimitsOrder { config, expect, requestor, done };
        let instance = self.post(project, name, Command::Limits(Box::new(order)))?;
        match answer.await {
            Ok(answer) => answer,
            Err(_) => Err(self.shared.unanswered(&instance).await),
        }
    }
}

/// How long the news of a change waits for others: many changes in a row cost a commit each, and one more.
const LINGER: Duration = Duration::from_millis(50);

impl Worker<'_> {
    pub(crate) async fn limits(&self, order: LimitsOrder) {
        let result = self.change_limits(order.config, order.expect.as_deref(), order.requestor).await;
        let _ = order.done.send(result);
    }

    async fn change_limits(&self, config: Map, expect: Option<&str>, requestor: Option<String>) -> Result<LimitsDone> {
        let before = self.settled_record().await?;
        if !before.wish.exists {
            return Err(Error::NotFound("Instance not found".into()));
        }
        expect_seen(&before, expect)?;
        let written = Written { config, ..Written::default() };
        let verb = Verb::Patch(Box::new(Patch { written, ..Patch::default() }));
        let (wish, _) = verbs::next(&before, &verb)?;
        self.shared.recheck(&before, &wish)?;
        let mut after = InstanceRecord { wish, ..before.clone() };
        let news = Telling { action: verb.action().into(), context: Default::default(), requestor, always: true };
        let is_news = !after.telling.contains(&news);
        if is_news {
            after.telling.push(news);
        }
        let writing = self.shared.submit(Class::Wish, vec![after.put()]);
        let turned = self.turn(&after).await;
        let written = self.shared.written(writing).await;
        let done = match (turned, written) {
            (Ok(done), Ok(())) => done,
            (Err(cause), Ok(())) => return Err(self.write_back(before, cause).await),
            (turned, Err(error)) => {
                // Nothing was promised: the knobs go back to what is remembered.
                self.settle().await;
                return Err(turned.err().unwrap_or(error));
            }
        };
        self.show_turned(&after, &done);
        if is_news {
            self.news_later();
        }
        self.watch_need();
        Ok(done)
    }

    /// Writes down that a change was taken back, before that is told; what is to be told.
    async fn write_back(&self, record: InstanceRecord, cause: Error) -> Error {
        let Err(why) = self.shared.submit_and_wait(Class::Settled, vec![record.put()]).await else { return cause };
        tracing::error!(instance = %record.name, error = %why, "a refusal could not be written down");
        Error::Unrecorded { cause: Box::new(cause), why: Box::new(why) }
    }

    /// Does without a look what somebody waits for and what is a write to a control group: by what was last seen, as a look
    /// takes longer. Whether that is all there is to do. What that was wrong about comes with the next look.
    pub(crate) async fn at_once(&self, asked: bool) -> Result<bool> {
        let view = self.instance.view();
        let (true, Some(boot)) = (asked, view.running()) else { return Ok(false) };
        let steps = plan::diff(&self.shared.wish(&view.record)?, &view.observed, self.shared.host.facts());
        if steps.is_empty() || !steps.iter().all(plan::is_instant) {
            return Ok(false);
        }
        for step in &steps {
            self.apply(step).await?;
            self.instance.show(|view| {
                let seen = view.observed.boots.get_mut(&boot.generation).and_then(|seen| seen.group.as_mut());
                match (step, seen) {
                    (Step::Freeze { .. }, Some(group)) => group.frozen = true,
                    (Step::Thaw { .. }, Some(group)) => group.frozen = false,
                    (Step::SetLimits { settings, .. }, Some(group)) => group.settings.extend(settings.clone()),
                    _ => {}
                }
            });
        }
        Ok(true)
    }

    /// What is to be told is told, and written down as told, by the look that comes then.
    pub(crate) fn news_later(&self) {
        let (instance, shared) = (self.instance.clone(), self.shared.clone());
        tokio::spawn(async move {
            tokio::time::sleep(LINGER).await;
            instance.post(&shared, Command::Look);
        });
    }

    /// What is shown follows the knobs, so that nobody has to look at the host for it.
    pub(crate) fn show_turned(&self, after: &InstanceRecord, done: &LimitsDone) {
        self.instance.show(|view| {
            view.record = after.clone();
            let boot = after.wish.power.boot();
            let seen = boot.and_then(|boot| view.observed.boots.get_mut(&boot)?.group.as_mut());
            if let Some(group) = seen {
                group.settings.extend(done.turned.iter().map(|change| (change.knob, change.new.clone())));
            }
        });
    }

    /// Turns the knobs of the boot that runs to what a record wishes; all or none.
    ///
    /// The host is not looked at before: it reads the knobs themselves, and writes those that are not as they should be. It
    /// is told of those alone that were seen otherwise, as reading all takes longer than the rest of a change; when all were
    /// seen as they should be, of all, so that what somebody else turned meanwhile is put right.
    pub(crate) async fn turn(&self, after: &InstanceRecord) -> Result<LimitsDone> {
        let view = self.instance.view();
        let Some(boot) = view.running() else { return Ok(LimitsDone::default()) };
        let wish = self.shared.wish(after)?;
        let mut settings = plan::settings(&wish.spec.limits, wish.id, self.shared.host.facts());
        let seen = view.settings();
        let is_new = |knob: &Knob, setting: &Setting| seen.is_none_or(|seen| seen.get(knob) != Some(setting));
        if settings.iter().any(|(knob, setting)| is_new(knob, setting)) {
            settings.retain(|knob, setting| is_new(knob, setting));
        }
        match self.apply(&Step::SetLimits { boot, settings }).await {
            Ok(Effect::Turned(turned)) => {
                let effective = (!turned.is_empty()).then(Instant::now);
                Ok(LimitsDone { turned, effective })
            }
            Ok(_) => Ok(LimitsDone::default()),
            // No fault of ours: what is in use does not allow it.
            Err(error) => Err(Error::Conflict(format!("nothing was changed: {error}"))),
        }
    }
}
