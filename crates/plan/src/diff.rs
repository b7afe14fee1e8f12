//! What to do so that what is becomes what should be.

use model::{
    Boot, BootSeen, GroupSeen, GuestSeen, HostFacts, NamespaceKind, NicSeen, Observed, PinId, PinSource, PinSpec,
    Power, RootSource, Settings, Step, StopKind, Wish,
};

/// Which way is still open after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The loop may still go back to the former wish; the step may run while the wish is being committed.
    Prepare,
    /// From here on only forward; waits for the commit.
    Publish,
    /// Something that was is gone after it; waits for the commit.
    Discard,
}

/// Whether a step is a write or two to a guest's control groups, which can be taken back by another.
pub fn is_instant(step: &Step) -> bool {
    matches!(step, Step::SetLimits { .. } | Step::Freeze { .. } | Step::Thaw { .. })
}

/// The phase of a step.
pub fn phase_of(step: &Step) -> Phase {
    match step {
        Step::EnsureImage { .. }
        | Step::CreateRoot { .. }
        | Step::CreateGroup { .. }
        | Step::Spawn { .. }
        | Step::AttachNic { .. }
        | Step::SetLimits { .. }
        | Step::Freeze { .. }
        | Step::Thaw { .. }
        | Step::AdoptImage { .. }
        | Step::BuildImage { .. }
        | Step::UnpackLayer { .. }
        | Step::EnsurePool { .. }
        | Step::EnsureNetwork { .. }
        | Step::PinNamespace { .. } => Phase::Prepare,
        Step::Start { .. } => Phase::Publish,
        Step::Halt { .. }
        | Step::Kill { .. }
        | Step::DetachNic { .. }
        | Step::ReleaseKeeper { .. }
        | Step::RemoveGroup { .. }
        | Step::DiscardRoot { .. }
        | Step::RemoveLayer { .. }
        | Step::RemoveImage { .. }
        | Step::RemoveNetwork { .. }
        | Step::UnpinNamespace { .. } => Phase::Discard,
    }
}

/// The steps from `observed` to `wish`, in their order; none when nothing is to be done.
pub fn diff(wish: &Wish, observed: &Observed, facts: &HostFacts) -> Vec<Step> {
    let mut steps = Vec::new();
    let wanted = if wish.exists { wish.power.boot() } else { None };
    for (generation, seen) in &observed.boots {
        if Some(*generation) != wanted {
            end_boot(wish, Boot { id: wish.id, generation: *generation }, seen, &mut steps);
        }
    }
    if wish.exists {
        make_root(wish, observed, &mut steps);
        if let Power::On { boot, frozen } = wish.power {
            let boot = Boot { id: wish.id, generation: boot };
            pin_own(wish, observed, &mut steps);
            bring_up(wish, boot, frozen, observed.boots.get(&boot.generation), facts, &mut steps);
        }
    }
    for kind in observed.pins.keys() {
        let pin = PinId { of: wish.id.0, kind: *kind };
        if !wish.exists || !own_pins(wish).any(|wanted| wanted == pin) {
            steps.push(Step::UnpinNamespace { pin });
        }
    }
    // Roots last: a boot that still used one is gone by now.
    for root in observed.roots.iter().filter(|root| !wish.exists || **root != wish.root) {
        steps.push(Step::DiscardRoot { id: wish.id, root: *root, pool: wish.spec.pool.clone() });
    }
    steps
}

fn make_root(wish: &Wish, observed: &Observed, steps: &mut Vec<Step>) {
    if observed.roots.contains(&wish.root) {
        return;
    }
    if let RootSource::Image(fingerprint) = wish.source {
        steps.push(Step::EnsureImage { fingerprint, pool: wish.spec.pool.clone() });
    }
    let (id, root, pool, source) = (wish.id, wish.root, wish.spec.pool.clone(), wish.source);
    steps.push(Step::CreateRoot { id, root, pool, source });
}

/// Namespaces of its own that outlive its boots.
pub fn own_pins(wish: &Wish) -> impl Iterator<Item = PinId> {
    wish.spec.sandbox.namespaces.pins().filter(|pin| pin.of == wish.id.0)
}

