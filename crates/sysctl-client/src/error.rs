//! Why a call failed.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// The result of a call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed. `act` is the method and the path of the request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody could be reached at the socket.
    #[error("cannot connect to {}", socket.display())]
    Connect {
        /// Path of the socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The daemon was reached and said no.
    #[error("{message}")]
    Api {
        /// What was asked.
        act: String,
        /// HTTP status, the same as the `error_code` of the answer.
        status: u16,
        /// The server's words.
        message: String,
    },
    /// An operation ran and failed, or was cancelled.
    #[error("{message}")]
    Operation {
        /// Its id.
        id: String,
        /// What it did.
        description: String,
        /// 400 failed, 401 cancelled.
        status_code: u16,
        /// Why, in the server's words.
        message: String,
    },
    /// No answer came in time.
    #[error("{act}: no answer within {} s", deadline.as_secs_f32())]
    Deadline {
        /// What was asked.
        act: String,
        /// How long it was waited for.
        deadline: Duration,
    },
    /// The connection broke.
    #[error("{act}: the connection to the daemon broke")]
    Transport {
        /// What was asked.
        act: String,
        /// Why.
        #[source]
        source: hyper::Error,
    },
    /// A stream broke.
    #[error("{act}: the stream from the daemon broke")]
    Stream {
        /// What was done.
        act: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of this side could not be read or written.
    #[error("{act}")]
    Local {
        /// What was done.
        act: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of the instance could not be read or written.
    #[error("{path}: {message}")]
    File {
        /// Path in the instance.
        path: String,
        /// Status code of SFTP: 2 no such file, 3 permission denied, 4 failure.
        code: u32,
        /// The server's words.
        message: String,
    },
    /// The answer is none of this API.
    #[error("{act}: the answer makes no sense: {detail}")]
    Protocol {
        /// What was asked.
        act: String,
        /// What is wrong with it.
        detail: String,
    },
}

impl Error {
    /// HTTP status of the answer, where there was one.
    pub fn status(&self) -> Option<u16> {
        match self {
            Error::Api { status, .. } => Some(*status),
            // "No such file" of SFTP.
            Error::File { code: 2, .. } => Some(404),
            _ => None,
        }
    }

    /// The connection was there and then was not: the daemon may have been replaced meanwhile.
    pub fn is_disconnect(&self) -> bool {
        matches!(self, Error::Transport { .. } | Error::Stream { .. })
    }

    pub(crate) fn protocol(act: &str, detail: impl Into<String>) -> Error {
        Error::Protocol { act: act.to_owned(), detail: detail.into() }
    }

    pub(crate) fn stream(act: &str, source: impl Into<io::Error>) -> Error {
        Error::Stream { act: act.to_owned(), source: source.into() }
    }
}
