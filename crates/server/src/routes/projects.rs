//! Projects.

use std::sync::Arc;

use axum::extract::{Path, State};
use engine::ProjectRecord;
use sysctl_api::Project;

use crate::App;
use crate::error::ApiError;
use crate::render;
use crate::reply::{self, Answer};
use crate::request::Caller;

fn render_project(app: &App, record: &ProjectRecord) -> Project {
    let instances = app.engine.instances();
    let instances = instances.iter().filter(|view| view.record.project == record.name);
    let mut used: Vec<String> = instances.map(|view| format!("/1.0/instances/{}", view.record.name)).collect();
    used.extend(app.engine.profiles(&record.name).iter().map(|p| format!("/1.0/profiles/{}", p.name)));
    if record.name == model::ProjectName::default() {
        used.extend(app.engine.images().iter().map(|i| format!("/1.0/images/{}", i.facts.fingerprint)));
        used.extend(app.engine.networks().iter().map(|n| format!("/1.0/networks/{}", n.spec.name)));
    }
    render::project(record, used)
}

pub(crate) async fn list(State(app): State<Arc<App>>, caller: Caller) -> Answer {
    let projects = app.engine.projects();
    if caller.query.recursion() == 0 {
        return Ok(reply::sync(&projects.iter().map(|p| format!("/1.0/projects/{}", p.name)).collect::<Vec<_>>()));
    }
    Ok(reply::sync(&projects.iter().map(|p| render_project(&app, p)).collect::<Vec<_>>()))
}

pub(crate) async fn get(State(app): State<Arc<App>>, Path(name): Path<String>) -> Answer {
    let record = app.engine.projects().into_iter().find(|project| project.name.as_str() == name);
    let record = record.ok_or_else(|| ApiError::not_found(format!("Project {name:?} not found")))?;
    let tag = engine::etag::of(&(&record.config, &record.description));
    Ok(reply::tagged(&render_project(&app, &record), &tag))
}
