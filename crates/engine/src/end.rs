//! An orderly end: of the daemon, and of everything that it made on this host.

use std::sync::atomic::Ordering;

use model::{Step, StopKind};

use crate::actor::Command;
use crate::engine::Engine;
use crate::error::Result;
use crate::events::{Events, Happening, Logging};
use crate::operations::{OperationView, Status};
use crate::verbs::Verb;

/// How long a purge waits for what is under way: a guest has half a minute for its shutdown.
const UNDER_WAY: std::time::Duration = std::time::Duration::from_secs(40);

impl Engine {
    /// Writes down everything that was told.
    pub async fn flush(&self) -> Result<()> {
        self.shared.submit_and_wait(store::Class::Settled, Vec::new()).await?;
        let store = self.shared.store.clone();
        let _ = tokio::task::spawn_blocking(move || store.settle_mirror()).await;
        Ok(())
    }

    /// The same, and leaves the database as one file.
    pub async fn settle(&self) -> Result<()> {
        self.flush().await?;
        let store = self.shared.store.clone();
        let _ = tokio::task::spawn_blocking(move || store.settle()).await;
        Ok(())
    }

    /// Stops every instance that runs, as before a shutdown of the host. They run again after the next start of the daemon.
    /// Whatever is asked from now on is refused.
    pub async fn halt(&self) {
        self.shared.halting.store(true, Ordering::Release);
        self.shared.for_all(|instance| instance.post(&self.shared, Command::Halt));
        self.rest().await;
    }

    /// Removes every instance, image, network and namespace. Returns what could not be removed and why.
    pub async fn purge(&self) -> Vec<String> {
        let mut failed = Vec::new();
        self.shared.purging.store(true, Ordering::Release);
        // What an earlier end began goes on first, so that nothing is asked for twice.
        let _ = tokio::time::timeout(UNDER_WAY, self.rest()).await;
        // Their members can't be removed before.
        for network in self.networks().iter().filter(|network| network.chain().is_some()) {
            let name = &network.spec.name;
            failed.extend(self.delete_network(name).await.err().map(|error| format!("chain {name}: {error}")));
        }
        // Those whose namespaces others share come after these; the longest chain bounds the rounds.
        let mut rest = self.instances();
        while !rest.is_empty() {
            let (later, now): (Vec<_>, Vec<_>) = rest.into_iter().partition(|view| self.shared.is_shared(&view.record));
            // All at once: each waits for its own guest.
            let removals: Vec<_> = now.into_iter().map(|view| tokio::spawn(self.clone().remove(view))).collect();
            let mut removed = 0;
            for removal in removals {
                let result = removal.await.unwrap_or_else(|error| Err(error.to_string()));
                removed += usize::from(result.is_ok());
                failed.extend(result.err());
            }
            rest = later;
            if removed == 0 {
                failed.extend(
                    rest.drain(..).map(|view| format!("instance {}: others share its namespaces", view.record.name)),
                );
            }
        }
        for image in self.images() {
            let fingerprint = image.facts.fingerprint.to_string();
            let deleted = self.ended(self.delete_image(&fingerprint).await).await;
            failed.extend(deleted.err().map(|error| format!("image {fingerprint}: {error}")));
        }
        // What was not removed at the first try, and what nobody remembers.
        if let Err(error) = crate::sweep::run(&self.shared, &|| false).await {
            failed.push(format!("what is left on the host: {error}"));
        }
        for object in self.namespaces() {
            let removed = self.shared.host.apply(&Step::UnpinNamespace { pin: object.pin() }, &|_| {}).await;
            failed.extend(removed.err().map(|error| format!("namespace {}: {error}", object.label())));
        }
        for network in self.networks() {
            let step = Step::RemoveNetwork { name: network.spec.name.clone() };
            let removed = self.shared.host.apply(&step, &|_| {}).await;
            failed.extend(removed.err().map(|error| format!("network {}: {error}", network.spec.name)));
        }
        failed
    }

    async fn remove(self, view: std::sync::Arc<crate::view::InstanceView>) -> std::result::Result<(), String> {
        let (project, name) = (&view.record.project, view.record.name.as_str());
        let ask = async |verb| self.ended(self.ask(project, name, verb, None, None).await).await;
        let removed = async {
            // One that is deleted when it stops is gone then.
            if view.record.wish.power.boot().is_some() {
                ask(Verb::Stop(StopKind::Force)).await?;
            }
            if self.instance(project, name).is_ok() { ask(Verb::Delete).await } else { Ok(()) }
        };
        removed.await.map_err(|error| format!("instance {name}: {error}"))
    }

    /// Waits for an operation that was accepted.
    async fn ended(&self, accepted: Result<OperationView>) -> std::result::Result<(), String> {
        let accepted = accepted.map_err(|error| error.to_string())?;
        let view = self.operations().wait(accepted.id).await.map_err(|error| error.to_string())?;
        if view.status == Status::Success { Ok(()) } else { Err(view.error) }
    }
}

impl Events {
    /// Tells a line of the log to whoever listens.
    pub fn log(&self, line: Logging) {
        self.tell("", Happening::Logging(line));
    }
}
