//! What was measured: samples by row and contender, their medians, and the numbers that they are held against.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

/// What the row is held against.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    /// At most so many times the median of another contender.
    Times(f64, &'static str),
    /// At most so much, in the row's unit.
    AtMost(f64),
    /// At least so many times better than another contender.
    Better(f64, &'static str),
}

/// A row: its number, what it is, its unit, what it is held against.
pub(crate) type Row = (&'static str, &'static str, &'static str, &'static [Goal]);

use Goal::{AtMost, Better, Times};

/// All rows, in the order in which they are shown.
pub(crate) const ROWS: &[Row] = &[
    ("1a", "start → init's first instruction, no NIC", "ms", &[Times(2.0, "bare+commit"), Better(15.0, "incus")]),
    ("1a-reply", "start → the reply", "ms", &[]),
    ("1b", "the same with a NIC on a bridge", "ms", &[Times(2.0, "bare+commit"), Better(15.0, "incus")]),
    ("1c", "stop --force", "ms", &[AtMost(15.0)]),
    (
        "2a",
        "launch of cached Debian → systemd begins",
        "ms",
        &[Times(2.0, "bare"), Better(50.0, "incus"), Better(8.0, "incus-btrfs")],
    ),
    ("2b", "launch of cached Debian → boot finished", "ms", &[Times(1.15, "bare")]),
    ("3a", "exec `true` through the API, 250 ms after the last", "ms", &[AtMost(2.5)]),
    ("3a-cold", "exec `true` through the API, 6 s after the last", "ms", &[AtMost(2.5)]),
    ("3a-row", "exec `true` through the API, one after the other", "ms", &[AtMost(2.5)]),
    ("3b", "exec `true` through the client", "ms", &[AtMost(6.0)]),
    ("4a", "GET /1.0", "ms", &[AtMost(0.03)]),
    ("4b", "GET instances?recursion=1, many stopped", "ms", &[Times(2.0, "replay")]),
    ("4c", "GET instances?recursion=2, many stopped", "ms", &[Times(5.0, "replay"), Better(500.0, "incus")]),
    ("4d", "client `list`, many stopped", "ms", &[AtMost(50.0)]),
    ("5a", "daemon idle, PSS", "MB", &[AtMost(15.0)]),
    ("5a-all", "daemon, spawn and spare keeper: PSS, page tables, kernel stacks", "MB", &[]),
    ("5b", "daemon with many stopped, PSS", "MB", &[AtMost(25.0)]),
    ("5c", "outside a running guest: PSS, page tables, kernel stacks", "MB", &[AtMost(0.15)]),
    ("5c-pss", "of which PSS", "MB", &[]),
    ("5c-daemon", "growth of the daemon per running guest, PSS", "MB", &[]),
    ("5c-fds", "descriptors per idle guest (daemon and keeper)", "", &[]),
    ("5c-daemon-fds", "of which the daemon's", "", &[AtMost(4.0)]),
    ("9", "change of a limit → the reply, on the disk", "ms", &[Times(1.5, "fsync"), Better(10.0, "incus")]),
    ("9-effect", "change of a limit → in force", "ms", &[AtMost(0.5)]),
    ("9-freeze", "freeze of 20 processes → the reply, on the disk", "ms", &[Times(1.5, "fsync")]),
    ("9-freeze-effect", "freeze of 20 processes → all stand still", "ms", &[AtMost(1.0)]),
    ("10", "storm of busybox guests, 4 at a time, each", "ms", &[AtMost(10.0)]),
    ("10-cpu", "processor time of the daemon for each", "ms", &[]),
    ("11", "restart with guests running → first answer", "ms", &[AtMost(100.0)]),
    ("11-kill", "the same after SIGKILL", "ms", &[AtMost(100.0)]),
    ("11-dead", "guests that did not outlive it", "", &[AtMost(0.0)]),
    ("13-give", "200 MiB more → the guest has filled them", "ms", &[Better(5.0, "qemu")]),
    ("13-take", "a guest lets go of 200 MiB → the host has them again", "ms", &[Better(5.0, "qemu")]),
];

/// All samples of a run.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    samples: BTreeMap<(String, String), Vec<f64>>,
    /// What could not be measured, and what a figure depends on.
    pub(crate) notes: Vec<String>,
    /// There were fewer instances than the numbers are about.
    smaller: bool,
}

impl Figures {
    /// None yet; `smaller` where there will be fewer instances than the numbers are about.
    pub(crate) fn new(smaller: bool) -> Figures {
        Figures { smaller, ..Figures::default() }
    }

    /// Takes one sample.
    pub(crate) fn put(&mut self, row: &str, who: &str, value: f64) {
        self.samples.entry((row.to_owned(), who.to_owned())).or_default().push(value);
    }

    /// Takes one, or says why there is none.
    pub(crate) fn take(&mut self, row: &str, who: &str, value: crate::Result<f64>) {
        match value {
            Ok(value) => self.put(row, who, value),
            Err(text) => self.notes.push(format!("{row} {who}: {text}")),
        }
    }

    fn of(&self, row: &str, who: &str) -> Option<&[f64]> {
        self.samples.get(&(row.to_owned(), who.to_owned())).map(Vec::as_slice)
    }

    fn median(&self, row: &str, who: &str) -> Option<f64> {
        self.of(row, who).map(|samples| at(samples, 50))
    }

