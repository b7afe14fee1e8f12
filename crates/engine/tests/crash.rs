//! Every verb, with the daemon dying before and after every step, every step refused, and every step done twice.
//!
//! Enumerated: a run without faults counts the steps, then each is hit in turn. The world outlives the daemon.

#![allow(missing_docs)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use config::Written;
use engine::{
    Engine, EngineConfig, FirstStart, ImageWish, InstanceStatus, NewInstance, OperationView, Patch, RecipeFacts,
    Status, Update, Verb,
};
use model::{End, Fingerprint, IdMap, NetworkSpec, PoolSpec, ProjectName, StopKind};
use store::Store;
use testkit::Scratch;
use testkit::fake::{FakeHost, Fault, World};

/// A row of the crash table: what is asked, and the state that it is asked in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    Create,
    Launch,
    LaunchUnbuilt,
    Start,
    StopClean,
    StopStubborn,
    StopForce,
    StopEphemeral,
    RestartClean,
    RestartForce,
    Freeze,
    Thaw,
    StopFrozen,
    Limits,
    RemoveNic,
    Delete,
    GuestReboot,
    GuestHalt,
    GuestDies,
}

/// The crash table. `cargo xtask tidy` fails when a step or a verb is in no row.
const CASES: [Case; 19] = [
    Case::Create,
    Case::Launch,
    Case::LaunchUnbuilt,
    Case::Start,
    Case::StopClean,
    Case::StopStubborn,
    Case::StopForce,
    Case::StopEphemeral,
    Case::RestartClean,
    Case::RestartForce,
    Case::Freeze,
    Case::Thaw,
    Case::StopFrozen,
    Case::Limits,
    Case::RemoveNic,
    Case::Delete,
    Case::GuestReboot,
    Case::GuestHalt,
    Case::GuestDies,
];

/// Steps that the cases take, each with every fault. `cargo xtask tidy` fails when a step of `model::Step` is not among them.
const STEPS: [&str; 22] = [
    "adopt_image",
    "attach_nic",
    "build_image",
    "create_group",
    "create_root",
    "detach_nic",
    "discard_root",
    "ensure_network",
    "ensure_pool",
    "freeze",
    "halt",
    "kill",
    "release_keeper",
    "remove_group",
    "remove_image",
    "remove_layer",
    "remove_network",
    "set_limits",
    "spawn",
    "start",
    "thaw",
    "unpack_layer",
];

/// How the instance should be in the end; `None`: gone.
type Outcome = Option<InstanceStatus>;

impl Case {
    /// State before, and state that is wished for.
    fn states(self) -> (Outcome, Outcome) {
        use InstanceStatus::{Frozen, Running, Stopped};
        match self {
            Case::Create => (None, Some(Stopped)),
            Case::Launch | Case::LaunchUnbuilt => (None, Some(Running)),
            Case::Start => (Some(Stopped), Some(Running)),
            Case::StopClean | Case::StopStubborn | Case::StopForce | Case::GuestHalt | Case::GuestDies => {
                (Some(Running), Some(Stopped))
            }
            Case::StopEphemeral => (Some(Running), None),
            Case::RestartClean | Case::RestartForce | Case::Limits | Case::RemoveNic | Case::GuestReboot => {
                (Some(Running), Some(Running))
            }
            Case::Freeze => (Some(Running), Some(Frozen)),
            Case::Thaw => (Some(Frozen), Some(Running)),
            Case::StopFrozen => (Some(Frozen), Some(Stopped)),
            Case::Delete => (Some(Stopped), None),
        }
    }

    /// The guest does it by itself: no operation.
    fn is_guests(self) -> bool {
        matches!(self, Case::GuestReboot | Case::GuestHalt | Case::GuestDies)
    }
}

struct Daemon {
    engine: Engine,
    host: Arc<FakeHost>,
}

const CLEAN: StopKind = StopKind::Clean { timeout_s: 5 };

