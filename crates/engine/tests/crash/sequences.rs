//! Random sequences of commands and mishaps, compared with the small machine of `testkit::model`.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use config::Written;
use engine::{Engine, NewInstance, Patch, Status, Verb};
use model::{Power as Wished, ProjectName, StopKind};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use store::Kept;
use testkit::fake::World;
use testkit::faults::{At, Fault};
use testkit::model::{Ask, Command, Disturbance, End, INSTANCES, Instance, Outcome, Power, State, explain, name};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::acts::nic;
use crate::lab::{Daemon, new_instance, start};
use crate::run;

/// Commands of one sequence at most.
const LENGTH: usize = 12;

/// A world after its first start, with an image, so that not every sequence makes them.
fn beginning() -> (World, Kept) {
    static MADE: OnceLock<(World, Kept)> = OnceLock::new();
    let make = || {
        run(async {
            let world: Arc<Mutex<World>> = Arc::default();
            let daemon = start(&world, Kept::default()).await;
            daemon.ended(daemon.engine.build_image("debian", Default::default()).await).await.expect("an image");
            daemon.engine.flush().await.expect("flush");
            daemon.faults.die();
            let kept = daemon.faults.died().await.now;
            let world = daemon.host.world().clone();
            (world, kept)
        })
    };
    MADE.get_or_init(make).clone()
}

/// What became of one thing that was asked: the operation once it was accepted, the outcome once it was heard.
type Heard = Arc<Mutex<(Option<Uuid>, Outcome)>>;

fn verb(ask: Ask) -> Verb {
    let kind = |force| if force { StopKind::Force } else { StopKind::Clean { timeout_s: 5 } };
    match ask {
        Ask::Start | Ask::Create { .. } => Verb::Start,
        Ask::Stop { force } => Verb::Stop(kind(force)),
        Ask::Restart { force } => Verb::Restart(kind(force)),
        Ask::Freeze => Verb::Freeze,
        Ask::Thaw => Verb::Thaw,
        Ask::Delete => Verb::Delete,
        Ask::Nic(with) => nic(with),
        Ask::Limit(limit) => {
            let config = [("limits.processes".to_owned(), limit.to_string())].into();
            let written = Written { config, ..Written::default() };
            Verb::Patch(Box::new(Patch { written, ..Patch::default() }))
        }
    }
}

/// Asks, and notes what comes of it.
async fn ask(engine: Engine, on: usize, ask: Ask, heard: Heard) {
    let accepted = match ask {
        Ask::Create { start, ephemeral } => {
            engine.create(NewInstance { ephemeral, ..new_instance(&name(on), start) }, None).await
        }
        other => engine.ask(&ProjectName::default(), &name(on), verb(other), None, None).await,
    };
    let note = |id, outcome| *heard.lock().expect("not poisoned") = (id, outcome);
    let Ok(accepted) = accepted else { return note(None, Outcome::Refused) };
    note(Some(accepted.id), Outcome::Unknown);
    let ended = engine.operations().wait(accepted.id).await.expect("an operation that was promised");
    note(Some(accepted.id), outcome(ended.status));
}

fn outcome(status: Status) -> Outcome {
    if status == Status::Success { Outcome::Done } else { Outcome::Failed }
}

/// The sequence so far.
struct Run {
    world: Arc<Mutex<World>>,
    daemon: Daemon,
    now: [State; INSTANCES],
    /// The disk is full.
    full: bool,
    /// States that instances may turn out to be in once the disk is free or the daemon is started anew, as not all could be
    /// written down.
    limbo: [BTreeSet<State>; INSTANCES],
}

impl Run {
    fn state(&self, on: usize) -> State {
        let record = self.daemon.record(&name(on))?;
        let wish = &record.wish;
        let power = match wish.power {
            Wished::Off => Power::Stopped,
            Wished::On { frozen, .. } => {
                if frozen {
                    Power::Frozen
                } else {
                    Power::Running
                }
            }
        };
        let limit = wish.written.config.get("limits.processes").map(|n| n.parse().expect("a number"));
        Some(Instance { power, limit, ephemeral: wish.ephemeral, nic: !wish.nics.is_empty() })
    }

