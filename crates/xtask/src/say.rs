//! What people read: lines on standard output, one state line that is rewritten on a terminal.

use std::io::{IsTerminal, Write};

/// Writes a line to standard output; nobody listening is no reason to stop.
macro_rules! say {
    ($($words:tt)*) => { $crate::say::line(&format!($($words)*)) };
}
pub(crate) use say;

/// Writes a line.
pub(crate) fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Writes a line to standard error.
pub(crate) fn error(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// A line that tells what goes on now. On a terminal it is overwritten by the next one; elsewhere it is left out.
#[derive(Debug)]
pub(crate) struct Progress {
    shown: bool,
}

impl Progress {
    /// Shows nothing yet.
    pub(crate) fn new() -> Progress {
        Progress { shown: std::io::stdout().is_terminal() }
    }

    /// Replaces the line.
    pub(crate) fn now(&self, text: &str) {
        if self.shown {
            let mut out = std::io::stdout().lock();
            let text: String = text.chars().take(100).collect();
            let _ = write!(out, "\r\x1b[K{text}").and_then(|()| out.flush());
        }
    }

    /// Takes the line away.
    pub(crate) fn end(&self) {
        self.now("");
    }
}
