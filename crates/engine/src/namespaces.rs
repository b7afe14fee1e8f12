//! Namespace objects: namespaces that live on without an instance, until somebody deletes them.
//!
//! An object is a wish as an instance is one: its row says that there is a namespace, a pin on the host keeps it. After a
//! restart of the host, or when somebody took the pin away, the loop makes it again; whoever still lives in it keeps it the
//! same one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::{
    IdMap, InstanceId, NamespaceKind, NamespaceName, PinId, PinSeen, PinSource, PinSpec, Power, ProjectName, Step, Wish,
};
use plan::Object;
use store::{Class, Op};
use uuid::Uuid;

use crate::catalog::Catalog;
use crate::clock;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::events::{Happening, Lifecycle};
use crate::host::StepError;
use crate::objects::expect_tag;
use crate::pace::{TRIES, pause};
use crate::record::{NamespaceRecord, Record};
use crate::shared::Shared;

/// Most objects: each is an inode and a mount, which every mount namespace that is made copies; 4096 take it a millisecond.
const MAX_OBJECTS: usize = 4096;

/// Where the namespace of a new object comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// It is made.
    New,
    /// A running instance lives in it.
    Instance(ProjectName, String),
    /// It is at this path of the host.
    Path(String),
}

/// An object that somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewNamespace {
    /// Its kind.
    pub kind: NamespaceKind,
    /// Its name.
    pub name: NamespaceName,
    /// Words about it.
    pub description: String,
    /// It is at `/run/netns`, too.
    pub netns: bool,
    /// The object whose users have rights over it.
    pub users: Option<NamespaceName>,
    /// Where it comes from.
    pub origin: Origin,
}

/// What of an object can be changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NamespaceChange {
    /// Words about it.
    pub description: Option<String>,
    /// It is at `/run/netns`, too.
    pub netns: Option<bool>,
}

/// What gc removes, or would remove.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Garbage {
    /// Objects that nobody uses.
    pub objects: Vec<NamespaceRecord>,
    /// Pins that belong to nothing.
    pub pins: Vec<PinId>,
}

type Key = (NamespaceKind, NamespaceName);

fn key(record: &NamespaceRecord) -> Key {
    (record.kind, record.name.clone())
}

/// Its path in the API.
fn path(record: &NamespaceRecord) -> String {
    format!("/1.0/namespaces/{}", record.label())
}

impl NamespaceRecord {
    /// Its pin.
    pub fn pin(&self) -> PinId {
        PinId { of: self.id, kind: self.kind }
    }

    /// The pin of the users that have rights over it.
    pub fn users(&self) -> Option<PinId> {
        self.within.map(|of| PinId { of, kind: NamespaceKind::User })
    }

    fn source(&self) -> PinSource {
        match (&self.adopted, self.ids) {
            (Some(path), _) => PinSource::Path(path.clone()),
            (None, Some(ids)) => PinSource::Users(ids),
            (None, None) => PinSource::New(self.users()),
        }
    }

    /// What its pin should be.
    pub(crate) fn spec(&self) -> PinSpec {
        PinSpec { pin: self.pin(), source: self.source(), netns: self.netns.then(|| self.name.to_string()) }
    }

    /// Kind and name, for people and paths.
    pub fn label(&self) -> String {
        format!("{}/{}", self.kind.as_str(), self.name)
    }

    /// What it has that nobody else may have.
    pub(crate) fn claims(&self) -> Vec<Op> {
        let claim = |space, value| Op::Claim { space, value, owner: self.id.to_string() };
        let ids = self.ids.map(|ids| claim("ids", ids.base.to_string()));
        [claim("namespace-name", self.label())].into_iter().chain(ids).collect()
    }
}

impl Catalog {
    /// The objects that a definition names, as far as they exist.
    pub(crate) fn named_objects(&self, grain: &config::GrainChoice) -> BTreeMap<Key, Object> {
        let named = grain.objects().map(|(kind, name)| (kind, name.clone()));
        let object = |record: &NamespaceRecord| Object { pin: record.pin(), ids: record.ids, users: record.users() };
        named.filter_map(|key| Some((key.clone(), object(self.namespaces.get(&key)?)))).collect()
    }
}

impl Shared {
    fn pin_specs(&self) -> Vec<PinSpec> {
        let catalog = self.catalog();
        let mut specs: Vec<PinSpec> = catalog.namespaces.values().map(NamespaceRecord::spec).collect();
        // Users come before what is made in them.
        specs.sort_by_key(|spec| spec.pin.kind != NamespaceKind::User);
        specs
    }

