//! How many things may be under way at once, in all and for one guest.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A number of places, of which one address gets only a part, so that no guest can keep the others from theirs.
#[derive(Debug)]
pub(super) struct Slots {
    most: u32,
    most_each: u32,
    taken: Mutex<HashMap<IpAddr, u32>>,
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    by: IpAddr,
}

impl Slots {
    pub(super) fn new(most: u32, most_each: u32) -> Arc<Slots> {
        Arc::new(Slots { most, most_each, taken: Mutex::default() })
    }

    /// Takes a place, if there is one for that address.
    pub(super) fn take(self: &Arc<Self>, by: IpAddr) -> Option<Slot> {
        let mut taken = self.lock();
        // At most `most` entries to add up.
        if taken.values().sum::<u32>() >= self.most {
            return None;
        }
        let own = taken.entry(by).or_default();
        if *own >= self.most_each {
            return None;
        }
        *own += 1;
        Some(Slot { slots: Arc::clone(self), by })
    }

    // A count is changed in one step, so a poisoned lock guards a sound value.
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.lock();
        if let Some(own) = taken.get_mut(&self.by) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.by);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_gets_more_than_a_part_and_all_together_no_more_than_there_is() {
        let slots = Slots::new(3, 2);
        let [a, b, c] = [1, 2, 3].map(|n| IpAddr::from([10, 0, 0, n]));
        let first = slots.take(a).expect("a place");
        let _second = slots.take(a).expect("a place");
        assert!(slots.take(a).is_none());
        let _third = slots.take(b).expect("a place");
        assert!(slots.take(c).is_none());
        drop(first);
        let _fourth = slots.take(c).expect("a place");
        assert_eq!(slots.lock().len(), 3);
        drop(_fourth);
        assert_eq!(slots.lock().len(), 2);
    }
}
