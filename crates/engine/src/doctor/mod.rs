//! Every object on the host against everything that is remembered, in both directions.
//!
//! What an instance, a network or an image under way has is on its way, and left out. What seems wrong is looked at a second
//! time a moment later, and told only when it still is: the kernel and our own helpers need moments to end.

mod claims;
mod host;
mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use model::InstanceId;

use crate::Class;
use crate::access::{Access, Cure, Damage, Inventory, Object};
use crate::actor::Command;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::record::{ImageRecord, NamespaceRecord, NetworkRecord};
use crate::view::InstanceView;

/// How long what is under way gets to come to its end before it is left out.
const REST: Duration = Duration::from_secs(5);

/// How long what ends by itself gets for it: a helper that lost its stream, a group whose last process died. A hundred times
/// what they take.
const AGAIN: Duration = Duration::from_millis(150);

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
    cure: Remedy,
}

/// What repairs something.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Remedy {
    Cure(Cure),
    Discard(Object),
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
    fn wrong(&mut self, kind: &str, object: impl ToString, text: impl Into<String>, cure: Cure) {
        let fix = match &cure {
            Cure::People(fix) => fix.clone(),
            _ => REPAIR.to_owned(),
        };
        let (kind, object, text) = (kind.to_owned(), object.to_string(), text.into());
        self.findings.push(Wrong { kind, object, text, fix, cure: Remedy::Cure(cure) });
    }

    fn orphan(&mut self, object: &Object) {
        self.findings.push(Wrong {
            kind: host::kind(object).to_owned(),
            object: host::name(object),
            text: "is on the host and belongs to nothing".into(),
            fix: REPAIR.into(),
            cure: Remedy::Discard(object.clone()),
        });
    }
}

/// What is remembered, and what of it is under way.
struct Rows {
    instances: Vec<Arc<InstanceView>>,
    under_way: BTreeSet<InstanceId>,
    images: Vec<ImageRecord>,
    images_under_way: bool,
    networks: Vec<NetworkRecord>,
    namespaces: Vec<NamespaceRecord>,
    namespaces_under_way: bool,
}

impl Rows {
    /// What is remembered and did not change since `before`.
    fn since(mut self, before: &Rows) -> Rows {
        let versions = |rows: &Rows| -> BTreeMap<InstanceId, u64> {
            rows.instances.iter().map(|view| (view.record.id, view.version)).collect()
        };
        let (then, now) = (versions(before), versions(&self));
        let changed = then.keys().chain(now.keys()).filter(|id| then.get(id) != now.get(id));
        self.under_way.extend(before.under_way.iter().chain(changed));
        self.namespaces_under_way |= before.namespaces_under_way || before.namespaces != self.namespaces;
        self.images_under_way |= before.images_under_way || before.images.len() != self.images.len();
        self
    }

    fn is_at_rest(&self, id: InstanceId) -> bool {
        !self.under_way.contains(&id)
    }

    fn at_rest(&self) -> impl Iterator<Item = &Arc<InstanceView>> {
        self.instances.iter().filter(|view| self.is_at_rest(view.record.id))
    }
}

impl Engine {
    /// Compares everything on the host with everything that is remembered.
    pub async fn diagnose(&self, access: &dyn Access) -> Result<Diagnosis> {
        let first = self.look(access).await?;
        if first.findings.is_empty() {
            return Ok(first);
        }
        tokio::time::sleep(AGAIN).await;
        let mut second = self.look(access).await?;
        second.findings.retain(|now| first.findings.iter().any(|f| (&f.kind, &f.object) == (&now.kind, &now.object)));
        Ok(second)
    }

    async fn look(&self, access: &dyn Access) -> Result<Diagnosis> {
        // What is under way comes first to an end, as far as that is soon.
        let _ = tokio::time::timeout(REST, self.rest()).await;
        let before = self.rows();
        let inventory = access.inventory().await?;
        let database = self.read_database().await?;
        let rows = self.rows().since(&before);
        let mut diagnosis = Diagnosis { notes: inventory.notes.clone(), ..Diagnosis::default() };
        self.check_host(&rows, &inventory.objects, &mut diagnosis);
        self.check_rows(&rows, &inventory, &mut diagnosis);
        claims::check(&rows, &database.claims, &mut diagnosis);
        self.check_operations(&rows, &mut diagnosis);
        let path = self.shared.store.path().display();
        let trouble = self.shared.store.trouble().and_then(|trouble| trouble.borrow().clone());
        if let Some(error) = trouble {
            let fix = "it goes on by itself once the disk does";
            diagnosis.wrong("database", path, error.to_string(), Cure::People(fix.into()));
        }
        if let Some(text) = &database.damage {
            diagnosis.wrong("database", self.shared.store.path().display(), text, Cure::Loop);
        }
        let told = |damage: &&Damage| {
            let about_images = matches!(damage.kind, host::IMAGE_FILE | host::POOL_FILE);
            damage.of.is_none_or(|id| rows.is_at_rest(id)) && !(about_images && rows.images_under_way)
        };
        for damage in inventory.damage.iter().filter(told) {
            diagnosis.wrong(damage.kind, &damage.object, &damage.text, damage.cure.clone());
        }
        diagnosis.checks = count(&inventory, &rows, database.claims.len());
        Ok(diagnosis)
    }

