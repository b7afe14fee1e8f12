//! `monitor`.

use std::time::Duration;

use clap::Args as Words;
use clap::ValueEnum;
use sysctl_api::{Event, LifecycleEvent, LoggingEvent, Operation};
use sysctl_client::EventFilter;

use crate::context::Context;
use crate::failure::{Attempt, Failure, Result};
use crate::output::{self, Format};

/// Words of `monitor`.
#[derive(Debug, Words)]
pub(crate) struct Args {
    /// Only events of this type
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<Kind>,
    /// Of every project
    #[arg(long)]
    all_projects: bool,
    /// Also those after the one with this number that happened before
    #[arg(long, value_name = "NUMBER")]
    since: Option<u64>,
}

/// How long the daemon may be away before nobody waits for it any more.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    Operation,
    Lifecycle,
    Logging,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Operation => "operation",
            Kind::Lifecycle => "lifecycle",
            Kind::Logging => "logging",
        }
    }
}

pub(crate) async fn run(cx: &Context, args: Args) -> Result {
    let filter = EventFilter {
        types: args.types.iter().map(|kind| kind.name().to_owned()).collect(),
        all_projects: args.all_projects,
        since: args.since,
    };
    let attempt = || "listen to events".to_owned();
    let mut events = cx.client.follow_events(&filter, PATIENCE).await.attempt(attempt)?;
    loop {
        let event = match events.next().await {
            Ok(event) => event,
            Err(error) => {
                let again = events.since().map_or(String::new(), |number| format!(" --since {number}"));
                let hint = format!("sysctl-cli monitor{again} goes on from there, once the daemon is back.");
                return Err(Failure::of(attempt(), &error).with_hint(hint));
            }
        };
        match cx.format {
            Some(Format::Json) => output::bytes(output::json_line(&event)?.as_bytes())?,
            Some(Format::Yaml) => output::text(&format!("---\n{}", output::yaml(&event)?))?,
            _ => output::text(&format!("{}\n", output::escape::inline(&line(&event))))?,
        }
    }
}

/// An event on one line.
fn line(event: &Event) -> String {
    let metadata = || event.metadata.clone();
    let text = match event.kind.as_str() {
        "operation" => serde_json::from_value::<Operation>(metadata()).ok().map(|operation| {
            let objects =
                operation.resources.values().flatten().map(|path| path.trim_start_matches("/1.0/").to_owned());
            let objects = objects.collect::<Vec<_>>().join(" ");
            format!("{} {objects} {} {}", operation.description, operation.status, operation.err)
        }),
        "lifecycle" => serde_json::from_value::<LifecycleEvent>(metadata())
            .ok()
            .map(|lifecycle| format!("{} {}", lifecycle.action, lifecycle.source.trim_start_matches("/1.0/"))),
        "gap" => Some(format!("events are kept no more: {}", event.metadata)),
        _ => serde_json::from_value::<LoggingEvent>(metadata()).ok().map(|logged| {
            let context: Vec<String> = logged.context.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("{} {} {}", logged.level, logged.message, context.join(" "))
        }),
    };
    let text = text.unwrap_or_else(|| event.metadata.to_string());
    format!("{} {} {} {}", event.timestamp, event.sequence, event.kind, text.trim_end())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_of_every_type_fit_on_a_line() {
        let told = |kind: &str, metadata| {
            let event = json!({"type": kind, "timestamp": "T", "sequence": 7, "metadata": metadata});
            line(&serde_json::from_value(event).expect("an event"))
        };
        let lifecycle = json!({"action": "instance-started", "source": "/1.0/instances/web1"});
        assert_eq!(told("lifecycle", lifecycle), "T 7 lifecycle instance-started instances/web1");
        let operation = json!({"description": "Starting instance", "status": "Failure", "err": "no image",
            "resources": {"instances": ["/1.0/instances/web1"]}});
        assert_eq!(told("operation", operation), "T 7 operation Starting instance instances/web1 Failure no image");
        let logging = json!({"level": "info", "message": "up", "context": {"pid": "1"}});
        assert_eq!(told("logging", logging), "T 7 logging info up pid=1");
        assert_eq!(told("else", json!([1])), "T 7 else [1]");
    }
}
