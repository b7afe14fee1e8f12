//! What daemon, spawn process and keepers say to one another.
//!
//! Every message is one `SOCK_SEQPACKET` datagram: `version: u8, kind: u8, sequence: u32 (little endian), record`, with
//! descriptors beside it where the message says so. Kinds and tags are append-only (see [`crate::wire`]). An answer
//! carries the sequence number of its request, an event carries 0.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kernel::Errno;

use crate::launch::view::View;
use crate::record;
use crate::wire::{Blob, Field};

/// Version of the protocol; grows only when a reader of the former one would act wrongly.
pub const VERSION: u8 = 1;

/// Largest message in bytes. Below the default send buffer of a Unix socket (212,992), so that one always fits.
pub const MAX_MESSAGE: usize = 160 * 1024;

/// Size of a session's ring per stream in bytes: what a session may have in flight.
pub const SESSION_RING: u64 = 64 * 1024;

/// Size of a console's ring in bytes.
pub const CONSOLE_RING: u64 = 32 * 1024;

/// Most sessions of one instance at a time: with two rings each that bounds a keeper's rings to 2 MiB.
pub const MAX_SESSIONS: usize = 16;

/// Most bytes of a session's label. With 128 KiB of arguments and environment and a seccomp program of at most 4 KiB that
/// stays below [`MAX_MESSAGE`].
pub const MAX_LABEL: usize = 24 * 1024;

/// Most bytes of one [`Input`]: four fit into a ring, so that input keeps flowing while one is acknowledged.
pub const MAX_INPUT: usize = 16 * 1024;

record! {
    /// A request or event without content.
    pub struct Nothing {}
}

record! {
    /// A character device node.
    pub struct Node {
        /// Path below `/dev`.
        1 => path: String,
        /// Major number.
        2 => major: u32,
        /// Minor number.
        3 => minor: u32,
    }
}

record! {
    /// A resource limit as `setrlimit(2)` takes it.
    pub struct Rlimit {
        /// Number of the resource.
        1 => resource: u32,
        /// Soft limit, `u64::MAX` for none.
        2 => soft: u64,
        /// Hard limit, `u64::MAX` for none.
        3 => hard: u64,
    }
}

record! {
    /// A file that init writes before its first exec.
    pub struct File {
        /// Absolute path in the guest.
        1 => path: String,
        /// Content.
        2 => content: Blob,
        /// Permission bits.
        3 => mode: u32,
    }
}

record! {
    /// Where a root file system comes from and how it is mounted.
    pub struct RootSpec {
        /// Directory of the pool on the host; trusted, may lead over links.
        1 => pool: String,
        /// Layers below the pool, topmost first; links are not followed.
        2 => layers: Vec<String>,
        /// Directory below the pool that holds `upper` and `work`.
        3 => volume: String,
        /// Name of the writable layer in `volume`.
        4 => upper: String,
        /// Name of overlay's work directory in `volume`.
        5 => work: String,
        /// How layers are given to the kernel: 0 descriptors, 1 attached, one by one, 2 attached, one string.
        6 => way: u8,
    }
}

record! {
    /// What init and every exec'd process are confined by.
    pub struct Confinement {
        /// Bit set of the capabilities that stay in the bounding set.
        1 => capabilities: u64,
        /// A seccomp program: 8 bytes per instruction as in `struct sock_filter`, little endian.
        2 => seccomp: Blob,
        /// Resource limits.
        3 => rlimits: Vec<Rlimit>,
        /// A session keyring of its own.
        4 => keyring: bool,
    }
}

record! {
    /// A namespace that exists already, for init to live in.
    pub struct Join {
        /// Its kind: one bit, as in `clone(2)`.
        1 => kind: u64,
        /// A process that is in it; 0 where there is a path instead.
        2 => pid: u32,
        /// Start time of that process in clock ticks, as in `/proc/PID/stat`.
        3 => start: u64,
        /// A file that the namespace is pinned at.
        4 => path: String,
    }
}

record! {
    /// Clocks of a guest's own; only with a new time namespace.
    pub struct Clocks {
        /// Both clocks begin at 0 when the guest is made; else they are the host's and `offset_s` more.
        1 => from_zero: bool,
        /// Seconds.
        2 => offset_s: i64,
    }
}

