//! Every step and every verb is in the crash table.

use super::code;

pub(crate) const STEPS: &str = "crates/model/src/step.rs";
pub(crate) const VERBS: &str = "crates/engine/src/verbs.rs";
pub(crate) const CRASH: &str = "crates/engine/tests/crash.rs";

/// Steps that no host is ever asked for: the engine itself turns them into others.
const RESOLVED: [&str; 1] = ["EnsureImage"];

/// A step has a row when its name is in the table `STEPS` of the crash tests, whose run fails when a name in it is not hit;
/// a verb when a case asks for it.
pub(crate) fn check(steps: &str, verbs: &str, crash: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let code = code::only(crash);
    let (steps, verbs) = (variants(steps, "Step"), variants(verbs, "Verb"));
    for (variants, what, path) in [(&steps, "Step", STEPS), (&verbs, "Verb", VERBS)] {
        if variants.is_empty() {
            wrong.push(format!(
                "{path} has no enum {what} any more: tell crates/xtask/src/tidy/tables.rs where it went"
            ));
        }
    }
    // A commented row is none: the lines of the table that are code, with their strings.
    let kept = crash.lines().zip(code.lines()).filter(|(_, code)| !code.trim().is_empty()).map(|(line, _)| line);
    let rows: String = kept
        .skip_while(|line| !line.trim_start().starts_with("const STEPS"))
        .take_while(|line| !line.contains("];"))
        .collect::<Vec<_>>()
        .join("\n");
    for step in steps.iter().filter(|step| !RESOLVED.contains(&step.as_str())) {
        let name = snake(step);
        if !rows.contains(&format!("\"{name}\"")) {
            wrong.push(format!(
                "{CRASH}: the step {step} is in no row (add \"{name}\" to STEPS, and a case that does it)"
            ));
        }
    }
    for verb in &verbs {
        if code::lines_with(&code, &format!("Verb::{verb}")).is_empty() {
            wrong.push(format!("{CRASH}: the verb {verb} is in no row (add a case that asks for Verb::{verb})"));
        }
    }
    wrong
}

/// Names of the variants of a public enum.
fn variants(source: &str, name: &str) -> Vec<String> {
    let code = code::only(source);
    let start = format!("pub enum {name} {{");
    let Some(at) = code.find(&start) else { return Vec::new() };
    let (mut depth, mut found) = (0, Vec::new());
    for line in code[at + start.len()..].lines() {
        let text = line.trim();
        let word: String = text.chars().take_while(|c| c.is_alphanumeric()).collect();
        if depth == 0 && word.starts_with(|c: char| c.is_ascii_uppercase()) {
            found.push(word);
        }
        let count = |open: char| text.chars().filter(|c| *c == open).count() as i32;
        depth += count('{') + count('(') - count('}') - count(')');
        if depth < 0 {
            break;
        }
    }
    found
}

/// `AttachNic` as `attach_nic`.
fn snake(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: &str = "/// Doc.\npub enum Step {\n    /// One { two }.\n    CreateRoot {\n        Fake: u8,\n    },\n    Start { boot: Boot },\n    Halt(u8),\n}\npub enum Other {\n    No,\n}\n";
    const VERB: &str = "pub enum Verb {\n    Start,\n    Stop(StopKind),\n}\n";

    #[test]
    fn variants_are_read() {
        assert_eq!(variants(STEP, "Step"), ["CreateRoot", "Start", "Halt"]);
        assert_eq!(variants(VERB, "Verb"), ["Start", "Stop"]);
        assert_eq!(variants(VERB, "Step"), [""; 0]);
        assert_eq!(snake("AttachNic"), "attach_nic");
    }

    #[test]
    fn a_step_or_verb_without_a_row_is_found() {
        let crash = "const STEPS: [&str; 3] = [\n    \"create_root\",\n    \"start\",\n    \"halt\",\n];\nask(Verb::Start); ask(Verb::Stop(x))";
        assert_eq!(check(STEP, VERB, crash), [""; 0]);
        let without = crash.replace("    \"halt\",\n", "    // \"halt\",\n").replace("Verb::Stop(", "Verb::Stopped(");
        let wrong = check(STEP, VERB, &without);
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert!(wrong[0].contains("Halt") && wrong[1].contains("Stop"));
        assert_eq!(check("", "", "").len(), 2);
    }
}
