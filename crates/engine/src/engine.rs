//! The engine as its callers see it.

use std::collections::BTreeMap;
use std::sync::Arc;

use config::Expanded;
use model::{Fingerprint, IdMap, InstanceId, InstanceName, ProjectName, Wish};
use store::Store;
use tokio::sync::oneshot;

use crate::actor::{Command, Instance};
use crate::catalog::ImageChoice;
use crate::defaults;
use crate::error::{Error, Result};
use crate::events::Events;
use crate::host::Host;
use crate::operations::{Class, OperationView, Operations, Status};
use crate::record::InstanceRecord;
use crate::shared::Shared;
use crate::verbs::Verb;
use crate::view::InstanceView;

/// What an engine is started with.
#[derive(Debug, Clone, Default)]
pub struct EngineConfig {
    /// Host ids that may be given out.
    pub id_ranges: Vec<IdMap>,
    /// Recipes that images can be built from.
    pub recipes: Vec<RecipeFacts>,
    /// What the first start on an empty database makes.
    pub first_start: defaults::FirstStart,
}

/// A recipe as it is listed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RecipeFacts {
    /// Fingerprint of the recipe.
    pub fingerprint: Fingerprint,
    /// Names that it answers to, the main one first.
    pub aliases: Vec<String>,
    /// Architecture.
    pub architecture: String,
    /// Properties of the image.
    pub properties: BTreeMap<String, String>,
}

/// The engine. Clones are the same engine.
#[derive(Clone)]
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
}

impl Engine {
    /// Waits until the numbers of this run's events are on the disk: nobody may hear one before.
    pub async fn numbered(&self) {
        // The sender is ours: it does not go away.
        let _ = self.shared.is_numbered.subscribe().wait_for(|is| *is).await;
    }

    /// Waits until everything was looked at: before, nobody knows what limits hold.
    pub async fn looked(&self) {
        // As above.
        let _ = self.shared.is_looked.subscribe().wait_for(|is| *is).await;
    }

    /// What happens, from now on and before.
    pub fn events(&self) -> &Arc<Events> {
        &self.shared.events
    }

    /// All operations.
    pub fn operations(&self) -> &Operations {
        &self.shared.operations
    }

    /// What this host can do.
    pub fn facts(&self) -> &model::HostFacts {
        self.shared.host.facts()
    }

    /// The database.
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// Every instance, by name.
    pub fn instances(&self) -> Vec<Arc<InstanceView>> {
        let instances = self.shared.instances();
        instances.by_name.values().filter_map(|id| instances.by_id.get(id)).map(|i| i.view()).collect()
    }

    fn find(&self, project: &ProjectName, name: &str) -> Result<Arc<Instance>> {
        let not_found = || {
            let text =
                format!("Failed to fetch instance {name:?} in project {:?}: Instance not found", project.as_str());
            Error::NotFound(text)
        };
        let name: InstanceName = name.parse().map_err(|_| not_found())?;
        let instances = self.shared.instances();
        let id = instances.by_name.get(&(project.clone(), name)).ok_or_else(not_found)?;
        instances.by_id.get(id).cloned().ok_or_else(not_found)
    }

    /// One instance.
    pub fn instance(&self, project: &ProjectName, name: &str) -> Result<Arc<InstanceView>> {
        self.find(project, name).map(|instance| instance.view())
    }

    /// Whether an instance is doing something.
    pub fn is_busy(&self, project: &ProjectName, name: &str) -> Result<bool> {
        self.find(project, name).map(|instance| instance.is_busy())
    }

    /// A definition with its profiles laid over.
    pub fn expand(&self, record: &InstanceRecord) -> Result<Expanded> {
        self.shared.catalog().expand(&record.project, &record.wish.profiles, &record.wish.written)
    }

    /// Hands an instance a command.
    pub(crate) fn post(&self, project: &ProjectName, name: &str, command: Command) -> Result<Arc<Instance>> {
        self.shared.check_open()?;
        let instance = self.find(project, name)?;
        instance.post(&self.shared, command);
        Ok(instance)
    }

    /// Asks something of an instance. Returns once that is remembered; the operation tells the rest.
    ///
    /// `expect` is the entity tag that the caller saw.
    pub async fn ask(
        &self,
        project: &ProjectName,
        name: &str,
        verb: Verb,
        expect: Option<String>,
        requestor: Option<String>,
    ) -> Result<OperationView> {
        let (accepted, answer) = oneshot::channel();
        let instance = self.post(project, name, Command::Verb { verb, expect, requestor, accepted })?;
        match answer.await {
            Ok(answer) => answer,
            Err(_) => Err(self.shared.unanswered(&instance).await),
        }
    }

    /// What the loop would work towards after a verb, without taking it.
    pub(crate) fn wish_after(&self, view: &InstanceView, verb: &Verb) -> Result<Wish> {
        let verb = verb.clone().meant(view.record.wish.power);
        let (mut wish, _) = crate::verbs::next(&view.record, &verb)?;
        self.shared.check_sharing(&view.record, &verb, &wish)?;
        self.shared.check_links(&view.record, &verb, wish.ephemeral)?;
        if matches!(verb, Verb::Update(_) | Verb::Patch(_)) {
            self.shared.regrant(&view.record, &mut wish)?;
        }
        let planned = self.shared.wish_of(&InstanceRecord { wish: wish.clone(), ..view.record.clone() });
        // What was only given to be told is given back.
        let mut catalog = self.shared.catalog_mut();
        for (device, grant) in &wish.nics {
            if view.record.wish.nics.get(device) != Some(grant) {
                catalog.allocator.forget_grant(grant);
            }
        }
        if wish.ids != view.record.wish.ids {
            catalog.allocator.forget_ids(wish.ids);
        }
        drop(catalog);
        planned
    }

    /// Instances that use a profile look at the host with the profile's new keys.
    pub(crate) fn look_at_users(&self, profile: &crate::record::ProfileRecord) {
        for instance in self.shared.instances().by_id.values() {
            let view = instance.view();
            if view.record.project == profile.project && view.record.wish.profiles.contains(&profile.name) {
                instance.post(&self.shared, Command::Look);
            }
        }
    }

    /// An image by alias, fingerprint or the beginning of one.
    pub fn image(&self, word: &str) -> Result<ImageChoice> {
        self.shared.catalog().image(word)
    }

    /// The isolation of an instance.
    pub fn sandbox(&self, record: &InstanceRecord) -> Result<model::SandboxSpec> {
        Ok(self.shared.wish(record)?.spec.sandbox)
    }

    /// Whose namespaces a definition asks for. Most ask for none, which is seen without reading all of it.
    pub fn shares_of(&self, record: &InstanceRecord) -> Result<BTreeMap<model::NamespaceKind, config::ShareChoice>> {
        if !self.shared.catalog().names_namespaces(record) {
            return Ok(BTreeMap::new());
        }
        Ok(config::grain(&self.expand(record)?.config)?.shares)
    }

    /// The name of an instance by its id.
    pub fn name_of(&self, id: InstanceId) -> Option<InstanceName> {
        self.shared.name_of(id)
    }

    /// The host, for what is no step: streams and figures.
    pub fn host(&self) -> &Arc<dyn Host> {
        &self.shared.host
    }

    /// Waits until no instance is doing anything. For tests and an orderly end.
    pub async fn rest(&self) {
        loop {
            let busy = self.shared.instances().by_id.values().any(|i| i.is_busy());
            let running =
                self.operations().list().iter().any(|o| o.status == Status::Running && o.class == Class::Task);
            if !busy && !running {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }
}
