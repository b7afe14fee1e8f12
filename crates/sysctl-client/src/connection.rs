//! One connection per request.
//!
//! A connect to a Unix socket costs some 20 µs. For that no connection is ever found closed by a daemon that was replaced,
//! and no answer can end up with another question.

use std::path::Path;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::error::{Error, Result};

/// Body of a request.
pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// A body that is there as a whole.
pub(crate) fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Sends a request on a connection of its own; returns once the head of the answer is there.
pub(crate) async fn send(socket: &Path, act: &str, mut request: Request<Body>) -> Result<Response<Incoming>> {
    let connect = |source| Error::Connect { socket: socket.to_owned(), source };
    let stream = UnixStream::connect(socket).await.map_err(connect)?;
    let transport = |source| Error::Transport { act: act.to_owned(), source };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(transport)?;
    // Ends with the answer's body, or with the stream that the connection is upgraded to.
    tokio::spawn(async move { connection.with_upgrades().await });
    request.headers_mut().insert(header::HOST, header::HeaderValue::from_static("sysctl"));
    sender.send_request(request).await.map_err(transport)
}
