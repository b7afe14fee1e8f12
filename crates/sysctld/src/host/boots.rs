//! The boots of instances on this host: what is known of each, and the steps that act on them.

mod life;
mod wires;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use engine::{HostEvent, InheritedSession, StepError};
use model::scale::Watch;
use model::{
    Boot, BootGen, BootSeen, DeviceName, End, GroupSeen, GuestSeen, HostFacts, InstanceId, KnobChange, Mac, NicSeen,
    RootGen, RootSource, Settings,
};
use runtime::cgroup::Groups;
use runtime::launch::view::View;
use runtime::protocol::{KeepEvent, KeepRequest, KeepSpec, Nothing, phase};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use super::hits::Ears;
use super::keeper::{Keeper, State, end_of};
use super::launch;
use super::lxcfs::Lxcfs;
use super::need::Needs;
use super::network::{AttachedNic, Networks};
use super::pins::Pins;
use super::rest::Rests;
use super::session::KeptSession;
use super::spawn::{self, Spawn};
use super::words;

/// How long a keeper may take for what is quick: a hundred times what it takes.
const QUICK: Duration = Duration::from_secs(10);

/// How often a keeper is asked for that takes a guest over, and the pause in between: another spawn process starts in less.
const ADOPTIONS: u32 = 5;
const BETWEEN_ADOPTIONS: Duration = Duration::from_millis(100);

/// Causes of ends that spawn told and nobody asked for yet.
const MAX_CAUSES: usize = 4096;

/// What is known of one boot.
#[derive(Debug, Default)]
struct Entry {
    keeper: Option<Arc<Keeper>>,
    /// Its guest is gone and no keeper saw that.
    ended: Option<End>,
    nics: BTreeMap<DeviceName, AttachedNic>,
    /// There was a wire to its guest.
    wired: bool,
    /// The lxcfs that its guest was made with; `None` once it has seen to that.
    view: Option<View>,
}

/// A boot as it is known now.
#[derive(Debug, Clone)]
pub(super) struct BootNow {
    pub(super) boot: Boot,
    pub(super) has_keeper: bool,
    /// Pid of the keeper.
    pub(super) keeper: u32,
    pub(super) phase: u8,
    pub(super) pid: u32,
    /// Its keeper took the guest over from another one.
    pub(super) adopted: bool,
    /// Processes and the console that somebody follows.
    pub(super) sessions: usize,
}

/// All boots.
#[derive(Debug)]
pub(crate) struct Boots {
    pub(crate) groups: Arc<Groups>,
    pub(crate) spawn: Arc<Spawn>,
    networks: Arc<Networks>,
    pub(super) pins: Pins,
    pub(super) lxcfs: Arc<Lxcfs>,
    facts: HostFacts,
    keep_dir: PathBuf,
    scratch: PathBuf,
    logs: PathBuf,
    entries: Mutex<BTreeMap<Boot, Entry>>,
    causes: Mutex<HashMap<u32, End>>,
    told: Notify,
    /// Sessions that a former daemon began, until somebody asks for them.
    inherited: Mutex<Vec<(Arc<Keeper>, u32)>>,
    events: mpsc::Sender<HostEvent>,
    pub(super) needs: Needs,
    /// Who does nothing, and who sleeps.
    pub(super) rests: Rests,
    /// `None` when the host has no more descriptors for it.
    ears: Ears,
}

