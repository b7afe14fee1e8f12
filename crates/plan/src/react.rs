//! Moments become levels: what a guest's end does to the wish.

use std::time::Duration;

use model::{BootGen, End, GuestSeen, Observed, Power, StopKind, Wish};

/// The wish that follows from the end of the wished boot; `None` while it has not ended.
///
/// A reboot asks for the next boot. Any other end is the guest's own decision, or its death, and the wish accepts it.
/// `newest` is the last boot number that was given out.
pub fn react(wish: &Wish, observed: &Observed, newest: BootGen) -> Option<(Wish, End)> {
    let boot = wish.power.boot()?;
    let GuestSeen::Ended(end) = observed.boots.get(&boot)?.guest else { return None };
    let power = match end {
        End::Reboot => Power::On { boot: newest.next(), frozen: false },
        End::Halt | End::Exit(_) | End::Signal(_) | End::Unknown => Power::Off,
    };
    Some((Wish { power, stop: StopKind::Force, ..wish.clone() }, end))
}

/// Quick reboots in a row that are nobody's concern: an update that needs one, and another one.
const FREE: u32 = 3;

/// The longest that a reboot waits.
const LONGEST: Duration = Duration::from_secs(60);

/// How long a guest waits that rebooted so often in a row, each time soon after its start: not at all, then a second, then
/// twice as long each time, up to a minute.
pub fn restart_delay(quick: u32) -> Duration {
    match quick.checked_sub(FREE + 1) {
        None => Duration::ZERO,
        Some(n) => LONGEST.min(Duration::from_secs(1 << n.min(16))),
    }
}

#[cfg(test)]
mod tests {
    use model::{BootSeen, RootGen};

    use super::*;
    use crate::settings::tests::wish;

    fn ended(end: End) -> Observed {
        let seen = BootSeen { keeper: true, guest: GuestSeen::Ended(end), group: None, nics: Default::default() };
        Observed { roots: [RootGen(1)].into(), boots: [(BootGen(1), seen)].into(), ..Observed::default() }
    }

    #[test]
    fn a_reboot_asks_for_the_next_boot_and_a_halt_for_none() {
        let (next, _) = react(&wish(), &ended(End::Reboot), BootGen(4)).expect("reaction");
        assert_eq!(next.power, Power::On { boot: BootGen(5), frozen: false });
        for end in [End::Halt, End::Exit(0), End::Signal(11), End::Unknown] {
            assert_eq!(react(&wish(), &ended(end), BootGen(1)).expect("reaction").0.power, Power::Off);
        }
    }

    #[test]
    fn the_end_of_a_boot_that_is_not_wished_for_means_nothing() {
        let off = Wish { power: Power::Off, ..wish() };
        assert!(react(&off, &ended(End::Reboot), BootGen(1)).is_none());
        let other = Wish { power: Power::On { boot: BootGen(2), frozen: false }, ..wish() };
        assert!(react(&other, &ended(End::Halt), BootGen(2)).is_none());
    }
}
