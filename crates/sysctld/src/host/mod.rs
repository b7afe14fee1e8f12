//! The real host: a `match` from each step to one call of a mechanism.

mod access;
mod boots;
mod channel;
mod console;
mod disk;
mod facts;
mod hits;
mod images;
mod inventory;
mod keeper;
mod launch;
mod lxcfs;
mod need;
mod network;
mod oom;
mod order;
mod pins;
mod processes;
mod rest;
mod session;
mod spawn;
mod upgrade;
mod usage;
mod words;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use ::images::recipe::Architecture;
use ::network::Error as NetworkError;
use engine::{
    BoxFuture, Effect, ExecOrder, Host, HostEvent, InheritedSession, NameEntry, Progress, RecipeFacts, Session,
    StepError, Survey, Usage,
};
use model::scale::Watch;
use model::{
    Boot, BootGen, BootSeen, Gauges, HostFacts, InstanceId, Knob, NamespaceKind, Observed, OverlayWay, PinId, PinSeen,
    PoolName, PoolSpec, Rest, Step,
};
use runtime::cgroup::Groups;
use runtime::protocol::{ExecSpec, KeepEvent, KeepRequest};
use runtime::wire::Blob;
use storage::OverlayPool;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::claims::Claimed;
use crate::crash;
use boots::Boots;
use images::Images;
use network::Networks;
use session::KeptSession;
use spawn::Spawn;

pub(crate) use facts::missing;

/// Events that may wait for the engine; each only says "look".
const EVENTS: usize = 4096;

/// How often and how soon the trash is emptied again when something in it still changes: half a minute in all.
const EMPTY_TRIES: u32 = 120;
const EMPTY_AGAIN: std::time::Duration = std::time::Duration::from_millis(250);

/// What the host is made with.
#[derive(Debug)]
pub(crate) struct HostConfig {
    pub(crate) state_dir: PathBuf,
    pub(crate) runtime_dir: PathBuf,
    pub(crate) keeper: PathBuf,
    pub(crate) images_dir: Option<PathBuf>,
    /// Tells this daemon's objects from those of another on the same host.
    pub(crate) mark: String,
    /// What it took of the host.
    pub(crate) claim: Claimed,
}

/// A look at the firewall and at what links can be made to do, which takes the kernel some time: begun while the database is
/// being opened.
pub(crate) struct FirstLook {
    networks: JoinHandle<::network::Result<Networks>>,
    link_limits: JoinHandle<bool>,
}

impl FirstLook {
    /// Begins it; `mark` and the directories are those of the [`HostConfig`].
    pub(crate) fn begin(mark: &str, state_dir: &Path, runtime_dir: &Path) -> FirstLook {
        let (mark, state_dir, runtime_dir) = (mark.to_owned(), state_dir.to_owned(), runtime_dir.to_owned());
        FirstLook {
            networks: tokio::task::spawn_blocking(move || Networks::new(&mark, &state_dir)),
            link_limits: tokio::task::spawn_blocking(move || facts::link_limits(&runtime_dir)),
        }
    }

    /// What there is, and whether links can be held to limits.
    async fn end(self) -> Result<(Networks, bool), StepError> {
        let seen = self.networks.await.map_err(|e| words::because("start", &e))?;
        let link_limits = self.link_limits.await.map_err(|e| words::because("start", &e))?;
        Ok((seen.map_err(|e| words::because("start", &e))?, link_limits))
    }
}

/// The number of each namespace that a process lives in.
type Inodes = BTreeMap<NamespaceKind, u64>;

/// The real host.
pub(crate) struct RealHost {
    state_dir: PathBuf,
    facts: HostFacts,
    boots: Arc<Boots>,
    networks: Arc<Networks>,
    images: Images,
    recipes: Vec<RecipeFacts>,
    pools: RwLock<BTreeMap<PoolName, Arc<OverlayPool>>>,
    runtime_dir: PathBuf,
    claim: Claimed,
    /// A step that panics, for tests of what happens then; empty for none.
    panic_step: String,
    /// One trash at a time is emptied for each pool.
    emptying: Arc<Mutex<HashMap<PathBuf, bool>>>,
    /// Pid of init and its namespaces, of boots that somebody asked about.
    inodes: Mutex<HashMap<Boot, (u32, Inodes)>>,
    receiver: Mutex<Option<mpsc::Receiver<HostEvent>>>,
    /// An upgrade whose keepers are to follow.
    upgrade: Mutex<Option<JoinHandle<Option<spawn::Program>>>>,
}