impl Boots {
    pub(crate) fn new(
        groups: Arc<Groups>,
        spawn: Arc<Spawn>,
        networks: Arc<Networks>,
        facts: HostFacts,
        (runtime_dir, state_dir): (&Path, &Path),
        events: mpsc::Sender<HostEvent>,
    ) -> Arc<Boots> {
        let ears = Ears::start(&groups, &events);
        let boots = Arc::new(Boots {
            needs: Needs::new(groups.clone(), ears.hits.clone(), events.clone()),
            ears,
            rests: Rests::new(events.clone()),
            groups,
            pins: Pins::new(runtime_dir, spawn.clone()),
            lxcfs: Arc::new(Lxcfs::new(runtime_dir, spawn.clone())),
            spawn,
            networks,
            facts,
            keep_dir: runtime_dir.join("keep"),
            scratch: runtime_dir.join("mnt"),
            logs: state_dir.join("logs"),
            entries: Mutex::default(),
            causes: Mutex::default(),
            told: Notify::new(),
            inherited: Mutex::default(),
            events,
        });
        tokio::spawn(boots.clone().note_causes());
        tokio::spawn(boots.spawn.clone().keep_alive());
        let runs = boots.clone();
        let is_running = move |boot| runs.running(boot).is_ok();
        tokio::spawn(boots.networks.clone().follow(boots.events.clone(), is_running));
        boots
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<Boot, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers how orphaned inits ended: their keeper is gone, and spawn is who learns it.
    async fn note_causes(self: Arc<Self>) {
        let mut ends = self.spawn.ends();
        while let Ok(child) = ends.recv().await {
            let end = match child.signal {
                0 => End::Exit(child.code),
                signal => end_of(runtime::protocol::end::SIGNAL, signal),
            };
            let mut causes = self.causes.lock().unwrap_or_else(PoisonError::into_inner);
            if causes.len() < MAX_CAUSES {
                causes.insert(child.pid, end);
            }
            drop(causes);
            self.told.notify_waiters();
        }
    }

    /// How an orphaned init ended; spawn may need a moment to tell.
    async fn cause(&self, pid: u32) -> End {
        for _ in 0..2 {
            let told = self.told.notified();
            if let Some(end) = self.causes.lock().unwrap_or_else(PoisonError::into_inner).remove(&pid) {
                return end;
            }
            let _ = tokio::time::timeout(Duration::from_millis(100), told).await;
        }
        End::Unknown
    }

    /// The console log of an instance.
    pub(crate) fn console_log(&self, id: InstanceId) -> PathBuf {
        self.logs.join(id.to_string()).join("console.log")
    }

    fn directory(&self, boot: Boot) -> PathBuf {
        self.keep_dir.join(boot.to_string())
    }

    /// Finds everything that a former daemon left running.
    pub(crate) async fn scan(self: &Arc<Self>) -> Result<(), StepError> {
        let (with_group, _) = self.groups.list().map_err(|e| words::because("scan", &e))?;
        let mut boots = with_group;
        for entry in std::fs::read_dir(&self.keep_dir).into_iter().flatten().flatten() {
            boots.extend(entry.file_name().to_str().and_then(|name| name.parse::<Boot>().ok()));
        }
        let links = self.networks.attached().map_err(|e| words::because("scan", &e))?;
        boots.extend(links.keys().copied());
        // At the same time: each takes as long as its keeper needs to wake up.
        let mut looks = JoinSet::new();
        for boot in boots {
            let nics = links.get(&boot).cloned().unwrap_or_default();
            let wired = self.was_wired(boot);
            self.entries().insert(boot, Entry { nics, wired, ..Entry::default() });
            let found = self.clone();
            looks.spawn(async move { found.find_keeper(boot).await });
        }
        looks.join_all().await;
        Ok(())
    }

    /// Connects to the keeper of a boot, or finds another one for its guest, or notes its end.
    async fn find_keeper(self: &Arc<Self>, boot: Boot) {
        let directory = self.directory(boot);
        if let Ok(socket) = spawn::connect(&directory.join("control")) {
            match Keeper::attach(boot, socket, self.console_log(boot.id), self.events.clone()) {
                Ok(keeper) => {
                    let told = tokio::time::timeout(QUICK, keeper.ask(&KeepRequest::Status(Nothing {}), &[])).await;
                    if let Ok(Ok((KeepEvent::Status(status), _))) = told {
                        let numbers = status.sessions.iter().map(|session| (keeper.clone(), session.session));
                        self.inherited.lock().unwrap_or_else(PoisonError::into_inner).extend(numbers);
                        self.put_keeper(boot, keeper);
                        return;
                    }
                }
                Err(errno) => tracing::error!(%boot, %errno, "its keeper cannot be watched"),
            }
        }
        // Its guest runs on unkept, and each look at it tries again.
        let _ = self.replace_keeper(boot, None).await;
    }

    /// The sessions that the former daemon began, taken up.
    pub(crate) async fn inherited(&self) -> Vec<InheritedSession> {
        let numbers = std::mem::take(&mut *self.inherited.lock().unwrap_or_else(PoisonError::into_inner));
        let mut taken = JoinSet::new();
        for (keeper, number) in numbers {
            taken.spawn(async move { tokio::time::timeout(QUICK, keeper.inherit(number)).await.ok().flatten() });
        }
        let whole = |(label, session): (Vec<u8>, Arc<KeptSession>)| InheritedSession { label, session };
        taken.join_all().await.into_iter().flatten().map(whole).collect()
    }

    fn put_keeper(&self, boot: Boot, keeper: Arc<Keeper>) {
        let mut entries = self.entries();
        let entry = entries.entry(boot).or_default();
        entry.keeper = Some(keeper);
        entry.ended = None;
    }

    /// A keeper that does not answer is gone. A guest that still runs gets another one; else its end is noted. An error when
    /// no other one can be had: its guest is as it was, and has no keeper that answers.
    async fn replace_keeper(self: &Arc<Self>, boot: Boot, sessions: Option<usize>) -> Result<(), StepError> {
        let mut tries = 1;
        while let Some((pid, start)) = self.alive(boot) {
            match self.adopt(boot, pid, start).await {
                Ok(()) => {
                    let _ = self.events.try_send(HostEvent::KeeperLost { boot, sessions });
                    return Ok(());
                }
                // The spawn process may have died as well, and is started again.
                Err(error) if tries < ADOPTIONS => {
                    tracing::warn!(%boot, %error, "no other keeper for its guest yet");
                    tries += 1;
                    tokio::time::sleep(BETWEEN_ADOPTIONS).await;
                }
                Err(error) => {
                    tracing::error!(%boot, %error, "no other keeper for its guest");
                    return Err(error);
                }
            }
        }
        let ended = match self.written(boot) {
            Some(status) => Some(self.cause(status.pid).await),
            // It never ran: nothing that ended.
            None => None,
        };
        let mut entries = self.entries();
        let entry = entries.entry(boot).or_default();
        entry.keeper = None;
        entry.ended = ended;
        Ok(())
    }

    /// What the keeper of a boot wrote down when its guest began to run.
    fn written(&self, boot: Boot) -> Option<launch::KeptStatus> {
        launch::read_status(&self.directory(boot)).filter(|status| status.phase == phase::RUNNING)
    }

    /// Pid and start time of the init of a boot that runs, whether it has a keeper or not.
    fn alive(&self, boot: Boot) -> Option<(u32, u64)> {
        let status = self.written(boot)?;
        launch::is_same_process(status.pid, status.start).then_some((status.pid, status.start))
    }

    async fn adopt(self: &Arc<Self>, boot: Boot, pid: u32, start: u64) -> Result<(), StepError> {
        let text = |path: PathBuf| path.display().to_string();
        let spec = KeepSpec {
            adopt_pid: pid,
            adopt_start: start,
            group: text(self.groups.payload(boot)),
            v1_groups: self.groups.extra_groups(boot).into_iter().map(text).collect(),
            id_base: launch::owner_of(pid).unwrap_or(0),
            ..KeepSpec::default()
        };
        let keeper = self.start_keeper(boot, spec).await?;
        keeper.wait(|state| state.phase != phase::EMPTY).await;
        self.put_keeper(boot, keeper);
        Ok(())
    }

    async fn start_keeper(self: &Arc<Self>, boot: Boot, spec: KeepSpec) -> Result<Arc<Keeper>, StepError> {
        let directory = self.directory(boot);
        std::fs::create_dir_all(&directory).map_err(|e| words::because("spawn", &e))?;
        let log = self.console_log(boot.id);
        if let Some(parent) = log.parent() {
            std::fs::create_dir_all(parent).map_err(|e| words::because("spawn", &e))?;
        }
        let spec = KeepSpec { directory: directory.display().to_string(), boot: boot.to_string(), ..spec };
        let socket = self.spawn.keep(spec).await?;
        Keeper::attach(boot, socket, log, self.events.clone()).map_err(|e| words::failed("spawn", "watch", "keeper", e))
    }

    fn keeper(&self, boot: Boot) -> Option<Arc<Keeper>> {
        self.entries().get(&boot).and_then(|entry| entry.keeper.clone())
    }

    /// All keepers.
    pub(super) fn keepers(&self) -> Vec<Arc<Keeper>> {
        self.entries().values().filter_map(|entry| entry.keeper.clone()).collect()
    }

    /// Whether somebody keeps a boot.
    pub(super) fn has_keeper(&self, boot: Boot) -> bool {
        self.keeper(boot).is_some()
    }

    /// The keeper of a boot whose guest runs.
    pub(crate) fn running(&self, boot: Boot) -> Result<Arc<Keeper>, StepError> {
        self.keeper(boot)
            .filter(|keeper| keeper.state().phase == phase::RUNNING)
            .ok_or_else(|| engine::step_error("look", "the instance does not run"))
    }

    /// Pid and start time of the init of an instance that runs.
    fn init_of(&self, id: InstanceId) -> Option<(u32, u64)> {
        let entries = self.entries();
        let states = entries.range(boots_of(id)).rev().filter_map(|(_, entry)| Some(entry.keeper.as_ref()?.state()));
        let pid = states.into_iter().find(|state| state.phase == phase::RUNNING)?.pid;
        Some((pid, launch::start_time(pid)?))
    }

    /// The boots of one instance, as they are now.
    pub(crate) async fn observe(self: &Arc<Self>, id: InstanceId) -> Result<BTreeMap<BootGen, BootSeen>, StepError> {
        let known: Vec<Boot> = self.entries().range(boots_of(id)).map(|(boot, _)| *boot).collect();
        let mut seen = BTreeMap::new();
        for boot in known {
            match self.keeper(boot) {
                Some(keeper) if keeper.state().lost => {
                    self.replace_keeper(boot, Some(keeper.lost_sessions())).await?;
                }
                None if self.alive(boot).is_some() => self.replace_keeper(boot, None).await?,
                Some(_) | None => {}
            }
            if let Some(state) = self.observe_boot(boot).await? {
                seen.insert(boot.generation, state);
            }
        }
        Ok(seen)
    }

    /// The same as far as it is known without asking the kernel, and without groups.
    pub(crate) fn glance(&self, id: InstanceId) -> BTreeMap<BootGen, BootSeen> {
        let entries = self.entries();
        let seen = entries.range(boots_of(id)).map(|(boot, entry)| {
            let state = entry.keeper.as_ref().map(|keeper| keeper.state());
            let ended = || entry.ended.map_or(GuestSeen::Absent, GuestSeen::Ended);
            let nics = entry.nics.iter().map(|(device, nic)| (device.clone(), nic.seen())).collect();
            let guest = state.as_ref().map_or_else(ended, State::guest);
            (boot.generation, BootSeen { keeper: state.is_some(), guest, group: None, nics })
        });
        seen.collect()
    }

    async fn observe_boot(&self, boot: Boot) -> Result<Option<BootSeen>, StepError> {
        let (state, ended, attached) = {
            let entries = self.entries();
            let Some(entry) = entries.get(&boot) else { return Ok(None) };
            (entry.keeper.as_ref().map(|keeper| keeper.state()), entry.ended, entry.nics.clone())
        };
        // The links of a guest that ended went with it, and are forgotten by a step.
        let is_running = state.as_ref().is_some_and(|state| state.phase == phase::RUNNING);
        let seen = |nic: &AttachedNic| {
            let seen = nic.seen();
            NicSeen { complete: seen.complete && (!is_running || self.networks.is_whole(nic)), ..seen }
        };
        let mut nics: BTreeMap<DeviceName, NicSeen> =
            attached.iter().map(|(device, nic)| (device.clone(), seen(nic))).collect();
        nics.extend(self.wires(boot).await?);
        let guest = match &state {
            Some(State { phase: phase::ENDED, end, pid, .. }) if *end == runtime::protocol::end::UNKNOWN => {
                GuestSeen::Ended(self.cause(*pid).await)
            }
            Some(state) => state.guest(),
            None => ended.map_or(GuestSeen::Absent, GuestSeen::Ended),
        };
        let group = self.group(boot)?;
        if state.is_none() && group.is_none() && nics.is_empty() {
            self.entries().remove(&boot);
            return Ok(None);
        }
        Ok(Some(BootSeen { keeper: state.is_some(), guest, group, nics }))
    }

    fn group(&self, boot: Boot) -> Result<Option<GroupSeen>, StepError> {
        let failed = |e| words::because("observe", &e);
        let Some(settings) = self.groups.settings(boot).map_err(failed)? else { return Ok(None) };
        let (frozen, complete) = (self.groups.is_frozen(boot).map_err(failed)?, self.groups.is_complete(boot));
        Ok(Some(GroupSeen { frozen, settings, complete }))
    }

    /// The guests that run: whose, the pid of init and its start time.
    pub(super) fn guests(&self) -> Vec<(InstanceId, u32, u64)> {
        let running = self.now().into_iter().filter(|now| now.phase == phase::RUNNING);
        running.filter_map(|now| Some((now.boot.id, now.pid, launch::start_time(now.pid)?))).collect()
    }

    /// All boots as they are known now.
    pub(super) fn now(&self) -> Vec<BootNow> {
        let entries = self.entries();
        let now = entries.iter().map(|(boot, entry)| {
            let state = entry.keeper.as_ref().map(|keeper| keeper.state()).filter(|state| !state.lost);
            BootNow {
                boot: *boot,
                has_keeper: state.is_some(),
                keeper: state.as_ref().map_or(0, |state| state.keeper),
                phase: state.as_ref().map_or(phase::EMPTY, |state| state.phase),
                pid: state.as_ref().map_or(0, |state| state.pid),
                adopted: state.is_some_and(|state| state.adopted),
                sessions: entry.keeper.as_ref().map_or(0, |keeper| keeper.session_count()),
            }
        });
        now.collect()
    }

    /// The links of guests that run, as they were attached.
    pub(super) fn attached(&self) -> Vec<(Boot, DeviceName, AttachedNic)> {
        let entries = self.entries();
        let is_running =
            |entry: &Entry| entry.keeper.as_ref().is_some_and(|keeper| keeper.state().phase == phase::RUNNING);
        let running = entries.iter().filter(|(_, entry)| is_running(entry));
        running.flat_map(|(boot, entry)| entry.nics.iter().map(|(d, nic)| (*boot, d.clone(), nic.clone()))).collect()
    }

    /// Takes up boots that were found on the host.
    pub(super) async fn search(self: &Arc<Self>, boots: &BTreeSet<Boot>) -> Result<(), StepError> {
        let links = self.networks.attached().map_err(|e| words::because("search", &e))?;
        for boot in boots {
            let is_new = {
                let mut entries = self.entries();
                let is_new = !entries.contains_key(boot);
                entries.entry(*boot).or_default().nics.extend(links.get(boot).cloned().unwrap_or_default());
                is_new
            };
            if is_new {
                self.find_keeper(*boot).await;
            }
        }
        // Links that a known boot has beside those that it was given.
        for (boot, found) in links {
            if let Some(entry) = self.entries().get_mut(&boot) {
                for (device, nic) in found {
                    entry.nics.entry(device).or_insert(nic);
                }
            }
        }
        Ok(())
    }

    /// Ends a process of ours that serves nobody, if it still is the one that was meant.
    pub(super) fn end_process(&self, pid: u32, start: u64) {
        if launch::is_same_process(pid, start)
            && let Some(process) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
        }
    }

