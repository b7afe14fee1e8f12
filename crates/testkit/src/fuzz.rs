//! Noise for parsers: many generated inputs within a time, from a seed that is printed.

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
    let mut bytes = [0u8; 32];
    bytes[..8].copy_from_slice(&u64::to_le_bytes(seed));
    let config = Config { cases: CHUNK, failure_persistence: None, max_shrink_iters: 4096, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let (begin, mut fed) = (Instant::now(), 0);
    loop {
        let result = runner.run(inputs, |input| {
            parse(input);
            Ok::<(), TestCaseError>(())
        });
        if let Err(error) = result {
            panic!("{what}, SYSCTL_FUZZ_SEED={seed}: {error}");
        }
        fed += CHUNK;
        if begin.elapsed() >= Duration::from_secs(seconds) {
            break;
        }
    }
    eprintln!("figure: fuzz {what}: {fed} inputs in {:.1} s, seed {seed}, failures 0", begin.elapsed().as_secs_f64());
}

fn clock() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |now| now.as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "SYSCTL_FUZZ_SEED=")]
    fn a_parser_that_panics_is_found_and_its_seed_told() {
        feed("a bad parser", &proptest::collection::vec(0u8..4, 0..20), |bytes| assert!(!bytes.contains(&3)));
    }
}
