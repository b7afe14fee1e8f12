//! Storage pools: layers, root file systems made of them, and the trash. It returns what is to be mounted and mounts nothing.
//!
//! It knows neither instances nor images: an id and a fingerprint are names of directories here.

mod overlay;
mod trash;

use std::io;
use std::path::Path;

pub use overlay::{OverlayPool, RootLayout, Usage, VolumeSeen};

/// A failed act on a file or directory of a pool.
#[derive(Debug, thiserror::Error)]
#[error("storage: {act} {path}")]
pub struct Error {
    /// What was attempted.
    pub act: &'static str,
    /// On what.
    pub path: String,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

/// The result of an act on a pool.
pub type Result<T> = std::result::Result<T, Error>;

pub(crate) fn failed(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.display().to_string();
    move |source| Error { act, path, source }
}
