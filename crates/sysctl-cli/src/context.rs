//! What every command has at hand: the client, the format, and how operations are waited for.

use std::future::Future;
use std::time::Duration;

use futures_util::StreamExt;
use serde::Serialize;
use sysctl_api::{CONSEQUENCE, Operation, PlanStep};
use sysctl_client::Client;

use crate::args::Cli;
use crate::failure::{Attempt, Failure, Result};
use crate::output::{self, Cell, Format, Table};
use crate::progress::Progress;

/// Operations shorter than this are not worth a line.
const PATIENCE: Duration = Duration::from_millis(250);

/// Requests at a time when several objects are named.
const AT_A_TIME: usize = 16;

/// Exit code of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// What every command has at hand.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) format: Option<Format>,
    pub(crate) quiet: bool,
    pub(crate) progress: Progress,
}

/// A change that was made.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Done {
    /// Like `started`.
    pub(crate) action: &'static str,
    /// Like `instance`.
    pub(crate) kind: &'static str,
    /// Which one.
    pub(crate) name: String,
    /// Id of the operation that did it, where there was one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) operation: String,
}

impl Context {
    pub(crate) fn new(cli: &Cli) -> Context {
        let client = Client::new(&cli.socket).with_project(cli.project.clone());
        Context { client, format: cli.format, quiet: cli.quiet, progress: Progress::new(cli.quiet) }
    }

    /// Prints a listing, as a table when nothing else is said.
    pub(crate) fn list(&self, value: &impl Serialize, table: impl FnOnce() -> Table) -> Result {
        output::show(self.format.unwrap_or(Format::Table), value, table)
    }

    /// Prints an object, as YAML when nothing else is said. As a table, it is its keys and values.
    pub(crate) fn object(&self, value: &impl Serialize) -> Result {
        output::show(self.format.unwrap_or(Format::Yaml), value, || {
            let value = serde_json::to_value(value).unwrap_or_default();
            let mut table = Table::new(["KEY", "VALUE"]);
            flatten(&mut table, "", &value);
            table
        })
    }

    /// Waits until an operation is done, telling how far it is. Ctrl-C ends it where it can be ended.
    pub(crate) async fn finish(&self, operation: &Operation, attempt: impl FnOnce() -> String) -> Result<Operation> {
        let follow = self.client.follow(operation, PATIENCE, |operation| self.progress.show(operation));
        let mut follow = std::pin::pin!(follow);
        let result = tokio::select! {
            result = &mut follow => result,
            _ = tokio::signal::ctrl_c() => {
                self.progress.clear();
                if !operation.may_cancel {
                    let hint = format!("sysctl-cli operation wait {} goes on waiting.", operation.id);
                    let cause = "interrupted; the daemon goes on with it";
                    return Err(Failure::new(attempt(), cause).with_hint(hint).with_code(INTERRUPTED));
                }
                self.client.cancel_operation(&operation.id).await.attempt(|| "cancel the operation".into())?;
                follow.await
            }
        };
        self.progress.clear();
        result.attempt(attempt)
    }

    /// Does the same to several objects at a time, prints what was done, and tells what failed. The first failure's code
    /// counts.
    pub(crate) async fn each<F: Future<Output = Result<Done>>>(
        &self,
        names: &[String],
        act: impl Fn(String) -> F,
    ) -> Result {
        let acts = futures_util::stream::iter(names.iter().cloned().map(act));
        let results: Vec<Result<Done>> = acts.buffered(AT_A_TIME).collect().await;
        self.progress.clear();
        let several = results.len() > 1;
        let (mut done, mut failed) = (Vec::new(), None);
        for result in results {
            match result {
                Ok(one) => done.push(one),
                Err(failure) => {
                    failure.show();
                    failed.get_or_insert(failure.code());
                }
            }
        }
        if several || !done.is_empty() {
            self.report(&done)?;
        }
        failed.map_or(Ok(()), |code| Err(Failure::told(code)))
    }

    /// Whether somebody said how things are to be printed.
    pub(crate) fn has_format(&self) -> bool {
        self.format.is_some()
    }

    /// Prints changes: a sentence each when nothing else is said.
    pub(crate) fn report(&self, done: &[Done]) -> Result {
        match self.format {
            None if self.quiet => Ok(()),
            None => {
                let sentence = |done: &Done| format!("{} {} {}.\n", capital(done.kind), done.name, done.action);
                output::text(&done.iter().map(sentence).collect::<String>())
            }
            Some(format) => output::show(format, &done, || {
                let mut table = Table::new(["NAME", "KIND", "ACTION"]);
                for done in done {
                    table.row([Cell::from(&done.name), done.kind.into(), done.action.into()]);
                }
                table
            }),
        }
    }

    /// Prints what would be done.
    pub(crate) fn plan(&self, steps: &[PlanStep]) -> Result {
        if self.format.is_none() {
            if steps.is_empty() {
                return output::text("Nothing would be done.\n");
            }
            let line = |(number, step): (usize, &PlanStep)| match step.step.as_str() {
                CONSEQUENCE => format!("     {}\n", step.text),
                _ => format!("{:>3}. {}\n", number + 1, step.text),
            };
            return output::text(&steps.iter().enumerate().map(line).collect::<String>());
        }
        self.list(&steps, || {
            let mut table = Table::new(["#", "STEP", "WHAT IT DOES"]);
            for (number, step) in steps.iter().enumerate() {
                table.row([Cell::from(&(number + 1)), Cell::from(&step.step), Cell::from(&step.text)]);
            }
            table
        })
    }
}

fn capital(word: &str) -> String {
    let mut rest = word.chars();
    rest.next().map_or(String::new(), |first| first.to_uppercase().collect::<String>() + rest.as_str())
}

/// Keys of nested objects, joined by dots.
fn flatten(table: &mut Table, prefix: &str, value: &serde_json::Value) {
    use serde_json::Value;
    let below = |key: &str| if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| flatten(table, &below(key), value)),
        Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
            items.iter().enumerate().for_each(|(at, item)| flatten(table, &below(&at.to_string()), item));
        }
        Value::Array(items) => table.row([Cell::from(prefix), Cell::from(items.iter().map(plain).collect::<Vec<_>>())]),
        other => table.row([Cell::from(prefix), plain(other).into()]),
    }
}

fn plain(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_becomes_keys_and_values() {
        let mut table = Table::new(["KEY", "VALUE"]);
        flatten(&mut table, "", &json!({"a": {"b": 1}, "c": ["x", "y"], "d": [{"e": null}]}));
        assert_eq!(table.compact(), "KEY    VALUE\na.b    1\nc      x,y\nd.0.e\n");
    }
}
