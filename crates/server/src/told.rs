//! Instances as they were last told in a list: a thousand of them are asked for every few seconds by those who watch.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::InstanceId;

/// What a text was made from: versions of the instance and of all profiles; and whether its state is in it.
pub(crate) type Stamp = (u64, u64, bool);

/// Texts, one for each instance that was listed: in the form that was asked for last.
#[derive(Debug, Default)]
pub(crate) struct Told {
    texts: Mutex<HashMap<InstanceId, (Stamp, Arc<str>)>>,
}

impl Told {
    fn texts(&self) -> MutexGuard<'_, HashMap<InstanceId, (Stamp, Arc<str>)>> {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The text of an instance, unless something has changed since.
    pub(crate) fn get(&self, id: InstanceId, stamp: Stamp) -> Option<Arc<str>> {
        self.texts().get(&id).filter(|(known, _)| *known == stamp).map(|(_, text)| text.clone())
    }

    /// Keeps a text, and returns it.
    pub(crate) fn keep(&self, id: InstanceId, stamp: Stamp, text: String) -> Arc<str> {
        let text: Arc<str> = text.into();
        self.texts().insert(id, (stamp, text.clone()));
        text
    }

    /// Forgets all but those of instances that exist; looked at only when there are too many.
    pub(crate) fn forget_others(&self, existing: impl ExactSizeIterator<Item = InstanceId>) {
        let mut texts = self.texts();
        if texts.len() > existing.len() {
            let existing: BTreeSet<InstanceId> = existing.collect();
            texts.retain(|id, _| existing.contains(id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_holds_until_something_changes() {
        let (told, id) = (Told::default(), InstanceId(uuid::Uuid::from_u128(1)));
        assert_eq!(told.get(id, (1, 1, false)), None);
        told.keep(id, (1, 1, false), "one".into());
        assert_eq!(told.get(id, (1, 1, false)).as_deref(), Some("one"));
        for other in [(2, 1, false), (1, 2, false), (1, 1, true)] {
            assert_eq!(told.get(id, other), None);
        }
        told.forget_others([].into_iter());
        assert_eq!(told.get(id, (1, 1, false)), None);
    }
}
