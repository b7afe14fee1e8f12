//! A daemon of its own for each test: started, driven through the client, killed, and gone without a trace at the end.

#![allow(dead_code, missing_docs, unreachable_pub)]

pub mod crashing;
pub mod curve;
pub mod mirror;
pub mod readme;
pub mod strace;
pub mod taken;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sysctl_api::{DoctorReport, Event, ExecPost, InstancePut, InstanceSource, InstancesPost, Operation, StatePut};
use sysctl_client::{Client, Error, Events, ImageUpload, ImageWords};
use testkit::Scratch;

/// Longest wait for anything that the daemon promises.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A program's end and output.
#[derive(Debug, PartialEq, Eq)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

pub struct Daemon {
    pub client: Client,
    scratch: Scratch,
    state_dir: PathBuf,
    /// Where its own copies of the programs are, in a test that replaces them.
    programs: Option<PathBuf>,
    child: Option<Child>,
    environment: Vec<(String, String)>,
    /// What its start is wrapped in: strace and its words.
    tracer: Vec<String>,
    purged: bool,
}

/// Where the programs are: of the release that is tested, or beside this test.
pub fn program(name: &str) -> PathBuf {
    let beside = Path::new(env!("CARGO_BIN_EXE_sysctld")).with_file_name(name);
    let path = std::env::var_os("SYSCTL_BIN_DIR").map_or(beside, |dir| PathBuf::from(dir).join(name));
    assert!(path.exists(), "{} is missing: cargo build -p keeper -p sysctld -p sysctl-cli", path.display());
    path
}

impl Daemon {
    /// A daemon with an empty state directory.
    pub fn new(what: &str) -> Daemon {
        Daemon::with(what, &[])
    }

    /// The same with more in its environment, or that of whatever it starts.
    pub fn with(what: &str, environment: &[(&str, &str)]) -> Daemon {
        let scratch = Scratch::new(what);
        let state_dir = scratch.join("state");
        Daemon::at(scratch, state_dir, None, environment)
    }

    /// A daemon with programs of its own, which the test may replace; see [`Daemon::install`].
    pub fn with_own_programs(what: &str) -> Daemon {
        let scratch = Scratch::new(what);
        let (state_dir, programs) = (scratch.join("state"), scratch.join("bin"));
        std::fs::create_dir(&programs).expect("mkdir");
        for name in ["sysctld", "sysctl-keeper"] {
            std::fs::copy(program(name), programs.join(name)).expect("copy a program");
        }
        Daemon::at(scratch, state_dir, Some(programs), &[])
    }

    /// Puts another program in the place of its own one, as packages do: the file that runs is not touched.
    pub fn install(&self, name: &str, content: &[u8]) {
        let path = self.programs.as_ref().expect("programs of its own").join(name);
        std::fs::write(path.with_extension("new"), content).expect("write a program");
        let mode = std::fs::metadata(&path).expect("the former one").permissions();
        std::fs::set_permissions(path.with_extension("new"), mode).expect("chmod");
        std::fs::rename(path.with_extension("new"), &path).expect("rename");
    }

    /// A daemon whose state is on a disk of its own.
    pub fn on(disk: &Path) -> Daemon {
        Daemon::at(Scratch::new("disk"), disk.join("state"), None, &[])
    }

    fn at(scratch: Scratch, state_dir: PathBuf, programs: Option<PathBuf>, environment: &[(&str, &str)]) -> Daemon {
        testkit::require_root();
        let client = Client::new(scratch.join("run/unix.socket"));
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let tracer = Vec::new();
        let mut daemon =
            Daemon { client, scratch, state_dir, programs, child: None, environment, tracer, purged: false };
        daemon.start();
        daemon
    }

    pub fn state_dir(&self) -> PathBuf {
        self.state_dir.clone()
    }

