//! Instances that share namespaces: who needs whom, who must run first, and what an owner's end means for the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use config::{InstanceConfig, JoinPolicy, ShareChoice};
use model::{BootGen, GuestSeen, HostFacts, InstanceId, InstanceName, NamespaceKind, Power, StopKind, Wish};
use plan::{Grain, Neighbours, Owner};
use tokio::sync::oneshot;

use crate::actor::{Command, Instance};
use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::host::{StepError, step_error};
use crate::instances::Instances;
use crate::operations::OperationView;
use crate::record::{InstanceRecord, Record, Telling, WishState};
use crate::shared::Shared;
use crate::verbs::Verb;
use crate::view::InstanceView;
use crate::worker::Worker;

/// Longest chain of instances that share with one another; a longer one is a mistake.
const MAX_CHAIN: usize = 8;

/// How long the start of an instance waits for those that it shares with, when these are on their way up themselves: as long
/// as a slow full system may take, since only its init must exist.
const OWNER_PATIENCE: Duration = Duration::from_secs(60);

/// Seconds that a guest has for its shutdown when whom it shares with has gone.
pub(crate) const FOLLOW_TIMEOUT_S: u32 = 30;

/// How long an owner's end at the daemon's own end waits for those in its namespaces: their shutdown, and a kill after it.
const SHARERS_PATIENCE: Duration = Duration::from_secs(FOLLOW_TIMEOUT_S as u64 + 5);

/// Decides which namespaces an instance gets new and which it shares.
pub(crate) fn grain(
    catalog: &Catalog,
    instances: &Instances,
    host: &HostFacts,
    record: &InstanceRecord,
    config: &InstanceConfig,
) -> Result<Grain> {
    resolve((catalog, instances, host), record, config, &mut vec![record.name.clone()])
}

fn resolve(
    all: (&Catalog, &Instances, &HostFacts),
    record: &InstanceRecord,
    config: &InstanceConfig,
    chain: &mut Vec<InstanceName>,
) -> Result<Grain> {
    let (catalog, instances, host) = all;
    let mut owners: BTreeMap<InstanceName, Owner> = BTreeMap::new();
    for name in config.grain.owners() {
        // Without one, `plan` says so with the key.
        let Some(view) = instances.named(&record.project, name) else { continue };
        if owners.contains_key(name) {
            continue;
        }
        let theirs = &view.record;
        if chain.contains(name) || chain.len() == MAX_CHAIN {
            chain.push(name.clone());
            return Err(Error::Invalid(circle(chain)));
        }
        if theirs.wish.ephemeral {
            let text = format!(
                "{name} is deleted when it stops (ephemeral), so no other instance can share its namespaces: make it \
                 permanent first"
            );
            return Err(Error::Invalid(text));
        }
        chain.push(name.clone());
        let grain = resolve(all, theirs, &catalog.config(&theirs.project, &theirs.wish)?, chain)?;
        chain.pop();
        let owner = Owner { id: theirs.id, ids: grain.ids, user_of: grain.user_of, namespaces: grain.namespaces };
        owners.insert(name.clone(), owner);
    }
    let refused =
        |refusal: plan::Refusal| Error::Invalid(format!("Invalid config: {}: {}", refusal.key, refusal.reason));
    let neighbours = Neighbours { owners, objects: catalog.named_objects(&config.grain) };
    plan::grain(&config.grain, (record.id, record.wish.ids), &neighbours, host).map_err(refused)
}

fn circle(chain: &[InstanceName]) -> String {
    let names: Vec<&str> = chain.iter().map(InstanceName::as_str).collect();
    format!("these instances share namespaces in a circle, or in too long a chain: {}", names.join(" → "))
}

/// Somebody who shares namespaces of an instance.
struct Sharer {
    instance: Arc<Instance>,
    view: Arc<InstanceView>,
    policy: JoinPolicy,
    kinds: BTreeSet<NamespaceKind>,
}

impl Sharer {
    fn is_to_run(&self) -> bool {
        self.view.record.wish.power.boot().is_some()
    }

    /// Kinds and name, for people.
    fn words(&self) -> (String, &InstanceName) {
        let kinds: Vec<&str> = self.kinds.iter().map(|kind| kind.as_str()).collect();
        // Its definition names none any more.
        let words = if kinds.is_empty() { "until its next start".to_owned() } else { kinds.join(", ") };
        (words, &self.view.record.name)
    }
}

