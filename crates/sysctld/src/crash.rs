//! Moments at which a test has the daemon die: around each step, each commit and each part of its start and end.
//!
//! `SYSCTL_CRASH_AT=7` aborts at the seventh moment since the start, `ready:7` at the seventh since it was ready.
//! `SYSCTL_CRASH_COUNT=FILE` appends the name of each moment to a file, and the line `ready`: what a dry run reads to know how
//! many there are. When neither is set, a moment costs the load of an atomic.

use std::fs::File;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Whether any of this was asked for.
static IS_ARMED: AtomicBool = AtomicBool::new(false);

static PLAN: Mutex<Plan> = Mutex::new(Plan { at: None, is_ready: false, passed: 0, names: None });

struct Plan {
    at: Option<At>,
    is_ready: bool,
    /// Moments since the start, or since it was ready.
    passed: u64,
    names: Option<File>,
}

/// Which moment is the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct At {
    /// Moments count from readiness on.
    once_ready: bool,
    number: u64,
}

/// Reads what was asked for; once, before anything else.
pub(crate) fn arm() -> Result<(), String> {
    let text = |key: &str| std::env::var(key).unwrap_or_default();
    let at = parse(&text("SYSCTL_CRASH_AT"))?;
    let path = text("SYSCTL_CRASH_COUNT");
    let open = |path: &str| File::options().create(true).append(true).open(path);
    let names = (!path.is_empty()).then(|| open(&path)).transpose().map_err(|e| format!("open {path}: {e}"))?;
    IS_ARMED.store(at.is_some() || names.is_some(), Ordering::Release);
    let mut plan = PLAN.lock().unwrap_or_else(PoisonError::into_inner);
    *plan = Plan { at, is_ready: false, passed: 0, names };
    Ok(())
}

/// `7` or `ready:7`; nothing for never.
fn parse(text: &str) -> Result<Option<At>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let (once_ready, digits) = text.strip_prefix("ready:").map_or((false, text), |rest| (true, rest));
    let number = digits.parse().map_err(|_| format!("SYSCTL_CRASH_AT={text}: allowed is NUMBER or ready:NUMBER"))?;
    Ok(Some(At { once_ready, number }))
}

/// Here a test may have the daemon die.
pub(crate) fn moment(when: &str, what: &str) {
    if IS_ARMED.load(Ordering::Relaxed) {
        pass(when, what);
    }
}

/// From now on moments count as after readiness.
pub(crate) fn ready() {
    if IS_ARMED.load(Ordering::Relaxed) {
        let mut plan = PLAN.lock().unwrap_or_else(PoisonError::into_inner);
        plan.is_ready = true;
        if plan.at.is_some_and(|at| at.once_ready) {
            plan.passed = 0;
        }
        note(&plan, "ready");
    }
}

#[cold]
fn pass(when: &str, what: &str) {
    let mut plan = PLAN.lock().unwrap_or_else(PoisonError::into_inner);
    note(&plan, &format!("{when} {what}"));
    let Some(at) = plan.at.filter(|at| plan.is_ready || !at.once_ready) else { return };
    plan.passed += 1;
    if plan.passed == at.number {
        std::process::abort();
    }
}

fn note(plan: &Plan, text: &str) {
    if let Some(mut file) = plan.names.as_ref() {
        // Without its line the test counts one less, and says so.
        let _ = file.write_all(format!("{text}\n").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_number_since_the_start_or_since_readiness() {
        assert_eq!(parse(""), Ok(None));
        assert_eq!(parse("7"), Ok(Some(At { once_ready: false, number: 7 })));
        assert_eq!(parse("ready:12"), Ok(Some(At { once_ready: true, number: 12 })));
        assert!(parse("soon").is_err_and(|text| text.contains("soon") && text.contains("ready:NUMBER")));
    }
}
