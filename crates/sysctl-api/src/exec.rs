//! Running programs and looking at consoles.

use serde::{Deserialize, Serialize};

use crate::{Config, or_default};

/// `POST /1.0/instances/NAME/exec`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default, rename_all = "kebab-case")]
pub struct ExecPost {
    /// Program and arguments.
    #[serde(deserialize_with = "or_default")]
    pub command: Vec<String>,
    /// Streams go over websockets.
    #[serde(deserialize_with = "or_default")]
    pub wait_for_websocket: bool,
    /// On a terminal.
    #[serde(deserialize_with = "or_default")]
    pub interactive: bool,
    /// Environment.
    #[serde(deserialize_with = "or_default")]
    pub environment: Config,
    /// Width of the terminal in characters.
    #[serde(deserialize_with = "or_default")]
    pub width: u16,
    /// Height of the terminal in characters.
    #[serde(deserialize_with = "or_default")]
    pub height: u16,
    /// Streams are kept as files.
    #[serde(deserialize_with = "or_default")]
    pub record_output: bool,
    /// User id.
    #[serde(deserialize_with = "or_default")]
    pub user: u32,
    /// Group id.
    #[serde(deserialize_with = "or_default")]
    pub group: u32,
    /// Working directory.
    #[serde(deserialize_with = "or_default")]
    pub cwd: String,
    /// A program of the host in these namespaces of the instance alone, like `net`; none: one of the instance in all of
    /// them. Extension `sysctl_namespaces`.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
}

/// `POST /1.0/instances/NAME/console`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct ConsolePost {
    /// Width in characters.
    #[serde(deserialize_with = "or_default")]
    pub width: u16,
    /// Height in characters.
    #[serde(deserialize_with = "or_default")]
    pub height: u16,
    /// `console`.
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    /// Take it from whoever has it.
    #[serde(deserialize_with = "or_default")]
    pub force: bool,
}

/// A message on a control socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct ExecControl {
    /// `window-resize` or `signal`.
    #[serde(deserialize_with = "or_default")]
    pub command: String,
    /// Width and height of a resize.
    #[serde(deserialize_with = "or_default")]
    pub args: WindowSize,
    /// Number of a signal.
    #[serde(deserialize_with = "or_default")]
    pub signal: i32,
}

/// A size, as numbers in text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct WindowSize {
    /// Columns.
    pub width: String,
    /// Rows.
    pub height: String,
}

/// What the server says beside the bytes of a stream whose client can come back (`resume=1`): a text message that is not
/// empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct StreamNote {
    /// Position of the next byte of output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Bytes of input that need not be sent again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taken: Option<u64>,
    /// No more input is taken.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub closed: bool,
}
