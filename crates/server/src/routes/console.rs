//! Consoles: attach, log, clear.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::IntoResponse;
use sysctl_api::ConsolePost;

use super::exec::running;
use crate::App;
use crate::error::ApiError;
use crate::execs::Execs;
use crate::reply::{self, Answer};
use crate::request::{self, Caller};

pub(crate) async fn post(State(app): State<Arc<App>>, Path(name): Path<String>, caller: Caller, body: Bytes) -> Answer {
    let post: ConsolePost = request::body(&body)?;
    if !matches!(post.kind.as_str(), "" | "console") {
        return Err(ApiError::bad(format!("Unknown console type {:?}: a container has only \"console\"", post.kind)));
    }
    let project = caller.project()?;
    let view = app.engine.instance(&project, &name)?;
    let boot = running(&view)?;
    let secrets = Execs::secrets(true);
    let fds: serde_json::Map<String, serde_json::Value> =
        secrets.iter().map(|(name, secret)| ((*name).to_owned(), secret.clone().into())).collect();
    let metadata = [("fds".to_owned(), fds.into()), ("resume".to_owned(), true.into())].into();
    let operation = app.engine.start_streams(&project, "Showing console", &name, metadata);
    let answer = reply::operation(&operation.view());
    app.execs.add(&app, operation, boot, None, secrets);
    Ok(answer)
}

pub(crate) async fn log(State(app): State<Arc<App>>, Path(name): Path<String>, caller: Caller) -> Answer {
    let view = app.engine.instance(&caller.project()?, &name)?;
    let log = app.access.console_log(view.record.id).await;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], log).into_response())
}

pub(crate) async fn clear(State(app): State<Arc<App>>, Path(name): Path<String>, caller: Caller) -> Answer {
    let view = app.engine.instance(&caller.project()?, &name)?;
    app.access.clear_console_log(view.record.id).await;
    Ok(reply::done())
}
