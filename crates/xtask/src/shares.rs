//! Where the minutes of a run went, beside the minutes that each part may take.

use std::time::Duration;

use crate::rings::Ring;

/// Minutes of a part on two busy cores, 40 in all. Building counts to the first one, in whichever ring it was needed.
const SHARES: [(&str, &[Ring], u64); 7] = [
    ("build, lint, inner", &[Ring::Fmt, Ring::Clippy, Ring::Tidy, Ring::Unit, Ring::Fake], 10),
    ("host", &[Ring::Host], 8),
    ("attack", &[Ring::Attack], 3),
    ("crash", &[Ring::Crash], 4),
    ("fuzz", &[Ring::Fuzz], 2),
    ("conformance", &[Ring::Conformance], 5),
    ("vm", &[Ring::Vm], 8),
];

/// How long a ring took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spent {
    pub(crate) ring: Ring,
    pub(crate) all: Duration,
    /// Of it compiling.
    pub(crate) building: Duration,
}

/// The table: a line for each ring with the time that it took, after its part's share and sum.
pub(crate) fn table(spent: &[Spent]) -> Vec<String> {
    let building: Duration = spent.iter().map(|ring| ring.building).sum();
    let mut lines = vec![format!("{:<20}{:>10}{:>10}{:>14}", "ring", "share", "spent", "of it building")];
    for (n, (part, rings, minutes)) in SHARES.iter().enumerate() {
        let own: Vec<&Spent> = spent.iter().filter(|ring| rings.contains(&ring.ring)).collect();
        if own.is_empty() {
            continue;
        }
        let testing: Duration = own.iter().map(|ring| ring.all.saturating_sub(ring.building)).sum();
        let (sum, built) = if n == 0 { (testing + building, building) } else { (testing, Duration::ZERO) };
        let mark = if sum > Duration::from_secs(minutes * 60) { "  OVER ITS SHARE" } else { "" };
        lines.push(format!("{part:<20}{:>10}{:>10}{:>14}{mark}", format!("{minutes} min"), clock(sum), clock(built)));
        for ring in own.iter().filter(|_| rings.len() > 1) {
            lines.push(format!("  {:<28}{:>10}{:>14}", ring.ring.name(), clock(ring.all), clock(ring.building)));
        }
    }
    lines
}

fn clock(time: Duration) -> String {
    format!("{}:{:02}", time.as_secs() / 60, time.as_secs() % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn building_counts_once_and_what_takes_too_long_is_marked() {
        let spent = |ring, all, building| Spent {
            ring,
            all: Duration::from_secs(all),
            building: Duration::from_secs(building),
        };
        let table = table(&[spent(Ring::Clippy, 200, 0), spent(Ring::Host, 560, 100), spent(Ring::Attack, 181, 0)]);
        let line = |word: &str| table.iter().find(|line| line.starts_with(word)).expect("a line").clone();
        assert!(line("build").contains("5:00") && line("build").contains("1:40"), "{table:#?}");
        assert!(line("host").contains("7:40") && !line("host").contains("OVER"), "{table:#?}");
        assert!(line("attack").contains("OVER"), "{table:#?}");
        assert!(!table.iter().any(|line| line.starts_with("vm")), "{table:#?}");
    }

    #[test]
    fn every_ring_has_a_share_and_all_are_forty_minutes() {
        for ring in crate::rings::ALL {
            assert_eq!(SHARES.iter().filter(|(_, rings, _)| rings.contains(&ring)).count(), 1, "{ring:?}");
        }
        assert_eq!(SHARES.iter().map(|(_, _, minutes)| minutes).sum::<u64>(), 40);
    }
}