    fn rows(&self) -> Rows {
        let mut under_way = BTreeSet::new();
        self.shared.for_all(|instance| {
            if instance.is_busy() {
                under_way.insert(instance.id);
            }
        });
        let is_of_images = |o: &crate::OperationView| {
            o.class == Class::Task && !o.status.is_final() && !o.resources.contains_key("instances")
        };
        Rows {
            instances: self.instances(),
            under_way,
            images: self.images(),
            images_under_way: self.shared.images.is_busy() || self.operations().list().iter().any(is_of_images),
            networks: self.networks(),
            namespaces: self.namespaces(),
            namespaces_under_way: self.shared.namespaces.try_lock().is_err(),
        }
    }

    async fn read_database(&self) -> Result<Database> {
        // What ends an operation rides a commit that nobody waited for.
        let _ = self.settle().await;
        let store = self.shared.store.clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut claims = BTreeSet::new();
            for space in claims::SPACES {
                claims.extend(store.claims(space)?.into_iter().map(|(value, owner)| (space, value, owner)));
            }
            let damage = store.check().unwrap_or_else(|error| Some(error.to_string()));
            Ok::<_, store::TxnError>(Database { claims, damage })
        });
        Ok(read.await.map_err(|error| Error::Internal(error.to_string()))??)
    }

    /// Every operation is final, or somebody works on it.
    fn check_operations(&self, rows: &Rows, diagnosis: &mut Diagnosis) {
        let names: BTreeSet<String> =
            rows.at_rest().map(|view| format!("/1.0/instances/{}", view.record.name)).collect();
        let known: BTreeSet<String> =
            rows.instances.iter().map(|view| format!("/1.0/instances/{}", view.record.name)).collect();
        for operation in self.operations().list() {
            let about = operation.resources.get("instances").into_iter().flatten();
            let idle = |path: &String| names.contains(path) || !known.contains(path);
            if operation.class == Class::Task && !operation.status.is_final() && about.clone().any(idle) {
                let text = format!("{:?} does not end", operation.description);
                let fix = "restart the daemon: it goes on with what it can";
                diagnosis.wrong("operation", operation.id, text, Cure::People(fix.into()));
            }
        }
    }

    /// Makes a damaged database anew, looks at everything again, does what is to be done, and cures what no loop is about.
    /// Returns what is to be known about the new database.
    pub async fn repair(&self, access: &dyn Access) -> Result<Vec<String>> {
        let notes = self.rebuild().await?;
        self.ensure_objects().await;
        let stray = |wrong: &Wrong| match &wrong.cure {
            Remedy::Discard(Object::Group(boot) | Object::Keeper(boot) | Object::Link(boot, ..)) => Some(*boot),
            _ => None,
        };
        let boots = self.diagnose(access).await?.findings.iter().filter_map(stray).collect();
        access.search(&boots).await?;
        self.shared.for_all(|instance| instance.post(&self.shared, Command::Look));
        self.rest().await;
        let images_under_way = || self.rows().images_under_way;
        crate::sweep::run(&self.shared, &images_under_way).await?;
        for wrong in self.diagnose(access).await?.findings {
            let cured = match &wrong.cure {
                Remedy::Cure(Cure::Loop | Cure::People(_)) => Ok(()),
                Remedy::Cure(Cure::Remake(step)) => {
                    self.shared.host.apply(step, &|_| {}).await.map(drop).map_err(Error::from)
                }
                Remedy::Cure(Cure::Claims(ops)) => {
                    self.shared.submit_and_wait(store::Class::Settled, ops.clone()).await
                }
                Remedy::Cure(cure) => access.cure(cure).await.map_err(Error::from),
                Remedy::Discard(object) => access.discard(object).await.map_err(Error::from),
            };
            match cured {
                Ok(()) if matches!(wrong.cure, Remedy::Cure(Cure::Loop | Cure::People(_))) => {}
                Ok(()) => tracing::warn!(kind = wrong.kind, object = wrong.object, was = wrong.text, "repaired"),
                Err(error) => tracing::error!(kind = wrong.kind, object = wrong.object, %error, "not repaired"),
            }
        }
        Ok(notes)
    }
}

struct Database {
    claims: BTreeSet<(&'static str, String, String)>,
    damage: Option<String>,
}

/// What was looked at, by kind.
fn count(inventory: &Inventory, rows: &Rows, claims: usize) -> Vec<(String, usize)> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for object in &inventory.objects {
        *counts.entry(host::kind(object)).or_default() += 1;
    }
    for (kind, number) in &inventory.looked_at {
        *counts.entry(kind).or_default() += number;
    }
    counts.insert("instance", rows.instances.len());
    counts.insert("namespace", rows.namespaces.len());
    counts.insert("claim", claims);
    counts.into_iter().map(|(kind, count)| (kind.to_owned(), count)).collect()
}