    /// What there should be at pins and is not, as steps in their order; `only` these pins where they are given.
    pub(crate) fn missing_pins(&self, only: Option<&BTreeSet<PinId>>) -> Vec<Step> {
        let specs = self.pin_specs();
        if specs.is_empty() {
            return Vec::new();
        }
        let seen = self.host.pins();
        let is_whole = |spec: &PinSpec| seen.get(&spec.pin).is_some_and(|pin| pin.is_whole(spec.netns.as_deref()));
        let wanted = specs.into_iter().filter(|spec| only.is_none_or(|only| only.contains(&spec.pin)));
        wanted.filter(|spec| !is_whole(spec)).map(|spec| Step::PinNamespace { spec }).collect()
    }

    /// Before a guest is made that lives in objects, these are there.
    pub(crate) async fn ensure_pins(&self, wish: &Wish) -> std::result::Result<(), StepError> {
        let only: BTreeSet<PinId> = wish.spec.sandbox.namespaces.pins().collect();
        if only.is_empty() {
            return Ok(());
        }
        for step in self.missing_pins(Some(&only)) {
            self.host.apply(&step, &|_| {}).await?;
        }
        Ok(())
    }

    /// Pins that belong to nothing that is remembered. Those of an instance are minded by its own loop.
    pub(crate) fn surplus_pins(&self) -> Vec<PinId> {
        let wanted: BTreeSet<PinId> = self.pin_specs().into_iter().map(|spec| spec.pin).collect();
        let is_surplus = |pin: &PinId| !wanted.contains(pin) && !self.knows(InstanceId(pin.of));
        self.host.pins().into_keys().filter(is_surplus).collect()
    }

    fn tell_of_namespace(&self, action: &str, record: &NamespaceRecord) {
        let lifecycle = Lifecycle {
            action: action.to_owned(),
            source: path(record),
            context: Default::default(),
            requestor: None,
            name: record.name.to_string(),
        };
        self.events.tell("default", Happening::Lifecycle(lifecycle));
    }

    /// Refuses to let objects go together that somebody else needs.
    pub(crate) fn check_unused(&self, catalog: &Catalog, objects: &[NamespaceRecord]) -> Result<()> {
        let going: BTreeSet<String> = objects.iter().map(path).collect();
        for object in objects {
            let users = self.users_of(catalog, object);
            if let Some(user) = users.iter().find(|user| !going.contains(*user)) {
                let name = user.trim_start_matches("/1.0/");
                let text = format!("namespace {} is in use by {name}: change or delete that first", object.label());
                return Err(Error::Conflict(text));
            }
        }
        Ok(())
    }

    /// Who needs an object: instances whose definition names it or whose guest lives in it, and objects made in it.
    fn users_of(&self, catalog: &Catalog, object: &NamespaceRecord) -> Vec<String> {
        let mut users = Vec::new();
        for instance in self.instances().by_id.values() {
            let view = instance.view();
            let record = &view.record;
            let lives_there = record.pins.contains(&object.pin()) && record.wish.power != Power::Off;
            let names_it = || {
                let config = catalog.config(&record.project, &record.wish);
                config
                    .is_ok_and(|config| config.grain.objects().any(|(kind, name)| (kind, name.clone()) == key(object)))
            };
            if record.wish.exists && (lives_there || catalog.names_namespaces(record) && names_it()) {
                users.push(format!("/1.0/instances/{}", record.name));
            }
        }
        let within = catalog.namespaces.values().filter(|other| other.within == Some(object.id));
        users.extend(within.map(path));
        users.sort();
        users
    }
}

impl Engine {
    /// Every namespace object.
    pub fn namespaces(&self) -> Vec<NamespaceRecord> {
        self.shared.catalog().namespaces.values().cloned().collect()
    }

    /// One namespace object.
    pub fn namespace(&self, kind: NamespaceKind, name: &str) -> Result<NamespaceRecord> {
        let found = self.namespaces().into_iter().find(|object| object.kind == kind && object.name.as_str() == name);
        found.ok_or_else(|| Error::NotFound(format!("Namespace {}/{name} not found", kind.as_str())))
    }

    /// Paths of the API of whoever needs a namespace object.
    pub fn users_of_namespace(&self, object: &NamespaceRecord) -> Vec<String> {
        self.shared.users_of(&self.shared.catalog(), object)
    }

    /// Pins as they are on the host.
    pub fn pins(&self) -> BTreeMap<PinId, PinSeen> {
        self.shared.host.pins()
    }

