//! How far an operation is: one line that is written over on a terminal, plain lines elsewhere.

use std::cell::RefCell;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use serde_json::Value;
use sysctl_api::Operation;

use crate::output::escape;
use crate::terminal;

/// How often one stage is told where lines stay.
const EVERY: Duration = Duration::from_secs(5);

/// Tells on standard error, so that results can be read from standard output.
pub(crate) struct Progress {
    mode: Mode,
    state: RefCell<State>,
}

#[derive(PartialEq, Eq)]
enum Mode {
    Terminal,
    Lines,
    Off,
}

#[derive(Default)]
struct State {
    /// A line stands on the terminal.
    shown: bool,
    stage: String,
    told: Option<Instant>,
}

impl Progress {
    pub(crate) fn new(quiet: bool) -> Progress {
        let mode = match quiet {
            true => Mode::Off,
            false if io::stderr().is_terminal() => Mode::Terminal,
            false => Mode::Lines,
        };
        Progress { mode, state: RefCell::default() }
    }

    /// Tells how far an operation is.
    pub(crate) fn show(&self, operation: &Operation) {
        let (stage, text) = stage(operation);
        self.tell(&stage, &text);
    }

    /// Tells how far something is. Where lines stay, a new stage is told at once and the same one now and then.
    pub(crate) fn tell(&self, stage: &str, text: &str) {
        let mut state = self.state.borrow_mut();
        let text = escape::inline(text);
        let mut stderr = io::stderr().lock();
        let written = match self.mode {
            Mode::Off => return,
            Mode::Terminal => {
                state.shown = true;
                let width = usize::from(terminal::size().0).saturating_sub(1);
                let cut: String = text.chars().take(width).collect();
                write!(stderr, "\r{cut}\u{1b}[K").and_then(|()| stderr.flush())
            }
            Mode::Lines => {
                if state.stage == stage && state.told.is_some_and(|told| told.elapsed() < EVERY) {
                    return;
                }
                state.told = Some(Instant::now());
                writeln!(stderr, "{text}")
            }
        };
        stage.clone_into(&mut state.stage);
        // Whoever closed standard error does not want to know.
        drop(written);
    }

    /// Takes the line away.
    pub(crate) fn clear(&self) {
        let mut state = self.state.borrow_mut();
        if std::mem::take(&mut state.shown) {
            let _ = write!(io::stderr().lock(), "\r\u{1b}[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The stage that an operation is in, and how far.
fn stage(operation: &Operation) -> (String, String) {
    let metadata = operation.metadata.iter().flatten();
    let told = metadata.filter_map(|(key, value)| Some((key.strip_suffix("_progress")?, value.as_str()?)));
    // The server names the stage that it is in; the texts of former ones stay in the metadata.
    let progress = operation.metadata.as_ref().and_then(|metadata| metadata.get("progress"));
    let current = progress.and_then(|progress| progress.get("stage")).and_then(Value::as_str);
    let found = told.clone().find(|(stage, _)| Some(*stage) == current).or_else(|| told.clone().next_back());
    let (stage, text) = found.unwrap_or_default();
    let of = operation.resources.values().flatten().next().and_then(|path| path.rsplit('/').next());
    let what = match of {
        Some(name) => format!("{} {name}", operation.description),
        None => operation.description.clone(),
    };
    let text = if text.is_empty() { what } else { format!("{what}: {text}") };
    (format!("{} {stage}", operation.id), text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_current_stage_is_told_with_what_it_is_about() {
        let operation: Operation = serde_json::from_value(json!({
            "id": "1", "description": "Creating instance", "resources": {"instances": ["/1.0/instances/web1"]},
            "metadata": {
                "download_progress": "Download: 100%", "unpack_progress": "Unpacking: 50%",
                "progress": {"stage": "download", "percent": "100"},
            },
        }))
        .expect("an operation");
        assert_eq!(stage(&operation), ("1 download".into(), "Creating instance web1: Download: 100%".into()));
        let bare = Operation { description: "Stopping instance".into(), ..Operation::default() };
        assert_eq!(stage(&bare).1, "Stopping instance");
    }
}
