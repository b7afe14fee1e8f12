//! Guests that do nothing, and those that are held still for it: when they are called.
//!
//! No event tells of what does not happen, so rest is a deadline: one look at three counters when it has passed. A call is an
//! event: a frame on the host's end of a link, or somebody's request.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ::network::wake;
use engine::HostEvent;
use model::{Boot, Mac, Rest};
use runtime::protocol::{KeepEvent, KeepRequest, Nothing};
use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::boots::Boots;
use super::channel;

/// Of the time that is looked at, a guest at rest uses one part in so many of a CPU at most: what timers of a full system take
/// is a tenth of that.
const USED_PART: u128 = 100;

/// All that is listened for.
#[derive(Debug)]
pub(super) struct Rests {
    events: mpsc::Sender<HostEvent>,
    watches: Mutex<BTreeMap<Boot, Watched>>,
    /// What hears of calls of guests that a former daemon put to sleep, until they are watched.
    inherited: Mutex<BTreeMap<Boot, Vec<OwnedFd>>>,
}

/// What is listened for about a boot; no longer than it is kept.
#[derive(Debug)]
struct Watched {
    rest: Rest,
    task: JoinHandle<()>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a guest did until now.
#[derive(Debug, Clone, Copy)]
struct Deeds {
    cpu_ns: u64,
    frames: u64,
    at: Instant,
}

impl Rests {
    pub(super) fn new(events: mpsc::Sender<HostEvent>) -> Rests {
        Rests { events, watches: Mutex::default(), inherited: Mutex::default() }
    }

    fn watches(&self) -> MutexGuard<'_, BTreeMap<Boot, Watched>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens for this from now on, and for nothing else. What a guest is called by is listened to when this returns.
    pub(super) fn watch(&self, boots: &Arc<Boots>, boot: Boot, rest: Rest) {
        let mut watches = self.watches();
        if watches.get(&boot).map_or(Rest::Unwatched, |before| before.rest) == rest {
            return;
        }
        let slept = watches.get(&boot).is_some_and(|before| before.rest == Rest::Asleep);
        if slept && rest != Rest::Asleep {
            let boots = boots.clone();
            tokio::spawn(async move { boots.hold(boot, &[]).await });
        }
        let task = match rest {
            Rest::Unwatched => {
                watches.remove(&boot);
                return;
            }
            Rest::After(ms) => {
                tokio::spawn(until_idle(boots.clone(), boot, Duration::from_millis(ms), self.events.clone()))
            }
            Rest::Asleep => {
                let inherited = self.inherited.lock().unwrap_or_else(PoisonError::into_inner).remove(&boot);
                let sockets = match inherited {
                    Some(sockets) => {
                        sockets.into_iter().filter_map(|s| channel::watch(s, Interest::READABLE).ok()).collect()
                    }
                    None => {
                        let callees = boots.callees(boot).into_iter();
                        callees.filter_map(|(link, mac)| socket(&link, mac)).collect()
                    }
                };
                tokio::spawn(until_called(boots.clone(), sockets, boot, self.events.clone()))
            }
        };
        watches.insert(boot, Watched { rest, task });
    }

    /// Its group is gone.
    pub(super) fn forget(&self, boot: Boot) {
        self.watches().remove(&boot);
    }

    /// Somebody wants something of a guest: it is told if that sleeps.
    pub(super) fn call(&self, boot: Boot, by: &'static str) {
        if self.watches().get(&boot).is_some_and(|watched| watched.rest == Rest::Asleep) {
            // When there is no room for it something else is told, which makes the engine look.
            let _ = self.events.try_send(HostEvent::Called(boot, by));
        }
    }

    /// Descriptors by which calls are heard, at most.
    pub(super) fn descriptors(&self, boots: &Boots) -> usize {
        let watches = self.watches();
        let asleep = watches.iter().filter(|(_, watched)| watched.rest == Rest::Asleep);
        asleep.map(|(boot, _)| boots.callees(*boot).len()).sum()
    }
}

fn socket(link: &str, mac: Mac) -> Option<AsyncFd<OwnedFd>> {
    let index = std::fs::read_to_string(format!("/sys/class/net/{link}/ifindex")).ok()?.trim().parse().ok()?;
    let socket = wake::calls(index, mac);
    let socket = socket.inspect_err(|error| tracing::warn!(link, %error, "calls are not heard")).ok()?;
    channel::watch(socket, Interest::READABLE).ok()
}

impl Boots {
    /// Has a boot's keeper hold what hears of calls, so that they are heard while there is no daemon.
    async fn hold(&self, boot: Boot, sockets: &[BorrowedFd<'_>]) {
        let Ok(keeper) = self.running(boot) else { return };
        if let Err(error) = keeper.ask(&KeepRequest::Hold(Nothing {}), sockets).await {
            tracing::debug!(%boot, %error, "the next daemon will wake it");
        }
    }

    /// Whether a boot that a former daemon put to sleep is still held still, and heard no call since then.
    pub(super) async fn sleeps_on(&self, boot: Boot) -> bool {
        let Ok(keeper) = self.running(boot) else { return false };
        if self.groups.is_frozen(boot).ok() != Some(true) || self.sessions(boot) > 0 {
            return false;
        }
        let Ok((KeepEvent::Done(_), held)) = keeper.ask(&KeepRequest::Held(Nothing {}), &[]).await else {
            return false;
        };
        if held.len() != self.callees(boot).len() || held.iter().any(was_called) {
            return false;
        }
        self.rests.inherited.lock().unwrap_or_else(PoisonError::into_inner).insert(boot, held);
        true
    }
}

/// Something can be read there, or cannot be read any more.
fn was_called(socket: &OwnedFd) -> bool {
    let mut look = [PollFd::new(socket, PollFlags::IN)];
    rustix::event::poll(&mut look, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) != Ok(0)
}

async fn until_called(boots: Arc<Boots>, sockets: Vec<AsyncFd<OwnedFd>>, boot: Boot, events: mpsc::Sender<HostEvent>) {
    let held: Vec<BorrowedFd<'_>> = sockets.iter().map(|socket| socket.get_ref().as_fd()).collect();
    boots.hold(boot, &held).await;
    let mut waits: Vec<_> = sockets.iter().map(|socket| Box::pin(socket.readable())).collect();
    // Whichever is first.
    std::future::poll_fn(|context| {
        let ready = waits.iter_mut().any(|wait| wait.as_mut().poll(context).is_ready());
        if ready { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    let _ = events.send(HostEvent::Called(boot, "a frame")).await;
}

async fn until_idle(boots: Arc<Boots>, boot: Boot, time: Duration, events: mpsc::Sender<HostEvent>) {
    let mut before = deeds(&boots, boot);
    loop {
        tokio::time::sleep(time).await;
        let now = deeds(&boots, boot);
        let used = u128::from(now.cpu_ns.saturating_sub(before.cpu_ns));
        let rests = used * USED_PART <= (now.at - before.at).as_nanos() && now.frames == before.frames;
        before = now;
        if rests && boots.sessions(boot) == 0 && events.send(HostEvent::Idle(boot)).await.is_err() {
            return;
        }
    }
}

fn deeds(boots: &Boots, boot: Boot) -> Deeds {
    let sent = |link: &str| {
        let text = std::fs::read_to_string(format!("/sys/class/net/{link}/statistics/rx_packets")).unwrap_or_default();
        text.trim().parse::<u64>().unwrap_or(0)
    };
    let frames = boots.callees(boot).iter().map(|(link, _)| sent(link)).sum();
    Deeds { cpu_ns: boots.groups.usage(boot).cpu_ns, frames, at: Instant::now() }
}
