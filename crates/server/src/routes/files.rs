//! Files of instances: a raw SFTP stream.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::Response;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::App;
use crate::error::ApiError;
use crate::reply::Answer;
use crate::request::Caller;

pub(crate) async fn sftp(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    caller: Caller,
    mut request: Request,
) -> Answer {
    let wanted = caller.headers.get(header::UPGRADE).and_then(|value| value.to_str().ok());
    if !wanted.is_some_and(|value| value.eq_ignore_ascii_case("sftp")) {
        return Err(ApiError::bad("Missing or invalid upgrade header: \"Upgrade: sftp\" is expected"));
    }
    let view = app.engine.instance(&caller.project()?, &name)?;
    let record = &view.record;
    let boot = view.pid().and(record.wish.power.boot()).map(|generation| model::Boot { id: record.id, generation });
    let root = (record.id, record.wish.root, record.wish.source);
    let stream = app.access.files(boot, root, &record.pool, record.wish.ids).await?;
    let stream = std::os::unix::net::UnixStream::from(stream);
    stream.set_nonblocking(true)?;
    let mut stream = UnixStream::from_std(stream)?;
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            // Either side may hang up at any time; the helper ends with its socket.
            let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(upgraded), &mut stream).await;
        }
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "sftp")
        .body(Body::empty())
        .map_err(|error| ApiError::bad(error.to_string()))
}
