//! Orders to helpers that do one thing and say what came of it: a record as an argument, a record as the answer.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use engine::StepError;
use kernel::Errno;
use runtime::order::Done;
use runtime::wire::Field;
use rustix::fs::OFlags;
use tokio::io::Interest;

use super::channel::watch;
use super::spawn::Spawn;
use super::words;

/// Longest wait for a helper, which does some ten calls: a hundred thousand times what these take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Has a helper do what only it may, and hears what came of it.
pub(super) async fn give(spawn: &Spawn, step: &str, kind: &str, order: &impl Field) -> Result<(), StepError> {
    let failed = |call: &str, errno| words::failed(step, call, "the helper", errno);
    match answer(spawn, kind, order).await?.map_err(|errno| failed("hear", errno))? {
        Some(Done { done: true, .. }) => Ok(()),
        Some(Done { failure: Some(failure), .. }) => Err(words::of(step, &failure)),
        _ => Err(engine::step_error(step, "the helper died without a word")),
    }
}

/// What a helper answers to an order; `None` when it is gone.
pub(super) async fn answer(
    spawn: &Spawn,
    kind: &str,
    order: &impl Field,
) -> Result<kernel::Result<Option<Done>>, StepError> {
    let mut record = Vec::new();
    order.put(&mut record);
    let hex = record.iter().map(|byte| format!("{byte:02x}")).collect();
    let ours = spawn.help(vec![kind.to_owned(), hex], kernel::scm::pair).await?;
    Ok(tokio::time::timeout(PATIENCE, hear(ours)).await.unwrap_or(Err(Errno::TIMEDOUT)))
}

async fn hear(socket: OwnedFd) -> kernel::Result<Option<Done>> {
    rustix::fs::fcntl_setfl(&socket, OFlags::NONBLOCK)?;
    let socket = watch(socket, Interest::READABLE)?;
    // A failure names at most two paths.
    let mut buffer = vec![0u8; 16 * 1024];
    loop {
        let Ok(mut guard) = socket.readable().await else { return Err(Errno::IO) };
        match kernel::scm::receive(socket.get_ref().as_fd(), &mut buffer, false) {
            Ok((0, _)) | Err(Errno::CONNRESET) => return Ok(None),
            Ok((length, _)) => return Done::take(&buffer[..length]).map(Some).ok_or(Errno::PROTO),
            Err(Errno::AGAIN) => guard.clear_ready(),
            Err(errno) => return Err(errno),
        }
    }
}
