//! `console`.

use std::io::{IsTerminal, Write};

use clap::Args as Words;
use sysctl_api::ConsolePost;

use super::session::{self, Connection, Streams};
use crate::context::Context;
use crate::failure::{Attempt, Result};
use crate::output::{self, escape};
use crate::terminal::{self, Raw};

/// Words of `console`.
#[derive(Debug, Words)]
pub(crate) struct Args {
    /// Name of the instance
    name: String,
    /// Show what it has shown so far, and end
    #[arg(long)]
    show_log: bool,
    /// Forget what it has shown so far
    #[arg(long, conflicts_with = "show_log")]
    clear_log: bool,
    /// Take it from whoever has it
    #[arg(long)]
    force: bool,
}

/// Ctrl-A.
const PREFIX: u8 = 1;

/// Looks for the keys that leave a console: Ctrl-A, then q. Ctrl-A twice sends one.
#[derive(Debug, Clone, Default)]
pub(super) struct Detach {
    prefixed: bool,
}

impl Detach {
    /// The keys that are for the console; `None` to leave.
    pub(super) fn keys(&mut self, keys: &[u8]) -> Option<Vec<u8>> {
        let mut through = Vec::with_capacity(keys.len());
        for &key in keys {
            match (std::mem::take(&mut self.prefixed), key) {
                (false, PREFIX) => self.prefixed = true,
                (true, b'q') => return None,
                (true, PREFIX) => through.push(PREFIX),
                (true, other) => through.extend([PREFIX, other]),
                (false, other) => through.push(other),
            }
        }
        Some(through)
    }
}

pub(crate) async fn run(cx: &Context, args: Args) -> Result {
    let name = &args.name;
    if args.clear_log {
        let attempt = || format!("clear the console's log of instance {name:?}");
        return cx.client.delete_instance_console_log(name).await.attempt(attempt);
    }
    if args.show_log {
        let attempt = || format!("show the console's log of instance {name:?}");
        let log = cx.client.get_instance_console_log(name).await.attempt(attempt)?;
        if std::io::stdout().is_terminal() {
            return output::bytes(escape::log(&String::from_utf8_lossy(&log)).as_bytes());
        }
        return output::bytes(&log);
    }
    attach(cx, name, args.force).await
}

async fn attach(cx: &Context, name: &str, force: bool) -> Result {
    let (width, height) = terminal::size();
    let post = ConsolePost { width, height, kind: "console".into(), force };
    let attempt = || format!("attach to the console of instance {name:?}");
    let mut console = cx.client.console_instance(name, &post).await.attempt(attempt)?;
    let raw = Raw::enter().attempt(|| "switch the terminal to raw mode".into())?;
    let terminal = raw.is_some();
    if terminal && !cx.quiet {
        // A console that nobody listens to is no reason not to attach.
        let _ = write!(std::io::stderr().lock(), "To leave the console, press Ctrl-A and then q.\r\n");
    }
    if terminal {
        console.control.resize(width, height).await.attempt(attempt)?;
    }
    let streams = Streams { input: console.input, output: console.output, errors: None, control: console.control };
    // Without a terminal, nobody could press the keys, and any byte may be meant.
    let detach = terminal.then(Detach::default);
    let carried = session::run(streams, Connection { terminal: true, reads: true, detach }).await;
    drop(raw);
    if terminal {
        let _ = writeln!(std::io::stderr().lock());
    }
    carried
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_to_leave_are_found_across_reads() {
        let mut detach = Detach::default();
        assert_eq!(detach.keys(b"ls\r").as_deref(), Some(&b"ls\r"[..]));
        assert_eq!(detach.keys(b"a\x01").as_deref(), Some(&b"a"[..]));
        assert_eq!(detach.keys(b"q"), None);
    }

    #[test]
    fn other_keys_after_the_prefix_go_through_with_it() {
        let mut detach = Detach::default();
        assert_eq!(detach.keys(b"\x01c\x01\x01q").as_deref(), Some(&b"\x01c\x01q"[..]));
    }
}
