//! `cargo xtask bench`: our daemon through its API, Incus where it is installed, and a bare limit that does the same kernel
//! work, one after the other in one run, so that their ratios mean something on a noisy machine.
//!
//! A crate of its own as `xtask` is built before anything else and must stay small; `xtask bench` builds this one and the
//! product as a release and runs `bench`. Of our crates it knows `kernel` only (for `bench-bare`): the daemons are driven
//! by one plain client of its own, that the measured difference is theirs.
//!
//! ```text
//! bench        drives, measures, prints, cleans up
//! bench-bare   the limit: what the kernel takes (see there)
//! bench-init   /sbin/init of the measured busybox guests: tells when it began
//! ```

mod balloon;
mod bare;
mod boots;
mod daemons;
mod figures;
mod http;
mod images;
mod limits;
mod lists;
mod memory;
mod picture;
mod rows;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// What goes wrong, in words.
pub(crate) type Result<T> = std::result::Result<T, String>;

/// Says what was tried when it failed.
pub(crate) fn act<E: std::fmt::Display>(what: &str) -> impl Fn(E) -> String {
    let what = what.to_owned();
    move |error| format!("{what}: {error}")
}

/// The monotonic clock in milliseconds.
pub(crate) fn now_ms() -> f64 {
    clock_ms(ClockId::Monotonic)
}

fn clock_ms(clock: ClockId) -> f64 {
    let now = clock_gettime(clock);
    now.tv_sec as f64 * 1e3 + now.tv_nsec as f64 / 1e6
}

/// A program beside this one.
pub(crate) fn programs(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().map_err(act("our own program"))?;
    let directory = std::env::var_os("BENCH_BIN_DIR").filter(|_| !name.starts_with("bench-"));
    let path = directory.map_or_else(|| own.with_file_name(name), |directory| Path::new(&directory).join(name));
    if path.exists() { Ok(path) } else { Err(format!("{} is missing: run `cargo xtask bench`", path.display())) }
}

/// When an init wrote that it began, by our monotonic clock in milliseconds; waits until that is after `begun`. A guest's own
/// monotonic clock begins with it: what it writes is the time of day, which nobody has a namespace of.
pub(crate) fn until_stamp(path: &Path, begun: f64) -> Result<f64> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let ahead = clock_ms(ClockId::Realtime) - now_ms();
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        match text.strip_suffix('\n').and_then(|text| text.parse::<f64>().ok()).map(|ns| ns / 1e6 - ahead) {
            Some(stamp) if stamp >= begun => return Ok(stamp),
            _ if Instant::now() > deadline => return Err(format!("no new stamp in {}", path.display())),
            _ => std::thread::sleep(Duration::from_micros(200)),
        }
    }
}

/// The words of the command line.
#[derive(Debug)]
pub(crate) struct Options {
    rows: Vec<String>,
    json: Option<PathBuf>,
    /// Fewer samples and smaller numbers of instances.
    pub(crate) quick: bool,
    cache: PathBuf,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Options> {
        let mut options = Options { rows: Vec::new(), json: None, quick: false, cache: "target/xtask/bench".into() };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().cloned().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--quick" => options.quick = true,
                "--json" => options.json = Some(value()?.into()),
                "--cache" => options.cache = value()?.into(),
                "--rows" => options.rows = value()?.split(',').map(str::to_owned).collect(),
                _ => return Err(format!("{word:?} is not known: possible is --rows, --json, --quick")),
            }
        }
        let known = |row: &String| figures::ROWS.iter().any(|(name, ..)| name == row);
        match options.rows.iter().find(|row| !known(row)) {
            Some(row) => Err(format!("there is no row {row:?}")),
            None => Ok(options),
        }
    }

    /// Whether one of these rows is asked for.
    pub(crate) fn wants(&self, rows: &[&str]) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|row| rows.contains(&row.as_str()))
    }
}

/// A line for whoever watches.
pub(crate) fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "bench: {text}");
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match Options::parse(&arguments).and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            tell(&text);
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err("it needs root".into());
    }
    let scratch = Scratch::new()?;
    let mut figures = figures::Figures::new(options.quick);
    if options.quick {
        figures.notes.push("--quick: rows about 1,000 instances or 50 guests have fewer and are not judged".into());
    }
    let outcome = rows::all(options, &scratch.0, &options.cache, &mut figures);
    let mut out = std::io::stdout().lock();
    let _ = write!(out, "{}", figures.table());
    if let Some(path) = &options.json {
        std::fs::write(path, format!("{:#}\n", figures.json())).map_err(act("write the figures"))?;
    }
    outcome
}

/// A directory on a real disk that is removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch> {
        let path = PathBuf::from(format!("/var/tmp/sysctl-bench-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(act("make a scratch directory"))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tell(&format!("remove {}: {error}", self.0.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_command_line_are_checked() {
        let parse = |text: &str| Options::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        let options = parse("--rows 1a,3a --quick --json /x").expect("good words");
        assert!(options.quick && options.wants(&["1a"]) && !options.wants(&["1b", "2a"]));
        assert!(parse("").expect("no words").wants(&["11"]));
        for bad in ["--rows", "--rows 99", "--fast"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
