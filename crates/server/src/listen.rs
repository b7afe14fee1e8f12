//! Connections: who they are from, how many there may be, how long they may take.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tower::ServiceExt;

use crate::App;
use crate::error::ApiError;
use crate::pace::{Paced, Patient};
use crate::request::Peer;
use crate::routes;

/// Connections at a time. Each costs two descriptors at most and some 20 KB, so all together 80 MB.
const MAX_CONNECTIONS: usize = 4096;

/// Connections of one user at a time: whatever one does, others find room for as many.
const MAX_PER_USER: usize = MAX_CONNECTIONS / 2;

/// How long a client may take to send the head of a request. Idle connections are closed after it, too.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Room for the head of a request.
const MAX_HEAD: usize = 64 * 1024;

/// Serves the socket until the future of this call is dropped.
pub async fn serve(listener: UnixListener, app: Arc<App>) {
    let router = routes::router(app);
    let slots = Arc::new(Slots::default());
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: others are about to be closed.
                tracing::warn!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(credentials) = stream.peer_cred() else { continue };
        let peer = Peer { uid: credentials.uid(), pid: credentials.pid().unwrap_or(0) };
        match slots.take(peer.uid) {
            Some(slot) => {
                let router = router.clone();
                tokio::spawn(async move {
                    connection(stream, peer, router).await;
                    drop(slot);
                });
            }
            None => refuse(stream).await,
        }
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

/// Tells why, as far as the client takes it at once: nobody is waited for here.
async fn refuse(mut stream: UnixStream) {
    const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-type: application/json\r\n\
        content-length: 118\r\n\r\n\
        {\"type\":\"error\",\"error_code\":503,\"error\":\"too many connections are open: close some of your own, or try again later\"}\n";
    let _ = tokio::time::timeout(Duration::ZERO, stream.write_all(ANSWER)).await;
}

/// Open connections, by user.
#[derive(Debug, Default)]
struct Slots {
    taken: Mutex<HashMap<u32, usize>>,
}

/// One open connection.
#[derive(Debug)]
struct Slot {
    slots: Arc<Slots>,
    uid: u32,
}

impl Slots {
    fn take(self: &Arc<Slots>, uid: u32) -> Option<Slot> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = taken.values().sum();
        let own = taken.get(&uid).copied().unwrap_or(0);
        if own >= MAX_PER_USER || all >= MAX_CONNECTIONS {
            return None;
        }
        taken.insert(uid, own + 1);
        Some(Slot { slots: self.clone(), uid })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.uid) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.uid);
            }
        }
    }
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, peer: Peer, router: axum::Router) {
    // Streams have time-outs of their own, or none: somebody may look at a terminal for an hour.
    let streaming = Arc::new(AtomicBool::new(false));
    let stream = Patient::new(stream, streaming.clone());
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (router, streaming) = (router.clone(), streaming.clone());
        async move {
            let late = Arc::new(AtomicBool::new(false));
            let mut request = request.map(|body| Body::new(Paced::new(body, late.clone())));
            request.extensions_mut().insert(peer);
            let response = answer(router, request).await;
            streaming.fetch_or(response.status() == StatusCode::SWITCHING_PROTOCOLS, Ordering::AcqRel);
            Ok::<_, Infallible>(if late.load(Ordering::Acquire) { too_slow() } else { response })
        }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(MAX_HEAD);
    // A client that goes away in the middle is no news.
    let _ = http.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
}

