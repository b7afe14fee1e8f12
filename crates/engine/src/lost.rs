//! What is lost stays lost until people bring it back.

use model::Step;

use crate::error::{Error, Result};
use crate::record::{InstanceRecord, WishState};

/// A root file system that was there and is gone is lost: no step puts an empty one in its place. What does not need it goes
/// on, so that the instance can be stopped and deleted.
pub(crate) fn keep_lost(record: &InstanceRecord, steps: Vec<Step>) -> Result<Vec<Step>> {
    let is_new = |before: &WishState| !before.exists || before.root != record.wish.root;
    let makes_one = |step: &Step| matches!(step, Step::CreateRoot { .. } | Step::EnsureImage { .. });
    if record.previous.as_deref().is_some_and(is_new) || !steps.iter().any(makes_one) {
        return Ok(steps);
    }
    if steps.iter().any(|step| matches!(step, Step::Spawn { .. })) {
        return Err(Error::Conflict(format!(
            "instance {:?} has lost its root file system: restore it in pool {} or delete the instance",
            record.name.as_str(),
            record.pool
        )));
    }
    Ok(steps.into_iter().filter(|step| !makes_one(step)).collect())
}
