//! `help image`: unpacks or builds an image, in a child that is root of nothing but the image range of ids.
//!
//! ```text
//! help image unpack --base N --stage DIR --unified FILE
//! help image unpack --base N --stage DIR --metadata FILE --rootfs FILE
//! help image build  --base N --stage DIR --recipe FILE --scratch DIR --out FILE
//! ```
//!
//! We are host root here, for what only it can do: the id map and an idmapped mount of the staging directory. All that
//! touches foreign bytes happens in the child, which has namespaces of its own, sees only the staging directory
//! (Landlock), and whose files land on the disk with the ids that the archive names.

use std::fs::File;
use std::io::BufReader;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use images::compress::Compression;
use images::recipe::{Architecture, Recipe};
use images::report::{Outcome, Report};
use images::unpack::{Options, unpack_split, unpack_unified};
use images::{Limits, build, pack};
use kernel::process::{Clone, Namespaces, Side, SingleThread};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags};
use rustix::process::{Resource, Rlimit, Signal, WaitId, WaitIdOptions};

/// Memory of the child: decoders hold up to 256 MiB, templates up to 128 MiB, and twice as much for all else. The builder
/// runs other programs and is not bounded by it.
const MEMORY: u64 = 1 << 30;

/// What is to be done.
struct Job<'a> {
    base: u32,
    stage: &'a str,
    work: Work<'a>,
}

enum Work<'a> {
    Unified(&'a str),
    Split { metadata: &'a str, rootfs: &'a str },
    Build { recipe: &'a str, scratch: &'a str, out: &'a str },
}

fn parse<'a>(words: &[&'a str]) -> Option<Job<'a>> {
    let number = |text: &str| text.parse().ok();
    match words {
        ["unpack", "--base", base, "--stage", stage, "--unified", file] => {
            Some(Job { base: number(base)?, stage, work: Work::Unified(file) })
        }
        ["unpack", "--base", base, "--stage", stage, "--metadata", metadata, "--rootfs", rootfs] => {
            Some(Job { base: number(base)?, stage, work: Work::Split { metadata, rootfs } })
        }
        ["build", "--base", base, "--stage", stage, "--recipe", recipe, "--scratch", scratch, "--out", out] => {
            Some(Job { base: number(base)?, stage, work: Work::Build { recipe, scratch, out } })
        }
        _ => None,
    }
}

/// Runs the helper.
pub(crate) fn run(proof: SingleThread, words: &[&str]) -> ExitCode {
    let Ok(socket) = kernel::process::inherit(3) else { return crate::fail("help image", "no socket at 3") };
    let Some(job) = parse(words) else { return crate::fail("help image", "unpack | build") };
    match parent(proof, &job, &socket) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            tell(socket.as_fd(), &Report::Failed { message });
            ExitCode::FAILURE
        }
    }
}

/// Sends a report; one that only shows progress is dropped when the listener is behind.
fn tell(socket: BorrowedFd<'_>, report: &Report) {
    if let Ok(text) = serde_json::to_vec(report) {
        let wait = !matches!(report, Report::Progress(_));
        let _ = kernel::scm::send(socket, &text, &[], wait);
    }
}

