//! The words that every command takes.

use std::path::PathBuf;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, Command as Words, Parser};

use crate::commands::Command;
use crate::output::Format;

/// Runs and manages system containers.
#[derive(Debug, Parser)]
#[command(name = "sysctl-cli", version, max_term_width = 110, disable_help_subcommand = true)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 conflict; exec passes on the \
    code of the command.")]
pub(crate) struct Cli {
    /// Socket of the daemon
    #[arg(long, global = true, env = "SYSCTL_SOCKET", value_name = "PATH", default_value = sysctl_client::DEFAULT_SOCKET)]
    pub(crate) socket: PathBuf,

    /// Project to work in
    #[arg(long, global = true, env = "SYSCTL_PROJECT", value_name = "NAME")]
    pub(crate) project: Option<String>,

    /// How results are printed
    #[arg(short, long, global = true, value_name = "FORMAT", value_parser = FormatWords)]
    pub(crate) format: Option<Format>,

    /// No progress and no confirmations
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Reads a format. `-f` is `--force` in other command lines, so the error says what it is here.
#[derive(Debug, Clone)]
struct FormatWords;

impl TypedValueParser for FormatWords {
    type Value = Format;

    fn parse_ref(&self, words: &Words, _: Option<&Arg>, value: &std::ffi::OsStr) -> Result<Format, clap::Error> {
        let found = Format::ALL.into_iter().find(|(name, _)| value == *name);
        found.map(|(_, format)| format).ok_or_else(|| {
            let names = Format::ALL.map(|(name, _)| name).join(", ");
            let text = format!(
                "{:?} is no format: {names} are known (to force something, use --force; -f is --format)\n",
                value.to_string_lossy()
            );
            clap::Error::raw(ErrorKind::InvalidValue, text).with_cmd(words)
        })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(Format::ALL.into_iter().map(|(name, _)| PossibleValue::new(name))))
    }
}

/// Reads `KEY=VALUE`.
pub(crate) fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("KEY=VALUE is expected".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_has_no_mistakes() {
        Cli::command().debug_assert();
    }

    #[test]
    fn force_by_its_short_name_is_explained() {
        let error = Cli::try_parse_from(["sysctl-cli", "delete", "-f", "web1"]).expect_err("no format");
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("use --force"), "{error}");
        assert!(Cli::try_parse_from(["sysctl-cli", "delete", "-f", "json", "--force", "web1"]).is_ok());
    }

    #[test]
    fn pairs_have_a_key() {
        assert_eq!(key_value("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(key_value("a="), Ok(("a".into(), String::new())));
        assert!(key_value("=b").is_err() && key_value("a").is_err());
    }
}
