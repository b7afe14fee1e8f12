//! How often one guest may ask.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Counts questions per asker, known by an address: `burst` at once, then one each `interval`.
///
/// A guest can make up addresses only where its NIC may spoof; for that case at most [`MOST_ASKERS`] are remembered,
/// and beyond them nobody new is answered until an old one was quiet for a whole burst.
#[derive(Debug)]
pub struct Limiter<K> {
    interval: Duration,
    burst: u32,
    /// When each one's burst is whole again.
    whole_at: HashMap<K, Instant>,
}

/// A /20 full of guests asking in the same second; 40 bytes each are 160 KiB at most.
pub const MOST_ASKERS: usize = 4096;

impl<K: Eq + Hash + Copy> Limiter<K> {
    /// A limiter that has seen nobody yet.
    pub fn new(burst: u32, interval: Duration) -> Limiter<K> {
        Limiter { interval, burst, whole_at: HashMap::new() }
    }

    /// Whether a question that comes `now` may be answered.
    pub fn allow(&mut self, asker: K, now: Instant) -> bool {
        if !self.whole_at.contains_key(&asker) && self.whole_at.len() >= MOST_ASKERS {
            self.whole_at.retain(|_, whole_at| *whole_at > now);
            if self.whole_at.len() >= MOST_ASKERS {
                return false;
            }
        }
        let whole_at = self.whole_at.entry(asker).or_insert(now);
        // Each question moves the moment further away; the burst is used up when it is too far.
        let next = (*whole_at).max(now) + self.interval;
        let allowed = next.duration_since(now) <= self.interval * self.burst;
        if allowed {
            *whole_at = next;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use model::Mac;

    use super::*;

    fn mac(n: usize) -> Mac {
        let [.., a, b] = n.to_be_bytes();
        Mac([2, 0, 0, 0, a, b])
    }

    #[test]
    fn a_burst_passes_and_then_one_per_interval() {
        let mut limiter = Limiter::new(3, Duration::from_secs(1));
        let start = Instant::now();
        let answers: Vec<bool> = (0..5).map(|_| limiter.allow(mac(1), start)).collect();
        assert_eq!(answers, [true, true, true, false, false]);
        assert!(limiter.allow(mac(2), start));
        assert!(!limiter.allow(mac(1), start + Duration::from_millis(900)));
        assert!(limiter.allow(mac(1), start + Duration::from_millis(1000)));
        assert!(!limiter.allow(mac(1), start + Duration::from_millis(1100)));
        let later = start + Duration::from_secs(60);
        assert_eq!((0..5).filter(|_| limiter.allow(mac(1), later)).count(), 3);
    }

    #[test]
    fn made_up_addresses_take_no_more_room_than_the_bound() {
        let mut limiter = Limiter::new(3, Duration::from_secs(1));
        let start = Instant::now();
        for n in 0..2 * MOST_ASKERS {
            assert_eq!(limiter.allow(mac(n), start), n < MOST_ASKERS);
        }
        assert_eq!(limiter.whole_at.len(), MOST_ASKERS);
        // Who was known goes on, and the others get their turn when the room is free again.
        assert!(limiter.allow(mac(0), start));
        assert!(limiter.allow(mac(MOST_ASKERS), start + Duration::from_secs(3)));
        assert!(limiter.whole_at.len() <= 2);
    }
}
