//! Noise for parsers: many generated inputs within a time, from a seed that is printed.

use std::cell::Cell;
use std::time::{Duration, Instant};

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

/// Inputs between two looks at the clock.
const CHUNK: u32 = 200;

/// Feeds inputs to a parser for as long as `SYSCTL_FUZZ_SECONDS` says, or a few hundred of them. `SYSCTL_FUZZ_SEED` has a
/// run repeated.
///
/// # Panics
/// With the smallest input that was found, when the parser panics on one.
pub fn feed<S: Strategy>(what: &str, inputs: &S, parse: impl Fn(S::Value)) {
    let seconds = std::env::var("SYSCTL_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let seed = std::env::var("SYSCTL_FUZZ_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(clock);
    let begin = Instant::now();
    let fed = feed_for(Duration::from_secs(seconds), seed, inputs, parse);
    let fed = fed.unwrap_or_else(|error| panic!("{what}, SYSCTL_FUZZ_SEED={seed}: {error}"));
    let seconds = begin.elapsed().as_secs_f64();
    eprintln!("figure: fuzz {what}: {fed} inputs in {seconds:.1} s, seed {seed}, failures 0");
}

/// How many inputs were fed; the smallest that made the parser panic as an error.
fn feed_for<S: Strategy>(time: Duration, seed: u64, inputs: &S, parse: impl Fn(S::Value)) -> Result<u64, String> {
    let mut bytes = [0u8; 32];
    bytes[..8].copy_from_slice(&u64::to_le_bytes(seed));
    let config = Config { cases: CHUNK, failure_persistence: None, max_shrink_iters: 4096, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config.clone(), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let (begin, fed) = (Instant::now(), Cell::new(0));
    loop {
        // One that has had its cases has no more of them.
        runner = TestRunner::new_with_rng(config.clone(), runner.new_rng());
        let result = runner.run(inputs, |input| {
            fed.set(fed.get() + 1);
            parse(input);
            Ok::<(), TestCaseError>(())
        });
        result.map_err(|error| error.to_string())?;
        if begin.elapsed() >= time {
            return Ok(fed.get());
        }
    }
}

fn clock() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |now| now.as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn all_the_time_is_used_for_new_inputs() {
        let (seen, calls) = (RefCell::new(BTreeSet::new()), Cell::new(0));
        let fed = feed_for(Duration::from_millis(100), 1, &proptest::num::u64::ANY, |number| {
            seen.borrow_mut().insert(number);
            calls.set(calls.get() + 1);
        });
        assert_eq!(fed, Ok(calls.get()));
        assert!(seen.borrow().len() > 2 * CHUNK as usize, "{} different ones of {fed:?}", seen.borrow().len());
    }

    #[test]
    #[should_panic(expected = "SYSCTL_FUZZ_SEED=")]
    fn a_parser_that_panics_is_found_and_its_seed_told() {
        feed("a bad parser", &proptest::collection::vec(0u8..4, 0..20), |bytes| assert!(!bytes.contains(&3)));
    }
}
