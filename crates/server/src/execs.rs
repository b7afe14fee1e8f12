//! Operations that are about streams: exec'd programs and consoles, from the request to the end of the last stream.
//!
//! A program outlives the daemon in its keeper, with a [`label::Label`] by which the next daemon knows its operation and
//! secrets. A client that said that it can come back (`resume=1`) goes on there where it was cut off.

mod label;
mod streams;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::ws::WebSocket;
use axum::http::StatusCode;
use engine::{Class, ExecOrder, InheritedSession, Operation, Session, StepError};
use model::Boot;
use tokio::sync::{OnceCell, watch};
use uuid::Uuid;

use crate::App;
use crate::error::ApiError;
use crate::pumps::{self, End, Way};

pub(crate) use label::Label;
use streams::Streams;

/// How long a client may take to connect its first stream, and after a program's end its others.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a program that was told that its client is gone (`SIGHUP`) may take to end before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// How long a client that can come back may take for that: ten times what a program needs to be started again.
const RESUME: Duration = Duration::from_secs(10);

/// The same after a restart of the daemon, which takes its time, too.
const RESUME_AFTER_RESTART: Duration = Duration::from_secs(30);

/// How long a stream that its client has lost may be thought to be connected: until the end of its socket was noticed.
const NOTICE: Duration = Duration::from_secs(1);

const HUP: i32 = 1;
const KILL: i32 = 9;

/// Why there is no code.
const LOST: &str = "the instance or its keeper went away while the program ran";

/// All of them.
#[derive(Default)]
pub(crate) struct Execs {
    known: Mutex<HashMap<Uuid, Arc<Exec>>>,
}

/// One.
pub(crate) struct Exec {
    id: Uuid,
    /// `None` when a former daemon ended it: only its output is left to be fetched.
    operation: Option<Operation>,
    what: What,
    /// Secret of each stream, by its name: `0`, `1`, `2`, `control`.
    secrets: BTreeMap<&'static str, String>,
    session: OnceCell<Result<Arc<dyn Session>, StepError>>,
    streams: watch::Sender<Streams>,
}

/// What the streams are those of.
#[derive(Debug)]
enum What {
    Program(Boot, Box<ExecOrder>),
    Console(Boot),
    /// A program that a former daemon began.
    Inherited,
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

    /// Takes one on; it begins when its first stream is connected. A console has no order.
    pub(crate) fn add(
        &self,
        app: &Arc<App>,
        operation: Operation,
        boot: Boot,
        order: Option<ExecOrder>,
        secrets: BTreeMap<&'static str, String>,
    ) {
        let what = order.map_or(What::Console(boot), |order| What::Program(boot, Box::new(order)));
        self.begin(app, Exec::new(operation.id(), Some(operation), what, secrets));
    }

    fn begin(&self, app: &Arc<App>, exec: Exec) {
        let exec = Arc::new(exec);
        self.known().insert(exec.id, exec.clone());
        let app = app.clone();
        tokio::spawn(async move {
            exec.run(&app).await;
            // A client may still be connecting input and control of a program that was quick.
            tokio::time::sleep(CONNECT).await;
            app.execs.known().remove(&exec.id);
        });
    }

    /// The exec and the stream that a secret is for. Each secret is good for one connection at a time, and for another one
    /// only where the client can come back.
    pub(crate) async fn redeem(&self, id: Uuid, secret: &str, way: Way) -> Result<(Arc<Exec>, &'static str), ApiError> {
        let exec = self.known().get(&id).cloned();
        let exec = exec.ok_or_else(|| ApiError::not_found("Operation not found"))?;
        let refused = || ApiError::new(StatusCode::FORBIDDEN, "Invalid websocket secret");
        let (name, _) = exec.secrets.iter().find(|(_, known)| same(known, secret)).ok_or_else(refused)?;
        let name = *name;
        if way.resumes {
            let mut streams = exec.streams.subscribe();
            let free = streams.wait_for(|streams| !streams.is_connected(name));
            if tokio::time::timeout(NOTICE, free).await.is_err() {
                return Err(ApiError::conflict("another client is connected to this stream"));
            }
            exec.check_position(name, way)?;
        }
        let mut taken = false;
        exec.streams.send_if_modified(|streams| {
            taken = streams.connect(name, way.resumes);
            taken
        });
        if taken { Ok((exec, name)) } else { Err(refused()) }
    }
}

/// Compares without telling by its time how much was right.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |different, (x, y)| different | (x ^ y)) == 0
}

