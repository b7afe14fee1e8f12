//! Limits that guests meet, as events: told by the kernel, and passed on seldom enough that nobody is flooded.
//!
//! One descriptor for all guests wakes us when a count grew in a file of theirs (cgroup2: memory and processes; v1:
//! processes, before Linux 6.11). What no file tells of, like CPU time that was held back, is looked at when the guest is seen to wait
//! ([`super::need`]). Where something is to happen at a limit, each time is told that it is met while a daemon listens.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use engine::HostEvent;
use kernel::Errno;
use model::{Bites, Boot, Bounded, LimitActions};
use runtime::cgroup::Groups;
use rustix::fs::inotify::{self, CreateFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::channel;
use super::oom::OomWatch;

/// Between two events about the same thing of one guest. There are four limits and three things to wait for, so of a guest
/// at its worst the 10,000 events that are kept hold a day.
pub(super) const PAUSE: Duration = Duration::from_secs(60);

/// Between two looks, however much the kernel has to tell: a fork bomb changes a count a hundred times a second.
const REST: Duration = Duration::from_secs(1);

/// What is told of one count.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    told: u64,
    at: Option<Instant>,
}

impl Count {
    /// By how much it grew, when that is to be told now.
    fn due(&mut self, count: u64, now: Instant) -> Option<u64> {
        let grown = count.saturating_sub(self.told);
        if grown == 0 || self.at.is_some_and(|at| now.saturating_duration_since(at) < PAUSE) {
            return None;
        }
        *self = Count { told: count, at: Some(now) };
        Some(grown)
    }
}

/// What is known of one boot.
#[derive(Debug, Default)]
struct Met {
    counts: BTreeMap<&'static str, Count>,
    watches: Vec<i32>,
    actions: LimitActions,
    bites: Bites,
}

/// Whoever waits for limits to be met.
#[derive(Debug)]
pub(super) struct HitWatch {
    groups: Arc<Groups>,
    events: mpsc::Sender<HostEvent>,
    notices: AsyncFd<OwnedFd>,
    met: Mutex<BTreeMap<Boot, Met>>,
}

impl HitWatch {
    pub(super) fn start(groups: Arc<Groups>, events: mpsc::Sender<HostEvent>) -> Result<Arc<HitWatch>, Errno> {
        let notices = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let notices = channel::watch(notices, Interest::READABLE)?;
        let watch = Arc::new(HitWatch { groups, events, notices, met: Mutex::default() });
        tokio::spawn(watch.clone().run());
        Ok(watch)
    }

    fn met(&self) -> MutexGuard<'_, BTreeMap<Boot, Met>> {
        self.met.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on what a boot meets is told.
    pub(super) fn add(&self, boot: Boot) {
        if self.met().contains_key(&boot) {
            return;
        }
        let watches = self.groups.watch_hits(boot, self.notices.get_ref());
        // What it met before was somebody else's to tell.
        let before = self.groups.hits(boot).by_limit();
        let counts = before.into_iter().map(|(limit, told)| (limit, Count { told, at: None })).collect();
        // Somebody else may have added it meanwhile, and expect something of it: at a start all are added beside the first looks.
        self.met().entry(boot).or_insert(Met { counts, watches, ..Met::default() });
    }

    /// From now on it is told when a boot meets a limit at which something of ours is to happen.
    pub(super) fn expect(&self, boot: Boot, actions: LimitActions) {
        let bites = self.groups.bites(boot);
        self.add(boot);
        if let Some(met) = self.met().get_mut(&boot).filter(|met| met.actions != actions) {
            (met.actions, met.bites) = (actions, bites);
        }
    }

    pub(super) fn remove(&self, boot: Boot) {
        // The kernel drops its watches with the files.
        self.met().remove(&boot);
    }

