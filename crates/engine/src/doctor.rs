//! Every object on the host against everything that is remembered, in both directions.

use std::collections::{BTreeMap, BTreeSet};

use model::{Boot, InstanceId};

use crate::access::{Access, Object};
use crate::engine::Engine;
use crate::error::Result;

/// Something wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// Kind of object.
    pub kind: String,
    /// Which one.
    pub object: String,
    /// What about it.
    pub text: String,
    /// What to do.
    pub fix: String,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diagnosis {
    /// What was looked at: kind and how many.
    pub checks: Vec<(String, usize)>,
    /// What is wrong.
    pub findings: Vec<Wrong>,
    /// What is worth knowing about the host: what, and what to do.
    pub notes: Vec<(String, String)>,
}

pub(crate) const REPAIR: &str = "sysctl-cli doctor --repair";

impl Diagnosis {
    fn wrong(&mut self, kind: &str, object: impl ToString, text: &str) {
        let (kind, object, text, fix) = (kind.into(), object.to_string(), text.into(), REPAIR.into());
        self.findings.push(Wrong { kind, object, text, fix });
    }
}

impl Engine {
    /// Compares. Instances that are doing something are left out: what they have is on its way.
    pub async fn diagnose(&self, access: &dyn Access) -> Result<Diagnosis> {
        // What is under way comes first to an end, as far as that is soon.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(5), self.rest()).await;
        let inventory = access.inventory().await?;
        let mut diagnosis = Diagnosis { notes: inventory.notes, ..Diagnosis::default() };
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for object in &inventory.objects {
            *counts.entry(kind(object)).or_default() += 1;
        }
        self.check_host(&inventory.objects, &mut diagnosis);
        self.check_rows(&inventory.objects, &mut diagnosis);
        self.check_store(&mut diagnosis).await;
        for (kind, name, text) in &inventory.damage {
            diagnosis.wrong(kind, name, text);
        }
        counts.insert("instance", self.instances().len());
        diagnosis.checks = counts.into_iter().map(|(kind, count)| (kind.to_owned(), count)).collect();
        Ok(diagnosis)
    }

    /// Nothing on the host without a row.
    fn check_host(&self, objects: &[Object], diagnosis: &mut Diagnosis) {
        let views = self.instances();
        let ids: BTreeSet<InstanceId> = views.iter().map(|view| view.record.id).collect();
        let boots: BTreeSet<Boot> = views
            .iter()
            .filter_map(|view| Some(Boot { id: view.record.id, generation: view.record.wish.power.boot()? }))
            .collect();
        let links: BTreeSet<&str> = objects
            .iter()
            .filter_map(|o| if let Object::Link(_, name) = o { Some(name.as_str()) } else { None })
            .collect();
        let networks: BTreeSet<String> = self.networks().iter().map(|n| n.spec.name.to_string()).collect();
        for object in objects {
            let orphan = match object {
                Object::Group(boot) | Object::Keeper(boot) | Object::Link(boot, _) => !boots.contains(boot),
                Object::Guarded(port) => !links.contains(port.as_str()),
                Object::Root(id, root) => {
                    !ids.contains(id) || views.iter().any(|v| v.record.id == *id && v.record.wish.root != *root)
                }
                Object::Layer(fingerprint, pool) => {
                    let image =
                        self.images().iter().any(|i| i.facts.fingerprint == *fingerprint && i.pools.contains(pool));
                    !image && !self.shared.is_layer_used(*fingerprint, pool)
                }
                Object::Image(fingerprint) => !self.images().iter().any(|i| i.facts.fingerprint == *fingerprint),
                Object::Bridge(name) => !networks.contains(name),
                Object::Stray { .. } => true,
            };
            if orphan {
                diagnosis.wrong(kind(object), name(object), "is on the host and belongs to nothing");
            }
        }
    }

    /// Nothing in a row that is not on the host.
    fn check_rows(&self, objects: &[Object], diagnosis: &mut Diagnosis) {
        let there: BTreeSet<&Object> = objects.iter().collect();
        for view in self.instances() {
            let record = &view.record;
            let name = &record.name;
            if let Some(error) = &record.error {
                diagnosis.wrong("instance", name, &format!("could not be brought to its wish: {error}"));
            }
            if record.operation.is_some() || record.previous.is_some() {
                diagnosis.wrong("instance", name, "has an operation that does not end");
            }
            if !there.contains(&Object::Root(record.id, record.wish.root)) {
                diagnosis.wrong("instance", name, "has lost its root file system");
            }
            let Some(generation) = record.wish.power.boot() else { continue };
            let boot = Boot { id: record.id, generation };
            for (object, what) in [(Object::Group(boot), "control group"), (Object::Keeper(boot), "keeper")] {
                if !there.contains(&object) {
                    diagnosis.wrong("instance", name, &format!("should run and has no {what}"));
                }
            }
            let links = objects.iter().filter(|o| matches!(o, Object::Link(of, _) if *of == boot)).count();
            if links != record.wish.nics.len() {
                diagnosis.wrong("instance", name, &format!("has {links} links of {}", record.wish.nics.len()));
            }
        }
        for image in self.images() {
            if !there.contains(&Object::Image(image.facts.fingerprint)) {
                diagnosis.wrong("image", image.facts.fingerprint, "has lost its files");
            }
        }
        for network in self.networks() {
            if !there.contains(&Object::Bridge(network.spec.name.to_string())) {
                diagnosis.wrong("network", &network.spec.name, "has no bridge");
            }
        }
    }

    async fn check_store(&self, diagnosis: &mut Diagnosis) {
        let store = self.shared.store.clone();
        let path = store.path().display().to_string();
        let trouble = store.trouble().and_then(|trouble| trouble.borrow().clone());
        if let Some(error) = trouble {
            let fix = "it goes on by itself once the disk does".into();
            diagnosis.findings.push(Wrong {
                kind: "database".into(),
                object: path.clone(),
                text: error.to_string(),
                fix,
            });
        }
        match tokio::task::spawn_blocking(move || store.check()).await {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(text))) => diagnosis.wrong("database", path, &text),
            Ok(Err(error)) => diagnosis.wrong("database", path, &error.to_string()),
            Err(error) => diagnosis.wrong("database", path, &error.to_string()),
        }
        let unfinished = self.operations().list().into_iter().filter(|o| !o.status.is_final());
        for operation in unfinished.filter(|o| o.class == crate::Class::Task) {
            diagnosis.wrong("operation", operation.id, &format!("{:?} does not end", operation.description));
        }
    }
}

fn kind(object: &Object) -> &str {
    match object {
        Object::Group(_) => "control group",
        Object::Keeper(_) => "keeper",
        Object::Link(..) => "link",
        Object::Guarded(_) => "guarded link",
        Object::Root(..) => "root file system",
        Object::Layer(..) => "layer",
        Object::Image(_) => "image",
        Object::Bridge(_) => "bridge",
        Object::Stray { kind, .. } => kind,
    }
}

fn name(object: &Object) -> String {
    match object {
        Object::Group(boot) | Object::Keeper(boot) => boot.to_string(),
        Object::Link(_, name) | Object::Guarded(name) | Object::Bridge(name) => name.clone(),
        Object::Root(id, root) => format!("{id} ({root})"),
        Object::Layer(fingerprint, pool) => format!("{fingerprint} in {pool}"),
        Object::Image(fingerprint) => fingerprint.to_string(),
        Object::Stray { name, .. } => name.clone(),
    }
}
