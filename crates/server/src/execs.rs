//! Operations that are about streams: exec'd programs and consoles, from the request to the end of the last stream.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::ws::WebSocket;
use axum::http::StatusCode;
use engine::{ExecOrder, Operation, Session, StepError};
use model::Boot;
use tokio::sync::{OnceCell, watch};
use uuid::Uuid;

use crate::App;
use crate::error::ApiError;
use crate::pumps::{self, End};

/// How long a client may take to connect its first stream, and after a program's end its others.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a program goes on whose client is gone, before it is told (`SIGHUP`), and then before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// All of them.
#[derive(Default)]
pub(crate) struct Execs {
    known: Mutex<HashMap<Uuid, Arc<Exec>>>,
}

/// One.
pub(crate) struct Exec {
    operation: Operation,
    boot: Boot,
    /// `None` for a console.
    order: Option<ExecOrder>,
    /// Secret of each stream, by its name: `0`, `1`, `2`, `control`.
    secrets: BTreeMap<&'static str, String>,
    session: OnceCell<Result<Arc<dyn Session>, StepError>>,
    streams: watch::Sender<Streams>,
}

/// Which streams were connected, and which are over.
#[derive(Debug, Clone, Default)]
struct Streams {
    taken: Vec<&'static str>,
    connected: usize,
    complete: Vec<&'static str>,
}

impl Execs {
    fn known(&self) -> MutexGuard<'_, HashMap<Uuid, Arc<Exec>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the secrets of a new one: a terminal or console has one stream for both directions.
    pub(crate) fn secrets(terminal: bool) -> BTreeMap<&'static str, String> {
        let names: &[&str] = if terminal { &["0", "control"] } else { &["0", "1", "2", "control"] };
        let secret = || format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        names.iter().map(|name| (*name, secret())).collect()
    }

    /// Takes one on; it begins when its first stream is connected.
    pub(crate) fn add(
        &self,
        app: &Arc<App>,
        operation: Operation,
        boot: Boot,
        order: Option<ExecOrder>,
        secrets: BTreeMap<&'static str, String>,
    ) {
        let id = operation.id();
        let streams = watch::channel(Streams::default()).0;
        let exec = Arc::new(Exec { operation, boot, order, secrets, session: OnceCell::new(), streams });
        self.known().insert(id, exec.clone());
        let app = app.clone();
        tokio::spawn(async move {
            let result = exec.run(&app).await;
            exec.operation.finish_unkept(app.engine.operations(), result);
            // A client may still be connecting input and control of a program that was quick.
            tokio::time::sleep(CONNECT).await;
            app.execs.known().remove(&id);
        });
    }

    /// The exec and the stream that a secret is for. Each secret is good for one connection.
    pub(crate) fn redeem(&self, id: Uuid, secret: &str) -> Result<(Arc<Exec>, &'static str), ApiError> {
        let exec = self.known().get(&id).cloned();
        let exec = exec.ok_or_else(|| ApiError::not_found("Operation not found"))?;
        let refused = || ApiError::new(StatusCode::FORBIDDEN, "Invalid websocket secret");
        let (name, _) = exec.secrets.iter().find(|(_, known)| same(known, secret)).ok_or_else(refused)?;
        let name = *name;
        let fresh = exec.streams.send_if_modified(|streams| {
            let fresh = !streams.taken.contains(&name);
            if fresh {
                streams.taken.push(name);
                streams.connected += 1;
            }
            fresh
        });
        if fresh { Ok((exec, name)) } else { Err(refused()) }
    }
}

/// Compares without telling by its time how much was right.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |different, (x, y)| different | (x ^ y)) == 0
}

impl Exec {
    /// The session; begun by whoever asks first.
    async fn session(&self, app: &App) -> Result<Arc<dyn Session>, StepError> {
        let begin = || async {
            match &self.order {
                Some(order) => app.engine.host().exec(self.boot, order.clone()).await,
                None => app.engine.host().console(self.boot).await,
            }
        };
        self.session.get_or_init(begin).await.clone()
    }

    /// Serves one connected stream until it is over.
    pub(crate) async fn serve(&self, app: &App, name: &'static str, socket: WebSocket, from: u64) {
        let end = match self.session(app).await {
            Ok(session) => match (name, self.secrets.contains_key("1")) {
                ("0", false) => pumps::terminal(socket, session, from).await,
                ("0", true) => pumps::input(socket, session).await,
                ("1", _) => pumps::output(socket, session, 1, from).await,
                ("2", _) => pumps::output(socket, session, 2, from).await,
                _ => self.control(socket, session).await,
            },
            // The supervisor tells why.
            Err(_) => End::Gone,
        };
        self.streams.send_modify(|streams| {
            streams.connected -= 1;
            if end == End::Complete || name != "control" {
                streams.complete.push(name);
            }
        });
    }

    /// The control socket stays open until the program has ended.
    async fn control(&self, socket: WebSocket, session: Arc<dyn Session>) -> End {
        let ended = session.clone();
        let over = async {
            if self.order.is_some() {
                ended.ended().await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            end = pumps::control(socket, session) => end,
            () = over => End::Complete,
        }
    }

    async fn run(&self, app: &App) -> Result<(), String> {
        let mut streams = self.streams.subscribe();
        let first = streams.wait_for(|streams| !streams.taken.is_empty());
        if tokio::time::timeout(CONNECT, first).await.is_err() {
            return Err("Timed out waiting for websockets to connect".into());
        }
        let session = self.session(app).await.map_err(|error| error.to_string())?;
        if self.order.is_none() {
            // A console is over when its client leaves.
            let _ = streams.wait_for(|streams| streams.connected == 0).await;
            return Ok(());
        }
        let code = tokio::select! {
            code = session.ended() => code,
            () = self.abandoned(&*session) => session.ended().await,
        };
        self.drain().await;
        session.forget();
        match code {
            Some(code) => {
                self.operation.set_metadata("return", code.into());
                Ok(())
            }
            None => Err("the instance or its keeper went away while the program ran".into()),
        }
    }

    /// Resolves once the client is gone for good: the program was told then, and in the end killed.
    async fn abandoned(&self, session: &dyn Session) {
        let mut streams = self.streams.subscribe();
        loop {
            if streams.wait_for(|streams| streams.connected == 0).await.is_err() {
                std::future::pending::<()>().await;
            }
            let back = streams.wait_for(|streams| streams.connected > 0);
            if tokio::time::timeout(GRACE, back).await.is_err() {
                break;
            }
        }
        const HUP: i32 = 1;
        const KILL: i32 = 9;
        session.signal(HUP);
        if tokio::time::timeout(GRACE, session.ended()).await.is_err() {
            session.signal(KILL);
        }
    }

    /// Waits until the output was carried over: as long as that takes for streams that are connected, a moment for others.
    async fn drain(&self) {
        let outputs: Vec<&str> = if self.secrets.contains_key("1") { vec!["1", "2"] } else { vec!["0"] };
        let mut streams = self.streams.subscribe();
        let connected = streams.wait_for(|s| outputs.iter().all(|name| s.taken.contains(name)));
        let _ = tokio::time::timeout(CONNECT, connected).await;
        let over = |s: &Streams| outputs.iter().all(|n| s.complete.contains(n) || !s.taken.contains(n));
        let _ = streams.wait_for(over).await;
    }
}
