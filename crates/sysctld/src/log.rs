//! The log: lines on standard error, and events for whoever listens.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::sync::{Arc, OnceLock};

use engine::{Events, Logging};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::options::{LogFormat, LogLevel, Options};

/// Where events go once there is an engine.
static EVENTS: OnceLock<Arc<Events>> = OnceLock::new();

/// Begins to log.
pub(crate) fn start(options: &Options) {
    let level = match options.log_level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    // The journal adds times itself.
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let ansi = std::io::stderr().is_terminal();
    let lines = match options.log_format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Text if journal => lines.with_ansi(false).without_time().boxed(),
        LogFormat::Text => lines.with_ansi(ansi).boxed(),
    };
    tracing_subscriber::registry().with(level).with(lines).with(ToEvents).init();
}

/// From now on lines are told as events, too.
pub(crate) fn tell(events: Arc<Events>) {
    let _ = EVENTS.set(events);
}

/// Turns lines into events.
struct ToEvents;

impl<S: tracing::Subscriber> Layer<S> for ToEvents {
    fn on_event(&self, event: &tracing::Event<'_>, _context: Context<'_, S>) {
        let Some(events) = EVENTS.get() else { return };
        let level = match *event.metadata().level() {
            tracing::Level::ERROR => "error",
            tracing::Level::WARN => "warning",
            tracing::Level::INFO => "info",
            _ => "debug",
        };
        let mut fields = Fields::default();
        event.record(&mut fields);
        events.log(Logging { message: fields.message, level: level.to_owned(), context: fields.context });
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    context: BTreeMap<String, String>,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let mut text = String::new();
        let _ = write!(text, "{value:?}");
        self.put(field, text);
    }
}

impl Fields {
    fn put(&mut self, field: &Field, text: String) {
        if field.name() == "message" {
            self.message = text;
        } else {
            self.context.insert(field.name().to_owned(), text);
        }
    }
}
