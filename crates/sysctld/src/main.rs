//! The daemon: reads its options, takes what is its own on this host, and serves the API until it is told to end.

mod claims;
mod crash;
mod host;
mod log;
mod options;
mod socket;

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use claims::Claimed;
use clap::Parser;
use engine::{Engine, EngineConfig, FirstStart};
use host::{FirstLook, HostConfig, RealHost};
use model::PoolSpec;
use options::Options;
use server::{App, ServerInfo};
use sha2::{Digest, Sha256};
use store::Store;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

/// Name of the database in the state directory.
const DATABASE: &str = "sysctl.db";

/// Threads of the runtime: what blocks has its own, and a daemon that waits needs none.
const WORKERS: usize = 4;

fn main() -> ExitCode {
    let options = Options::parse();
    log::start(&options);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS))
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(run(options));
            // Streams of clients and guests that still run are nothing to wait for.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(format!("start the runtime: {error}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            let _ = writeln!(std::io::stderr(), "sysctld: {text}");
            ExitCode::FAILURE
        }
    }
}

/// Everything that is ours on this host.
struct Daemon {
    engine: Engine,
    host: Arc<RealHost>,
    mark: String,
    state_dir: PathBuf,
    runtime_dir: PathBuf,
    /// Held for as long as the daemon lives.
    _locks: [File; 2],
}

/// Where the time of a start goes.
struct Laps {
    last: Instant,
    words: Vec<String>,
}

impl Laps {
    fn begin() -> Laps {
        Laps { last: Instant::now(), words: Vec::new() }
    }

    /// Ends one part of it.
    fn note(&mut self, part: &str) {
        let now = Instant::now();
        self.words.push(format!("{part} {} us", (now - self.last).as_micros()));
        self.last = now;
    }
}

