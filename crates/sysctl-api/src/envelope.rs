//! What every answer is wrapped in.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Status codes of the envelope and of operations.
pub mod code {
    /// An operation was created.
    pub const CREATED: u16 = 100;
    /// Started.
    pub const STARTED: u16 = 101;
    /// Stopped.
    pub const STOPPED: u16 = 102;
    /// Running.
    pub const RUNNING: u16 = 103;
    /// On its way to being cancelled.
    pub const CANCELLING: u16 = 104;
    /// Not begun.
    pub const PENDING: u16 = 105;
    /// On its way up.
    pub const STARTING: u16 = 106;
    /// On its way down.
    pub const STOPPING: u16 = 107;
    /// Held still.
    pub const FROZEN: u16 = 110;
    /// In error.
    pub const ERROR: u16 = 112;
    /// Done.
    pub const SUCCESS: u16 = 200;
    /// Failed.
    pub const FAILURE: u16 = 400;
    /// Cancelled.
    pub const CANCELLED: u16 = 401;
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// `sync`, `async` or `error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// In words; empty for errors.
    pub status: String,
    /// See [`code`]; 0 for errors.
    pub status_code: u16,
    /// Path of the operation, or empty.
    pub operation: String,
    /// HTTP status of an error, or 0.
    pub error_code: u16,
    /// What went wrong, or empty.
    pub error: String,
    /// The content.
    pub metadata: Value,
}

/// An error as it is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// `error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Empty.
    pub status: String,
    /// 0.
    pub status_code: u16,
    /// Empty.
    pub operation: String,
    /// HTTP status.
    pub error_code: u16,
    /// What went wrong.
    pub error: String,
    /// `null`.
    pub metadata: Option<Value>,
}