/// Everybody whose definition names this instance, or whose present boot lives in its namespaces.
fn sharers(catalog: &Catalog, instances: &Instances, owner: &InstanceRecord) -> Vec<Sharer> {
    let mut sharers = Vec::new();
    for instance in instances.by_id.values() {
        let view = instance.view();
        let record = &view.record;
        // A boot lives in what it was begun with, whatever became of its definition since.
        let lives_there = record.joined.contains_key(&owner.id) && record.wish.power.boot().is_some();
        // Most share nothing, which is seen without reading their whole definition.
        let may =
            record.project == owner.project && record.wish.exists && (lives_there || catalog.names_namespaces(record));
        if !may || record.id == owner.id {
            continue;
        }
        let Ok(config) = catalog.config(&record.project, &record.wish) else { continue };
        let is_theirs = |choice: &ShareChoice| matches!(choice, ShareChoice::Instance(name) if *name == owner.name);
        let kinds: BTreeSet<_> =
            config.grain.shares.iter().filter(|(_, choice)| is_theirs(choice)).map(|(kind, _)| *kind).collect();
        if lives_there || !kinds.is_empty() {
            sharers.push(Sharer { instance: instance.clone(), policy: config.grain.policy, kinds, view });
        }
    }
    sharers
}

/// Refuses a new definition whose namespaces are not possible, or that changes those which somebody lives in.
pub(crate) fn check_change(
    catalog: &Catalog,
    instances: &Instances,
    host: &HostFacts,
    before: &InstanceRecord,
    wish: &WishState,
    config: &InstanceConfig,
) -> Result<()> {
    let after = InstanceRecord { wish: wish.clone(), ..before.clone() };
    let then = grain(catalog, instances, host, &after, config)?;
    let now = catalog.config(&before.project, &before.wish);
    if now.and_then(|now| grain(catalog, instances, host, before, &now)).is_ok_and(|now| now == then) {
        return Ok(());
    }
    let persists = |grain: &Grain| grain.namespaces.pins().any(|pin| pin.of == before.id.0);
    let had = catalog.config(&before.project, &before.wish);
    let had = had.and_then(|config| grain(catalog, instances, host, before, &config)).ok();
    if had.is_some_and(|had| persists(&had) && persists(&then) && had.ids != then.ids) {
        let text = "its network persists and belongs to the ids that it has: set namespaces.net.persist=false first, which \
                    lets that network go";
        return Err(Error::Conflict(text.into()));
    }
    if wish.power.boot().is_some() {
        let text = "namespaces are chosen when an instance starts: stop it first to change namespaces.* or its clocks";
        return Err(Error::Conflict(text.into()));
    }
    match sharers(catalog, instances, before).iter().find(|sharer| sharer.is_to_run()) {
        Some(sharer) => {
            let (kinds, name) = sharer.words();
            Err(Error::Conflict(format!("{name} runs in its namespaces ({kinds}): stop {name} first to change them")))
        }
        None => Ok(()),
    }
}

impl Shared {
    /// Everybody whose definition names this instance.
    fn sharers(&self, owner: &InstanceRecord) -> Vec<Sharer> {
        let catalog = self.catalog();
        sharers(&catalog, &self.instances(), owner)
    }

    /// Whether somebody's definition names this instance.
    pub(crate) fn is_shared(&self, owner: &InstanceRecord) -> bool {
        !self.sharers(owner).is_empty()
    }

    /// Those who run in an instance's namespaces by name, and what its end means for each.
    pub(crate) fn living_with(&self, owner: &InstanceRecord) -> BTreeMap<InstanceName, JoinPolicy> {
        let sharers = self.sharers(owner);
        let running = sharers.iter().filter(|sharer| sharer.is_to_run());
        running.map(|sharer| (sharer.view.record.name.clone(), sharer.policy)).collect()
    }