fn config() -> EngineConfig {
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
            network: Some(NetworkSpec {
                name: "br0".parse().expect("name"),
                ipv4: Some("10.9.0.1/24".parse().expect("cidr")),
                ipv6: Some("fd00::1/64".parse().expect("cidr")),
                nat: true,
                mtu: None,
                domain: "sysctl".into(),
            }),
        },
    }
}

async fn start(world: &Arc<Mutex<World>>, database: &Path, fault: Option<(usize, Fault)>) -> Daemon {
    let host = Arc::new(FakeHost::new(world.clone(), fault));
    let store = Store::open(database).expect("open");
    let engine = Engine::start(host.clone(), store, config()).await.expect("engine");
    Daemon { engine, host }
}

fn new_instance(case: Case, start: bool) -> NewInstance {
    NewInstance {
        project: ProjectName::default(),
        name: Some("web1".parse().expect("name")),
        written: Written::default(),
        profiles: None,
        description: String::new(),
        ephemeral: case == Case::StopEphemeral,
        image: Some("debian".into()),
        start,
    }
}

impl Daemon {
    fn status(&self) -> Outcome {
        self.engine.instance(&ProjectName::default(), "web1").ok().map(|view| view.status())
    }

    async fn ask(&self, verb: Verb) -> engine::Result<OperationView> {
        let accepted = self.engine.ask(&ProjectName::default(), "web1", verb, None, Some("root".into())).await?;
        self.engine.operations().wait(accepted.id).await
    }

    async fn create(&self, new: NewInstance) -> engine::Result<OperationView> {
        let accepted = self.engine.create(new, None).await?;
        self.engine.operations().wait(accepted.id).await
    }

    /// Brings the world to the state before the case, without faults.
    async fn set_up(&self, case: Case) {
        let (before, _) = case.states();
        // Only one case is about the first use of an image.
        if case != Case::LaunchUnbuilt {
            let other = NewInstance { name: Some("other".parse().expect("name")), ..new_instance(Case::Create, false) };
            assert_eq!(self.create(other).await.expect("other").status, Status::Success);
        }
        if let Some(status) = before {
            let start = status != InstanceStatus::Stopped;
            let done = self.create(new_instance(case, start)).await.expect("set up");
            assert_eq!(done.status, Status::Success, "{}", done.error);
            if status == InstanceStatus::Frozen {
                self.ask(Verb::Freeze).await.expect("freeze");
            }
        }
        if case == Case::StopStubborn {
            let id = self.engine.instance(&ProjectName::default(), "web1").expect("web1").record.id;
            self.host.world().stubborn.insert(id);
        }
        self.engine.rest().await;
        assert_eq!(self.status(), before, "set up of {case:?}");
    }

    /// Does what the case is about.
    async fn act(&self, case: Case) -> engine::Result<Option<OperationView>> {
        let update = |change: fn(&mut Written)| {
            let mut written =
                self.engine.instance(&ProjectName::default(), "web1").expect("web1").record.wish.written.clone();
            change(&mut written);
            let profiles = vec!["default".parse().expect("name")];
            Verb::Update(Box::new(Update { written, profiles, description: String::new(), ephemeral: false }))
        };
        let verb = match case {
            Case::Create => return self.create(new_instance(case, false)).await.map(Some),
            Case::Launch | Case::LaunchUnbuilt => return self.create(new_instance(case, true)).await.map(Some),
            Case::GuestReboot | Case::GuestHalt | Case::GuestDies => {
                let end = match case {
                    Case::GuestReboot => End::Reboot,
                    Case::GuestHalt => End::Halt,
                    _ => End::Signal(11),
                };
                let view = self.engine.instance(&ProjectName::default(), "web1")?;
                self.host.end_guest(view.record.id, end);
                // Until somebody has looked: then the old boot is gone from the view.
                let old = view.record.wish.power.boot();
                let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
                while self.engine.instance(&ProjectName::default(), "web1")?.record.wish.power.boot() == old {
                    assert!(tokio::time::Instant::now() < deadline, "nobody looked");
                    tokio::task::yield_now().await;
                }
                return Ok(None);
            }
            Case::Start => Verb::Start,
            Case::StopClean | Case::StopStubborn | Case::StopFrozen | Case::StopEphemeral => Verb::Stop(CLEAN),
            Case::StopForce => Verb::Stop(StopKind::Force),
            Case::RestartClean => Verb::Restart(CLEAN),
            Case::RestartForce => Verb::Restart(StopKind::Force),
            Case::Freeze => Verb::Freeze,
            Case::Thaw => Verb::Thaw,
            Case::Limits => update(|w| drop(w.config.insert("limits.processes".into(), "99".into()))),
            Case::RemoveNic => {
                let mut written = Written::default();
                written.devices.insert("eth0".into(), [("type".to_owned(), "none".to_owned())].into());
                Verb::Patch(Box::new(Patch { written, ..Patch::default() }))
            }
            Case::Delete => Verb::Delete,
        };
        self.ask(verb).await.map(Some)
    }

