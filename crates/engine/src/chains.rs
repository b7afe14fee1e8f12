//! Chains: networks of functions between a bridge and one NIC.
//!
//! A chain is a row, and what follows from it: a few more NICs in the wishes of its functions, another way for the NIC at its
//! end, and one network on the host whose patches say where packets go. Each part is brought about by the loop that brings
//! about all others; here is only what is decided, and in which order, so that nothing is lost on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use config::{ChainChoice, InstanceConfig, Map, NicChoice};
use model::{
    ChainSpec, DeviceName, Hop, InstanceId, InstanceName, Mac, NetworkName, NetworkSpec, NicId, NicSpec, OnFailure,
    Plug, ProjectName, Step,
};
use store::Class;

use crate::actor::Command;
use crate::catalog::Catalog;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::events::{Happening, Lifecycle};
use crate::host::Survey;
use crate::instances::Instances;
use crate::objects::expect_tag;
use crate::pace::{TRIES, pause};
use crate::record::{InstanceRecord, NetworkRecord, Record};
use crate::shared::Shared;
use crate::verbs::Verb;

/// Most chains: an uplink and a table's worth of rules each.
const MAX_CHAINS: usize = 256;

/// How long a change of a chain waits for its members to have their links: each takes some milliseconds.
const LINKS_PATIENCE: Duration = Duration::from_secs(10);

/// A chain that somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewNetwork {
    /// Its name.
    pub name: NetworkName,
    /// Words about it.
    pub description: String,
    /// Its keys.
    pub config: Map,
}

impl NetworkRecord {
    /// What it is, when it is a chain.
    pub fn chain(&self) -> Option<&ChainSpec> {
        self.spec.chain.as_ref()
    }
}

impl Catalog {
    fn chains(&self) -> impl Iterator<Item = (&NetworkName, &ChainSpec)> {
        self.networks.iter().filter_map(|(name, record)| Some((name, record.chain()?)))
    }

    /// The chains whose packets go through an instance, and what becomes of them without it.
    pub(crate) fn passing(&self, id: InstanceId) -> Vec<(NetworkName, OnFailure)> {
        let through = |chain: &ChainSpec| chain.hops.iter().any(|hop| hop.function == id && !hop.bypassed);
        self.chains()
            .filter(|(_, chain)| through(chain))
            .map(|(name, chain)| (name.clone(), chain.on_failure))
            .collect()
    }

    /// What a NIC on a network leads to: that, or the chain that ends at it.
    pub(crate) fn plug(&self, id: InstanceId, choice: &NicChoice) -> Plug {
        let network = choice.network.clone();
        let ends_here =
            |chain: &ChainSpec| chain.to.id == id && chain.to.device == choice.device && chain.from == network;
        match self.chains().find(|(_, chain)| ends_here(chain)) {
            Some((name, _)) => Plug::Chain(name.clone()),
            None => Plug::Network(network),
        }
    }

    /// The NICs that an instance has as a function of chains.
    pub(crate) fn chain_nics(&self, id: InstanceId) -> Vec<NicSpec> {
        let mut nics = Vec::new();
        for (name, chain) in self.chains() {
            for nic in chain.hops.iter().filter(|hop| hop.function == id).flat_map(Hop::nics) {
                nics.push(NicSpec {
                    guest_name: nic.device.to_string(),
                    mac: Mac::of(id, &nic.device, 0),
                    device: nic.device,
                    plug: Plug::Chain(name.clone()),
                    mtu: self.networks.get(&chain.from).and_then(|network| network.spec.mtu),
                    ipv4: None,
                    ipv6: None,
                    gateway4: None,
                    gateway6: None,
                    spoofing: true,
                    limits: model::NicLimits::default(),
                });
            }
        }
        nics
    }

    /// The chain that an instance has a part in.
    fn chain_of(&self, id: InstanceId) -> Option<(&NetworkName, &ChainSpec)> {
        self.chains().find(|(_, chain)| chain.nics().any(|nic| nic.id == id))
    }
}

