//! Objects as the wire has them.

pub(crate) mod chain;
pub(crate) mod graph;
mod image;
mod instance;
pub(crate) mod metrics;
mod network;
mod project;

use std::collections::BTreeMap;

use engine::{Event, Happening, OperationView, Status};
use sysctl_api::{LifecycleEvent, LoggingEvent, NEVER, Operation, Requestor, code};

pub(crate) use image::{alias, image};
pub(crate) use instance::{full, instance, state, stopped_state};
pub(crate) use network::{lease, link_as_network, network, network_state};
pub(crate) use project::{pool, profile, project};

/// A time in milliseconds since 1970 as RFC 3339; 0 is never.
pub(crate) fn time_ms(ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(time) if ms != 0 => time.to_string(),
        _ => NEVER.to_owned(),
    }
}

/// The same for seconds.
pub(crate) fn time_s(seconds: i64) -> String {
    time_ms(seconds.saturating_mul(1000))
}

/// An operation.
pub(crate) fn operation(view: &OperationView) -> Operation {
    let (status, status_code) = operation_status(view.status);
    Operation {
        id: view.id.to_string(),
        class: match view.class {
            engine::Class::Task => "task".into(),
            engine::Class::Websocket => "websocket".into(),
        },
        description: view.description.clone(),
        created_at: time_ms(view.created_ms),
        updated_at: time_ms(view.updated_ms),
        status: status.into(),
        status_code,
        resources: view.resources.clone(),
        metadata: (!view.metadata.is_empty()).then(|| view.metadata.clone()),
        may_cancel: view.may_cancel,
        err: view.error.clone(),
        location: "none".into(),
    }
}

/// A status in words and as a number.
pub(crate) fn operation_status(status: Status) -> (&'static str, u16) {
    match status {
        Status::Pending => ("Pending", code::PENDING),
        Status::Running => ("Running", code::RUNNING),
        Status::Cancelling => ("Cancelling", code::CANCELLING),
        Status::Success => ("Success", code::SUCCESS),
        Status::Failure => ("Failure", code::FAILURE),
        Status::Cancelled => ("Cancelled", code::CANCELLED),
    }
}

/// An event.
pub(crate) fn event(event: &Event) -> sysctl_api::Event {
    let to_value = |result: serde_json::Result<serde_json::Value>| result.unwrap_or_default();
    let (kind, metadata) = match &event.happening {
        Happening::Operation(view) => ("operation", to_value(serde_json::to_value(operation(view)))),
        Happening::Lifecycle(lifecycle) => {
            let requestor = lifecycle.requestor.as_ref().map(|name| Requestor {
                username: name.clone(),
                protocol: "unix".into(),
                address: "@".into(),
            });
            let lifecycle = LifecycleEvent {
                action: lifecycle.action.clone(),
                source: lifecycle.source.clone(),
                context: lifecycle.context.clone(),
                requestor,
                name: lifecycle.name.clone(),
                project: event.project.clone(),
            };
            ("lifecycle", to_value(serde_json::to_value(lifecycle)))
        }
        Happening::Logging(line) => {
            let line = LoggingEvent {
                message: line.message.clone(),
                level: line.level.clone(),
                context: line.context.clone(),
            };
            ("logging", to_value(serde_json::to_value(line)))
        }
    };
    sysctl_api::Event {
        kind: kind.into(),
        timestamp: time_ms(event.at_ms),
        metadata,
        location: "none".into(),
        project: event.project.clone(),
        sequence: event.sequence,
    }
}

/// Events between two numbers that are kept no more.
pub(crate) fn gap(after: u64, through: u64) -> sysctl_api::Event {
    sysctl_api::Event {
        kind: "gap".into(),
        timestamp: time_ms(engine::now_ms()),
        metadata: serde_json::json!({ "after": after, "through": through }),
        location: "none".into(),
        project: String::new(),
        sequence: through,
    }
}

/// Text pairs as a map.
pub(crate) fn pairs<const N: usize>(pairs: [(&str, String); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}
