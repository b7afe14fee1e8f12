//! A host that behaves: it has roots, groups, guests and links, does steps on them, and refuses what a real one would.
//!
//! Its [`World`] outlives the engine, as a real host outlives its daemon. What goes wrong is in [`crate::faults`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use engine::{
    BoxFuture, Effect, ExecOrder, Host, HostEvent, ImageFacts, InheritedSession, NameEntry, Progress, Session,
    StepError, Survey, Usage,
};
use model::Rest;
use model::scale::{Need, Resource, Watch};
use model::{
    BlockDevice, Boot, BootGen, BootSeen, Bounded, CgroupLayout, DeviceName, End, Fingerprint, Gauges, GroupSeen,
    GroupUsage, GuestSeen, HostFacts, InstanceId, Knob, KnobChange, NetworkName, NetworkSpec, NicSeen, NicSpec,
    Observed, OverlayWay, PinId, PinSeen, PinSource, PinSpec, Plug, PoolName, RootGen, RootSource, Setting, Settings,
    Step,
};
use tokio::sync::mpsc;

use crate::faults::{At, Fault, Faults};

/// One boot in the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FakeBoot {
    /// Its group.
    pub group: Option<GroupSeen>,
    /// The group was killed once.
    pub killed: bool,
    /// A keeper answers.
    pub keeper: bool,
    /// Its guest.
    pub guest: GuestSeen,
    /// The root that it has mounted.
    pub root: Option<RootGen>,
    /// Its links.
    pub nics: BTreeMap<DeviceName, NicSeen>,
    /// It lives among others' processes: its init takes nobody along.
    pub among_others: bool,
    /// Processes that its init left behind.
    pub has_left: bool,
}

impl FakeBoot {
    /// Init has ended.
    fn end(&mut self, end: End) {
        self.guest = GuestSeen::Ended(end);
        self.has_left = self.among_others;
        self.nics.clear();
    }
}

/// The host itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct World {
    /// Root file systems, and what they are based on.
    pub roots: BTreeMap<(InstanceId, RootGen), RootSource>,
    /// Boots of which something is left.
    pub boots: BTreeMap<Boot, FakeBoot>,
    /// Images.
    pub images: BTreeMap<Fingerprint, Option<Fingerprint>>,
    /// Layers.
    pub layers: BTreeSet<(Fingerprint, PoolName)>,
    /// Pools.
    pub pools: BTreeSet<PoolName>,
    /// Networks.
    pub networks: BTreeMap<NetworkName, NetworkSpec>,
    /// Pinned namespaces.
    pub pins: BTreeMap<PinId, PinSeen>,
    /// Keepers that died and were replaced.
    pub keepers_lost: usize,
    /// Guests that do not halt when asked.
    pub stubborn: BTreeSet<InstanceId>,
    /// Steps that were done, by name.
    pub log: Vec<&'static str>,
    /// Rules of real hosts that were broken.
    pub violations: Vec<String>,
    next_pid: u32,
    next_inode: u64,
}

/// The fake host.
pub struct FakeHost {
    world: Arc<Mutex<World>>,
    facts: HostFacts,
    faults: Arc<Faults>,
    events: mpsc::Sender<HostEvent>,
    receiver: Mutex<Option<mpsc::Receiver<HostEvent>>>,
}

/// Facts of a host that has everything.
pub fn facts() -> HostFacts {
    HostFacts {
        kernel: "6.18.0".into(),
        machine: "x86_64".into(),
        cgroups: CgroupLayout::Unified { root: "/sys/fs/cgroup".into() },
        knobs: Knob::ALL.into(),
        disk: Some(BlockDevice { major: 254, minor: 0 }),
        overlay: OverlayWay::Descriptors,
        proc_by_descriptor: true,
        time_namespaces: true,
        pressure: true,
        cpus: (0..4).collect(),
        memory_bytes: 8 << 30,
        landlock: 7,
        devices: BTreeSet::new(),
        link_limits: true,
        lxcfs: true,
        may_raise_limits: true,
    }
}

impl FakeHost {
    /// A daemon's hold on a world.
    pub fn new(world: Arc<Mutex<World>>, faults: Arc<Faults>) -> FakeHost {
        let (events, receiver) = mpsc::channel(64);
        FakeHost { world, facts: facts(), faults, events, receiver: Mutex::new(Some(receiver)) }
    }