    pub fn runtime_dir(&self) -> PathBuf {
        self.scratch.join("run")
    }

    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the daemon runs").id()
    }

    /// The command line of a daemon on the same directories.
    pub fn command(&self) -> Command {
        let own = self.programs.as_ref().map(|programs| programs.join("sysctld"));
        let mut command = Command::new(own.unwrap_or_else(|| program("sysctld")));
        command.arg("--state-dir").arg(self.state_dir()).arg("--runtime-dir").arg(self.runtime_dir());
        command.args(["--log-level", "debug"]).envs(self.environment.clone()).stdin(Stdio::null());
        command
    }

    pub fn set_environment(&mut self, key: &str, value: &str) {
        self.environment.retain(|(k, _)| k != key);
        self.environment.push((key.to_owned(), value.to_owned()));
    }

    /// Starts the daemon and waits until it says that it is ready, as systemd would.
    pub fn start(&mut self) {
        let notify = self.begin();
        let mut said = [0u8; 256];
        let begun = std::time::Instant::now();
        let length = loop {
            match notify.recv(&mut said) {
                Ok(length) => break length,
                Err(error) => {
                    let ended = self.child.as_mut().expect("just started").try_wait().expect("look");
                    assert!(ended.is_none() && begun.elapsed() < PATIENCE, "{ended:?} {error}\n{}", self.log());
                }
            }
        };
        assert!(said[..length].starts_with(b"READY=1"), "{}", self.log());
    }

    /// Starts the daemon; it will say on the returned socket that it is ready.
    fn begin(&mut self) -> UnixDatagram {
        let path = self.scratch.join("notify");
        let _ = std::fs::remove_file(&path);
        let notify = UnixDatagram::bind(&path).expect("bind the notify socket");
        // Between two looks whether the daemon lives.
        notify.set_read_timeout(Some(Duration::from_millis(500))).expect("set a time-out");
        let log = File::options().create(true).append(true).open(self.scratch.join("log")).expect("open the log");
        let mut command = self.traced(self.command());
        command.env("NOTIFY_SOCKET", &path).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("start sysctld"));
        notify
    }

    /// Has the daemon started by another program from now on, which becomes it.
    pub fn start_by(&mut self, words: &[&str]) {
        self.tracer = words.iter().map(|word| (*word).to_owned()).collect();
    }

    fn traced(&self, command: Command) -> Command {
        let Some((tracer, words)) = self.tracer.split_first() else { return command };
        let mut traced = Command::new(tracer);
        traced.args(words).arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
        traced.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
        traced
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.scratch.join("log")).unwrap_or_default()
    }

    /// As by a crash: nothing is written, nothing is said.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the daemon runs");
        child.kill().expect("kill");
        child.wait().expect("wait");
    }

    /// As by `systemctl stop`.
    pub fn terminate(&mut self) {
        let mut child = self.child.take().expect("the daemon runs");
        signal(child.id(), rustix::process::Signal::TERM);
        assert!(child.wait().expect("wait").success(), "{}", self.log());
    }

    /// Waits for the end that was asked for otherwise.
    pub fn wait(&mut self) {
        let mut child = self.child.take().expect("the daemon runs");
        assert!(child.wait().expect("wait").success(), "{}", self.log());
    }

    /// Makes the busybox image known, without building it again.
    pub async fn import_busybox(&self) -> String {
        self.import(&busybox_archive().await, &["bb"]).await.expect("imported")
    }

    /// Makes the image in an archive known; its fingerprint.
    pub async fn import(&self, archive: &Path, aliases: &[&str]) -> Result<String, Error> {
        let file = tokio::fs::File::open(archive).await.expect("open the archive");
        let aliases = aliases.iter().map(|&alias| alias.into()).collect();
        let words = ImageWords { aliases, ..ImageWords::default() };
        let operation = self.client.import_image(ImageUpload::Unified(Box::new(file)), &words).await?;
        let done = self.client.finish(&operation).await?;
        Ok(done.metadata.expect("metadata")["fingerprint"].as_str().expect("text").to_owned())
    }

    /// Keeps the archive of an image for whoever comes after.
    pub fn keep_image(&self, fingerprint: &str, path: &Path) {
        let image = self.state_dir().join("images").join(fingerprint).join("image");
        std::fs::copy(image, path.with_extension("new")).expect("copy the image");
        std::fs::rename(path.with_extension("new"), path).expect("rename the image");
    }

    /// Deletes every instance and every image.
    pub async fn empty(&self) {
        for instance in self.client.get_instances(&Default::default()).await.expect("instances") {
            if instance.status == "Running" {
                self.change(&instance.name, "stop", true).await;
            }
            self.try_delete(&instance.name).await.expect("deleted");
        }
        for image in self.client.get_images(&Default::default()).await.expect("images") {
            let operation = self.client.delete_image(&image.fingerprint).await.expect("accepted");
            self.client.finish(&operation).await.expect("deleted");
        }
    }

    /// Makes an instance of the busybox image.
    pub async fn launch(&self, name: &str, config: &[(&str, &str)]) {
        let operation = self.client.create_instance(&post(name, config)).await.expect("accepted");
        self.client.finish(&operation).await.unwrap_or_else(|e| panic!("launch {name}: {e}\n{}", self.log()));
    }

    pub async fn try_change(&self, name: &str, action: &str, force: bool) -> Result<Operation, Error> {
        let put = StatePut { action: action.into(), timeout: 30, force, stateful: false };
        let operation = self.client.update_instance_state(name, &put).await?;
        self.client.finish(&operation).await
    }

    pub async fn change(&self, name: &str, action: &str, force: bool) {
        let done = self.try_change(name, action, force).await;
        done.unwrap_or_else(|e| panic!("{action} {name}: {e}\n{}", self.log()));
    }

    pub async fn set(&self, name: &str, config: &[(&str, &str)]) -> Result<(), Error> {
        let operation = self.client.patch_instance(name, &patch(config), None).await?;
        self.client.finish(&operation).await.map(drop)
    }

    pub async fn try_delete(&self, name: &str) -> Result<(), Error> {
        let operation = self.client.delete_instance(name).await?;
        self.client.finish(&operation).await.map(drop)
    }

    pub async fn status(&self, name: &str) -> String {
        self.client.get_instance(name).await.expect("an instance").value.status
    }

    /// Waits, by events, until an instance is as it should be.
    pub async fn until_status(&self, name: &str, status: &str) {
        let mut events = self.client.get_events(&Default::default()).await.expect("events");
        let waiting = async {
            while self.status(name).await != status {
                events.next().await.expect("events").expect("an event");
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        if waited.is_err() {
            panic!("{name} is {} and not {status}\n{}", self.status(name).await, self.log());
        }
    }

    pub async fn init_pid(&self, name: &str) -> u32 {
        self.client.get_instance_state(name).await.expect("state").pid.try_into().expect("a pid")
    }

    /// Runs a program and takes everything that it says.
    pub async fn exec(&self, name: &str, command: &[&str]) -> Output {
        self.exec_with(name, &order(command), b"").await.unwrap_or_else(|e| panic!("{command:?}: {e}\n{}", self.log()))
    }

    pub async fn exec_with(&self, name: &str, order: &ExecPost, input: &[u8]) -> Result<Output, Error> {
        let mut exec = self.client.exec_instance(name, order).await?;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let read_out = async {
            while let Some(bytes) = exec.stdout.read().await? {
                stdout.extend_from_slice(&bytes);
            }
            Ok::<(), Error>(())
        };
        let read_err = async {
            while let Some(bytes) = exec.stderr.as_mut().expect("no terminal").read().await? {
                stderr.extend_from_slice(&bytes);
            }
            Ok::<(), Error>(())
        };
        let write = async {
            exec.stdin.write(input.to_vec().into()).await?;
            exec.stdin.close().await
        };
        let all = async { tokio::try_join!(read_out, read_err, write) };
        tokio::time::timeout(PATIENCE, all).await.expect("a program that ends")?;
        let code = self.client.exec_result(&exec.operation.id).await?;
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Ok(Output { code, stdout: text(stdout), stderr: text(stderr) })
    }

    /// What a program prints; it must succeed.
    pub async fn print(&self, name: &str, command: &[&str]) -> String {
        let output = self.exec(name, command).await;
        assert_eq!(output.code, 0, "{command:?}: {output:?}");
        output.stdout.trim_end().to_owned()
    }

    pub async fn doctor(&self) -> DoctorReport {
        self.client.get_doctor().await.expect("doctor")
    }

    /// Nothing is orphaned, half-made or missing.
    pub async fn healthy(&self) {
        let report = self.doctor().await;
        assert!(report.findings.is_empty(), "{:#?}\n{}", report.findings, self.log());
    }

    /// The end of every test: healthy, and once everything is removed, without a trace.
    pub async fn finish(mut self) {
        self.healthy().await;
        self.purge();
        assert_eq!(self.traces(), [""; 0]);
    }

    fn purge(&mut self) {
        if self.child.is_some() {
            self.terminate();
        }
        let output = self.command().arg("--purge").output().expect("sysctld --purge");
        self.purged = true;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "purge: {said}");
    }

    /// Everything on the host that carries this test's directory or its mark.
    pub fn traces(&self) -> Vec<String> {
        let directory = self.scratch.path().display().to_string();
        let mark = mark(&self.state_dir());
        let mut traces = Vec::new();
        for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
            let arguments = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            if arguments.contains(&directory) {
                traces.push(format!("process {}", arguments.replace('\0', " ")));
            }
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        traces.extend(mounts.lines().filter(|l| l.contains(&directory)).map(|l| format!("mount {l}")));
        for root in group_roots() {
            let group = root.join(format!("sysctl-{mark}"));
            traces.extend(group.exists().then(|| format!("group {}", group.display())));
        }
        for entry in std::fs::read_dir("/sys/class/net").expect("links").flatten() {
            let alias = std::fs::read_to_string(entry.path().join("ifalias")).unwrap_or_default();
            traces.extend(alias.contains(&mark).then(|| format!("link {alias}")));
        }
        let tables = Command::new("nft").args(["list", "tables"]).output().expect("nft").stdout;
        let tables = String::from_utf8_lossy(&tables).into_owned();
        traces.extend(tables.lines().filter(|l| l.contains(&mark)).map(str::to_owned));
        for path in [self.state_dir(), self.runtime_dir(), Path::new("/run/lock/sysctl").join(&mark)] {
            traces.extend(path.exists().then(|| format!("file {}", path.display())));
        }
        traces
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // A test that failed is cleaned up after, too.
        if !self.purged {
            if let Some(mut child) = self.child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
            let output = self.command().arg("--purge").output();
            if std::thread::panicking() {
                eprintln!("{}", self.log());
            } else {
                panic!("a test ended without finish(): {output:?}");
            }
        }
    }
}

