//! A daemon on the fake host, its life and death, and what must hold once it is at rest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use config::Written;
use engine::{
    Class, Engine, EngineConfig, FirstStart, Happening, InstanceRecord, NewInstance, NewNamespace, OperationView,
    Origin, Patch, RecipeFacts, Status, Verb,
};
use model::{Boot, Fingerprint, GuestSeen, IdMap, NamespaceKind, PinId, PoolSpec, ProjectName};
use store::{Kept, Store};
use testkit::fake::{FakeHost, World};
use testkit::faults::{At, Fault, Faults, Left};

pub(crate) type Armed = (At, usize, Fault);

pub(crate) struct Daemon {
    pub(crate) engine: Engine,
    pub(crate) host: Arc<FakeHost>,
    pub(crate) faults: Arc<Faults>,
}

/// A recipe's image, as the fake host builds it.
pub(crate) const BUILT: Fingerprint = Fingerprint([2; 32]);

/// An upload's image, as the fake host takes it.
pub(crate) const UPLOADED: Fingerprint = Fingerprint([9; 32]);

pub(crate) fn config() -> EngineConfig {
    let recipe = RecipeFacts {
        fingerprint: Fingerprint([1; 32]),
        aliases: vec!["debian".into()],
        architecture: "x86_64".into(),
        properties: [("os".to_owned(), "Debian".to_owned())].into(),
    };
    EngineConfig {
        id_ranges: vec![IdMap { base: 1 << 20, count: 1 << 24 }],
        recipes: vec![recipe],
        first_start: FirstStart {
            pool: Some(PoolSpec {
                name: "default".parse().expect("name"),
                driver: "overlay".into(),
                source: String::new(),
            }),
            network: Some(testkit::network()),
        },
    }
}

/// An engine, and the numbers of its events on the disk: where it may die is the same each time.
pub(crate) async fn started(host: Arc<FakeHost>, store: Store) -> engine::Result<Engine> {
    let engine = Engine::start(host, store, config()).await?;
    engine.numbered().await;
    Ok(engine)
}

/// Starts a daemon; what it leaves when it dies on the way.
pub(crate) async fn start_or_die(world: &Arc<Mutex<World>>, kept: Kept, armed: &[Armed]) -> Result<Daemon, Left> {
    let faults = Faults::new(kept, armed);
    let host = Arc::new(FakeHost::new(world.clone(), faults.clone()));
    let store = faults.open_store();
    let engine = tokio::select! {
        biased;
        left = faults.died() => return Err(left),
        engine = started(host.clone(), store) => engine.expect("engine"),
    };
    Ok(Daemon { engine, host, faults })
}

pub(crate) async fn start(world: &Arc<Mutex<World>>, kept: Kept) -> Daemon {
    start_or_die(world, kept, &[]).await.unwrap_or_else(|_| panic!("it died without a fault"))
}

pub(crate) fn new_instance(name: &str, start: bool) -> NewInstance {
    NewInstance {
        project: ProjectName::default(),
        name: Some(name.parse().expect("name")),
        written: Written::default(),
        profiles: None,
        description: String::new(),
        ephemeral: false,
        image: Some("debian".into()),
        start,
    }
}

/// A namespace object; one that is no user namespace belongs to `team`, and a network is at `/run/netns`.
pub(crate) fn object(kind: NamespaceKind, name: &str) -> NewNamespace {
    NewNamespace {
        kind,
        name: name.parse().expect("name"),
        description: String::new(),
        netns: kind == NamespaceKind::Net,
        users: (kind != NamespaceKind::User).then(|| "team".parse().expect("name")),
        origin: Origin::New,
    }
}

/// The network of a running instance, to be an object.
pub(crate) fn adopted(name: &str, from: &str) -> NewNamespace {
    let origin = Origin::Instance(ProjectName::default(), from.into());
    NewNamespace { netns: false, users: None, origin, ..object(NamespaceKind::Net, name) }
}

/// All namespace objects, in words.
pub(crate) fn objects(engine: &Engine) -> String {
    let all = engine.namespaces();
    let words = all.iter().map(|o| format!("{}{}", o.label(), if o.netns { " at /run/netns" } else { "" }));
    words.collect::<Vec<_>>().join(", ")
}

/// Longer than any time after which something is tried again.
const LONG: Duration = Duration::from_secs(3 * 3600);

impl Daemon {
    /// At rest, also with everything that is tried again later. Hours pass in no time: the clock is the test's.
    pub(crate) async fn rest(&self) {
        // What the host tells is on its way.
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        self.engine.rest().await;
        tokio::time::advance(LONG).await;
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        self.engine.rest().await;
    }

    pub(crate) async fn ended(&self, accepted: engine::Result<OperationView>) -> Result<(), String> {
        let accepted = accepted.map_err(|error| error.to_string())?;
        let view = self.engine.operations().wait(accepted.id).await.map_err(|error| error.to_string())?;
        if view.status == Status::Success { Ok(()) } else { Err(view.error) }
    }

