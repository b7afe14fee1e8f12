//! The stream of events.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::http::HeaderValue;
use engine::{Event, Happening};
use futures_util::stream::SplitSink;
use futures_util::{SinkExt, StreamExt};
use tokio::sync::broadcast::Receiver;
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

/// Texts that are remembered for the listeners that have not come to them yet; some 2 KB each.
const REMEMBERED: usize = 64;

/// Largest message of a listener, who has nothing to say.
const MAX_MESSAGE: usize = 4096;

/// Events as they were just told: a thousand listeners want the same text.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    latest: Mutex<VecDeque<(Arc<Event>, Utf8Bytes)>>,
}

impl Texts {
    fn of(&self, event: &Arc<Event>) -> Utf8Bytes {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, text)) = latest.iter().find(|(known, _)| Arc::ptr_eq(known, event)) {
            return text.clone();
        }
        let text = Utf8Bytes::from(serde_json::to_string(&render::event(event)).unwrap_or_default());
        if latest.len() == REMEMBERED {
            latest.pop_front();
        }
        latest.push_back((event.clone(), text.clone()));
        text
    }
}

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
    app.engine.numbered().await;
    // First the ear, then the past: nothing falls between.
    let live = app.engine.events().listen();
    let newest = app.engine.events().newest();
    let upgrade = upgrade.max_message_size(MAX_MESSAGE).max_frame_size(MAX_MESSAGE);
    let upgrade = upgrade.read_buffer_size(MAX_MESSAGE).write_buffer_size(0);
    let mut response = upgrade.on_upgrade(move |socket| async move {
        let (sink, source) = socket.split();
        let last = since.unwrap_or(newest);
        let mut listener = Listener { app: &app, sink, wanted: &wanted, last, asked: since.is_some() };
        let why = tokio::select! {
            why = listener.tell(live) => why,
            () = until_closed(source) => None,
        };
        if let Some((code, reason)) = why {
            listener.send(Message::Close(Some(CloseFrame { code, reason: reason.into() }))).await;
        }
    });
    // Where a client that has heard nothing yet goes on when it comes back.
    response.headers_mut().insert("x-sysctl-newest-event", HeaderValue::from(newest));
    Ok(response)
}

/// Why a listener is cut off; `None` when it went by itself.
type Why = Option<(u16, &'static str)>;

struct Listener<'a> {
    app: &'a App,
    sink: SplitSink<WebSocket, Message>,
    wanted: &'a Wanted,
    /// The number of the event that it came to.
    last: u64,
    /// It asked for the past, so it knows of numbers.
    asked: bool,
}

impl Listener<'_> {
    async fn tell(&mut self, mut live: Receiver<Arc<Event>>) -> Why {
        let mut keepalive = tokio::time::interval(KEEPALIVE);
        keepalive.reset();
        if self.asked
            && let Err(why) = self.past().await
        {
            return why;
        }
        loop {
            let told = tokio::select! {
                event = live.recv() => match event {
                    Ok(event) => self.one(&event).await,
                    // Whoever is slow is told from what is kept. Lines of the log are not.
                    Err(RecvError::Lagged(_)) => self.past().await,
                    Err(RecvError::Closed) => Err(None),
                },
                _ = keepalive.tick() => self.send_or_leave(Message::Ping("keepalive".into())).await,
            };
            if let Err(why) = told {
                return why;
            }
        }
    }

    /// What happened after `last`, as far as it is kept. What is kept no more is told to whoever knows of numbers; others
    /// are cut off instead of being left to believe that nothing happened.
    async fn past(&mut self) -> Result<(), Why> {
        let lost = self.app.engine.events().lost_through();
        if lost > self.last {
            if !self.asked {
                return Err(Some((close_code::AGAIN, "events were lost: too slow, and they are not kept any more")));
            }
            let gap = render::gap(self.last, lost);
            self.send_or_leave(Message::Text(serde_json::to_string(&gap).unwrap_or_default().into())).await?;
            self.last = lost;
        }
        loop {
            let past = self.app.engine.past_events(self.last + 1).await;
            let past = past.map_err(|_| Some((close_code::ERROR, "the events that are kept can't be read")))?;
            for event in past.events {
                self.one(&Arc::new(event)).await?;
            }
            if !past.more {
                return Ok(());
            }
        }
    }

    async fn one(&mut self, event: &Arc<Event>) -> Result<(), Why> {
        let is_kept = !matches!(event.happening, Happening::Logging(_));
        if is_kept && event.sequence <= self.last {
            return Ok(());
        }
        self.last = event.sequence;
        if self.wanted.includes(event) {
            self.send_or_leave(Message::Text(self.app.texts.of(event))).await?;
        }
        Ok(())
    }

    async fn send_or_leave(&mut self, message: Message) -> Result<(), Why> {
        if self.send(message).await { Ok(()) } else { Err(None) }
    }

    async fn send(&mut self, message: Message) -> bool {
        matches!(tokio::time::timeout(PATIENCE, self.sink.send(message)).await, Ok(Ok(())))
    }
}

/// Reads until the client is gone; what it says is of no interest.
async fn until_closed(mut source: futures_util::stream::SplitStream<WebSocket>) {
    while let Some(Ok(message)) = source.next().await {
        if matches!(message, Message::Close(_)) {
            return;
        }
    }
}
