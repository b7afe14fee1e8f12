//! A thin asynchronous client of the `/1.0` API over the daemon's Unix socket: a function per endpoint, streams of exec,
//! consoles, files and events, deadlines, and errors that carry the server's status and words.
//!
//! ```no_run
//! # async fn example() -> Result<(), sysctl_client::Error> {
//! let client = sysctl_client::Client::new(sysctl_client::DEFAULT_SOCKET);
//! for instance in client.get_instances(&Default::default()).await? {
//!     let _ = (instance.name, instance.status);
//! }
//! # Ok(()) }
//! ```
//!
//! What may not be in it: crates of the daemon, printing, choices that belong to a user interface. Its types are those of
//! `sysctl-api`. Names of functions are those that clients of this API have in other languages (`get_instance`,
//! `update_instance_state`), so that its documentation elsewhere helps here.

mod client;
mod connection;
mod console;
mod doctor;
mod error;
mod events;
mod exec;
mod images;
mod instances;
mod limits;
mod namespaces;
mod networks;
mod operations;
mod profiles;
mod projects;
mod query;
mod server;
mod sftp;
mod storage;
mod stream;
mod upload;
mod uri;
mod websocket;

pub use client::{Client, DEFAULT_SOCKET, Tagged};
pub use console::Console;
pub use error::{Error, Result};
pub use events::{EventFilter, Events, Followed};
pub use exec::Exec;
pub use images::{ImageUpload, ImageWords};
pub use instances::ListOptions;
pub use query::RawAnswer;
pub use sftp::{Attributes, Entry, FileKind, Sftp};
pub use upload::Reader;
pub use websocket::{Control, Input, Output};
