//! Bridges, veths, addresses, firewall and the answers of DHCP, RA and DNS; idempotent by name.
//!
//! Two kinds of code stand here. One kind speaks netlink, straight and synchronous: every function names what it makes,
//! may be called twice, and returns when the kernel has done it. The other kind is pure: a frame in, perhaps a frame
//! out. Only [`serve`] knows of an event loop; it carries frames between the two.
//!
//! This crate must not contain: instances, a database, calls of `ip`, `tc` or `nft`, policy read from config keys.

pub mod dhcp;
pub mod directory;
pub mod dns;
mod error;
pub mod filter;
pub mod frame;
pub mod link;
pub mod netlink;
pub mod nft;
pub mod ra;
pub mod rate;
pub mod resolv;
pub mod serve;
pub mod tunable;
pub mod wake;
pub mod watch;

#[cfg(test)]
mod fuzz;

pub use error::{Error, Result};
