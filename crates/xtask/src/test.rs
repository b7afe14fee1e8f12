//! `cargo xtask test`: every ring that this machine can run, a line for each, and what it could not run said aloud.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::programs::DAEMON;
use crate::results::{self, Count};
use crate::rings::{self, Ring};
use crate::run::Ended;
use crate::say::{Progress, say};
use crate::shares::{self, Spent};
use crate::workspace::{self, Workspace, cargo};
use crate::{Result, apt, leftovers, programs, run, tidy, vm};

/// What one test program may take. Building images and thousands of faults take minutes on a slow machine.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// The same when everything is asked for.
const LIMIT_ALL: Duration = Duration::from_secs(8 * 3600);

/// Lines of a failed program that are shown; all are in its log.
const SHOWN: usize = 60;

/// How a ring went.
enum Outcome {
    Ran(Count),
    /// Why this machine cannot run it.
    Skipped(String),
}

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let (flags, words): (Vec<&String>, Vec<&String>) = arguments.iter().partition(|word| *word == ALL);
    let much = if flags.is_empty() { Much::OfCi } else { Much::All };
    match words.as_slice() {
        [] => all(&rings::ALL, much),
        [flag, name] if *flag == "--ring" => one(name, much),
        _ => Err("usage: cargo xtask test [--ring NAME] [--all]".to_owned()),
    }
}

/// One ring, by name and the words after it.
pub(crate) fn ring(name: &str, arguments: &[String]) -> Result<()> {
    crate::only(arguments, &[ALL])?;
    one(name, if arguments.is_empty() { Much::OfCi } else { Much::All })
}

/// Everything that tries crashes: the table of the fake host, and the real one.
pub(crate) fn crash(arguments: &[String]) -> Result<()> {
    crate::only(arguments, &[ALL])?;
    all(&[Ring::Fake, Ring::Crash], if arguments.is_empty() { Much::OfCi } else { Much::All })
}

/// The word that asks for everything.
const ALL: &str = "--all";

/// How much the tests do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Much {
    /// What fits into the shares of a run of all rings.
    OfCi,
    /// Hours of it: before a release.
    All,
}

/// Seconds that each parser is fed with noise: some twenty of them, two at a time, are one minute.
const FUZZ_S: u64 = 5;
const FUZZ_ALL_S: u64 = 120;

/// What the tests of parsers are called: each crate that has some keeps them in its `src/fuzz.rs`.
const FUZZ: &str = "fuzz::";

fn one(name: &str, much: Much) -> Result<()> {
    let ring = Ring::named(name).ok_or_else(|| {
        let names: Vec<&str> = rings::ALL.iter().map(|ring| ring.name()).collect();
        format!("there is no ring {name:?}: possible is {}", names.join(", "))
    })?;
    all(&[ring], much)
}

fn all(rings: &[Ring], much: Much) -> Result<()> {
    let mut session = Session::new(much)?;
    let mut sum = Count::default();
    let (mut skipped, mut spent) = (Vec::new(), Vec::new());
    let begin = Instant::now();
    for ring in rings {
        let begin = Instant::now();
        session.progress.now(&format!("{} …", ring.name()));
        let outcome = session.ring(*ring);
        session.progress.end();
        let (name, seconds) = (ring.name(), begin.elapsed().as_secs_f64());
        spent.push(Spent { ring: *ring, all: begin.elapsed(), building: std::mem::take(&mut session.building) });
        match outcome {
            Ok(Outcome::Ran(count)) => {
                let word = if count.failed == 0 { "ok" } else { "FAILED" };
                say!("{name:<12} {word:<8} {:>5} passed {:>4} failed {seconds:>8.1} s", count.passed, count.failed);
                sum += count;
            }
            Ok(Outcome::Skipped(reason)) => {
                say!("{name:<12} SKIPPED  {reason}");
                skipped.push(name);
            }
            Err(text) => {
                say!("{name:<12} FAILED   {text}");
                sum += Count::of(false);
            }
        }
    }
    say!("");
    if !skipped.is_empty() {
        say!("{} of {} rings were NOT run on this machine: {}", skipped.len(), rings.len(), skipped.join(", "));
    }
    session.tell_figures()?;
    shares::table(&spent).into_iter().for_each(|line| say!("{line}"));
    say!("");
    session.failed.iter().for_each(|line| say!("{line}"));
    say!("{} rings in {:.0} s", rings.len() - skipped.len(), begin.elapsed().as_secs_f64());
    say!("{} passed, {} failed", sum.passed, sum.failed);
    if sum.failed == 0 { Ok(()) } else { Err("there are failed tests; see above".to_owned()) }
}