fn members(chain: &ChainSpec) -> impl Iterator<Item = InstanceId> {
    chain.nics().map(|nic| nic.id)
}

fn invalid(key: &str, text: impl std::fmt::Display) -> Error {
    Error::Invalid(format!("Invalid config: {key}: {text}"))
}

/// A chain as the host is told of it, everything checked. `own`: its name.
fn resolve(catalog: &Catalog, instances: &Instances, own: &NetworkName, choice: &ChainChoice) -> Result<ChainSpec> {
    let project = ProjectName::default();
    let find = |key: &str, name: &InstanceName| {
        let view = instances.named(&project, name).filter(|view| view.record.wish.exists);
        let view = view.ok_or_else(|| invalid(key, format!("there is no instance {name}: create it first")))?;
        if view.record.wish.ephemeral {
            let text = format!("{name} is deleted when it stops (ephemeral): make it permanent first");
            return Err(invalid(key, text));
        }
        let config = catalog.config(&view.record.project, &view.record.wish)?;
        match plan::refuse_nics(&config.grain) {
            Some(reason) => Err(invalid(key, format!("{name}: {reason}"))),
            None => Ok((view, config)),
        }
    };
    let (name, device) = &choice.to;
    let (end, config) = find("chain.to", name)?;
    let nic = config.nics.iter().find(|nic| nic.device == *device);
    let nic = nic.ok_or_else(|| invalid("chain.to", format!("{name} has no NIC {device} on a network")))?;
    let from = choice.from.clone().unwrap_or_else(|| nic.network.clone());
    if nic.network != from {
        return Err(invalid(
            "chain.from",
            format!("{device} of {name} is on {}, so the chain begins there", nic.network),
        ));
    }
    let to = NicId { id: end.record.id, device: device.clone() };
    let mut hops = Vec::new();
    for function in &choice.functions {
        let (view, config) = find("chain.functions", &function.name)?;
        if view.record.id == to.id {
            return Err(invalid("chain.functions", format!("{} is the end of the chain", function.name)));
        }
        for link in [&function.inward, &function.outward] {
            refuse_taken(&config, link)
                .map_err(|text| invalid("chain.functions", format!("{}: {text}", function.name)))?;
        }
        hops.push(Hop {
            function: view.record.id,
            inward: function.inward.clone(),
            outward: function.outward.clone(),
            bypassed: function.bypassed,
        });
    }
    let chain = ChainSpec { from, to, hops, on_failure: choice.on_failure };
    for (name, other) in catalog.chains().filter(|(name, _)| *name != own) {
        if let Some(nic) = other.nics().find(|nic| chain.nics().any(|own| own == *nic)) {
            let instance = instances.by_id.get(&nic.id).map(|instance| instance.view().record.name.to_string());
            let text = format!("{} of {} has a part in chain {name} already", nic.device, instance.unwrap_or_default());
            return Err(invalid("chain", text));
        }
    }
    Ok(chain)
}

/// Refuses a link of a function that its own definition has already.
fn refuse_taken(config: &InstanceConfig, link: &DeviceName) -> std::result::Result<(), String> {
    let of_nic = |nic: &NicChoice| nic.device == *link || nic.guest_name == link.as_str();
    let of_wire = |wire: &config::WireChoice| wire.device == *link || wire.guest_name == link.as_str();
    if config.root.device == *link || config.nics.iter().any(of_nic) || config.wires.iter().any(of_wire) {
        return Err(format!("it has a device or link {link} already: name others, like FUNCTION:lan/wan"));
    }
    Ok(())
}

