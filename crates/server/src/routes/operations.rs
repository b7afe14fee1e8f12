//! Operations.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{Path, State};
use engine::OperationView;
use serde_json::Value;
use uuid::Uuid;

use crate::App;
use crate::error::ApiError;
use crate::pumps::Way;
use crate::render;
use crate::reply::{self, Answer};
use crate::request::Caller;

/// Largest message on a websocket that a client sends.
const MAX_MESSAGE: usize = 1 << 20;

fn parse(id: &str) -> Result<Uuid, ApiError> {
    id.parse().map_err(|_| ApiError::not_found("Operation not found"))
}

pub(crate) async fn list(State(app): State<Arc<App>>, caller: Caller) -> Answer {
    let project = caller.project()?;
    let all = caller.query.is_on("all-projects");
    let mut by_status: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for view in app.engine.operations().list() {
        if !all && view.project != project.as_str() {
            continue;
        }
        let (status, _) = render::operation_status(view.status);
        let item = if caller.query.recursion() == 0 {
            Value::from(format!("/1.0/operations/{}", view.id))
        } else {
            serde_json::to_value(render::operation(&view)).unwrap_or_default()
        };
        by_status.entry(status.to_lowercase()).or_default().push(item);
    }
    Ok(reply::sync(&by_status))
}

pub(crate) async fn get(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer {
    let view = app.engine.operations().get(parse(&id)?)?;
    Ok(reply::sync(&render::operation(&view)))
}

pub(crate) async fn cancel(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer {
    app.engine.operations().cancel(parse(&id)?)?;
    Ok(reply::done())
}

/// Waits until an operation is final, or for `timeout` seconds: then it is told as it is.
pub(crate) async fn wait(State(app): State<Arc<App>>, Path(id): Path<String>, caller: Caller) -> Answer {
    let id = parse(&id)?;
    let seconds = caller.query.get("timeout").and_then(|t| t.parse::<i64>().ok()).unwrap_or(-1);
    let operations = app.engine.operations();
    let view: OperationView = match u64::try_from(seconds) {
        Err(_) => operations.wait(id).await?,
        Ok(seconds) => match tokio::time::timeout(Duration::from_secs(seconds), operations.wait(id)).await {
            Ok(view) => view?,
            Err(_) => operations.get(id)?,
        },
    };
    Ok(reply::sync(&render::operation(&view)))
}

/// A stream of an exec or a console. Two words are ours: with `resume=1` a client says that it can come back, and is told
/// positions; `offset` is where its output goes on then.
pub(crate) async fn websocket(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    caller: Caller,
    upgrade: WebSocketUpgrade,
) -> Answer {
    let secret = caller.query.get("secret").ok_or_else(|| ApiError::bad("secret: which stream is meant?"))?;
    let from = caller.query.get("offset").and_then(|offset| offset.parse().ok());
    let way = Way { from, resumes: caller.query.is_on("resume") };
    let (exec, name) = app.execs.redeem(parse(&id)?, secret, way).await?;
    let upgrade = upgrade.max_message_size(MAX_MESSAGE).max_frame_size(MAX_MESSAGE);
    Ok(upgrade.on_upgrade(move |socket| async move { exec.serve(&app, name, socket, way).await }))
}
