//! Operations.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Operation {
    /// UUID.
    pub id: String,
    /// `task`, `websocket` or `token`.
    pub class: String,
    /// What it does.
    pub description: String,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub updated_at: String,
    /// In words.
    pub status: String,
    /// See [`crate::code`].
    pub status_code: u16,
    /// Paths of what it works on, by kind.
    #[serde(deserialize_with = "crate::or_default")]
    pub resources: BTreeMap<String, Vec<String>>,
    /// Progress and results.
    pub metadata: Option<BTreeMap<String, Value>>,
    /// It can be ended early.
    pub may_cancel: bool,
    /// Why it failed.
    pub err: String,
    /// `none`.
    pub location: String,
}

impl Operation {
    /// It will not change any more.
    pub fn is_final(&self) -> bool {
        self.status_code >= 200
    }
}