/// Takes up what former daemons began: programs go on, and ends that nobody was told yet are told.
pub(crate) async fn take_up(app: &Arc<App>) {
    for InheritedSession { label, session } in app.engine.host().inherited().await {
        let Some(Label { operation, .. }) = Label::read(&label) else {
            tracing::warn!("a session of another release has no label that is understood: it is ended");
            tokio::spawn(async move {
                hang_up(&*session).await;
                end_unheard(&*session).await;
                session.forget().await;
            });
            continue;
        };
        let (id, class) = (operation.id, operation.class);
        let secrets = label::secrets(&operation);
        let operation = app.engine.resume_streams(operation);
        tracing::info!(operation = %id, over = operation.is_none(), "taking up a session");
        match class {
            Class::Websocket => {
                let exec = Exec::new(id, operation, What::Inherited, secrets);
                // It is new: nobody was before us.
                let _ = exec.session.set(Ok(session));
                app.execs.begin(app, exec);
            }
            Class::Task => drop(tokio::spawn(silent(app.clone(), operation, session))),
        }
    }
}

/// Waits for a program without streams, and tells its code.
pub(crate) async fn silent(app: Arc<App>, operation: Option<Operation>, session: Arc<dyn Session>) {
    let code = session.ended().await;
    finish(&app, operation.as_ref(), code).await;
    session.forget().await;
}

/// Tells the end; returns once it is kept.
async fn finish(app: &App, operation: Option<&Operation>, code: Option<i32>) {
    let Some(operation) = operation else { return };
    let result = match code {
        Some(code) => {
            operation.set_metadata("return", code.into());
            Ok(())
        }
        None => Err(LOST.to_owned()),
    };
    app.engine.finish_streams(operation, result).await;
}

/// Tells a program that nobody is there any more, and in the end kills it.
async fn hang_up(session: &dyn Session) {
    session.signal(HUP).await;
    if tokio::time::timeout(GRACE, session.ended()).await.is_err() {
        session.signal(KILL).await;
    }
}

/// How long a program goes on that nobody is connected to.
fn patience(streams: &Streams) -> Duration {
    if streams.is_untouched() {
        RESUME_AFTER_RESTART
    } else if streams.may_come_back() {
        RESUME
    } else if streams.is_complete() {
        // It said all that it had to say: its end is near.
        GRACE
    } else if streams.is_any_gone() {
        Duration::ZERO
    } else {
        CONNECT
    }
}

/// Waits for the end of a program that nobody listens to: it is at its end only when its output was taken.
async fn end_unheard(session: &dyn Session) -> Option<i32> {
    let discard = async |stream| {
        let mut offset = session.acknowledged(stream);
        while let Some((at, bytes)) = session.read(stream, offset).await {
            offset = at + bytes.len() as u64;
            session.acknowledge(stream, offset).await;
        }
    };
    let (code, (), ()) = tokio::join!(session.ended(), discard(1), discard(2));
    code
}

impl Exec {
    fn new(id: Uuid, operation: Option<Operation>, what: What, secrets: BTreeMap<&'static str, String>) -> Exec {
        let outputs: &[&str] = if secrets.contains_key("1") { &["1", "2"] } else { &["0"] };
        let streams = watch::channel(Streams::new(outputs)).0;
        Exec { id, operation, what, secrets, session: OnceCell::new(), streams }
    }

    /// The session; begun by whoever asks first.
    async fn session(&self, app: &App) -> Result<Arc<dyn Session>, StepError> {
        let begin = || async {
            match &self.what {
                What::Program(boot, order) => app.engine.host().exec(*boot, (**order).clone()).await,
                What::Console(boot) => app.engine.host().console(*boot).await,
                What::Inherited => Err(engine::step_error("exec", "the session is gone")),
            }
        };
        self.session.get_or_init(begin).await.clone()
    }

    fn is_console(&self) -> bool {
        matches!(self.what, What::Console(_))
    }

    /// Number of the output that a stream carries.
    fn output(&self, name: &str) -> Option<u8> {
        match (name, self.secrets.contains_key("1")) {
            ("0", false) | ("1", _) => Some(1),
            ("2", _) => Some(2),
            _ => None,
        }
    }

    /// What was given to another client is gone: it must not look as if it had never been.
    fn check_position(&self, name: &str, way: Way) -> Result<(), ApiError> {
        let (Some(Ok(session)), Some(stream), Some(from)) = (self.session.get(), self.output(name), way.from) else {
            return Ok(());
        };
        let kept = session.acknowledged(stream);
        if from >= kept {
            return Ok(());
        }
        let text =
            format!("bytes {from} to {kept} of stream {name} were given to another client; leave out the offset");
        Err(ApiError::conflict(text))
    }

