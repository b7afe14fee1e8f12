//! One keeper, as the daemon sees it: its guest's state, its answers, its sessions.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use engine::{HostEvent, StepError};
use kernel::Errno;
use model::{Boot, End, GuestSeen};
use network::netlink::Socket;
use runtime::protocol::{Failure, KeepEvent, KeepRequest, Nothing, Status, end, phase};
use tokio::sync::{mpsc, oneshot, watch};

use super::channel::Channel;
use super::session::KeptSession;
use super::words;

/// What is known of a keeper's guest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct State {
    pub(crate) phase: u8,
    pub(crate) pid: u32,
    /// The keeper's own pid.
    pub(crate) keeper: u32,
    /// The file that the keeper's program was copied from; empty for a release that does not tell.
    pub(crate) program: String,
    pub(crate) end: u8,
    pub(crate) code: i32,
    pub(crate) failure: Option<Failure>,
    /// The keeper took the guest over from another one.
    pub(crate) adopted: bool,
    /// The keeper is gone.
    pub(crate) lost: bool,
}

impl State {
    /// The guest as `plan` sees it.
    pub(crate) fn guest(&self) -> GuestSeen {
        match self.phase {
            phase::PREPARING | phase::READY => GuestSeen::Prepared { pid: self.pid },
            phase::RUNNING => GuestSeen::Running { pid: self.pid },
            phase::ENDED => GuestSeen::Ended(end_of(self.end, self.code)),
            _ => GuestSeen::Absent,
        }
    }
}

/// SIGHUP and SIGINT are how the kernel ends the init of a pid namespace that asked for a reboot or a halt (reboot(2)).
pub(crate) fn end_of(end: u8, code: i32) -> End {
    match (end, code) {
        (end::SIGNAL, 1) => End::Reboot,
        (end::SIGNAL, 2) => End::Halt,
        (end::SIGNAL, signal) => End::Signal(signal),
        (end::EXIT, code) => End::Exit(code),
        _ => End::Unknown,
    }
}

type Answer = (KeepEvent, Vec<OwnedFd>);

/// A guest's network namespace and a netlink socket in it.
#[derive(Debug)]
pub(crate) struct GuestNetwork {
    pub(crate) namespace: OwnedFd,
    pub(crate) socket: Socket,
}

#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) boot: Boot,
    channel: Channel,
    sequence: AtomicU32,
    next_session: AtomicU32,
    waiting: Mutex<HashMap<u32, oneshot::Sender<Answer>>>,
    state: watch::Sender<State>,
    sessions: Mutex<HashMap<u32, Arc<KeptSession>>>,
    /// Sessions that went with the keeper before their end was known.
    lost_sessions: AtomicUsize,
    network: Mutex<Option<GuestNetwork>>,
    console_log: PathBuf,
    events: mpsc::Sender<HostEvent>,
    /// Why answers were lost.
    broken: Mutex<Option<Errno>>,
}