record! {
    /// Everything that a keeper must know to make one guest.
    pub struct LaunchSpec {
        /// The boot, as `<instance>.<generation>`.
        1 => boot: String,
        /// Host name of the guest.
        2 => hostname: String,
        /// Host id of the guest's root.
        3 => id_base: u32,
        /// How many ids.
        4 => id_count: u32,
        /// Bit set of the namespaces to make, as in `clone(2)`.
        5 => namespaces: u64,
        /// Root file system.
        6 => root: RootSpec,
        /// An empty directory of the host where the stage may mount, in its own mount namespace.
        7 => scratch: String,
        /// Directory of the cgroup2 group that the guest is born in.
        8 => group: String,
        /// Directories of the v1 groups that its processes are put into.
        9 => v1_groups: Vec<String>,
        /// Masks and children are locked too.
        10 => strict: bool,
        /// `/sys` is writable.
        11 => sys_writable: bool,
        /// The kernel mounts proc of a pid namespace given by descriptor.
        12 => proc_by_descriptor: bool,
        /// Nodes in `/dev`.
        13 => devices: Vec<Node>,
        /// Confinement.
        14 => confinement: Confinement,
        /// Init and its arguments.
        15 => argv: Vec<String>,
        /// Environment of init as `NAME=value`.
        16 => environment: Vec<String>,
        /// Files to write first.
        17 => files: Vec<File>,
        /// Most nested user namespaces.
        18 => max_user_namespaces: u32,
        /// Fails on purpose at the launcher's stage of this name (crash tests).
        19 => fail_at: String,
        /// Namespaces that init does not get new but enters.
        20 => joins: Vec<Join>,
        /// Bit set of the namespaces that do not belong to the guest's user namespace: what is mounted for them is
        /// mounted before the lock, by the stage.
        21 => foreign: u64,
        /// Clocks, with a new time namespace.
        22 => clocks: Option<Clocks>,
        /// Units of systemd that cannot work with shared namespaces and are masked for this boot.
        23 => masked_units: Vec<String>,
        /// An lxcfs whose files the guest sees in its `/proc`.
        24 => view: Option<View>,
    }
}

record! {
    /// A process to run in a guest.
    pub struct ExecSpec {
        /// Number of the session, chosen by the daemon, not used before in this boot; greater than 0.
        1 => session: u32,
        /// Program and arguments.
        2 => argv: Vec<String>,
        /// Environment as `NAME=value`.
        3 => environment: Vec<String>,
        /// Working directory in the guest; empty means `/`.
        4 => cwd: String,
        /// User id in the guest.
        5 => uid: u32,
        /// Group id in the guest.
        6 => gid: u32,
        /// On a terminal of its own.
        7 => terminal: bool,
        /// Width of the terminal in characters.
        8 => columns: u16,
        /// Height of the terminal in characters.
        9 => rows: u16,
        /// Standard streams go to `/dev/null`.
        10 => silent: bool,
        /// Confinement, the same as init's.
        11 => confinement: Confinement,
        /// What the daemon wants to be told about the session after it was restarted.
        12 => label: Blob,
        /// Namespaces to enter, as in `clone(2)`; 0 means all.
        13 => namespaces: u64,
    }
}

record! {
    /// A signal for init (session 0) or a session.
    pub struct Signal {
        /// Session number.
        1 => session: u32,
        /// Signal number.
        2 => signal: i32,
    }
}

record! {
    /// A terminal's new size; session 0 is the console.
    pub struct Resize {
        /// Session number.
        1 => session: u32,
        /// Width in characters.
        2 => columns: u16,
        /// Height in characters.
        3 => rows: u16,
    }
}

record! {
    /// Bytes for a session's standard input; session 0 is the console.
    pub struct Input {
        /// Session number.
        1 => session: u32,
        /// Position of the first byte in the stream; bytes that were taken before are skipped.
        2 => offset: u64,
        /// The bytes, at most [`MAX_INPUT`].
        3 => data: Blob,
        /// Nothing follows.
        4 => eof: bool,
    }
}

