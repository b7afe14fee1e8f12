//! The engine as its callers see it, and what its parts share.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use config::{Expanded, Written};
use model::{
    BootGen, Fingerprint, IdMap, InstanceId, InstanceName, Observed, Power, ProfileName, ProjectName, RootGen,
    RootSource, Step, StopKind, Wish,
};
use store::{Op, Store, TxnError};
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use crate::actor::{Accepted, Command, Instance};
use crate::catalog::{Catalog, ImageChoice};
use crate::error::{Error, Result};
use crate::events::{Events, Numbers};
use crate::grants::grant_nics;
use crate::host::Host;
use crate::images::Images;
use crate::instances::Instances;
use crate::operations::{Class, NewOperation, Operation, OperationView, Operations, Status};
use crate::record::{InstanceRecord, WishState};
use crate::verbs::{NewInstance, Verb};
use crate::view::InstanceView;
use crate::{clock, defaults, operations};

/// How long a start waits for the first looks at what runs: each takes less than a millisecond.
const FIRST_LOOKS: std::time::Duration = std::time::Duration::from_secs(1);

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

/// What the parts share.
pub(crate) struct Shared {
    pub(crate) host: Arc<dyn Host>,
    pub(crate) store: Store,
    pub(crate) events: Arc<Events>,
    pub(crate) operations: Operations,
    pub(crate) images: Images,
    catalog: RwLock<Catalog>,
    instances: RwLock<Instances>,
    unfinished: Mutex<HashMap<Uuid, Operation>>,
    /// The daemon ends and takes its guests along: nothing is to run, whatever is wished.
    pub(crate) halting: AtomicBool,
    /// The numbers of this run's events are on the disk.
    is_numbered: watch::Sender<bool>,
    /// What a first start makes.
    pub(crate) first_start: defaults::FirstStart,
    /// Counts the changes of profiles.
    pub(crate) profiles_version: std::sync::atomic::AtomicU64,
    /// One after the other makes or removes namespace objects.
    pub(crate) namespaces: tokio::sync::Mutex<()>,
}

impl Shared {
    pub(crate) fn catalog(&self) -> RwLockReadGuard<'_, Catalog> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn catalog_mut(&self) -> RwLockWriteGuard<'_, Catalog> {
        self.catalog.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be had after the catalogue, where both are needed.
    pub(crate) fn instances(&self) -> RwLockReadGuard<'_, Instances> {
        self.instances.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn instances_mut(&self) -> RwLockWriteGuard<'_, Instances> {
        self.instances.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn submit_and_wait(&self, class: store::Class, ops: Vec<Op>) -> Result<()> {
        let answer = self.submit(class, ops).await;
        self.committed();
        answer.unwrap_or_else(|_| Err(TxnError::Broken("its writer has ended".into())))?;
        Ok(())
    }

    /// A commit is on the disk, or was refused.
    pub(crate) fn committed(&self) {
        self.host.passed("after", "commit");
    }

    /// What the loop works towards for a record.
    pub(crate) fn wish(&self, record: &InstanceRecord) -> Result<Wish> {
        let mut wish = self.wish_of(record)?;
        if let (Power::On { boot, .. }, true) = (wish.power, record.asleep) {
            wish.power = Power::On { boot, frozen: true };
        }
        if self.halting.load(Ordering::Acquire) {
            wish.power = Power::Off;
        }
        Ok(wish)
    }

    /// The same, whether the daemon is ending or not.
    fn wish_of(&self, record: &InstanceRecord) -> Result<Wish> {
        let catalog = self.catalog();
        let config = catalog.config(&record.project, &record.wish)?;
        let grain = crate::sharing::grain(&catalog, &self.instances(), self.host.facts(), record, &config)?;
        catalog.wish(record, config, grain, self.host.facts())
    }

    /// Why nobody answers, told once what was begun is taken back.
    pub(crate) async fn unanswered(&self, instance: &Instance) -> Error {
        if let Err(error) = self.check_open() {
            return error;
        }
        while instance.is_busy() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        Error::Internal("a defect of the daemon ended this as it began; please report it".into())
    }

    /// Refuses what comes too late, or could not be remembered.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.halting.load(Ordering::Acquire) {
            return Err(Error::Cancelled("the daemon is ending".into()));
        }
        match self.store.read_only() {
            Some(reason) => Err(TxnError::ReadOnly(reason).into()),
            None => Ok(()),
        }
    }

    /// The operation that an earlier daemon did not live to end.
    pub(crate) fn take_unfinished(&self, id: Uuid) -> Option<Operation> {
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner).remove(&id)
    }
}

