//! Instances: listing, making, changing, deleting.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use config::Written;
use engine::{Foreseen, InstanceView, NewInstance, Patch, Update, Verb};
use model::{InstanceName, ProfileName, ProjectName, Step};
use serde_json::Value;
use sysctl_api::{CONSEQUENCE, Instance, InstancePut, InstanceState, InstancesPost, PlanStep};

use crate::App;
use crate::error::ApiError;
use crate::filter::Filter;
use crate::render;
use crate::reply::{self, Answer};
use crate::request::{self, Caller};

pub(crate) async fn list(State(app): State<Arc<App>>, caller: Caller) -> Answer {
    let filter = Filter::parse(caller.query.get("filter"))?;
    let project = caller.project()?;
    let all = caller.query.is_on("all-projects");
    let views = app.engine.instances();
    let views = views.iter().filter(|view| all || view.record.project == project);
    let recursion = caller.query.recursion();
    if recursion > 0 && filter.is_empty() {
        return whole_list(&app, &views.collect::<Vec<_>>(), recursion >= 2).await;
    }
    let mut items = Vec::new();
    for view in views {
        if recursion == 0 && filter.is_empty() {
            items.push(Value::from(format!("/1.0/instances/{}", view.record.name)));
            continue;
        }
        let instance = render_instance(&app, view)?;
        let whole = if recursion >= 2 {
            let state = state_of(&app, view).await;
            serde_json::to_value(render::full(instance, state)).unwrap_or_default()
        } else {
            serde_json::to_value(instance).unwrap_or_default()
        };
        if filter.matches(&whole) {
            items.push(if recursion == 0 { format!("/1.0/instances/{}", view.record.name).into() } else { whole });
        }
    }
    Ok(reply::sync(&items))
}

/// Every instance whole. What nothing has changed since it was last told is not made again.
async fn whole_list(app: &App, views: &[&Arc<InstanceView>], full: bool) -> Answer {
    let mut text = String::from("[");
    for view in views {
        if text.len() > 1 {
            text.push(',');
        }
        // What a running instance uses is asked anew each time.
        if full && view.pid().is_some() {
            let whole = render::full(render_instance(app, view)?, state_of(app, view).await);
            text.push_str(&to_text(&whole)?);
            continue;
        }
        let stamp = (view.version, app.engine.profiles_version(), full);
        let told = match app.told.get(view.record.id, stamp) {
            Some(told) => told,
            None if full => {
                let whole = render::full(render_instance(app, view)?, render::stopped_state(view));
                app.told.keep(view.record.id, stamp, to_text(&whole)?)
            }
            None => app.told.keep(view.record.id, stamp, to_text(&render_instance(app, view)?)?),
        };
        text.push_str(&told);
    }
    text.push(']');
    app.told.forget_others(app.engine.instances().iter().map(|view| view.record.id));
    Ok(reply::sync_text(&text))
}

fn to_text<T: serde::Serialize>(value: &T) -> Result<String, ApiError> {
    serde_json::to_string(value).map_err(|error| ApiError::bad(error.to_string()))
}

pub(crate) fn render_instance(app: &App, view: &InstanceView) -> Result<Instance, ApiError> {
    Ok(render::instance(view, app.engine.expand(&view.record)?))
}

/// What an instance uses; one that stops meanwhile uses nothing.
pub(crate) async fn state_of(app: &App, view: &InstanceView) -> InstanceState {
    let boot = view.pid().and(view.record.wish.power.boot());
    if let Some(generation) = boot {
        let boot = model::Boot { id: view.record.id, generation };
        if let Ok(usage) = app.engine.host().usage(boot).await {
            return render::state(view, &usage);
        }
    }
    render::stopped_state(view)
}

pub(crate) async fn get(State(app): State<Arc<App>>, Path(name): Path<String>, caller: Caller) -> Answer {
    let view = app.engine.instance(&caller.project()?, &name)?;
    let instance = render_instance(&app, &view)?;
    let tag = engine::etag::of_instance(&view.record);
    if caller.query.recursion() > 0 {
        return Ok(reply::tagged(&render::full(instance, state_of(&app, &view).await), &tag));
    }
    Ok(reply::tagged(&instance, &tag))
}

/// Keys that the daemon writes come back in every change and are not the caller's to set.
fn own_keys(config: sysctl_api::Config) -> sysctl_api::Config {
    config.into_iter().filter(|(key, _)| !key.starts_with("volatile.")).collect()
}

fn profiles(names: Vec<String>) -> Result<Vec<ProfileName>, ApiError> {
    names
        .iter()
        .map(|name| name.parse().map_err(|_| ApiError::not_found(format!("Profile {name:?} not found"))))
        .collect()
}

