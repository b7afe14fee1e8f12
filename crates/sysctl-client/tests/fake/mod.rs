//! A daemon that says what a test tells it to say: HTTP on a Unix socket in a directory of its own.

use std::convert::Infallible;
use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sysctl_client::Client;
use tokio::net::UnixListener;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// A websocket at the server's side.
pub(crate) type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// A request as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }
}

/// The daemon.
pub(crate) struct Fake {
    directory: PathBuf,
    pub(crate) client: Client,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Fake {
    /// One that answers each request by what `answer` makes of it. `answer` gets upgrades unread.
    pub(crate) fn start<F, A>(answer: F) -> Fake
    where
        F: Fn(Seen, Option<Request<Incoming>>) -> A + Send + Sync + 'static,
        A: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("sysctl-client-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory for the socket");
        let socket = directory.join("unix.socket");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), seen.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, log) = (answer.clone(), log.clone());
                let service = service_fn(move |request| serve(request, answer.clone(), log.clone()));
                let http = hyper::server::conn::http1::Builder::new();
                tokio::spawn(async move {
                    let _ = http.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
                });
            }
        });
        Fake { directory, client: Client::new(socket), seen }
    }

    /// What was asked so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no panic elsewhere").clone()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.line).collect()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

async fn serve<F, A>(
    request: Request<Incoming>,
    answer: Arc<F>,
    log: Arc<Mutex<Vec<Seen>>>,
) -> Result<Response<Full<Bytes>>, Infallible>
where
    F: Fn(Seen, Option<Request<Incoming>>) -> A,
    A: Future<Output = Response<Full<Bytes>>>,
{
    let headers = request.headers().iter();
    let headers =
        headers.map(|(k, v)| (k.as_str().to_owned(), v.to_str().expect("text in headers").to_owned())).collect();
    let line = format!("{} {}", request.method(), request.uri());
    let upgrade = request.headers().contains_key("upgrade");
    let (body, request) = if upgrade {
        (Bytes::new(), Some(request))
    } else {
        (request.into_body().collect().await.expect("a body").to_bytes(), None)
    };
    let seen = Seen { line, headers, body };
    log.lock().expect("no panic elsewhere").push(seen.clone());
    Ok(answer(seen, request).await)
}

fn body(status: u16, value: &Value) -> Response<Full<Bytes>> {
    let response = Response::builder().status(status).header("content-type", "application/json");
    response.body(Full::new(value.to_string().into())).expect("a response")
}

/// Content.
pub(crate) fn sync(metadata: Value) -> Response<Full<Bytes>> {
    let envelope = json!({"type": "sync", "status": "Success", "status_code": 200, "operation": "", "error_code": 0,
        "error": "", "metadata": metadata});
    body(200, &envelope)
}

/// An operation.
pub(crate) fn operation(metadata: Value) -> Response<Full<Bytes>> {
    let envelope = json!({"type": "async", "status": "Operation created", "status_code": 100,
        "operation": "/1.0/operations/x", "error_code": 0, "error": "", "metadata": metadata});
    body(202, &envelope)
}

/// An error.
pub(crate) fn error(status: u16, text: &str) -> Response<Full<Bytes>> {
    let envelope = json!({"type": "error", "status": "", "status_code": 0, "operation": "", "error_code": status,
        "error": text, "metadata": null});
    body(status, &envelope)
}

/// Says yes to an upgrade; the stream goes to `then`.
pub(crate) fn switch<A: Future<Output = ()> + Send + 'static>(
    mut request: Request<Incoming>,
    protocol: &str,
    then: impl FnOnce(TokioIo<hyper::upgrade::Upgraded>) -> A + Send + 'static,
) -> Response<Full<Bytes>> {
    let key = request.headers().get("sec-websocket-key").map(|key| derive_accept_key(key.as_bytes()));
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move { then(TokioIo::new(upgrade.await.expect("an upgrade"))).await });
    let mut response = Response::builder().status(101).header("connection", "Upgrade").header("upgrade", protocol);
    if let Some(key) = key {
        response = response.header("sec-websocket-accept", key);
    }
    response.body(Full::default()).expect("a response")
}

/// The same for a websocket.
pub(crate) fn websocket<A: Future<Output = ()> + Send + 'static>(
    request: Request<Incoming>,
    then: impl FnOnce(Socket) -> A + Send + 'static,
) -> Response<Full<Bytes>> {
    switch(request, "websocket", |stream| async {
        then(WebSocketStream::from_raw_socket(stream, Role::Server, None).await).await;
    })
}