/// What the rings of one run share: everything is built once.
struct Session {
    workspace: Workspace,
    programs: Option<Vec<Program>>,
    built: Option<Result<()>>,
    progress: Progress,
    much: Much,
    /// Time that the present ring spent on compiling.
    building: Duration,
    /// Lines in which tests say what they counted.
    figures: Vec<String>,
    /// Lines that tell which tests failed and why: said last, where they are looked for.
    failed: Vec<String>,
}

/// A compiled test program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    package: String,
    /// Name of the file in `tests/`; `None` for tests inside of a crate.
    target: Option<String>,
    pub(crate) executable: PathBuf,
    directory: PathBuf,
    /// As it is called in what we print.
    title: String,
}

impl Program {
    /// Whether it is the one of this package and this file in `tests/`.
    pub(crate) fn is(&self, (package, target): (&str, &str)) -> bool {
        self.package == package && self.target.as_deref() == Some(target)
    }
}

/// Compiles test programs: those that the words for cargo choose.
pub(crate) fn compiled(workspace: &Workspace, words: &[&str]) -> Result<Vec<Program>> {
    let mut command = cargo();
    command.current_dir(&workspace.root).args(["test", "--no-run", "--quiet"]).args(words);
    command.arg("--message-format=json-render-diagnostics");
    let (status, output, complaint) = run::all(&mut command)?;
    if status.success() {
        Ok(parse_programs(&output))
    } else {
        Err(format!("the tests do not compile\n{}", run::tail(&complaint, SHOWN)))
    }
}

impl Session {
    fn new(much: Much) -> Result<Session> {
        let (workspace, progress) = (workspace::load()?, Progress::new());
        Ok(Session {
            workspace,
            programs: None,
            built: None,
            progress,
            much,
            building: Duration::ZERO,
            figures: Vec::new(),
            failed: Vec::new(),
        })
    }

    fn ring(&mut self, ring: Ring) -> Result<Outcome> {
        if ring.needs_root() && !rustix::process::geteuid().is_root() {
            return Ok(Outcome::Skipped("it works on the real host as root: `sudo -E cargo xtask test`".to_owned()));
        }
        match ring {
            Ring::Fmt => return self.cargo("fmt", &["fmt", "--all", "--check"]),
            Ring::Clippy => {
                let words = ["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"];
                return self.cargo("clippy", &words);
            }
            Ring::Tidy => return Ok(Outcome::Ran(tidy::all(&self.workspace)?)),
            _ => {}
        }
        if ring != Ring::Vm && !self.programs()?.iter().any(|program| belongs(program, ring)) {
            return Ok(Outcome::Skipped("there is no test program for it in this tree".to_owned()));
        }
        if ring.needs_root() {
            self.progress.now(&format!("{}: Debian packages", ring.name()));
            apt::ensure(&[&apt::RUN, ring.packages()].concat())?;
        }
        if ring == Ring::Conformance {
            apt::ensure_stock_client()?;
        }
        // The inner rings try parts of the product, which cargo has built with them.
        let drives = |program: &Program| of(program) == ring && program.package == DAEMON;
        if ring == Ring::Vm || ring.needs_root() && self.programs()?.iter().any(drives) {
            self.product()?;
        }
        if ring == Ring::Vm {
            let programs = self.programs()?;
            return vm::ring(&self.workspace, &programs, &self.progress).map(|outcome| match outcome {
                vm::Outcome::Ran(count, figures) => {
                    self.figures.extend(figures.into_iter().map(|line| format!("vm: {line}")));
                    Outcome::Ran(count)
                }
                vm::Outcome::Skipped(reason) => Outcome::Skipped(reason),
            });
        }
        let mut count = Count::default();
        if ring == Ring::Unit {
            count += self.documentation()?;
        }
        let before = ring.needs_root().then(leftovers::orphans);
        let mut pids = BTreeSet::new();
        for program in self.programs()?.into_iter().filter(|program| belongs(program, ring)) {
            let (counted, pid) = self.program(ring, &program)?;
            self.progress.now(ring.name());
            count += counted;
            pids.insert(pid);
        }
        if let Some(before) = before {
            let left = leftovers::of(&pids, &before);
            left.iter().for_each(|trace| say!("  left behind by {}: {trace}", ring.name()));
            count += Count::of(left.is_empty());
        }
        Ok(Outcome::Ran(count))
    }

