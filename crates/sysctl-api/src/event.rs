//! `GET /1.0/events`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// `operation`, `lifecycle` or `logging`. Who asked for events since a number may also get `gap`: those after the number
    /// `after` and up to `through`, both in its metadata, are kept no more.
    #[serde(rename = "type")]
    pub kind: String,
    /// RFC 3339.
    pub timestamp: String,
    /// An operation, a [`LifecycleEvent`] or a [`LoggingEvent`].
    pub metadata: Value,
    /// `none`.
    #[serde(default)]
    pub location: String,
    /// Project of what it is about.
    #[serde(default)]
    pub project: String,
    /// Number of the event; grows over restarts. Ours: extension `sysctl_events_since`.
    #[serde(default)]
    pub sequence: u64,
}

/// A step in the life of an object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LifecycleEvent {
    /// What, like `instance-started`.
    pub action: String,
    /// Path of the object.
    pub source: String,
    /// More about it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub context: BTreeMap<String, Value>,
    /// Who asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requestor: Option<Requestor>,
    /// Name of the object.
    #[serde(default)]
    pub name: String,
    /// Project of the object.
    #[serde(default)]
    pub project: String,
}

/// Who asked for something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requestor {
    /// Name.
    pub username: String,
    /// How that is known.
    pub protocol: String,
    /// From where.
    pub address: String,
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggingEvent {
    /// What it says.
    pub message: String,
    /// `debug`, `info`, `warning` or `error`.
    pub level: String,
    /// Values that belong to it.
    #[serde(default)]
    pub context: BTreeMap<String, String>,
}
