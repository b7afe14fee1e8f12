//! All automation of this project: `cargo xtask VERB`. No shell script stands beside it.
//!
//! It is built before anything else and on a machine that has nothing yet, so it needs hardly any crate, and none of ours.

mod apt;
mod bench;
mod down;
mod leftovers;
mod nft;
mod places;
mod process;
mod programs;
mod release;
mod results;
mod rings;
mod run;
mod say;
mod shares;
mod systemd;
mod test;
mod tidy;
mod traces;
mod up;
mod vm;
mod workspace;

use std::process::ExitCode;

use say::say;

/// What a verb ends with: nothing to add, or a sentence that says what went wrong and what to do.
pub(crate) type Result<T> = std::result::Result<T, String>;

/// One thing that `cargo xtask` does.
struct Verb {
    name: &'static str,
    arguments: &'static str,
    does: &'static str,
    run: fn(&[String]) -> Result<()>,
}

const VERBS: [Verb; 9] = [
    Verb {
        name: "up",
        arguments: "",
        does: "install what is missing, build, start the daemon and launch `web1`",
        run: up::run,
    },
    Verb {
        name: "down",
        arguments: "[--purge]",
        does: "stop the instances and end the daemon; with --purge leave nothing on this machine",
        run: down::run,
    },
    Verb {
        name: "test",
        arguments: "[--ring NAME] [--all]",
        does: "run every ring of tests that this machine can, or one; with --all as much of them as there is",
        run: test::run,
    },
    Verb {
        name: "tidy",
        arguments: "",
        does: "check what the compiler cannot: layers, tables, sizes, absences",
        run: tidy::run,
    },
    Verb {
        name: "attack",
        arguments: "[--all]",
        does: "the ring of attacks alone",
        run: |words| test::ring("attack", words),
    },
    Verb {
        name: "crash",
        arguments: "[--all]",
        does: "the crash tests, on the fake host and the real one; with --all every crash point",
        run: test::crash,
    },
    Verb {
        name: "bench",
        arguments: "[--rows 1a,3a] [--quick] [--json FILE]",
        does: "measure the product beside the bare limit, and Incus where it is installed",
        run: bench::run,
    },
    Verb {
        name: "vm",
        arguments: "[12|13] [--rebuild]",
        does: "boot a Debian machine with systemd and try the installed product in it",
        run: vm::run,
    },
    Verb {
        name: "release",
        arguments: "",
        does: "pack binaries, units and recipes, with checksums",
        run: release::run,
    },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((name, rest)) = arguments.split_first() else {
        return usage(ExitCode::from(2));
    };
    if matches!(name.as_str(), "help" | "--help" | "-h") {
        return usage(ExitCode::SUCCESS);
    }
    if name == "vm-inside" {
        return end(name, vm::inside::run());
    }
    let Some(verb) = VERBS.iter().find(|verb| verb.name == name) else {
        return usage(ExitCode::from(2));
    };
    end(name, (verb.run)(rest))
}

fn end(name: &str, outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            say::error(&format!("xtask {name}: {text}"));
            ExitCode::FAILURE
        }
    }
}

fn usage(code: ExitCode) -> ExitCode {
    say!("usage: cargo xtask VERB");
    for verb in &VERBS {
        say!("  {:<46}{}", format!("{} {}", verb.name, verb.arguments), verb.does);
    }
    code
}

/// Refuses words that a verb does not know, so that a slip is not silently ignored.
pub(crate) fn only(arguments: &[String], known: &[&str]) -> Result<()> {
    match arguments.iter().find(|word| !known.contains(&word.as_str())) {
        Some(word) if known.is_empty() => Err(format!("{word:?} is not known: this verb takes no words")),
        Some(word) => Err(format!("{word:?} is not known: possible is {}", known.join(", "))),
        None => Ok(()),
    }
}

/// Whoever does this must be root.
pub(crate) fn need_root(why: &str) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(format!("{why} needs root: run it by `sudo -E` or in a root shell"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_words_are_refused_by_name() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(only(&words("--purge"), &["--purge"]), Ok(()));
        assert!(
            only(&words("--purg"), &["--purge"]).is_err_and(|text| text.contains("--purg") && text.contains("--purge"))
        );
        assert!(only(&words("x"), &[]).is_err());
    }

    #[test]
    fn every_verb_has_a_name_of_its_own() {
        let mut names: Vec<&str> = VERBS.iter().map(|verb| verb.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), VERBS.len());
    }
}
