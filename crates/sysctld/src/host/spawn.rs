//! The spawn process: asked for keepers and helpers, and started when it is missing.

use std::collections::{BTreeSet, HashMap};
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use engine::StepError;
use kernel::Errno;
use runtime::protocol::{Child, HelpSpec, KeepSpec, Nothing, SpawnEvent, SpawnRequest};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::WaitStatus;
use tokio::sync::{Notify, broadcast, oneshot, watch};

use super::channel::Channel;
use super::{launch, words};

/// Ends of children that a listener may be behind.
const ENDS: usize = 1024;

/// How often the process is asked: it may have died since it was last spoken to, and one that is dying may still be connected to.
const TRIES: usize = 3;

/// How long systemd may take to start the process again, and how often that is looked at.
const RESTART: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(20);

/// The way to the spawn process; it is made anew when that process died.
#[derive(Debug)]
pub(crate) struct Spawn {
    /// Somebody else starts it: systemd.
    is_external: bool,
    program: PathBuf,
    socket: PathBuf,
    link: tokio::sync::Mutex<Option<Arc<Link>>>,
    ends: broadcast::Sender<Child>,
    helpers: Arc<Mutex<BTreeSet<u32>>>,
    /// Told when the process died.
    lost: Arc<Notify>,
    /// The process was told to end.
    is_over: AtomicBool,
    /// It runs the program that it shall run: until then it is asked for nothing that would run its former one.
    settled: watch::Sender<bool>,
}

#[derive(Debug)]
struct Link {
    channel: Channel,
    sequence: AtomicU32,
    waiting: Mutex<HashMap<u32, oneshot::Sender<Answer>>>,
    lost: AtomicBool,
}

type Answer = (SpawnEvent, Vec<OwnedFd>);

/// A program, and the file that it was copied from.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) file: OwnedFd,
    pub(crate) identity: String,
}

impl Spawn {
    pub(crate) fn new(program: PathBuf, runtime_dir: &Path) -> Spawn {
        let (ends, _) = broadcast::channel(ENDS);
        let is_external = std::env::var_os("SYSCTL_SPAWN").is_some_and(|value| value == "external");
        Spawn {
            is_external,
            program,
            socket: runtime_dir.join("spawn.socket"),
            link: tokio::sync::Mutex::new(None),
            ends,
            helpers: Arc::default(),
            lost: Arc::default(),
            is_over: AtomicBool::new(false),
            settled: watch::Sender::new(false),
        }
    }

    /// An upgrade, if there was any, is over.
    pub(crate) fn settle(&self) {
        self.settled.send_replace(true);
    }

    async fn wait_settled(&self) {
        // Its sender lives as long as we.
        let _ = self.settled.subscribe().wait_for(|is_settled| *is_settled).await;
    }

