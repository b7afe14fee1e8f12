//! Random sequences of what may be asked and of what goes wrong, on the real daemon; every answer is explained by the model.

#![allow(missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rustix::process::Signal;
use support::{Daemon, PATIENCE, patch, post};
use sysctl_api::{InstancePut, StatePut};
use sysctl_client::{Client, Error};
use testkit::budget;
use testkit::model::{self, Ask, Command, Disturbance, End, INSTANCES, Instance, Outcome, Power, State, explain};
use tokio::task::JoinSet;

/// Most commands of a sequence.
const LENGTH: usize = 8;

/// What a step of the model's count is in time here: a launch of seven steps takes some 20 ms.
const STEP: Duration = Duration::from_millis(3);

/// Room on the small disk that is left when it is full.
const DISK_MEBIBYTES: u64 = 48;

type Devices = BTreeMap<String, BTreeMap<String, String>>;

async fn ask(client: Client, name: String, ask: Ask, nic: Devices) -> Result<(), Error> {
    let state = |action: &str, force| StatePut { action: action.into(), timeout: 20, force, stateful: false };
    let operation = match ask {
        Ask::Create { start, ephemeral } => {
            let post = sysctl_api::InstancesPost { start, ephemeral, ..post(&name, &[]) };
            client.create_instance(&post).await?
        }
        Ask::Start => client.update_instance_state(&name, &state("start", false)).await?,
        Ask::Stop { force } => client.update_instance_state(&name, &state("stop", force)).await?,
        Ask::Restart { force } => client.update_instance_state(&name, &state("restart", force)).await?,
        Ask::Freeze => client.update_instance_state(&name, &state("freeze", false)).await?,
        Ask::Thaw => client.update_instance_state(&name, &state("unfreeze", false)).await?,
        Ask::Limit(limit) => {
            client.patch_instance(&name, &patch(&[("limits.processes", &limit.to_string())]), None).await?
        }
        Ask::Nic(wanted) => {
            let none = [("eth0".to_owned(), [("type".to_owned(), "none".to_owned())].into())].into();
            let put = InstancePut { devices: Some(if wanted { nic } else { none }), ..InstancePut::default() };
            client.patch_instance(&name, &put, None).await?
        }
        Ask::Delete => client.delete_instance(&name).await?,
    };
    client.finish(&operation).await.map(drop)
}

fn outcome(result: Result<(), Error>) -> Outcome {
    match result {
        Ok(()) => Outcome::Done,
        Err(Error::Operation { .. }) => Outcome::Failed,
        Err(Error::Api { status, ref message, .. }) => {
            assert!(matches!(status, 400 | 404 | 409 | 503 | 507), "{status}: {message}");
            Outcome::Refused
        }
        Err(_) => Outcome::Unknown,
    }
}

struct Run {
    daemon: Daemon,
    disk: testkit::mount::SmallDisk,
    nic: Devices,
    states: [State; INSTANCES],
    full: bool,
}

impl Run {
    async fn command(&mut self, command: &Command) {
        let (name, before) = (model::name(command.on), self.states[command.on]);
        let mut asked = JoinSet::new();
        for (n, what) in command.asks.iter().enumerate() {
            let (client, name, nic) = (self.daemon.client.clone(), name.clone(), self.nic.clone());
            let what = *what;
            asked.spawn(async move { (n, ask(client, name, what, nic).await) });
        }
        let mut outcomes = vec![Outcome::Unknown; command.asks.len()];
        if let Some((disturbance, steps)) = command.disturbed {
            let later = async {
                while let Some(ended) = asked.join_next().await {
                    let (n, result) = ended.expect("no panic");
                    outcomes[n] = outcome(result);
                }
                std::future::pending::<()>().await;
            };
            let _ = tokio::time::timeout(STEP * u32::from(steps), later).await;
            self.disturb(disturbance, &name, &mut asked).await;
        }
        while let Some(ended) = asked.join_next().await {
            // One that was given up has no outcome that anybody knows.
            let Ok((n, result)) = ended else { continue };
            outcomes[n] = outcome(result);
        }
        self.rest().await;
        let trouble = self.full;
        for (n, state) in self.states.into_iter().enumerate() {
            let found = self.look(&model::name(n)).await;
            let possible = if n == command.on { explain(before, command, &outcomes, trouble) } else { [state].into() };
            assert!(
                possible.contains(&found),
                "{} was {state:?} and is {found:?}; {command:?} was answered {outcomes:?}, which explains {possible:?}\n{}",
                model::name(n),
                self.daemon.log()
            );
            self.states[n] = found;
        }
    }