record! {
    /// Everything of a stream below `offset` arrived; its place in the ring is free.
    pub struct Ack {
        /// Session number.
        1 => session: u32,
        /// 1 standard output, 2 standard error.
        2 => stream: u8,
        /// Position in the stream.
        3 => offset: u64,
    }
}

record! {
    /// A session by its number.
    pub struct Session {
        /// Session number.
        1 => session: u32,
    }
}

record! {
    /// Why something could not be done.
    pub struct Failure {
        /// Stage of the launcher, or the request that was refused.
        1 => stage: String,
        /// The call that failed.
        2 => call: String,
        /// What it was applied to.
        3 => target: String,
        /// Error number.
        4 => errno: i32,
    }
}

impl Failure {
    /// A failed call.
    pub fn new(stage: &str, call: &str, target: impl Into<String>, errno: Errno) -> Failure {
        Failure { stage: stage.into(), call: call.into(), target: target.into(), errno: errno.raw_os_error() }
    }

    /// The error as the kernel numbers it.
    pub fn errno(&self) -> Errno {
        Errno::from_raw_os_error(if self.errno == 0 { libc::EIO } else { self.errno })
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let error = std::io::Error::from_raw_os_error(self.errno);
        write!(f, "{}: {}", self.stage, self.call)?;
        if !self.target.is_empty() {
            write!(f, " {}", self.target)?;
        }
        write!(f, ": {error}")
    }
}

impl std::error::Error for Failure {}

record! {
    /// One output stream of a session.
    pub struct StreamState {
        /// Bytes written so far.
        1 => head: u64,
        /// Bytes acknowledged so far.
        2 => tail: u64,
        /// Nothing follows.
        3 => eof: bool,
    }
}

record! {
    /// A session as its keeper knows it.
    pub struct SessionState {
        /// Session number.
        1 => session: u32,
        /// Pid on the host, 0 once ended.
        2 => pid: u32,
        /// It ended.
        3 => ended: bool,
        /// Exit code 0 to 255, or 128 and the signal.
        4 => code: i32,
        /// Standard output, or everything of a terminal.
        5 => stdout: StreamState,
        /// Standard error.
        6 => stderr: StreamState,
        /// Bytes of standard input taken so far.
        7 => input: u64,
        /// What the daemon asked to be told. Left out of a [`Status`], which has to fit into one message.
        8 => label: Blob,
        /// It has a terminal.
        9 => terminal: bool,
        /// Bytes of standard input that were received so far: those that were taken and those that wait.
        10 => received: u64,
    }
}

/// How far a guest is: the values of [`Status::phase`].
pub mod phase {
    /// There is no init.
    pub const EMPTY: u8 = 0;
    /// Init is being made.
    pub const PREPARING: u8 = 1;
    /// Init waits for `Start`.
    pub const READY: u8 = 2;
    /// Init runs.
    pub const RUNNING: u8 = 3;
    /// Init is gone.
    pub const ENDED: u8 = 4;
}

/// How init ended: the values of [`Status::end`].
pub mod end {
    /// Exited with `code`.
    pub const EXIT: u8 = 1;
    /// Killed by the signal `code`.
    pub const SIGNAL: u8 = 2;
    /// Nobody saw it.
    pub const UNKNOWN: u8 = 3;
}

record! {
    /// The state of a keeper.
    pub struct Status {
        /// The boot, as `<instance>.<generation>`.
        1 => boot: String,
        /// See [`phase`].
        2 => phase: u8,
        /// Pid of init on the host.
        3 => pid: u32,
        /// See [`end`].
        4 => end: u8,
        /// Exit code or signal of init.
        5 => code: i32,
        /// Bytes that init wrote to its console.
        6 => console: u64,
        /// Sessions that were not forgotten yet.
        7 => sessions: Vec<SessionState>,
        /// Why init could not be made.
        8 => failure: Option<Failure>,
        /// Pid of the keeper.
        9 => keeper: u32,
        /// Release of the keeper's program.
        10 => release: String,
        /// The keeper took over a guest whose keeper had died: no console, no sessions of before.
        11 => adopted: bool,
        /// The file that its program was copied from, as [`crate::program::identity`] has it.
        12 => program: String,
    }
}

record! {
    /// Init was made: its pid. Comes with two descriptors: its network namespace and a netlink socket in it.
    pub struct Prepared {
        /// Pid on the host.
        1 => pid: u32,
    }
}

