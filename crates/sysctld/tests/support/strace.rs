//! strace(1): which calls a process makes, and a death or an error at one of them, without help from its source.
//!
//! It counts per thread: "the third `mkdir`" is that of the first thread that comes to its third.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Calls by which the daemon changes something, or tells somebody to.
pub const CHANGING: &str = "openat,mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat,rmdir,sendmsg,pwrite64,\
                            fsync,fdatasync,ftruncate,write,syncfs,fchownat,chmod,fchmod,utimensat,socket,bind";

/// How often it is looked whether strace has ended, 5 ms apart, before it is killed.
const PATIENT_LOOKS: usize = 400;

/// What is done at a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injection {
    pub call: String,
    /// Which of them, from 1.
    pub when: usize,
    /// `signal=KILL` or `error=ENOSPC`.
    pub what: String,
}

impl std::fmt::Display for Injection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "-e inject={}:{}:when={}", self.call, self.what, self.when)
    }
}

impl Injection {
    /// The words that have strace do it.
    pub fn words(&self) -> [String; 4] {
        let inject = format!("inject={}:{}:when={}", self.call, self.what, self.when);
        ["-e".into(), format!("trace={}", self.call), "-e".into(), inject]
    }
}

/// An strace that is attached.
pub struct Tracer {
    child: Child,
    log: PathBuf,
}

impl Tracer {
    /// Attaches to processes and what they start from now on; returns once all of their threads are traced.
    pub fn attach(pids: &[u32], words: &[String], log: &Path) -> Tracer {
        let mut command = Command::new("strace");
        command.args(["-f", "-q", "-y", "-o"]).arg(log).args(words);
        for pid in pids {
            command.arg("-p").arg(pid.to_string());
        }
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("strace");
        let tracer = Tracer { child, log: log.to_owned() };
        testkit::eventually("strace to attach", || pids.iter().all(|pid| tracer.has(*pid)).then_some(()));
        tracer
    }

    /// All threads of a process are traced, by us. One that has ended meanwhile cannot be, and need not.
    fn has(&self, pid: u32) -> bool {
        let line = format!("TracerPid:\t{}\n", self.child.id());
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let mut statuses = threads.map(|thread| std::fs::read_to_string(thread.path().join("status")));
        statuses.all(|status| status.map_or(true, |text| text.contains(&line) || text.contains("\nState:\tZ")))
    }

    /// Lets go of everything; what was logged. When all that it traced is dead it ends by itself, and should not be told to:
    /// it may wait for the first thread before it has taken leave of the others, for ever. Then it is killed.
    pub fn detach(mut self, is_dead: bool) -> String {
        if !is_dead && self.child.try_wait().expect("wait for strace").is_none() {
            super::signal(self.child.id(), rustix::process::Signal::TERM);
        }
        let mut looks = 0;
        testkit::eventually("strace to end", || {
            looks += 1;
            if looks > PATIENT_LOOKS {
                self.child.kill().expect("kill strace");
            }
            self.child.try_wait().expect("wait for strace")
        });
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // Whatever it still has goes on without it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How often each changing call was made by the thread that made most of it, from a log of strace: the points there are. What a
/// thread does once it has become a guest's program is the guest's (where `execveat` was logged, too; our own programs are exec'd by descriptor).
pub fn points(log: &str) -> Vec<(String, usize)> {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut found: Vec<(String, usize)> = Vec::new();
    let mut guests = BTreeSet::new();
    for line in log.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Some((call, arguments)) = rest.trim_start().split_once('(') else { continue };
        if call == "execveat" {
            if arguments.starts_with("AT_FDCWD") {
                guests.insert(thread);
            }
            continue;
        }
        if guests.contains(thread) {
            continue;
        }
        if call.is_empty() || !call.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            continue;
        }
        let count = counts.entry((thread, call)).or_default();
        *count += 1;
        let point = (call.to_owned(), *count);
        if changes(call, arguments) && !found.contains(&point) {
            found.push(point);
        }
    }
    found.sort();
    found
}

/// Not a look, and neither a line of the daemon's log nor a wake-up of another thread.
fn changes(call: &str, arguments: &str) -> bool {
    match call {
        "openat" => ["O_WRONLY", "O_RDWR", "O_CREAT"].iter().any(|flag| arguments.contains(flag)),
        "write" => {
            let path = arguments.split_once('<').map_or("", |(_, rest)| rest);
            path.starts_with('/') && !path.contains("/log>")
        }
        _ => true,
    }
}