    fn contenders(&self, row: &str) -> impl Iterator<Item = (&str, &[f64])> {
        self.samples.iter().filter(move |((of, _), _)| of == row).map(|((_, who), v)| (who.as_str(), v.as_slice()))
    }

    /// How the row stands to each of its numbers: the words, and whether it is reached; `None` where it was not measured.
    fn verdicts(&self, row: &Row) -> Vec<(String, Option<bool>)> {
        let (name, _, unit, goals) = row;
        let Some(ours) = self.median(name, "ours") else { return Vec::new() };
        let verdict = |goal: &Goal| match *goal {
            AtMost(most) => (format!("≤ {most} {unit}"), Some(ours <= most)),
            Times(times, who) => {
                let ratio = self.median(name, who).map(|other| ours / other);
                (format!("{} of ≤ {times}× {who}", shown(ratio, "×")), ratio.map(|ratio| ratio <= times))
            }
            Better(times, who) => {
                let ratio = self.median(name, who).map(|other| other / ours);
                (format!("{} of ≥ {times}× {who}", shown(ratio, "×")), ratio.map(|ratio| ratio >= times))
            }
        };
        let about_many = self.smaller && matches!(*name, "4b" | "4c" | "4d" | "5b" | "10" | "11" | "11-kill");
        let judged = goals.iter().map(verdict);
        judged.map(|(words, reached)| (words, reached.filter(|_| !about_many))).collect()
    }

    /// The table for people.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        for row in ROWS {
            let (name, what, unit, _) = row;
            let all: Vec<(&str, &[f64])> = self.contenders(name).collect();
            if all.is_empty() {
                continue;
            }
            let _ = writeln!(text, "{name:<16}{what}");
            for (who, samples) in all {
                let (median, p95) = (at(samples, 50), at(samples, 95));
                let least = at(samples, 0);
                let ours = self.median(name, "ours").filter(|ours| who != "ours" && *ours > 0.0);
                let ratio = ours.map_or(String::new(), |ours| format!("  {:>8.2}× ours", median / ours));
                let _ = writeln!(
                    text,
                    "         {who:<12} median {median:>10.3} {unit:<2}  p95 {p95:>10.3}  min {least:>10.3}  n={}{ratio}",
                    samples.len()
                );
            }
            for (words, reached) in self.verdicts(row) {
                let mark = match reached {
                    Some(true) => "reached",
                    Some(false) => "MISSED ",
                    None => "unknown",
                };
                let _ = writeln!(text, "         {mark} {words}");
            }
        }
        for note in &self.notes {
            let _ = writeln!(text, "note: {note}");
        }
        text
    }

    /// The same for programs.
    pub(crate) fn json(&self) -> Value {
        let rows = ROWS.iter().filter_map(|row| {
            let contenders: serde_json::Map<String, Value> = self
                .contenders(row.0)
                .map(|(who, v)| {
                    let figures =
                        json!({"median": at(v, 50), "p95": at(v, 95), "min": at(v, 0), "n": v.len(), "samples": v});
                    (who.to_owned(), figures)
                })
                .collect();
            let verdicts: Vec<Value> = self
                .verdicts(row)
                .into_iter()
                .map(|(words, reached)| json!({"number": words, "reached": reached}))
                .collect();
            (!contenders.is_empty()).then(
                || json!({"row": row.0, "what": row.1, "unit": row.2, "contenders": contenders, "numbers": verdicts}),
            )
        });
        json!({"version": 1, "rows": rows.collect::<Vec<_>>(), "notes": self.notes})
    }
}

fn shown(ratio: Option<f64>, unit: &str) -> String {
    ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}{unit}"))
}

/// The value that so many percent of the samples do not exceed; between two samples where it falls between them, so that
/// the median of two is neither the better nor the worse.
fn at(samples: &[f64], percent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = sorted.len().saturating_sub(1) as f64 * percent as f64 / 100.0;
    let value = |index: f64| sorted.get(index as usize).copied().unwrap_or(f64::NAN);
    let (below, above) = (value(place.floor()), value(place.ceil()));
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_held_against_its_numbers() {
        let mut figures = Figures::default();
        for (who, value) in [("ours", 3.0), ("bare+commit", 2.0), ("incus", 30.0)] {
            figures.put("1a", who, value);
        }
        let reached: Vec<_> = figures.verdicts(&ROWS[0]).into_iter().map(|(_, reached)| reached).collect();
        assert_eq!(reached, [Some(true), Some(false)]);
        assert!(figures.table().contains("MISSED  10.00× of ≥ 15× incus"), "{}", figures.table());
    }

    #[test]
    fn a_median_is_in_the_middle() {
        let samples = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!((at(&samples, 0), at(&samples, 50), at(&samples, 100)), (1.0, 3.0, 5.0));
        assert_eq!(at(&[592.0, 2200.0], 50), 1396.0);
        assert_eq!(at(&[7.0], 95), 7.0);
    }

    #[test]
    fn a_number_is_not_judged_by_what_it_is_not_about() {
        let mut figures = Figures::new(true);
        figures.put("4c", "ours", 1.0);
        figures.put("4c", "incus", 2.0);
        assert!(
            ROWS.iter()
                .filter(|row| row.0 == "4c")
                .flat_map(|row| figures.verdicts(row))
                .all(|(_, reached)| reached.is_none()),
            "{}",
            figures.table()
        );
    }
}
