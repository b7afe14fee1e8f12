//! A start: what is remembered is read, what an earlier daemon left is taken up, everything is set to work.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use model::{Fingerprint, RootSource, Step};
use store::{Store, TxnError};
use tokio::sync::watch;
use uuid::Uuid;

use crate::actor::{Command, Instance};
use crate::catalog::{Catalog, ImageChoice};
use crate::engine::{Engine, EngineConfig};
use crate::error::Result;
use crate::events::{Events, Numbers};
use crate::host::Host;
use crate::images::Images;
use crate::operations::{OperationView, Operations};
use crate::record::{InstanceRecord, NetworkRecord};
use crate::shared::Shared;
use crate::{defaults, operations};

/// How long questions about limits wait for the first looks at what runs: each takes less than a millisecond.
const FIRST_LOOKS: std::time::Duration = std::time::Duration::from_secs(1);

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
            purging: AtomicBool::new(false),
            is_numbered: watch::Sender::new(false),
            is_looked: watch::Sender::new(false),
            profiles_version: Default::default(),
            profiles: Default::default(),
            namespaces: Default::default(),
            chains: Default::default(),
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
            let ensure = |n: &NetworkRecord| Step::EnsureNetwork { network: n.spec.clone() };
            // A chain begins at a bridge.
            let (chains, bridges): (Vec<_>, Vec<_>) = catalog.networks.values().partition(|n| n.chain().is_some());
            pools.chain(bridges.into_iter().chain(chains).map(ensure)).collect()
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
        self.look_at_all();
        Ok(())
    }

    /// What runs is shown as running from the first answer on; the instances look one after the other, so that whoever asks
    /// meanwhile is answered in between.
    fn look_at_all(&self) {
        let mut instances = Vec::new();
        self.shared.for_all(|instance| {
            let boots = self.shared.host.glance(instance.id);
            instance.show(|view| view.observed.boots = boots);
            instances.push(instance.clone());
        });
        let shared = self.shared.clone();
        tokio::spawn(async move {
            for instance in &instances {
                instance.post(&shared, Command::Look);
                // Sockets are served before a task that gave way goes on.
                tokio::task::yield_now().await;
            }
            let all = async {
                for instance in &instances {
                    // Its sender is the instance's own: it does not go away.
                    let mut changes = instance.changes();
                    while !instance.view().looked && changes.changed().await.is_ok() {}
                }
            };
            if tokio::time::timeout(FIRST_LOOKS, all).await.is_err() {
                tracing::warn!("some instances cannot be looked at yet");
            }
            shared.is_looked.send_replace(true);
        });
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
        if config::wires(&record.wish.written).next().is_some() {
            instances.has_wires.store(true, Ordering::Release);
        }
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
}
