//! Limits at once, and what they do: extension `sysctl_limits_sync`.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::{Path, State};
use config::Written;
use engine::{InstanceView, Patch, Verb};
use model::gauges::{self, Gauges};
use model::{Boot, Knob, KnobChange, Setting};
use sysctl_api::{
    AppliedKnob, InstanceLoad, LimitHits, LimitKnob, LimitsApplied, LimitsPatch, Pressure, Stall, Stalls,
};

use super::instances::foreseen;
use crate::App;
use crate::error::ApiError;
use crate::reply::{self, Answer};
use crate::request::{self, Caller};

pub(crate) async fn patch(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    caller: Caller,
    body: Bytes,
) -> Answer {
    let arrived = Instant::now();
    let patch: LimitsPatch = request::body(&body)?;
    let is_limit = |key: &str| ["limits.", "devices."].iter().any(|prefix| key.starts_with(prefix));
    if let Some(other) = patch.keys().find(|key| !is_limit(key)) {
        let text = format!(
            "{other}: only keys that begin with limits. or devices. are set here; PATCH the instance for others"
        );
        return Err(ApiError::bad(text));
    }
    let config = patch.into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect();
    let project = caller.project()?;
    if caller.query.is_on("plan") {
        let written = Written { config, ..Written::default() };
        let verb = Verb::Patch(Box::new(Patch { written, ..Patch::default() }));
        return Ok(reply::sync(&foreseen(&app.engine.foresee(&project, &name, &verb)?)));
    }
    let done = app.engine.change_limits(&project, &name, config, caller.expect(), caller.requestor()).await?;
    let total = done.effective.map_or_else(Default::default, |at| at.saturating_duration_since(arrived));
    Ok(reply::sync(&LimitsApplied {
        applied: done.turned.iter().map(applied).collect(),
        total_us: total.as_micros() as u64,
        // The answer waits for the disk.
        durable: true,
    }))
}

fn applied(change: &KnobChange) -> AppliedKnob {
    AppliedKnob {
        knob: change.knob.file().to_owned(),
        file: change.file.clone(),
        old: change.old.to_string(),
        new: change.new.to_string(),
        us: change.us,
    }
}

fn running_by_name(app: &App, caller: &Caller, name: &str) -> Result<(Arc<InstanceView>, Boot), ApiError> {
    let view = app.engine.instance(&caller.project()?, name)?;
    let boot = view.running().ok_or_else(|| ApiError::bad("Instance is not running: it uses nothing"))?;
    Ok((view, boot))
}

pub(crate) async fn get(State(app): State<Arc<App>>, Path(name): Path<String>, caller: Caller) -> Answer {
    let (view, boot) = running_by_name(&app, &caller, &name)?;
    let host = app.engine.host();
    let usage = host.gauges(boot).usage;
    let used = |knob: Knob| match knob {
        Knob::MemoryMax | Knob::MemoryHigh => Some(usage.memory_bytes),
        Knob::MemorySwapMax => Some(usage.swap_bytes),
        Knob::PidsMax => Some(usage.processes),
        _ => None,
    };
    let knobs = view.settings().into_iter().flatten().map(|(knob, setting)| LimitKnob {
        knob: knob.file().to_owned(),
        file: host.knob_file(boot, *knob),
        value: setting.to_string(),
        used: used(*knob),
    });
    Ok(reply::sync(&knobs.collect::<Vec<_>>()))
}

pub(crate) async fn pressure(State(app): State<Arc<App>>, Path(name): Path<String>, caller: Caller) -> Answer {
    let (_, boot) = running_by_name(&app, &caller, &name)?;
    let told = app.engine.host().gauges(boot).pressure;
    let none = "this kernel keeps no pressure stall information: boot it with psi=1";
    Ok(reply::sync(&told.map(render_pressure).ok_or_else(|| ApiError::bad(none))?))
}

pub(crate) async fn hits(State(app): State<Arc<App>>, Path(name): Path<String>, caller: Caller) -> Answer {
    let (_, boot) = running_by_name(&app, &caller, &name)?;
    Ok(reply::sync(&render_hits(app.engine.host().gauges(boot).hits)))
}

/// Every running instance with what it uses and waits for; of a stopped one there is nothing to tell.
pub(crate) async fn load(State(app): State<Arc<App>>, caller: Caller) -> Answer {
    let (project, all) = (caller.project()?, caller.query.is_on("all-projects"));
    let mut loads = Vec::new();
    for view in app.engine.instances().iter().filter(|view| all || view.record.project == project) {
        let Some(boot) = view.running() else { continue };
        let limit = match view.settings().and_then(|settings| settings.get(&Knob::MemoryMax)) {
            Some(Setting::Number(bytes)) => *bytes,
            _ => 0,
        };
        loads.push(render_load(view, limit, &app.engine.host().gauges(boot)));
    }
    Ok(reply::sync(&loads))
}

fn render_load(view: &InstanceView, limit: u64, gauges: &Gauges) -> InstanceLoad {
    InstanceLoad {
        name: view.record.name.to_string(),
        project: view.record.project.to_string(),
        cpu_ns: gauges.usage.cpu_ns,
        memory_bytes: gauges.usage.memory_bytes,
        memory_limit_bytes: limit,
        processes: gauges.usage.processes,
        pressure: gauges.pressure.map(render_pressure),
        hits: render_hits(gauges.hits),
    }
}

fn render_pressure(pressure: model::Pressure) -> Pressure {
    let share = |hundredths: u32| f64::from(hundredths) / 100.0;
    let stall = |stall: gauges::Stall| Stall {
        avg10: share(stall.avg10),
        avg60: share(stall.avg60),
        avg300: share(stall.avg300),
        total: stall.total_us,
    };
    let stalls = |stalls: gauges::Stalls| Stalls { some: stall(stalls.some), full: stall(stalls.full) };
    Pressure { cpu: stalls(pressure.cpu), memory: stalls(pressure.memory), io: stalls(pressure.io) }
}

fn render_hits(hits: model::Hits) -> LimitHits {
    LimitHits {
        memory_high: hits.memory_high,
        memory_max: hits.memory_max,
        oom_kills: hits.oom_kills,
        processes: hits.processes,
        cpu_throttled: hits.cpu_throttled,
        cpu_throttled_us: hits.cpu_throttled_us,
    }
}