    async fn disturb(&mut self, disturbance: Disturbance, name: &str, asked: &mut JoinSet<(usize, Result<(), Error>)>) {
        let ballast = self.disk.path().join("ballast");
        match disturbance {
            Disturbance::KillDaemon => {
                self.daemon.kill();
                self.daemon.start();
            }
            Disturbance::GuestEnds(end) => self.end_guest(name, end).await,
            Disturbance::KillKeeper => {
                if let Some(init) = self.init(name).await
                    && let Some(keeper) = support::taken::parent(init)
                {
                    support::try_signal(keeper, Signal::KILL);
                }
            }
            Disturbance::FillDisk => {
                let mut file = std::fs::File::create(&ballast).expect("make the ballast");
                while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
                self.full = true;
            }
            Disturbance::FreeDisk => {
                let _ = std::fs::remove_file(&ballast);
                self.full = false;
            }
            Disturbance::ClientVanishes => asked.abort_all(),
            // What one step does cannot be had refused on the real host.
            Disturbance::Refuse => {}
        }
    }

    async fn init(&self, name: &str) -> Option<u32> {
        let state = self.daemon.client.get_instance_state(name).await.ok()?;
        u32::try_from(state.pid).ok().filter(|pid| *pid > 1)
    }

    /// Ends the guest, and waits until the daemon has seen it.
    async fn end_guest(&self, name: &str, end: End) {
        let Some(init) = self.init(name).await else { return };
        if self.daemon.client.get_instance(name).await.is_ok_and(|found| found.value.status == "Frozen") {
            return;
        }
        // What busybox's init takes for `reboot` and `poweroff`.
        support::try_signal(
            init,
            match end {
                End::Reboot => Signal::INT,
                End::Halt => Signal::from_named_raw(30).expect("SIGPWR"),
                End::Killed => Signal::KILL,
            },
        );
        self.until(async || self.init(name).await != Some(init)).await;
    }

    /// Waits until nothing is under way.
    async fn rest(&self) {
        self.until(async || {
            let busy = self.daemon.client.get_operations(false).await.is_ok_and(|all| all.contains_key("running"));
            let instances = self.daemon.client.get_instances(&Default::default()).await.expect("a list");
            !busy && instances.iter().all(|one| matches!(one.status.as_str(), "Running" | "Stopped" | "Frozen"))
        })
        .await;
    }

    async fn until(&self, is_so: impl AsyncFn() -> bool) {
        let waiting = async {
            let mut events = self.daemon.client.get_events(&Default::default()).await.expect("events");
            while !is_so().await {
                // Not everything that changes is told, so it is looked at now and then.
                let _ = tokio::time::timeout(Duration::from_millis(20), events.next()).await;
            }
        };
        if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
            let instances = self.daemon.client.get_instances(&Default::default()).await;
            panic!("it does not come to rest: {instances:#?}\n{}", self.daemon.log());
        }
    }

    async fn look(&self, name: &str) -> State {
        let found = self.daemon.client.get_instance(name).await;
        let instance = match found {
            Ok(found) => found.value,
            Err(error) if error.status() == Some(404) => return None,
            Err(error) => panic!("{name}: {error}"),
        };
        Some(Instance {
            power: match instance.status.as_str() {
                "Running" => Power::Running,
                "Frozen" => Power::Frozen,
                _ => Power::Stopped,
            },
            limit: instance.config.get("limits.processes").map(|limit| limit.parse().expect("a number")),
            ephemeral: instance.ephemeral,
            nic: instance.expanded_devices.get("eth0").is_some_and(|nic| nic["type"] == "nic"),
        })
    }

    /// The end of a sequence: everything is removed again.
    async fn clear(&mut self) {
        self.disturb(Disturbance::FreeDisk, "", &mut JoinSet::new()).await;
        for n in 0..INSTANCES {
            let name = model::name(n);
            if self.init(&name).await.is_some() {
                let _ = self.daemon.try_change(&name, "stop", true).await;
            }
            if self.look(&name).await.is_some() {
                self.daemon.try_delete(&name).await.unwrap_or_else(|e| panic!("{name}: {e}\n{}", self.daemon.log()));
            }
        }
        self.rest().await;
        self.states = [None; INSTANCES];
        self.daemon.healthy().await;
    }
}

#[tokio::test]
async fn whatever_is_asked_and_goes_wrong_is_explained_by_the_model() {
    let seed: u64 = std::env::var("SYSCTL_FUZZ_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(0x5eed);
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let disk = testkit::mount::SmallDisk::new("model", DISK_MEBIBYTES);
    let daemon = Daemon::on(&disk.path());
    daemon.import_busybox().await;
    let profile = daemon.client.get_profile("default").await.expect("a profile").value;
    let nic: Devices = [("eth0".to_owned(), profile.devices["eth0"].clone())].into();
    let mut run = Run { daemon, disk, nic, states: [None; INSTANCES], full: false };
    let (sequences, mut commands) = (budget(12, 400), 0);
    for n in 0..sequences {
        let sequence = model::any_sequence(LENGTH).new_tree(&mut runner).expect("a sequence").current();
        eprintln!("sequence {n} of seed {seed}: {sequence:?}");
        for command in &sequence {
            run.command(command).await;
        }
        commands += sequence.len();
        run.clear().await;
    }
    eprintln!(
        "figure: model on the real daemon: {sequences} sequences, {commands} commands, seed {seed}, unexplained 0"
    );
    run.daemon.finish().await;
    drop(run.disk);
}