    /// Refuses a verb that would take namespaces away from somebody who needs them, or use some that are not there.
    /// `wish`: what the verb would lead to.
    pub(crate) fn check_sharing(&self, before: &InstanceRecord, verb: &Verb, wish: &WishState) -> Result<()> {
        match verb {
            Verb::Delete => self.check_unshared(before, "deleted"),
            Verb::Stop(_) if !wish.exists => self.check_unshared(before, "deleted, as it is ephemeral"),
            Verb::Update(_) | Verb::Patch(_) if wish.ephemeral => self.check_unshared(before, "made ephemeral"),
            Verb::Stop(_) => self.check_not_required(before),
            Verb::Restart(_) => {
                self.check_not_required(before)?;
                self.check_owners(&self.wish(before)?)
            }
            Verb::Start => self.check_owners(&self.wish(before)?),
            Verb::Update(_) | Verb::Patch(_) | Verb::Freeze | Verb::Thaw => Ok(()),
        }
    }

    fn check_unshared(&self, record: &InstanceRecord, what: &str) -> Result<()> {
        let sharers = self.sharers(record);
        let Some(sharer) = sharers.first() else { return Ok(()) };
        let (kinds, name) = sharer.words();
        let text = format!(
            "{} can't be {what}: {name} shares its namespaces ({kinds}); change or delete {name} first",
            record.name
        );
        Err(Error::Conflict(text))
    }

    fn check_not_required(&self, record: &InstanceRecord) -> Result<()> {
        let needs = |sharer: &Sharer| sharer.is_to_run() && sharer.policy == JoinPolicy::Require;
        let sharers = self.sharers(record);
        let Some(sharer) = sharers.iter().find(|sharer| needs(sharer)) else { return Ok(()) };
        let (kinds, name) = sharer.words();
        let text = format!(
            "{} shares its namespaces ({kinds}) with {name}, which runs: stop {name} first, or set its \
             namespaces.join.policy to stop-with or detach",
            record.name
        );
        Err(Error::Conflict(text))
    }

    /// Those it shares with must run, or be on their way.
    pub(crate) fn check_owners(&self, wish: &Wish) -> Result<()> {
        for id in wish.spec.sandbox.namespaces.owners() {
            let Some(owner) = self.view_of(id) else { continue };
            if owner.record.wish.power.boot().is_none() {
                let name = &owner.record.name;
                let text = format!("it shares namespaces of {name}, which does not run: start {name} first");
                return Err(Error::Conflict(text));
            }
        }
        Ok(())
    }

    /// Those it shares with, and the boots of theirs that are to run now.
    pub(crate) fn boots_of_owners(&self, wish: &Wish) -> BTreeMap<InstanceId, BootGen> {
        let boot = |id| Some((id, self.view_of(id)?.boot()?.generation));
        wish.spec.sandbox.namespaces.owners().into_iter().filter_map(boot).collect()
    }

    /// Waits until those it shares with run: after a start of the daemon everybody comes up at once. Their boots.
    async fn wait_for_owners(&self, wish: &Wish) -> std::result::Result<BTreeMap<InstanceId, BootGen>, StepError> {
        let mut boots = BTreeMap::new();
        for id in wish.spec.sandbox.namespaces.owners() {
            let gone = |text: &str| step_error("spawn", format!("it shares namespaces of an instance that {text}"));
            let owner = self.instances().by_id.get(&id).cloned().ok_or_else(|| gone("is gone"))?;
            let up = async {
                let mut changes = owner.changes();
                loop {
                    let view = owner.view();
                    match (view.record.wish.power.boot(), view.pid()) {
                        (None, _) => return Err(gone("does not run: start it first")),
                        (Some(boot), Some(_)) => return Ok(boot),
                        (Some(_), None) if view.record.error.is_some() => return Err(gone("could not be started")),
                        (Some(_), None) => drop(changes.changed().await),
                    }
                }
            };
            let boot =
                tokio::time::timeout(OWNER_PATIENCE, up).await.unwrap_or_else(|_| Err(gone("does not come up")))?;
            boots.insert(id, boot);
        }
        Ok(boots)
    }

    /// Stops those who asked to be stopped with an owner, before it stops itself.
    pub(crate) async fn stop_sharers(self: &Arc<Self>, record: &InstanceRecord) -> Result<()> {
        for sharer in self.sharers(record) {
            if sharer.policy != JoinPolicy::StopWith || !sharer.is_to_run() {
                continue;
            }
            let done = post(&sharer.instance, self, Verb::Stop(StopKind::Clean { timeout_s: FOLLOW_TIMEOUT_S }));
            let begun = done.await.unwrap_or_else(|_| Err(Error::Cancelled("the daemon is ending".into())))?;
            let ended = self.operations.wait(begun.id).await?;
            if !ended.error.is_empty() {
                let name = &sharer.view.record.name;
                return Err(Error::Conflict(format!(
                    "{name}, which stops with it, could not be stopped: {}",
                    ended.error
                )));
            }
        }
        Ok(())
    }