    /// The world.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What goes wrong.
    pub fn faults(&self) -> &Arc<Faults> {
        &self.faults
    }

    /// The guest of an instance ends by itself. What is held still can only be killed.
    pub fn end_guest(&self, id: InstanceId, end: End) {
        for (boot, fake) in &mut self.world().boots {
            let frozen = fake.group.as_ref().is_some_and(|group| group.frozen) && !matches!(end, End::Signal(_));
            if boot.id == id && matches!(fake.guest, GuestSeen::Running { .. }) && !frozen {
                fake.end(end);
            }
        }
        self.world().cut_wires();
        let _ = self.events.try_send(HostEvent::Changed(id));
    }

    /// The kernel says that an instance's guest needs more memory.
    pub fn need_memory(&self, id: InstanceId) {
        let boot = self.world().boots.keys().find(|boot| boot.id == id).copied();
        if let Some(boot) = boot {
            let _ = self.events.try_send(HostEvent::Need(boot, Resource::Memory, Need::More));
        }
    }

    /// The kernel says that an instance's guest met a limit.
    pub fn bite(&self, id: InstanceId, bounded: Bounded) {
        let boot = self.world().boots.keys().find(|boot| boot.id == id).copied();
        if let Some(boot) = boot {
            let _ = self.events.try_send(HostEvent::Bitten(boot, bounded));
        }
    }

    /// An instance's guest has done nothing for long, or something wants it in its sleep.
    pub fn rest(&self, id: InstanceId, called: bool) {
        let boot = self.world().boots.keys().find(|boot| boot.id == id).copied();
        if let Some(boot) = boot {
            let event = if called { HostEvent::Called(boot, "a frame") } else { HostEvent::Idle(boot) };
            let _ = self.events.try_send(event);
        }
    }

    /// Does a step twice: that must be the same as once.
    fn twice(&self, step: &Step) -> Result<Effect, StepError> {
        let mut world = self.world();
        let first = world.apply(step);
        let mut once = world.clone();
        let second = world.apply(step);
        (once.log, once.next_pid) = (world.log.clone(), world.next_pid);
        once.next_inode = world.next_inode;
        if *world != once || first.is_ok() != second.is_ok() {
            world.violations.push(format!("{} done twice is not the same as done once", step.name()));
        }
        second.map_err(|why| refused(step, &why))
    }

    /// All keepers die, or those of one instance. Guests that run are taken over by others; what a keeper held back or only
    /// remembered is gone with it.
    pub fn lose_keepers(&self, of: Option<InstanceId>) {
        let mut world = self.world();
        let mut told = Vec::new();
        for (boot, fake) in world.boots.iter_mut().filter(|(b, f)| f.keeper && of.is_none_or(|id| b.id == id)) {
            match fake.guest {
                GuestSeen::Running { .. } => told.push(HostEvent::KeeperLost { boot: *boot, sessions: Some(0) }),
                GuestSeen::Ended(_) => {
                    // The process that starts keepers is told how their guests ended.
                    told.push(HostEvent::Changed(boot.id));
                }
                GuestSeen::Absent | GuestSeen::Prepared { .. } => {
                    (fake.guest, fake.keeper) = (GuestSeen::Absent, false);
                    fake.nics.clear();
                    told.push(HostEvent::Changed(boot.id));
                }
            }
        }
        world.cut_wires();
        world.keepers_lost += told.len();
        drop(world);
        for event in told {
            let _ = self.events.try_send(event);
        }
    }
}

fn refused(step: &Step, why: &str) -> StepError {
    StepError { step: step.name().into(), message: format!("{}: {why}", step.name()), hint: None, transient: false }
}

impl World {
    /// The boots of an instance.
    fn seen(&self, id: InstanceId) -> BTreeMap<BootGen, BootSeen> {
        let boots = self.boots.iter().filter(|(boot, _)| boot.id == id).map(|(boot, fake)| {
            let FakeBoot { keeper, guest, group, nics, .. } = fake.clone();
            (boot.generation, BootSeen { keeper, guest, group, nics })
        });
        boots.collect()
    }