record! {
    /// More was written to an output stream.
    pub struct Output {
        /// Session number; 0 is the console.
        1 => session: u32,
        /// 1 standard output, 2 standard error.
        2 => stream: u8,
        /// Bytes written so far.
        3 => head: u64,
        /// Nothing follows.
        4 => eof: bool,
    }
}

record! {
    /// Input was taken up to a position.
    pub struct Taken {
        /// Session number.
        1 => session: u32,
        /// Bytes taken so far.
        2 => offset: u64,
        /// The process closed its input; more is thrown away.
        3 => closed: bool,
    }
}

record! {
    /// Where and for which boot a keeper shall serve. Comes with one descriptor: its first control connection.
    pub struct KeepSpec {
        /// Its directory on the runtime tmpfs, which exists.
        1 => directory: String,
        /// The boot, as `<instance>.<generation>`.
        2 => boot: String,
        /// Take over this running init instead of making one; 0 for none.
        3 => adopt_pid: u32,
        /// Start time of that init in clock ticks, as in `/proc/PID/stat`.
        4 => adopt_start: u64,
        /// Directory of the cgroup2 group that exec'd processes of an adopted guest go below.
        5 => group: String,
        /// Directories of its v1 groups.
        6 => v1_groups: Vec<String>,
        /// Host id of its root.
        7 => id_base: u32,
    }
}

record! {
    /// A child of the spawn process.
    pub struct Child {
        /// Its pid.
        1 => pid: u32,
        /// Exit code, or 128 and the signal; only in [`SpawnEvent::ChildEnded`].
        2 => code: i32,
        /// It was killed by this signal.
        3 => signal: i32,
    }
}

record! {
    /// The program and protocol on the other side.
    pub struct Hello {
        /// Release of the program.
        1 => release: String,
        /// The file of the program, as [`crate::program::identity`] has it.
        2 => program: String,
    }
}

record! {
    /// A helper to start. Comes with the descriptors that its arguments speak of, from number 3 on.
    pub struct HelpSpec {
        /// Arguments after `sysctl-keeper help`.
        1 => argv: Vec<String>,
    }
}

/// A set of messages for one direction.
pub trait Message: Sized {
    /// Number of the message and its record.
    fn encode(&self) -> (u8, Vec<u8>);
    /// The message of a number and record; `None` when there is none.
    fn decode(kind: u8, record: &[u8]) -> Option<Self>;
}