/// Those are there before a guest is; and while it runs, should somebody take them away.
fn pin_own(wish: &Wish, observed: &Observed, steps: &mut Vec<Step>) {
    let users = PinId { of: wish.id.0, kind: NamespaceKind::User };
    let mut pins: Vec<PinId> = own_pins(wish).collect();
    // A network is made in the users that have rights over it.
    pins.sort_by_key(|pin| *pin != users);
    for pin in pins {
        let netns = (pin.kind == NamespaceKind::Net).then(|| wish.spec.name.to_string());
        if observed.pins.get(&pin.kind).is_some_and(|seen| seen.is_whole(netns.as_deref())) {
            continue;
        }
        let is_users = pin == users;
        let source = if is_users { PinSource::Users(wish.spec.sandbox.ids) } else { PinSource::New(Some(users)) };
        steps.push(Step::PinNamespace { spec: PinSpec { pin, source, netns } });
    }
}

/// Ends a boot and removes everything of it.
fn end_boot(wish: &Wish, boot: Boot, seen: &BootSeen, steps: &mut Vec<Step>) {
    let frozen = seen.group.as_ref().is_some_and(|group| group.frozen);
    match &seen.guest {
        GuestSeen::Running { .. } => {
            if let StopKind::Clean { timeout_s } = wish.stop {
                // What is held still cannot halt.
                steps.extend(frozen.then_some(Step::Thaw { boot }));
                steps.push(Step::Halt { boot, timeout_s });
            }
            steps.push(Step::Kill { boot });
        }
        GuestSeen::Prepared { .. } => steps.push(Step::Kill { boot }),
        // Its keeper is gone, so nobody can say that the group is empty.
        GuestSeen::Absent if !seen.keeper && seen.group.is_some() => steps.push(Step::Kill { boot }),
        // With others' processes around it init takes nobody along: its keeper sees to that, if it lives.
        GuestSeen::Ended(_) if !wish.spec.sandbox.namespaces.is_first() && seen.group.is_some() => {
            steps.push(Step::Kill { boot });
        }
        GuestSeen::Absent | GuestSeen::Ended(_) => {}
    }
    // A wire goes with the network that it ends in, and stays with one that persists.
    for (device, nic) in seen.nics.iter().filter(|(_, nic)| nic.wire.is_none()) {
        steps.push(Step::DetachNic { boot, device: device.clone(), host_name: nic.host_name.clone() });
    }
    if seen.keeper {
        steps.push(Step::ReleaseKeeper { boot });
    }
    if seen.group.is_some() {
        steps.push(Step::RemoveGroup { boot });
    }
}

/// What is not as it should be.
fn changed(wanted: Settings, seen: &Settings) -> Settings {
    wanted.into_iter().filter(|(knob, setting)| seen.get(knob) != Some(setting)).collect()
}

