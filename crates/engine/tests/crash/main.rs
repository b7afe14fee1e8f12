//! Every verb and every act, with the daemon dying before and after every step, look and commit, with each of them refused
//! once and for good, with every step done twice, and with the keepers dying at every step.
//!
//! Enumerated: a run without faults counts steps, looks and commits, then each is hit in turn. The world outlives the daemon;
//! the database is taken as it is at the instant of the crash, and as it is when the disk still gets what was on its way.

#![allow(missing_docs)]

mod acts;
mod holes;
mod lab;
mod rows;
mod seen;
mod sequences;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use engine::{Class, Status};
use lab::{Armed, Daemon, start, start_or_die};
use model::Boot;
use rows::{ROWS, Row, STEPS};
use store::Kept;
use testkit::fake::{FakeHost, World};
use testkit::faults::{At, Fault, Faults};
use uuid::Uuid;

/// How things were when the row was asked for.
struct Scene {
    row: Row,
    what: String,
    world: Arc<Mutex<World>>,
    /// Operations of the set-up.
    known: BTreeSet<Uuid>,
    /// The first event after the set-up.
    from: u64,
    bystanders: BTreeMap<Boot, u32>,
    promise: Cell<Option<Uuid>>,
    /// What the caller heard last.
    heard: Cell<Option<bool>>,
}

/// A daemon and a world in the state before a row.
async fn scene(row: Row, what: String) -> (Daemon, Scene) {
    let world: Arc<Mutex<World>> = Arc::default();
    let daemon = start(&world, Kept::default()).await;
    daemon.set_up(row).await;
    daemon.engine.flush().await.expect("flush");
    let named = |name| daemon.record(name).map(|record| record.id);
    let (web1, side) = (named("web1"), named("side"));
    let peer = named("peer").filter(|_| row == Row::PeerStops);
    let touched = |boot: &Boot| [web1, side, peer].contains(&Some(boot.id)) || matches!(row, Row::Purge | Row::Halt);
    let scene = Scene {
        row,
        what,
        world,
        known: daemon.engine.operations().list().iter().map(|o| o.id).collect(),
        from: daemon.engine.events().newest() + 1,
        bystanders: daemon.running().into_iter().filter(|(boot, _)| !touched(boot)).collect(),
        promise: Cell::new(None),
        heard: Cell::new(None),
    };
    daemon.faults.arm(&[]);
    (daemon, scene)
}

impl Scene {
    async fn act(&self, daemon: &Daemon) -> Result<(), String> {
        let done = daemon.act(self.row, &self.promise).await;
        self.heard.set(Some(done.is_ok()));
        done
    }

    /// At rest everything is in order, and what was told is true.
    async fn judge(&self, daemon: &Daemon) -> String {
        let (what, facts) = (&self.what, self.row.facts());
        daemon.check(what).await;
        let running = daemon.running();
        for (boot, pid) in &self.bystanders {
            assert_eq!(running.get(boot), Some(pid), "{what}: {boot} was disturbed");
        }
        let seen = daemon.seen(self.row);
        let gone_back = seen == facts.before || facts.also.contains(&seen.as_str());
        assert!(seen == facts.after || gone_back, "{what}: {seen}");
        let operations = daemon.engine.operations().list();
        // What another instance does because of it has operations of its own.
        let is_sides = |o: &engine::OperationView| o.resources.values().flatten().any(|path| path.ends_with("/side"));
        let new = operations.iter().filter(|o| !self.known.contains(&o.id) && o.class == Class::Task && !is_sides(o));
        let new: Vec<_> = new.collect();
        if self.row.is_task() {
            for operation in &new {
                let success = operation.status == Status::Success;
                // What only goes forward may be told to have failed for now, and be reached later.
                // A guest may be stopped though that cannot be written down yet; the error says so.
                let later = ["it is tried again until it succeeds", "that could not be written down yet"];
                let later = seen == facts.after && later.iter().any(|words| operation.error.contains(words));
                assert!(
                    if success { seen == facts.after } else { gone_back || later },
                    "{what}: {seen} and {operation:?}"
                );
                assert!(success || !operation.error.is_empty(), "{what}: a failure without a reason");
            }
            // Nobody was promised anything, and nothing is remembered of it: nothing is there.
            assert!(!new.is_empty() || gone_back, "{what}: {seen} without an operation");
        }
        if let Some(id) = self.promise.get() {
            assert!(operations.iter().any(|o| o.id == id), "{what}: the operation that was promised is not known");
        }
        if let (Some(true), false) = (self.heard.get(), self.row.is_guests()) {
            assert_eq!(seen, facts.after, "{what}: success that is none");
        }
        if let Some((action, name)) = facts.told {
            let told = daemon.told(self.from, name);
            let count = told.iter().filter(|told| *told == action).count();
            let expected = usize::from(seen == facts.after);
            assert_eq!(count, expected, "{what}: {seen}, and {action} in {told:?}");
        }
        seen
    }

