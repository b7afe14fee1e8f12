//! lxcfs(1), by which guests see their limits in `/proc`: one for each daemon, kept alive for as long as that is on this host.
//!
//! ```text
//! <runtime>/lxcfs           locked by the one that runs; "1 <pid> <start>"
//! <runtime>/lxcfs.renewed   the same words, once every guest that runs has its files
//! ```
//!
//! Guests outlive it: files of a dead one answer ENOTCONN until guests are given those of the next, which is started at once. A
//! guest that is made meanwhile sees the host's numbers until then.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use engine::StepError;
use kernel::Errno;
use model::{InstanceId, Namespaces};
use runtime::launch::root::{is_first, open_process};
use runtime::launch::view::{LxcfsOrder, RenewOrder, View};
use runtime::order::Done;
use rustix::process::{Signal, pidfd_send_signal};
use tokio::io::Interest;
use tokio::sync::watch;
use tokio::time::Instant;

use super::boots::Boots;
use super::channel;
use super::spawn::Spawn;
use super::{launch, order, words};

/// Where packages put it.
const PROGRAM: &str = "/usr/bin/lxcfs";

/// Longest wait of a launch for the first one of a daemon that has just begun: a hundred times what its start takes.
const FIRST: Duration = Duration::from_secs(2);

/// Pause before one is started that lived for less than [`STABLE`]: each time twice as long.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(300));
const STABLE: Duration = Duration::from_secs(60);

/// How long a killed one may take to die: a thousand times what it takes.
const DEATH: Duration = Duration::from_secs(3);

/// How often the note of one that runs is read while that one is about to write it, and how soon again.
const LOOKS: (u32, Duration) = (50, Duration::from_millis(20));

/// The program, where this host has it and what it needs; tests put another path into `SYSCTL_LXCFS`.
pub(super) fn program() -> Option<PathBuf> {
    let program = std::env::var_os("SYSCTL_LXCFS").map_or_else(|| PathBuf::from(PROGRAM), PathBuf::from);
    (program.is_file() && Path::new("/dev/fuse").exists()).then_some(program)
}

/// Whether a process is lxcfs, and no longer the helper that becomes it.
fn has_begun(view: &View) -> bool {
    std::fs::read(format!("/proc/{}/cmdline", view.pid)).is_ok_and(|words| words.starts_with(b"lxcfs\0"))
}

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    /// Nobody has looked yet.
    Begun,
    Runs(View),
    /// It does not run, and is started again in a while.
    Away,
}

/// The lxcfs of this daemon.
#[derive(Debug)]
pub(super) struct Lxcfs {
    /// `None` where the host has none.
    program: Option<PathBuf>,
    note: PathBuf,
    scratch: PathBuf,
    spawn: Arc<Spawn>,
    stage: watch::Sender<Stage>,
    is_over: AtomicBool,
    /// Held while one is started: an end waits for that.
    starting: tokio::sync::Mutex<()>,
}

impl Lxcfs {
    pub(super) fn new(runtime_dir: &Path, spawn: Arc<Spawn>) -> Lxcfs {
        Lxcfs {
            program: program(),
            note: runtime_dir.join("lxcfs"),
            scratch: runtime_dir.join("mnt"),
            spawn,
            stage: watch::Sender::new(Stage::Begun),
            is_over: AtomicBool::new(false),
            starting: tokio::sync::Mutex::default(),
        }
    }

    /// The one whose files a guest is to have, for its launcher: nobody's where there is none at the moment, and `None` where
    /// there never will be. It knows guests by their first process: who lives among others' processes would see their limits.
    pub(super) async fn view(&self, namespaces: &Namespaces) -> Option<View> {
        self.program.as_ref().filter(|_| namespaces.is_first())?;
        let mut stage = self.stage.subscribe();
        let begun = stage.wait_for(|stage| *stage != Stage::Begun);
        // Its sender lives as long as we.
        let _ = tokio::time::timeout(FIRST, begun).await;
        Some(self.now().unwrap_or_default())
    }

    /// The one that runs.
    pub(super) fn now(&self) -> Option<View> {
        match &*self.stage.borrow() {
            Stage::Runs(view) => Some(view.clone()),
            Stage::Begun | Stage::Away => None,
        }
    }

    /// What is in the command line of each that this daemon has started.
    pub(super) fn mark(&self) -> String {
        format!("{}.pid", self.note.display())
    }

    /// There is none, and there should be.
    pub(super) fn is_away(&self) -> bool {
        *self.stage.borrow() == Stage::Away
    }

