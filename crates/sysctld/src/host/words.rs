//! Failures of the host in words that say what was attempted, on what, why it failed and what to do.

use engine::StepError;
use kernel::Errno;
use runtime::protocol::Failure;

fn is_transient(errno: Errno) -> bool {
    matches!(errno, Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE | Errno::INTR | Errno::BUSY)
}

/// A failed call.
pub(crate) fn failed(step: &str, call: &str, target: &str, errno: Errno) -> StepError {
    let why = std::io::Error::from(errno);
    StepError {
        step: step.to_owned(),
        message: format!("{call} {target}: {why}"),
        hint: plan::hint(call, errno.raw_os_error()).map(str::to_owned),
        transient: is_transient(errno),
    }
}

/// A failure that a keeper or the spawn process told.
pub(crate) fn of(step: &str, failure: &Failure) -> StepError {
    // A request that it does not know has the same number as a call that the kernel lacks.
    let is_unknown = failure.stage == "request" && failure.errno() == Errno::NOSYS;
    let hint = if is_unknown {
        Some("the process that minds the guest is of an older release: restart the instance to have a new one")
    } else {
        plan::hint(&failure.call, failure.errno)
    };
    StepError {
        step: step.to_owned(),
        message: failure.to_string(),
        hint: hint.map(str::to_owned),
        transient: is_transient(failure.errno()),
    }
}

/// Any error with its causes; the system's error number, where one of them has it, decides the hint.
pub(crate) fn because(step: &str, error: &(dyn std::error::Error + 'static)) -> StepError {
    let mut message = error.to_string();
    let mut errno = None;
    let mut cause = Some(error);
    while let Some(current) = cause {
        if let Some(io) = current.downcast_ref::<std::io::Error>() {
            errno = io.raw_os_error().or(errno);
        }
        cause = current.source();
        if let Some(next) = cause {
            message.push_str(": ");
            message.push_str(&next.to_string());
        }
    }
    let errno = errno.map(Errno::from_raw_os_error);
    StepError {
        step: step.to_owned(),
        hint: errno.and_then(|errno| plan::hint(&message, errno.raw_os_error())).map(str::to_owned),
        message,
        transient: errno.is_some_and(is_transient),
    }
}
