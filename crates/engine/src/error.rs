//! Why something could not be done, by kinds that the API has status codes for.

use crate::host::StepError;

/// An error of the engine.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// It exists already, or its state does not allow this.
    #[error("{0}")]
    Conflict(String),
    /// What was asked for makes no sense; with what would.
    #[error("{0}")]
    Invalid(String),
    /// It changed since the caller looked at it.
    #[error("ETag doesn't match: {wanted} vs {found}")]
    Stale {
        /// What the caller saw.
        wanted: String,
        /// What it is.
        found: String,
    },
    /// The host refused a step.
    #[error("{0}")]
    Step(StepError),
    /// The database cannot be written.
    #[error("{0}")]
    Store(store::TxnError),
    /// It was done, and that could not be written down.
    #[error(
        "{done}, but that could not be written down yet ({why}); it will be as soon as the disk answers. Should the daemon end before, it does not know of it"
    )]
    Unwritten {
        /// What was done.
        done: &'static str,
        /// Why it was not written.
        why: store::TxnError,
    },
    /// It failed, and that could not be written down.
    #[error(
        "{cause}; that it failed could not be written down yet ({why}); it will be as soon as the disk answers. Should the daemon end before, the next one tries it again"
    )]
    Unrecorded {
        /// Why it failed.
        cause: Box<Error>,
        /// Why that was not written.
        why: Box<Error>,
    },
    /// An image was made and could not be named as it should.
    #[error(
        "the image is there, as {fingerprint}, but could not be named {name:?} ({why}): `sysctl-cli image alias create {name} {fingerprint}` does that"
    )]
    Unnamed {
        /// The image.
        fingerprint: model::Fingerprint,
        /// The name.
        name: String,
        /// Why.
        why: Box<Error>,
    },
    /// What was decided to go does not go yet: it is tried again until it does.
    #[error("{0}; it is tried again until it succeeds")]
    Unfinished(String),
    /// It was given up, because somebody asked for that or the daemon stopped.
    #[error("{0}")]
    Cancelled(String),
    /// Something that is here to be found as a bug.
    #[error("{0}")]
    Internal(String),
}

/// The result of an engine call.
pub type Result<T> = std::result::Result<T, Error>;

impl From<StepError> for Error {
    fn from(error: StepError) -> Self {
        Error::Step(error)
    }
}

impl From<store::TxnError> for Error {
    fn from(error: store::TxnError) -> Self {
        match &error {
            // "instance-name" becomes "an instance with the name".
            store::TxnError::Claimed { space, value, .. } => Error::Conflict(match *space {
                "instance-name" => format!("Instance {:?} already exists", value.rsplit('/').next().unwrap_or(value)),
                space => format!("{space} {value} is already in use"),
            }),
            store::TxnError::Conflict { .. } => Error::Conflict(error.to_string()),
            store::TxnError::Full
            | store::TxnError::Locked
            | store::TxnError::Broken(_)
            | store::TxnError::ReadOnly(_) => Error::Store(error),
        }
    }
}

impl From<config::Invalid> for Error {
    fn from(error: config::Invalid) -> Self {
        Error::Invalid(format!("Invalid config: {error}"))
    }
}

impl From<model::InvalidName> for Error {
    fn from(error: model::InvalidName) -> Self {
        Error::Invalid(error.to_string())
    }
}