/// A process, as `/proc` tells of it.
#[derive(Debug)]
pub struct Process {
    pub pid: u32,
    pub parent: u32,
    pub arguments: String,
}

/// Every process that runs.
pub fn processes() -> Vec<Process> {
    let of = |pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())?;
        let arguments = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        Some(Process { pid, parent, arguments })
    };
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    entries.filter_map(|entry| of(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// The short hash that names on the host carry.
pub fn mark(state_dir: &Path) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(state_dir.as_os_str().as_encoded_bytes());
    digest.iter().take(3).map(|byte| format!("{byte:02x}")).collect()
}

/// Whether memory is limited by a hierarchy of cgroup v1.
pub fn limits_are_in_v1() -> bool {
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    mountinfo.lines().any(|line| {
        line.split_once(" - cgroup ").is_some_and(|(_, rest)| rest.split([',', ' ']).any(|option| option == "memory"))
    })
}

/// Where hierarchies of control groups are mounted in which a daemon makes groups.
pub fn group_roots() -> Vec<PathBuf> {
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let is_group = |line: &&str| line.contains(" - cgroup ") || line.contains(" - cgroup2 ");
    let lines = mountinfo.lines().filter(is_group);
    lines.filter_map(|line| line.split(' ').nth(4).map(PathBuf::from)).collect()
}

pub fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().expect("a pid")).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("kill");
}