    /// Makes a namespace object, or takes a namespace as one that there is already.
    pub async fn create_namespace(&self, new: NewNamespace) -> Result<NamespaceRecord> {
        self.shared.check_open()?;
        let _turn = self.shared.namespaces.lock().await;
        // Another object of the name is refused from here on; instances find it once its namespace is there.
        let (record, spec) = self.prepare_namespace(new)?;
        let made = self.shared.host.apply(&Step::PinNamespace { spec }, &|_| {}).await;
        let stored = match made {
            Ok(_) => {
                let ops = [record.put()].into_iter().chain(record.claims()).collect();
                self.shared.submit_and_wait(Class::Wish, ops).await
            }
            Err(error) => Err(error.into()),
        };
        if let Err(error) = stored {
            if let Some(ids) = record.ids {
                self.shared.catalog_mut().allocator.forget_ids(ids);
            }
            self.let_go(record.pin()).await;
            return Err(error);
        }
        self.shared.catalog_mut().namespaces.insert(key(&record), record.clone());
        self.shared.tell_of_namespace("namespace-created", &record);
        Ok(record)
    }

    /// The record of a new object, and its pin.
    pub(crate) fn prepare_namespace(&self, new: NewNamespace) -> Result<(NamespaceRecord, PinSpec)> {
        let kind = new.kind;
        let invalid = |text: &str| Err(Error::Invalid(format!("{}/{}: {text}", kind.as_str(), new.name)));
        if let Some(reason) = plan::refuse_object(kind) {
            return invalid(reason);
        }
        if kind == NamespaceKind::Time && !self.facts().time_namespaces {
            return invalid("this kernel has no time namespaces (CONFIG_TIME_NS)");
        }
        if new.netns && kind != NamespaceKind::Net {
            return invalid("only network namespaces are at /run/netns");
        }
        let is_new = new.origin == Origin::New;
        if kind == NamespaceKind::User && !is_new {
            return invalid(
                "which ids belong to that one nobody can tell for as long as an object lives: make a new one",
            );
        }
        if new.users.is_some() && (kind == NamespaceKind::User || !is_new) {
            return invalid("whose it is was decided when it was made: user_namespace is for new ones of other kinds");
        }
        let mut catalog = self.shared.catalog_mut();
        if catalog.namespaces.contains_key(&(kind, new.name.clone())) {
            return Err(Error::Conflict(format!("Namespace {}/{} already exists", kind.as_str(), new.name)));
        }
        if catalog.namespaces.len() >= MAX_OBJECTS {
            return Err(Error::Conflict(format!(
                "there are {MAX_OBJECTS} namespaces: `sysctl-cli ns gc` removes unused ones"
            )));
        }
        let within = new.users.as_ref().map(|name| {
            let users = catalog.namespaces.get(&(NamespaceKind::User, name.clone()));
            users.map(|users| users.id).ok_or_else(|| Error::NotFound(format!("Namespace user/{name} not found")))
        });
        let within = within.transpose()?;
        let (adopted, source) = match new.origin {
            Origin::New => (None, None),
            Origin::Path(path) => (Some(path), None),
            Origin::Instance(project, name) => {
                let view = self.instance(&project, &name)?;
                if view.pid().is_none() {
                    return Err(Error::Invalid(format!("{name} does not run: it has no namespaces to adopt")));
                }
                (None, Some(PinSource::Instance(view.record.id)))
            }
        };
        let ids = (kind == NamespaceKind::User).then(|| catalog.allocator.ids(IdMap::ORDINARY)).transpose()?;
        let record = NamespaceRecord {
            id: Uuid::new_v4(),
            kind,
            name: new.name,
            description: new.description,
            netns: new.netns,
            ids,
            within,
            adopted,
            created_ms: clock::now_ms(),
        };
        // Where it comes from is not always so.
        let spec = PinSpec { source: source.unwrap_or_else(|| record.source()), ..record.spec() };
        Ok((record, spec))
    }

    /// An object as it is, and as a change would leave it.
    pub(crate) fn changed_namespace(
        &self,
        kind: NamespaceKind,
        name: &str,
        change: NamespaceChange,
        expect: Option<String>,
    ) -> Result<(NamespaceRecord, NamespaceRecord)> {
        let before = self.namespace(kind, name)?;
        expect_tag(expect, crate::etag::of(&(&before.description, before.netns)))?;
        let netns = change.netns.unwrap_or(before.netns);
        if netns && kind != NamespaceKind::Net {
            return Err(Error::Invalid(format!("{}: only network namespaces are at /run/netns", before.label())));
        }
        let description = change.description.unwrap_or_else(|| before.description.clone());
        let after = NamespaceRecord { description, netns, ..before.clone() };
        Ok((before, after))
    }

