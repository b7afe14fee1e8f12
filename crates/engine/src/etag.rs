//! Tags that tell whether an object is still what somebody saw: SHA-256 of its writable part.

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::record::InstanceRecord;

/// The tag of anything that is written as JSON: 64 hexadecimal digits.
pub fn of(value: &impl Serialize) -> String {
    let text = serde_json::to_vec(value).unwrap_or_default();
    Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The tag of an instance. What the daemon writes by itself (addresses, power, boots) is no part of it, so an instance that
/// boots meanwhile does not make an editor's change fail.
pub fn of_instance(record: &InstanceRecord) -> String {
    let wish = &record.wish;
    let config: Vec<_> = wish.written.config.iter().filter(|(key, _)| !key.starts_with("volatile.")).collect();
    of(&(&record.architecture, config, &wish.written.devices, wish.ephemeral, &wish.profiles, &wish.description))
}
