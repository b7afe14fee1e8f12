//! What is asked of an instance by name: a new wish, checked, and its operation.

use std::collections::BTreeMap;

use store::Class;

use crate::actor::Accepted;
use crate::error::{Error, Result};
use crate::operations::{NewOperation, Operation};
use crate::record::{InstanceRecord, Telling};
use crate::verbs::{self, Verb};
use crate::worker::Worker;
use crate::{allocate, clock};

impl Worker<'_> {
    /// A verb: new wish, operation, work, end.
    pub(crate) async fn verb(&self, verb: Verb, expect: Option<&str>, requestor: Option<String>, accepted: Accepted) {
        self.verb_because(verb, expect, requestor, Default::default(), accepted).await;
    }

    /// The same, with what is told of its cause.
    pub(crate) async fn verb_because(
        &self,
        verb: Verb,
        expect: Option<&str>,
        requestor: Option<String>,
        context: BTreeMap<String, serde_json::Value>,
        accepted: Accepted,
    ) {
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
        after.telling.push(Telling { action: verb.action().into(), context, requestor, always: false });
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
        answer(accepted, refusal, &operation);
        if ends {
            self.shared.wake_sharers(&self.record());
        }
        self.shared.wake_wired(&self.record());
    }

    /// The record with the verb's wish, everything checked and given out.
    fn decide(&self, before: &InstanceRecord, verb: &Verb, expect: Option<&str>) -> Result<InstanceRecord> {
        expect_seen(before, expect)?;
        let (mut wish, newest_boot) = verbs::next(before, verb)?;
        self.shared.check_sharing(before, verb, &wish)?;
        self.shared.check_links(before, verb, wish.ephemeral)?;
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
    pub(crate) async fn create(&self, operation: Operation, accepted: Accepted) {
        let record = self.record();
        let mut accepted = Some(accepted);
        let result = self.run(&record, Class::Wish, allocate::claims(&record), &operation, &mut accepted).await;
        let refusal = result.as_ref().err().cloned();
        self.shared.publish_names();
        self.finish(Some(&operation), result, &[record.wish]);
        answer(accepted, refusal, &operation);
        self.shared.wake_wired(&self.record());
    }
}

/// Refuses to change what is not as the caller saw it.
pub(crate) fn expect_seen(before: &InstanceRecord, expect: Option<&str>) -> Result<()> {
    match (expect.map(|tag| tag.trim_matches('"')), crate::etag::of_instance(before)) {
        (Some(wanted), found) if wanted != found => Err(Error::Stale { wanted: wanted.to_owned(), found }),
        _ => Ok(()),
    }
}

/// Tells whoever asked and was not told yet: of what could not be committed, or of the end.
fn answer(accepted: Option<Accepted>, refusal: Option<Error>, operation: &Operation) {
    if let Some(accepted) = accepted {
        let _ = accepted.send(refusal.map_or_else(|| Ok(operation.view()), Err));
    }
}