    /// Gives a guest whose keeper lost its directory another keeper: what that one must know is written down first.
    pub(super) async fn hand_over(self: &Arc<Self>, boot: Boot, keeper: u32, start: u64) -> Result<(), StepError> {
        let state = self.running(boot)?.state();
        let guest_start = launch::start_time(state.pid).unwrap_or(0);
        let directory = self.directory(boot);
        let status = format!("1 {} {} {guest_start}\n", phase::RUNNING, state.pid);
        std::fs::create_dir_all(&directory)
            .and_then(|()| std::fs::write(directory.join("status"), status))
            .map_err(|e| words::because("hand_over", &e))?;
        self.end_process(keeper, start);
        if let Some(keeper) = self.keeper(boot) {
            let _ = tokio::time::timeout(QUICK, keeper.wait(|state| state.lost)).await;
        }
        Ok(())
    }

    /// Instances of which there is any boot.
    pub(crate) fn instances(&self) -> BTreeSet<InstanceId> {
        self.entries().keys().map(|boot| boot.id).collect()
    }

    /// A blocking act on control groups, off the event loop.
    async fn on_groups(
        &self,
        step: &'static str,
        act: impl FnOnce(&Groups) -> Result<(), runtime::cgroup::Error> + Send + 'static,
    ) -> Result<(), StepError> {
        let groups = self.groups.clone();
        let done = tokio::task::spawn_blocking(move || act(&groups)).await;
        match done {
            Ok(result) => result.map_err(|e| words::because(step, &e)),
            Err(error) => Err(words::because(step, &error)),
        }
    }