/// The engine. Clones are the same engine.
#[derive(Clone)]
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
}

impl Engine {
    /// Reads what is remembered, makes what a first start needs, and sets every object to work towards its wish.
    pub async fn start(host: Arc<dyn Host>, store: Store, config: EngineConfig) -> Result<Engine> {
        if let Some(reason) = store.read_only() {
            tracing::error!(%reason, "the database is damaged: guests run on, nothing can be changed; {}", crate::doctor::REPAIR);
        }
        let numbers = Numbers::of_next_run(&store)?;
        let events = Arc::new(Events::new(numbers));
        let catalog = Catalog::load(&store, &config)?;
        let shared = Arc::new(Shared {
            operations: Operations::new(events.clone()),
            images: Images::default(),
            catalog: RwLock::new(catalog),
            instances: RwLock::default(),
            unfinished: Mutex::default(),
            halting: AtomicBool::new(false),
            is_numbered: watch::Sender::new(false),
            profiles_version: Default::default(),
            namespaces: Default::default(),
            first_start: config.first_start,
            host,
            store,
            events,
        });
        let engine = Engine { shared };
        engine.load_operations()?;
        defaults::make(&engine.shared).await?;
        let written = engine.shared.submit(store::Class::Settled, vec![numbers.put()]);
        let shared = engine.shared.clone();
        tokio::spawn(async move {
            let written = written.await.unwrap_or_else(|_| Err(TxnError::Broken("its writer has ended".into())));
            shared.committed();
            if let Err(error) = written {
                tracing::error!(%error, "the numbers of this run's events could not be written down");
            }
            shared.is_numbered.send_replace(true);
        });
        engine.ensure_objects().await;
        engine.load_instances().await?;
        engine.follow_host();
        engine.follow_disk();
        crate::kept::follow(&engine.shared);
        Ok(engine)
    }

    /// Waits until the numbers of this run's events are on the disk: nobody may hear one before.
    pub async fn numbered(&self) {
        // The sender is ours: it does not go away.
        let _ = self.shared.is_numbered.subscribe().wait_for(|is| *is).await;
    }

    fn load_operations(&self) -> Result<()> {
        let mut ended = Vec::new();
        for document in self.shared.store.list(operations::KIND)? {
            let Ok(view) = serde_json::from_str::<OperationView>(&document.body) else { continue };
            if view.status.is_final() {
                ended.push(view);
            } else {
                let operation = self.shared.operations.resume(view);
                let id = operation.id();
                self.shared.unfinished.lock().unwrap_or_else(PoisonError::into_inner).insert(id, operation);
            }
        }
        // Those that are too old by now go, as they would have if the daemon had run.
        ended.sort_by_key(|view| view.updated_ms);
        let dropped: Vec<_> = ended.iter().flat_map(|view| self.shared.operations.retire(view)).collect();
        if !dropped.is_empty() {
            drop(self.shared.submit(store::Class::Settled, dropped));
        }
        Ok(())
    }

    /// Pools, networks and namespaces come before what lives on them. One that cannot be had does not stop the others.
    pub(crate) async fn ensure_objects(&self) {
        let steps: Vec<Step> = {
            let catalog = self.shared.catalog();
            let pools = catalog.pools.values().map(|p| Step::EnsurePool { pool: p.spec.clone() });
            let networks = catalog.networks.values().map(|n| Step::EnsureNetwork { network: n.spec.clone() });
            pools.chain(networks).collect()
        };
        let steps = steps.into_iter().chain(self.shared.missing_pins(None));
        for step in steps {
            if let Err(error) = self.shared.host.apply(&step, &|_| {}).await {
                tracing::error!(%error, step = step.name(), "not available");
            }
        }
    }

