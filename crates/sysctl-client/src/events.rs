//! The stream of events.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use sysctl_api::Event;
use tokio_tungstenite::tungstenite::Message;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::uri::Uri;
use crate::websocket::{Socket, broken, is_gone};

/// Which events are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// `operation`, `lifecycle`, `logging`; empty is all.
    pub types: Vec<String>,
    /// Of every project.
    pub all_projects: bool,
    /// Also those after this number that happened before: extension `sysctl_events_since`.
    pub since: Option<u64>,
}

/// Events as they happen.
#[derive(Debug)]
pub struct Events {
    socket: Socket,
    /// Number of the newest event before the first of these; 0 where the server does not say.
    newest: u64,
}

/// Events that go on where they were when the daemon comes back.
#[derive(Debug)]
pub struct Followed {
    client: Client,
    filter: EventFilter,
    /// `None` while the daemon is away.
    events: Option<Events>,
    patience: Duration,
}

/// How often a daemon that is away is tried.
const RETRY: Duration = Duration::from_millis(100);

impl Client {
    /// Listens to events. When this returns, none that happens later is missed.
    pub async fn get_events(&self, filter: &EventFilter) -> Result<Events> {
        let mut uri = Uri::new("/1.0/events");
        if !filter.types.is_empty() {
            uri = uri.query("type", &filter.types.join(","));
        }
        if filter.all_projects {
            uri = uri.query("all-projects", "true");
        }
        if let Some(since) = filter.since {
            uri = uri.query("since", &since.to_string());
        }
        let (head, socket) = self.websocket_with_head(uri).await?;
        let newest = head.headers().get("x-sysctl-newest-event").and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(Events { socket, newest: newest.unwrap_or(0) })
    }

    /// Listens to events over restarts of the daemon and over cuts, without missing any that is kept. Lines of the log are
    /// not. A daemon may be away for `patience`.
    pub async fn follow_events(&self, filter: &EventFilter, patience: Duration) -> Result<Followed> {
        let events = self.get_events(filter).await?;
        let since = filter.since.unwrap_or(events.newest);
        // A server that does not number its events is not asked for the past.
        let since = (since > 0 || filter.since.is_some()).then_some(since);
        let filter = EventFilter { since, ..filter.clone() };
        Ok(Followed { client: self.clone(), filter, events: Some(events), patience })
    }
}

impl Followed {
    /// The next event. An error when the daemon stays away for too long.
    pub async fn next(&mut self) -> Result<Event> {
        loop {
            if self.events.is_none() {
                self.events = Some(self.again().await?);
            }
            let Some(events) = &mut self.events else { continue };
            match events.next().await {
                Ok(Some(event)) => {
                    self.filter.since = (event.sequence > 0).then_some(event.sequence).or(self.filter.since);
                    return Ok(event);
                }
                Ok(None) => self.events = None,
                Err(error) if error.is_disconnect() => self.events = None,
                Err(error) => return Err(error),
            }
        }
    }

    /// Number of the last event, to go on from later.
    pub fn since(&self) -> Option<u64> {
        self.filter.since
    }

    async fn again(&self) -> Result<Events> {
        let begin = Instant::now();
        loop {
            match self.client.get_events(&self.filter).await {
                Ok(events) => return Ok(events),
                Err(error @ (Error::Connect { .. } | Error::Transport { .. })) if begin.elapsed() > self.patience => {
                    return Err(error);
                }
                Err(error) if matches!(error, Error::Connect { .. }) || error.is_disconnect() => {
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Events {
    /// The next event; `None` when the daemon ends, or has cut off a listener that was too slow.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        const ACT: &str = "GET /1.0/events";
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    let event = serde_json::from_str(&text);
                    return event.map(Some).map_err(|error| Error::protocol(ACT, error.to_string()));
                }
                Some(Ok(Message::Close(_))) | None => return Ok(None),
                Some(Ok(_)) => {}
                Some(Err(error)) if is_gone(&error) => return Ok(None),
                Some(Err(error)) => return Err(broken(ACT, error)),
            }
        }
    }
}
