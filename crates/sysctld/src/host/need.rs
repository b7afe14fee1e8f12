//! What guests need whose limits follow the need: heard from the kernel, never asked for.
//!
//! A guest that is listened to costs a descriptor for each resource and a task. Quiet is a deadline, and there is one only
//! while a level is above its least.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use engine::HostEvent;
use model::Boot;
use model::scale::{Need, Resource, Watch};
use runtime::cgroup::{Error, Groups, Notice};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::channel;

/// How long a guest is quiet before less may do: two of the kernel's windows.
const QUIET: Duration = Duration::from_secs(4);

/// The longest pause before that is said again of one who gave nothing back, doubled each time.
const LONGEST: Duration = Duration::from_secs(600);

/// The longest pause between looks at the use of a guest whose level is only advice, where the kernel does not tell of use.
const LONGEST_LOOK: Duration = Duration::from_secs(60);

/// All that is listened for.
#[derive(Debug)]
pub(super) struct Needs {
    groups: Arc<Groups>,
    events: mpsc::Sender<HostEvent>,
    watches: Mutex<BTreeMap<Boot, (Watch, JoinHandle<()>)>>,
}

impl Needs {
    pub(super) fn new(groups: Arc<Groups>, events: mpsc::Sender<HostEvent>) -> Needs {
        Needs { groups, events, watches: Mutex::default() }
    }

    fn watches(&self) -> MutexGuard<'_, BTreeMap<Boot, (Watch, JoinHandle<()>)>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Descriptors by which the kernel tells.
    pub(super) fn descriptors(&self) -> usize {
        let of = |watch: &Watch| {
            usize::from(watch.memory.is_some() && !self.looks(watch)) + usize::from(watch.cpu.is_some())
        };
        self.watches().values().map(|(watch, _)| of(watch)).sum()
    }

    /// Whether use of memory is looked at: advice stands in nobody's way, so nobody waits at it.
    fn looks(&self, watch: &Watch) -> bool {
        watch.advised && watch.memory.is_some() && !self.groups.tells_of_use()
    }

    /// Listens for this from now on, and for nothing else.
    pub(super) fn watch(&self, boot: Boot, watch: Watch) {
        let mut watches = self.watches();
        if watches.get(&boot).map_or(Watch::default(), |(before, _)| *before) == watch {
            return;
        }
        let before = if watch == Watch::default() {
            watches.remove(&boot)
        } else {
            let task = listen(self.groups.clone(), boot, watch, self.looks(&watch), self.events.clone());
            watches.insert(boot, (watch, tokio::spawn(task)))
        };
        if let Some((_, task)) = before {
            task.abort();
        }
    }
}

/// A notice that the event loop watches.
struct Heard {
    fd: AsyncFd<OwnedFd>,
    interest: Interest,
}

impl Heard {
    fn new(notice: Result<Notice, Error>, boot: Boot) -> Option<Heard> {
        let (fd, interest) = match notice {
            Ok(Notice::Readable(fd)) => (fd, Interest::READABLE),
            Ok(Notice::Urgent(fd)) => (fd, Interest::PRIORITY),
            Err(error) => {
                tracing::warn!(%boot, %error, "a limit does not follow the need");
                return None;
            }
        };
        channel::watch(fd, interest).ok().map(|fd| Heard { fd, interest })
    }

    /// Waits for the kernel to speak.
    async fn next(heard: Option<&Heard>) {
        let Some(Heard { fd, interest }) = heard else { return std::future::pending().await };
        match fd.ready(*interest).await {
            Ok(mut ready) => {
                if *interest == Interest::READABLE {
                    let _ = rustix::io::read(fd.get_ref(), &mut [0u8; 8]);
                }
                ready.clear_ready();
            }
            Err(_) => std::future::pending().await,
        }
    }
}

async fn listen(groups: Arc<Groups>, boot: Boot, watch: Watch, looks: bool, events: mpsc::Sender<HostEvent>) {
    let heard = watch.memory.filter(|_| !looks);
    let memory = heard.and_then(|level| Heard::new(groups.memory_need(boot, level), boot));
    let cpu = watch.cpu.and_then(|_| Heard::new(groups.cpu_need(boot), boot));
    let used = || groups.usage(boot).cpu_ns;
    let is_beyond = || looks && watch.memory.is_some_and(|level| groups.usage(boot).memory_bytes > level);
    let (ends, longest) = (watch.quiet || looks, if looks { LONGEST_LOOK } else { LONGEST });
    let (mut since, mut before, mut pause) = (Instant::now(), used(), QUIET);
    loop {
        let quiet = async { if ends { tokio::time::sleep(pause).await } else { std::future::pending().await } };
        let (resource, need) = tokio::select! {
            () = Heard::next(memory.as_ref()) => (Resource::Memory, Need::More),
            () = Heard::next(cpu.as_ref()) => (Resource::Cpu, Need::More),
            () = quiet => if is_beyond() {
                (Resource::Memory, Need::More)
            } else {
                let elapsed_ns = since.elapsed().as_nanos().max(1) as u64;
                (Resource::Cpu, Need::Less { cpu: used().saturating_sub(before).saturating_mul(100) / elapsed_ns })
            },
        };
        pause = if need == Need::More { QUIET } else { (pause * 2).min(longest) };
        (since, before) = (Instant::now(), used());
        if events.send(HostEvent::Need(boot, resource, need)).await.is_err() {
            return;
        }
    }
}