impl RealHost {
    /// Looks at the host and at what a former daemon left running on it.
    pub(crate) async fn find(config: HostConfig, look: FirstLook) -> Result<RealHost, StepError> {
        let because = |e: &(dyn std::error::Error + 'static)| words::because("start", e);
        for (directory, mode) in [("keep", 0o700), ("mnt", 0o711)] {
            make_dir(&config.runtime_dir.join(directory), mode).map_err(|e| because(&e))?;
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").map_err(|e| because(&e))?;
        let layout = runtime::cgroup::find_layout(&mounts).map_err(|e| because(&e))?;
        let groups = Arc::new(Groups::new(&layout, &format!("sysctl-{}", config.mark)));
        groups.prepare().map_err(|e| because(&e))?;
        let spawn = Arc::new(Spawn::new(config.keeper, &config.runtime_dir));
        spawn.ready().await?;
        let (networks, link_limits) = look.end().await?;
        let networks = Arc::new(networks);
        let facts = facts::find(layout, &groups, &config.state_dir, forced_overlay(), link_limits);
        let recipe_files = images::load_recipes(config.images_dir.as_deref(), &config.state_dir.join("recipes"))?;
        let recipes =
            recipe_files.iter().filter_map(|(fingerprint, (_, recipe))| recipe_facts(*fingerprint, recipe)).collect();
        let images = Images::new(&config.state_dir, spawn.clone(), config.claim.image_ids().base, recipe_files)?;
        let (events, receiver) = mpsc::channel(EVENTS);
        let directories = (config.runtime_dir.as_path(), config.state_dir.as_path());
        // Before the first keeper is asked for: one may have died with the former daemon.
        let begun = upgrade::begin(&spawn);
        let boots = Boots::new(groups, spawn, networks.clone(), facts.clone(), directories, events);
        boots.scan().await?;
        Ok(RealHost {
            state_dir: config.state_dir,
            facts,
            boots,
            networks,
            images,
            recipes,
            pools: RwLock::default(),
            runtime_dir: config.runtime_dir,
            claim: config.claim,
            panic_step: std::env::var("SYSCTL_PANIC_STEP").unwrap_or_default(),
            emptying: Arc::default(),
            inodes: Mutex::default(),
            receiver: Mutex::new(Some(receiver)),
            upgrade: Mutex::new(Some(begun)),
        })
    }

    /// Has guests see their limits from here on.
    pub(crate) fn keep_lxcfs(&self) {
        tokio::spawn(self.boots.lxcfs.clone().keep_alive(self.boots.clone()));
    }

    /// Ends what runs for guests only, as there are none any more.
    pub(crate) async fn end_lxcfs(&self) {
        self.boots.lxcfs.end().await;
    }

    /// Does what no answer has to wait for, the end of an upgrade with it; to be called once the API is served.
    pub(crate) fn settle_in(&self) {
        let boots = self.boots.clone();
        tokio::task::spawn_blocking(move || boots.watch_limits_of_all());
        if let Some(begun) = self.upgrade.lock().unwrap_or_else(PoisonError::into_inner).take() {
            tokio::spawn(upgrade::go_on(self.boots.clone(), begun));
        }
    }

    /// Ends what answers the guests, as the daemon is about to end.
    pub(crate) fn stop_gateways(&self) {
        self.networks.stop_gateways();
    }

    /// Takes what is left of us off the host, once nothing uses it any more.
    pub(crate) async fn leave(&self) -> Result<(), StepError> {
        let because = |e: &(dyn std::error::Error + 'static)| words::because("leave", e);
        self.networks.leave().map_err(|e| because(&e))?;
        self.end_lxcfs().await;
        self.boots.spawn.end().await?;
        self.boots.groups.remove_base().map_err(|e| because(&e))
    }

    /// The recipes as they are listed.
    pub(crate) fn recipes(&self) -> Vec<RecipeFacts> {
        self.recipes.clone()
    }

    fn pool(&self, name: &PoolName) -> Result<Arc<OverlayPool>, StepError> {
        let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner);
        let missing = || engine::step_error("pool", format!("storage pool {name} is not available"));
        pools.get(name).cloned().ok_or_else(missing)
    }

    /// The pool that images which were just made are unpacked in.
    fn first_pool(&self) -> Result<Arc<OverlayPool>, StepError> {
        let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner);
        pools.values().next().cloned().ok_or_else(|| engine::step_error("pool", "there is no storage pool"))
    }

    fn ensure_pool(&self, spec: &PoolSpec) -> Result<(), StepError> {
        let directory = if spec.source.is_empty() {
            self.state_dir.join("pools").join(spec.name.as_str())
        } else {
            PathBuf::from(&spec.source)
        };
        let pool = Arc::new(OverlayPool::new(directory));
        pool.prepare().map_err(|e| words::because("ensure_pool", &e))?;
        if self.pool(&spec.name).is_err() {
            // Begun by a daemon that died.
            pool.remove_partials().map_err(|e| words::because("ensure_pool", &e))?;
        }
        self.pools.write().unwrap_or_else(PoisonError::into_inner).insert(spec.name.clone(), pool.clone());
        self.empty_trash(&pool);
        Ok(())
    }

    fn is_emptying(&self, pool: &OverlayPool) -> bool {
        self.emptying.lock().unwrap_or_else(PoisonError::into_inner).contains_key(pool.directory())
    }

    /// Removes in the background what was thrown away; one thread for each pool, however much was.
    fn empty_trash(&self, pool: &Arc<OverlayPool>) {
        let key = pool.directory().to_owned();
        let emptying = self.emptying.clone();
        let lock = |e: &Mutex<HashMap<PathBuf, bool>>| -> Option<bool> {
            let mut map = e.lock().unwrap_or_else(PoisonError::into_inner);
            map.insert(key.clone(), true)
        };
        if lock(&emptying).is_some() {
            return;
        }
        let pool = pool.clone();
        tokio::task::spawn_blocking(move || {
            loop {
                let taken = |value: bool| {
                    let mut map = emptying.lock().unwrap_or_else(PoisonError::into_inner);
                    map.insert(pool.directory().to_owned(), value)
                };
                taken(false);
                // The image child of a daemon that died may still write there until it notices.
                let again = |error: storage::Error| {
                    tracing::debug!(%error, "the trash is emptied again");
                    std::thread::sleep(EMPTY_AGAIN);
                    pool.empty_trash()
                };
                let emptied = (0..EMPTY_TRIES).fold(pool.empty_trash(), |done, _| done.or_else(again));
                if let Err(error) = emptied {
                    tracing::warn!(%error, "the trash could not be emptied");
                }
                let mut map = emptying.lock().unwrap_or_else(PoisonError::into_inner);
                // Something was thrown away meanwhile: once more.
                if map.get(pool.directory()) != Some(&true) {
                    map.remove(pool.directory());
                    return;
                }
            }
        });
    }

    async fn act(&self, step: &Step, progress: Progress<'_>) -> Result<Effect, StepError> {
        let boots = &self.boots;
        assert_ne!(self.panic_step, step.name(), "a panic on purpose");
        match step {
            Step::EnsureImage { .. } => return Err(engine::step_error("ensure_image", "the engine does this itself")),
            Step::CreateRoot { id, root, pool, source } => {
                let (pool, id, root, source) = (self.pool(pool)?, *id, *root, *source);
                let worker = pool.clone();
                let made = blocking("create_root", move || worker.create_root(id, root, source)).await;
                made.inspect_err(|_| self.empty_trash(&pool))?;
            }
            Step::DiscardRoot { id, root, pool } => {
                let (pool, id, root) = (self.pool(pool)?, *id, *root);
                let worker = pool.clone();
                // With its last root file system goes its log, and first: without a root nobody would come here again.
                if pool.roots(id).is_ok_and(|roots| roots.iter().all(|one| *one == root)) {
                    self.boots.remove_logs(id);
                }
                blocking("discard_root", move || worker.discard_root(id, root)).await?;
                self.empty_trash(&pool);
            }
            Step::CreateGroup { boot, settings, owner } => boots.create_group(*boot, settings, *owner).await?,
            Step::Spawn { boot, root, source, spec } => {
                let pool = self.pool(&spec.pool)?;
                let (layout, fresh) = boots::layout_of(&pool, *boot, *root, *source);
                boots.spawn(*boot, layout, spec, fresh).await?;
            }
            Step::AttachNic { boot, nic } => boots.attach_nic(*boot, nic).await?,
            Step::Start { boot } => boots.start(*boot).await?,
            Step::SetLimits { boot, settings } => return boots.set_limits(*boot, settings).map(Effect::Turned),
            Step::Freeze { boot } => boots.set_frozen(*boot, true).await?,
            Step::Thaw { boot } => boots.set_frozen(*boot, false).await?,
            Step::Halt { boot, timeout_s } => boots.halt(*boot, *timeout_s).await?,
            Step::Kill { boot } => boots.kill(*boot).await?,
            Step::DetachNic { boot, device, .. } => boots.detach_nic(*boot, device).await?,
            Step::ReleaseKeeper { boot } => boots.release_keeper(*boot).await?,
            Step::RemoveGroup { boot } => boots.remove_group(*boot).await?,
            Step::AdoptImage { upload } => {
                let pool = self.first_pool()?;
                let adopted = self.images.adopt(upload, &pool, progress).await;
                self.empty_trash(&pool);
                return adopted.map(|facts| Effect::Image(Box::new(facts)));
            }
            Step::BuildImage { recipe } => {
                let pool = self.first_pool()?;
                let built = self.images.build(*recipe, &pool, progress).await;
                self.empty_trash(&pool);
                return built.map(|facts| Effect::Image(Box::new(facts)));
            }
            Step::UnpackLayer { fingerprint, pool } => {
                let pool = self.pool(pool)?;
                let unpacked = self.images.unpack(*fingerprint, &pool, progress).await;
                self.empty_trash(&pool);
                unpacked?;
            }
            Step::RemoveLayer { fingerprint, pool } => {
                let pool = self.pool(pool)?;
                pool.remove_layer(*fingerprint).map_err(|e| words::because("remove_layer", &e))?;
                self.empty_trash(&pool);
            }
            Step::RemoveImage { fingerprint } => self.images.remove(*fingerprint)?,
            Step::EnsurePool { pool } => self.ensure_pool(pool)?,
            Step::EnsureNetwork { network } => on_network("ensure_network", self.networks.ensure(network))?,
            Step::RemoveNetwork { name } => on_network("remove_network", self.networks.remove(name))?,
            Step::PinNamespace { spec } => boots.pins.pin(spec, &boots.guests()).await?,
            Step::UnpinNamespace { pin } => boots.pins.unpin(*pin).await?,
        }
        Ok(Effect::Done)
    }

    async fn run(&self, boot: Boot, order: ExecOrder) -> Result<Arc<dyn Session>, StepError> {
        let keeper = self.boots.running(boot)?;
        let number = keeper.new_session();
        // Known before its first output can come, and before the guest is found asleep: it would be held still with it.
        let session = KeptSession::new(keeper.clone(), number);
        keeper.add_session(session.clone());
        self.boots.rests.call(boot, "exec");
        let (columns, rows) = order.terminal.unwrap_or_default();
        let spec = ExecSpec {
            session: number,
            argv: order.argv,
            environment: order.environment,
            cwd: order.cwd,
            uid: order.uid,
            gid: order.gid,
            terminal: order.terminal.is_some(),
            columns,
            rows,
            silent: order.silent,
            confinement: order.sandbox.as_ref().map(launch::confinement).unwrap_or_default(),
            label: Blob(order.label),
            namespaces: launch::clone_bits(order.inside),
        };
        match keeper.ask(&KeepRequest::Exec(spec), &[]).await {
            Ok((KeepEvent::SessionStarted(state), rings)) => {
                session.set_rings(rings);
                session.take_state(&state);
                Ok(session)
            }
            Ok((other, _)) => {
                keeper.forget_session(number);
                Err(engine::step_error("exec", format!("unexpected answer {other:?}")))
            }
            Err(error) => {
                keeper.forget_session(number);
                Err(error)
            }
        }
    }
}

/// A blocking act on the disk, off the event loop.
async fn blocking<T: Send + 'static>(
    step: &'static str,
    act: impl FnOnce() -> storage::Result<T> + Send + 'static,
) -> Result<T, StepError> {
    match tokio::task::spawn_blocking(act).await {
        Ok(result) => result.map_err(|e| words::because(step, &e)),
        Err(error) => Err(words::because(step, &error)),
    }
}