    /// Checks the rules that real hosts enforce, and does the step.
    fn apply(&mut self, step: &Step) -> Result<Effect, String> {
        self.log.push(step.name());
        match step {
            Step::EnsureImage { .. } => return Err("this is for the engine's images".into()),
            Step::BuildImage { recipe } => {
                let fingerprint = Fingerprint(recipe.0.map(|b| b.wrapping_add(1)));
                self.images.insert(fingerprint, Some(*recipe));
                return Ok(Effect::Image(Box::new(image_facts(fingerprint, Some(*recipe)))));
            }
            Step::AdoptImage { .. } => {
                let fingerprint = Fingerprint([9; 32]);
                self.images.insert(fingerprint, None);
                return Ok(Effect::Image(Box::new(image_facts(fingerprint, None))));
            }
            Step::UnpackLayer { fingerprint, pool } => {
                if !self.images.contains_key(fingerprint) {
                    return Err("no such image".into());
                }
                self.layers.insert((*fingerprint, pool.clone()));
            }
            Step::RemoveLayer { fingerprint, pool } => drop(self.layers.remove(&(*fingerprint, pool.clone()))),
            Step::RemoveImage { fingerprint } => drop(self.images.remove(fingerprint)),
            Step::EnsurePool { pool } => drop(self.pools.insert(pool.name.clone())),
            Step::EnsureNetwork { network } => self.ensure_network(network)?,
            Step::RemoveNetwork { name } => drop(self.networks.remove(name)),
            Step::PinNamespace { spec } => self.pin(spec)?,
            Step::UnpinNamespace { pin } => drop(self.pins.remove(pin)),
            Step::CreateRoot { id, root, pool, source } => {
                if let RootSource::Image(fingerprint) = source
                    && !self.layers.contains(&(*fingerprint, pool.clone()))
                {
                    return Err("its layer is missing".into());
                }
                self.roots.insert((*id, *root), *source);
            }
            Step::DiscardRoot { id, root, .. } => {
                let used = self.boots.iter().any(|(b, f)| b.id == *id && f.root == Some(*root) && is_alive(&f.guest));
                if used {
                    self.violations.push(format!("root {root} of {id} thrown away under a running guest"));
                }
                self.roots.remove(&(*id, *root));
            }
            boot_step => {
                let done = self.boot_step(boot_step);
                self.cut_wires();
                return done;
            }
        }
        Ok(Effect::Done)
    }

    fn boot_step(&mut self, step: &Step) -> Result<Effect, String> {
        match step {
            Step::CreateGroup { boot, settings, .. } => self.create_group(*boot, settings)?,
            Step::Spawn { boot, root, source, spec, .. } => {
                self.check_owners(&spec.sandbox.namespaces)?;
                if let Some(pin) = spec.sandbox.namespaces.pins().find(|pin| !self.pins.contains_key(pin)) {
                    return Err(format!("{pin}, where it is to live, is missing"));
                }
                let done = self.spawn(*boot, *root, *source);
                if let Some(fake) = self.boots.get_mut(boot) {
                    fake.among_others = !spec.sandbox.namespaces.is_first();
                }
                return done;
            }
            Step::AttachNic { boot, nic } => {
                self.alive(*boot)?;
                if let Plug::Chain(chain) = &nic.plug
                    && !self.networks.contains_key(chain)
                {
                    return Err(format!("chain {chain} is missing"));
                }
                self.attach(*boot, nic);
            }
            Step::Start { boot } => {
                let fake = self.alive(*boot)?;
                if let GuestSeen::Prepared { pid } = fake.guest {
                    fake.guest = GuestSeen::Running { pid };
                }
            }
            Step::SetLimits { boot, settings } => return self.set_limits(*boot, settings),
            Step::Freeze { boot } => self.group(*boot)?.frozen = true,
            Step::Thaw { boot } => self.group(*boot)?.frozen = false,
            Step::Halt { boot, .. } => {
                let stubborn = self.stubborn.contains(&boot.id);
                let Some(fake) = self.boots.get_mut(boot) else { return Ok(Effect::Done) };
                let frozen = fake.group.as_ref().is_some_and(|g| g.frozen);
                if matches!(fake.guest, GuestSeen::Running { .. }) && !stubborn && !frozen {
                    fake.end(End::Halt);
                }
            }
            Step::Kill { boot } => {
                let Some(fake) = self.boots.get_mut(boot) else { return Ok(Effect::Done) };
                fake.killed = true;
                if is_alive(&fake.guest) {
                    fake.end(End::Signal(9));
                }
                fake.has_left = false;
            }
            Step::DetachNic { boot, device, .. } => {
                if let Some(fake) = self.boots.get_mut(boot) {
                    fake.nics.remove(device);
                }
            }
            Step::ReleaseKeeper { boot } => {
                if let Some(fake) = self.boots.get_mut(boot) {
                    if is_alive(&fake.guest) {
                        return Err("the guest still runs".into());
                    }
                    fake.keeper = false;
                    fake.guest = GuestSeen::Absent;
                }
                self.sweep(*boot);
            }
            Step::RemoveGroup { boot } => {
                if let Some(fake) = self.boots.get_mut(boot) {
                    if is_alive(&fake.guest) || fake.has_left {
                        return Err("the group has processes".into());
                    }
                    fake.group = None;
                }
                self.sweep(*boot);
            }
            other => return Err(format!("{} is no step of a boot", other.name())),
        }
        Ok(Effect::Done)
    }