fn too_slow() -> Response {
    let text = "the body came too slowly: at least 1 KiB a second is expected";
    ApiError::new(StatusCode::REQUEST_TIMEOUT, text).into_response()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::routing::{get, post};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::time::Instant;

    use super::*;

    const PEER: Peer = Peer { uid: 7, pid: 1 };

    /// A client's end of a connection that holds 16 KiB on its way.
    fn connect() -> DuplexStream {
        let router = axum::Router::new()
            .route("/", get(async || "here"))
            .route("/large", get(async || vec![0u8; 1 << 20]))
            .route("/body", post(async |body: axum::body::Bytes| body.len().to_string()));
        let (client, server) = tokio::io::duplex(16 * 1024);
        tokio::spawn(connection(server, PEER, router));
        client
    }

    /// Lets virtual time pass.
    async fn pass(time: Duration) {
        let _ = tokio::time::timeout(time, std::future::pending::<()>()).await;
    }

    /// Everything that comes until the server hangs up, and how long that took.
    async fn rest(client: &mut DuplexStream) -> (String, Duration) {
        let (begin, mut text) = (Instant::now(), Vec::new());
        let _ = client.read_to_end(&mut text).await;
        (String::from_utf8_lossy(&text).into_owned(), begin.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_is_half_sent_is_waited_for_ten_seconds() {
        let mut client = connect();
        client.write_all(b"GET / HTTP/1.1\r\nhost").await.expect("sent");
        let (_, took) = rest(&mut client).await;
        assert!((HEADER_TIMEOUT..HEADER_TIMEOUT * 2).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_closed() {
        let mut client = connect();
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
        let (text, took) = rest(&mut client).await;
        assert!(text.contains("200 OK") && took < HEADER_TIMEOUT * 2, "{text} {took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_or_trickles_is_refused_in_words() {
        let mut client = connect();
        client.write_all(b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 90\r\n\r\nabc").await.expect("sent");
        let (text, took) = rest(&mut client).await;
        assert!(text.contains("408") && text.contains("too slowly"), "{text}");
        assert!(took < Duration::from_secs(60), "{took:?}");
        // A byte every two seconds is too slow as well, however long it goes on.
        let client = connect();
        let (mut reads, mut writes) = tokio::io::split(client);
        let trickle = async {
            writes.write_all(b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 9000\r\n\r\n").await?;
            loop {
                pass(Duration::from_secs(2)).await;
                writes.write_all(b"x").await?;
            }
            #[allow(unreachable_code)]
            Ok::<(), std::io::Error>(())
        };
        let (begin, mut text) = (Instant::now(), vec![0; 4096]);
        let length = tokio::select! {
            length = reads.read(&mut text) => length.expect("an answer"),
            _ = trickle => panic!("hung up without an answer"),
        };
        assert!(String::from_utf8_lossy(&text[..length]).contains("408"));
        assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_body_that_makes_progress_is_taken() {
        let client = connect();
        let (mut reads, mut writes) = tokio::io::split(client);
        let send = async {
            writes.write_all(b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 90000\r\n\r\n").await?;
            for _ in 0..45 {
                pass(Duration::from_millis(1500)).await;
                writes.write_all(&[b'x'; 2000]).await?;
            }
            Ok::<(), std::io::Error>(())
        };
        let mut text = vec![0; 4096];
        let (sent, length) = tokio::join!(send, reads.read(&mut text));
        sent.expect("all of it");
        assert!(String::from_utf8_lossy(&text[..length.expect("an answer")]).ends_with("90000"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_reads_is_given_up() {
        let mut client = connect();
        client.write_all(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
        pass(Duration::from_secs(120)).await;
        let (text, _) = rest(&mut client).await;
        assert!(text.len() < 1 << 20, "all of it was kept for somebody who does not read");
    }

    #[test]
    fn one_user_does_not_take_the_room_of_others() {
        let slots = Arc::new(Slots::default());
        let mut held: Vec<Slot> = std::iter::from_fn(|| slots.take(1000)).collect();
        assert_eq!(held.len(), MAX_PER_USER);
        let other = slots.take(0).expect("room for another user");
        held.pop();
        assert!(slots.take(1000).is_some(), "a closed connection makes room");
        held.extend(std::iter::from_fn(|| slots.take(1001)));
        assert_eq!(held.len() + 1, MAX_CONNECTIONS);
        drop((held, other));
        assert!(slots.taken.lock().expect("a lock").is_empty());
    }
}
