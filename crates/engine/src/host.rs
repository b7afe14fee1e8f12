//! The narrow seam between decisions and the host.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use model::gauges::{Scarce, Stalls};
use model::scale::{Need, Resource, Watch};
use model::step::Step;
use model::{
    Boot, BootGen, BootSeen, Bounded, Fingerprint, Gauges, HostFacts, InstanceId, InstanceName, Knob, KnobChange, Mac,
    NetworkName, Observed, PinId, PinSeen, PoolName, Rest,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// A future in a box, as traits that are used by reference need it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why a step failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}{}", hint.as_ref().map(|h| format!(" ({h})")).unwrap_or_default())]
pub struct StepError {
    /// Name of the step.
    pub step: String,
    /// What was attempted, on what, and why it failed.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Trying again may help: the host was short of something.
    pub transient: bool,
}

/// Something happened on the host that nobody here asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostEvent {
    /// The state of an instance is not what was last observed.
    Changed(InstanceId),
    /// The keeper of a boot died and another one took its guest over.
    KeeperLost {
        /// The boot.
        boot: Boot,
        /// How many sessions were lost with it; `None` when it died while no daemon watched.
        sessions: Option<usize>,
    },
    /// Somebody broke a link of a boot, as told; it is to be made again.
    LinkBroken(Boot, String),
    /// Somebody broke something of a network or of the firewall, which is put right again: its name, and what it was.
    NetworkHealed(String, String),
    /// Somebody breaks something again and again; it is left as it is: its name, and what it is.
    LeftBroken(String, String),
    /// A boot has done nothing for the time that was asked for.
    Idle(Boot),
    /// Something wants a boot that sleeps: what.
    Called(Boot, &'static str),
    /// What a boot needs of something that follows the need.
    Need(Boot, Resource, Need),
    /// A boot met a limit of its own.
    LimitMet {
        /// The boot.
        boot: Boot,
        /// The limit, by its knob.
        limit: &'static str,
        /// How often since this was last told.
        times: u64,
    },
    /// A boot met a limit of its own at which something is to happen.
    Bitten(Boot, Bounded),
    /// Processes of a boot wait.
    Pressed {
        /// The boot.
        boot: Boot,
        /// For what.
        scarce: Scarce,
        /// How much.
        stalls: Stalls,
    },
    /// Processes of a boot were killed because it had no memory left.
    OutOfMemory {
        /// The boot.
        boot: Boot,
        /// How many since this was last told.
        kills: u64,
        /// Names of their programs, as far as the kernel's log tells.
        victims: Vec<String>,
    },
}

/// How far a long step is.
pub type Progress<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// What the engine does things with. Two implementations: the real host, and one of the tests.
pub trait Host: Send + Sync + 'static {
    /// What this host can do.
    fn facts(&self) -> &HostFacts;

    /// Everything on the host that belongs to an instance whose volume is in `pool`.
    fn observe<'a>(&'a self, id: InstanceId, pool: &'a PoolName) -> BoxFuture<'a, Result<Observed, StepError>>;

    /// What is known of an instance's boots without asking the kernel: whether they run and what their links were given, but
    /// nothing of their groups. To be shown until they are looked at, not to work from.
    fn glance(&self, id: InstanceId) -> BTreeMap<BootGen, BootSeen>;

    /// Everything on the host that is ours, by name: to be compared with what is remembered.
    fn survey(&self) -> BoxFuture<'_, Result<Survey, StepError>>;

    /// Every pinned namespace of ours. Reads a directory and enters nothing.
    fn pins(&self) -> BTreeMap<PinId, PinSeen>;

    /// Does one step; it is done, wholly, when this returns.
    fn apply<'a>(&'a self, step: &'a Step, progress: Progress<'a>) -> BoxFuture<'a, Result<Effect, StepError>>;

    /// Starts a process in a running guest.
    fn exec<'a>(&'a self, boot: Boot, order: ExecOrder) -> BoxFuture<'a, Result<Arc<dyn Session>, StepError>>;

    /// Sessions that a former daemon began and that were not forgotten. To be called once.
    fn inherited(&self) -> BoxFuture<'_, Vec<InheritedSession>>;

    /// The console of a running guest.
    fn console<'a>(&'a self, boot: Boot) -> BoxFuture<'a, Result<Arc<dyn Session>, StepError>>;

    /// What a running guest uses.
    fn usage<'a>(&'a self, boot: Boot) -> BoxFuture<'a, Result<Usage, StepError>>;

    /// Told of the moments `before` and `after` something, like a commit, for tests that have the daemon die there.
    fn passed(&self, _when: &str, _what: &str) {}

    /// What a boot's processes use, wait for and are limited by, from its control group alone.
    fn gauges(&self, boot: Boot) -> Gauges;

    /// Has the kernel tell what a boot needs ([`HostEvent::Need`]), until its group is gone or something else is asked for.
    fn watch_need(&self, boot: Boot, watch: Watch);

    /// Tells when a boot does nothing ([`HostEvent::Idle`]), or when something wants one that sleeps ([`HostEvent::Called`]),
    /// until something else is asked for. Calls are heard from the return on.
    fn watch_rest(&self, boot: Boot, rest: Rest);

    /// Whether a boot that a former daemon put to sleep is still held still, and was called by nobody since then, as far as
    /// that can be told. Calls from then on are heard by [`Host::watch_rest`].
    fn sleeps_on(&self, boot: Boot) -> BoxFuture<'_, bool>;

    /// Processes of a boot that somebody runs from outside, and follows.
    fn sessions(&self, boot: Boot) -> usize;

    /// Takes memory from a boot that it can spare, until it uses so many bytes at most. Nobody is killed for that; what is
    /// used in the end is told by its gauges.
    fn take_memory(&self, boot: Boot, down_to: u64) -> BoxFuture<'_, ()>;

    /// The file that a knob of a boot is turned by.
    fn knob_file(&self, boot: Boot, knob: Knob) -> String;

    /// Names and addresses, all of them, for whoever answers for them.
    fn names(&self, names: &[NameEntry]);

    /// What happens without being asked for. To be called once.
    fn events(&self) -> mpsc::Receiver<HostEvent>;
}

