//! Storage pools.

use std::sync::Arc;

use axum::extract::{Path, State};
use engine::PoolRecord;
use sysctl_api::{PoolInodes, PoolResources, PoolSpace, StoragePool};

use crate::App;
use crate::error::ApiError;
use crate::render;
use crate::reply::{self, Answer};
use crate::request::Caller;

fn pool(app: &App, record: &PoolRecord) -> StoragePool {
    let name = &record.spec.name;
    let instances = app.engine.instances();
    let users = instances.iter().filter(|view| view.record.pool == *name);
    let users = users.map(|view| format!("/1.0/instances/{}", view.record.name));
    let images = app.engine.images();
    let images = images.iter().filter(|image| image.pools.contains(name));
    let images = images.map(|image| format!("/1.0/images/{}", image.facts.fingerprint));
    let profiles = app.engine.profiles(&model::ProjectName::default());
    let profiles = profiles
        .iter()
        .filter(|p| p.written.devices.values().any(|d| d.get("pool").map(String::as_str) == Some(name.as_str())));
    let profiles = profiles.map(|p| format!("/1.0/profiles/{}", p.name));
    let source = app.access.pool_source(name).map(|path| path.display().to_string()).unwrap_or_default();
    render::pool(record, source, images.chain(users).chain(profiles).collect())
}

fn find(app: &App, name: &str) -> Result<PoolRecord, ApiError> {
    let found = app.engine.pools().into_iter().find(|pool| pool.spec.name.as_str() == name);
    found.ok_or_else(|| ApiError::not_found(format!("Storage pool {name:?} not found")))
}

pub(crate) async fn list(State(app): State<Arc<App>>, caller: Caller) -> Answer {
    let pools = app.engine.pools();
    if caller.query.recursion() == 0 {
        let paths: Vec<String> = pools.iter().map(|p| format!("/1.0/storage-pools/{}", p.spec.name)).collect();
        return Ok(reply::sync(&paths));
    }
    Ok(reply::sync(&pools.iter().map(|record| pool(&app, record)).collect::<Vec<_>>()))
}

pub(crate) async fn get(State(app): State<Arc<App>>, Path(name): Path<String>) -> Answer {
    let pool = pool(&app, &find(&app, &name)?);
    let tag = engine::etag::of(&(&pool.config, &pool.description));
    Ok(reply::tagged(&pool, &tag))
}

pub(crate) async fn resources(State(app): State<Arc<App>>, Path(name): Path<String>) -> Answer {
    let record = find(&app, &name)?;
    let usage = app.access.pool_usage(&record.spec.name)?;
    Ok(reply::sync(&PoolResources {
        space: PoolSpace { used: usage.used_bytes, total: usage.total_bytes },
        inodes: PoolInodes { used: usage.used_inodes, total: usage.total_inodes },
    }))
}