impl Keeper {
    /// Takes up the conversation on a connected socket. The keeper tells its status first.
    pub(crate) fn attach(
        boot: Boot,
        socket: OwnedFd,
        console_log: PathBuf,
        events: mpsc::Sender<HostEvent>,
    ) -> kernel::Result<Arc<Keeper>> {
        let keeper = Arc::new(Keeper {
            boot,
            channel: Channel::new(socket)?,
            sequence: AtomicU32::new(1),
            next_session: AtomicU32::new(1),
            waiting: Mutex::default(),
            state: watch::channel(State::default()).0,
            sessions: Mutex::default(),
            lost_sessions: AtomicUsize::new(0),
            network: Mutex::default(),
            console_log,
            events: events.clone(),
            broken: Mutex::default(),
        });
        tokio::spawn(read(keeper.clone(), events));
        Ok(keeper)
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u32, oneshot::Sender<Answer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<u32, Arc<KeptSession>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest's state now.
    pub(crate) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Waits until the state is as wanted; the state then. Ends when the keeper is lost, too.
    pub(crate) async fn wait(&self, mut wanted: impl FnMut(&State) -> bool) -> State {
        let mut watcher = self.state.subscribe();
        match watcher.wait_for(|state| state.lost || wanted(state)).await {
            Ok(state) => state.clone(),
            Err(_) => State { lost: true, ..State::default() },
        }
    }

    /// Asks and waits for the answer; a refusal is an error.
    pub(crate) async fn ask(&self, request: &KeepRequest, fds: &[BorrowedFd<'_>]) -> Result<Answer, StepError> {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.waiting().insert(sequence, sender);
        let lost = |errno| words::failed("keeper", "ask the keeper of", &self.boot.to_string(), errno);
        if let Err(errno) = self.channel.send(sequence, request, fds).await {
            self.waiting().remove(&sequence);
            return Err(lost(errno));
        }
        match answer.await {
            Ok((KeepEvent::Failed(failure), _)) => Err(words::of("keeper", &failure)),
            Ok(answer) => Ok(answer),
            Err(_) => Err(lost(self.why_lost())),
        }
    }

    /// Has it go on in another program. Nothing is lost, neither by that nor by a program that cannot.
    pub(crate) async fn replace(&self, program: &OwnedFd) -> Result<(), StepError> {
        self.ask(&KeepRequest::Replace(Nothing {}), &[program.as_fd()]).await.map(drop)
    }

    /// Tells something that has no answer. Lost when the keeper is.
    pub(crate) async fn tell(&self, request: &KeepRequest) {
        let _ = self.channel.send(0, request, &[]).await;
    }

    /// Somebody speaks to the guest, which may sleep.
    pub(crate) fn called(&self, by: &'static str) {
        // When there is no room for it, what else is told has the engine look.
        let _ = self.events.try_send(HostEvent::Called(self.boot, by));
    }

    /// A number for a new session.
    pub(crate) fn new_session(&self) -> u32 {
        self.next_session.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn add_session(&self, session: Arc<KeptSession>) {
        self.sessions().insert(session.number(), session);
    }

    /// How many sessions somebody follows, the console among them.
    pub(crate) fn session_count(&self) -> usize {
        self.sessions().len()
    }

    /// How many of them are processes that somebody runs from outside: all but the console.
    pub(crate) fn process_count(&self) -> usize {
        self.sessions().keys().filter(|number| **number != 0).count()
    }

    pub(crate) fn forget_session(&self, number: u32) {
        self.sessions().remove(&number);
    }

    /// Takes up a session that a former daemon began: its label, and its streams. `None` when it is gone.
    pub(crate) async fn inherit(self: &Arc<Self>, number: u32) -> Option<(Vec<u8>, Arc<KeptSession>)> {
        // Known before the news of it come.
        let session = KeptSession::new(self.clone(), number);
        self.add_session(session.clone());
        let request = KeepRequest::Attach(runtime::protocol::Session { session: number });
        match self.ask(&request, &[]).await {
            Ok((KeepEvent::SessionStarted(state), rings)) => {
                session.take_up(&state, rings);
                Some((state.label.0, session))
            }
            other => {
                tracing::warn!(boot = %self.boot, session = number, ?other, "a session cannot be gone on with");
                self.forget_session(number);
                None
            }
        }
    }

    /// Sessions that went with it before their end was known.
    pub(crate) fn lost_sessions(&self) -> usize {
        self.lost_sessions.load(Ordering::Relaxed)
    }

    /// The console, followed into its log from now on.
    pub(crate) fn console(self: &Arc<Self>) -> Arc<KeptSession> {
        let mut sessions = self.sessions();
        if let Some(session) = sessions.get(&0) {
            return session.clone();
        }
        let session = KeptSession::console(self.clone());
        sessions.insert(0, session.clone());
        tokio::spawn(super::console::follow(self.clone(), session.clone(), self.console_log.clone()));
        session
    }

    /// The guest's network, asked for again where a former daemon had it.
    pub(crate) async fn network(&self) -> Result<MutexGuard<'_, Option<GuestNetwork>>, StepError> {
        if self.locked_network().is_none() {
            self.ask(&KeepRequest::Sockets(Nothing {}), &[]).await?;
        }
        Ok(self.locked_network())
    }

    /// The same as it is known now.
    pub(super) fn locked_network(&self) -> MutexGuard<'_, Option<GuestNetwork>> {
        self.network.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_network(&self, fds: Vec<OwnedFd>) {
        let mut fds = fds.into_iter();
        if let (Some(namespace), Some(socket)) = (fds.next(), fds.next())
            && let Ok(socket) = Socket::from_fd(socket)
        {
            *self.locked_network() = Some(GuestNetwork { namespace, socket });
        }
    }

    /// Lets go of the guest's network, so that it can go away.
    pub(crate) fn drop_network(&self) {
        *self.locked_network() = None;
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        self.state.send_modify(change);
    }

    fn take_status(&self, status: &Status) {
        let newest = status.sessions.iter().map(|s| s.session).max().unwrap_or(0);
        self.next_session.fetch_max(newest + 1, Ordering::Relaxed);
        self.update(|state| {
            state.phase = status.phase;
            state.pid = status.pid;
            state.keeper = status.keeper;
            state.program.clone_from(&status.program);
            state.end = status.end;
            state.code = status.code;
            state.adopted = status.adopted;
            state.failure.clone_from(&status.failure);
        });
        for session in &status.sessions {
            if let Some(known) = self.sessions().get(&session.session) {
                known.take_state(session);
            }
        }
    }

    /// One message of the keeper.
    fn take(self: &Arc<Self>, sequence: u32, event: KeepEvent, fds: Vec<OwnedFd>, events: &mpsc::Sender<HostEvent>) {
        match &event {
            KeepEvent::Status(status) => self.take_status(status),
            KeepEvent::Prepared(prepared) => {
                self.update(|state| {
                    state.phase = state.phase.max(phase::PREPARING);
                    state.pid = prepared.pid;
                });
                self.set_network(fds);
                self.answer(sequence, event, Vec::new());
                return;
            }
            KeepEvent::Ready(_) => self.update(|state| state.phase = phase::READY),
            KeepEvent::Started(_) => self.update(|state| state.phase = phase::RUNNING),
            // Of a request that was only told, like input for a process that has ended.
            KeepEvent::Failed(_) if sequence == 0 => return,
            KeepEvent::Failed(failure) if !self.waiting().contains_key(&sequence) => self.update(|state| {
                state.phase = phase::EMPTY;
                state.failure = Some(failure.clone());
            }),
            KeepEvent::Ended(status) => {
                self.drop_network();
                self.take_status(status);
                let _ = events.try_send(HostEvent::Changed(self.boot.id));
            }
            KeepEvent::Output(output) => {
                let known = self.sessions().get(&output.session).cloned();
                match known {
                    Some(session) => session.take_output(output),
                    // The first output of a console makes us follow it.
                    None if output.session == 0 && output.head > 0 => drop(self.console()),
                    None => {}
                }
                return;
            }
            KeepEvent::Taken(taken) => {
                if let Some(session) = self.sessions().get(&taken.session) {
                    session.take_taken(taken);
                }
                return;
            }
            KeepEvent::SessionEnded(state) => {
                if let Some(session) = self.sessions().get(&state.session) {
                    session.take_state(state);
                }
                return;
            }
            KeepEvent::SessionStarted(_) | KeepEvent::Failed(_) | KeepEvent::Done(_) => {}
        }
        self.answer(sequence, event, fds);
    }

    /// No answer comes for whoever waits for one.
    fn lose_answers(&self, errno: Errno) {
        *self.broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(errno);
        self.waiting().clear();
    }

    fn why_lost(&self) -> Errno {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(Errno::CONNRESET)
    }

    fn answer(&self, sequence: u32, event: KeepEvent, fds: Vec<OwnedFd>) {
        let waiting = self.waiting().remove(&sequence);
        if let Some(waiting) = waiting {
            let _ = waiting.send((event, fds));
        }
    }
}

/// Takes what the keeper says until it is gone.
async fn read(keeper: Arc<Keeper>, events: mpsc::Sender<HostEvent>) {
    let errno = loop {
        match keeper.channel.receive::<KeepEvent>().await {
            Ok(received) => {
                if let Some(event) = received.message {
                    keeper.take(received.sequence, event, received.fds, &events);
                }
            }
            // A message whose descriptors had no room here. Whoever waits is told so, and the keeper goes on.
            Err(Errno::MFILE) => keeper.lose_answers(Errno::MFILE),
            Err(errno) => break errno,
        }
    };
    // Counted before anybody looks for another keeper.
    for (number, session) in keeper.sessions().drain() {
        let unknown = session.lose();
        if unknown && number != 0 {
            keeper.lost_sessions.fetch_add(1, Ordering::Relaxed);
        }
    }
    keeper.update(|state| state.lost = true);
    keeper.lose_answers(errno);
    let _ = events.try_send(HostEvent::Changed(keeper.boot.id));
}
