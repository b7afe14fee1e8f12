//! Namespaces that live on without an instance: made, adopted, described, deleted. Extension `sysctl_namespaces`.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use engine::{NamespaceChange, NewNamespace, Origin};
use model::{NamespaceKind, ProjectName};
use sysctl_api::{NamespaceAdoption, NamespacePatch, NamespacesGc, NamespacesGcPost, NamespacesPost};

use super::instances::foreseen;
use crate::App;
use crate::error::ApiError;
use crate::reply::{self, Answer};
use crate::request::{self, Caller};

/// The kind of a word in a path or body.
pub(crate) fn kind(word: &str) -> Result<NamespaceKind, ApiError> {
    NamespaceKind::named(word).ok_or_else(|| {
        let all = NamespaceKind::ALL.map(NamespaceKind::as_str).join(", ");
        ApiError::bad(format!("type: {word:?} is no kind of namespace: {all}"))
    })
}

fn origin(adopt: Option<NamespaceAdoption>, project: ProjectName) -> Result<Origin, ApiError> {
    let Some(NamespaceAdoption { instance, path }) = adopt else { return Ok(Origin::New) };
    match (instance.is_empty(), path.is_empty()) {
        (false, true) => Ok(Origin::Instance(project, instance)),
        (true, false) if path.starts_with('/') => Ok(Origin::Path(path)),
        _ => Err(ApiError::bad("adopt: name either a running instance or an absolute path, like /run/netns/blue")),
    }
}

pub(crate) async fn create(State(app): State<Arc<App>>, caller: Caller, body: Bytes) -> Answer {
    let post: NamespacesPost = request::body(&body)?;
    let invalid = |e: model::InvalidName| ApiError::bad(e.to_string());
    let users = Some(post.user_namespace).filter(|name| !name.is_empty());
    let new = NewNamespace {
        kind: kind(&post.kind)?,
        name: post.name.parse().map_err(invalid)?,
        description: post.description,
        netns: post.netns,
        users: users.map(|name| name.parse().map_err(invalid)).transpose()?,
        origin: origin(post.adopt, caller.project()?)?,
    };
    if caller.query.is_on("plan") {
        return Ok(reply::sync(&foreseen(&app.engine.foresee_new_namespace(new)?)));
    }
    let made = app.engine.create_namespace(new).await?;
    Ok(reply::created(&format!("/1.0/namespaces/{}", made.label())))
}

pub(crate) async fn patch(
    State(app): State<Arc<App>>,
    Path((word, name)): Path<(String, String)>,
    caller: Caller,
    body: Bytes,
) -> Answer {
    let NamespacePatch { description, netns } = request::body(&body)?;
    let (kind, change) = (kind(&word)?, NamespaceChange { description, netns });
    if caller.query.is_on("plan") {
        return Ok(reply::sync(&foreseen(&app.engine.foresee_namespace(kind, &name, change, caller.expect())?)));
    }
    app.engine.change_namespace(kind, &name, change, caller.expect()).await?;
    Ok(reply::done())
}

pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    Path((word, name)): Path<(String, String)>,
    caller: Caller,
) -> Answer {
    if caller.query.is_on("plan") {
        return Ok(reply::sync(&foreseen(&app.engine.foresee_no_namespace(kind(&word)?, &name)?)));
    }
    app.engine.delete_namespace(kind(&word)?, &name).await?;
    Ok(reply::done())
}

pub(crate) async fn gc(State(app): State<Arc<App>>, caller: Caller, body: Bytes) -> Answer {
    let NamespacesGcPost { dry_run } = request::body(&body)?;
    if caller.query.is_on("plan") {
        return Ok(reply::sync(&foreseen(&app.engine.collect_namespaces(true).await?.foreseen())));
    }
    let garbage = app.engine.collect_namespaces(dry_run).await?;
    Ok(reply::sync(&NamespacesGc {
        namespaces: garbage.objects.iter().map(|object| format!("/1.0/namespaces/{}", object.label())).collect(),
        pins: garbage.pins.iter().map(|pin| app.access.pin_file(*pin).display().to_string()).collect(),
    }))
}