async fn run(options: Options) -> Result<(), String> {
    crash::arm()?;
    let mut laps = Laps::begin();
    let daemon = start(&options, &mut laps).await?;
    if options.purge {
        daemon.engine.numbered().await;
        return purge(daemon).await;
    }
    daemon.host.keep_lxcfs();
    let socket = daemon.runtime_dir.join("unix.socket");
    let listener = socket::listen(&socket, &options.group)?;
    let listener = listener.set_nonblocking(true).and_then(|()| tokio::net::UnixListener::from_std(listener));
    let listener = listener.map_err(|e| format!("listen at {}: {e}", socket.display()))?;
    let shutdown = Arc::new(Notify::new());
    let info = ServerInfo {
        version: env!("CARGO_PKG_VERSION").into(),
        host_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        os: os_release(&std::fs::read_to_string("/etc/os-release").unwrap_or_default()),
        socket: socket.display().to_string(),
        panic_at: std::env::var("SYSCTL_PANIC_PATH").unwrap_or_default(),
    };
    let app = App::new(daemon.engine.clone(), daemon.host.clone(), info, shutdown.clone());
    // Taken before anybody is told that we are ready: whoever ends us then finds us willing.
    let mut ends = Ends::take().map_err(|e| format!("take signals: {e}"))?;
    let mut serving = Box::pin(server::serve(listener, app.clone()));
    // Questions are answered meanwhile; who listens to events waits, too.
    tokio::select! {
        () = &mut serving => {}
        () = daemon.engine.numbered() => laps.note("first commit"),
    }
    let took = laps.words.join(", ");
    tracing::info!(socket = %socket.display(), state = %daemon.state_dir.display(), took, "ready");
    crash::ready();
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let host = daemon.host.clone();
    tokio::spawn(async move {
        app.take_up_sessions().await;
        host.settle_in();
    });
    let stop_instances = tokio::select! {
        () = &mut serving => false,
        () = ends.told() => false,
        () = shutdown.notified() => true,
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    if stop_instances {
        tracing::info!("stopping all instances, then ending");
        daemon.engine.halt().await;
        daemon.host.end_lxcfs().await;
    }
    // What was told is on the disk before the end; most of it gets there while clients are still answered. Packet sockets go
    // meanwhile, too: their end takes the kernel ten milliseconds.
    daemon.host.stop_gateways();
    tokio::select! {
        () = &mut serving => {}
        settled = daemon.engine.settle() => drop(settled),
    }
    // Nobody is taken on any more who would not be answered.
    drop(serving);
    crash::moment("before", "flush");
    let flushed = daemon.engine.settle().await;
    crash::moment("after", "flush");
    tracing::info!(instances_left_running = !stop_instances, "ending");
    flushed.map_err(|error| error.to_string())
}

/// SIGTERM, SIGINT: the daemon ends, guests do not notice.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

impl Ends {
    fn take() -> std::io::Result<Ends> {
        Ok(Ends { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn told(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn start(options: &Options, laps: &mut Laps) -> Result<Daemon, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("this daemon makes namespaces, mounts and links: start it as root (sudo sysctld)".into());
    }
    let missing = host::missing();
    if !missing.is_empty() {
        return Err(format!("this host lacks what guests need: {}", missing.join("; ")));
    }
    // Modes below are meant as they are written.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    raise_open_files();
    socket::make_dir(&options.state_dir, 0o700)?;
    socket::make_dir(&options.runtime_dir, 0o755)?;
    let absolute = |path: &Path| path.canonicalize().map_err(|e| format!("find {}: {e}", path.display()));
    let (state_dir, runtime_dir) = (absolute(&options.state_dir)?, absolute(&options.runtime_dir)?);
    let locks = [socket::lock(&state_dir)?, socket::lock(&runtime_dir)?];
    let mark = mark(&state_dir);
    let look = FirstLook::begin(&mark, &state_dir, &runtime_dir);
    let database = state_dir.join(DATABASE);
    let store = Store::open_or_rescue(&database, engine::UNMIRRORED).map_err(|error| chain(&error))?;
    laps.note("database");
    crash::moment("before", "claim");
    let (claim, held) = claims::take(&state_dir, &mark, &store, options.id_range).await?;
    crash::moment("after", "claim");
    let config = HostConfig {
        state_dir: state_dir.clone(),
        runtime_dir: runtime_dir.clone(),
        keeper: keeper()?,
        images_dir: options.images_dir.clone(),
        mark: mark.clone(),
        claim: Claimed::new(&mark, &claim, held),
    };
    let host = Arc::new(RealHost::find(config, look).await.map_err(|error| error.to_string())?);
    laps.note("host");
    crash::moment("after", "host");
    let pool = PoolSpec {
        name: "default".parse().map_err(|_| "the name of the first pool")?,
        driver: "overlay".into(),
        source: String::new(),
    };
    let config = EngineConfig {
        id_ranges: vec![claim.instance_ids()],
        recipes: host.recipes(),
        first_start: FirstStart { pool: Some(pool), network: claim.network() },
    };
    let engine = Engine::start(host.clone(), store, config).await.map_err(|error| error.to_string())?;
    laps.note("instances");
    crash::moment("after", "engine");
    log::tell(engine.events().clone());
    Ok(Daemon { engine, host, mark, state_dir, runtime_dir, _locks: locks })
}

/// Removes everything of this state directory from the host.
async fn purge(daemon: Daemon) -> Result<(), String> {
    if daemon.engine.store().read_only().is_some() {
        daemon.engine.repair(&*daemon.host).await.map_err(|error| error.to_string())?;
    }
    let failed = daemon.engine.purge().await;
    if !failed.is_empty() {
        return Err(format!("not everything could be removed, so all files are kept: {}", failed.join("; ")));
    }
    crash::moment("before", "leave");
    daemon.host.leave().await.map_err(|error| error.to_string())?;
    crash::moment("after", "leave");
    // What is told from here on would only put files back.
    let store = daemon.engine.store().clone();
    tokio::task::spawn_blocking(move || store.end()).await.map_err(|e| format!("end the database: {e}"))?;
    claims::give_back(&daemon.mark).map_err(|e| format!("give back the claim of ids: {e}"))?;
    for directory in [&daemon.runtime_dir, &daemon.state_dir] {
        crash::moment("before", "remove directory");
        std::fs::remove_dir_all(directory).map_err(|e| format!("remove {}: {e}", directory.display()))?;
    }
    Ok(())
}

/// Tells this daemon's objects on the host from those of another: a few digits, as names of links are short.
fn mark(state_dir: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    Sha256::digest(state_dir.as_os_str().as_bytes()).iter().take(3).map(|byte| format!("{byte:02x}")).collect()
}

/// The program beside this one, or where packages put it.
fn keeper() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|e| format!("find the own program: {e}"))?;
    let beside = own.with_file_name("sysctl-keeper");
    let packaged = PathBuf::from("/usr/libexec/sysctl/sysctl-keeper");
    let tried = format!("{} and {}", beside.display(), packaged.display());
    [beside, packaged].into_iter().find(|path| path.is_file()).ok_or_else(|| {
        format!("sysctl-keeper, which runs guests, is missing: looked for {tried}; put it beside sysctld")
    })
}

/// Four descriptors for each running guest: the soft limit of 1,024 is soon reached.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(errno) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%errno, "the limit of open files could not be raised");
    }
}

/// Name and version of the distribution by the text of os-release(5).
fn os_release(text: &str) -> (String, String) {
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_default().trim_matches('"').to_owned()
    };
    (value("NAME"), value("VERSION_ID"))
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_is_told_by_name_and_version() {
        let text = "PRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"13\"\n";
        assert_eq!(os_release(text), ("Debian GNU/Linux".to_owned(), "13".to_owned()));
        assert_eq!(os_release(""), (String::new(), String::new()));
    }

    #[test]
    fn state_directories_have_different_marks() {
        assert_eq!(mark(Path::new("/a")).len(), 6);
        assert_ne!(mark(Path::new("/a")), mark(Path::new("/b")));
    }
}
