//! Operations: looking, waiting, cancelling, following their progress.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sysctl_api::{Operation, code};

use crate::client::{Client, Nothing};
use crate::error::{Error, Result};
use crate::events::EventFilter;
use crate::uri::Uri;

const OPERATIONS: &str = "/1.0/operations";

/// How long past a deadline of the server's own its answer may take to arrive.
const GRACE: Duration = Duration::from_secs(10);

/// How long a daemon that is being replaced may take to serve again.
pub(crate) const RESTART: Duration = Duration::from_secs(20);

/// How often it is tried.
pub(crate) const RETRY: Duration = Duration::from_millis(50);

impl Client {
    /// Operations by their status in lower case.
    pub async fn get_operations(&self, all_projects: bool) -> Result<BTreeMap<String, Vec<Operation>>> {
        let uri = Uri::new(OPERATIONS).query("recursion", "1");
        self.get(if all_projects { uri.query("all-projects", "true") } else { uri }).await
    }

    /// An operation.
    pub async fn get_operation(&self, id: &str) -> Result<Operation> {
        self.get(Uri::new(OPERATIONS).part(id)).await
    }

    /// Asks an operation to end early.
    pub async fn cancel_operation(&self, id: &str) -> Result<()> {
        self.delete::<Nothing>(Uri::new(OPERATIONS).part(id)).await.map(drop)
    }

    /// An operation once it is final, or as it is after `deadline`. It is returned also when it failed: see
    /// [`Client::finish`].
    pub async fn wait_operation(&self, id: &str, deadline: Option<Duration>) -> Result<Operation> {
        let uri = Uri::new(OPERATIONS).part(id).part("wait");
        // Whole seconds are what the server takes; a part of one counts as one.
        let seconds = deadline.map(|deadline| deadline.as_millis().div_ceil(1000).to_string());
        let uri = uri.query_some("timeout", seconds.as_deref());
        self.get_patiently(uri, deadline.map(|deadline| deadline + GRACE)).await
    }

    /// Waits until an operation is done; that it failed or was cancelled is an error.
    pub async fn finish(&self, operation: &Operation) -> Result<Operation> {
        if operation.is_final() {
            return success(operation.clone());
        }
        success(self.wait_through_restarts(&operation.id).await?)
    }

    /// Operations outlive the daemon: when the connection breaks, whoever comes up again is asked.
    async fn wait_through_restarts(&self, id: &str) -> Result<Operation> {
        let mut broken: Option<Instant> = None;
        loop {
            let error = match self.wait_operation(id, None).await {
                Ok(operation) => return Ok(operation),
                Err(error) => error,
            };
            // Somebody told of the operation: that nobody answers now is a restart, too.
            if !error.is_disconnect() && !matches!(error, Error::Connect { .. }) {
                return Err(error);
            }
            let since = broken.unwrap_or_else(Instant::now);
            if since.elapsed() > RESTART {
                return Err(error);
            }
            broken = Some(since);
            tokio::time::sleep(RETRY).await;
        }
    }

    /// The same, telling `progress` each time the operation changes. Events are listened to only once it has taken longer
    /// than `patience`: short operations cost no more than [`Client::finish`].
    pub async fn follow(
        &self,
        operation: &Operation,
        patience: Duration,
        mut progress: impl FnMut(&Operation),
    ) -> Result<Operation> {
        let mut done = std::pin::pin!(self.finish(operation));
        if let Ok(result) = tokio::time::timeout(patience, &mut done).await {
            return result;
        }
        let mut listening = std::pin::pin!(self.tell_changes(&operation.id, &mut progress));
        let mut deaf = false;
        loop {
            tokio::select! {
                biased;
                result = &mut done => return result,
                // Without events there is no progress to tell; the operation goes on all the same.
                _ = &mut listening, if !deaf => deaf = true,
            }
        }
    }

    async fn tell_changes(&self, id: &str, progress: &mut impl FnMut(&Operation)) -> Result<()> {
        let filter = EventFilter { types: vec!["operation".into()], ..EventFilter::default() };
        let mut events = self.get_events(&filter).await?;
        progress(&self.get_operation(id).await?);
        while let Some(event) = events.next().await? {
            if event.metadata.get("id").and_then(|found| found.as_str()) == Some(id)
                && let Ok(operation) = serde_json::from_value::<Operation>(event.metadata)
            {
                progress(&operation);
            }
        }
        Ok(())
    }
}

/// An operation that is over, as the result that it is.
fn success(operation: Operation) -> Result<Operation> {
    if operation.status_code == code::SUCCESS {
        return Ok(operation);
    }
    let message = match operation.err.as_str() {
        "" if operation.status_code == code::CANCELLED => "it was cancelled".to_owned(),
        "" => format!("it ended as {}", operation.status),
        err => err.to_owned(),
    };
    Err(Error::Operation {
        id: operation.id,
        description: operation.description,
        status_code: operation.status_code,
        message,
    })
}