    /// A wire has an end at each of two guests, or none.
    fn attach(&mut self, boot: Boot, nic: &NicSpec) {
        let far = nic.wire().map(|end| Boot { id: end.to.id, generation: end.boot });
        if far.is_some_and(|far| self.alive(far).is_err()) {
            return;
        }
        let mirrored = nic.mirrored(boot.id, boot.generation);
        for (of, nic) in [(Some(boot), Some(nic)), (far, mirrored.as_ref())] {
            let fake = of.and_then(|of| Some((of.id, self.boots.get_mut(&of)?)));
            if let (Some((id, fake)), Some(nic)) = (fake, nic) {
                let wire = nic.wire_seen(id);
                let host_name = if wire.is_some() { String::new() } else { format!("v{}", nic.device) };
                let (mac, chained, limits) = (Some(nic.mac), nic.is_chained(), nic.limits);
                let seen = NicSeen { host_name, mac, complete: true, wire, chained, limits };
                fake.nics.insert(nic.device.clone(), seen);
            }
        }
    }

    /// A wire whose one end is gone has no other.
    fn cut_wires(&mut self) {
        let ends: BTreeSet<(InstanceId, DeviceName)> = self
            .boots
            .iter()
            .filter(|(_, fake)| is_alive(&fake.guest))
            .flat_map(|(boot, fake)| fake.nics.keys().map(|device| (boot.id, device.clone())))
            .collect();
        for fake in self.boots.values_mut() {
            fake.nics.retain(|_, nic| {
                nic.wire.as_ref().is_none_or(|wire| ends.contains(&(wire.to.id, wire.to.device.clone())))
            });
        }
    }

    fn set_limits(&mut self, boot: Boot, settings: &Settings) -> Result<Effect, String> {
        let seen = &mut self.group(boot)?.settings;
        let mut turned = Vec::new();
        for (knob, new) in settings {
            let old = seen.insert(*knob, new.clone()).unwrap_or_else(|| knob.initial());
            if old != *new {
                turned.push(KnobChange { knob: *knob, file: knob.file().into(), old, new: new.clone(), us: 1 });
            }
        }
        Ok(Effect::Turned(turned))
    }

    fn create_group(&mut self, boot: Boot, settings: &Settings) -> Result<(), String> {
        let empty = FakeBoot {
            group: None,
            killed: false,
            keeper: false,
            guest: GuestSeen::Absent,
            root: None,
            nics: BTreeMap::new(),
            among_others: false,
            has_left: false,
        };
        let fake = self.boots.entry(boot).or_insert(empty);
        if is_alive(&fake.guest) || fake.has_left {
            return Err("the group has processes".into());
        }
        fake.killed = false;
        fake.group = Some(GroupSeen { frozen: false, settings: settings.clone(), complete: true });
        Ok(())
    }