    /// Both directions: nothing on the host without a row, nothing in a row that is not on the host.
    async fn check(&self, what: &str) {
        // Behind everything that was submitted and not waited for.
        self.engine.store().commit(store::Txn::default()).await.expect("commit");
        let world = self.host.world();
        assert_eq!(world.violations, [""; 0], "{what}");
        let mut expected_boots = 0;
        for view in self.engine.instances() {
            let record = &view.record;
            assert!(record.previous.is_none() && record.operation.is_none(), "{what}: unfinished row");
            assert!(record.error.is_none(), "{what}: {:?}", record.error);
            assert!(world.roots.contains(&(record.id, record.wish.root)), "{what}: root missing");
            if let Some(boot) = record.wish.power.boot() {
                expected_boots += 1;
                let fake = world.boots.iter().find(|(b, _)| b.id == record.id && b.generation == boot);
                let (_, fake) = fake.unwrap_or_else(|| panic!("{what}: boot missing"));
                assert!(matches!(fake.guest, model::GuestSeen::Running { .. }), "{what}: {fake:?}");
                let nics = record.wish.nics.len();
                assert_eq!(fake.nics.len(), nics, "{what}: links");
            }
        }
        assert_eq!(world.roots.len(), self.engine.instances().len(), "{what}: roots without a row");
        assert_eq!(world.boots.len(), expected_boots, "{what}: boots without a row: {:?}", world.boots);
        let unfinished: Vec<_> = self.engine.operations().list().into_iter().filter(|o| !o.status.is_final()).collect();
        assert!(unfinished.is_empty(), "{what}: {unfinished:?}");
        let claimed = self.engine.store().claims("instance-name").expect("claims").len();
        assert_eq!(claimed, self.engine.instances().len(), "{what}: names claimed");
    }
}

struct Lab {
    scratch: Scratch,
    count: usize,
}

impl Lab {
    fn database(&mut self) -> PathBuf {
        self.count += 1;
        let directory = self.scratch.join(self.count.to_string());
        std::fs::create_dir(&directory).expect("mkdir");
        directory.join("x.db")
    }

    /// What is left on the disk when the daemon is killed now.
    fn remains(&mut self, of: &Path) -> PathBuf {
        let copy = self.database();
        for suffix in ["", "-wal"] {
            let from = PathBuf::from(format!("{}{suffix}", of.display()));
            if from.exists() {
                std::fs::copy(&from, format!("{}{suffix}", copy.display())).expect("copy");
            }
        }
        copy
    }
}

/// Steps that the case takes, by name.
async fn count_steps(lab: &mut Lab, case: Case) -> Vec<&'static str> {
    let daemon = start(&Arc::default(), &lab.database(), None).await;
    daemon.set_up(case).await;
    let before = daemon.host.world().log.len();
    let done = daemon.act(case).await.expect("acts");
    if let Some(done) = done {
        assert_eq!(done.status, Status::Success, "{case:?}: {}", done.error);
    }
    daemon.engine.rest().await;
    assert_eq!(daemon.status(), case.states().1, "{case:?}");
    daemon.check(&format!("{case:?} without a fault")).await;
    let log = &daemon.host.world().log;
    log[before..].to_vec()
}

