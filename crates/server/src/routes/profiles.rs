//! Profiles.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use config::Written;
use engine::ProfileRecord;
use sysctl_api::{Profile, ProfilePut, ProfilesPost};

use super::instances::foreseen;
use crate::App;
use crate::error::ApiError;
use crate::render;
use crate::reply::{self, Answer};
use crate::request::{self, Caller};

fn render_profile(app: &App, record: &ProfileRecord) -> Profile {
    let users = app.engine.users_of_profile(&record.project, &record.name);
    render::profile(record, users.into_iter().map(|name| format!("/1.0/instances/{name}")).collect())
}

pub(crate) async fn list(State(app): State<Arc<App>>, caller: Caller) -> Answer {
    let profiles = app.engine.profiles(&caller.project()?);
    if caller.query.recursion() == 0 {
        return Ok(reply::sync(&profiles.iter().map(|p| format!("/1.0/profiles/{}", p.name)).collect::<Vec<_>>()));
    }
    Ok(reply::sync(&profiles.iter().map(|p| render_profile(&app, p)).collect::<Vec<_>>()))
}

pub(crate) async fn get(State(app): State<Arc<App>>, Path(name): Path<String>, caller: Caller) -> Answer {
    let record = app.engine.profile(&caller.project()?, &name)?;
    let tag = engine::etag::of(&(&record.written, &record.description));
    Ok(reply::tagged(&render_profile(&app, &record), &tag))
}

pub(crate) async fn create(State(app): State<Arc<App>>, caller: Caller, body: Bytes) -> Answer {
    let post: ProfilesPost = request::body(&body)?;
    let name = post.name.parse().map_err(|e: model::InvalidName| ApiError::bad(e.to_string()))?;
    let record = ProfileRecord {
        project: caller.project()?,
        name,
        description: post.description,
        written: Written { config: post.config, devices: post.devices },
    };
    if caller.query.is_on("plan") {
        return Ok(reply::sync(&foreseen(&app.engine.foresee_new_profile(&record)?)));
    }
    let location = format!("/1.0/profiles/{}", record.name);
    app.engine.create_profile(record).await?;
    Ok(reply::created(&location))
}

pub(crate) async fn put(State(app): State<Arc<App>>, Path(name): Path<String>, caller: Caller, body: Bytes) -> Answer {
    let put: ProfilePut = request::body(&body)?;
    let written = Written { config: put.config.unwrap_or_default(), devices: put.devices.unwrap_or_default() };
    let description = put.description.unwrap_or_default();
    change(&app, &caller, &name, |before| ProfileRecord { description, written, ..before }).await
}

/// Changes a profile, or tells what that would do.
async fn change(app: &App, caller: &Caller, name: &str, how: impl FnOnce(ProfileRecord) -> ProfileRecord) -> Answer {
    let project = caller.project()?;
    if caller.query.is_on("plan") {
        let record = how(app.engine.profile(&project, name)?);
        return Ok(reply::sync(&foreseen(&app.engine.foresee_profile(&record, caller.expect())?)));
    }
    app.engine.change_profile(&project, name, caller.expect(), how).await?;
    Ok(reply::done())
}

pub(crate) async fn patch(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    caller: Caller,
    body: Bytes,
) -> Answer {
    let patch: ProfilePut = request::body(&body)?;
    let merge = |mut record: ProfileRecord| {
        record.written.config.extend(patch.config.unwrap_or_default());
        record.written.config.retain(|_, value| !value.is_empty());
        record.written.devices.extend(patch.devices.unwrap_or_default());
        record.description = patch.description.unwrap_or(record.description);
        record
    };
    change(&app, &caller, &name, merge).await
}

pub(crate) async fn delete(State(app): State<Arc<App>>, Path(name): Path<String>, caller: Caller) -> Answer {
    if caller.query.is_on("plan") {
        return Ok(reply::sync(&foreseen(&app.engine.foresee_no_profile(&caller.project()?, &name)?)));
    }
    app.engine.delete_profile(&caller.project()?, &name).await?;
    Ok(reply::done())
}