/// Everything on the host that is ours.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Survey {
    /// Instances of which there is anything, and the pools to look for it in.
    pub instances: BTreeSet<(InstanceId, PoolName)>,
    /// Images whose files are whole.
    pub images: Vec<ImageFacts>,
    /// Layers.
    pub layers: BTreeSet<(Fingerprint, PoolName)>,
    /// Bridges and chains.
    pub networks: BTreeSet<NetworkName>,
}

/// What came of a step beyond its being done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    Done,
    /// An image was taken or built.
    Image(Box<ImageFacts>),
    /// Knobs were turned; those that were at their setting already are not among them.
    Turned(Vec<KnobChange>),
}

/// An image as its files say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFacts {
    /// SHA-256 of its content.
    pub fingerprint: Fingerprint,
    /// Recipe that it was built from.
    pub recipe: Option<Fingerprint>,
    /// Architecture as its metadata says.
    pub architecture: String,
    /// Properties as its metadata says.
    pub properties: BTreeMap<String, String>,
    /// Seconds since 1970 at which it was made.
    pub created_at: i64,
    /// Seconds since 1970 after which it should not be used; 0 for never.
    pub expires_at: i64,
    /// Bytes of its files.
    pub size: u64,
    /// Metadata and root file system are two files.
    pub split: bool,
    /// Name of the file that was uploaded.
    pub filename: String,
}

/// A process to run in a guest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecOrder {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Environment as `NAME=value`.
    pub environment: Vec<String>,
    /// Working directory; empty means the user's home or `/`.
    pub cwd: String,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// On a terminal of this many columns and rows.
    pub terminal: Option<(u16, u16)>,
    /// Its streams go nowhere.
    pub silent: bool,
    /// Kept with the process and told after a restart of the daemon.
    pub label: Vec<u8>,
    /// Its confinement, the same as init's.
    pub sandbox: Option<model::SandboxSpec>,
    /// A program of the host in these namespaces of the guest alone; none: one of the guest in all of them.
    pub inside: BTreeSet<model::NamespaceKind>,
}

/// Bytes for standard input, and where in the stream they stand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InputPart {
    /// Position of the first byte. Bytes that were handed over before are skipped.
    pub offset: u64,
    /// The bytes.
    pub data: Bytes,
    /// Nothing follows.
    pub eof: bool,
}