async fn with_crash(lab: &mut Lab, case: Case, n: usize, fault: Fault) {
    let what = format!("{case:?}, {fault:?} step {n}");
    let world: Arc<Mutex<World>> = Arc::default();
    let database = lab.database();
    let daemon = start(&world, &database, None).await;
    daemon.set_up(case).await;
    daemon.host.arm(n, fault);
    let crash = daemon.host.crash.clone();
    tokio::select! {
        biased;
        () = crash.notified() => {}
        done = daemon.act(case) => {
            // The guest's own doings end before the steps that follow from them.
            assert!(case.is_guests(), "{what}: no crash: {done:?}");
            crash.notified().await;
        }
    }
    let remains = lab.remains(&database);
    drop(daemon);
    let daemon = start(&world, &remains, None).await;
    daemon.engine.rest().await;
    let (before, after) = case.states();
    let found = daemon.status();
    let (found_now, forward) = (found, found == after);
    assert!(forward || found == before, "{what}: {found_now:?}");
    daemon.check(&what).await;
    // What was asked for and told is done; the same again works or is refused for being done.
    if !forward && !case.is_guests() {
        let again = daemon.act(case).await.expect(&what).expect("an operation");
        assert_eq!(again.status, Status::Success, "{what}: again: {}", again.error);
        daemon.check(&format!("{what}, again")).await;
    }
    assert_eq!(daemon.status(), after, "{what}: at last");
}

async fn with_refusal(lab: &mut Lab, case: Case, n: usize) {
    let what = format!("{case:?}, step {n} refused");
    let daemon = start(&Arc::default(), &lab.database(), None).await;
    daemon.set_up(case).await;
    daemon.host.arm(n, Fault::Refuse);
    let done = daemon.act(case).await.expect(&what);
    daemon.engine.rest().await;
    let again = daemon.status();
    let (before, after) = case.states();
    match done {
        Some(done) if done.status == Status::Failure => {
            assert!(done.error.contains("refused on purpose"), "{what}: {}", done.error);
        }
        // Once something is gone there is only forward, and the second try is not refused.
        Some(_) => assert_eq!(again, after, "{what}: success that is none"),
        None => {}
    }
    // A new instance that could not be started stays, stopped; ends that were under way are gone through with.
    // A restart whose old boot is gone and whose new one is refused leaves a stopped instance.
    let may_stop = matches!(case, Case::Launch | Case::LaunchUnbuilt | Case::RestartClean | Case::RestartForce);
    let stays = may_stop && again == Some(InstanceStatus::Stopped);
    assert!(again == before || again == after || stays, "{what}: {again:?}");
    daemon.check(&what).await;
    if again == before && before != after && !case.is_guests() {
        let done = daemon.act(case).await.expect(&what).expect("an operation");
        assert_eq!(done.status, Status::Success, "{what}: again: {}", done.error);
        assert_eq!(daemon.status(), after, "{what}: again");
        daemon.check(&format!("{what}, again")).await;
    }
}

async fn with_repetition(lab: &mut Lab, case: Case, n: usize) {
    let what = format!("{case:?}, step {n} twice");
    let daemon = start(&Arc::default(), &lab.database(), None).await;
    daemon.set_up(case).await;
    daemon.host.arm(n, Fault::Twice);
    if let Some(done) = daemon.act(case).await.expect(&what) {
        assert_eq!(done.status, Status::Success, "{what}: {}", done.error);
    }
    daemon.engine.rest().await;
    assert_eq!(daemon.status(), case.states().1, "{what}");
    daemon.check(&what).await;
}

/// What is done with everything that is no instance, and with all instances at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    FirstStart,
    Import,
    DeleteImage,
    Purge,
    Halt,
}

