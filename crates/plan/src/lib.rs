//! Decisions, as pure functions: wish and look in, steps out.
//!
//! No input or output, no clock, no randomness, nothing async: the same arguments give the same answer, on any machine.

mod chain;
mod devices;
mod diff;
mod free;
mod grain;
mod react;
mod refuse;
mod sandbox;
mod scale;
mod settings;
mod shell;
mod words;

pub use chain::{ChainPort, between, patches};
pub use diff::{Phase, diff, is_instant, own_pins, phase_of};
pub use free::{free_bridge, free_ids, free_ipv4, local_ipv6, routes, subordinate_ids};
pub use grain::{Grain, Neighbours, Object, Owner, Refusal, Users, grain, refuse_nics, refuse_object};
pub use react::{react, restart_delay};
pub use refuse::{refuse_limits, refuse_nic_limits};
pub use sandbox::{environment, sandbox};
pub use scale::{memory_budget, next_level, refuse_autoscale, refuse_told, scaled, watch};
pub use settings::settings;
pub use shell::{Whereabouts, shell};
pub use words::{hint, sentence};