    /// An owner's boot has ended or is another one: whoever lives in its namespaces looks what that means for it.
    pub(crate) fn wake_sharers(self: &Arc<Self>, owner: &InstanceRecord) {
        for sharer in self.sharers(owner) {
            sharer.instance.post(self, Command::Look);
        }
    }

    /// What the end of those whose namespaces it lives in means for an instance, unless it keeps these alive: its wish
    /// follows, as it follows the guest's own end.
    pub(crate) fn follow(&self, view: &InstanceView) -> Option<(Power, Telling)> {
        let record = &view.record;
        record.wish.power.boot()?;
        if record.joined.is_empty() || self.halting.load(Ordering::Acquire) {
            return None;
        }
        let policy = self.catalog().config(&record.project, &record.wish).ok()?.grain.policy;
        if policy == JoinPolicy::Detach {
            return None;
        }
        for (id, joined) in &record.joined {
            // Nobody is deleted whom others name; one that is gone all the same is no reason to end anything.
            let owner = self.view_of(*id)?;
            let name = &owner.record.name;
            let (power, action, what) = match owner.record.wish.power.boot() {
                None => (Power::Off, "instance-shutdown", "was stopped"),
                // What does not run yet starts in the new boot's namespaces anyway.
                Some(boot) if boot != *joined && view.pid().is_some() => {
                    let boot = record.newest_boot.next();
                    (Power::On { boot, frozen: false }, "instance-restarted", "was started anew")
                }
                Some(_) => continue,
            };
            let why = format!("{name}, whose namespaces it shares, {what}");
            let context = [("cause".to_owned(), why.into())].into();
            return Some((power, Telling { action: action.into(), context, requestor: None, always: false }));
        }
        None
    }

    /// The name of an instance by its id.
    pub(crate) fn name_of(&self, id: InstanceId) -> Option<InstanceName> {
        self.view_of(id).map(|view| view.record.name.clone())
    }
}

impl Worker<'_> {
    /// Waits for those it shares with, has the objects there that it lives in, and notes which boots of theirs and which pins
    /// these are, if others than it was begun with. `keep`: nothing else will write that down.
    pub(crate) async fn join_owners(&self, wish: &Wish, keep: bool) -> std::result::Result<(), StepError> {
        let joined = self.shared.wait_for_owners(wish).await?;
        self.shared.ensure_pins(wish).await?;
        let pins = wish.spec.sandbox.namespaces.pins().collect();
        let record = self.record();
        if record.joined != joined || record.pins != pins {
            let record = InstanceRecord { joined, pins, ..record };
            self.set_record(&record);
            if keep {
                let kept = self.shared.submit_and_wait(store::Class::Settled, vec![record.put()]).await;
                kept.map_err(|error| {
                    step_error("spawn", format!("whom it shares with can't be written down: {error}"))
                })?;
            }
        }
        Ok(())
    }

    /// At the daemon's own end those who live in its namespaces end first.
    pub(crate) async fn wait_for_sharers(&self) {
        let is_alive = |view: &InstanceView| {
            view.observed.boots.values().any(|seen| matches!(seen.guest, GuestSeen::Running { .. }))
        };
        let all = async {
            for sharer in self.shared.sharers(&self.record()) {
                let mut changes = sharer.instance.changes();
                while is_alive(&sharer.instance.view()) {
                    drop(changes.changed().await);
                }
            }
        };
        if tokio::time::timeout(SHARERS_PATIENCE, all).await.is_err() {
            tracing::warn!(instance = %self.record().name, "ends before those who live in its namespaces");
        }
    }
}

fn post(instance: &Arc<Instance>, shared: &Arc<Shared>, verb: Verb) -> oneshot::Receiver<Result<OperationView>> {
    let (accepted, answer) = oneshot::channel();
    instance.post(shared, Command::Verb { verb, expect: None, requestor: None, accepted });
    answer
}
