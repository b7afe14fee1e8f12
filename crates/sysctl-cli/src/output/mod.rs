//! Results in the format that is wanted, on standard output.

pub(crate) mod escape;
mod table;

use std::io::{self, Write};

use serde::Serialize;

use crate::failure::{Failure, Result};
pub(crate) use table::{Cell, Table};

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// With lines around.
    Table,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// Values separated by commas, without headings.
    Csv,
    /// A table without lines.
    Compact,
}

impl Format {
    /// All, by their names.
    pub(crate) const ALL: [(&str, Format); 5] = [
        ("table", Format::Table),
        ("json", Format::Json),
        ("yaml", Format::Yaml),
        ("csv", Format::Csv),
        ("compact", Format::Compact),
    ];

    /// Objects are printed whole, not as a table.
    pub(crate) fn is_whole(self) -> bool {
        matches!(self, Format::Json | Format::Yaml)
    }
}

/// Writes bytes as they are.
pub(crate) fn bytes(bytes: &[u8]) -> Result {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    Ok(stdout.flush()?)
}

/// Writes text that was made for people.
pub(crate) fn text(text: &str) -> Result {
    bytes(escape::lines(text).as_bytes())
}

/// A value in JSON, whose strings cannot command a terminal.
pub(crate) fn json(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Failure::new("write JSON", e.to_string()))?;
    Ok(escape::json(&text).into_owned() + "\n")
}

/// The same on one line.
pub(crate) fn json_line(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string(value).map_err(|e| Failure::new("write JSON", e.to_string()))?;
    Ok(escape::json(&text).into_owned() + "\n")
}

/// A value in YAML.
pub(crate) fn yaml(value: &impl Serialize) -> Result<String> {
    let text = serde_saphyr::to_string(value).map_err(|e| Failure::new("write YAML", e.to_string()))?;
    Ok(if text.ends_with('\n') { text } else { text + "\n" })
}

/// Prints a value, or the table that stands for it.
pub(crate) fn show(format: Format, value: &impl Serialize, table: impl FnOnce() -> Table) -> Result {
    match format {
        Format::Json => bytes(json(value)?.as_bytes()),
        Format::Yaml => text(&yaml(value)?),
        Format::Table => text(&table().boxed()),
        Format::Compact => text(&table().compact()),
        Format::Csv => bytes(table().csv().as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json as value;

    use super::*;

    #[test]
    fn yaml_is_read_back_as_what_was_written() {
        let written = value!({
            "config": {"limits.cpu": "2", "user.on": "yes", "user.text": "a\nb: c\n", "user.empty": "", "user.number": "007"},
            "devices": {}, "profiles": ["default"], "ephemeral": false, "description": null,
            "odd": "\u{1b}[31m # not a comment", "null": "null", "tilde": "~", "date": "2026-01-01",
        });
        let text = yaml(&written).expect("YAML");
        let read: serde_json::Value = serde_saphyr::from_str(&text).expect(&text);
        assert_eq!(read, written, "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn json_is_read_back_and_cannot_command_a_terminal() {
        let written = value!({"a": "\u{9b}31m\u{202e}x\u{7f}"});
        let text = json(&written).expect("JSON");
        assert!(text.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'), "{text:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).expect("JSON"), written);
    }
}
