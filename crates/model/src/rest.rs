//! Guests that do nothing.

/// What the host listens for about a guest's rest; nothing by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rest {
    /// Nothing.
    #[default]
    Unwatched,
    /// It does nothing for so many milliseconds.
    After(u64),
    /// It is held still for that, until it is called.
    Asleep,
}