const ACTS: [Act; 5] = [Act::FirstStart, Act::Import, Act::DeleteImage, Act::Purge, Act::Halt];

impl Daemon {
    async fn done(&self, accepted: engine::Result<OperationView>) -> Result<(), String> {
        let accepted = accepted.map_err(|error| error.to_string())?;
        let view = self.engine.operations().wait(accepted.id).await.map_err(|error| error.to_string())?;
        if view.status == Status::Success { Ok(()) } else { Err(view.error) }
    }

    async fn import(&self) -> Result<(), String> {
        self.done(self.engine.import_image("upload".into(), ImageWish::default()).await).await
    }

    async fn prepare(&self, act: Act) {
        match act {
            Act::FirstStart | Act::Import => {}
            Act::DeleteImage => self.import().await.expect("import"),
            Act::Purge | Act::Halt => {
                self.import().await.expect("import");
                let done = self.create(new_instance(Case::Launch, true)).await.expect("launch");
                assert_eq!(done.status, Status::Success, "{}", done.error);
            }
        }
        self.engine.rest().await;
    }

    async fn do_it(&self, act: Act) -> Result<(), String> {
        match act {
            Act::FirstStart => Ok(()),
            // Once its row is written, it is imported; its layer is unpacked when it is first needed.
            Act::Import if !self.engine.images().is_empty() => Ok(()),
            Act::Import => self.import().await,
            Act::DeleteImage => match self.engine.images().first() {
                Some(image) => {
                    let fingerprint = image.facts.fingerprint.to_string();
                    self.done(self.engine.delete_image(&fingerprint).await).await
                }
                // A daemon that died after the first commit goes through with it when it starts.
                None => Ok(()),
            },
            Act::Purge => match self.engine.purge().await {
                failed if failed.is_empty() => Ok(()),
                failed => Err(failed.join("; ")),
            },
            Act::Halt => {
                self.engine.halt().await;
                Ok(())
            }
        }
    }

    /// Images, layers, pools and networks: each is on the host when a row says so, and only then.
    async fn check_objects(&self, what: &str) {
        self.engine.store().commit(store::Txn::default()).await.expect("commit");
        let world = self.host.world();
        assert_eq!(world.violations, [""; 0], "{what}");
        let rows: BTreeSet<Fingerprint> = self.engine.images().iter().map(|image| image.facts.fingerprint).collect();
        assert_eq!(world.images.keys().copied().collect::<BTreeSet<_>>(), rows, "{what}: images");
        let used = self.engine.instances().len();
        for (fingerprint, _) in &world.layers {
            assert!(rows.contains(fingerprint) || used > 0, "{what}: layer {fingerprint} of nothing");
        }
        assert_eq!(world.pools.len(), self.engine.pools().len(), "{what}: pools");
        let unfinished: Vec<_> = self.engine.operations().list().into_iter().filter(|o| !o.status.is_final()).collect();
        assert!(unfinished.is_empty(), "{what}: {unfinished:?}");
    }

    /// What holds once it was done.
    fn check_done(&self, act: Act, what: &str) {
        let world = self.host.world();
        match act {
            Act::FirstStart => assert!(world.pools.len() == 1 && world.networks.len() == 1, "{what}: {world:?}"),
            Act::Import => assert_eq!(world.images.len(), 1, "{what}"),
            Act::DeleteImage => assert!(world.images.is_empty() && world.layers.is_empty(), "{what}: {world:?}"),
            Act::Purge => {
                let left = (world.roots.len(), world.boots.len(), world.images.len(), world.layers.len());
                assert_eq!((left, world.networks.len()), ((0, 0, 0, 0), 0), "{what}");
            }
            Act::Halt => assert!(world.boots.is_empty(), "{what}: {world:?}"),
        }
    }
}