    /// Keeps one alive.
    pub(super) async fn keep_alive(self: Arc<Self>, boots: Arc<Boots>) {
        let mut pause = PAUSE.0;
        while self.program.is_some() {
            let begun = Instant::now();
            let starting = self.starting.lock().await;
            if self.is_over.load(Ordering::Acquire) {
                return;
            }
            let ensured = self.ensure().await;
            drop(starting);
            match ensured {
                Ok((view, process)) => {
                    self.stage.send_replace(Stage::Runs(view.clone()));
                    self.renew_all(&boots, &view).await;
                    self.wait_for_end(process).await;
                    self.stage.send_replace(Stage::Away);
                    if !self.is_over.load(Ordering::Acquire) {
                        tracing::warn!(
                            pid = view.pid,
                            "lxcfs has died: guests cannot read its files until the next one runs"
                        );
                    }
                }
                Err(error) => {
                    self.stage.send_replace(Stage::Away);
                    tracing::error!(%error, "lxcfs cannot be started now: guests see the host's numbers in /proc");
                    for (_, pid, start) in boots.guests() {
                        self.renew(None, pid, start).await;
                    }
                }
            }
            if begun.elapsed() > STABLE {
                pause = PAUSE.0;
                continue;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// The one that a former daemon left, or a new one; and a descriptor that tells of its end.
    async fn ensure(&self) -> Result<(View, OwnedFd), StepError> {
        for _ in 0..LOOKS.0 {
            if let Some(view) = self.noted().filter(has_begun)
                && let Ok(process) = open_process(view.pid, view.start)
            {
                return Ok((view, process));
            }
            let text = |path: &Path| path.display().to_string();
            let program = self.program.as_deref().map(text).unwrap_or_default();
            let order = LxcfsOrder { program, note: text(&self.note), scratch: text(&self.scratch) };
            match order::answer(&self.spawn, "lxcfs", &order).await? {
                // It has become lxcfs, or is dead.
                Ok(None) => match self.noted().map(|view| (open_process(view.pid, view.start), view)) {
                    Some((Ok(process), view)) => return Ok((view, process)),
                    _ => return Err(engine::step_error("lxcfs", "it ended as soon as it had begun")),
                },
                // Another one is about to begin: that of a helper which a dead daemon asked for.
                Ok(Some(Done { failure: Some(failure), .. })) if failure.errno() == Errno::AGAIN => {
                    tokio::time::sleep(LOOKS.1).await;
                }
                Ok(Some(Done { failure: Some(failure), .. })) => return Err(words::of("lxcfs", &failure)),
                Ok(Some(_)) => return Err(engine::step_error("lxcfs", "the helper answers what it was not asked")),
                Err(errno) => return Err(words::failed("lxcfs", "hear", "the helper", errno)),
            }
        }
        let text = format!("{} is locked, and does not tell by which process", self.note.display());
        Err(engine::step_error("lxcfs", text))
    }

    fn noted(&self) -> Option<View> {
        let text = std::fs::read_to_string(&self.note).ok()?;
        let mut words = text.split_whitespace();
        let (version, pid, start) = (words.next()?, words.next()?, words.next()?);
        (version == "1").then_some(View { pid: pid.parse().ok()?, start: start.parse().ok()? })
    }

    async fn wait_for_end(&self, process: OwnedFd) {
        match channel::watch(process, Interest::READABLE) {
            Ok(process) => drop(process.readable().await),
            Err(errno) => {
                tracing::error!(%errno, "lxcfs cannot be watched");
                std::future::pending::<()>().await;
            }
        }
    }

    /// Gives every guest that runs the files of this one, unless they have them already.
    async fn renew_all(&self, boots: &Boots, view: &View) {
        let (path, words) = (self.note.with_extension("renewed"), format!("1 {} {}\n", view.pid, view.start));
        let renewed = std::fs::read_to_string(&path).ok();
        if renewed.as_ref() == Some(&words) {
            return;
        }
        // Without it nobody had any: guests of a release before this one stay as they were made.
        if renewed.is_some() {
            let guests = boots.guests();
            let count = guests.len();
            for (_, pid, start) in guests {
                self.renew(Some(view), pid, start).await;
            }
            tracing::info!(pid = view.pid, count, "guests that run have the files of another lxcfs");
        }
        // Half of the words are as good as none.
        if let Err(error) = std::fs::write(&path, words) {
            tracing::warn!(%error, path = %path.display(), "cannot be written: the next daemon renews once more");
        }
    }

    async fn renew(&self, view: Option<&View>, pid: u32, start: u64) {
        if !is_first(pid) {
            return;
        }
        let order = RenewOrder { view: view.cloned(), pid, start };
        // A guest that ends meanwhile has nothing to renew.
        if let Err(error) = order::give(&self.spawn, "renew", "renew", &order).await
            && launch::is_same_process(pid, start)
        {
            tracing::warn!(pid, %error, "the guest was not given lxcfs' files");
        }
    }

    /// Another one runs than the one that a guest was made with. Where none does, the next one renews all who run.
    pub(super) fn is_newer_than(&self, made_with: &View) -> bool {
        self.now().is_some_and(|now| now != *made_with)
    }

    /// Gives a guest the files of the one that runs.
    pub(super) async fn follow_up(&self, boots: &Boots, id: InstanceId) {
        let guest = boots.guests().into_iter().find(|(of, ..)| *of == id);
        if let (Some(view), Some((_, pid, start))) = (self.now(), guest) {
            self.renew(Some(&view), pid, start).await;
        }
    }

    /// Ends it for good: there is no guest any more.
    pub(super) async fn end(&self) {
        self.is_over.store(true, Ordering::Release);
        let _starting = self.starting.lock().await;
        let Some(view) = self.noted() else { return };
        let Ok(process) = open_process(view.pid, view.start) else { return };
        if pidfd_send_signal(&process, Signal::KILL).is_ok() {
            let _ = tokio::time::timeout(DEATH, self.wait_for_end(process)).await;
        }
    }
}
