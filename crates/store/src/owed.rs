//! What happened and could not be written down yet: it is kept here, in order, and written first once the disk answers.

use std::collections::VecDeque;

use crate::Op;

/// Changes that may wait. Each instance owes its record, its operation and a few events, so this is the work of a thousand;
/// at 2 KB each it is 8 MB.
const MOST: usize = 4096;

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct Owed {
    ops: VecDeque<Op>,
}

impl Owed {
    pub(crate) fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// All of it, to be handed to a transaction.
    pub(crate) fn take(&mut self) -> Vec<Op> {
        std::mem::take(&mut self.ops).into()
    }

    /// Keeps more. A newer state of a document replaces an older one. When there are too many, the oldest event is forgotten.
    pub(crate) fn keep(&mut self, ops: impl IntoIterator<Item = Op>) {
        for op in ops {
            if let Some(name) = document(&op) {
                self.ops.retain(|old| document(old) != Some(name));
            }
            if self.ops.len() == MOST {
                let event = self.ops.iter().position(|op| matches!(op, Op::Event(_))).unwrap_or_default();
                self.ops.remove(event);
            }
            self.ops.push_back(op);
        }
    }
}

/// Which document an op writes or deletes.
fn document(op: &Op) -> Option<(&str, &str)> {
    match op {
        Op::Put { kind, key, .. } | Op::Delete { kind, key } => Some((kind, key)),
        Op::Claim { .. } | Op::Release { .. } | Op::ReleaseAll { .. } | Op::Event(_) | Op::DropEvents { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: usize, body: &str) -> Op {
        Op::Put { kind: "thing", key: key.to_string(), body: body.into() }
    }

    #[test]
    fn the_newest_state_of_a_document_is_owed_and_events_go_first_when_there_are_too_many() {
        let mut owed = Owed::default();
        owed.keep([put(1, "old"), put(2, "x"), put(1, "new")]);
        assert_eq!(owed.take(), [put(2, "x"), put(1, "new")]);
        owed.keep([Op::Event(crate::Event { sequence: 1, at_ms: 0, body: String::new() })]);
        owed.keep((0..MOST).map(|n| put(n, "")));
        let ops = owed.take();
        assert_eq!((ops.len(), &ops[0]), (MOST, &put(0, "")));
    }
}
