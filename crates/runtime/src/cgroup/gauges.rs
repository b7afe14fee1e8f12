//! Reading what a group's processes wait for and which limits they met.

use std::path::Path;

use model::gauges::{Pressure, Stall, Stalls};

/// The value of a line like `oom_kill 3` in a file; 0 when there is none.
pub(super) fn keyed(path: &Path, key: &str) -> u64 {
    let text = super::read(path).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok()).unwrap_or(0)
}

/// The pressure of a cgroup2 group; `None` when the kernel keeps none.
pub(super) fn pressure(group: &Path) -> Option<Pressure> {
    let stalls = |name: &str| super::read(&group.join(name)).ok().map(|text| parse(&text));
    Some(Pressure { cpu: stalls("cpu.pressure")?, memory: stalls("memory.pressure")?, io: stalls("io.pressure")? })
}

/// Lines like `some avg10=0.12 avg60=0.00 avg300=0.00 total=1234`.
fn parse(text: &str) -> Stalls {
    let mut stalls = Stalls::default();
    for line in text.lines() {
        let mut words = line.split(' ');
        let slot = match words.next() {
            Some("some") => &mut stalls.some,
            Some("full") => &mut stalls.full,
            _ => continue,
        };
        *slot = stall(words);
    }
    stalls
}

fn stall<'a>(words: impl Iterator<Item = &'a str>) -> Stall {
    let mut stall = Stall::default();
    let hundredths = |text: &str| text.replacen('.', "", 1).parse().unwrap_or(0);
    for (name, value) in words.filter_map(|word| word.split_once('=')) {
        match name {
            "avg10" => stall.avg10 = hundredths(value),
            "avg60" => stall.avg60 = hundredths(value),
            "avg300" => stall.avg300 = hundredths(value),
            "total" => stall.total_us = value.parse().unwrap_or(0),
            _ => {}
        }
    }
    stall
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_read_as_the_kernel_prints_it() {
        let text =
            "some avg10=12.34 avg60=0.50 avg300=100.00 total=987654\nfull avg10=0.00 avg60=0.00 avg300=0.01 total=7\n";
        let some = Stall { avg10: 1234, avg60: 50, avg300: 10_000, total_us: 987_654 };
        let full = Stall { avg300: 1, total_us: 7, ..Stall::default() };
        assert_eq!(parse(text), Stalls { some, full });
        assert_eq!(parse("nonsense\n"), Stalls::default());
    }
}