    /// A cargo command that is one check.
    fn cargo(&self, name: &str, words: &[&str]) -> Result<Outcome> {
        let log = self.workspace.own("logs").join(format!("{name}.log"));
        let (ended, _) = run::logged(cargo().current_dir(&self.workspace.root).args(words), &log, LIMIT)?;
        let good = matches!(ended, Ended::With(status) if status.success());
        if !good {
            self.progress.end();
            say!("{}", run::tail(&fs::read_to_string(&log).unwrap_or_default(), SHOWN));
        }
        Ok(Outcome::Ran(Count::of(good)))
    }

    /// Examples in documentation. Only crates with a library can have some.
    fn documentation(&self) -> Result<Count> {
        self.progress.now("unit: examples in the documentation");
        let mut command = cargo();
        command.current_dir(&self.workspace.root).args(["test", "--quiet", "--workspace", "--doc"]);
        let (status, output, complaint) = run::all(&mut command)?;
        if !status.success() {
            say!("{}\n{}", run::tail(&output, SHOWN), run::tail(&complaint, SHOWN));
        }
        let count = results::count(&output).unwrap_or_default();
        Ok(if status.success() || count.failed > 0 { count } else { Count::of(false) })
    }

    /// Runs one test program in its crate's directory, as cargo would.
    fn program(&mut self, ring: Ring, program: &Program) -> Result<(Count, u32)> {
        self.progress.now(&format!("{}: {}", ring.name(), program.title));
        let log = self.workspace.own("logs").join(format!("{}.log", program.title.replace([' ', '/'], "-")));
        let mut command = Command::new(&program.executable);
        command.current_dir(&program.directory).env("CARGO_MANIFEST_DIR", &program.directory);
        command.env("SYSCTL_BIN_DIR", self.workspace.release()).arg("--show-output");
        // The place of a panic is enough; a hundred lines of the runtime's frames hide what was said.
        command.env("RUST_BACKTRACE", "0");
        if self.much == Much::All {
            command.env("SYSCTL_TEST_ALL", "1");
        }
        if let Some(threads) = rings::at_once(&program.package, program.target.as_deref()) {
            command.env("RUST_TEST_THREADS", threads.to_string());
        }
        if ring == Ring::Fuzz {
            let seconds = if self.much == Much::All { FUZZ_ALL_S } else { FUZZ_S };
            command.arg(FUZZ).env("SYSCTL_FUZZ_SECONDS", seconds.to_string());
        }
        // A daemon that a test starts gets its directories from the test.
        command.env_remove("SYSCTL_STATE_DIR").env_remove("SYSCTL_RUNTIME_DIR").env_remove("SYSCTL_SOCKET");
        let limit = if self.much == Much::All { LIMIT_ALL } else { LIMIT };
        let (ended, pid) = run::logged(&mut command, &log, limit)?;
        let output = fs::read_to_string(&log).map_err(|e| format!("read {}: {e}", log.display()))?;
        self.figures.extend(results::figures(&output).into_iter().map(|line| format!("{}: {line}", program.title)));
        let counted = results::count(&output);
        let (good, how) = match &ended {
            Ended::With(status) => (status.success(), status.to_string()),
            Ended::TooLate => (false, format!("killed after {} s", limit.as_secs())),
        };
        let mut count = counted.unwrap_or_default();
        if good && counted.is_some() {
            return Ok((count, pid));
        }
        if count.failed == 0 {
            // It ended badly without telling of a test.
            count.failed = 1;
        }
        self.progress.end();
        say!("{}", run::tail(&output, SHOWN));
        self.failed.push(format!("  {} failed: {how}; all of it: {}", program.title, log.display()));
        self.failed.extend(results::failures(&output).into_iter().map(|name| format!("    {name}")));
        self.failed.extend(results::reasons(&output).into_iter().map(|reason| format!("      {reason}")));
        Ok((count, pid))
    }

