//! Connections: who they are from, how many there may be, how long they may take.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tower::ServiceExt;

use crate::App;
use crate::error::ApiError;
use crate::request::Peer;
use crate::routes;

/// Connections at a time. Each costs two descriptors at most and some 20 KB.
const MAX_CONNECTIONS: usize = 4096;

/// How long a client may take to send the head of a request. Idle connections are closed after it, too.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Room for the head of a request.
const MAX_HEAD: usize = 64 * 1024;

/// Serves the socket until the future of this call is dropped.
pub async fn serve(listener: UnixListener, app: Arc<App>) {
    let router = routes::router(app);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: others are about to be closed.
                tracing::warn!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let router = router.clone();
        tokio::spawn(async move {
            connection(stream, router).await;
            drop(slot);
        });
    }
}

/// The answer to one request. A panic on the way is a defect of ours and this request's alone: whoever sent it is told, and
/// nobody else notices. No lock is left poisoned, as all of them are taken whatever became of their last holder.
async fn answer(router: axum::Router, request: Request<Body>) -> Response {
    let what = format!("{} {}", request.method(), request.uri().path());
    let answered = std::panic::AssertUnwindSafe(router.oneshot(request)).catch_unwind().await;
    match answered {
        Ok(response) => response.unwrap_or_else(|never| match never {}),
        Err(panic) => {
            let why = engine::panic_text(&*panic);
            tracing::error!(request = what, why, "a defect of the daemon: the request was given up");
            let text =
                format!("{what} ran into a defect of the daemon ({why}); nothing else is affected, please report it");
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
    }
}

async fn connection(stream: UnixStream, router: axum::Router) {
    let Ok(credentials) = stream.peer_cred() else { return };
    let peer = Peer { uid: credentials.uid(), pid: credentials.pid().unwrap_or(0) };
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let router = router.clone();
        async move {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            Ok::<_, Infallible>(answer(router, request).await)
        }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(MAX_HEAD);
    // A client that goes away in the middle is no news.
    let _ = http.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
}