    /// Tells what a boot met since it was last told.
    pub(super) fn look(&self, boot: Boot) {
        let (hits, now) = (self.groups.hits(boot), Instant::now());
        let mut met = self.met();
        let Some(of_boot) = met.get_mut(&boot) else { return };
        if of_boot.actions != LimitActions::default() {
            let bites = self.groups.bites(boot);
            let is_met = |bounded: &Bounded| {
                of_boot.actions.of(*bounded).is_ours() && bites.of(*bounded) > of_boot.bites.of(*bounded)
            };
            let tell = |bounded| self.events.try_send(HostEvent::Bitten(boot, bounded)).is_ok();
            // Where there is no room for all, they are told at the next look.
            if Bounded::ALL.into_iter().filter(is_met).all(tell) {
                of_boot.bites = bites;
            }
        }
        for (limit, count) in hits.by_limit() {
            if let Some(times) = of_boot.counts.entry(limit).or_default().due(count, now) {
                // Where there is no room for it the count itself is to be had.
                let _ = self.events.try_send(HostEvent::LimitMet { boot, limit, times });
            }
        }
    }

    async fn run(self: Arc<Self>) {
        while let Ok(mut ready) = self.notices.readable().await {
            let changed = changed(self.notices.get_ref());
            ready.clear_ready();
            let boots: Vec<Boot> = {
                let met = self.met();
                let is_changed = |met: &Met| met.watches.iter().any(|watch| changed.contains(watch));
                met.iter().filter(|(_, met)| is_changed(met)).map(|(boot, _)| *boot).collect()
            };
            boots.into_iter().for_each(|boot| self.look(boot));
            tokio::time::sleep(REST).await;
        }
    }
}

/// Whoever hears of what happens to limits: that memory ran out, and that others were met. Guests run without just as well.
#[derive(Debug)]
pub(super) struct Ears {
    oom: Option<Arc<OomWatch>>,
    pub(super) hits: Option<Arc<HitWatch>>,
}

impl Ears {
    pub(super) fn start(groups: &Arc<Groups>, events: &mpsc::Sender<HostEvent>) -> Ears {
        let deaf = |errno: &Errno| tracing::warn!(%errno, "limits that are met are not told");
        let hits = HitWatch::start(groups.clone(), events.clone()).inspect_err(deaf).ok();
        let oom = OomWatch::start(groups.clone(), hits.clone(), events.clone()).inspect_err(deaf).ok();
        Ears { oom, hits }
    }

    /// From now on what happens to a boot is told.
    pub(super) fn add(&self, boot: Boot) {
        self.oom.iter().for_each(|oom| oom.add(boot));
        self.hits.iter().for_each(|hits| hits.add(boot));
    }

    /// Its group is gone.
    pub(super) fn remove(&self, boot: Boot) {
        self.oom.iter().for_each(|oom| oom.remove(boot));
        self.hits.iter().for_each(|hits| hits.remove(boot));
    }
}

/// The numbers of the watches that something was told of.
fn changed(notices: &OwnedFd) -> BTreeSet<i32> {
    let mut buffer = [const { MaybeUninit::uninit() }; 4096];
    let mut reader = inotify::Reader::new(notices, &mut buffer);
    let mut watches = BTreeSet::new();
    while let Ok(event) = reader.next() {
        watches.insert(event.wd());
    }
    watches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_grows_all_the_time_is_told_once_a_minute_and_nothing_of_it_is_lost() {
        let (mut count, begun) = (Count { told: 5, at: None }, Instant::now());
        assert_eq!(count.due(5, begun), None, "it did not grow");
        let told: Vec<u64> =
            (1..=180).filter_map(|second| count.due(5 + second * 10, begun + Duration::from_secs(second))).collect();
        assert_eq!(told, [10, 600, 600]);
    }

    #[tokio::test]
    async fn who_is_expected_something_of_while_it_is_added_stays_so() {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let layout = runtime::cgroup::find_layout(&mounts).expect("control groups");
        let groups = Arc::new(Groups::new(&layout, &format!("sysctl-hits-{}", std::process::id())));
        let hits = HitWatch::start(groups, mpsc::channel(1).0).expect("inotify");
        let boots =
            |n: u64| Boot { id: model::InstanceId(uuid::Uuid::from_u64_pair(1, n)), generation: model::BootGen(1) };
        let actions = LimitActions { cpu: model::LimitAction::Freeze, ..LimitActions::default() };
        let lost = (0..2000).map(boots).filter(|boot| {
            std::thread::scope(|scope| {
                scope.spawn(|| hits.add(*boot));
                scope.spawn(|| hits.expect(*boot, actions));
            });
            hits.met()[boot].actions != actions
        });
        assert_eq!(lost.count(), 0);
    }
}
