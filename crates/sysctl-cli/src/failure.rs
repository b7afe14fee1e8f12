//! What went wrong: what was attempted, on what, why, and what to do about it.

use std::error::Error as _;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;

use sysctl_client::Error;

use crate::output::escape;

/// Result of a command or a part of it.
pub(crate) type Result<T = (), E = Failure> = std::result::Result<T, E>;

/// It failed.
pub(crate) const FAILED: u8 = 1;
/// There is no such thing.
pub(crate) const NOT_FOUND: u8 = 3;
/// It exists already, or was changed meanwhile.
pub(crate) const CONFLICT: u8 = 4;

/// A failure that people are told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Like `start instance "web1"`; empty when the cause says it all.
    attempt: String,
    cause: String,
    hint: String,
    code: u8,
    /// Nobody is there to be told.
    silent: bool,
}

impl Failure {
    pub(crate) fn new(attempt: impl Into<String>, cause: impl Into<String>) -> Failure {
        Failure { attempt: attempt.into(), cause: cause.into(), hint: String::new(), code: FAILED, silent: false }
    }

    /// Words that make no sense together, found after they were parsed.
    pub(crate) fn usage(cause: impl Into<String>) -> Failure {
        Failure { code: 2, ..Failure::new("", cause) }
    }

    /// The command has said already what it has to say.
    pub(crate) fn told(code: u8) -> Failure {
        Failure { silent: true, code, ..Failure::new("", "") }
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = hint.into();
        self
    }

    pub(crate) fn with_code(mut self, code: u8) -> Failure {
        self.code = code;
        self
    }

    /// Whether its cause has a word in it.
    pub(crate) fn says(&self, word: &str) -> bool {
        self.cause.contains(word)
    }

    pub(crate) fn code(&self) -> u8 {
        self.code
    }

    /// An error of the client.
    pub(crate) fn of(attempt: impl Into<String>, error: &Error) -> Failure {
        let mut cause = error.to_string();
        let mut source = error.source();
        while let Some(inner) = source {
            cause = format!("{cause}: {inner}");
            source = inner.source();
        }
        Failure { hint: hint(error), code: code(error.status()), ..Failure::new(attempt, cause) }
    }

    /// The text for people, without a last line feed.
    fn text(&self) -> String {
        let mut text = match self.attempt.as_str() {
            "" => format!("Error: {}", self.cause),
            attempt => format!("Error: cannot {attempt}: {}", self.cause),
        };
        if !self.hint.is_empty() {
            text.push_str(&format!("\n  {}", self.hint));
        }
        text
    }

    /// Tells it on standard error.
    pub(crate) fn show(&self) {
        if !self.silent {
            // Where nobody can be told, the code has to do.
            let _ = writeln!(io::stderr().lock(), "{}", escape::lines(&self.text()));
        }
    }

    /// Tells it, and returns its exit code.
    pub(crate) fn tell(&self) -> ExitCode {
        self.show();
        ExitCode::from(self.code)
    }
}

/// A reader that went away is no failure: `sysctl-cli list | head -1`.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::told(0),
            _ => Failure::new("write the output", error.to_string()),
        }
    }
}

/// Says what was attempted when it failed.
pub(crate) trait Attempt<T> {
    fn attempt(self, attempt: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Attempt<T> for std::result::Result<T, Error> {
    fn attempt(self, attempt: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Failure::of(attempt(), &error))
    }
}

impl<T> Attempt<T> for io::Result<T> {
    fn attempt(self, attempt: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Failure::new(attempt(), error.to_string()))
    }
}

/// Exit code for a status of HTTP.
fn code(status: Option<u16>) -> u8 {
    match status {
        Some(404) => NOT_FOUND,
        Some(409 | 412) => CONFLICT,
        _ => FAILED,
    }
}

/// What people can do about an error.
fn hint(error: &Error) -> String {
    match error {
        Error::Connect { socket, source } => unreachable_hint(socket, source.kind()),
        Error::Api { status: 412, .. } => "It was changed meanwhile. Look at it again, then repeat.".into(),
        Error::Api { status: 501, .. } => {
            "This daemon cannot do that (yet); sysctl-cli version shows which it is.".into()
        }
        Error::Api { status: 507, .. } => "The disk of the daemon is full: free some space, then repeat.".into(),
        Error::Transport { .. } | Error::Stream { .. } => {
            "The daemon ended or was replaced. sysctl-cli admin waitready waits until it is back.".into()
        }
        _ => String::new(),
    }
}

fn unreachable_hint(socket: &Path, kind: io::ErrorKind) -> String {
    const START: &str = "start it with \"systemctl start sysctld\", or run sysctld as root";
    match kind {
        io::ErrorKind::NotFound => {
            format!("The daemon does not run, or has another socket: {START}; --socket or SYSCTL_SOCKET names another.")
        }
        io::ErrorKind::PermissionDenied => match group_of(socket) {
            Some(group) => format!(
                "Only root and members of the group {group} may: sudo usermod -aG {group} \"$USER\", then log in again."
            ),
            None => "Only root may: repeat with sudo.".to_owned(),
        },
        io::ErrorKind::ConnectionRefused => {
            format!("The socket is there, but nobody listens: the daemon ended; {START}.")
        }
        _ => String::new(),
    }
}

/// Group that may use a socket.
fn group_of(socket: &Path) -> Option<String> {
    let gid = std::fs::metadata(socket).ok()?.gid();
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    let named = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == gid.to_string()).then(|| name.to_owned())
    });
    named.filter(|_| gid != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(status: u16, message: &str) -> Error {
        Error::Api { act: "GET /1.0/instances/web1".into(), status, message: message.into() }
    }

    #[test]
    fn exit_codes_follow_the_status() {
        for (status, expected) in [(400, 1), (403, 1), (404, 3), (409, 4), (412, 4), (500, 1), (501, 1)] {
            assert_eq!(Failure::of("x", &api(status, "no")).code(), expected, "{status}");
        }
        let gone = Error::File { path: "/x".into(), code: 2, message: "not there".into() };
        assert_eq!(Failure::of("x", &gone).code(), 3);
        assert_eq!(Failure::usage("no").code(), 2);
    }

    #[test]
    fn a_failure_tells_the_attempt_the_cause_and_the_way_out() {
        let failure = Failure::of("start instance \"web1\"", &api(404, "Instance not found"));
        assert_eq!(failure.text(), "Error: cannot start instance \"web1\": Instance not found");
        let source = io::Error::from(io::ErrorKind::NotFound);
        let failure = Failure::of("list instances", &Error::Connect { socket: "/nowhere/s".into(), source });
        let text = failure.text();
        assert!(text.starts_with("Error: cannot list instances: cannot connect to /nowhere/s: "), "{text}");
        assert!(text.contains("systemctl start sysctld") && text.contains("SYSCTL_SOCKET"), "{text}");
        assert_eq!(failure.code(), 1);
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(failure.silent && failure.code() == 0);
    }
}