pub(crate) async fn create(State(app): State<Arc<App>>, caller: Caller, body: Bytes) -> Answer {
    let post: InstancesPost = request::body(&body)?;
    let new = new_instance(caller.project()?, post)?;
    if caller.query.is_on("plan") {
        return Ok(reply::sync(&plan_steps(&app.engine.plan_create(new)?)));
    }
    Ok(reply::operation(&app.engine.create(new, caller.requestor()).await?))
}

fn new_instance(project: ProjectName, post: InstancesPost) -> Result<NewInstance, ApiError> {
    if !matches!(post.kind.as_str(), "" | "container") {
        return Err(ApiError::bad(
            "only containers are run here: a virtual machine needs a hypervisor (type must be container)",
        ));
    }
    if !post.instance_type.is_empty() {
        return Err(ApiError::bad("instance types are not known here; set limits.cpu and limits.memory"));
    }
    let image = match post.source.kind.as_str() {
        "none" | "" if post.source.alias.is_empty() && post.source.fingerprint.is_empty() => None,
        "image" | "" if !post.source.server.is_empty() => {
            return Err(ApiError::bad("images of other servers are not fetched yet; import the image first"));
        }
        "image" | "" => {
            let words = [post.source.fingerprint, post.source.alias];
            let word = words.into_iter().find(|word| !word.is_empty());
            Some(word.ok_or_else(|| ApiError::bad("source: an alias or a fingerprint of an image is needed"))?)
        }
        other => return Err(ApiError::bad(format!("source type {other:?} is not supported: image or none"))),
    };
    let name = match post.name.as_str() {
        "" => None,
        text => Some(text.parse::<InstanceName>().map_err(|e| ApiError::bad(format!("Invalid instance name: {e}")))?),
    };
    Ok(NewInstance {
        project,
        name,
        written: Written { config: own_keys(post.config), devices: post.devices },
        profiles: post.profiles.map(profiles).transpose()?,
        description: post.description,
        ephemeral: post.ephemeral,
        image,
        start: post.start,
    })
}

/// What a change would do, as it is told by `?plan=1`: its steps, then what it means for others.
pub(crate) fn foreseen(foreseen: &Foreseen) -> Vec<PlanStep> {
    let mut told = plan_steps(&foreseen.steps);
    told.extend(foreseen.others.iter().map(|other| PlanStep {
        step: CONSEQUENCE.to_owned(),
        text: other.text.clone(),
        detail: serde_json::json!({ "object": other.object }),
    }));
    told
}

/// Steps as they are told by `?plan=1`.
fn plan_steps(steps: &[Step]) -> Vec<PlanStep> {
    steps
        .iter()
        .map(|step| PlanStep {
            step: step.name().to_owned(),
            text: engine::sentence(step),
            detail: serde_json::to_value(step).unwrap_or_default(),
        })
        .collect()
}

/// Asks a verb, or tells what it would do.
pub(crate) async fn ask(app: &App, caller: &Caller, name: &str, verb: Verb) -> Answer {
    let project = caller.project()?;
    if caller.query.is_on("plan") {
        return Ok(reply::sync(&foreseen(&app.engine.foresee(&project, name, &verb)?)));
    }
    let view = app.engine.ask(&project, name, verb, caller.expect(), caller.requestor()).await?;
    Ok(reply::operation(&view))
}

pub(crate) async fn put(State(app): State<Arc<App>>, Path(name): Path<String>, caller: Caller, body: Bytes) -> Answer {
    let put: InstancePut = request::body(&body)?;
    refuse_restore(&put)?;
    let update = Update {
        written: Written { config: own_keys(put.config.unwrap_or_default()), devices: put.devices.unwrap_or_default() },
        profiles: profiles(put.profiles.unwrap_or_default())?,
        description: put.description.unwrap_or_default(),
        ephemeral: put.ephemeral.unwrap_or_default(),
    };
    ask(&app, &caller, &name, Verb::Update(Box::new(update))).await
}

fn refuse_restore(put: &InstancePut) -> Result<(), ApiError> {
    if put.restore.is_empty() { Ok(()) } else { Err(ApiError::bad("there are no snapshots yet")) }
}

pub(crate) async fn patch(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    caller: Caller,
    body: Bytes,
) -> Answer {
    let patch: InstancePut = request::body(&body)?;
    refuse_restore(&patch)?;
    let patch = Patch {
        written: Written {
            config: own_keys(patch.config.unwrap_or_default()),
            devices: patch.devices.unwrap_or_default(),
        },
        profiles: patch.profiles.map(profiles).transpose()?,
        description: patch.description,
        ephemeral: patch.ephemeral,
    };
    ask(&app, &caller, &name, Verb::Patch(Box::new(patch))).await
}

pub(crate) async fn delete(State(app): State<Arc<App>>, Path(name): Path<String>, caller: Caller) -> Answer {
    ask(&app, &caller, &name, Verb::Delete).await
}
