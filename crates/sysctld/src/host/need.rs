//! What guests need whose limits follow the need, and what they wait for: heard from the kernel, never asked for.
//!
//! A guest that is listened to costs a descriptor for each resource and a task. Quiet is a deadline, and there is one only
//! while a level is above its least.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use engine::HostEvent;
use model::scale::{Need, Resource, Trigger, Watch};
use model::{Boot, Scarce};
use runtime::cgroup::{Error, Groups, Notice};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::channel;
use super::hits::{HitWatch, PAUSE};

/// The first pause before the use of a guest at its least is looked at, whose level is only advice.
const LOOK: Duration = Duration::from_secs(4);

/// The longest pause before that is said again of one who gave nothing back, doubled each time.
const LONGEST: Duration = Duration::from_secs(600);

/// The longest pause between looks at the use of a guest whose level is only advice, where the kernel does not tell of use.
const LONGEST_LOOK: Duration = Duration::from_secs(60);

/// All that is listened for.
#[derive(Debug)]
pub(super) struct Needs {
    groups: Arc<Groups>,
    hits: Option<Arc<HitWatch>>,
    events: mpsc::Sender<HostEvent>,
    watches: Mutex<BTreeMap<Boot, (Watch, JoinHandle<()>)>>,
}

impl Needs {
    pub(super) fn new(groups: Arc<Groups>, hits: Option<Arc<HitWatch>>, events: mpsc::Sender<HostEvent>) -> Needs {
        Needs { groups, hits, events, watches: Mutex::default() }
    }

    fn watches(&self) -> MutexGuard<'_, BTreeMap<Boot, (Watch, JoinHandle<()>)>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Descriptors by which the kernel tells.
    pub(super) fn descriptors(&self) -> usize {
        let of = |watch: &Watch| {
            let told = Scarce::ALL.into_iter().filter(|scarce| is_heard(watch, *scarce)).count();
            usize::from(watch.memory.is_some() && !self.looks(watch)) + usize::from(watch.cpu.is_some()) + told
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
        if let Some(hits) = &self.hits {
            hits.expect(boot, watch.actions);
        }
        let before = if watch == Watch::default() {
            watches.remove(&boot)
        } else {
            let (groups, events, looks) = (self.groups.clone(), self.events.clone(), self.looks(&watch));
            let needs = async move {
                let each = |resource| listen(&groups, boot, resource, watch, looks, &events);
                tokio::join!(each(Resource::Memory), each(Resource::Cpu))
            };
            let waits = tell(self.groups.clone(), boot, watch, self.hits.clone(), self.events.clone());
            watches.insert(boot, (watch, tokio::spawn(async move { _ = tokio::join!(needs, waits) })))
        };
        if let Some((_, task)) = before {
            task.abort();
        }
    }
}

/// Whether waits for something are listened to, to be told or as no file tells of what has a guest wait for it.
fn is_heard(watch: &Watch, scarce: Scarce) -> bool {
    watch.told.of(scarce) || scarce == Scarce::Cpu && watch.actions.cpu.is_ours()
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

/// Tells of waits that are events. The kernel speaks up to once in two seconds of each; we once in a while.
async fn tell(
    groups: Arc<Groups>,
    boot: Boot,
    watch: Watch,
    hits: Option<Arc<HitWatch>>,
    events: mpsc::Sender<HostEvent>,
) {
    let one = async |scarce: Scarce| {
        let heard = is_heard(&watch, scarce)
            .then(|| groups.pressed(boot, scarce, Trigger::MUCH))
            .and_then(|notice| Heard::new(notice, boot));
        let mut last: Option<Instant> = None;
        loop {
            Heard::next(heard.as_ref()).await;
            // Whoever waits may have met a limit that no file tells of.
            if let Some(hits) = &hits {
                hits.look(boot);
            }
            let is_due = watch.told.of(scarce) && last.is_none_or(|last| last.elapsed() >= PAUSE);
            if let Some(pressure) = groups.gauges(boot).pressure.filter(|_| is_due) {
                last = Some(Instant::now());
                let _ = events.send(HostEvent::Pressed { boot, scarce, stalls: pressure.of(scarce) }).await;
            }
        }
    };
    tokio::join!(one(Scarce::Cpu), one(Scarce::Io), one(Scarce::Memory));
}

/// Tells what is needed of one resource: more at once, less after some quiet.
async fn listen(
    groups: &Groups,
    boot: Boot,
    resource: Resource,
    watch: Watch,
    looks: bool,
    events: &mpsc::Sender<HostEvent>,
) {
    let Some(listen) = watch.of(resource) else { return };
    let (scarce, looks) = (resource.scarce(), looks && resource == Resource::Memory);
    let heard = match resource {
        _ if looks => None,
        Resource::Memory => Heard::new(groups.memory_need(boot, listen.level, listen.up), boot),
        Resource::Cpu => Heard::new(groups.pressed(boot, scarce, listen.up), boot),
    };
    let state = || {
        let gauges = groups.gauges(boot);
        let waited_us = gauges.pressure.map_or(0, |pressure| pressure.of(scarce).some.total_us);
        State { at: Instant::now(), cpu_ns: gauges.usage.cpu_ns, waited_us }
    };
    let is_beyond = || looks && groups.usage(boot).memory_bytes > listen.level;
    let cooldown = Duration::from_millis(watch.cooldown_ms);
    let from = tokio::time::Instant::now() + cooldown;
    let first = listen.down.map_or(LOOK, |down| Duration::from_millis(down.window_ms)).max(cooldown);
    let (ends, longest) = (listen.down.is_some() || looks, if looks { LONGEST_LOOK } else { LONGEST.max(first) });
    let (mut before, mut pause) = (state(), first);
    loop {
        let more = async {
            tokio::time::sleep_until(from).await;
            Heard::next(heard.as_ref()).await;
        };
        let quiet = async { if ends { tokio::time::sleep(pause).await } else { std::future::pending().await } };
        let is_quiet = tokio::select! {
            () = more => false,
            () = quiet => !is_beyond(),
        };
        let now = state();
        let waits = is_quiet && listen.down.is_some_and(|down| before.waited_until(&now) >= u64::from(down.hundredths));
        let need = if is_quiet { Need::Less { cpu: before.cpu_until(&now) } } else { Need::More };
        before = now;
        pause = if is_quiet && !waits { (pause * 2).min(longest) } else { first };
        if !waits && events.send(HostEvent::Need(boot, resource, need)).await.is_err() {
            return;
        }
    }
}

/// What a guest had done and waited for at some time.
#[derive(Debug, Clone, Copy)]
struct State {
    at: Instant,
    cpu_ns: u64,
    waited_us: u64,
}

impl State {
    /// Hundredths of one CPU that were used from here to a later time.
    fn cpu_until(&self, later: &State) -> u64 {
        later.cpu_ns.saturating_sub(self.cpu_ns).saturating_mul(100) / self.nanoseconds(later)
    }

    /// Hundredths of a percent of the time to a later one in which something was waited for.
    fn waited_until(&self, later: &State) -> u64 {
        later.waited_us.saturating_sub(self.waited_us).saturating_mul(10_000_000) / self.nanoseconds(later)
    }

    fn nanoseconds(&self, later: &State) -> u64 {
        (later.at - self.at).as_nanos().max(1) as u64
    }
}