    /// What happens besides, after so many turns of the others.
    async fn disturb(&self, disturbance: Disturbance, moment: u8, on: usize, tasks: &[JoinHandle<()>]) {
        let (faults, host) = (&self.daemon.faults, &self.daemon.host);
        let step = usize::from(moment % 8);
        match disturbance {
            // At a step or commit; when there are not so many, at rest.
            Disturbance::KillDaemon if moment < 8 => faults.arm(&[(At::Step, step, Fault::CrashAfter)]),
            Disturbance::KillDaemon => faults.arm(&[(At::Commit, step / 2, Fault::CrashAfter)]),
            Disturbance::Refuse => faults.arm(&[(At::Step, step, Fault::Refuse)]),
            _ => {}
        }
        for _ in 0..4 * moment {
            tokio::task::yield_now().await;
        }
        let id = self.daemon.record(&name(on)).map(|record| record.id);
        match (disturbance, id) {
            (Disturbance::GuestEnds(end), Some(id)) => {
                let end = match end {
                    End::Reboot => model::End::Reboot,
                    End::Halt => model::End::Halt,
                    End::Killed => model::End::Signal(9),
                };
                host.end_guest(id, end);
            }
            (Disturbance::KillKeeper, Some(id)) => host.lose_keepers(Some(id)),
            (Disturbance::FillDisk, _) => faults.refuse_always(At::Commit, "commit"),
            (Disturbance::FreeDisk, _) => faults.heal(),
            (Disturbance::ClientVanishes, _) => tasks.iter().for_each(JoinHandle::abort),
            _ => {}
        }
    }

    /// A new daemon on what the old one left.
    async fn start_again(&mut self, flushed: bool) {
        let left = self.daemon.faults.died().await;
        self.daemon = start(&self.world, if flushed { left.flushed } else { left.now }).await;
        if self.full {
            self.daemon.faults.refuse_always(At::Commit, "commit");
        }
    }

    async fn command(&mut self, command: &Command) -> Result<(), String> {
        let on = command.on;
        let heard: Vec<Heard> = command.asks.iter().map(|_| Arc::new(Mutex::new((None, Outcome::Unknown)))).collect();
        let asked = command.asks.iter().zip(&heard);
        let engine = &self.daemon.engine;
        let mut tasks: Vec<_> =
            asked.map(|(what, heard)| tokio::spawn(ask(engine.clone(), on, *what, heard.clone()))).collect();
        let killed = matches!(command.disturbed, Some((Disturbance::KillDaemon, _)));
        let faults = self.daemon.faults.clone();
        tokio::select! {
            biased;
            _ = faults.died() => {}
            () = async {
                let tasks = &mut tasks;
                if let Some((disturbance, moment)) = command.disturbed {
                    self.disturb(disturbance, moment, on, tasks).await;
                }
                for task in tasks {
                    // One that was aborted has nothing to say.
                    let _ = task.await;
                }
                self.daemon.rest().await;
            } => faults.arm(&[]),
        }
        tasks.iter().for_each(JoinHandle::abort);
        match command.disturbed {
            Some((Disturbance::FillDisk, _)) => self.full = true,
            Some((Disturbance::FreeDisk, _)) => self.full = false,
            Some((Disturbance::KillDaemon, moment)) => {
                // When it has not died on the way, it dies at rest.
                faults.die();
                self.start_again(moment % 2 == 0).await;
            }
            _ => {}
        }
        if !self.full {
            // What is owed to the disk is written when it answers again.
            self.daemon.engine.flush().await.map_err(|error| error.to_string())?;
        }
        self.daemon.rest().await;
        let outcomes: Vec<Outcome> = heard.iter().map(|heard| self.what_came(heard)).collect::<Result<_, _>>()?;
        self.compare(command, &outcomes, killed)
    }

    /// What was heard, or what the operation says that was promised.
    fn what_came(&self, heard: &Heard) -> Result<Outcome, String> {
        let (id, heard) = *heard.lock().expect("not poisoned");
        match (id, heard) {
            // A stop is accepted on a full disk, and a later daemon does not know of it: its error says so.
            (Some(_), Outcome::Unknown) if self.full => Ok(Outcome::Unknown),
            (Some(id), Outcome::Unknown) => match self.daemon.engine.operations().get(id) {
                Ok(view) if view.status.is_final() => Ok(outcome(view.status)),
                other => Err(format!("the operation that was promised: {other:?}")),
            },
            (_, heard) => Ok(heard),
        }
    }

