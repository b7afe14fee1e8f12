//! Every step, every verb and every public function that changes something is in the crash table.

use super::{File, code};

pub(crate) const STEPS: &str = "crates/model/src/step.rs";
pub(crate) const VERBS: &str = "crates/engine/src/verbs.rs";
pub(crate) const CRASH: &str = "crates/engine/tests/crash/";
pub(crate) const ENGINE: &str = "crates/engine/src/";

/// Public asynchronous functions of the engine that change no wish: they wait, read, or end what no loop goes on with (streams).
const WISHLESS: [&str; 9] =
    ["cancelled", "diagnose", "finish_streams", "flush", "looked", "past_events", "rest", "settle", "wait"];

/// Steps that no host is ever asked for: the engine itself turns them into others.
const RESOLVED: [&str; 1] = ["EnsureImage"];

/// All files of a folder as one text.
pub(crate) fn folder(files: &[File], path: &str) -> String {
    files
        .iter()
        .filter(|file| file.path.starts_with(path))
        .map(|file| file.text.as_str())
        .collect::<Vec<_>>()
        .join("\n")
}

/// A public function that changes something, and may do so step by step, is asynchronous: no other can reach host or database.
/// It has a row when the crash tests call it.
pub(crate) fn check_functions(engine: &str, crash: &str) -> Vec<String> {
    let (engine, crash) = (code::only(engine), code::only(crash));
    let name = |line: &str| {
        let rest = line.trim_start().strip_prefix("pub async fn ")?;
        Some(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>())
    };
    let functions: Vec<String> = engine.lines().filter_map(name).collect();
    let mut wrong = Vec::new();
    if functions.is_empty() {
        wrong.push(format!(
            "{ENGINE} has no public function any more: tell crates/xtask/src/tidy/tables.rs where it went"
        ));
    }
    for function in functions.iter().filter(|name| !WISHLESS.contains(&name.as_str())) {
        let called = ["engine.", "Engine::"].map(|of| format!("{of}{function}("));
        if !called.iter().any(|call| crash.contains(call)) {
            wrong.push(format!(
                "{CRASH}: no row calls {function} (add a row to ROWS that does, or name it in WISHLESS of crates/xtask/src/tidy/tables.rs when it changes no wish)"
            ));
        }
    }
    wrong
}

/// A step has a row when its name is in the table `STEPS` of the crash tests, whose run fails when a name in it is not hit;
/// a verb when a row asks for it.
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
        .skip_while(|line| !line.contains("const STEPS"))
        .take_while(|line| !line.contains("];"))
        .collect::<Vec<_>>()
        .join("\n");
    for step in steps.iter().filter(|step| !RESOLVED.contains(&step.as_str())) {
        let name = snake(step);
        if !rows.contains(&format!("\"{name}\"")) {
            wrong.push(format!(
                "{CRASH}: the step {step} is in no row (add \"{name}\" to STEPS, and a row that does it)"
            ));
        }
    }
    for verb in &verbs {
        if code::lines_with(&code, &format!("Verb::{verb}")).is_empty() {
            wrong.push(format!("{CRASH}: the verb {verb} is in no row (add a row that asks for Verb::{verb})"));
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
    fn a_function_that_no_row_calls_is_found() {
        let engine = "impl Engine {\n    pub async fn ask(&self) {}\n    pub fn list(&self) {}\n    pub async fn rest(&self) {}\n    // pub async fn no()\n    pub async fn start() {}\n}";
        assert_eq!(check_functions(engine, "self.engine.ask(x); Engine::start(y)"), [""; 0]);
        let wrong = check_functions(engine, "// engine.ask(x)\nEngine::start(y)");
        assert!(wrong.len() == 1 && wrong[0].contains("calls ask"), "{wrong:?}");
        assert_eq!(check_functions("", "").len(), 1);
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