fn bring_up(wish: &Wish, boot: Boot, frozen: bool, seen: Option<&BootSeen>, facts: &HostFacts, steps: &mut Vec<Step>) {
    let guest = seen.map_or(&GuestSeen::Absent, |seen| &seen.guest);
    // The end of a wished boot changes the wish first (`react`).
    if matches!(guest, GuestSeen::Ended(_)) {
        return;
    }
    let settings = crate::settings(&wish.spec.limits, wish.id, facts);
    // One without a guest may have been killed, with the wish to stop forgotten: whoever is cloned into it would die. It is
    // made anew.
    let group = seen.filter(|_| *guest != GuestSeen::Absent).and_then(|seen| seen.group.as_ref());
    match group {
        None | Some(GroupSeen { complete: false, .. }) => {
            steps.push(Step::CreateGroup { boot, settings, owner: wish.spec.sandbox.ids.base });
        }
        Some(group) => {
            let settings = changed(settings, &group.settings);
            steps.extend((!settings.is_empty()).then_some(Step::SetLimits { boot, settings }));
        }
    }
    if *guest == GuestSeen::Absent {
        let (root, source, spec) = (wish.root, wish.source, Box::new(wish.spec.clone()));
        steps.push(Step::Spawn { boot, root, source, spec });
    }
    for nic in &wish.spec.nics {
        let seen = seen.and_then(|seen| seen.nics.get(&nic.device));
        let leads_there = |seen: &NicSeen| seen.wire == nic.wire_seen(boot.id);
        // Between a bridge and a chain a link is moved, which its guest does not notice.
        let is_in_place =
            |seen: &NicSeen| leads_there(seen) && (seen.chained, seen.limits) == (nic.is_chained(), nic.limits);
        if seen.is_some_and(|seen| seen.complete && is_in_place(seen)) {
            continue;
        }
        if let Some(seen) = seen.filter(|seen| !leads_there(seen)) {
            steps.push(Step::DetachNic { boot, device: nic.device.clone(), host_name: seen.host_name.clone() });
        }
        steps.push(Step::AttachNic { boot, nic: nic.clone() });
    }
    for (device, nic) in seen.iter().flat_map(|seen| &seen.nics) {
        if !wish.spec.nics.iter().any(|wanted| wanted.device == *device) {
            steps.push(Step::DetachNic { boot, device: device.clone(), host_name: nic.host_name.clone() });
        }
    }
    if !matches!(guest, GuestSeen::Running { .. }) {
        steps.push(Step::Start { boot });
    }
    match (frozen, group.is_some_and(|group| group.frozen)) {
        (true, false) => steps.push(Step::Freeze { boot }),
        (false, true) => steps.push(Step::Thaw { boot }),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use model::{BootGen, End, NicLimits, RootGen};

    use super::*;
    use crate::settings::tests::{facts, wish};

    fn names(wish: &Wish, observed: &Observed) -> Vec<&'static str> {
        diff(wish, observed, &facts()).iter().map(Step::name).collect()
    }

    fn running(wish: &Wish) -> Observed {
        let settings = crate::settings(&wish.spec.limits, wish.id, &facts());
        let nic = NicSeen {
            host_name: "v".into(),
            mac: None,
            complete: true,
            wire: None,
            chained: false,
            limits: NicLimits::default(),
        };
        let seen = BootSeen {
            keeper: true,
            guest: GuestSeen::Running { pid: 5 },
            group: Some(GroupSeen { frozen: false, settings, complete: true }),
            nics: wish.spec.nics.iter().map(|n| (n.device.clone(), nic.clone())).collect(),
        };
        Observed { roots: [wish.root].into(), boots: [(BootGen(1), seen)].into(), ..Observed::default() }
    }

    #[test]
    fn a_network_that_persists_is_pinned_after_its_users_and_stays_until_nobody_wants_it() {
        let mut wish = wish();
        let pin = |kind| PinId { of: wish.id.0, kind };
        let own = [NamespaceKind::Net, NamespaceKind::User].map(|kind| (kind, model::Share::Pin(pin(kind))));
        wish.spec.sandbox.namespaces.shares.extend(own);
        let pinned = |steps: &[Step]| -> Vec<NamespaceKind> {
            let pin = |step: &Step| if let Step::PinNamespace { spec } = step { Some(spec.pin.kind) } else { None };
            steps.iter().filter_map(pin).collect()
        };
        let steps = diff(&wish, &Observed::default(), &facts());
        assert_eq!(pinned(&steps), [NamespaceKind::User, NamespaceKind::Net]);
        let mut observed = running(&wish);
        assert_eq!(pinned(&diff(&wish, &observed, &facts())).len(), 2, "lost under a guest");
        let seen = |netns| model::PinSeen { inode: Some(7), netns };
        observed.pins.insert(NamespaceKind::User, seen(None));
        observed.pins.insert(NamespaceKind::Net, seen(Some(wish.spec.name.to_string())));
        assert_eq!(names(&wish, &observed), [""; 0]);
        let off = Wish { power: Power::Off, ..wish.clone() };
        assert_eq!(names(&off, &Observed { boots: Default::default(), ..observed.clone() }), [""; 0]);
        wish.spec.sandbox.namespaces.shares.clear();
        assert_eq!(names(&wish, &observed), ["unpin_namespace", "unpin_namespace"]);
    }

    #[test]
    fn a_group_whose_making_was_cut_short_is_made_again() {
        let mut observed = running(&wish());
        let seen = observed.boots.get_mut(&BootGen(1)).expect("boot");
        (seen.guest, seen.keeper) = (GuestSeen::Absent, false);
        seen.nics.clear();
        let group = seen.group.as_mut().expect("group");
        (group.complete, group.settings) = (false, Default::default());
        assert_eq!(names(&wish(), &observed), ["create_group", "spawn", "attach_nic", "start"]);
    }

    #[test]
    fn a_group_without_a_guest_is_made_anew_and_frozen_again() {
        let frozen = Wish { power: Power::On { boot: BootGen(1), frozen: true }, ..wish() };
        let mut observed = running(&wish());
        let seen = observed.boots.get_mut(&BootGen(1)).expect("boot");
        (seen.guest, seen.keeper) = (GuestSeen::Absent, false);
        seen.nics.clear();
        assert_eq!(names(&wish(), &observed), ["create_group", "spawn", "attach_nic", "start"]);
        let group = observed.boots.get_mut(&BootGen(1)).and_then(|seen| seen.group.as_mut());
        group.expect("group").frozen = true;
        assert_eq!(names(&frozen, &observed), ["create_group", "spawn", "attach_nic", "start", "freeze"]);
    }

    #[test]
    fn a_start_from_nothing_takes_these_steps() {
        let steps = names(&wish(), &Observed::default());
        assert_eq!(steps, ["ensure_image", "create_root", "create_group", "spawn", "attach_nic", "start"]);
    }

    #[test]
    fn what_is_as_it_should_be_needs_nothing() {
        let wish = wish();
        assert_eq!(names(&wish, &running(&wish)), [""; 0]);
        let off = Wish { power: Power::Off, ..wish };
        assert_eq!(names(&off, &Observed { roots: [off.root].into(), ..Observed::default() }), [""; 0]);
    }

    #[test]
    fn a_restart_ends_the_old_boot_before_the_new_one_is_made() {
        let old = wish();
        let new = Wish { power: Power::On { boot: BootGen(2), frozen: false }, ..old.clone() };
        let steps = names(&new, &running(&old));
        assert_eq!(
            steps,
            [
                "halt",
                "kill",
                "detach_nic",
                "release_keeper",
                "remove_group",
                "create_group",
                "spawn",
                "attach_nic",
                "start"
            ]
        );
    }

    #[test]
    fn a_frozen_guest_is_thawed_to_halt_but_not_to_be_killed() {
        let wish = wish();
        let mut frozen = running(&wish);
        if let Some(group) = &mut frozen.boots.get_mut(&BootGen(1)).expect("boot").group {
            group.frozen = true;
        }
        let off = Wish { power: Power::Off, ..wish };
        assert_eq!(names(&off, &frozen)[..3], ["thaw", "halt", "kill"]);
        let forced = Wish { stop: StopKind::Force, ..off };
        assert_eq!(names(&forced, &frozen)[0], "kill");
    }

    #[test]
    fn deleting_ends_everything_and_then_throws_the_roots_away() {
        let gone = Wish { exists: false, stop: StopKind::Force, ..wish() };
        let mut observed = running(&wish());
        observed.roots.insert(RootGen(7));
        let steps = names(&gone, &observed);
        assert_eq!(steps, ["kill", "detach_nic", "release_keeper", "remove_group", "discard_root", "discard_root"]);
    }

    #[test]
    fn a_new_root_is_made_before_the_old_one_goes() {
        let wish = Wish { root: RootGen(2), power: Power::Off, ..wish() };
        let observed = Observed { roots: [RootGen(1)].into(), ..Observed::default() };
        assert_eq!(names(&wish, &observed), ["ensure_image", "create_root", "discard_root"]);
    }

    #[test]
    fn the_steps_of_a_failed_start_are_undone_by_the_wish_before() {
        let off = Wish { power: Power::Off, ..wish() };
        let mut observed = running(&wish());
        let seen = observed.boots.get_mut(&BootGen(1)).expect("boot");
        seen.guest = GuestSeen::Absent;
        seen.nics.clear();
        assert_eq!(names(&off, &observed), ["release_keeper", "remove_group"]);
        observed.boots.get_mut(&BootGen(1)).expect("boot").keeper = false;
        assert_eq!(names(&off, &observed), ["kill", "remove_group"]);
    }

    #[test]
    fn limits_and_freezing_of_a_running_guest_are_one_step_each() {
        let mut wish = wish();
        let observed = running(&wish);
        wish.spec.limits.processes = Some(99);
        let only = [(model::Knob::PidsMax, model::Setting::Number(99))].into();
        let boot = Boot { id: wish.id, generation: BootGen(1) };
        assert_eq!(diff(&wish, &observed, &facts()), [Step::SetLimits { boot, settings: only }]);
        let mut wish = super::tests::wish();
        wish.power = Power::On { boot: BootGen(1), frozen: true };
        assert_eq!(names(&wish, &observed), ["freeze"]);
    }

    #[test]
    fn an_ended_boot_that_is_still_wished_for_is_left_to_react() {
        let wish = wish();
        let mut observed = running(&wish);
        observed.boots.get_mut(&BootGen(1)).expect("boot").guest = GuestSeen::Ended(End::Halt);
        assert_eq!(names(&wish, &observed), [""; 0]);
    }
}