fn on_network(step: &str, result: Result<(), NetworkError>) -> Result<(), StepError> {
    result.map_err(|e| words::because(step, &e))
}

fn make_dir(path: &Path, mode: u32) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// Tests make every kernel take every way that it can.
fn forced_overlay() -> Option<OverlayWay> {
    match std::env::var("SYSCTL_OVERLAY").ok()?.as_str() {
        "descriptors" => Some(OverlayWay::Descriptors),
        "attached-append" => Some(OverlayWay::AttachedAppend),
        "attached-string" => Some(OverlayWay::AttachedString),
        _ => None,
    }
}

fn recipe_facts(fingerprint: model::Fingerprint, recipe: &::images::recipe::Recipe) -> Option<RecipeFacts> {
    let architecture = Architecture::host()?;
    Some(RecipeFacts {
        fingerprint,
        aliases: recipe.names().map(str::to_owned).collect(),
        architecture: architecture.kernel_name().to_owned(),
        properties: recipe.metadata(architecture, 0).properties,
    })
}

impl Host for RealHost {
    fn facts(&self) -> &HostFacts {
        &self.facts
    }

    fn observe<'a>(&'a self, id: InstanceId, pool: &'a PoolName) -> BoxFuture<'a, Result<Observed, StepError>> {
        Box::pin(async move {
            let roots = self.pool(pool)?.roots(id).map_err(|e| words::because("observe", &e))?;
            let pins = self.boots.pins.of(id);
            Ok(Observed { roots, boots: self.boots.observe(id).await?, pins })
        })
    }