    pub(crate) async fn create_group(&self, boot: Boot, settings: &Settings, owner: u32) -> Result<(), StepError> {
        let settings = settings.clone();
        // Known before there is anything of it: what a failure leaves half made is then seen, and removed.
        self.entries().entry(boot).or_default();
        // A keeper that had its order of a daemon which ended may have come to it since this one looked.
        let is_unkept = !self.has_keeper(boot);
        let create = move |groups: &Groups| {
            if is_unkept {
                groups.kill(boot)?;
            }
            groups.create(boot, &settings, owner)
        };
        self.on_groups("create_group", create).await?;
        self.ears.add(boot);
        Ok(())
    }

    pub(super) async fn take_memory(&self, boot: Boot, down_to: u64) {
        let taken = self.on_groups("take_memory", move |groups| groups.take_memory(boot, down_to)).await;
        if let Err(error) = taken {
            tracing::warn!(%boot, %error, "memory could not be taken back");
        }
    }

    /// Hears from here on when a boot that a former daemon left meets its limits. A quarter of a millisecond each.
    pub(super) fn watch_limits_of_all(&self) {
        let boots: Vec<Boot> = self.entries().keys().copied().collect();
        boots.into_iter().for_each(|boot| self.ears.add(boot));
    }

    pub(crate) fn set_limits(&self, boot: Boot, settings: &Settings) -> Result<Vec<KnobChange>, StepError> {
        // A handful of writes to memory: not worth another thread, and the caller waits for the effect.
        self.groups.apply(boot, settings).map_err(|e| words::because("set_limits", &e))
    }

