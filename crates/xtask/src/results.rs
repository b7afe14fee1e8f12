//! Counting tests by what their programs print.

/// How many tests there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Count {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
}

impl Count {
    /// One check that held or did not.
    pub(crate) fn of(good: bool) -> Count {
        Count { passed: u32::from(good), failed: u32::from(!good) }
    }
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Count) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// Sums the result lines of a test program; `None` when there is none, because it died before.
pub(crate) fn count(output: &str) -> Option<Count> {
    let mut sum = None;
    for line in output.lines().filter_map(|line| line.trim_start().strip_prefix("test result: ")) {
        let number = |word: &str| -> u32 {
            let part = line.split([';', '.']).map(str::trim).find_map(|part| part.strip_suffix(word));
            part.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
        };
        let sum = sum.get_or_insert_with(Count::default);
        *sum += Count { passed: number(" passed"), failed: number(" failed") };
    }
    sum
}

/// What tests say that they counted: whatever follows `figure: ` in lines that begin so.
pub(crate) fn figures(output: &str) -> Vec<&str> {
    output.lines().filter_map(|line| line.trim_start_matches('.').strip_prefix("figure: ")).collect()
}

/// The sums of figures like `crash points 12, violations 0: …`; `None` when there is none.
pub(crate) fn crash_points(figures: &[String]) -> Option<(u64, u64)> {
    let parse = |figure: &String| {
        let (_, rest) = figure.split_once("crash points ")?;
        let (points, rest) = rest.split_once(", violations ")?;
        let (violations, _) = rest.split_once(':')?;
        Some((points.parse::<u64>().ok()?, violations.parse::<u64>().ok()?))
    };
    figures.iter().filter_map(parse).reduce(|sum, one| (sum.0 + one.0, sum.1 + one.1))
}

/// Names of tests that failed.
pub(crate) fn failures(output: &str) -> Vec<&str> {
    let failed = |line: &'_ str| line.starts_with("test ") && line.contains("... FAILED");
    output
        .lines()
        .filter(|line| failed(line))
        .filter_map(|line| line.strip_prefix("test ")?.split(" ... ").next())
        .collect()
}

/// Lines of a panic that are shown: where, and what was said; the rest is in the log.
const SAID: usize = 6;

/// Why tests failed: where each panic was, in which thread, and its words. The panics of what is tested are among them.
pub(crate) fn reasons(output: &str) -> Vec<String> {
    let is_panic = |line: &str| line.starts_with("thread '") && line.contains(" panicked at ");
    let is_over = |line: &str| line.is_empty() || line.starts_with("note: ") || line == "stack backtrace:";
    let lines: Vec<&str> = output.lines().collect();
    let starts = (0..lines.len()).filter(|at| is_panic(lines[*at]));
    let whole =
        |at: usize| lines[at..].iter().take_while(|line| !is_over(line)).take(SAID).copied().collect::<Vec<_>>();
    starts.map(|at| whole(at).join("\n      ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "running 3 tests\ntest a ... ok\ntest b::c ... FAILED\ntest d ... FAILED (1.2 s)\n\n\
        test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 4 filtered out; finished in 0.01s\n\
        test result: ok. 12 passed; 0 failed; 0 ignored\n";

    #[test]
    fn figures_are_found_and_summed() {
        let output =
            "figure: crash points 12, violations 0: a: b\n.figure: crash points 3, violations 1: c\nfigure: 7 ms\n";
        let found: Vec<String> = figures(output).into_iter().map(str::to_owned).collect();
        assert_eq!(found.len(), 3);
        assert_eq!(crash_points(&found), Some((15, 1)));
        assert_eq!(crash_points(&found[2..]), None);
    }

    #[test]
    fn result_lines_are_summed() {
        assert_eq!(count(OUTPUT), Some(Count { passed: 13, failed: 2 }));
        assert_eq!(count("thread panicked\n"), None);
    }

    #[test]
    fn panics_are_cut_out_of_the_output() {
        let output = "x\n\nthread 'a' (7) panicked at a.rs:1:2:\nleft: 1\nright: 2\nnote: run with\n\nthread 'b' panicked at b:\n";
        assert_eq!(
            reasons(output),
            ["thread 'a' (7) panicked at a.rs:1:2:\n      left: 1\n      right: 2", "thread 'b' panicked at b:"]
        );
    }

    #[test]
    fn failed_tests_are_named() {
        assert_eq!(failures(OUTPUT), ["b::c", "d"]);
    }
}