    async fn load_instances(&self) -> Result<()> {
        let mut records = crate::catalog::parse_all::<InstanceRecord>(&self.shared.store)?;
        for record in &mut records {
            self.name_built_image(record);
            self.shared.catalog_mut().allocator.note(record);
            self.add_instance(Instance::new(record.clone()));
        }
        self.shared.publish_names();
        if let Err(error) = crate::sweep::run(&self.shared, &|| false).await {
            tracing::error!(%error, "the host could not be compared with what is remembered");
        }
        self.end_orphaned_operations(&records);
        let mut seen = self.see_running().await;
        self.shared.for_all(|instance| {
            let seen = seen.remove(&instance.id).map(|seen| Command::LookFrom(Box::new(seen)));
            instance.post(&self.shared, seen.unwrap_or(Command::Look));
        });
        Ok(())
    }

    /// What runs is shown as running from the first answer on, whenever the instance's own look comes.
    async fn see_running(&self) -> HashMap<InstanceId, Observed> {
        let mut looks = tokio::task::JoinSet::new();
        self.shared.for_all(|instance| {
            let (instance, host) = (instance.clone(), self.shared.host.clone());
            let record = instance.view().record.clone();
            if record.wish.power.boot().is_some() {
                looks.spawn(async move {
                    // What cannot be seen now is looked at again, and its error told, by the instance itself.
                    let observed = host.observe(record.id, &record.pool).await.ok()?;
                    instance.show(|view| view.observed = observed.clone());
                    Some((record.id, observed))
                });
            }
        });
        // What hangs is left to the instance's own look: nobody may have to wait for the daemon because of it.
        let mut seen = HashMap::new();
        let all = async {
            while let Some(look) = looks.join_next().await {
                seen.extend(look.ok().flatten());
            }
        };
        if tokio::time::timeout(FIRST_LOOKS, all).await.is_err() {
            looks.detach_all();
            tracing::warn!("some instances cannot be looked at yet");
        }
        seen
    }

    /// An instance that was asked for by a recipe is known by the image that was built for it, also when the daemon died
    /// before it could write that down: its root file system is based on that.
    fn name_built_image(&self, record: &mut InstanceRecord) {
        let catalog = self.shared.catalog();
        for wish in [Some(&mut record.wish), record.previous.as_deref_mut()].into_iter().flatten() {
            if let RootSource::Image(fingerprint) = wish.source
                && let Ok(image @ ImageChoice::Here(_)) = catalog.image_by_fingerprint(fingerprint)
            {
                wish.source = RootSource::Image(image.fingerprint());
            }
        }
    }

    /// What became of an operation that no instance goes on with: images tell it by being there or not.
    fn outcome(&self, view: &OperationView) -> std::result::Result<(), String> {
        let path = view.resources.get("images").and_then(|paths| paths.first());
        let fingerprint = path.and_then(|path| path.rsplit('/').next()?.parse::<Fingerprint>().ok());
        let catalog = self.shared.catalog();
        let is_here = |fingerprint| matches!(catalog.image_by_fingerprint(fingerprint), Ok(ImageChoice::Here(_)));
        let is_unpacked = |fingerprint| match catalog.image_by_fingerprint(fingerprint) {
            Ok(ImageChoice::Here(image)) => !image.pools.is_empty(),
            Ok(ImageChoice::Recipe(_)) | Err(_) => false,
        };
        match fingerprint {
            Some(fingerprint) if view.description == crate::objects::DELETING && !is_here(fingerprint) => Ok(()),
            Some(fingerprint) if view.description == crate::objects::BUILDING && is_unpacked(fingerprint) => Ok(()),
            _ => Err("the daemon ended while it ran, and it was not done".into()),
        }
    }

