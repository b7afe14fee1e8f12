//! Limits that follow the need. The kernel tells of the need; the level is moved, the record committed, the move told.
//!
//! As with limits that people set at once, the knobs come first: a daemon that dies in between turns them back.

use std::time::Instant;

use model::scale::{Autoscale, Need, Resource, ScaleMode, Scaling};
use model::{Boot, InstanceId, Told};
use store::Class;

use crate::actor::Command;
use crate::clock;
use crate::error::Result;
use crate::record::{InstanceRecord, Record, Telling};
use crate::shared::Shared;
use crate::view::InstanceView;
use crate::worker::Worker;

/// Moves that are remembered of each instance: an hour of one a minute, 6 KB.
const HISTORY: usize = 60;

/// What the kernel said, and when we heard it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NeedHeard {
    boot: Boot,
    resource: Resource,
    need: Need,
    at: Instant,
}

impl InstanceView {
    /// Bytes of memory that it was given of what there is for all who grow.
    fn memory_level(&self, autoscale: &Autoscale) -> u64 {
        let range = autoscale.range(Resource::Memory).filter(|_| self.pid().is_some());
        range.map_or(0, |range| self.record.levels.of(Resource::Memory, range))
    }
}

impl Shared {
    /// Hands on what the kernel said.
    pub(crate) fn scale(self: &std::sync::Arc<Self>, boot: Boot, resource: Resource, need: Need) {
        let heard = NeedHeard { boot, resource, need, at: Instant::now() };
        self.for_all(|instance| {
            if instance.id == boot.id {
                instance.post(self, Command::Scale(heard));
            }
        });
    }

    fn autoscale(&self, record: &InstanceRecord) -> Autoscale {
        let expanded = self.catalog().expand(&record.project, &record.wish.profiles, &record.wish.written);
        expanded.map_or_else(|_| Autoscale::default(), |expanded| config::autoscale(&expanded.config))
    }

    /// Waits of an instance that are events.
    fn told(&self, record: &InstanceRecord) -> Told {
        let expanded = self.catalog().expand(&record.project, &record.wish.profiles, &record.wish.written);
        expanded.map_or_else(|_| Told::default(), |expanded| config::told(&expanded.config))
    }

    /// Milliseconds without work after which an instance is held still.
    pub(crate) fn idle_freeze(&self, record: &InstanceRecord) -> Option<u64> {
        let expanded = self.catalog().expand(&record.project, &record.wish.profiles, &record.wish.written);
        expanded.ok().and_then(|expanded| config::idle_freeze_ms(&expanded.config))
    }

    /// What the budget has left beside the levels of all others.
    fn memory_room(&self, but: InstanceId) -> u64 {
        // Not while the instances are held: the catalogue comes before these.
        let mut views = Vec::new();
        self.for_all(|instance| views.push(instance.view()));
        let others = views.iter().filter(|view| view.record.id != but);
        let given = others.map(|view| view.memory_level(&self.autoscale(&view.record))).fold(0, u64::saturating_add);
        plan::memory_budget(self.host.facts()).saturating_sub(given)
    }
}

impl Worker<'_> {
    /// Has the host listen for what the instance needs now.
    pub(crate) fn watch_need(&self) {
        let view = self.instance.view();
        if let Some(boot) = view.running() {
            let autoscale = self.shared.autoscale(&view.record);
            let (told, actions) = (self.shared.told(&view.record), self.shared.actions(&view.record));
            self.shared.host.watch_need(boot, plan::watch(&autoscale, &view.record.levels, told, actions));
        }
    }

    pub(crate) async fn scale(&self, heard: NeedHeard) {
        let view = self.instance.view();
        let record = &view.record;
        // It may have been said of a boot that is no more.
        if view.running() != Some(heard.boot) || record.operation.is_some() {
            return;
        }
        let autoscale = self.shared.autoscale(record);
        if let Err(error) = self.move_level(&autoscale, heard).await {
            tracing::warn!(instance = %record.name, %error, "a limit could not follow the need");
        }
        self.watch_need();
    }

    async fn move_level(&self, autoscale: &Autoscale, heard: NeedHeard) -> Result<()> {
        let (record, resource) = (self.record(), heard.resource);
        let Some(range) = autoscale.range(resource) else { return Ok(()) };
        let level = record.levels.of(resource, range);
        let used = || self.shared.host.gauges(heard.boot).usage.memory_bytes;
        let room = self.shared.memory_room(record.id).saturating_sub(level);
        let next = plan::next_level(resource, range, autoscale.moves(resource), level, heard.need, used(), room);
        let Some((to, cause)) = next else { return Ok(()) };
        let is_on = autoscale.mode == ScaleMode::On;
        if resource == Resource::Memory && to < level {
            if is_on && used() > to {
                self.shared.host.take_memory(heard.boot, to).await;
            }
            // What is in use is not to be had: it stays where it is.
            if used() > to {
                return Ok(());
            }
        }
        let mut after = InstanceRecord { levels: record.levels.with(resource, to), ..record };
        let done = self.turn(&after).await?;
        let us = done.effective.map_or(0, |at| at.saturating_duration_since(heard.at).as_micros() as u64);
        let scaling = Scaling { at_ms: clock::now_ms(), resource, from: level, to, cause: cause.into(), us };
        after.telling.push(telling(&scaling, autoscale.mode));
        after.scalings.push(scaling);
        let excess = after.scalings.len().saturating_sub(HISTORY);
        after.scalings.drain(..excess);
        if let Err(error) = self.shared.submit_and_wait(Class::Wish, vec![after.put()]).await {
            // What could not be written down does not hold.
            self.settle().await;
            return Err(error);
        }
        self.show_turned(&after, &done);
        self.news_later();
        Ok(())
    }
}

fn telling(scaling: &Scaling, mode: ScaleMode) -> Telling {
    let action = if mode == ScaleMode::On { "instance-scaled" } else { "instance-scaling-advised" };
    let context = [
        ("resource".to_owned(), scaling.resource.name().into()),
        ("from".to_owned(), scaling.from.into()),
        ("to".to_owned(), scaling.to.into()),
        ("cause".to_owned(), scaling.cause.as_str().into()),
        ("us".to_owned(), scaling.us.into()),
    ];
    Telling { action: action.into(), context: context.into(), requestor: None, always: true }
}
