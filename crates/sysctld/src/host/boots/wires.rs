//! Links of guests. Those with an end on the host are known by that.
//!
//! Wires have both ends in guests, so they are looked for there, through the sockets that keepers hold in each.
//!
//! Only guests that ever had a wire are looked into: a file in the keeper's directory says so, for the next daemon too.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use ::network::link;
use engine::StepError;
use model::{Boot, DeviceName, NicLimits, NicSeen, NicSpec};
use runtime::protocol::phase;

use super::{Boots, words};
use crate::host::keeper::Keeper;
use crate::host::network::wire_of;

/// The end of a wire, as it is in a guest.
struct End {
    device: DeviceName,
    link: link::Link,
    seen: NicSeen,
}

impl Boots {
    pub(crate) async fn attach_nic(self: &Arc<Self>, boot: Boot, nic: &NicSpec) -> Result<(), StepError> {
        if nic.wire().is_some() {
            return self.attach_wire(boot, nic).await;
        }
        let keeper = self.keeper(boot).ok_or_else(|| engine::step_error("attach_nic", "there is no guest"))?;
        let attached = {
            let mut network = keeper.network().await?;
            let network = network.as_mut().ok_or_else(|| engine::step_error("attach_nic", "no way into the guest"))?;
            self.networks.attach(boot, nic, network).map_err(|e| words::because("attach_nic", &e))?
        };
        self.entries().entry(boot).or_default().nics.insert(nic.device.clone(), attached);
        Ok(())
    }

    pub(crate) async fn detach_nic(&self, boot: Boot, device: &DeviceName) -> Result<(), StepError> {
        let attached = self.entries().get_mut(&boot).and_then(|entry| entry.nics.remove(device));
        let Some(attached) = attached else { return self.detach_wire(boot, device).await };
        let running = self.keeper(boot).is_some_and(|k| k.state().phase == phase::RUNNING);
        if let Some(keeper) = self.keeper(boot).filter(|_| !running) {
            keeper.drop_network();
        }
        // Where the network outlives the guest the kernel takes nothing away by itself.
        let waits = running || !self.pins.of(boot.id).is_empty();
        self.networks.detach(attached, waits).await.map_err(|e| words::because("detach_nic", &e))
    }

    fn wired_mark(&self, boot: Boot) -> PathBuf {
        self.directory(boot).join("wired")
    }

    /// Whether a boot may have wires: it had one, or lives in a network that had.
    pub(super) fn may_be_wired(&self, boot: Boot) -> bool {
        self.entries().get(&boot).is_some_and(|entry| entry.wired) || !self.pins.of(boot.id).is_empty()
    }

    /// What a former daemon knew.
    pub(super) fn was_wired(&self, boot: Boot) -> bool {
        self.wired_mark(boot).exists()
    }

    /// Said before there is a wire, so that whoever comes after a crash looks for it.
    fn note_wired(&self, boot: Boot) -> Result<(), StepError> {
        if self.entries().get(&boot).is_some_and(|entry| entry.wired) {
            return Ok(());
        }
        std::fs::write(self.wired_mark(boot), "").map_err(|e| words::because("attach_nic", &e))?;
        self.entries().entry(boot).or_default().wired = true;
        Ok(())
    }

    /// The keeper of a boot that has a guest.
    fn keeper_of_guest(&self, boot: Boot) -> Option<Arc<Keeper>> {
        let has_guest = |keeper: &Arc<Keeper>| {
            let state = keeper.state();
            !state.lost && matches!(state.phase, phase::PREPARING | phase::READY | phase::RUNNING)
        };
        self.keeper(boot).filter(has_guest)
    }