macro_rules! messages {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$vmeta:meta])* $kind:literal => $variant:ident($record:ty),)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[allow(clippy::large_enum_variant)]
        pub enum $name {
            $($(#[$vmeta])* $variant($record),)*
        }

        impl Message for $name {
            fn encode(&self) -> (u8, Vec<u8>) {
                let mut out = Vec::new();
                match self {
                    $($name::$variant(record) => {
                        record.put(&mut out);
                        ($kind, out)
                    })*
                }
            }
            fn decode(kind: u8, record: &[u8]) -> Option<Self> {
                match kind {
                    $($kind => <$record>::take(record).map($name::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

messages! {
    /// From the daemon to a keeper.
    pub enum KeepRequest {
        /// Make init.
        1 => Prepare(LaunchSpec),
        /// Let it run.
        2 => Start(Nothing),
        /// Run a process in the guest.
        3 => Exec(ExecSpec),
        /// Send a signal.
        4 => Signal(Signal),
        /// Change a terminal's size.
        5 => Resize(Resize),
        /// Write to a standard input.
        6 => Input(Input),
        /// Output arrived.
        7 => Ack(Ack),
        /// The session's end was kept by somebody else now.
        8 => Forget(Session),
        /// Tell everything.
        9 => Status(Nothing),
        /// The boot is over: go away.
        10 => Release(Nothing),
        /// Go on in the program whose descriptor comes along. `BUSY` while something is being started or waits to be sent.
        11 => Replace(Nothing),
        /// Send the session's rings again.
        12 => Attach(Session),
        /// Send the descriptors that come with `Prepared` again.
        13 => Sockets(Nothing),
        /// Make init in namespaces that are shared. A kind of its own, so that a keeper of a release before it refuses it:
        /// as `Prepare` it would skip what it does not know and give the guest the host's namespaces.
        14 => PrepareShared(LaunchSpec),
        /// Keep the descriptors that come along for the next daemon, in place of those of before.
        15 => Hold(Nothing),
        /// Send the descriptors that are kept; refused where none were given.
        16 => Held(Nothing),
    }
}

impl KeepRequest {
    /// The request to make this guest's init.
    pub fn prepare(spec: LaunchSpec) -> KeepRequest {
        match spec.joins.is_empty() && spec.foreign == 0 {
            true => KeepRequest::Prepare(spec),
            false => KeepRequest::PrepareShared(spec),
        }
    }
}

messages! {
    /// From a keeper to the daemon.
    pub enum KeepEvent {
        /// Everything, as asked.
        1 => Status(Status),
        /// Init exists, with two descriptors.
        2 => Prepared(Prepared),
        /// Init waits for `Start`.
        3 => Ready(Nothing),
        /// Init runs.
        4 => Started(Nothing),
        /// Init could not be made, or a request was refused.
        5 => Failed(Failure),
        /// Init is gone; everything of the guest died with it.
        6 => Ended(Status),
        /// A session runs. Comes with a descriptor per ring: output, then error (none of a silent one).
        7 => SessionStarted(SessionState),
        /// More output.
        8 => Output(Output),
        /// Input was taken.
        9 => Taken(Taken),
        /// The process of a session ended and its output is complete.
        10 => SessionEnded(SessionState),
        /// Done.
        11 => Done(Nothing),
    }
}

messages! {
    /// From the daemon to the spawn process.
    pub enum SpawnRequest {
        /// Tell your release.
        1 => Hello(Hello),
        /// Start a keeper.
        2 => Keep(KeepSpec),
        /// Start a helper.
        3 => Help(HelpSpec),
        /// End: nothing of the daemon is left on this host.
        4 => End(Nothing),
        /// Go on in the program whose descriptor comes along. The new program says hello.
        5 => Replace(Nothing),
        /// Say hello and hand out the program that keepers are started from.
        6 => Program(Nothing),
    }
}

messages! {
    /// From the spawn process to the daemon.
    pub enum SpawnEvent {
        /// Its release. Comes with a descriptor where its program was asked for.
        1 => Hello(Hello),
        /// A keeper or helper was started.
        2 => Started(Child),
        /// It could not be.
        3 => Failed(Failure),
        /// A child, or a guest's init whose keeper died, ended.
        4 => ChildEnded(Child),
    }
}

/// A received message.
#[derive(Debug)]
pub struct Received<M> {
    /// Sequence number.
    pub sequence: u32,
    /// The message; `None` when its kind is unknown (a newer peer).
    pub message: Option<M>,
    /// Descriptors that came with it.
    pub fds: Vec<OwnedFd>,
}

/// Sends a message whole, without waiting. `AGAIN` when the peer does not read.
pub fn send<M: Message>(
    socket: BorrowedFd<'_>,
    sequence: u32,
    message: &M,
    fds: &[BorrowedFd<'_>],
) -> kernel::Result<()> {
    kernel::scm::send(socket, &to_bytes(sequence, message), fds, false)
}

/// The bytes of a message.
pub fn to_bytes<M: Message>(sequence: u32, message: &M) -> Vec<u8> {
    let (kind, record) = message.encode();
    let mut bytes = Vec::with_capacity(6 + record.len());
    bytes.extend_from_slice(&[VERSION, kind]);
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(&record);
    bytes
}

/// Receives a message. `CONNRESET` when the peer is gone, `PROTO` when it speaks something else.
pub fn receive<M: Message>(socket: impl AsFd, wait: bool) -> kernel::Result<Received<M>> {
    let (bytes, fds) = kernel::scm::receive_whole(socket.as_fd(), MAX_MESSAGE, wait)?;
    match &*bytes {
        [] => Err(Errno::CONNRESET),
        [version, kind, a, b, c, d, record @ ..] if *version <= VERSION => {
            Ok(Received { sequence: u32::from_le_bytes([*a, *b, *c, *d]), message: M::decode(*kind, record), fds })
        }
        _ => Err(Errno::PROTO),
    }
}
