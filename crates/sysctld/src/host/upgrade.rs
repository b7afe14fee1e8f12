//! After an upgrade: the spawn process and every keeper go on in the program that took the place of theirs.
//!
//! The spawn process comes first: what is to be started meanwhile waits for it, so that it runs the new program. Keepers get
//! the spawn process's copy of it, so that all share its memory, one after another, once the API is served: they answer
//! nothing while they do.
//! What fails here costs nothing but the new program: the former one goes on, which is logged once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::StepError;
use tokio::task::JoinHandle;

use super::boots::Boots;
use super::keeper::Keeper;
use super::spawn::{Program, Spawn};
use super::words;

/// How long one process may take: a thousand times what it takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Pauses until a keeper in which something is being started is asked again, and how often: for ten minutes. What hangs
/// longer hangs in the kernel; the next daemon asks again.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_secs(10);
const TRIES: u32 = 70;

/// Has the spawn process go on in the program that is on the disk; what is to be started meanwhile waits for it. The program
/// that it runs then, if that is known.
pub(super) fn begin(spawn: &Arc<Spawn>) -> JoinHandle<Option<Program>> {
    let spawn = spawn.clone();
    tokio::spawn(async move {
        let renewed = tokio::time::timeout(PATIENCE, renew_spawn(&spawn)).await;
        spawn.settle();
        match renewed {
            Ok(Ok(program)) => return Some(program),
            Ok(Err(error)) => tracing::warn!(%error, "keepers go on in the programs that they run"),
            Err(_) => tracing::warn!("the spawn process does not answer; keepers go on in the programs that they run"),
        }
        None
    })
}

/// Has keepers do the same.
pub(super) async fn go_on(boots: Arc<Boots>, begun: JoinHandle<Option<Program>>) {
    if let Ok(Some(program)) = begun.await {
        renew_keepers(boots.keepers(), program).await;
    }
}

/// The program that keepers are started from: the file's of today, unless the spawn process cannot go on in that.
async fn renew_spawn(spawn: &Spawn) -> Result<Program, StepError> {
    let missing = || engine::step_error("upgrade", "the spawn process hands out no program");
    let program = spawn.program().await?;
    let failed = |errno| words::failed("upgrade", "open", "the program file of keepers", errno);
    let file = spawn.program_file().map_err(failed)?;
    match program {
        Some(program) if program.identity == file.identity => return Ok(program),
        Some(program) => {
            if let Err(error) = spawn.replace(&file.file).await {
                tracing::warn!(%error, "the new program cannot be used: spawn process and keepers go on in the former one");
                return Ok(program);
            }
            tracing::info!("the spawn process goes on in another program");
        }
        None => {
            tracing::info!("the spawn process is of a release that cannot be replaced while it runs: starting another");
            spawn.end_and_start().await?;
        }
    }
    spawn.program().await?.ok_or_else(missing)
}

/// What came of asking keepers.
#[derive(Debug, Default)]
struct Outcome {
    replaced: usize,
    refused: usize,
    why: Option<StepError>,
}

impl Outcome {
    fn refuse(&mut self, error: StepError) {
        self.refused += 1;
        self.why.get_or_insert(error);
    }

    fn tell(&self, since: Instant, busy: usize) {
        let ms = since.elapsed().as_millis();
        tracing::info!(replaced = self.replaced, busy, ms, "keepers go on in another program");
        if let Some(error) = &self.why {
            tracing::warn!(keepers = self.refused, %error, "keepers go on in their former program");
        }
    }
}

/// Has every keeper that runs another program go on in this one.
async fn renew_keepers(keepers: Vec<Arc<Keeper>>, program: Program) {
    let is_behind = |keeper: &Arc<Keeper>| keeper.state().program != program.identity;
    let mut behind: Vec<Arc<Keeper>> = keepers.into_iter().filter(is_behind).collect();
    if behind.is_empty() {
        return;
    }
    let (since, mut outcome, mut pause) = (Instant::now(), Outcome::default(), FIRST_PAUSE);
    for _ in 0..TRIES {
        behind = renew_once(behind, &program, &mut outcome).await;
        if behind.is_empty() {
            break;
        }
        tokio::time::sleep(pause).await;
        pause = LAST_PAUSE.min(pause * 2);
    }
    outcome.tell(since, behind.len());
}

/// Asks each once; those that are to be asked again.
async fn renew_once(keepers: Vec<Arc<Keeper>>, program: &Program, outcome: &mut Outcome) -> Vec<Arc<Keeper>> {
    let mut busy = Vec::new();
    for keeper in keepers {
        let silent = || engine::step_error("upgrade", format!("the keeper of {} does not answer", keeper.boot));
        match tokio::time::timeout(PATIENCE, keeper.replace(&program.file)).await {
            Ok(Ok(())) => outcome.replaced += 1,
            Ok(Err(error)) if error.transient => busy.push(keeper),
            // Its boot ended, or another keeper takes its place, which is told otherwise.
            Ok(Err(_)) if keeper.state().lost => {}
            Ok(Err(error)) => outcome.refuse(error),
            Err(_) => outcome.refuse(silent()),
        }
    }
    busy
}
