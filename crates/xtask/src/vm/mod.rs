//! The ring of a whole machine: Debian with systemd and its own kernel, the product installed, under emulation.
//!
//! ```text
//! mod        the verb and the ring
//!  ├ image    a tree by mmdebstrap (kept), our files in it, a disk made of it
//!  ├ machine  qemu with that disk; its second serial line is a file
//!  ├ inside   what this very program does in the machine, as a unit: a line per check on that serial line
//!  └ trials   programs of the host's ring that are run there as well
//! ```

pub(crate) mod image;
pub(crate) mod inside;
mod machine;
mod trials;

use std::time::{Duration, Instant};

use crate::results::{self, Count};
use crate::say::{Progress, say};
use crate::test::{self, Program};
use crate::workspace::{self, Workspace};
use crate::{Result, apt, programs, run};

pub(crate) use image::PACKAGES;

/// Under emulation, on a slow machine that others use, with all packages to fetch twice.
const LIMIT: Duration = Duration::from_secs(40 * 60);

/// How it went.
pub(crate) enum Outcome {
    /// With so many checks, and what was counted.
    Ran(Count, Vec<String>),
    /// Why this machine cannot run it.
    Skipped(String),
}

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    crate::only(arguments, &["12", "13", "--rebuild"])?;
    crate::need_root("building a machine's disk")?;
    let release =
        if arguments.iter().any(|word| word == "12") { image::Release::TWELVE } else { image::Release::THIRTEEN };
    let workspace = workspace::load()?;
    apt::ensure(&[&apt::RUN[..], &PACKAGES].concat())?;
    if arguments.iter().any(|word| word == "--rebuild") {
        image::forget(&workspace, release)?;
    }
    image::prepare(&workspace, release)?;
    programs::build(&workspace, programs::Seen::All)?;
    let programs = test::compiled(&workspace, &trials::words())?;
    match one(&workspace, release, &programs, &Progress::new())? {
        Outcome::Skipped(reason) => Err(reason),
        Outcome::Ran(count, _) if count.failed > 0 => {
            Err(format!("{} of {} checks failed", count.failed, count.failed + count.passed))
        }
        Outcome::Ran(count, _) => {
            say!("{} checks held", count.passed);
            Ok(())
        }
    }
}

/// The ring: the newest release.
pub(crate) fn ring(workspace: &Workspace, programs: &[Program], progress: &Progress) -> Result<Outcome> {
    one(workspace, image::Release::THIRTEEN, programs, progress)
}

fn one(workspace: &Workspace, release: image::Release, programs: &[Program], progress: &Progress) -> Result<Outcome> {
    if let Some(reason) = image::impossible(release) {
        return Ok(Outcome::Skipped(reason));
    }
    progress.now("vm: building the disk");
    let begin = Instant::now();
    let disk = image::build(workspace, release, programs)?;
    let built = begin.elapsed();
    progress.now("vm: the machine runs");
    let begin = Instant::now();
    let report = machine::run(&disk, LIMIT, &|line| progress.now(&format!("vm: {line}")))?;
    progress.end();
    let (count, lines) = read(&report.results);
    lines.iter().for_each(|line| say!("  {line}"));
    say!(
        "  Debian {}: disk {:.0} s, machine {:.0} s; console: {}",
        release.number,
        built.as_secs_f64(),
        begin.elapsed().as_secs_f64(),
        disk.console().display()
    );
    let mut count = count;
    if !report.ended {
        say!("  the machine did not go down by itself; the end of its console:");
        say!("{}", run::tail(&std::fs::read_to_string(disk.console()).unwrap_or_default(), 40));
    }
    // Guests are halted and the machine goes down by itself.
    count += Count::of(report.ended);
    disk.remove();
    let figures = results::figures(&report.results).into_iter().map(str::to_owned).collect();
    Ok(Outcome::Ran(count, figures))
}

/// Reads what came over the serial line: the checks, and lines for people.
fn read(results: &str) -> (Count, Vec<String>) {
    let mut count = Count::default();
    let mut lines = Vec::new();
    let mut ended = false;
    for line in results.lines().map(str::trim_end) {
        if let Some(text) = line.strip_prefix(inside::GOOD) {
            count += Count::of(true);
            lines.push(format!("ok     {text}"));
        } else if let Some(text) = line.strip_prefix(inside::BAD) {
            count += Count::of(false);
            lines.push(format!("FAILED {text}"));
        } else if line == inside::END {
            ended = true;
        } else if !line.is_empty() {
            lines.push(format!("       {line}"));
        }
    }
    if !ended {
        count += Count::of(false);
        lines.push("FAILED the checks came to no end".to_owned());
    }
    (count, lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_counted_and_a_missing_end_is_a_failure() {
        let text = format!("{}a\r\n{}b: why\r\n  more\r\n{}\r\n", inside::GOOD, inside::BAD, inside::END);
        let (count, lines) = read(&text);
        assert_eq!(count, Count { passed: 1, failed: 1 });
        assert_eq!(lines, ["ok     a", "FAILED b: why", "         more"]);
        assert_eq!(read("").0, Count { passed: 0, failed: 1 });
    }
}