    /// Describes a namespace object anew, or puts it at `/run/netns` or takes it from there.
    pub async fn change_namespace(
        &self,
        kind: NamespaceKind,
        name: &str,
        change: NamespaceChange,
        expect: Option<String>,
    ) -> Result<()> {
        self.shared.check_open()?;
        let _turn = self.shared.namespaces.lock().await;
        let (before, after) = self.changed_namespace(kind, name, change, expect)?;
        let moves = before.netns != after.netns;
        let pin = |record: &NamespaceRecord| Step::PinNamespace { spec: record.spec() };
        if moves {
            self.shared.host.apply(&pin(&after), &|_| {}).await?;
        }
        if let Err(error) = self.shared.submit_and_wait(Class::Wish, vec![after.put()]).await {
            if moves && let Err(error) = self.shared.host.apply(&pin(&before), &|_| {}).await {
                tracing::warn!(namespace = before.label(), %error, "is not as it was before");
            }
            return Err(error);
        }
        self.shared.catalog_mut().namespaces.insert(key(&after), after.clone());
        self.shared.tell_of_namespace("namespace-updated", &after);
        Ok(())
    }

    /// Deletes a namespace object that nobody uses.
    pub async fn delete_namespace(&self, kind: NamespaceKind, name: &str) -> Result<()> {
        self.shared.check_open()?;
        let _turn = self.shared.namespaces.lock().await;
        self.remove_namespaces(&[self.namespace(kind, name)?]).await
    }

    /// Removes objects together: all of them or none.
    async fn remove_namespaces(&self, objects: &[NamespaceRecord]) -> Result<()> {
        {
            // Nobody can begin to use them from here on.
            let mut catalog = self.shared.catalog_mut();
            self.shared.check_unused(&catalog, objects)?;
            objects.iter().for_each(|object| drop(catalog.namespaces.remove(&key(object))));
        }
        let ops = objects.iter().flat_map(|o| [o.delete(), Op::ReleaseAll { owner: o.id.to_string() }]).collect();
        if let Err(error) = self.shared.submit_and_wait(Class::Frees, ops).await {
            self.shared.catalog_mut().namespaces.extend(objects.iter().map(|object| (key(object), object.clone())));
            return Err(error);
        }
        for object in objects {
            self.let_go(object.pin()).await;
            if let Some(ids) = object.ids {
                self.shared.catalog_mut().allocator.forget_ids(ids);
            }
            self.shared.tell_of_namespace("namespace-deleted", object);
        }
        Ok(())
    }

    /// What was decided to go is tried a few times; what still stays goes at the next start, by gc or `doctor --repair`.
    async fn let_go(&self, pin: PinId) {
        for attempt in 1..=TRIES {
            match self.shared.host.apply(&Step::UnpinNamespace { pin }, &|_| {}).await {
                Ok(_) => return,
                Err(error) => tracing::error!(%error, %pin, attempt, "not let go yet"),
            }
            tokio::time::sleep(pause(attempt)).await;
        }
    }

    /// Deletes the objects that nobody uses, and lets pins go that belong to nothing; with `dry_run` only tells which.
    pub async fn collect_namespaces(&self, dry_run: bool) -> Result<Garbage> {
        self.shared.check_open()?;
        let _turn = self.shared.namespaces.lock().await;
        let mut garbage = Garbage { pins: self.shared.surplus_pins(), ..Garbage::default() };
        let mut candidates = self.namespaces();
        // What was made in the users of an object is unused before these are.
        candidates.sort_by_key(|object| object.kind == NamespaceKind::User);
        for object in candidates {
            let going: BTreeSet<String> = garbage.objects.iter().map(path).collect();
            if self.users_of_namespace(&object).iter().all(|user| going.contains(user)) {
                garbage.objects.push(object);
            }
        }
        if !dry_run {
            for pin in &garbage.pins {
                self.shared.host.apply(&Step::UnpinNamespace { pin: *pin }, &|_| {}).await?;
            }
            self.remove_namespaces(&garbage.objects).await?;
        }
        Ok(garbage)
    }
}

/// Pins that belong to nothing go: begun by a daemon that died before its commit, or left by a deletion.
pub(crate) async fn sweep(shared: &Arc<Shared>) {
    let _turn = shared.namespaces.lock().await;
    for pin in shared.surplus_pins() {
        tracing::warn!(%pin, "letting a namespace go that belongs to nothing");
        if let Err(error) = shared.host.apply(&Step::UnpinNamespace { pin }, &|_| {}).await {
            tracing::error!(%pin, %error, "not let go");
        }
    }
}
