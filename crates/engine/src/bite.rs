//! What happens to an instance that meets a limit, where its keys say so: it is held still or ended, by an ordinary verb.

use std::sync::Arc;

use model::{Boot, Bounded, LimitAction, LimitActions, StopKind};
use tokio::sync::oneshot;

use crate::actor::Command;
use crate::record::InstanceRecord;
use crate::shared::Shared;
use crate::verbs::Verb;
use crate::worker::Worker;

impl Shared {
    /// Hands on that a boot met a limit.
    pub(crate) fn bitten(self: &Arc<Self>, boot: Boot, bounded: Bounded) {
        let instance = self.instances().by_id.get(&boot.id).cloned();
        if let Some(instance) = instance {
            instance.post(self, Command::Bitten(boot, bounded));
        }
    }

    /// What is to happen at limits of an instance.
    pub(crate) fn actions(&self, record: &InstanceRecord) -> LimitActions {
        let expanded = self.catalog().expand(&record.project, &record.wish.profiles, &record.wish.written);
        expanded.map(|expanded| config::actions(&expanded.config)).unwrap_or_default()
    }
}

impl Worker<'_> {
    pub(crate) async fn bitten(&self, boot: Boot, bounded: Bounded) {
        let view = self.instance.view();
        // What was restarted or held still meanwhile did not meet it.
        if view.running() != Some(boot) || view.record.wish.power.is_frozen() {
            return;
        }
        let verb = match self.shared.actions(&view.record).of(bounded) {
            LimitAction::Freeze => Verb::Freeze,
            LimitAction::Kill => Verb::Stop(StopKind::Force),
            LimitAction::Event | LimitAction::Throttle => return,
        };
        let (accepted, answer) = oneshot::channel();
        let cause = ("cause".to_owned(), format!("it met a limit: {}", bounded.key()).into());
        self.verb_because(verb, None, None, [cause].into(), accepted).await;
        if let Ok(Err(error)) = answer.await {
            tracing::warn!(instance = %view.record.name, key = bounded.key(), %error, "what is to happen at a limit did not");
        }
    }
}