    /// Helpers that were started and have not ended.
    pub(crate) fn helpers(&self) -> BTreeSet<u32> {
        self.helpers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends of children from now on: helpers, and inits whose keeper died.
    pub(crate) fn ends(&self) -> broadcast::Receiver<Child> {
        self.ends.subscribe()
    }

    /// Connects, starting the process when nobody answers.
    pub(crate) async fn ready(&self) -> Result<(), StepError> {
        self.link().await.map(drop)
    }

    /// Starts the process again whenever it dies, so that nobody has to wait for it when it is needed.
    pub(crate) async fn keep_alive(self: Arc<Self>) {
        loop {
            self.lost.notified().await;
            if self.is_over.load(Ordering::Acquire) {
                return;
            }
            let mut slot = self.link.lock().await;
            // Somebody else may have noticed first.
            if slot.as_ref().is_some_and(|link| link.is_lost()) {
                *slot = None;
            }
            drop(slot);
            if let Err(error) = self.ready().await {
                tracing::error!(%error, "the spawn process died and cannot be started again now");
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn link(&self) -> Result<Arc<Link>, StepError> {
        let mut slot = self.link.lock().await;
        if let Some(link) = &*slot {
            return Ok(link.clone());
        }
        let failed = |call: &str, errno| words::failed("spawn", call, &self.socket.display().to_string(), errno);
        let socket = match connect(&self.socket) {
            Ok(socket) => socket,
            // systemd starts it; what this daemon starts would be in its own sandbox.
            Err(Errno::NOENT | Errno::CONNREFUSED) if self.is_external => {
                self.wait().await.map_err(|errno| failed("connect to", errno))?
            }
            Err(Errno::NOENT | Errno::CONNREFUSED) => {
                let status = self.start().map_err(|errno| failed("start the spawn process for", errno))?;
                if status.exit_status() != Some(0) {
                    return Err(self.does_not_run(status));
                }
                connect(&self.socket).map_err(|errno| failed("connect to", errno))?
            }
            Err(errno) => return Err(failed("connect to", errno)),
        };
        let link = Arc::new(Link {
            channel: Channel::new(socket).map_err(|errno| failed("watch", errno))?,
            sequence: AtomicU32::new(1),
            waiting: Mutex::default(),
            lost: AtomicBool::new(false),
        });
        tokio::spawn(read(link.clone(), self.ends.clone(), self.helpers.clone(), self.lost.clone()));
        *slot = Some(link.clone());
        Ok(link)
    }

    /// Waits until systemd has started it.
    async fn wait(&self) -> kernel::Result<OwnedFd> {
        let deadline = tokio::time::Instant::now() + RESTART;
        loop {
            match connect(&self.socket) {
                Err(Errno::NOENT | Errno::CONNREFUSED) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(AGAIN).await;
                }
                other => return other,
            }
        }
    }

    /// Starts the process in the background; it listens when this returns 0.
    fn start(&self) -> kernel::Result<WaitStatus> {
        tracing::info!(program = %self.program.display(), "starting the spawn process");
        let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| Errno::INVAL);
        let program = text(self.program.as_os_str().as_bytes())?;
        let socket = text(self.socket.as_os_str().as_bytes())?;
        let argv = [text(b"sysctl-keeper")?, text(b"spawn")?, text(b"--socket")?, socket, text(b"--detach")?];
        kernel::process::spawn_detaching(&program, &argv, &kernel::process::environment())
    }

    /// Why there is no process: its program ended before it served.
    fn does_not_run(&self, status: WaitStatus) -> StepError {
        let program = self.program.display();
        let how = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => format!("ended with code {code}"),
            (None, Some(signal)) => format!("was ended by signal {signal}"),
            (None, None) => "ended".to_owned(),
        };
        StepError {
            step: "spawn".into(),
            message: format!("start the spawn process for {}: {program} {how} before it served", self.socket.display()),
            hint: Some(format!(
                "what it says is in the daemon's log; {program} --version tells whether it runs at all"
            )),
            transient: false,
        }
    }

    /// Asks once. The errno is that of a process which is gone: nobody knows whether it did what was asked.
    async fn try_ask(
        &self,
        request: &SpawnRequest,
        fds: &[BorrowedFd<'_>],
    ) -> Result<kernel::Result<Answer>, StepError> {
        let link = self.link().await?;
        let answer = link.ask(request, fds).await;
        if answer.is_err() {
            let mut slot = self.link.lock().await;
            if slot.as_ref().is_some_and(|current| Arc::ptr_eq(current, &link)) {
                *slot = None;
            }
        }
        Ok(answer)
    }

    async fn ask(&self, request: SpawnRequest, fds: &[BorrowedFd<'_>]) -> Result<Answer, StepError> {
        for _ in 1..TRIES {
            if let Ok(answer) = self.try_ask(&request, fds).await? {
                return Ok(answer);
            }
        }
        self.try_ask(&request, fds).await?.map_err(gone)
    }

    /// Has a child made that serves on one of a `pair` of sockets; its pid, and the other socket.
    ///
    /// The process may die after it made the child and before it said so. The next try has a new pair: that child finds its
    /// socket closed, and two never serve on the same one.
    async fn serving(
        &self,
        request: SpawnRequest,
        pair: impl Fn() -> kernel::Result<(OwnedFd, OwnedFd)>,
    ) -> Result<(u32, OwnedFd), StepError> {
        self.wait_settled().await;
        let once = async || -> Result<kernel::Result<(Answer, OwnedFd)>, StepError> {
            let (ours, theirs) = pair().map_err(|errno| words::failed("spawn", "socketpair", "", errno))?;
            Ok(self.try_ask(&request, &[theirs.as_fd()]).await?.map(|answer| (answer, ours)))
        };
        let mut answered = once().await?;
        for _ in 1..TRIES {
            if answered.is_err() {
                answered = once().await?;
            }
        }
        let (answer, ours) = answered.map_err(gone)?;
        Ok((started(answer.0)?, ours))
    }

    /// Starts a keeper; the socket on which it serves.
    pub(crate) async fn keep(&self, spec: KeepSpec) -> Result<OwnedFd, StepError> {
        Ok(self.serving(SpawnRequest::Keep(spec), kernel::scm::pair).await?.1)
    }

    /// Starts a helper with one of a `pair` of sockets as descriptor 3; the other one.
    pub(crate) async fn help(
        &self,
        argv: Vec<String>,
        pair: impl Fn() -> kernel::Result<(OwnedFd, OwnedFd)>,
    ) -> Result<OwnedFd, StepError> {
        let (pid, ours) = self.serving(SpawnRequest::Help(HelpSpec { argv }), pair).await?;
        // One that has ended meanwhile was told already.
        if launch::start_time(pid).is_some() {
            self.helpers.lock().unwrap_or_else(PoisonError::into_inner).insert(pid);
        }
        Ok(ours)
    }

    /// Ends the process; for when nothing of the daemon is left on this host.
    pub(crate) async fn end(&self) -> Result<(), StepError> {
        self.wait_settled().await;
        self.is_over.store(true, Ordering::Release);
        started(self.ask(SpawnRequest::End(Nothing {}), &[]).await?.0).map(drop)
    }

    /// The program that keepers are started from; `None` when the process is of a release that hands it out to nobody.
    pub(crate) async fn program(&self) -> Result<Option<Program>, StepError> {
        let (event, mut fds) = self.ask(SpawnRequest::Program(Nothing {}), &[]).await?;
        match (event, fds.pop()) {
            (SpawnEvent::Hello(hello), Some(file)) => Ok(Some(Program { file, identity: hello.program })),
            (SpawnEvent::Failed(failure), _) if failure.errno() == Errno::NOSYS => Ok(None),
            (SpawnEvent::Failed(failure), _) => Err(words::of("upgrade", &failure)),
            (other, _) => Err(engine::step_error("upgrade", format!("unexpected answer {other:?}"))),
        }
    }

    /// Has the process go on in the program of `file`: it stays the parent of its keepers.
    pub(crate) async fn replace(&self, file: &OwnedFd) -> Result<(), StepError> {
        match self.ask(SpawnRequest::Replace(Nothing {}), &[file.as_fd()]).await?.0 {
            SpawnEvent::Hello(_) => Ok(()),
            SpawnEvent::Failed(failure) => Err(words::of("upgrade", &failure)),
            other => Err(engine::step_error("upgrade", format!("unexpected answer {other:?}"))),
        }
    }

    /// Has another process take the place of this one. How the guest of a former keeper ended whose keeper is killed later is
    /// not known then.
    pub(crate) async fn end_and_start(&self) -> Result<(), StepError> {
        started(self.ask(SpawnRequest::End(Nothing {}), &[]).await?.0)?;
        self.ask(SpawnRequest::Program(Nothing {}), &[]).await.map(drop)
    }

    /// The program file that is on the disk now.
    pub(crate) fn program_file(&self) -> kernel::Result<Program> {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        let file = rustix::fs::open(&self.program, flags, rustix::fs::Mode::empty())?;
        let identity = runtime::program::identity(&file)?;
        Ok(Program { file, identity })
    }
}

fn gone(errno: Errno) -> StepError {
    words::failed("spawn", "ask", "the spawn process", errno)
}

/// The pid of the child that was made.
fn started(event: SpawnEvent) -> Result<u32, StepError> {
    match event {
        SpawnEvent::Started(child) => Ok(child.pid),
        SpawnEvent::Failed(failure) => Err(words::of("spawn", &failure)),
        other => Err(engine::step_error("spawn", format!("unexpected answer {other:?}"))),
    }
}

impl Link {
    /// The process is gone.
    fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<u32, oneshot::Sender<Answer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, request: &SpawnRequest, fds: &[BorrowedFd<'_>]) -> kernel::Result<Answer> {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.waiting().insert(sequence, sender);
        if let Err(errno) = self.channel.send(sequence, request, fds).await {
            self.waiting().remove(&sequence);
            return Err(errno);
        }
        answer.await.map_err(|_| Errno::CONNRESET)
    }
}

/// Takes what the process says until it is gone.
async fn read(link: Arc<Link>, ends: broadcast::Sender<Child>, helpers: Arc<Mutex<BTreeSet<u32>>>, lost: Arc<Notify>) {
    while let Ok(received) = link.channel.receive::<SpawnEvent>().await {
        match received.message {
            Some(SpawnEvent::ChildEnded(child)) => {
                helpers.lock().unwrap_or_else(PoisonError::into_inner).remove(&child.pid);
                let _ = ends.send(child);
            }
            Some(event) => {
                if let Some(waiting) = link.waiting().remove(&received.sequence) {
                    let _ = waiting.send((event, received.fds));
                }
            }
            None => {}
        }
    }
    // Whoever waits learns that nobody will answer.
    link.lost.store(true, Ordering::Release);
    link.waiting().clear();
    // Helpers of a process that died are told of by nobody any more.
    helpers.lock().unwrap_or_else(PoisonError::into_inner).retain(|pid| launch::start_time(*pid).is_some());
    lost.notify_one();
}

/// Connects to a Unix `SOCK_SEQPACKET` socket.
pub(crate) fn connect(path: &Path) -> kernel::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}