    /// The same again succeeds when it is not done yet.
    async fn again(&self, daemon: &Daemon, seen: &str) {
        let (what, facts) = (&self.what, self.row.facts());
        if seen == facts.before && facts.before != facts.after && !self.row.is_guests() {
            let done = daemon.act(self.row, &Cell::new(None)).await;
            done.unwrap_or_else(|error| panic!("{what}: again: {error}"));
            daemon.rest().await;
            daemon.check(&format!("{what}, again")).await;
            assert_eq!(daemon.seen(self.row), facts.after, "{what}: again");
        }
    }

    /// A daemon that was told to halt its guests ends, and the next one has them again.
    async fn after_halt(&self, daemon: Daemon) -> Daemon {
        if self.row != Row::Halt {
            return daemon;
        }
        daemon.faults.heal();
        // What is still written when everything is quiet is written.
        let _ = daemon.engine.flush().await;
        daemon.faults.die();
        let next = start(&self.world, daemon.faults.died().await.now).await;
        next.rest().await;
        next
    }
}

/// Steps by name, and how many steps, looks and commits the row takes.
async fn without_faults(row: Row) -> (Vec<&'static str>, [usize; 3]) {
    let (daemon, scene) = scene(row, format!("{row:?} without a fault")).await;
    let before = daemon.host.world().log.len();
    scene.act(&daemon).await.unwrap_or_else(|error| panic!("{row:?}: {error}"));
    daemon.engine.rest().await;
    let counts = daemon.faults.counts();
    let taken = daemon.host.world().log[before..].to_vec();
    if row == Row::Halt {
        assert!(daemon.host.world().boots.is_empty(), "halted");
    }
    let daemon = scene.after_halt(daemon).await;
    daemon.rest().await;
    let seen = scene.judge(&daemon).await;
    assert_eq!(seen, row.facts().after, "{row:?}");
    (taken, counts)
}

/// The daemon dies at `armed`; what it leaves in both ways; and how many steps the healing of each takes.
async fn with_crash(row: Row, armed: &[Armed], flushed: bool, second: Option<Armed>) -> [usize; 3] {
    let what = format!("{row:?}, {armed:?}, flushed {flushed}, then {second:?}");
    let (daemon, scene) = scene(row, what).await;
    daemon.faults.arm(armed);
    let mut left = tokio::select! {
        biased;
        left = daemon.faults.died() => left,
        () = async { let _ = scene.act(&daemon).await; daemon.rest().await } => panic!("{}: no crash", scene.what),
    };
    if let Some(second) = second {
        let kept = if flushed { left.flushed } else { left.now };
        left = match start_or_die(&scene.world, kept, &[second]).await {
            Err(left) => left,
            Ok(daemon) => tokio::select! {
                biased;
                left = daemon.faults.died() => left,
                () = daemon.rest() => {
                    // A wire is made by whichever end looks first, a chain's too, and ids are random: the other may have less to do.
                    assert!(row.is_wired() || row.is_of_chain(), "{}: no second crash", scene.what);
                    daemon.faults.die();
                    daemon.faults.died().await
                }
            },
        };
    }
    let kept = if flushed { left.flushed } else { left.now };
    let daemon = start(&scene.world, kept).await;
    daemon.engine.rest().await;
    let healing = daemon.faults.counts();
    daemon.rest().await;
    let seen = scene.judge(&daemon).await;
    assert!(
        seen == row.facts().after
            || seen == row.facts().before
            || matches!(row, Row::Purge | Row::Build | Row::OwnerStops),
        "{}: {seen}",
        scene.what
    );
    scene.again(&daemon, &seen).await;
    healing
}