/// The same for a process that may be gone already.
pub fn try_signal(pid: u32, signal: rustix::process::Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// A process that a test stops: it does not stay when that fails.
pub struct Held(std::os::fd::OwnedFd);

impl Held {
    pub fn new(pid: u32) -> Held {
        let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
        Held(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).expect("a process"))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = rustix::process::pidfd_send_signal(&self.0, rustix::process::Signal::KILL);
    }
}

/// Waits until this is told of something, and returns it.
pub async fn told(events: &mut Events, action: &str) -> Event {
    let told = async {
        loop {
            let event = events.next().await.expect("events").expect("an event");
            if event.metadata["action"] == action {
                return event;
            }
        }
    };
    tokio::time::timeout(PATIENCE, told).await.unwrap_or_else(|_| panic!("{action} was not told"))
}

pub fn strings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// A started instance of the busybox image.
pub fn post(name: &str, config: &[(&str, &str)]) -> InstancesPost {
    InstancesPost {
        name: name.into(),
        config: strings(config),
        source: InstanceSource { kind: "image".into(), alias: "bb".into(), ..InstanceSource::default() },
        kind: "container".into(),
        start: true,
        ..InstancesPost::default()
    }
}

pub fn patch(config: &[(&str, &str)]) -> InstancePut {
    InstancePut { config: Some(strings(config)), ..InstancePut::default() }
}

