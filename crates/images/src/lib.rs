//! Images: verified, unpacked, built from a recipe; content-addressed.
//!
//! An image is a root file system, a `metadata.yaml` and a few templates; its name is the SHA-256 of the bytes it came
//! in (or of the recipe it is built from). This crate turns untrusted bytes into a tree below one directory descriptor,
//! and such a tree back into bytes. It is straight synchronous code for a small child process (`sysctl-keeper unpack`)
//! that is root only in a user namespace of 65,536 ids and writes through an id-mapped mount, so that ids land as the
//! archive names them.
//!
//! ```text
//!  bytes ─► hash::HashingReader ─► compress::Decoder ─► tar::Reader ─► unpack (sorts entries) ─► apply::Applier ─► tree
//!  recipe ─► build (mmdebstrap's own tar stream) ─────────┘
//!  tree ─► pack ─► tar::Writer ─► compress::Encoder ─► hash::HashingWriter ─► bytes
//! ```
//!
//! What may not be in it: pools, instances, the database, threads, HTTP. It never mounts an image and never builds a
//! path string below the root: everything goes by directory descriptors.

pub mod acl;
pub mod apply;
pub mod archive_path;
pub mod build;
pub mod compress;
pub mod error;
pub mod hash;
pub mod limits;
pub mod metadata;
pub mod pack;
pub mod recipe;
pub mod report;
pub mod tar;
pub mod unpack;

#[cfg(test)]
mod fuzz;

pub use archive_path::ArchivePath;
pub use error::{Error, Result};
pub use limits::Limits;
