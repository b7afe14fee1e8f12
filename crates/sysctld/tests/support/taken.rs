//! What processes take of the host, and whether that grows with what is done.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::Daemon;

/// Descriptors of what has just ended and is put away within seconds: three programs with four each.
pub const LINGERING: u64 = 12;

/// What one process takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    pub fds: u64,
    pub threads: u64,
    /// Of its own: pages of files that it maps are the kernel's to drop.
    pub anonymous_kb: u64,
}

impl Taken {
    pub fn of(pid: u32) -> Taken {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |list| list.count() as u64);
        let threads = field(&read("status"), "Threads:");
        Taken { fds, threads, anonymous_kb: field(&read("smaps_rollup"), "Anonymous:") }
    }
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// The parent of a process.
pub fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    u32::try_from(field(&status, "PPid:")).ok().filter(|parent| *parent > 1)
}

/// The daemon's spawn process.
pub fn spawn(runtime: &Path) -> u32 {
    let socket = runtime.join("spawn.socket").display().to_string();
    let pids = fs::read_dir("/proc").expect("/proc").flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    let is_it = |pid: &u32| {
        let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ");
        words.contains(" spawn ") && words.contains(&socket)
    };
    pids.into_iter().find(is_it).expect("a spawn process")
}

/// Points of one measurement: how often something was done by then, and what each process took.
pub struct Course {
    pids: BTreeMap<&'static str, u32>,
    points: Vec<(f64, BTreeMap<&'static str, Taken>)>,
}

impl Course {
    /// Of the daemon, its spawn process, and the keeper of a guest that runs all the time.
    pub async fn of(daemon: &Daemon, guest: &str) -> Course {
        let keeper = parent(daemon.init_pid(guest).await).expect("a keeper");
        let pids = [("daemon", daemon.pid()), ("spawn", spawn(&daemon.runtime_dir())), ("keeper", keeper)].into();
        Course { pids, points: Vec::new() }
    }

    pub fn note(&mut self, done: usize) {
        let taken = self.pids.iter().map(|(name, pid)| (*name, Taken::of(*pid))).collect();
        self.points.push((done as f64, taken));
    }

    /// Growth for each time: the slope of the line that fits the points best.
    fn slope(&self, name: &str, value: impl Fn(&Taken) -> u64) -> f64 {
        let points: Vec<(f64, f64)> = self.points.iter().map(|(x, taken)| (*x, value(&taken[name]) as f64)).collect();
        let n = points.len() as f64;
        let (mx, my) = (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
        let (above, below) = points
            .iter()
            .fold((0.0, 0.0), |(above, below), (x, y)| (above + (x - mx) * (y - my), below + (x - mx) * (x - mx)));
        above / below
    }

    /// What grows, as process and resource; prints the slopes. `noise_kb`: what an allocator may hold more or less at any time.
    pub fn growing(&self, what: &str, noise_kb: f64) -> BTreeSet<(&'static str, &'static str)> {
        let times = self.points.last().expect("points").0 - self.points[0].0;
        let mut words = Vec::new();
        let mut growing = BTreeSet::new();
        for name in self.pids.keys() {
            let (fds, threads) = (self.slope(name, |t| t.fds), self.slope(name, |t| t.threads));
            let memory = self.slope(name, |t| t.anonymous_kb);
            words.push(format!("{name} {fds:+.4} fd {threads:+.4} thread {memory:+.3} KB"));
            // What is being put away comes and goes, and so does a thread of the pool for what blocks.
            let grown = [
                ("fd", fds * times > LINGERING as f64),
                ("thread", threads * times > 4.0),
                ("memory", memory * times > noise_kb + times * 0.05),
            ];
            growing.extend(grown.iter().filter(|(_, grown)| *grown).map(|(resource, _)| (*name, *resource)));
        }
        eprintln!("figure: {what}, {times:.0} times, growth each: {}", words.join("; "));
        growing
    }

    pub fn points(&self) -> &impl std::fmt::Debug {
        &self.points
    }
}
