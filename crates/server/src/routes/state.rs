//! Whether instances run.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use engine::Verb;
use model::{Power, StopKind};
use sysctl_api::{InstancesPutState, PlanStep, StatePut};

use super::instances::{ask, foreseen, state_of};
use crate::App;
use crate::error::ApiError;
use crate::reply::{self, Answer};
use crate::request::{self, Caller};

/// How long a clean stop may take when the caller says nothing, in seconds; then the instance is killed.
const CLEAN_STOP_S: u32 = 30;

pub(crate) async fn get(State(app): State<Arc<App>>, Path(name): Path<String>, caller: Caller) -> Answer {
    let view = app.engine.instance(&caller.project()?, &name)?;
    Ok(reply::sync(&state_of(&app, &view).await))
}

fn verb(put: &StatePut) -> Result<Verb, ApiError> {
    if put.stateful {
        return Err(ApiError::bad("the state of running processes is not kept (stateful must be false)"));
    }
    // -1 is "as long as it takes" elsewhere. Here every stop has an end.
    let timeout_s = u32::try_from(put.timeout).ok().filter(|t| *t > 0).unwrap_or(CLEAN_STOP_S);
    let stop = if put.force { StopKind::Force } else { StopKind::Clean { timeout_s } };
    Ok(match put.action.as_str() {
        "start" => Verb::Start,
        "stop" => Verb::Stop(stop),
        "restart" => Verb::Restart(stop),
        "freeze" => Verb::Freeze,
        "unfreeze" => Verb::Thaw,
        other => {
            let text = format!("Unknown action: {other:?}; known: start, stop, restart, freeze, unfreeze");
            return Err(ApiError::bad(text));
        }
    })
}

pub(crate) async fn put(State(app): State<Arc<App>>, Path(name): Path<String>, caller: Caller, body: Bytes) -> Answer {
    let put: StatePut = request::body(&body)?;
    ask(&app, &caller, &name, verb(&put)?).await
}

/// The same for all instances of a project that it makes a difference for.
pub(crate) async fn put_all(State(app): State<Arc<App>>, caller: Caller, body: Bytes) -> Answer {
    let put: InstancesPutState = request::body(&body)?;
    let put = put.state.ok_or_else(|| ApiError::bad("state: an action is needed"))?;
    let verb = verb(&put)?;
    let project = caller.project()?;
    let (mut last, mut told) = (None, Vec::new());
    for view in app.engine.instances().iter().filter(|view| view.record.project == project) {
        let applies = match (&verb, view.record.wish.power) {
            (Verb::Start, Power::Off | Power::On { frozen: true, .. }) => true,
            (Verb::Stop(_) | Verb::Restart(_), Power::On { .. }) => true,
            (Verb::Freeze, Power::On { frozen, .. }) => !frozen,
            (Verb::Thaw, Power::On { frozen, .. }) => frozen,
            _ => false,
        };
        if applies {
            let name = view.record.name.as_str();
            if caller.query.is_on("plan") {
                // Whose step it is its detail has by an id only.
                let own = foreseen(&app.engine.foresee(&project, name, &verb)?).into_iter();
                told.extend(own.map(|step| PlanStep { text: format!("{name}: {}", step.text), ..step }));
                continue;
            }
            last = Some(app.engine.ask(&project, name, verb.clone(), None, caller.requestor()).await?);
        }
    }
    if caller.query.is_on("plan") {
        return Ok(reply::sync(&told));
    }
    // Each instance has an operation of its own; the last one stands for all.
    Ok(last.map_or_else(reply::done, |view| reply::operation(&view)))
}