pub fn order(command: &[&str]) -> ExecPost {
    ExecPost { command: command.iter().map(|&word| word.into()).collect(), ..ExecPost::default() }
}

/// The busybox image as an archive, built by a daemon of its own from the recipe once for all tests.
pub async fn busybox_archive() -> PathBuf {
    static ONCE: tokio::sync::OnceCell<PathBuf> = tokio::sync::OnceCell::const_new();
    let path = ONCE.get_or_init(|| async {
        let path = kept("busybox.tar.zst");
        let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../images/busybox.toml");
        let modified = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified()).ok();
        if modified(&path) < modified(&recipe) {
            let daemon = Daemon::new("image");
            let operation = daemon.client.build_image("busybox", &[]).await.expect("accepted");
            let done = daemon.client.finish(&operation).await.unwrap_or_else(|e| panic!("{e}\n{}", daemon.log()));
            let fingerprint = done.metadata.expect("metadata")["fingerprint"].as_str().expect("text").to_owned();
            daemon.keep_image(&fingerprint, &path);
            daemon.finish().await;
        }
        path
    });
    path.await.clone()
}

/// Where an archive is kept for other tests, and for the machine of the ring `vm`.
pub fn kept(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// An archive of an image that is small itself and has so many MiB of zeros in it.
pub fn archive_of_zeros(work: &Scratch, mebibytes: usize) -> PathBuf {
    std::fs::create_dir_all(work.join("rootfs/sbin")).expect("mkdir");
    std::fs::write(work.join("metadata.yaml"), "architecture: x86_64\ncreation_date: 1700000000\n").expect("write");
    std::fs::write(work.join("rootfs/sbin/init"), vec![0u8; mebibytes << 20]).expect("write");
    let archive = work.join("image.tar.gz");
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(work.path()).arg("-czf").arg(&archive).args(["metadata.yaml", "rootfs"]);
    assert!(tar.status().expect("tar").success());
    archive
}