/// Refuses a definition that does not go with the part that the instance has in chains.
pub(crate) fn check(catalog: &Catalog, record: &InstanceRecord, config: &InstanceConfig) -> Result<()> {
    for (name, chain) in catalog.chains() {
        let wrong =
            |text: String| Err(Error::Invalid(format!("Invalid config: it has a part in chain {name}: {text}")));
        let mine: Vec<NicId> = chain.nics().filter(|nic| nic.id == record.id).collect();
        if mine.is_empty() {
            continue;
        }
        if let Some(reason) = plan::refuse_nics(&config.grain) {
            return wrong(reason.to_owned());
        }
        for nic in mine {
            if nic != chain.to {
                refuse_taken(config, &nic.device).or_else(wrong)?;
            } else if !config.nics.iter().any(|own| own.device == nic.device && own.network == chain.from) {
                return wrong(format!(
                    "its device {} must be a NIC on {}; change or delete the chain first",
                    nic.device, chain.from
                ));
            }
        }
    }
    Ok(())
}

impl Shared {
    /// Refuses a verb that would take a member away.
    pub(crate) fn check_chains(&self, before: &InstanceRecord, verb: &Verb, ephemeral: bool) -> Result<()> {
        let what = match verb {
            Verb::Delete if self.purging.load(Ordering::Acquire) => return Ok(()),
            Verb::Delete => "deleted",
            Verb::Update(_) | Verb::Patch(_) if ephemeral => "made ephemeral",
            _ => return Ok(()),
        };
        let catalog = self.catalog();
        match catalog.chain_of(before.id) {
            None => Ok(()),
            Some((chain, _)) => Err(Error::Conflict(format!(
                "{} can't be {what}: it has a part in chain {chain}; remove it from there first",
                before.name
            ))),
        }
    }

    /// Members of chains look at the host; returns once they have, or after a while.
    async fn settle_members(self: &Arc<Self>, ids: BTreeSet<InstanceId>) {
        let members: Vec<_> = {
            let instances = self.instances();
            ids.iter().filter_map(|id| instances.by_id.get(id).cloned()).collect()
        };
        for member in &members {
            member.post(self, Command::Look);
        }
        let all = async {
            for member in &members {
                let mut changes = member.changes();
                while member.is_busy() {
                    // Whoever works shows what comes of it; the last of it may be shown before it rests.
                    let _ = tokio::time::timeout(Duration::from_millis(2), changes.changed()).await;
                }
            }
        };
        if tokio::time::timeout(LINKS_PATIENCE, all).await.is_err() {
            tracing::warn!("members of a chain do not have their links yet");
        }
    }

    async fn apply_chain(&self, record: &NetworkRecord, chain: ChainSpec) -> Result<()> {
        let network = NetworkSpec { chain: Some(chain), ..record.spec.clone() };
        self.host.apply(&Step::EnsureNetwork { network }, &|_| {}).await?;
        Ok(())
    }

    fn tell_of_network(&self, action: &str, record: &NetworkRecord) {
        let name = record.spec.name.to_string();
        let source = format!("/1.0/networks/{name}");
        let lifecycle =
            Lifecycle { action: action.to_owned(), source, context: BTreeMap::new(), requestor: None, name };
        self.events.tell("default", Happening::Lifecycle(lifecycle));
    }

    /// Where the end runs and packets must not pass a function by, one that does not run would cut it off.
    fn refuse_cut(&self, chain: &ChainSpec, is_new: impl Fn(&Hop) -> bool) -> Result<()> {
        let runs = |id| self.view_of(id).is_some_and(|view| view.pid().is_some());
        if chain.on_failure == OnFailure::Bypass || !runs(chain.to.id) {
            return Ok(());
        }
        match chain.hops.iter().find(|hop| !hop.bypassed && is_new(hop) && !runs(hop.function)) {
            None => Ok(()),
            Some(hop) => {
                let name = self.name_of(hop.function).map(|name| name.to_string()).unwrap_or_default();
                let text = format!(
                    "{name} does not run, and nothing would pass: start it first, or name it in chain.bypass until it does"
                );
                Err(invalid("chain.functions", text))
            }
        }
    }
}

impl Engine {
    pub(crate) fn chain_record(&self, name: &NetworkName) -> Result<NetworkRecord> {
        let record = self.shared.catalog().network(name)?.clone();
        if record.chain().is_none() {
            return Err(Error::Invalid(format!("Network {name} is a bridge, which can't be changed or deleted yet")));
        }
        Ok(record)
    }

