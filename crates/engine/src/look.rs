//! What an instance does unasked: it looks at the host, and follows what happened there.

use std::sync::atomic::Ordering;

use model::{BootGen, End, GuestSeen, Observed, Power, StopKind};
use store::Class;
use tokio::time::Instant;

use crate::actor::Command;
use crate::error::Result;
use crate::pace::Reboot;
use crate::record::{InstanceRecord, Record, Telling};
use crate::sharing::FOLLOW_TIMEOUT_S;
use crate::telling::telling_of_end;
use crate::worker::Worker;

/// Seconds that a guest has for its shutdown when the host goes down; systemd gives its own services 90.
const HALT_TIMEOUT_S: u32 = 30;

impl Worker<'_> {
    /// Looks whether the host is as it should be, and makes it so: after a start of the daemon, or when told of a change.
    pub(crate) async fn look(&self) {
        if !self.shared.knows(self.instance.id) {
            return;
        }
        let record = self.record();
        let observed = match self.observe(&record).await {
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
            self.take_up_rest().await;
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
            self.shared.wake_wired(&now);
        }
        if !settled {
            return;
        }
        // It was to run before the daemon or the host went down.
        let started = !ran && now.telling.is_empty() && self.instance.view().pid().is_some();
        if started {
            self.shared.wake_wired(&now);
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
    pub(crate) async fn halt(&self) {
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
}
