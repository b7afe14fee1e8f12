//! The stream of events.

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
}

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
        Ok(Events { socket: self.websocket(uri).await? })
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