/// A step is refused, and the daemon dies at a commit of what is done about that; whether there are so many commits.
async fn with_refusal_and_crash(row: Row, refused: Armed, crash: Armed, flushed: bool) -> bool {
    let (daemon, scene) = scene(row, format!("{row:?}, {refused:?} and {crash:?}, flushed {flushed}")).await;
    daemon.faults.arm(&[refused, crash]);
    let left = tokio::select! {
        biased;
        left = daemon.faults.died() => left,
        () = async { let _ = scene.act(&daemon).await; daemon.rest().await } => return false,
    };
    // What was purged is made anew by the next start.
    if row == Row::Purge && scene.heard.get() == Some(true) {
        return false;
    }
    let daemon = start(&scene.world, if flushed { left.flushed } else { left.now }).await;
    daemon.rest().await;
    let seen = scene.judge(&daemon).await;
    scene.again(&daemon, &seen).await;
    true
}

/// Something is refused, or happens otherwise than it should; then all is well again.
async fn with_faults(row: Row, armed: &[Armed]) {
    let (daemon, scene) = scene(row, format!("{row:?}, {armed:?}")).await;
    daemon.faults.arm(armed);
    let done = scene.act(&daemon).await;
    if armed.iter().all(|(_, _, fault)| *fault == Fault::Twice) {
        assert_eq!(done, Ok(()), "{}", scene.what);
    }
    daemon.rest().await;
    daemon.faults.heal();
    daemon.rest().await;
    // What is no instance is not tried again by itself.
    if row == Row::Purge {
        scene.act(&daemon).await.unwrap_or_else(|error| panic!("{}: again: {error}", scene.what));
    } else if row != Row::Halt && row.facts().told.is_none() {
        daemon.engine.repair(&*daemon.host).await.unwrap_or_else(|error| panic!("{}: repair: {error}", scene.what));
    }
    let daemon = scene.after_halt(daemon).await;
    let seen = scene.judge(&daemon).await;
    scene.again(&daemon, &seen).await;
}

/// Counts points, each in a world of its own, and remembers those that broke something.
#[derive(Default)]
struct Points {
    done: usize,
    broken: Vec<String>,
}

impl Points {
    fn point<T>(&mut self, what: impl FnOnce() -> String, point: impl Future<Output = T>) -> Option<T> {
        self.done += 1;
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| run(point)));
        if result.is_err() {
            self.broken.push(what());
        }
        result.ok()
    }

    fn faults(&mut self, row: Row, armed: &[Armed]) {
        self.point(|| format!("{row:?} {armed:?}"), with_faults(row, armed));
    }

    /// A crash, and one more at each step of the healing from it, behind those of every start of a daemon.
    fn crash(&mut self, row: Row, armed: Armed, flushed: bool) {
        let what = |second| format!("{row:?} {armed:?} flushed {flushed} then {second:?}");
        let healing = self.point(|| what(None), with_crash(row, &[armed], flushed, None)).unwrap_or_default()[0];
        // Each step of each healing when everything is asked for; else the first and the last of some.
        let all = testkit::budget(0, 1) == 1;
        if all || flushed && armed.0 == At::Step && armed.2 == Fault::CrashBefore {
            for m in (2..healing).filter(|m| all || [2, healing - 1].contains(m)) {
                let second = Some((At::Step, m, Fault::CrashAfter));
                self.point(|| what(second), with_crash(row, &[armed], flushed, second));
            }
        }
    }

    /// A step is refused, and the daemon dies at each commit of what follows from that.
    fn crash_after_refusal(&mut self, row: Row, step: usize, refusal: Fault) {
        for n in 0.. {
            let mut died = false;
            for (fault, flushed) in [(Fault::CrashBefore, false), (Fault::CrashAfter, false), (Fault::CrashAfter, true)]
            {
                let (refused, crash) = ((At::Step, step, refusal), (At::Commit, n, fault));
                let what = || format!("{row:?} {refused:?} and {crash:?} flushed {flushed}");
                died |= self.point(what, with_refusal_and_crash(row, refused, crash, flushed)) != Some(false);
            }
            if !died {
                return;
            }
        }
    }

    fn every_fault(&mut self, row: Row, counts: [usize; 3]) {
        let places = [At::Step, At::Look, At::Commit].into_iter().zip(counts);
        for (at, n) in places.flat_map(|(at, count)| (0..count).map(move |n| (at, n))) {
            for fault in [Fault::CrashBefore, Fault::CrashAfter] {
                self.crash(row, (at, n, fault), false);
                self.crash(row, (at, n, fault), true);
            }
            self.faults(row, &[(at, n, Fault::Refuse)]);
            self.faults(row, &[(at, n, Fault::RefuseAlways)]);
            if at == At::Step {
                self.crash_after_refusal(row, n, Fault::Refuse);
                self.crash_after_refusal(row, n, Fault::RefuseAlways);
                self.faults(row, &[(at, n, Fault::Twice)]);
                self.faults(row, &[(at, n, Fault::LoseKeepers)]);
                // Going back is refused, too.
                for more in 1..=3 {
                    self.faults(row, &[(at, n, Fault::Refuse), (at, n + more, Fault::Refuse)]);
                }
            }
        }
    }
}