    /// Serves one connected stream until it is over.
    pub(crate) async fn serve(&self, app: &App, name: &'static str, socket: WebSocket, way: Way) {
        // Of a console nothing is ever acknowledged: all that is kept is shown.
        let from = way.from.or(self.is_console().then_some(0));
        let way = Way { from, ..way };
        let end = match self.session(app).await {
            Ok(session) => match (name, self.output(name)) {
                ("0", Some(_)) => pumps::terminal(socket, session, way).await,
                ("0", None) => pumps::input(socket, session, way).await,
                (_, Some(stream)) => pumps::output(socket, session, stream, way).await,
                (_, None) => pumps::control(socket, session.clone(), self.over(session), way).await,
            },
            // The supervisor tells why.
            Err(_) => End::Gone,
        };
        self.streams.send_modify(|streams| streams.disconnect(name, end));
    }

    /// Resolves when there is nothing left to control.
    async fn over(&self, session: Arc<dyn Session>) {
        if self.is_console() {
            std::future::pending::<()>().await;
        }
        session.ended().await;
    }

    async fn run(&self, app: &App) {
        let begun = match self.what {
            What::Inherited => self.session(app).await.map_err(|error| error.to_string()),
            What::Program(..) | What::Console(_) => self.first(app).await,
        };
        let session = match begun {
            Ok(session) => session,
            Err(error) => return self.finish_unkept(app, Err(error)),
        };
        if self.is_console() {
            // A console is over when its client leaves.
            let _ = self.streams.subscribe().wait_for(|streams| !streams.is_any_connected()).await;
            return self.finish_unkept(app, Ok(()));
        }
        let heard = tokio::select! {
            code = session.ended() => Some(code),
            () = self.abandoned(&*session) => None,
        };
        let Some(code) = heard else {
            let code = end_unheard(&*session).await;
            finish(app, self.operation.as_ref(), code).await;
            return session.forget().await;
        };
        if matches!(self.what, What::Inherited) {
            // Its client may be one that does not come back, but asks for the code.
            finish(app, self.operation.as_ref(), code).await;
            self.drain(RESUME_AFTER_RESTART).await;
        } else {
            self.drain(CONNECT).await;
            finish(app, self.operation.as_ref(), code).await;
        }
        // Only now: a daemon that dies before finds it again.
        session.forget().await;
    }

    fn finish_unkept(&self, app: &App, result: Result<(), String>) {
        if let Some(operation) = &self.operation {
            operation.finish_unkept(app.engine.operations(), result);
        }
    }

    /// The session, once the first stream is connected.
    async fn first(&self, app: &App) -> Result<Arc<dyn Session>, String> {
        let mut streams = self.streams.subscribe();
        let first = streams.wait_for(|streams| !streams.is_untouched());
        if tokio::time::timeout(CONNECT, first).await.is_err() {
            return Err("Timed out waiting for websockets to connect".into());
        }
        self.session(app).await.map_err(|error| error.to_string())
    }

    /// Resolves once the client is gone for good: the program was told then, and in the end killed.
    async fn abandoned(&self, session: &dyn Session) {
        let mut streams = self.streams.subscribe();
        loop {
            let Ok(patience) = streams.wait_for(Streams::is_alone).await.map(|streams| patience(&streams)) else {
                return std::future::pending().await;
            };
            let back = streams.wait_for(|streams| !streams.is_alone());
            if tokio::time::timeout(patience, back).await.is_err() {
                break;
            }
        }
        hang_up(session).await;
    }

    /// Waits until the output was carried over: as long as that takes for streams that are connected, a moment for those
    /// that are not or may come back.
    async fn drain(&self, connect: Duration) {
        let mut streams = self.streams.subscribe();
        loop {
            let left = streams.wait_for(|streams| streams.is_drained() || !streams.is_output_connected()).await;
            let left = left.map(|streams| (streams.is_drained(), streams.may_come_back()));
            let patience = match left {
                Ok((false, true)) => RESUME,
                Ok((false, false)) => connect,
                Ok((true, _)) | Err(_) => return,
            };
            let back = streams.wait_for(|streams| streams.is_drained() || streams.is_output_connected());
            if tokio::time::timeout(patience, back).await.is_err() {
                return;
            }
        }
    }
}