    /// The record of a new chain, everything checked.
    pub(crate) fn new_chain(&self, new: NewNetwork) -> Result<NetworkRecord> {
        let choice = config::chain(&new.config)?;
        let record = {
            let catalog = self.shared.catalog();
            if catalog.networks.contains_key(&new.name) {
                return Err(Error::Conflict(format!("Network {} already exists", new.name)));
            }
            if catalog.chains().count() >= MAX_CHAINS {
                return Err(Error::Conflict(format!("there are {MAX_CHAINS} chains: delete one first")));
            }
            let chain = resolve(&catalog, &self.shared.instances(), &new.name, &choice)?;
            let mtu = catalog.network(&chain.from)?.spec.mtu;
            let (name, domain) = (new.name.clone(), String::new());
            let spec = NetworkSpec { name, ipv4: None, ipv6: None, nat: false, mtu, domain, chain: Some(chain) };
            NetworkRecord { spec, description: new.description, config: new.config }
        };
        record.chain().map_or(Ok(()), |chain| self.shared.refuse_cut(chain, |_| true))?;
        Ok(record)
    }

    /// Makes a chain. When this returns, packets take their way through it.
    pub async fn create_network(&self, new: NewNetwork) -> Result<()> {
        self.shared.check_open()?;
        let _turn = self.shared.chains.lock().await;
        let record = self.new_chain(new)?;
        let Some(chain) = record.chain().cloned() else { return Ok(()) };
        // Its uplink first, whose name may be taken; nothing takes that way yet, as its end has no part in it.
        let made = self.shared.apply_chain(&record, ChainSpec { hops: Vec::new(), ..chain.clone() }).await;
        let stored = match made {
            Ok(()) => self.shared.submit_and_wait(Class::Wish, vec![record.put()]).await,
            Err(error) => Err(error),
        };
        if let Err(error) = stored {
            self.remove_from_host(&record.spec.name).await;
            return Err(error);
        }
        let key = record.spec.name.clone();
        self.shared.catalog_mut().networks.insert(key, record.clone());
        if let Err(error) = self.carry_out(&record, None).await {
            self.undo(&record, None).await?;
            return Err(error);
        }
        self.shared.tell_of_network("network-created", &record);
        Ok(())
    }

    /// What is written down is brought about: links first, then the way.
    async fn carry_out(&self, record: &NetworkRecord, old: Option<&ChainSpec>) -> Result<()> {
        let Some(new) = record.chain() else { return Ok(()) };
        if let Some(old) = old {
            self.shared.apply_chain(record, plan::between(old, new)).await?;
        }
        // Functions have their links before the end is taken off the bridge: packets find all of the way at once.
        let functions = new.hops.iter().map(|hop| hop.function);
        self.shared.settle_members(functions.collect()).await;
        self.shared.apply_chain(record, new.clone()).await?;
        self.shared.settle_members(members(new).chain(old.into_iter().flat_map(members)).collect()).await;
        Ok(())
    }

    /// What the host refuses is not written down: everything is as it was before.
    async fn undo(&self, after: &NetworkRecord, before: Option<&NetworkRecord>) -> Result<()> {
        let (name, chain) = (&after.spec.name, after.chain());
        let Some(before) = before else {
            self.shared.submit_and_wait(Class::Frees, vec![after.delete()]).await?;
            self.shared.catalog_mut().networks.remove(name);
            self.shared.settle_members(chain.into_iter().flat_map(members).collect()).await;
            self.remove_from_host(name).await;
            return Ok(());
        };
        self.shared.submit_and_wait(Class::Settled, vec![before.put()]).await?;
        self.shared.catalog_mut().networks.insert(name.clone(), before.clone());
        if let Some(old) = before.chain()
            && let Err(error) = self.shared.apply_chain(before, old.clone()).await
        {
            tracing::error!(%name, %error, "is not as it was before");
        }
        self.shared.settle_members(chain.into_iter().flat_map(members).collect()).await;
        Ok(())
    }