/// The very first start, with every fault; its steps.
fn first_start(points: &mut Points) -> Vec<&'static str> {
    let world: Arc<Mutex<World>> = Arc::default();
    run(start(&world, Kept::default()));
    for (at, n) in [(At::Step, 0), (At::Step, 1), (At::Step, 2), (At::Commit, 0)] {
        for fault in [Fault::CrashBefore, Fault::CrashAfter, Fault::Refuse, Fault::Twice] {
            for flushed in [false, true] {
                points.point(|| format!("first start {at:?} {n} {fault:?} {flushed}"), async move {
                    let world: Arc<Mutex<World>> = Arc::default();
                    let faults = Faults::new(Kept::default(), &[(at, n, fault)]);
                    let host = Arc::new(FakeHost::new(world.clone(), faults.clone()));
                    let store = faults.open_store();
                    tokio::select! {
                        biased;
                        _ = faults.died() => {}
                        // Refused: the daemon ends, and whoever started it starts it again.
                        _ = lab::started(host, store) => faults.die(),
                    }
                    let left = faults.died().await;
                    let daemon = start(&world, if flushed { left.flushed } else { left.now }).await;
                    daemon.rest().await;
                    daemon.check("first start").await;
                });
            }
        }
    }
    let world = world.lock().expect("not poisoned");
    world.log.clone()
}

fn run<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    // Weeks of the test's own clock: what has not ended by then waits for nothing.
    let ended = async { tokio::time::timeout(Duration::from_secs(1 << 22), future).await.expect("it ends") };
    runtime.expect("a runtime").block_on(ended)
}

#[test]
fn every_row_survives_every_fault_at_every_step_look_and_commit() {
    let next = AtomicUsize::new(0);
    let work = || {
        let (mut points, mut hit) = (Points::default(), Vec::new());
        while let Some(row) = ROWS.get(next.fetch_add(1, Ordering::Relaxed)) {
            let Some((taken, counts)) = points.point(|| format!("{row:?}"), without_faults(*row)) else { continue };
            hit.extend(taken);
            points.every_fault(*row, counts);
        }
        (points, hit)
    };
    let (mut points, mut hit) = std::thread::scope(|scope| {
        let other = scope.spawn(work);
        let (mut points, mut hit) = work();
        let (more, also) = other.join().expect("no panic comes so far");
        points.done += more.done;
        points.broken.extend(more.broken);
        hit.extend(also);
        (points, hit)
    });
    hit.extend(first_start(&mut points));
    let (steps, hit) = (hit.len(), BTreeSet::from_iter(hit));
    let Points { done, broken } = points;
    assert!(broken.is_empty(), "{} of {done}:\n{}", broken.len(), broken.join("\n"));
    assert_eq!(hit, BTreeSet::from(STEPS), "steps that rows take, and the table of them");
    eprintln!("figure: fake host: {} verbs, {steps} steps, fault points {done}, violations 0", ROWS.len() + 1);
}