    pub(crate) async fn set_frozen(&self, boot: Boot, frozen: bool) -> Result<(), StepError> {
        let step = if frozen { "freeze" } else { "thaw" };
        // A write to memory, here and now; only the wait is worth another thread.
        self.groups.set_frozen(boot, frozen).map_err(|e| words::because(step, &e))?;
        self.on_groups(step, move |groups| groups.wait_frozen(boot, frozen)).await
    }

    /// Processes of a boot that somebody runs from outside; its console is no such.
    pub(crate) fn sessions(&self, boot: Boot) -> usize {
        self.keeper(boot).map_or(0, |keeper| keeper.process_count())
    }

    /// Links of a boot on the host, and whom they lead to.
    pub(super) fn callees(&self, boot: Boot) -> Vec<(String, Mac)> {
        let entries = self.entries();
        entries.get(&boot).into_iter().flat_map(|entry| entry.nics.values()).map(AttachedNic::callee).collect()
    }

    pub(crate) async fn release_keeper(&self, boot: Boot) -> Result<(), StepError> {
        let keeper = self.entries().get_mut(&boot).and_then(|entry| {
            entry.ended = None;
            entry.keeper.take()
        });
        if let Some(keeper) = keeper {
            keeper.drop_network();
            match keeper.ask(&KeepRequest::Release(Nothing {}), &[]).await {
                Ok(_) => {}
                Err(_) if keeper.state().lost => {}
                Err(error) => {
                    // It minds its guest still, and we it.
                    self.put_keeper(boot, keeper);
                    return Err(error);
                }
            }
        }
        // Of a keeper that died its directory is left.
        match std::fs::remove_dir_all(self.directory(boot)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(words::because("release_keeper", &e)),
            _ => Ok(()),
        }
    }