    fn spawn(&mut self, boot: Boot, root: RootGen, source: RootSource) -> Result<Effect, String> {
        let based_on = *self.roots.get(&(boot.id, root)).ok_or("its root is missing")?;
        if based_on != source {
            self.violations.push(format!("root {root} of {} is based on {based_on:?}, not on {source:?}", boot.id));
        }
        if let RootSource::Image(fingerprint) = based_on
            && !self.layers.iter().any(|(of, _)| *of == fingerprint)
        {
            return Err("its layer is missing".into());
        }
        // The upper layer of one root must not be in two overlays.
        let twice =
            self.boots.iter().any(|(b, f)| b.id == boot.id && *b != boot && f.root == Some(root) && is_alive(&f.guest));
        if twice {
            self.violations.push(format!("root {root} of {} mounted twice", boot.id));
        }
        self.next_pid += 1;
        let pid = 1000 + self.next_pid;
        let fake = self.boots.get_mut(&boot).filter(|f| f.group.is_some()).ok_or("its group is missing")?;
        if fake.killed {
            self.violations.push(format!("cloned into the killed group {boot}"));
        }
        let fake = self.boots.get_mut(&boot).ok_or("gone")?;
        fake.keeper = true;
        if !is_alive(&fake.guest) {
            fake.guest = GuestSeen::Prepared { pid };
            fake.root = Some(root);
        }
        Ok(Effect::Done)
    }

    fn check_owners(&self, namespaces: &model::Namespaces) -> Result<(), String> {
        match namespaces.owners().into_iter().find(|id| !self.runs(*id)) {
            Some(owner) => Err(format!("{owner}, whose namespaces it shares, does not run")),
            None => Ok(()),
        }
    }

    fn ensure_network(&mut self, network: &NetworkSpec) -> Result<(), String> {
        match &network.chain {
            Some(chain) if !self.networks.contains_key(&chain.from) => {
                return Err("the network it begins at is missing".into());
            }
            _ => drop(self.networks.insert(network.name.clone(), network.clone())),
        }
        Ok(())
    }

    fn pin(&mut self, spec: &PinSpec) -> Result<(), String> {
        match &spec.source {
            PinSource::New(Some(users)) if !self.pins.contains_key(users) => return Err("its users are missing".into()),
            PinSource::Instance(id) if !self.runs(*id) => return Err("there is no guest".into()),
            _ => {}
        }
        let inode = match self.pins.get(&spec.pin).and_then(|seen| seen.inode) {
            Some(inode) => inode,
            None => {
                self.next_inode += 1;
                self.next_inode
            }
        };
        self.pins.insert(spec.pin, PinSeen { inode: Some(inode), netns: spec.netns.clone() });
        Ok(())
    }

    fn runs(&self, id: InstanceId) -> bool {
        self.boots.iter().any(|(b, f)| b.id == id && matches!(f.guest, GuestSeen::Running { .. }))
    }

    fn alive(&mut self, boot: Boot) -> Result<&mut FakeBoot, String> {
        self.boots.get_mut(&boot).filter(|f| is_alive(&f.guest)).ok_or_else(|| "there is no guest".into())
    }

    fn group(&mut self, boot: Boot) -> Result<&mut GroupSeen, String> {
        self.boots.get_mut(&boot).and_then(|f| f.group.as_mut()).ok_or_else(|| "there is no group".into())
    }

    /// Forgets a boot of which nothing is left.
    fn sweep(&mut self, boot: Boot) {
        if self.boots.get(&boot).is_some_and(|f| f.group.is_none() && !f.keeper && f.nics.is_empty()) {
            self.boots.remove(&boot);
        }
    }
}

fn is_alive(guest: &GuestSeen) -> bool {
    matches!(guest, GuestSeen::Prepared { .. } | GuestSeen::Running { .. })
}

fn image_facts(fingerprint: Fingerprint, recipe: Option<Fingerprint>) -> ImageFacts {
    ImageFacts {
        fingerprint,
        recipe,
        architecture: "x86_64".into(),
        properties: [("os".to_owned(), "Fake".to_owned())].into(),
        created_at: 0,
        expires_at: 0,
        size: 1,
        split: false,
        filename: String::new(),
    }
}

impl Host for FakeHost {
    fn facts(&self) -> &HostFacts {
        &self.facts
    }