    /// What the tests counted goes to a file, and the sum of what has one is said.
    fn tell_figures(&self) -> Result<()> {
        if self.figures.is_empty() {
            return Ok(());
        }
        let path = self.workspace.own("figures.txt");
        fs::write(&path, self.figures.join("\n") + "\n").map_err(|e| format!("write {}: {e}", path.display()))?;
        say!("{} figures in {}", self.figures.len(), path.display());
        if let Some((points, violations)) = results::crash_points(&self.figures) {
            say!("crash points {points}, violations {violations}");
        }
        Ok(())
    }

    /// All test programs, compiled once.
    fn programs(&mut self) -> Result<Vec<Program>> {
        if let Some(programs) = &self.programs {
            return Ok(programs.clone());
        }
        self.progress.now("building the tests");
        let begin = Instant::now();
        let programs = compiled(&self.workspace, &["--workspace", "--all-targets"]);
        self.building += begin.elapsed();
        let programs = programs?;
        self.programs = Some(programs.clone());
        Ok(programs)
    }

    /// The product, built once.
    fn product(&mut self) -> Result<()> {
        if self.built.is_none() {
            self.progress.now("building the product");
            let begin = Instant::now();
            self.built = Some(programs::build(&self.workspace, programs::Seen::Complaints));
            self.building += begin.elapsed();
        }
        self.built.clone().unwrap_or(Ok(()))
    }
}

/// Whether a program runs in a ring. Tests of parsers run twice: shortly with all others of their crate, and for long.
fn belongs(program: &Program, ring: Ring) -> bool {
    let feeds = || program.target.is_none() && program.directory.join("src/fuzz.rs").exists();
    if ring == Ring::Fuzz { feeds() } else { of(program) == ring }
}

fn of(program: &Program) -> Ring {
    rings::of(&program.package, program.target.as_deref())
}

/// Reads cargo's messages, one JSON object a line.
fn parse_programs(messages: &str) -> Vec<Program> {
    let mut programs: Vec<Program> =
        messages.lines().filter_map(|line| parse_program(&serde_json::from_str(line).ok()?)).collect();
    programs.sort_by(|a, b| a.title.cmp(&b.title));
    programs
}

fn parse_program(message: &Value) -> Option<Program> {
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let executable = PathBuf::from(message["executable"].as_str()?);
    let directory = PathBuf::from(message["manifest_path"].as_str()?).parent()?.to_owned();
    let package = directory.file_name()?.to_str()?.to_owned();
    let (kind, name) = (message["target"]["kind"][0].as_str()?, message["target"]["name"].as_str()?);
    let target = (kind == "test").then(|| name.to_owned());
    let title = format!("{package} {}", if kind == "lib" { "itself" } else { name });
    Some(Program { package, target, executable, directory, title })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_read_from_cargos_messages() {
        let line = |kind: &str, name: &str, test: bool| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/r/crates/engine/Cargo.toml","target":{{"kind":["{kind}"],"name":"{name}"}},"profile":{{"test":{test}}},"executable":"/t/{name}"}}"#
            )
        };
        let messages =
            [line("test", "crash", true), line("lib", "engine", true), line("bin", "x", false), "noise".into()]
                .join("\n");
        let programs = parse_programs(&messages);
        let found: Vec<_> = programs.iter().map(|p| (p.title.as_str(), p.target.as_deref(), of(p))).collect();
        assert_eq!(found, [("engine crash", Some("crash"), Ring::Fake), ("engine itself", None, Ring::Unit)]);
    }
}
