//! How often a guest was started lately, so that one that reboots at once, for ever, does not eat a core.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use model::BootGen;
use tokio::time::Instant;

/// Tries of the same wish without success before it is given up until something changes, or for a while.
pub(crate) const TRIES: u32 = 3;

/// The pause after a try.
pub(crate) fn pause(attempt: u32) -> Duration {
    Duration::from_millis(100 << attempt)
}

/// A guest that lives for less reboots quickly: no system is up and of use in less.
const QUICK: Duration = Duration::from_secs(10);

/// The starts of one instance, as far as this daemon saw them.
#[derive(Debug, Default)]
pub(crate) struct Pace(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    started: Option<(BootGen, Instant)>,
    /// The boot that asked for a reboot last, and when it may have it.
    asked: Option<(BootGen, Instant)>,
    /// Quick reboots without a slow one between them.
    quick: u32,
}

/// What becomes of a reboot that a guest asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reboot {
    /// It comes now.
    Now,
    /// It comes after so long; told for the first time.
    Later(Duration),
    /// It comes, as was told.
    Waits,
}

impl Pace {
    /// A boot was started.
    pub(crate) fn started(&self, boot: BootGen, now: Instant) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).started = Some((boot, now));
    }

    /// A boot ended and asks for the next one.
    pub(crate) fn reboot(&self, boot: BootGen, now: Instant) -> Reboot {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((asked, until)) = state.asked
            && asked == boot
        {
            return if now < until { Reboot::Waits } else { Reboot::Now };
        }
        let lived = state.started.filter(|(started, _)| *started == boot).map(|(_, at)| now.duration_since(at));
        // How long one lived that an earlier daemon started is not known.
        state.quick = if lived.is_some_and(|lived| lived < QUICK) { state.quick + 1 } else { 0 };
        let delay = plan::restart_delay(state.quick);
        state.asked = Some((boot, now + delay));
        if delay.is_zero() { Reboot::Now } else { Reboot::Later(delay) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_reboots_at_once_for_ever_is_started_less_and_less_often() {
        let (pace, start) = (Pace::default(), Instant::now());
        let (mut now, mut starts) = (start, Vec::new());
        for boot in 1..20 {
            pace.started(BootGen(boot), now);
            match pace.reboot(BootGen(boot), now) {
                Reboot::Later(delay) => {
                    assert_eq!(pace.reboot(BootGen(boot), now), Reboot::Waits);
                    now += delay;
                    assert_eq!(pace.reboot(BootGen(boot), now), Reboot::Now);
                }
                other => assert_eq!(other, Reboot::Now),
            }
            starts.push(now.duration_since(start).as_secs());
        }
        let within = |from: u64| starts.iter().filter(|at| (from..from + 60).contains(at)).count();
        assert_eq!((within(0), within(300)), (8, 1), "{starts:?}");
        // One that lives for a while is none of them.
        pace.started(BootGen(50), now);
        assert_eq!(pace.reboot(BootGen(50), now + QUICK), Reboot::Now);
        pace.started(BootGen(51), now + QUICK);
        assert_eq!(pace.reboot(BootGen(51), now + QUICK), Reboot::Now);
    }
}
