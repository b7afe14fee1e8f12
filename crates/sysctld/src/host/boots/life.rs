//! The life of a guest: made, let run, asked to halt, killed.

use std::sync::Arc;
use std::time::Duration;

use engine::StepError;
use model::{Boot, InstanceSpec};
use runtime::protocol::{KeepRequest, KeepSpec, LaunchSpec, Nothing, Signal, phase};

use super::{Boots, launch, words};
use crate::host::keeper::State;

/// How long a killed guest may take to die, each of the times that it is killed: a thousand times what it takes.
const DEATH: Duration = Duration::from_secs(3);

impl Boots {
    /// Makes init, up to where it waits to be let go.
    pub(crate) async fn spawn(
        self: &Arc<Self>,
        boot: Boot,
        layout: storage::RootLayout,
        spec: &InstanceSpec,
        fresh: bool,
    ) -> Result<(), StepError> {
        let keeper = match self.keeper(boot) {
            Some(keeper) if matches!(keeper.state().phase, phase::PREPARING | phase::READY | phase::RUNNING) => {
                return Ok(());
            }
            Some(keeper) if !keeper.state().lost => keeper,
            _ => {
                let keeper = self.start_keeper(boot, KeepSpec::default()).await?;
                self.put_keeper(boot, keeper.clone());
                keeper
            }
        };
        let joins = launch::joins(&spec.sandbox.namespaces, |id| self.init_of(id), |pin| self.pins.file(pin))?;
        let launch = launch::spec(boot, layout, spec, fresh, (&self.facts, &self.groups, &self.scratch), joins);
        let view = self.lxcfs.view(&spec.sandbox.namespaces).await;
        self.entries().entry(boot).or_default().view.clone_from(&view);
        let launch = LaunchSpec { view, ..launch };
        // Answered once init exists; its mounts go on while its links are made.
        keeper.ask(&KeepRequest::prepare(launch), &[]).await.map(drop)
    }

    /// Lets a prepared init run.
    pub(crate) async fn start(self: &Arc<Self>, boot: Boot) -> Result<(), StepError> {
        self.let_run(boot).await?;
        let view = self.entries().get_mut(&boot).and_then(|entry| entry.view.take());
        if view.is_some_and(|view| self.lxcfs.is_newer_than(&view)) {
            // Made with the files of one that died meanwhile, and unknown to whoever renewed those of all.
            let boots = self.clone();
            tokio::spawn(async move { boots.lxcfs.follow_up(&boots, boot.id).await });
        }
        Ok(())
    }

    async fn let_run(&self, boot: Boot) -> Result<(), StepError> {
        let keeper = self.keeper(boot).ok_or_else(|| engine::step_error("start", "there is no guest"))?;
        let state = keeper.wait(|state| state.phase != phase::PREPARING).await;
        match (state.phase, state.failure) {
            _ if state.lost => Err(engine::step_error("start", "the keeper died before the guest ran")),
            (phase::READY, _) => {
                let started = keeper.ask(&KeepRequest::Start(Nothing {}), &[]).await;
                if started.is_err() {
                    // An exec that failed: there is no guest any more, which its failure as an answer does not say.
                    let _ = keeper.ask(&KeepRequest::Status(Nothing {}), &[]).await;
                }
                started.map(drop)
            }
            (phase::EMPTY, Some(failure)) => Err(words::of("start", &failure)),
            (phase::RUNNING | phase::ENDED, _) => Ok(()),
            _ => Err(engine::step_error("start", "there is no guest")),
        }
    }

    /// Asks init to halt, once it can hear that, and waits until it has.
    pub(crate) async fn halt(&self, boot: Boot, timeout_s: u32) -> Result<(), StepError> {
        let Some(keeper) = self.keeper(boot) else { return Ok(()) };
        let deadline = tokio::time::Instant::now() + Duration::from_secs(u64::from(timeout_s));
        let mut blind = Duration::from_millis(20);
        while tokio::time::Instant::now() < deadline && !has_ended(&keeper.state()) {
            // The kernel tells nobody when a process begins to handle a signal, so this is looked at again and again; once
            // it was heard it is only repeated for an init that lost it while it replaced itself.
            let (signal, is_heard) = launch::halt_signal(keeper.state().pid);
            let order = KeepRequest::Signal(Signal { session: 0, signal });
            let _ = keeper.ask(&order, &[]).await;
            let pause = if is_heard { Duration::from_secs(5) } else { blind };
            blind = Duration::from_secs(1).min(blind * 2);
            let until = deadline.min(tokio::time::Instant::now() + pause);
            let _ = tokio::time::timeout_at(until, keeper.wait(has_ended)).await;
        }
        Ok(())
    }

    /// Kills everything of a boot and waits for its end.
    pub(crate) async fn kill(&self, boot: Boot) -> Result<(), StepError> {
        self.groups.kill(boot).map_err(|e| words::because("kill", &e))?;
        let Some(keeper) = self.keeper(boot) else { return Ok(()) };
        match tokio::time::timeout(DEATH, keeper.wait(has_ended)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(StepError {
                step: "kill".into(),
                message: "a process of the guest does not die: it hangs in the kernel".into(),
                hint: Some(
                    "look at its state in /proc/PID/stack; a disk or a network file system may not answer".into(),
                ),
                transient: true,
            }),
        }
    }
}

/// There is no guest (any more), or nobody can say.
fn has_ended(state: &State) -> bool {
    state.lost || matches!(state.phase, phase::EMPTY | phase::ENDED)
}
