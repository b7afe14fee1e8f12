//! What an image child tells whoever started it: one JSON text per datagram. Both ends are of the same release.

use std::collections::BTreeMap;

use model::Fingerprint;
use serde::{Deserialize, Serialize};

/// One report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// How far it is, for people.
    Progress(String),
    /// It is done.
    Done(Box<Outcome>),
    /// It failed.
    Failed {
        /// What was attempted, on what, and why it failed.
        message: String,
    },
}

/// An image that was unpacked or built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// SHA-256 of its bytes.
    pub fingerprint: Fingerprint,
    /// How many bytes it has.
    pub size: u64,
    /// Architecture as its metadata says.
    pub architecture: String,
    /// Properties as its metadata says.
    pub properties: BTreeMap<String, String>,
    /// Seconds since 1970 at which it was made.
    pub created_at: i64,
    /// Seconds since 1970 after which it should not be used; 0 for never.
    pub expires_at: i64,
    /// Entries of the tree.
    pub entries: u64,
}