/// How far standard input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InputState {
    /// Bytes that the process was given: whoever sends may forget them.
    pub taken: u64,
    /// Bytes that were handed over: what continues the stream begins here.
    pub received: u64,
    /// The process takes nothing any more.
    pub closed: bool,
}

/// The streams of a process or console, by position, so that whoever reads or writes may come back and go on.
pub trait Session: Send + Sync {
    /// The next bytes of an output stream (1 or 2) from `offset`, and where they begin: later than asked only when bytes of
    /// a console were overwritten meanwhile. Waits for them. `None` at the end of the stream.
    fn read(&self, stream: u8, offset: u64) -> BoxFuture<'_, Option<(u64, Bytes)>>;

    /// Up to where a stream was acknowledged: what is before cannot be read again.
    fn acknowledged(&self, stream: u8) -> u64;

    /// Everything of a stream below `offset` arrived where it should.
    fn acknowledge(&self, stream: u8, offset: u64) -> BoxFuture<'_, ()>;

    /// Hands standard input over; waits while the process does not take it. False once it takes nothing any more.
    fn write(&self, part: InputPart) -> BoxFuture<'_, bool>;

    /// How far standard input is, once that is not what is `known`.
    fn input(&self, known: Option<InputState>) -> BoxFuture<'_, InputState>;

    /// Changes the terminal's size.
    fn resize(&self, columns: u16, rows: u16) -> BoxFuture<'_, ()>;

    /// Sends a signal by number.
    fn signal(&self, signal: i32) -> BoxFuture<'_, ()>;

    /// Waits for the end: 0 to 255, or 128 and the signal. `None` when it can't be told (the guest or keeper died).
    fn ended(&self) -> BoxFuture<'_, Option<i32>>;

    /// Its end was kept elsewhere: everything of it may go.
    fn forget(&self) -> BoxFuture<'_, ()>;
}

/// A session that a former daemon began.
pub struct InheritedSession {
    /// The label that it was begun with; empty where an older release began it.
    pub label: Vec<u8>,
    /// Its streams.
    pub session: Arc<dyn Session>,
}

/// A NIC as the network's answers know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameEntry {
    /// On which network.
    pub network: NetworkName,
    /// Name of the instance.
    pub name: InstanceName,
    /// Hardware address.
    pub mac: Mac,
    /// IPv4 address.
    pub ipv4: Option<std::net::Ipv4Addr>,
    /// IPv6 address.
    pub ipv6: Option<std::net::Ipv6Addr>,
}

/// What a guest uses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// Pid of init on the host.
    pub pid: u32,
    /// Processes and threads.
    pub processes: i64,
    /// Nanoseconds of CPU time.
    pub cpu_ns: i64,
    /// Nanoseconds of CPU time that it may use each second; 0 for no limit.
    pub cpu_allowed_ns: i64,
    /// Bytes of memory.
    pub memory_bytes: i64,
    /// The most bytes of memory that it ever used.
    pub memory_peak_bytes: i64,
    /// Bytes of memory that it may use.
    pub memory_limit_bytes: i64,
    /// Bytes swapped out.
    pub swap_bytes: i64,
    /// Seconds since 1970 at which init was started.
    pub started_at: i64,
    /// Bytes on the root disk that belong to it alone.
    pub disk_bytes: i64,
    /// Links in the guest.
    pub links: Vec<LinkUsage>,
}

/// A link in a guest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LinkUsage {
    /// Name in the guest.
    pub name: String,
    /// Addresses with prefix lengths.
    pub addresses: Vec<model::Cidr>,
    /// Hardware address; empty for loopback.
    pub mac: String,
    /// Name of the host's end; empty when there is none.
    pub host_name: String,
    /// Largest packet.
    pub mtu: u32,
    /// It is up.
    pub up: bool,
    /// It is the loopback.
    pub loopback: bool,
    /// Bytes in and out, packets in and out, errors in and out, drops in and out.
    pub counters: [i64; 8],
}

/// What went wrong with a step, as an error of the engine.
pub fn step_error(step: &str, message: impl Into<String>) -> StepError {
    StepError { step: step.to_owned(), message: message.into(), hint: None, transient: false }
}