/// Starts a daemon that may die while it starts.
async fn start_until_crash(world: &Arc<Mutex<World>>, database: &Path, fault: (usize, Fault)) {
    let host = Arc::new(FakeHost::new(world.clone(), Some(fault)));
    let crash = host.crash.clone();
    let store = Store::open(database).expect("open");
    tokio::select! {
        biased;
        () = crash.notified() => {}
        _ = Engine::start(host, store, config()) => panic!("no crash"),
    }
}

async fn object_steps(lab: &mut Lab, act: Act) -> Vec<&'static str> {
    let daemon = start(&Arc::default(), &lab.database(), None).await;
    daemon.prepare(act).await;
    let before = if act == Act::FirstStart { 0 } else { daemon.host.world().log.len() };
    daemon.do_it(act).await.expect("acts");
    daemon.engine.rest().await;
    daemon.check_done(act, &format!("{act:?} without a fault"));
    daemon.host.world().log.split_off(before)
}

async fn object_crash(lab: &mut Lab, act: Act, n: usize, fault: Fault) {
    let what = format!("{act:?}, {fault:?} step {n}");
    let world: Arc<Mutex<World>> = Arc::default();
    let database = lab.database();
    if act == Act::FirstStart {
        start_until_crash(&world, &database, (n, fault)).await;
    } else {
        let daemon = start(&world, &database, None).await;
        daemon.prepare(act).await;
        daemon.host.arm(n, fault);
        let crash = daemon.host.crash.clone();
        tokio::select! {
            biased;
            () = crash.notified() => {}
            done = daemon.do_it(act) => panic!("{what}: no crash: {done:?}"),
        }
    }
    let remains = lab.remains(&database);
    let daemon = start(&world, &remains, None).await;
    daemon.engine.rest().await;
    daemon.check_objects(&what).await;
    if act == Act::Halt {
        // Whatever was stopped by then, the next daemon starts it again.
        assert_eq!(daemon.status(), Some(InstanceStatus::Running), "{what}");
    }
    daemon.do_it(act).await.unwrap_or_else(|error| panic!("{what}: again: {error}"));
    daemon.engine.rest().await;
    daemon.check_done(act, &what);
}

async fn object_repetition(lab: &mut Lab, act: Act, n: usize) {
    let what = format!("{act:?}, step {n} twice");
    let first = (act == Act::FirstStart).then_some((n, Fault::Twice));
    let daemon = start(&Arc::default(), &lab.database(), first).await;
    daemon.prepare(act).await;
    if first.is_none() {
        daemon.host.arm(n, Fault::Twice);
    }
    daemon.do_it(act).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    daemon.engine.rest().await;
    daemon.check_done(act, &what);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_verb_survives_every_fault_at_every_step() {
    let mut lab = Lab { scratch: Scratch::new("crash"), count: 0 };
    let (mut points, mut steps) = (0, 0);
    let mut hit = BTreeSet::new();
    for case in CASES {
        let taken = count_steps(&mut lab, case).await;
        let count = taken.len();
        assert!(count > 0, "{case:?} takes no step");
        hit.extend(taken);
        steps += count;
        for n in 0..count {
            with_crash(&mut lab, case, n, Fault::CrashBefore).await;
            with_crash(&mut lab, case, n, Fault::CrashAfter).await;
            with_refusal(&mut lab, case, n).await;
            with_repetition(&mut lab, case, n).await;
            points += 4;
        }
    }
    for act in ACTS {
        let taken = object_steps(&mut lab, act).await;
        assert!(!taken.is_empty(), "{act:?} takes no step");
        steps += taken.len();
        for n in 0..taken.len() {
            object_crash(&mut lab, act, n, Fault::CrashBefore).await;
            object_crash(&mut lab, act, n, Fault::CrashAfter).await;
            object_repetition(&mut lab, act, n).await;
            points += 3;
        }
        hit.extend(taken);
    }
    assert_eq!(hit, BTreeSet::from(STEPS), "steps that cases take, and the table of them");
    let verbs = CASES.len() + ACTS.len();
    eprintln!("fake host: {verbs} verbs, {steps} steps, fault points {points}, violations 0");
}
