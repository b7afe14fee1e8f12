//! Wires: NICs of two instances that are joined without an end on the host.
//!
//! One of the two names the other (`peer=INSTANCE:DEVICE`); the far end is implied, or defined there as well and names it
//! back. A wire is there while both run: each loop has it among the NICs of its wish for as long as the other is to run,
//! and makes it when it is not there, whichever comes first.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use config::{InstanceConfig, WireChoice};
use model::{DeviceName, InstanceName, Mac, NicId, NicSpec, Plug, WireEnd};

use crate::actor::Command;
use crate::catalog::Catalog;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::instances::Instances;
use crate::record::InstanceRecord;
use crate::shared::Shared;
use crate::verbs::Verb;
use crate::view::InstanceView;

/// An instance whose definition has a wire to a certain other one.
struct Declarer {
    view: Arc<InstanceView>,
    choice: WireChoice,
}

/// Everybody whose own devices have a wire to this instance; the same order each time.
fn declarers(instances: &Instances, to: &InstanceRecord) -> Vec<Declarer> {
    // Most daemons have no wire at all.
    if !instances.has_wires.load(Ordering::Acquire) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for instance in instances.by_id.values().filter(|instance| instance.id != to.id) {
        let view = instance.view();
        if view.record.project != to.project || !view.record.wish.exists {
            continue;
        }
        let leads_here = |choice: &WireChoice| choice.peer == to.name;
        let choices: Vec<WireChoice> = config::wires(&view.record.wish.written).filter(leads_here).collect();
        found.extend(choices.into_iter().map(|choice| Declarer { view: view.clone(), choice }));
    }
    found
}

/// Whether a definition has a device or link of that name that is no wire.
fn is_otherwise(config: &InstanceConfig, name: &DeviceName) -> bool {
    config.root.device == *name || config.nics.iter().any(|nic| nic.device == *name || nic.guest_name == name.as_str())
}

/// The end at an instance of a wire that somebody else declares: its own words about it, or none. `Err` with what else it has
/// there.
fn far_end(
    config: &InstanceConfig,
    name: &InstanceName,
    declarer: &InstanceName,
    choice: &WireChoice,
) -> std::result::Result<WireChoice, &'static str> {
    if let Some(own) = config.wires.iter().find(|own| own.device == choice.peer_device) {
        return if own.names_back(declarer, choice) && choice.peer == *name {
            Ok(own.clone())
        } else {
            Err("a wire that leads elsewhere")
        };
    }
    let is_link = |own: &WireChoice| own.guest_name == choice.peer_device.as_str();
    if is_otherwise(config, &choice.peer_device) || config.wires.iter().any(is_link) {
        return Err("a device or link of that name");
    }
    Ok(WireChoice::implied(choice.peer_device.clone(), declarer.clone(), choice.device.clone()))
}

/// The NICs at ends of wires that an instance is to have now: of those whose far end is to run as well.
pub(crate) fn nics(
    catalog: &Catalog,
    instances: &Instances,
    record: &InstanceRecord,
    config: &InstanceConfig,
) -> Vec<NicSpec> {
    if !instances.has_wires.load(Ordering::Acquire) || plan::refuse_nics(&config.grain).is_some() {
        return Vec::new();
    }
    let mut nics: Vec<NicSpec> = Vec::new();
    for choice in &config.wires {
        let Some(peer) = instances.named(&record.project, &choice.peer) else { continue };
        let Ok(theirs) = catalog.config(&peer.record.project, &peer.record.wish) else { continue };
        let is_first = |peer: &InstanceRecord| {
            let claim = declarers(instances, peer).into_iter().find(|d| d.choice.peer_device == choice.peer_device);
            claim.is_none_or(|claim| claim.view.record.id == record.id)
        };
        if peer.record.id == record.id || plan::refuse_nics(&theirs.grain).is_some() || !is_first(&peer.record) {
            continue;
        }
        if let Ok(far) = far_end(&theirs, &peer.record.name, &record.name, choice) {
            nics.extend(nic(record, choice, &peer.record, &far));
        }
    }
    for Declarer { view, choice } in declarers(instances, record) {
        let is_had = config.wires.iter().any(|own| own.device == choice.peer_device)
            || nics.iter().any(|nic| nic.device == choice.peer_device);
        let Ok(theirs) = catalog.config(&view.record.project, &view.record.wish) else { continue };
        if is_had || plan::refuse_nics(&theirs.grain).is_some() {
            continue;
        }
        if let Ok(near) = far_end(config, &record.name, &view.record.name, &choice) {
            nics.extend(nic(record, &near, &view.record, &choice));
        }
    }
    nics
}

fn nic(own: &InstanceRecord, near: &WireChoice, peer: &InstanceRecord, far: &WireChoice) -> Option<NicSpec> {
    let boot = peer.wish.power.boot().filter(|_| peer.wish.exists)?;
    let mac = |record: &InstanceRecord, end: &WireChoice| end.mac.unwrap_or_else(|| Mac::of(record.id, &end.device, 0));
    let end = WireEnd {
        to: NicId { id: peer.id, device: far.device.clone() },
        boot,
        guest_name: far.guest_name.clone(),
        mac: mac(peer, far),
        ipv4: far.ipv4,
        ipv6: far.ipv6,
    };
    Some(NicSpec {
        device: near.device.clone(),
        guest_name: near.guest_name.clone(),
        plug: Plug::Wire(Box::new(end)),
        mac: mac(own, near),
        // Both ends have the same: the smaller of those that are asked for.
        mtu: near.mtu.into_iter().chain(far.mtu).min(),
        ipv4: near.ipv4,
        ipv6: near.ipv6,
        gateway4: None,
        gateway6: None,
        spoofing: true,
        limits: model::NicLimits::default(),
    })
}