    pub(crate) fn record(&self, name: &str) -> Option<InstanceRecord> {
        self.engine.instance(&ProjectName::default(), name).ok().map(|view| view.record.clone())
    }

    /// Actions that were told of an object, as they are kept, from an event's number on.
    pub(crate) fn told(&self, from: u64, name: &str) -> Vec<String> {
        let events = self.engine.store().events(from, u32::MAX).expect("events");
        let parsed = events.iter().map(|e| serde_json::from_str::<engine::Event>(&e.body).expect("an event"));
        parsed
            .filter_map(|event| match event.happening {
                Happening::Lifecycle(lifecycle) if lifecycle.name == name => Some(lifecycle.action),
                _ => None,
            })
            .collect()
    }

    /// Guests that run: boot and pid.
    pub(crate) fn running(&self) -> BTreeMap<Boot, u32> {
        let pid = |(boot, fake): (&Boot, &testkit::fake::FakeBoot)| match fake.guest {
            GuestSeen::Running { pid } => Some((*boot, pid)),
            _ => None,
        };
        self.host.world().boots.iter().filter_map(pid).collect()
    }

    /// Both directions: nothing on the host without a row, nothing in a row that is not on the host; memory and database say
    /// the same; nothing is under way.
    pub(crate) async fn check(&self, what: &str) {
        self.engine.flush().await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let world = self.host.world();
        assert_eq!(world.violations, [""; 0], "{what}");
        let views = self.engine.instances();
        let mut boots = 0;
        for view in &views {
            let record = &view.record;
            assert!(record.previous.is_none() && record.operation.is_none(), "{what}: unfinished row {record:?}");
            assert!(record.wish.exists, "{what}: a row of nothing");
            assert!(record.error.is_none(), "{what}: {:?}", record.error);
            assert!(world.roots.contains_key(&(record.id, record.wish.root)), "{what}: root missing");
            let Some(generation) = record.wish.power.boot() else { continue };
            boots += 1;
            let fake = world.boots.get(&Boot { id: record.id, generation });
            let fake = fake.unwrap_or_else(|| panic!("{what}: boot missing"));
            assert!(matches!(fake.guest, GuestSeen::Running { .. }) && fake.keeper, "{what}: {fake:?}");
            let (wires, links): (Vec<_>, Vec<_>) = fake.nics.values().partition(|nic| nic.wire.is_some());
            let of_chains = self.engine.networks();
            let hops = of_chains.iter().filter_map(|network| network.chain()).flat_map(|chain| &chain.hops);
            let hops = hops.filter(|hop| hop.function == record.id).count();
            assert_eq!(links.len(), record.wish.nics.len() + 2 * hops, "{what}: links");
            assert_eq!(wires.len(), wired(&views, record), "{what}: wires");
            let limits = self.engine.expand(record).expect("a definition").config;
            let limits = plan::scaled(&config::limits(&limits), &config::autoscale(&limits), &record.levels);
            let wanted = plan::settings(&limits, record.id, &testkit::fake::facts());
            let group = fake.group.as_ref().unwrap_or_else(|| panic!("{what}: group missing"));
            assert_eq!(group.settings, wanted, "{what}: limits");
        }
        assert_eq!(world.roots.len(), views.len(), "{what}: roots without a row");
        assert_eq!(world.boots.len(), boots, "{what}: boots without a row: {:?}", world.boots);
        self.check_objects(&world, what);
        self.check_store(&views, what);
    }

    fn check_objects(&self, world: &World, what: &str) {
        let rows: BTreeSet<Fingerprint> = self.engine.images().iter().map(|image| image.facts.fingerprint).collect();
        assert_eq!(world.images.keys().copied().collect::<BTreeSet<_>>(), rows, "{what}: images");
        for (fingerprint, pool) in &world.layers {
            let known =
                self.engine.images().iter().any(|i| i.facts.fingerprint == *fingerprint && i.pools.contains(pool));
            let used = world.roots.values().any(|source| *source == model::RootSource::Image(*fingerprint));
            assert!(known || used, "{what}: layer {fingerprint} of nothing");
        }
        for image in self.engine.images() {
            let missing =
                image.pools.iter().find(|pool| !world.layers.contains(&(image.facts.fingerprint, (*pool).clone())));
            assert_eq!(missing, None, "{what}: layer of a row");
        }
        assert_eq!(world.pools.len(), self.engine.pools().len(), "{what}: pools");
        // A purge removes bridges and pins; their rows go with the database.
        let objects = self.engine.namespaces();
        let own = |view: &Arc<engine::InstanceView>| {
            let pins = self.engine.sandbox(&view.record).expect("a sandbox").namespaces.pins().collect::<Vec<PinId>>();
            pins.into_iter().filter(|pin| pin.of == view.record.id.0).collect::<Vec<PinId>>()
        };
        let views = self.engine.instances();
        for view in views.iter().filter(|view| view.pid().is_some()) {
            assert!(
                own(view).iter().all(|pin| world.pins.contains_key(pin)),
                "{what}: a network that does not persist"
            );
        }
        let mut pins: BTreeSet<PinId> = objects.iter().map(engine::NamespaceRecord::pin).collect();
        pins.extend(views.iter().flat_map(own));
        assert!(world.pins.keys().all(|pin| pins.contains(pin)), "{what}: pins of nothing");
        let purged = world.networks.is_empty();
        for object in objects.iter().filter(|_| !purged) {
            let netns = object.netns.then(|| object.name.as_str());
            assert!(world.pins.get(&object.pin()).is_some_and(|pin| pin.is_whole(netns)), "{what}: {object:?}");
        }
        assert!(world.networks.len() <= self.engine.networks().len(), "{what}: networks");
        let unfinished: Vec<_> = self.engine.operations().list().into_iter().filter(|o| !o.status.is_final()).collect();
        assert!(unfinished.is_empty(), "{what}: {unfinished:?}");
    }