    fn compare(&mut self, command: &Command, outcomes: &[Outcome], killed: bool) -> Result<(), String> {
        let freed = matches!(command.disturbed, Some((Disturbance::FreeDisk, _)));
        let violations = self.daemon.host.world().violations.clone();
        if !violations.is_empty() {
            return Err(format!("{violations:?}"));
        }
        for on in 0..INSTANCES {
            let mut allowed: BTreeSet<State> = [self.now[on]].into();
            if killed || freed {
                allowed.extend(&self.limbo[on]);
            }
            if on == command.on {
                let explained = |before: &State| explain(*before, command, outcomes, self.full || freed);
                allowed = allowed.iter().flat_map(explained).collect();
            }
            let found = self.state(on);
            if !allowed.contains(&found) {
                return Err(format!("{}: {:?} → {found:?}, {outcomes:?}: allowed {allowed:?}", name(on), self.now[on]));
            }
            if !self.full {
                self.limbo[on].clear();
            } else if on == command.on {
                let unknown = vec![Outcome::Unknown; outcomes.len()];
                let mut possible = self.limbo[on].clone();
                possible.insert(self.now[on]);
                let possible = possible.iter().flat_map(|before| explain(*before, command, &unknown, true));
                self.limbo[on] = possible.collect();
            }
            self.now[on] = found;
        }
        Ok(())
    }
}

async fn sequence(commands: &[Command]) -> Result<(), String> {
    let (world, kept) = beginning();
    let world = Arc::new(Mutex::new(world));
    let daemon = start(&world, kept).await;
    let mut run = Run { world, daemon, now: Default::default(), full: false, limbo: Default::default() };
    for (n, command) in commands.iter().enumerate() {
        run.command(command).await.map_err(|error| format!("command {n}, {command:?}: {error}"))?;
    }
    run.daemon.faults.heal();
    run.daemon.rest().await;
    run.daemon.check("at the end of a sequence").await;
    Ok(())
}

/// Sequences from one seed: what a failed one names runs again in a moment.
const BATCH: usize = 50;

/// How long sequences go on in a run of all rings; with everything asked for it is their number that ends them.
const TIME: Duration = Duration::from_secs(30);

/// Runs the sequences of one seed; how many commands they had.
fn batch(seed: u64) -> usize {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = ProptestConfig { cases: BATCH as u32, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let commands = std::cell::Cell::new(0);
    let result = runner.run(&testkit::model::any_sequence(LENGTH), |sequence_of| {
        commands.set(commands.get() + sequence_of.len());
        run(sequence(&sequence_of)).map_err(TestCaseError::fail)
    });
    result.unwrap_or_else(|error| panic!("violation with SYSCTL_TEST_SEED={seed}: {error}"));
    commands.get()
}

#[test]
fn any_sequence_of_commands_and_mishaps_is_explained_by_the_model() {
    beginning();
    let most = testkit::budget(usize::MAX, 100_000 / BATCH);
    let time = testkit::budget(0, 1) == 0;
    let given = std::env::var("SYSCTL_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
    let seed: u64 = given.unwrap_or_else(clock);
    let (began, next) = (Instant::now(), AtomicUsize::new(0));
    let work = || {
        let (mut batches, mut commands) = (0, 0);
        while !(time && began.elapsed() > TIME) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= most {
                break;
            }
            commands += batch(seed.wrapping_add(number as u64));
            batches += 1;
        }
        (batches * BATCH, commands)
    };
    let (count, commands) = std::thread::scope(|scope| {
        let other = scope.spawn(work);
        let (count, commands) = work();
        let (more, also) = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (count + more, commands + also)
    });
    let seconds = began.elapsed().as_secs_f64();
    eprintln!(
        "figure: model on the fake host: {count} sequences, {commands} commands, {:.0} sequences and {:.0} commands per second, violations 0",
        count as f64 / seconds,
        commands as f64 / seconds,
    );
}
