//! Panics: defects of ours that must cost no more than what ran into them.

use std::any::Any;

/// What a panic said.
pub fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it said nothing".to_owned())
}

/// Runs work in a task of its own, so that a panic in it ends only that; what it said then.
pub(crate) async fn guarded<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> std::result::Result<T, String> {
    match tokio::spawn(work).await {
        Ok(value) => Ok(value),
        Err(error) if error.is_panic() => Err(panic_text(&*error.into_panic())),
        // The runtime ends, and this task with it.
        Err(_) => std::future::pending().await,
    }
}