    /// Operations whose object is gone, or which were about something that cannot be gone on with.
    fn end_orphaned_operations(&self, records: &[InstanceRecord]) {
        let owned: Vec<Uuid> = records.iter().filter_map(|r| r.operation).collect();
        let mut unfinished = self.shared.unfinished.lock().unwrap_or_else(PoisonError::into_inner);
        let orphans: Vec<Uuid> = unfinished.keys().filter(|id| !owned.contains(id)).copied().collect();
        for id in orphans {
            if let Some(operation) = unfinished.remove(&id) {
                let view = operation.tell_end(self.outcome(&operation.view()));
                let mut ops = vec![operations::document(&view)];
                ops.extend(self.shared.operations.retire(&view));
                drop(self.shared.submit(store::Class::Settled, ops));
                operation.end(view);
            }
        }
    }

    fn add_instance(&self, instance: Arc<Instance>) {
        let record = &instance.view().record;
        let mut instances = self.shared.instances_mut();
        instances.by_name.insert((record.project.clone(), record.name.clone()), record.id);
        instances.by_id.insert(record.id, instance);
    }

    /// What the host tells goes to whom it is about.
    fn follow_host(&self) {
        let mut events = self.shared.host.events();
        let shared = self.shared.clone();
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                let id = crate::told::take(&shared, event);
                let instance = id.and_then(|id| shared.instances().by_id.get(&id).cloned());
                if let Some(instance) = instance {
                    instance.post(&shared, Command::Look);
                }
            }
        });
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

    /// Makes an instance. Returns once that is remembered; the operation tells the rest.
    pub async fn create(&self, new: NewInstance, requestor: Option<String>) -> Result<OperationView> {
        self.shared.check_open()?;
        let start = new.start;
        let record = self.prepare(new)?;
        let (accepted, answer) = oneshot::channel();
        let instance = self.add_new(record, start, requestor, accepted)?;
        match answer.await {
            Ok(answer) => answer,
            Err(_) => Err(self.shared.unanswered(&instance).await),
        }
    }

    /// Takes a new instance's name and hands it its first command, before anybody else can reach it by that name.
    fn add_new(
        &self,
        record: InstanceRecord,
        start: bool,
        requestor: Option<String>,
        accepted: Accepted,
    ) -> Result<Arc<Instance>> {
        let name = (record.project.clone(), record.name.clone());
        let mut instances = self.shared.instances_mut();
        if instances.by_name.contains_key(&name) {
            drop(instances);
            self.shared.catalog_mut().allocator.forget(&record);
            return Err(Error::Conflict(format!("Instance {:?} already exists", name.1.as_str())));
        }
        let new = NewOperation::on_instance(record.project.as_str(), "Creating instance", record.name.as_str());
        let operation = self.shared.operations.start(new);
        let telling = crate::telling::telling_of_creation(&record, start, requestor);
        let record = InstanceRecord { operation: Some(operation.id()), telling, ..record };
        let instance = Instance::new(record);
        instances.by_name.insert(name, instance.id);
        instances.by_id.insert(instance.id, instance.clone());
        instance.post(&self.shared, Command::Create { operation: Box::new(operation), accepted });
        Ok(instance)
    }

    /// The steps that creating it would take, without doing them.
    pub fn plan_create(&self, new: NewInstance) -> Result<Vec<Step>> {
        let record = self.prepare(new)?;
        let steps = self.shared.wish(&record).map(|wish| plan::diff(&wish, &Default::default(), self.facts()));
        self.shared.catalog_mut().allocator.forget(&record);
        steps
    }

    /// The steps that a verb would take, without doing them.
    pub fn plan_verb(&self, project: &ProjectName, name: &str, verb: &Verb) -> Result<Vec<Step>> {
        let view = self.instance(project, name)?;
        let verb = verb.clone().meant(view.record.wish.power);
        let (mut wish, _) = crate::verbs::next(&view.record, &verb)?;
        self.shared.check_sharing(&view.record, &verb, &wish)?;
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
        Ok(plan::diff(&planned?, &view.observed, self.facts()))
    }

    /// The record of a new instance, with everything given out and its name taken.
    fn prepare(&self, new: NewInstance) -> Result<InstanceRecord> {
        let id = InstanceId(Uuid::new_v4());
        let mut catalog = self.shared.catalog_mut();
        if !catalog.projects.contains_key(&new.project) {
            return Err(Error::NotFound(format!("Project {} not found", new.project)));
        }
        let image = new.image.as_deref().map(|word| catalog.image(word)).transpose()?;
        let name = match new.name {
            Some(name) => name,
            None => self.made_up_name(&new.project)?,
        };
        if self.shared.instances().by_name.contains_key(&(new.project.clone(), name.clone())) {
            return Err(Error::Conflict(format!("Instance {:?} already exists", name.as_str())));
        }
        let boot = if new.start { BootGen(1) } else { BootGen(0) };
        let mut wish = WishState {
            exists: true,
            power: if new.start { Power::On { boot, frozen: false } } else { Power::Off },
            stop: StopKind::Force,
            root: RootGen(1),
            source: image.as_ref().map_or(RootSource::Empty, |i| RootSource::Image(i.fingerprint())),
            written: with_image_keys(new.written, image.as_ref()),
            profiles: new.profiles.unwrap_or_else(|| vec![default_profile()]),
            description: new.description,
            ephemeral: new.ephemeral,
            nics: BTreeMap::new(),
            ids: IdMap { base: 0, count: 0 },
        };
        let config = catalog.config(&new.project, &wish)?;
        self.shared.check_limits(&catalog, &config)?;
        wish.ids = catalog.allocator.ids(if config.sandbox.nesting { IdMap::NESTING } else { IdMap::ORDINARY })?;
        wish.nics = match grant_nics(&mut catalog, &config, &BTreeMap::new(), id) {
            Ok(nics) => nics,
            Err(error) => {
                catalog.allocator.forget_ids(wish.ids);
                return Err(error);
            }
        };
        let architecture = image.as_ref().map_or(self.facts().machine.clone(), |i| i.architecture().to_owned());
        let mut record = InstanceRecord {
            id,
            project: new.project,
            name,
            architecture,
            pool: config.root.pool.clone(),
            created_ms: clock::now_ms(),
            last_used_ms: if new.start { clock::now_ms() } else { 0 },
            // Before it was asked for there was nothing.
            previous: Some(Box::new(WishState { exists: false, power: Power::Off, ..wish.clone() })),
            wish,
            operation: None,
            levels: Default::default(),
            scalings: Vec::new(),
            newest_boot: boot,
            asleep: false,
            error: None,
            telling: Vec::new(),
            joined: BTreeMap::new(),
            pins: Default::default(),
        };
        let possible = crate::sharing::grain(&catalog, &self.shared.instances(), self.facts(), &record, &config)
            .and_then(|grain| catalog.wish(&record, config, grain, self.facts()));
        drop(catalog);
        let possible = possible.and_then(|wish| {
            record.joined = self.shared.boots_of_owners(&wish);
            record.pins = wish.spec.sandbox.namespaces.pins().collect();
            if new.start { self.shared.check_owners(&wish) } else { Ok(()) }
        });
        if let Err(error) = possible {
            self.shared.catalog_mut().allocator.forget(&record);
            return Err(error);
        }
        Ok(record)
    }

    /// A name that is free and easy to say.
    fn made_up_name(&self, project: &ProjectName) -> Result<InstanceName> {
        let instances = self.shared.instances();
        for _ in 0..64 {
            let name = crate::names::make_up(Uuid::new_v4().as_u128());
            if !instances.by_name.contains_key(&(project.clone(), name.clone())) {
                return Ok(name);
            }
        }
        Err(Error::Conflict("no free name was found; give one".into()))
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

/// The image's properties become keys of the instance, as they were when it was made.
fn with_image_keys(mut written: Written, image: Option<&ImageChoice>) -> Written {
    for (key, value) in image.map(ImageChoice::properties).into_iter().flatten() {
        written.config.entry(format!("image.{key}")).or_insert_with(|| value.clone());
    }
    written
}

pub(crate) fn default_profile() -> ProfileName {
    // A constant that is valid.
    "default".parse().unwrap_or_else(|_| unreachable!("a valid name"))
}