fn failed<E: std::error::Error>(what: impl Into<String>) -> impl FnOnce(E) -> String {
    let what = what.into();
    move |error| format!("{what}: {}", chain(&error))
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

/// Makes the child and gives it what it needs; waits for its end.
fn parent(proof: SingleThread, job: &Job<'_>, socket: &OwnedFd) -> Result<(), String> {
    let (ours, theirs) = kernel::scm::pair().map_err(failed("socketpair"))?;
    // Together: the user namespace then owns the others, so its root may mount in them. The network stays the host's, as a
    // build fetches packages.
    let namespaces = Namespaces::USER | Namespaces::MOUNT | Namespaces::PID | Namespaces::IPC | Namespaces::UTS;
    let clone = Clone { namespaces, ..Clone::default() };
    let (pid, pidfd) = match clone.clone3(proof).map_err(failed("clone3"))? {
        Side::Parent(pid, pidfd) => (pid.as_raw_nonzero().get(), pidfd),
        Side::Child => {
            drop(ours);
            let report = match child(job, &theirs, socket) {
                Ok(outcome) => Report::Done(Box::new(outcome)),
                Err(message) => Report::Failed { message },
            };
            tell(socket.as_fd(), &report);
            kernel::process::exit(0)
        }
    };
    drop(theirs);
    for map in ["uid_map", "gid_map"] {
        let path = format!("/proc/{pid}/{map}");
        std::fs::write(&path, format!("0 {} 65536\n", job.base)).map_err(failed(format!("write {path}")))?;
    }
    let namespace = File::open(format!("/proc/{pid}/ns/user")).map_err(failed("open the child's user namespace"))?;
    let stage = kernel::mount::clone_tree(CWD, job.stage).map_err(failed(format!("open_tree {}", job.stage)))?;
    kernel::mount::idmap(stage.as_fd(), namespace.as_fd())
        .map_err(failed(format!("idmap {} (is it on ext4, xfs or btrfs?)", job.stage)))?;
    let mut fds = vec![stage];
    if let Work::Build { scratch, .. } = job.work {
        // Not idmapped: what the build leaves there belongs to nobody on this host.
        let owner = Some(job.base);
        std::os::unix::fs::chown(scratch, owner, owner).map_err(failed(format!("chown {scratch}")))?;
        fds.push(kernel::mount::clone_tree(CWD, scratch).map_err(failed(format!("open_tree {scratch}")))?);
    }
    let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    kernel::scm::send(ours.as_fd(), b"go", &borrowed, true).map_err(failed("send to the child"))?;
    let is_needed = wait(pidfd.as_fd(), socket.as_fd()).map_err(failed("wait"))?;
    let status =
        rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).map_err(failed("wait"))?;
    match status.and_then(|status| status.exit_status()) {
        _ if !is_needed => Ok(()),
        Some(0) => Ok(()),
        _ => Err(format!("the image child died ({status:?})")),
    }
}

/// Waits for the child's end; when nobody listens any more, that is now, and the answer is false.
fn wait(child: BorrowedFd<'_>, socket: BorrowedFd<'_>) -> kernel::Result<bool> {
    // That the other side has gone is told without asking for it.
    let mut fds =
        [PollFd::from_borrowed_fd(child, PollFlags::IN), PollFd::from_borrowed_fd(socket, PollFlags::empty())];
    rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, None))?;
    let has_ended = fds[0].revents().contains(PollFlags::IN);
    if !has_ended {
        // As the first of its pid namespace it takes along whatever it started.
        rustix::process::pidfd_send_signal(child, Signal::KILL)?;
    }
    Ok(has_ended)
}

