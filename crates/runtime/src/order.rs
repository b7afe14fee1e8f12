//! What a short-lived helper answers to whoever gave it an order: one record in one datagram.

use crate::protocol::Failure;
use crate::record;

record! {
    /// What came of an order.
    pub struct Done {
        /// Why it was not done.
        1 => failure: Option<Failure>,
        /// It was.
        2 => done: bool,
    }
}

impl Done {
    /// The outcome of what was tried.
    pub fn of(tried: Result<(), Failure>) -> Done {
        Done { done: tried.is_ok(), failure: tried.err() }
    }
}