    fn check_store(&self, views: &[Arc<engine::InstanceView>], what: &str) {
        let store = self.engine.store();
        let documents = |kind: &str| store.list(kind).expect("list");
        let mut records: Vec<InstanceRecord> =
            documents("instance").iter().map(|d| serde_json::from_str(&d.body).expect("a record")).collect();
        let mut remembered: Vec<InstanceRecord> = views.iter().map(|view| view.record.clone()).collect();
        records.sort_by_key(|record| record.id);
        remembered.sort_by_key(|record| record.id);
        assert_eq!(records, remembered, "{what}: rows");
        let objects = self.engine.namespaces();
        assert_eq!(documents("namespace").len(), objects.len(), "{what}: namespace rows");
        assert_eq!(documents("image").len(), self.engine.images().len(), "{what}: image rows");
        assert_eq!(documents("profile").len(), self.engine.profiles(&ProjectName::default()).len(), "{what}: profiles");
        let nics: usize = views.iter().map(|view| view.record.wish.nics.len()).sum();
        let users: Vec<IdMap> = objects.iter().filter_map(|object| object.ids).collect();
        let (ids, names) = (views.len() + users.len(), objects.len());
        let expected = [
            ("instance-name", views.len()),
            ("ids", ids),
            ("mac", nics),
            ("address", 2 * nics),
            ("namespace-name", names),
        ];
        for (space, count) in expected {
            assert_eq!(store.claims(space).expect("claims").len(), count, "{what}: claims of {space}");
        }
        let ids = views.iter().map(|view| view.record.wish.ids).chain(users);
        let ids: BTreeSet<String> = ids.map(|ids| ids.base.to_string()).collect();
        let claimed: BTreeSet<String> =
            store.claims("ids").expect("claims").into_iter().map(|(value, _)| value).collect();
        assert_eq!(claimed, ids, "{what}: ids");
        let of_task = |view: &OperationView| view.class == Class::Task;
        let told = self.engine.operations().list().into_iter().filter(of_task);
        let kept: BTreeMap<_, _> = documents("operation")
            .iter()
            .map(|d| serde_json::from_str::<OperationView>(&d.body).expect("an operation"))
            .map(|view| (view.id, view.status))
            .collect();
        // One that could not begin was promised to nobody, and is told as long as this daemon lives.
        let unpromised = |view: &OperationView| view.status == Status::Failure && !kept.contains_key(&view.id);
        for view in told.filter(|view| !unpromised(view)) {
            assert_eq!(kept.get(&view.id), Some(&view.status), "{what}: {view:?} as it is kept");
        }
    }
}

/// How many wires end at an instance that runs: those whose both ends do.
fn wired(views: &[Arc<engine::InstanceView>], record: &InstanceRecord) -> usize {
    let running = || views.iter().filter(|view| view.record.wish.power.boot().is_some());
    let runs = |name: &model::InstanceName| running().any(|view| view.record.name == *name);
    let own = config::wires(&record.wish.written).filter(|wire| runs(&wire.peer)).count();
    let of_others = running().flat_map(|view| config::wires(&view.record.wish.written));
    own + of_others.filter(|wire| wire.peer == record.name).count()
}

/// A chain with these functions.
pub(crate) fn chain(functions: &str) -> engine::NewNetwork {
    let keys = [("chain.to", "web1:eth0"), ("chain.functions", functions)];
    let config = keys.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    engine::NewNetwork { name: "edge".parse().expect("name"), description: String::new(), config }
}

/// With a wire to the other instance, or a device of no kind in its place.
pub(crate) fn wire(with: bool) -> Verb {
    let device: &[(&str, &str)] =
        if with { &[("type", "nic"), ("nictype", "wire"), ("peer", "peer:wan")] } else { &[("type", "none")] };
    let device = device.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let written = Written { devices: [("eth1".to_owned(), device)].into(), ..Written::default() };
    Verb::Patch(Box::new(Patch { written, ..Patch::default() }))
}