/// The child: from nobody to root of the image range, in a mount namespace of its own.
fn child(job: &Job<'_>, parent: &OwnedFd, socket: &OwnedFd) -> Result<Outcome, String> {
    // Before anything else: files that lie in directories which are closed to the image range.
    let inputs = Inputs::open(&job.work)?;
    let mut buffer = [0; 8];
    let fds = match kernel::scm::receive(parent.as_fd(), &mut buffer, true) {
        // Our parent gave up, and it is for it to say why.
        Ok((0, _)) | Err(kernel::Errno::CONNRESET) => kernel::process::exit(1),
        received => received.map_err(failed("receive"))?.1,
    };
    let mut fds = fds.into_iter();
    let stage = fds.next().ok_or("the staging directory did not arrive")?;
    rustix::thread::set_thread_groups(&[]).map_err(failed("setgroups"))?;
    let (uid, gid) = (rustix::fs::Uid::ROOT, rustix::fs::Gid::ROOT);
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(failed("setresgid"))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(failed("setresuid"))?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(failed("make mounts private"))?;
    if let Some(scratch) = fds.next() {
        rustix::mount::move_mount(&scratch, "", CWD, "/tmp", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(failed("mount /tmp"))?;
    }
    // Of our own pid namespace: package scripts look at it, and it must show nothing of the host.
    let hardened = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("proc", "/proc", "proc", hardened, None).map_err(failed("mount /proc"))?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    inputs.work(stage.as_fd(), socket.as_fd())
}

/// What the work reads and writes, open.
enum Inputs {
    Unified(File),
    Split(File, File),
    Build(Box<Recipe>, File),
}

impl Inputs {
    fn open(work: &Work<'_>) -> Result<Inputs, String> {
        let read = |path: &str| File::open(path).map_err(failed(format!("open {path}")));
        match work {
            Work::Unified(file) => Ok(Inputs::Unified(read(file)?)),
            Work::Split { metadata, rootfs } => Ok(Inputs::Split(read(metadata)?, read(rootfs)?)),
            Work::Build { recipe, out, .. } => {
                let text = std::fs::read_to_string(recipe).map_err(failed(format!("read {recipe}")))?;
                let recipe = Recipe::parse(recipe, &text).map_err(failed("recipe"))?;
                let out = File::create(out).map_err(failed(format!("create {out}")))?;
                Ok(Inputs::Build(Box::new(recipe), out))
            }
        }
    }

    fn work(self, root: BorrowedFd<'_>, socket: BorrowedFd<'_>) -> Result<Outcome, String> {
        match self {
            Inputs::Unified(file) => {
                let total = size(&file);
                confine(root, Some(MEMORY))?;
                let mut progress = UnpackProgress::new(socket, total);
                unpack_unified(BufReader::new(file), root, &Options::default(), &mut |p| progress.tell(p.bytes_in))
            }
            Inputs::Split(metadata, rootfs) => {
                let total = size(&metadata) + size(&rootfs);
                confine(root, Some(MEMORY))?;
                let mut progress = UnpackProgress::new(socket, total);
                let (metadata, rootfs) = (BufReader::new(metadata), BufReader::new(rootfs));
                unpack_split(metadata, rootfs, root, &Options::default(), &mut |p| progress.tell(p.bytes_in))
            }
            Inputs::Build(recipe, out) => return build_image(&recipe, out, root, socket),
        }
        .map(|unpacked| Outcome {
            fingerprint: unpacked.fingerprint,
            size: unpacked.archive_bytes,
            architecture: unpacked.metadata.architecture.clone(),
            properties: unpacked.metadata.properties.clone(),
            created_at: unpacked.metadata.creation_date,
            expires_at: unpacked.metadata.expiry_date,
            entries: unpacked.entries,
        })
        .map_err(|error| chain(&error))
    }
}

fn size(file: &File) -> u64 {
    file.metadata().map_or(0, |metadata| metadata.len())
}

/// From here on only the staging directory can be reached by path.
fn confine(root: BorrowedFd<'_>, memory: Option<u64>) -> Result<(), String> {
    if let Some(bytes) = memory {
        let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
        rustix::process::setrlimit(Resource::As, limit).map_err(failed("setrlimit"))?;
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(root, c".", flags, Mode::empty()).map_err(failed("open the staging directory"))?;
    kernel::landlock::restrict(&[root.as_fd()], &[]).map_err(failed("landlock"))
}

fn build_image(recipe: &Recipe, out: File, root: BorrowedFd<'_>, socket: BorrowedFd<'_>) -> Result<Outcome, String> {
    let architecture = Architecture::host().ok_or("recipes are for x86_64 and aarch64")?;
    // The builder mounts, which Landlock forbids: so it is started first and keeps its rights, and we give up ours.
    let building = build::start(recipe, architecture, Path::new("/tmp")).map_err(|error| chain(&error))?;
    confine(root, None)?;
    let mut last = String::new();
    let built = building
        .finish(root, &Limits::default(), &mut |progress| {
            if progress.stage != last {
                progress.stage.clone_into(&mut last);
                tell(socket, &Report::Progress(format!("building {}: {last}", recipe.name)));
            }
        })
        .map_err(|error| chain(&error))?;
    tell(socket, &Report::Progress(format!("building {}: packing", recipe.name)));
    let none = std::collections::BTreeMap::new();
    let (out, packed) = pack::pack_unified(out, Compression::Zstd, &built.metadata, &none, root, &mut |_| ())
        .map_err(|error| chain(&error))?;
    out.sync_all().map_err(failed("sync the image"))?;
    Ok(Outcome {
        fingerprint: packed.fingerprint,
        size: packed.archive_bytes,
        architecture: built.metadata.architecture.clone(),
        properties: built.metadata.properties.clone(),
        created_at: built.metadata.creation_date,
        expires_at: built.metadata.expiry_date,
        entries: packed.tree.entries,
    })
}

/// Tells hundredths, each once.
struct UnpackProgress<'a> {
    socket: BorrowedFd<'a>,
    total: u64,
    told: u64,
}

impl UnpackProgress<'_> {
    fn new(socket: BorrowedFd<'_>, total: u64) -> UnpackProgress<'_> {
        UnpackProgress { socket, total: total.max(1), told: 0 }
    }

    fn tell(&mut self, bytes: u64) {
        let percent = (bytes * 100 / self.total).min(100);
        if percent > self.told {
            self.told = percent;
            tell(self.socket, &Report::Progress(format!("Unpacking image: {percent}%")));
        }
    }
}