    fn observe<'a>(&'a self, id: InstanceId, _pool: &'a PoolName) -> BoxFuture<'a, Result<Observed, StepError>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            self.faults.live_on().await;
            match self.faults.next(At::Look, "look") {
                Some(Fault::CrashBefore | Fault::CrashAfter) => self.faults.die_now().await,
                Some(_) => return Err(engine::step_error("observe", "the look failed on purpose")),
                None => {}
            }
            let world = self.world();
            let roots = world.roots.keys().filter(|(of, _)| *of == id).map(|(_, root)| *root).collect();
            let pins = world.pins.iter().filter(|(pin, _)| pin.of == id.0).map(|(pin, seen)| (pin.kind, seen.clone()));
            Ok(Observed { roots, boots: world.seen(id), pins: pins.collect() })
        })
    }

    fn glance(&self, id: InstanceId) -> BTreeMap<BootGen, BootSeen> {
        let mut boots = self.world().seen(id);
        boots.values_mut().for_each(|seen| seen.group = None);
        boots
    }

    fn survey(&self) -> BoxFuture<'_, Result<Survey, StepError>> {
        Box::pin(async move {
            self.faults.live_on().await;
            let world = self.world();
            let pool: PoolName = "default".parse().expect("name");
            let ids = world.roots.keys().map(|(id, _)| *id).chain(world.boots.keys().map(|boot| boot.id));
            Ok(Survey {
                instances: ids.map(|id| (id, pool.clone())).collect(),
                images: world.images.iter().map(|(f, r)| image_facts(*f, *r)).collect(),
                layers: world.layers.clone(),
                networks: world.networks.keys().cloned().collect(),
            })
        })
    }

    fn pins(&self) -> BTreeMap<PinId, PinSeen> {
        self.world().pins.clone()
    }

    fn apply<'a>(&'a self, step: &'a Step, _progress: Progress<'a>) -> BoxFuture<'a, Result<Effect, StepError>> {
        Box::pin(async move {
            // Real steps take a moment, in which others run.
            tokio::task::yield_now().await;
            self.faults.live_on().await;
            let fault = self.faults.next(At::Step, step.name());
            match fault {
                Some(Fault::CrashBefore) => self.faults.die_now().await,
                Some(Fault::Refuse | Fault::RefuseAlways) => return Err(refused(step, "refused on purpose")),
                Some(Fault::Twice) => return self.twice(step),
                Some(Fault::LoseKeepers) => self.lose_keepers(None),
                Some(Fault::CrashAfter) | None => {}
            }
            let done = self.world().apply(step).map_err(|why| refused(step, &why));
            if fault == Some(Fault::CrashAfter) {
                self.faults.die_now().await;
            }
            done
        })
    }

    fn exec<'a>(&'a self, _boot: Boot, _order: ExecOrder) -> BoxFuture<'a, Result<Arc<dyn Session>, StepError>> {
        Box::pin(async { Err(engine::step_error("exec", "the fake host runs nothing")) })
    }

    fn inherited(&self) -> BoxFuture<'_, Vec<InheritedSession>> {
        Box::pin(async { Vec::new() })
    }

    fn console<'a>(&'a self, _boot: Boot) -> BoxFuture<'a, Result<Arc<dyn Session>, StepError>> {
        Box::pin(async { Err(engine::step_error("console", "the fake host has none")) })
    }

    fn usage<'a>(&'a self, _boot: Boot) -> BoxFuture<'a, Result<Usage, StepError>> {
        Box::pin(async { Ok(Usage::default()) })
    }

    fn gauges(&self, boot: Boot) -> Gauges {
        // A guest uses all the memory that it is not held back from.
        let high = self
            .world()
            .boots
            .get(&boot)
            .and_then(|fake| fake.group.as_ref()?.settings.get(&Knob::MemoryHigh).cloned());
        let memory_bytes = if let Some(Setting::Number(bytes)) = high { bytes } else { 0 };
        Gauges { usage: GroupUsage { memory_bytes, ..GroupUsage::default() }, ..Gauges::default() }
    }

    fn watch_need(&self, _boot: Boot, _watch: Watch) {}

    fn watch_rest(&self, _boot: Boot, _rest: Rest) {}

    fn sleeps_on(&self, boot: Boot) -> BoxFuture<'_, bool> {
        let frozen =
            self.world().boots.get(&boot).and_then(|fake| fake.group.as_ref()).is_some_and(|group| group.frozen);
        Box::pin(async move { frozen })
    }

    fn sessions(&self, _boot: Boot) -> usize {
        0
    }

    fn take_memory(&self, _boot: Boot, _down_to: u64) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    fn knob_file(&self, _boot: Boot, knob: Knob) -> String {
        knob.file().to_owned()
    }

    fn names(&self, _names: &[NameEntry]) {}

    fn events(&self) -> mpsc::Receiver<HostEvent> {
        let mut receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        // Called once by an engine; a second one would hear nothing.
        receiver.take().unwrap_or_else(|| mpsc::channel(1).1)
    }
}
