//! Guests that do nothing for a while are held still, and go on when they are called.
//!
//! It is the record that says who sleeps, as it is a wish like others: the loop holds the guest still, also after a restart of
//! the host's keepers. A guest that a former daemon put to sleep sleeps on, if the host knows that nobody called it meanwhile;
//! else it goes on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use model::{Boot, Rest, Step};
use store::Class;

use crate::actor::Command;
use crate::record::{Record, Telling};
use crate::shared::Shared;
use crate::worker::Worker;

/// What the host says of a guest's rest, and when it was heard.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RestHeard {
    boot: Boot,
    /// Who called; `None` when nobody did and the guest did nothing either.
    by: Option<&'static str>,
    at: Instant,
}

impl Shared {
    /// Hands on what the host said.
    pub(crate) fn rest_heard(self: &Arc<Self>, boot: Boot, by: Option<&'static str>) {
        let heard = RestHeard { boot, by, at: Instant::now() };
        let instance = self.instances().by_id.get(&boot.id).cloned();
        if let Some(instance) = instance {
            instance.post(self, Command::Rest(heard));
        }
    }
}

impl Worker<'_> {
    /// Has the host listen for the end of its work, or of its sleep.
    pub(crate) fn watch_rest(&self) {
        let view = self.instance.view();
        let Some(boot) = view.running() else { return };
        let rest = match self.shared.idle_freeze(&view.record) {
            _ if view.record.asleep => Rest::Asleep,
            Some(ms) if !view.record.wish.power.is_frozen() => Rest::After(ms),
            _ => Rest::Unwatched,
        };
        self.shared.host.watch_rest(boot, rest);
    }

    pub(crate) async fn rest(&self, heard: RestHeard) {
        let view = self.instance.view();
        if view.running() != Some(heard.boot) || view.record.operation.is_some() {
            return;
        }
        match heard.by {
            Some(by) => self.wake(by, heard.at).await,
            None if self.shared.idle_freeze(&view.record).is_some() && !view.record.asleep => self.sleep(heard).await,
            None => {}
        }
    }

    /// Has a guest that a former daemon put to sleep sleep on, or go on.
    pub(crate) async fn take_up_rest(&self) {
        let (view, at) = (self.instance.view(), Instant::now());
        let may_sleep = view.running().filter(|_| self.shared.idle_freeze(&view.record).is_some());
        let sleeps_on = match may_sleep {
            Some(boot) => self.shared.host.sleeps_on(boot).await,
            None => false,
        };
        if sleeps_on {
            self.instance.sleeps.store(true, Ordering::Release);
            self.watch_rest();
        } else {
            self.wake("a daemon that did not hear of calls before", at).await;
        }
    }

    async fn sleep(&self, heard: RestHeard) {
        let mut after = self.record();
        let held = self.shared.host.gauges(heard.boot).usage.memory_bytes;
        after.asleep = true;
        after.telling.push(told("instance-slept", [("memory-bytes", held.into())].into()));
        if let Err(error) = self.shared.submit_and_wait(Class::Wish, vec![after.put()]).await {
            tracing::warn!(instance = %after.name, %error, "it is not put to sleep");
            return;
        }
        self.instance.sleeps.store(true, Ordering::Release);
        self.set_record(&after);
        // Before it is held still: a call that comes now is not missed.
        self.watch_rest();
        if self.shared.host.apply(&Step::Freeze { boot: heard.boot }, &|_| {}).await.is_err()
            || self.shared.host.sessions(heard.boot) > 0
        {
            self.wake("a session", Instant::now()).await;
            return;
        }
        // Nobody needs what it does not use; what it used it gets back page by page.
        self.shared.host.take_memory(heard.boot, 0).await;
        self.news_later();
    }

    /// Lets a sleeping guest go on, and writes that down behind it: a daemon that dies in between lets it go on, too.
    pub(crate) async fn wake(&self, by: &str, at: Instant) {
        let mut after = self.record();
        if !after.asleep {
            return;
        }
        after.asleep = false;
        self.set_record(&after);
        let Some(boot) = self.instance.view().running() else { return };
        let thawed = self.shared.host.apply(&Step::Thaw { boot }, &|_| {}).await;
        let us = at.elapsed().as_micros() as u64;
        after.telling.push(told("instance-woken", [("cause", by.into()), ("us", us.into())].into()));
        self.set_record(&after);
        drop(self.shared.submit(Class::Settled, vec![after.put()]));
        if let Err(error) = thawed {
            tracing::warn!(instance = %after.name, %error, "it is tried again");
        }
        self.watch_rest();
        self.news_later();
    }
}

fn told(action: &str, context: Vec<(&str, serde_json::Value)>) -> Telling {
    let context = context.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    Telling { action: action.into(), context, requestor: None, always: true }
}
