//! Instances as they were last told in a list: a thousand of them are asked for every few seconds by those who watch.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::InstanceId;

/// What a text was made from: versions of the instance and of all profiles.
pub(crate) type Stamp = (u64, u64);

/// Texts, at most two for each instance that exists.
#[derive(Debug, Default)]
pub(crate) struct Told {
    texts: Mutex<HashMap<(InstanceId, bool), (Stamp, Arc<str>)>>,
}

impl Told {
    fn texts(&self) -> MutexGuard<'_, HashMap<(InstanceId, bool), (Stamp, Arc<str>)>> {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The text of an instance, unless something has changed since.
    pub(crate) fn get(&self, id: InstanceId, full: bool, stamp: Stamp) -> Option<Arc<str>> {
        self.texts().get(&(id, full)).filter(|(known, _)| *known == stamp).map(|(_, text)| text.clone())
    }

    /// Keeps a text, and returns it.
    pub(crate) fn keep(&self, id: InstanceId, full: bool, stamp: Stamp, text: String) -> Arc<str> {
        let text: Arc<str> = text.into();
        self.texts().insert((id, full), (stamp, text.clone()));
        text
    }

    /// Forgets all but those of instances that exist; looked at only when there are too many.
    pub(crate) fn forget_others(&self, existing: impl ExactSizeIterator<Item = InstanceId>) {
        let mut texts = self.texts();
        if texts.len() > 2 * existing.len() {
            let existing: BTreeSet<InstanceId> = existing.collect();
            texts.retain(|(id, _), _| existing.contains(id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_holds_until_something_changes() {
        let (told, id) = (Told::default(), InstanceId(uuid::Uuid::from_u128(1)));
        assert_eq!(told.get(id, false, (1, 1)), None);
        told.keep(id, false, (1, 1), "one".into());
        assert_eq!(told.get(id, false, (1, 1)).as_deref(), Some("one"));
        assert_eq!(
            (told.get(id, false, (2, 1)), told.get(id, false, (1, 2)), told.get(id, true, (1, 1))),
            (None, None, None)
        );
        told.forget_others([].into_iter());
        assert_eq!(told.get(id, false, (1, 1)), None);
    }
}