    /// Joins two guests; not while one of them is not there yet, as its own start comes to it.
    async fn attach_wire(&self, boot: Boot, nic: &NicSpec) -> Result<(), StepError> {
        let Some(far) = nic.wire() else { return Ok(()) };
        let far_boot = Boot { id: far.to.id, generation: far.boot };
        let (near_keeper, far_keeper) = match (self.keeper_of_guest(boot), self.keeper_of_guest(far_boot)) {
            (Some(near), Some(far)) => (near, far),
            (None, _) => return Err(engine::step_error("attach_nic", "there is no guest")),
            (Some(_), None) => return Ok(()),
        };
        drop(near_keeper.network().await?);
        if far_keeper.network().await.is_err() {
            return Ok(());
        }
        // Whoever joins the same two at the same time takes them in the same order.
        let (mut near, mut far) = if boot < far_boot {
            let near = near_keeper.locked_network();
            (near, far_keeper.locked_network())
        } else {
            let far = far_keeper.locked_network();
            (near_keeper.locked_network(), far)
        };
        let (Some(near), Some(far)) = (near.as_mut(), far.as_mut()) else { return Ok(()) };
        let is_new = [boot, far_boot].map(|boot| !self.may_be_wired(boot));
        let cleared = self.networks.remove_stale(boot, nic, near, far, is_new);
        if cleared.is_ok() {
            self.note_wired(boot)?;
            self.note_wired(far_boot)?;
        }
        match cleared.and_then(|()| self.networks.join(boot, nic, near, far)) {
            // The far guest ended meanwhile, and its network with it.
            Err(_) if self.keeper_of_guest(far_boot).is_none() => Ok(()),
            joined => joined.map_err(|e| words::because("attach_nic", &e)),
        }
    }

    /// The ends of wires in a guest.
    async fn ends(&self, boot: Boot) -> Result<Vec<End>, StepError> {
        let Some(keeper) = self.keeper_of_guest(boot).filter(|_| self.may_be_wired(boot)) else {
            return Ok(Vec::new());
        };
        let mut network = match keeper.network().await {
            Ok(network) => network,
            // It ended while it was asked.
            Err(_) if self.keeper_of_guest(boot).is_none() => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let Some(network) = network.as_mut() else { return Ok(Vec::new()) };
        let links = self.networks.wires(network).map_err(|e| words::because("observe", &e))?;
        let end = |link: link::Link| {
            let (device, wire) = wire_of(link.alias.as_deref()?, boot.id)?;
            let (host_name, limits) = (String::new(), NicLimits::default());
            let seen = NicSeen { host_name, mac: link.mac, complete: true, wire: Some(wire), chained: false, limits };
            Some(End { device, link, seen })
        };
        Ok(links.into_iter().filter_map(end).collect())
    }

    /// The wires of a boot, by device.
    pub(super) async fn wires(&self, boot: Boot) -> Result<BTreeMap<DeviceName, NicSeen>, StepError> {
        Ok(self.ends(boot).await?.into_iter().map(|end| (end.device, end.seen)).collect())
    }

    /// Takes a wire off a guest, and so off the other one.
    async fn detach_wire(&self, boot: Boot, device: &DeviceName) -> Result<(), StepError> {
        let ends = self.ends(boot).await?;
        let Some(end) = ends.into_iter().find(|end| end.device == *device) else { return Ok(()) };
        let Some(keeper) = self.keeper_of_guest(boot) else { return Ok(()) };
        let mut network = keeper.locked_network();
        let Some(network) = network.as_mut() else { return Ok(()) };
        link::remove_guests(&mut network.socket, &end.link).map_err(|e| words::because("detach_nic", &e))
    }

    /// The wires of all guests that run, as far as they were ever looked at: whose, and what the link is called there.
    pub(in crate::host) fn all_wires(&self) -> Vec<(Boot, DeviceName, String)> {
        let wired: Vec<Boot> = self.entries().iter().filter(|(_, entry)| entry.wired).map(|(boot, _)| *boot).collect();
        let mut found = Vec::new();
        for boot in wired {
            let Some(keeper) = self.keeper_of_guest(boot) else { continue };
            let mut network = keeper.locked_network();
            let links = network.as_mut().and_then(|network| self.networks.wires(network).ok()).unwrap_or_default();
            for link in links {
                let end = link.alias.as_deref().and_then(|alias| wire_of(alias, boot.id));
                found.extend(end.map(|(device, _)| (boot, device, link.name)));
            }
        }
        found
    }
}
