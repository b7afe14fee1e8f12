//! A guest's console, followed into a log file that is bounded and can be read any number of times.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use engine::Session;
use runtime::protocol::{KeepEvent, KeepRequest, Output, Session as Which};
use tokio::fs;
use tokio::io::AsyncWriteExt;

use super::keeper::Keeper;
use super::session::KeptSession;

/// A log is turned over when it is this large; one old one is kept.
const LIMIT: u64 = 512 * 1024;

/// Appends what the console says to `log` until the keeper is gone.
pub(crate) async fn follow(keeper: Arc<Keeper>, session: Arc<KeptSession>, log: PathBuf) {
    let request = KeepRequest::Attach(Which { session: 0 });
    let Ok((KeepEvent::SessionStarted(state), rings)) = keeper.ask(&request, &[]).await else { return };
    session.set_rings(rings);
    session.take_output(&Output { session: 0, stream: 1, head: state.stdout.head, eof: false });
    // Where a former daemon got to is not remembered: what is in the ring may be written twice, and nothing is left out.
    let mut offset = 0;
    while let Some((from, bytes)) = session.read(1, offset).await {
        offset = from + bytes.len() as u64;
        if let Err(error) = append(&log, &bytes).await {
            tracing::warn!(log = %log.display(), %error, "the console could not be logged");
        }
    }
}

async fn append(log: &Path, bytes: &Bytes) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(log).await?;
    file.write_all(bytes).await?;
    file.flush().await?;
    if file.metadata().await?.len() > LIMIT {
        fs::rename(log, log.with_extension("log.1")).await?;
    }
    Ok(())
}

/// What a log holds, the older part first.
pub(crate) async fn read(log: &Path) -> Vec<u8> {
    let mut all = fs::read(log.with_extension("log.1")).await.unwrap_or_default();
    all.extend(fs::read(log).await.unwrap_or_default());
    all
}

/// Empties a log.
pub(crate) async fn clear(log: &Path) {
    let _ = fs::remove_file(log.with_extension("log.1")).await;
    let _ = fs::remove_file(log).await;
}