    pub(crate) async fn remove_group(&self, boot: Boot) -> Result<(), StepError> {
        self.on_groups("remove_group", move |groups| groups.remove(boot)).await?;
        self.ears.remove(boot);
        self.needs.watch(boot, Watch::default());
        self.rests.forget(boot);
        let mut entries = self.entries();
        if entries.get(&boot).is_some_and(|entry| entry.keeper.is_none() && entry.nics.is_empty()) {
            entries.remove(&boot);
        }
        drop(entries);
        match std::fs::remove_dir_all(self.directory(boot)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(words::because("remove_group", &e)),
            _ => Ok(()),
        }
    }

    /// Removes the logs of an instance that is gone.
    pub(crate) fn remove_logs(&self, id: InstanceId) {
        let _ = std::fs::remove_dir_all(self.logs.join(id.to_string()));
    }
}

/// Where the boots of an instance lie in their order.
fn boots_of(id: InstanceId) -> std::ops::RangeInclusive<Boot> {
    Boot { id, generation: BootGen(0) }..=Boot { id, generation: BootGen(u32::MAX) }
}

/// What a root file system is laid out like, and whether no boot has had it yet.
pub(crate) fn layout_of(
    pool: &storage::OverlayPool,
    boot: Boot,
    root: RootGen,
    source: RootSource,
) -> (storage::RootLayout, bool) {
    let layout = pool.layout(boot.id, root, source);
    let upper = layout.pool.join(&layout.volume).join(&layout.upper);
    let fresh = std::fs::read_dir(upper).is_ok_and(|mut entries| entries.next().is_none());
    (layout, fresh)
}
