//! Panics: defects of ours that must cost no more than what ran into them.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::{Context, Poll};

/// What a panic said.
pub fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it said nothing".to_owned())
}

/// Runs work so that a panic in it ends only that; what it said then.
///
/// Not by a task of its own: to hand work to another thread and back takes as long as many a change of limits.
pub(crate) async fn guarded<T>(work: impl Future<Output = T>) -> std::result::Result<T, String> {
    let mut work = pin!(work);
    // What it left half done is looked at anew by whoever recovers; no state of ours is a lock that a panic poisons.
    let poll = |context: &mut Context<'_>| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(value)) => Poll::Ready(Ok(value)),
        Err(panic) => Poll::Ready(Err(panic_text(&*panic))),
    };
    std::future::poll_fn(poll).await
}
