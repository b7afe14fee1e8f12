//! The loop around the packet socket.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernel::Errno;
use rustix::net::netdevice::index_to_name;
use rustix::net::{RecvFlags, recv};
use tokio::io::unix::AsyncFd;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::respond::{self, Limits, Question, Response};
use super::state::{Shared, count};
use super::{EVENTS, forward, send};
use crate::filter::LONGEST_FRAME;
use crate::ra;

/// Frames that are read in one go before other tasks get their turn.
const FRAMES_AT_ONCE: usize = 64;

/// How often to look whether a bridge that went down is gone: only then, as the kernel tells that it went down but not
/// that it went for good.
const LOOK: Duration = Duration::from_secs(1);

/// Answers frames until the bridge is gone.
pub(super) async fn run(socket: AsyncFd<OwnedFd>, bridge: u32, shared: Arc<Shared>) {
    let socket = Arc::new(socket);
    let mut limits = Limits::new();
    let mut buffer = vec![0; LONGEST_FRAME];
    // Bounded by the slots for questions.
    let mut questions = JoinSet::new();
    let mut went_down = false;
    let mut advertising = interval(Duration::from_secs(ra::INTERVAL_S));
    advertising.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            ready = socket.ready(EVENTS) => {
                let Ok(mut ready) = ready else { return };
                for _ in 0..FRAMES_AT_ONCE {
                    let received = ready.try_io(|socket| {
                        recv(socket.get_ref(), buffer.as_mut_slice(), RecvFlags::empty()).map_err(Into::into)
                    });
                    let length = match received {
                        Ok(Ok((_, length))) => length,
                        Ok(Err(error)) if is(&error, Errno::INTR) => continue,
                        Ok(Err(error)) if is(&error, Errno::NETDOWN) => {
                            went_down = true;
                            continue;
                        }
                        Ok(Err(_)) => return,
                        Err(_would_block) => break,
                    };
                    went_down = false;
                    let frame = buffer.get(..length).unwrap_or_default();
                    match respond::respond(&shared, &mut limits, frame, Instant::now()) {
                        // Lost when it cannot be sent now, as on any wire; who asked asks again.
                        Response::Frame(frame) => _ = send(&socket, bridge, &frame),
                        Response::Ask(question) => {
                            count(&shared.counts.forwarded);
                            questions.spawn(ask(Arc::clone(&socket), bridge, Arc::clone(&shared), question));
                        }
                        Response::Nothing => {}
                    }
                }
            }
            Some(_) = questions.join_next() => {}
            () = sleep(LOOK), if went_down => {
                if index_to_name(socket.get_ref(), bridge).is_err() {
                    return;
                }
            }
            _ = advertising.tick() => {
                if let Some(frame) = respond::router(&shared).and_then(|router| ra::unsolicited(&router)) {
                    _ = send(&socket, bridge, &frame);
                }
            }
        }
    }
}

fn is(error: &std::io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

async fn ask(socket: Arc<AsyncFd<OwnedFd>>, bridge: u32, shared: Arc<Shared>, question: Question) {
    let answer = forward::resolve(&question.pending, &shared.upstreams()).await;
    if let Some(frame) = question.frame(&answer) {
        _ = send(&socket, bridge, &frame);
    }
}
