//! Why something could not be done.

use kernel::Errno;

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed act, with what it was done to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A socket could not be made or set up.
    #[error("cannot open a {what} socket")]
    Socket {
        /// Which kind.
        what: &'static str,
        /// Why.
        #[source]
        errno: Errno,
    },
    /// The kernel could not be asked, or its answer could not be read.
    #[error("cannot ask the kernel to {act} {object}")]
    Asking {
        /// What was asked for.
        act: &'static str,
        /// Of which link, table or interface.
        object: String,
        /// Why.
        #[source]
        errno: Errno,
    },
    /// The kernel refused.
    #[error("cannot {act} {object}{reason}")]
    Refused {
        /// What was asked for.
        act: &'static str,
        /// Of which link, table or interface.
        object: String,
        /// The kernel's own words after a colon and a space, or nothing.
        reason: String,
        /// Its error code.
        #[source]
        errno: Errno,
    },
    /// The kernel's answer ended before it was complete, or kept changing while it was read.
    #[error("no complete answer to the request to {act} {object}")]
    NoAnswer {
        /// What was asked for.
        act: &'static str,
        /// Of which link, table or interface.
        object: String,
    },
    /// A request that does not fit the format.
    #[error("the request about {object} is longer than netlink can carry")]
    TooLong {
        /// About what.
        object: String,
    },
    /// A text that cannot be a link's name, alias or a table's name.
    #[error("{text:?} cannot be the name of a {kind}: {rule}")]
    InvalidName {
        /// What was to be named.
        kind: &'static str,
        /// The text.
        text: String,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// A link that is needed is not there.
    #[error("there is no link {name}")]
    NoLink {
        /// Its name.
        name: String,
    },
    /// The name belongs to a link that we did not make.
    #[error("the name {name} is taken by a link that is not ours ({found}); rename one of the two")]
    Taken {
        /// The name.
        name: String,
        /// What the link is.
        found: String,
    },
    /// A file under `/proc/sys` could not be read or written.
    #[error("cannot {act} the kernel setting {key}")]
    Tunable {
        /// Read or set.
        act: &'static str,
        /// Name with dots, as sysctl(8) prints it.
        key: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Guests cannot be served.
    #[error("cannot {act} {object}")]
    Serving {
        /// What was to be done.
        act: &'static str,
        /// To which bridge or address.
        object: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Our tables are not in the kernel: somebody emptied the firewall. [`crate::nft::replace`] makes them again.
    #[error("the firewall's table {table} is gone; something else has emptied the firewall")]
    NoTable {
        /// Its name.
        table: String,
    },
    /// The kernel has no nf_tables, or lacks a part of it that our tables need.
    #[error("this kernel lacks what the firewall needs ({act}{reason})")]
    NoFirewall {
        /// The first thing that it refused.
        act: &'static str,
        /// The kernel's own words after a colon and a space, or nothing.
        reason: String,
        /// Its error code.
        #[source]
        errno: Errno,
    },
}

impl Error {
    /// The kernel's error code, where it gave one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Socket { errno, .. }
            | Error::Asking { errno, .. }
            | Error::Refused { errno, .. }
            | Error::NoFirewall { errno, .. } => Some(*errno),
            Error::Tunable { source, .. } | Error::Serving { source, .. } => {
                source.raw_os_error().map(Errno::from_raw_os_error)
            }
            Error::NoAnswer { .. }
            | Error::TooLong { .. }
            | Error::InvalidName { .. }
            | Error::NoLink { .. }
            | Error::NoTable { .. }
            | Error::Taken { .. } => None,
        }
    }
}
