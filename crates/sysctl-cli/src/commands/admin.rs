//! `admin`.

use std::time::Duration;

use clap::{Args as Words, Subcommand};
use sysctl_client::{Error, EventFilter};
use tokio::time::Instant;

use crate::context::Context;
use crate::failure::{Attempt, Failure, Result};

/// What to do with the daemon.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Wait until the daemon serves requests
    Waitready(TimeoutArgs),
    /// Stop all instances, then the daemon
    Shutdown(TimeoutArgs),
}

/// How long.
#[derive(Debug, Words)]
pub(crate) struct TimeoutArgs {
    /// How long to wait; for ever when it is left out
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u32>,
}

impl TimeoutArgs {
    fn deadline(&self) -> Option<Instant> {
        self.timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds.into()))
    }
}

/// How long between two tries: short at first, as a daemon takes a moment to come up.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

pub(crate) async fn run(cx: &Context, command: Command) -> Result {
    match command {
        Command::Waitready(args) => waitready(cx, &args).await,
        Command::Shutdown(args) => shutdown(cx, &args).await,
    }
}

async fn waitready(cx: &Context, args: &TimeoutArgs) -> Result {
    let deadline = args.deadline();
    let mut pause = FIRST_PAUSE;
    loop {
        // A daemon that hangs is asked again; one that must not be asked is not waited for.
        let client = cx.client.clone().with_deadline(Duration::from_secs(5));
        let error = match client.get_ready().await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let hopeless =
            matches!(&error, Error::Connect { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied);
        let late = deadline.is_some_and(|deadline| Instant::now() + pause > deadline);
        if hopeless || late {
            let seconds = args.timeout.filter(|_| !hopeless).map(|s| format!(" ({s} s)")).unwrap_or_default();
            return Err(Failure::of(format!("wait for the daemon{seconds}"), &error));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn shutdown(cx: &Context, args: &TimeoutArgs) -> Result {
    let attempt = || "shut the daemon down".to_owned();
    // Listening before asking: the stream ends with the daemon.
    let filter = EventFilter { types: vec!["logging".into()], ..EventFilter::default() };
    let mut events = cx.client.get_events(&filter).await.attempt(attempt)?;
    cx.client.shutdown().await.attempt(attempt)?;
    let ended = async { while let Ok(Some(_)) = events.next().await {} };
    match args.deadline() {
        None => ended.await,
        Some(deadline) => tokio::time::timeout_at(deadline, ended).await.map_err(|_| {
            let hint = "It goes on with it. Instances that do not stop by themselves are killed after their time.";
            Failure::new(attempt(), "it has not ended in time").with_hint(hint)
        })?,
    }
    Ok(())
}
