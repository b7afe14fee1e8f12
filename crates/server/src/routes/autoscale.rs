//! Limits that follow the need: extension `sysctl_autoscale`.

use std::sync::Arc;

use axum::extract::{Path, State};
use model::scale::{Resource, ScaleMode, Scaling};
use sysctl_api::{Autoscaling, ScaleLevel, ScaleMove};

use crate::App;
use crate::render::time_ms;
use crate::reply::{self, Answer};
use crate::request::Caller;

pub(crate) async fn get(State(app): State<Arc<App>>, Path(name): Path<String>, caller: Caller) -> Answer {
    let view = app.engine.instance(&caller.project()?, &name)?;
    let autoscale = config::autoscale(&app.engine.expand(&view.record)?.config);
    let level = |resource: Resource| {
        let range = autoscale.range(resource)?;
        Some(ScaleLevel { min: range.min, max: range.max, level: view.record.levels.of(resource, range) })
    };
    let mode = match autoscale.mode {
        ScaleMode::On => "on",
        ScaleMode::Observe => "observe",
        ScaleMode::Off => "off",
    };
    Ok(reply::sync(&Autoscaling {
        mode: mode.to_owned(),
        memory: level(Resource::Memory),
        cpu: level(Resource::Cpu),
        history: view.record.scalings.iter().map(one_move).collect(),
    }))
}

fn one_move(scaling: &Scaling) -> ScaleMove {
    ScaleMove {
        at: time_ms(scaling.at_ms),
        resource: scaling.resource.name().to_owned(),
        from: scaling.from,
        to: scaling.to,
        cause: scaling.cause.clone(),
        us: scaling.us,
    }
}
