//! `SandboxSpec` to running container, in straight synchronous code, and the protocol of the keeper that minds it.
//!
//! It knows no configuration key, no database and no async runtime.

pub mod cgroup;
pub mod exec;
pub mod launch;
pub mod order;
pub mod pin;
pub mod program;
pub mod protocol;
pub mod seccomp;
pub mod wire;

#[cfg(test)]
mod fuzz;
