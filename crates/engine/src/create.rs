//! New instances: their record, with everything that is given out to them.

use std::collections::BTreeMap;
use std::sync::Arc;

use config::Written;
use model::{
    BootGen, IdMap, InstanceId, InstanceName, Power, ProfileName, ProjectName, RootGen, RootSource, Step, StopKind,
};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::actor::{Accepted, Command, Instance};
use crate::catalog::ImageChoice;
use crate::clock;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::grants::grant_nics;
use crate::operations::{NewOperation, OperationView};
use crate::record::{InstanceRecord, WishState};
use crate::verbs::NewInstance;

impl Engine {
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
        let instances = self.shared.instances();
        let possible = crate::sharing::grain(&catalog, &instances, self.facts(), &record, &config).and_then(|grain| {
            crate::wires::check(&catalog, &instances, &record, &config)?;
            let wires = crate::wires::nics(&catalog, &instances, &record, &config);
            catalog.wish(&record, config, grain, (wires, self.facts()))
        });
        drop(instances);
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
