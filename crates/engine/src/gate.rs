//! What holds back the steps that must not happen before their commit.

use tokio::sync::watch;

use crate::error::{Error, Result};

/// Resolves to whether the commit happened; `None` while it is under way.
pub(crate) type Gate = watch::Receiver<Option<std::result::Result<(), store::TxnError>>>;

/// Waits for the commit that the rest depends on.
pub(crate) async fn pass(gate: Option<&Gate>) -> Result<()> {
    let Some(gate) = gate else { return Ok(()) };
    let mut gate = gate.clone();
    match gate.wait_for(Option::is_some).await.map(|result| result.clone()) {
        Ok(Some(Ok(()))) => Ok(()),
        Ok(Some(Err(error))) => Err(error.into()),
        Ok(None) | Err(_) => Err(Error::Internal("the commit was given up".into())),
    }
}