/// Refuses a definition whose wires lead nowhere or meet something else, at either end.
pub(crate) fn check(
    catalog: &Catalog,
    instances: &Instances,
    record: &InstanceRecord,
    config: &InstanceConfig,
) -> Result<()> {
    let wrong = |choice: &WireChoice, text: String| {
        Err(Error::Invalid(format!(
            "Invalid config: {}.peer = {}:{}: {text}",
            choice.device, choice.peer, choice.peer_device
        )))
    };
    for choice in &config.wires {
        let (peer, device) = (&choice.peer, &choice.peer_device);
        let Some(view) = instances.named(&record.project, peer) else {
            return wrong(choice, format!("there is no instance {peer}: create it first"));
        };
        let theirs = catalog.config(&view.record.project, &view.record.wish)?;
        if view.record.id == record.id {
            return wrong(choice, "a wire joins two instances".into());
        }
        if view.record.wish.ephemeral {
            return wrong(choice, format!("{peer} is deleted when it stops (ephemeral): make it permanent first"));
        }
        if let Some(reason) = plan::refuse_nics(&theirs.grain) {
            return wrong(choice, format!("{peer}: {reason}"));
        }
        if theirs.idle_freeze_ms.is_some() {
            return wrong(choice, format!("{peer}: {NOT_HEARD}"));
        }
        if let Err(what) = far_end(&theirs, peer, &record.name, choice) {
            return wrong(choice, format!("{peer} has {what} already: choose another name for the far end"));
        }
        let other = declarers(instances, &view.record);
        let other = other.iter().find(|d| d.choice.peer_device == *device && d.view.record.id != record.id);
        if let Some(other) = other {
            return wrong(choice, format!("a wire of {} leads there already", other.view.record.name));
        }
    }
    let here = declarers(instances, record);
    for Declarer { view, choice } in &here {
        if let Err(what) = far_end(config, &record.name, &view.record.name, choice) {
            let text = format!(
                "Invalid config: {}: the wire {} of {} ends there, beside {what}: give one of them another name",
                choice.peer_device, choice.device, view.record.name
            );
            return Err(Error::Invalid(text));
        }
    }
    if config.idle_freeze_ms.is_some() && !(config.wires.is_empty() && here.is_empty()) {
        return Err(Error::Invalid(format!("Invalid config: idle.freeze: {NOT_HEARD}")));
    }
    if !here.is_empty()
        && let Some(reason) = plan::refuse_nics(&config.grain)
    {
        let text = format!("{}, and a wire of {} leads to it", reason, here[0].view.record.name);
        return Err(Error::Invalid(text));
    }
    if !config.wires.is_empty() {
        instances.has_wires.store(true, Ordering::Release);
    }
    Ok(())
}

const NOT_HEARD: &str =
    "nobody hears on the host what comes over a wire, so it would not wake: take idle.freeze back, or the wire";

impl Shared {
    /// Refuses a verb that would take away an instance that somebody's link leads to.
    pub(crate) fn check_links(&self, before: &InstanceRecord, verb: &Verb, ephemeral: bool) -> Result<()> {
        self.check_wires(before, verb, ephemeral)?;
        self.check_chains(before, verb, ephemeral)
    }

    fn check_wires(&self, before: &InstanceRecord, verb: &Verb, ephemeral: bool) -> Result<()> {
        let what = match verb {
            // With both ends goes the wire.
            Verb::Delete if self.purging.load(Ordering::Acquire) => return Ok(()),
            Verb::Delete => "deleted",
            Verb::Update(_) | Verb::Patch(_) if ephemeral => "made ephemeral",
            _ => return Ok(()),
        };
        match declarers(&self.instances(), before).first() {
            None => Ok(()),
            Some(Declarer { view, choice }) => Err(Error::Conflict(format!(
                "{} can't be {what}: {} of {} is a wire to it; remove that device first",
                before.name, choice.device, view.record.name
            ))),
        }
    }

    /// Something of an instance changed: whoever is joined with it, or was, looks what that means for the wire.
    pub(crate) fn wake_wired(self: &Arc<Self>, record: &InstanceRecord) {
        let instances = self.instances();
        if !instances.has_wires.load(Ordering::Acquire) {
            return;
        }
        let names = |written: &config::Written, name: &InstanceName| config::wires(written).any(|w| w.peer == *name);
        for instance in instances.by_id.values().filter(|instance| instance.id != record.id) {
            let view = instance.view();
            let other = &view.record;
            let is_joined = view.seen().is_some_and(|seen| {
                seen.nics.values().any(|nic| nic.wire.as_ref().is_some_and(|wire| wire.to.id == record.id))
            });
            let is_near = other.project == record.project
                && (names(&other.wish.written, &record.name) || names(&record.wish.written, &other.name));
            if is_joined || is_near {
                instance.post(self, Command::Look);
            }
        }
    }
}

/// A wire as it was last seen: whose NICs it joins.
pub type Joined = [(InstanceName, DeviceName); 2];

impl Engine {
    /// The wires that there are, each once.
    pub fn wires(&self) -> Vec<Joined> {
        let mut wires = Vec::new();
        for view in self.instances() {
            for (device, nic) in view.seen().into_iter().flat_map(|seen| &seen.nics) {
                let far = nic.wire.as_ref().map(|wire| &wire.to).filter(|to| view.record.id < to.id);
                let name = far.and_then(|to| Some((self.name_of(to.id)?, to.device.clone())));
                wires.extend(name.map(|far| [(view.record.name.clone(), device.clone()), far]));
            }
        }
        wires
    }
}
