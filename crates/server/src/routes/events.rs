//! The stream of events.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use engine::{Event, Happening};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::broadcast::error::RecvError;

use crate::App;
use crate::error::ApiError;
use crate::render;
use crate::reply::Answer;
use crate::request::Caller;

/// How often a listener is shown that the connection lives.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// How long a listener may take to read one event. Then it is cut off: it can come back and ask for what it missed.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a listener wants to hear.
struct Wanted {
    /// `None` is everything.
    types: Option<Vec<String>>,
    /// `None` is every project.
    project: Option<String>,
}

impl Wanted {
    fn includes(&self, event: &Event) -> bool {
        let kind = match event.happening {
            Happening::Operation(_) => "operation",
            Happening::Lifecycle(_) => "lifecycle",
            Happening::Logging(_) => "logging",
        };
        let of_project = self.project.as_ref().is_none_or(|p| event.project.is_empty() || *p == event.project);
        of_project && self.types.as_ref().is_none_or(|types| types.iter().any(|t| t == kind))
    }
}

pub(crate) async fn listen(State(app): State<Arc<App>>, caller: Caller, upgrade: WebSocketUpgrade) -> Answer {
    const KNOWN: [&str; 4] = ["operation", "lifecycle", "logging", "network-acl"];
    let types = caller.query.get("type").map(|list| list.split(',').map(str::to_owned).collect::<Vec<_>>());
    if let Some(unknown) = types.iter().flatten().find(|t| !KNOWN.contains(&t.as_str())) {
        return Err(ApiError::bad(format!("{unknown:?} isn't a supported event type")));
    }
    let all = caller.query.is_on("all-projects");
    let project = if all { None } else { Some(caller.project()?.to_string()) };
    let since = match caller.query.get("since").map(str::parse::<u64>) {
        None => None,
        Some(Ok(number)) => Some(number),
        Some(Err(_)) => return Err(ApiError::bad("since: the number of an event is expected")),
    };
    let wanted = Wanted { types, project };
    Ok(upgrade.on_upgrade(move |socket| async move { tell(&app, socket, &wanted, since).await }))
}

async fn tell(app: &App, socket: WebSocket, wanted: &Wanted, since: Option<u64>) {
    let (mut sink, mut source) = socket.split();
    // First the ear, then the past: nothing falls between.
    let mut live = app.engine.events().listen();
    let mut last = since.unwrap_or_else(|| app.engine.events().newest());
    let mut keepalive = tokio::time::interval(KEEPALIVE);
    keepalive.reset();
    if since.is_some() {
        for event in app.engine.past_events(last + 1).await {
            last = event.sequence;
            if wanted.includes(&event) && !send(&mut sink, text(&event)).await {
                return;
            }
        }
    }
    loop {
        let message = tokio::select! {
            event = live.recv() => match event {
                Ok(event) if event.sequence <= last || !wanted.includes(&event) => continue,
                Ok(event) => text(&event),
                // Too far behind: whoever wants what was missed comes back with `since`.
                Err(RecvError::Lagged(_) | RecvError::Closed) => return,
            },
            _ = keepalive.tick() => Message::Ping("keepalive".into()),
            heard = source.next() => match heard {
                Some(Ok(Message::Close(_))) | Some(Err(_)) | None => return,
                Some(Ok(_)) => continue,
            },
        };
        if !send(&mut sink, message).await {
            return;
        }
    }
}

async fn send(sink: &mut (impl SinkExt<Message> + Unpin), message: Message) -> bool {
    matches!(tokio::time::timeout(PATIENCE, sink.send(message)).await, Ok(Ok(())))
}

fn text(event: &Event) -> Message {
    Message::Text(serde_json::to_string(&render::event(event)).unwrap_or_default().into())
}
