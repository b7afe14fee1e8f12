//! The host against what is remembered.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use serde::Deserialize;
use sysctl_api::{DoctorReport, Finding};

use crate::App;
use crate::reply::{self, Answer};
use crate::request;

fn report(found: engine::Diagnosis) -> DoctorReport {
    let finding = |(kind, object, text, fix): (String, String, String, String)| Finding { kind, object, text, fix };
    DoctorReport {
        checks: found
            .checks
            .into_iter()
            .map(|(kind, count)| finding((kind, count.to_string(), String::new(), String::new())))
            .collect(),
        findings: found.findings.into_iter().map(|f| finding((f.kind, f.object, f.text, f.fix))).collect(),
        notes: found.notes.into_iter().map(|(text, fix)| finding(("host".into(), String::new(), text, fix))).collect(),
    }
}

pub(crate) async fn get(State(app): State<Arc<App>>) -> Answer {
    Ok(reply::sync(&report(app.engine.diagnose(&*app.access).await?)))
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RepairPost {
    repair: bool,
}

/// Runs the same loop as ever over everything, then looks again.
pub(crate) async fn repair(State(app): State<Arc<App>>, body: Bytes) -> Answer {
    let post: RepairPost = if body.is_empty() { RepairPost::default() } else { request::body(&body)? };
    let notes = if post.repair { app.engine.repair(&*app.access).await? } else { Vec::new() };
    let mut found = report(app.engine.diagnose(&*app.access).await?);
    let about = |text| Finding { kind: "database".into(), text, ..Finding::default() };
    found.notes.splice(0..0, notes.into_iter().map(about));
    Ok(reply::sync(&found))
}
