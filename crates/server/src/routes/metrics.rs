//! Figures for collectors: extension `metrics`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use engine::Status;
use model::{Knob, Setting};

use crate::App;
use crate::render::metrics::{Metrics, Sample};
use crate::reply::Answer;
use crate::request::Caller;

/// Of one project when it is named, else of all, as in the stock server.
pub(crate) async fn get(State(app): State<Arc<App>>, caller: Caller) -> Answer {
    let project = caller.query.get("project").map(|_| caller.project()).transpose()?;
    let (mut metrics, mut counts) = (Metrics::default(), BTreeMap::new());
    let host = app.engine.host();
    for view in app.engine.instances().iter().filter(|view| project.as_ref().is_none_or(|p| view.record.project == *p))
    {
        *counts.entry(view.record.project.to_string()).or_insert(0) += 1;
        let Some(boot) = view.running() else { continue };
        let facts = app.engine.facts();
        let at = |knob: Knob| view.settings().and_then(|settings| settings.get(&knob));
        metrics.instance(&Sample {
            name: view.record.name.as_str(),
            project: view.record.project.as_str(),
            gauges: host.gauges(boot),
            usage: host.usage(boot).await.ok(),
            memory_bytes: match at(Knob::MemoryMax) {
                Some(Setting::Number(bytes)) => *bytes,
                _ => facts.memory_bytes,
            },
            cpus: match at(Knob::CpusetCpus) {
                Some(Setting::Cpus(ids)) if !ids.is_empty() => ids.len(),
                _ => facts.cpus.len(),
            },
        });
    }
    counts.iter().for_each(|(project, count)| metrics.instances(project, *count));
    metrics.uptime(app.started.elapsed());
    metrics.operations(app.engine.operations().list().iter().filter(|o| o.status == Status::Running).count());
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.text()).into_response())
}