    /// The records of a chain before and after a change, everything checked.
    pub(crate) fn changed_chain(
        &self,
        name: &NetworkName,
        description: Option<String>,
        config: Map,
        expect: Option<String>,
    ) -> Result<(NetworkRecord, NetworkRecord)> {
        let before = self.chain_record(name)?;
        expect_tag(expect, crate::etag::of(&(&before.config, &before.description)))?;
        let choice = config::chain(&config)?;
        let chain = resolve(&self.shared.catalog(), &self.shared.instances(), name, &choice)?;
        let old = before.chain();
        if old.is_some_and(|old| old.to != chain.to || old.from != chain.from) {
            let text = "where a chain begins and ends can't be changed: delete it and create another one";
            return Err(invalid("chain.to", text));
        }
        let was_on =
            |hop: &Hop| old.iter().flat_map(|old| &old.hops).any(|o| o.function == hop.function && !o.bypassed);
        self.shared.refuse_cut(&chain, |hop| !was_on(hop))?;
        let description = description.unwrap_or_else(|| before.description.clone());
        let spec = NetworkSpec { chain: Some(chain), ..before.spec.clone() };
        Ok((before, NetworkRecord { spec, description, config }))
    }

    /// Changes the keys of a chain, or the words about it. No packet is lost by that, but what waits for a guest to begin to
    /// pass it on.
    pub async fn change_network(
        &self,
        name: &NetworkName,
        description: Option<String>,
        config: Map,
        expect: Option<String>,
    ) -> Result<()> {
        self.shared.check_open()?;
        let _turn = self.shared.chains.lock().await;
        let (before, after) = self.changed_chain(name, description, config, expect)?;
        let old = before.chain().cloned();
        self.shared.submit_and_wait(Class::Wish, vec![after.put()]).await?;
        self.shared.catalog_mut().networks.insert(name.clone(), after.clone());
        if let Err(error) = self.carry_out(&after, old.as_ref()).await {
            self.undo(&after, Some(&before)).await?;
            return Err(error);
        }
        self.shared.tell_of_network("network-updated", &after);
        Ok(())
    }

    /// Deletes a chain: the NIC at its end is a port of the bridge again.
    pub async fn delete_network(&self, name: &NetworkName) -> Result<()> {
        self.shared.check_open()?;
        let _turn = self.shared.chains.lock().await;
        let record = self.chain_record(name)?;
        self.shared.submit_and_wait(Class::Frees, vec![record.delete()]).await?;
        self.shared.catalog_mut().networks.remove(name);
        if let Some(chain) = record.chain() {
            self.shared.settle_members(members(chain).collect()).await;
        }
        self.remove_from_host(name).await;
        self.shared.tell_of_network("network-deleted", &record);
        Ok(())
    }

    /// What was decided to go is tried a few times; what still stays is removed when the daemon starts the next time, or by
    /// `doctor --repair`.
    async fn remove_from_host(&self, name: &NetworkName) {
        for attempt in 1..=TRIES {
            match self.shared.host.apply(&Step::RemoveNetwork { name: name.clone() }, &|_| {}).await {
                Ok(_) => return,
                Err(error) => tracing::error!(%error, %name, attempt, "not removed yet"),
            }
            tokio::time::sleep(pause(attempt)).await;
        }
    }
}

/// Uplinks of chains that are not remembered go: begun by a daemon that died before its commit, or left by a deletion.
pub(crate) async fn sweep(shared: &Arc<Shared>, survey: &Survey) {
    let _turn = shared.chains.lock().await;
    for name in &survey.networks {
        if shared.catalog().networks.contains_key(name) {
            continue;
        }
        tracing::warn!(%name, "removing a network that was never promised");
        if let Err(error) = shared.host.apply(&Step::RemoveNetwork { name: name.clone() }, &|_| {}).await {
            tracing::error!(%name, %error, "not removed");
        }
    }
}