    fn glance(&self, id: InstanceId) -> BTreeMap<BootGen, BootSeen> {
        self.boots.glance(id)
    }

    fn survey(&self) -> BoxFuture<'_, Result<Survey, StepError>> {
        Box::pin(async move {
            let failed = |e: storage::Error| words::because("survey", &e);
            let networks = self.networks.found().map_err(|e| words::because("survey", &e))?;
            let mut survey =
                Survey { images: self.images.list(), networks: networks.into_iter().collect(), ..Survey::default() };
            let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner);
            for (name, pool) in &*pools {
                survey.layers.extend(pool.layers().map_err(failed)?.into_iter().map(|layer| (layer, name.clone())));
                survey.instances.extend(pool.volumes().map_err(failed)?.into_iter().map(|id| (id, name.clone())));
            }
            // Of a boot nobody knows the pool; any will do to look for it.
            let known: BTreeSet<InstanceId> = survey.instances.iter().map(|(id, _)| *id).collect();
            if let Some(pool) = pools.keys().next() {
                let more = self.boots.instances().into_iter().filter(|id| !known.contains(id));
                survey.instances.extend(more.map(|id| (id, pool.clone())));
            }
            Ok(survey)
        })
    }

    fn pins(&self) -> BTreeMap<PinId, PinSeen> {
        self.boots.pins.seen()
    }

    fn apply<'a>(&'a self, step: &'a Step, progress: Progress<'a>) -> BoxFuture<'a, Result<Effect, StepError>> {
        Box::pin(async move {
            crash::moment("before", step.name());
            let done = self.act(step, progress).await;
            crash::moment("after", step.name());
            done
        })
    }

    fn exec<'a>(&'a self, boot: Boot, order: ExecOrder) -> BoxFuture<'a, Result<Arc<dyn Session>, StepError>> {
        Box::pin(async move {
            crash::moment("before", "exec");
            let done = self.run(boot, order).await;
            crash::moment("after", "exec");
            done
        })
    }

    fn inherited(&self) -> BoxFuture<'_, Vec<InheritedSession>> {
        Box::pin(self.boots.inherited())
    }

    fn console<'a>(&'a self, boot: Boot) -> BoxFuture<'a, Result<Arc<dyn Session>, StepError>> {
        Box::pin(async move {
            let session: Arc<dyn Session> = self.boots.running(boot)?.console();
            self.boots.rests.call(boot, "the console");
            Ok(session)
        })
    }

    fn usage<'a>(&'a self, boot: Boot) -> BoxFuture<'a, Result<Usage, StepError>> {
        Box::pin(usage::of(self, boot))
    }

    fn passed(&self, when: &str, what: &str) {
        crash::moment(when, what);
    }

    fn gauges(&self, boot: Boot) -> Gauges {
        self.boots.groups.gauges(boot)
    }

    fn watch_need(&self, boot: Boot, watch: Watch) {
        self.boots.needs.watch(boot, watch);
    }

    fn watch_rest(&self, boot: Boot, rest: Rest) {
        self.boots.rests.watch(&self.boots, boot, rest);
    }

    fn sleeps_on(&self, boot: Boot) -> BoxFuture<'_, bool> {
        Box::pin(self.boots.sleeps_on(boot))
    }

    fn sessions(&self, boot: Boot) -> usize {
        self.boots.sessions(boot)
    }

    fn take_memory(&self, boot: Boot, down_to: u64) -> BoxFuture<'_, ()> {
        Box::pin(self.boots.take_memory(boot, down_to))
    }

    fn knob_file(&self, boot: Boot, knob: Knob) -> String {
        self.boots.groups.file(boot, knob).display().to_string()
    }

    fn names(&self, names: &[NameEntry]) {
        self.networks.set_names(names);
    }

    fn events(&self) -> mpsc::Receiver<HostEvent> {
        let mut receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        receiver.take().unwrap_or_else(|| mpsc::channel(1).1)
    }
}
