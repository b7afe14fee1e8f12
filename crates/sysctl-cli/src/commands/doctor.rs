//! `doctor`.

use std::fmt::Write;

use clap::Args as Words;
use sysctl_api::{DoctorReport, Finding};

use crate::context::Context;
use crate::failure::{Attempt, FAILED, Result};
use crate::output::{self, Cell, Format, Table, escape};

/// Words of `doctor`.
#[derive(Debug, Words)]
#[command(after_help = "Exits with 0 only when nothing is orphaned, half-made or missing.")]
pub(crate) struct Args {
    /// Put right what can be
    #[arg(long)]
    repair: bool,
}

pub(crate) async fn run(cx: &Context, args: Args) -> Result<u8> {
    let report = match args.repair {
        true => cx.client.repair().await.attempt(|| "repair".into())?,
        false => cx.client.get_doctor().await.attempt(|| "look at the host".into())?,
    };
    match cx.format {
        None => output::text(&about(&report))?,
        Some(Format::Json | Format::Yaml) => cx.object(&report)?,
        Some(_) => cx.list(&report.findings, || table(&report.findings))?,
    }
    Ok(if report.findings.is_empty() { 0 } else { FAILED })
}

fn table(findings: &[Finding]) -> Table {
    let mut table = Table::new(["KIND", "OBJECT", "WHAT", "WHAT TO DO"]);
    for finding in findings {
        table.row([&finding.kind, &finding.object, &finding.text, &finding.fix].map(Cell::from));
    }
    table
}

/// So many of a kind, in words: its name is one noun or some words that end with one.
fn counted(number: &str, kind: &str) -> String {
    match (number, kind) {
        ("1", _) => format!("1 {kind}"),
        _ if kind.ends_with('s') => format!("{number} {kind}es"),
        _ => format!("{number} {kind}s"),
    }
}

/// A report for people.
fn about(report: &DoctorReport) -> String {
    let mut text = String::new();
    let mut say = |line: std::fmt::Arguments<'_>| {
        let written = writeln!(text, "{}", escape::inline(&line.to_string()));
        debug_assert!(written.is_ok(), "strings take everything");
    };
    let checks: Vec<String> = report.checks.iter().map(|check| counted(&check.object, &check.kind)).collect();
    say(format_args!("Looked at: {}", checks.join(", ")));
    for Finding { kind, object, text, fix } in &report.findings {
        say(format_args!("WRONG  {kind} {object}: {text}"));
        if !fix.is_empty() {
            say(format_args!("       {fix}"));
        }
    }
    for note in &report.notes {
        say(format_args!("note   {}", note.text));
        if !note.fix.is_empty() {
            say(format_args!("       {}", note.fix));
        }
    }
    match report.findings.len() {
        0 => say(format_args!("All is well: nothing is orphaned, half-made or missing.")),
        count => say(format_args!("{count} wrong. sysctl-cli doctor --repair puts right what can be.")),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(kind: &str, object: &str, text: &str, fix: &str) -> Finding {
        let [kind, object, text, fix] = [kind, object, text, fix].map(str::to_owned);
        Finding { kind, object, text, fix }
    }

    #[test]
    fn a_report_tells_what_was_looked_at_what_is_wrong_and_what_to_do() {
        let checks = [("control group", "3"), ("image", "1"), ("process", "12")];
        let checks = checks.iter().map(|(kind, number)| finding(kind, number, "", "")).collect();
        let mut report = DoctorReport { checks, ..DoctorReport::default() };
        let begin = "Looked at: 3 control groups, 1 image, 12 processes\nAll is well";
        assert!(about(&report).starts_with(begin), "{}", about(&report));
        report.findings.push(finding("cgroup", "x.1", "belongs to nobody", "repair removes it"));
        report.notes.push(finding("host", "", "few inotify watches", "sysctl -w …"));
        let text = about(&report);
        assert!(text.contains("WRONG  cgroup x.1: belongs to nobody\n       repair removes it\n"), "{text}");
        assert!(text.contains("note   few inotify watches\n") && text.contains("1 wrong."), "{text}");
    }
}
