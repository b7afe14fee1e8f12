//! What clients ask for in the middle of a crash, how far it came, and the one judge of what must hold afterwards.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use sysctl_api::{InstancePut, NamespacesPost, Operation};
use sysctl_client::{Attributes, Client, Error, ImageUpload, ImageWords};

use super::mirror::Mirror;
use super::{Daemon, PATIENCE, patch, post, strings};

/// The instance that everything is done to, and the one that nothing may happen to.
pub const VICTIM: &str = "web1";
pub const BYSTANDER: &str = "other";

/// The limit that [`Act::Limit`] sets.
const LIMIT: &str = "67108864";

/// Something that a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Create,
    Launch,
    Start,
    Halt,
    Stop,
    Restart,
    Delete,
    Freeze,
    Thaw,
    Limit,
    RemoveNic,
    Exec,
    Push,
    Import,
    Build,
    RemoveImage,
    MakeNetwork,
    DropNetwork,
}

/// Acts on an instance.
pub const INSTANCE_ACTS: [Act; 13] = [
    Act::Create,
    Act::Launch,
    Act::Start,
    Act::Halt,
    Act::Stop,
    Act::Restart,
    Act::Delete,
    Act::Freeze,
    Act::Thaw,
    Act::Limit,
    Act::RemoveNic,
    Act::Exec,
    Act::Push,
];

/// Acts on an image; building is in a class of its own, because it takes so long.
pub const IMAGE_ACTS: [Act; 2] = [Act::Import, Act::RemoveImage];

/// Acts on a namespace object.
pub const NAMESPACE_ACTS: [Act; 2] = [Act::MakeNetwork, Act::DropNetwork];

/// Acts that make, keep or let go a network that outlives its boots.
pub const PERSISTENT_ACTS: [Act; 6] = [Act::Create, Act::Launch, Act::Start, Act::Stop, Act::Restart, Act::Delete];

/// How an instance is: what an act begins with, and what it ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    Absent,
    Stopped,
    Running,
    Frozen,
}

/// How far something came, as its client saw it.
#[derive(Debug)]
pub struct Seen {
    /// What the daemon accepted.
    pub operation: Option<Operation>,
    /// The end that was told; `None` when nobody was there any more to tell one.
    pub end: Option<Result<(), String>>,
}

impl Act {
    /// Has what the act begins with, whatever is now.
    pub async fn prepare(self, daemon: &Daemon) {
        match self {
            Act::Create | Act::Launch => bring(daemon, Is::Absent).await,
            Act::Start | Act::Delete => bring(daemon, Is::Stopped).await,
            Act::Halt | Act::Stop | Act::Restart | Act::Freeze | Act::Exec => bring(daemon, Is::Running).await,
            Act::Thaw => bring(daemon, Is::Frozen).await,
            Act::Limit | Act::RemoveNic => {
                bring(daemon, Is::Running).await;
                if self.is_reached(daemon).await {
                    bring(daemon, Is::Absent).await;
                    bring(daemon, Is::Running).await;
                }
            }
            Act::Push => {
                bring(daemon, Is::Running).await;
                daemon.print(VICTIM, &["rm", "-f", "/root/pushed"]).await;
            }
            Act::Import | Act::Build => forget_images(daemon).await,
            Act::MakeNetwork | Act::DropNetwork => {
                let is_there = network(daemon).await;
                if is_there != (self == Act::DropNetwork) {
                    let other = if is_there { Act::DropNetwork } else { Act::MakeNetwork };
                    other.attempt(&daemon.client).await;
                }
            }
            Act::RemoveImage if daemon.client.get_image_alias("bb").await.is_ok() => {}
            Act::RemoveImage => {
                forget_images(daemon).await;
                daemon.import_busybox().await;
            }
        }
    }

    /// Asks for it. An operation is only begun by this; what has none is done.
    async fn ask(self, client: &Client) -> Result<Option<Operation>, Error> {
        let state = async |action: &str, force: bool| {
            let put = sysctl_api::StatePut { action: action.into(), timeout: 30, force, stateful: false };
            client.update_instance_state(VICTIM, &put).await.map(Some)
        };
        match self {
            Act::Create => {
                let created = sysctl_api::InstancesPost { start: false, ..post(VICTIM, &[]) };
                client.create_instance(&created).await.map(Some)
            }
            Act::Launch => client.create_instance(&post(VICTIM, &[])).await.map(Some),
            Act::Start => state("start", false).await,
            Act::Halt => state("stop", false).await,
            Act::Stop => state("stop", true).await,
            Act::Restart => state("restart", true).await,
            Act::Freeze => state("freeze", false).await,
            Act::Thaw => state("unfreeze", false).await,
            Act::Delete => client.delete_instance(VICTIM).await.map(Some),
            Act::Limit => client.patch_instance(VICTIM, &patch(&[("limits.memory", LIMIT)]), None).await.map(Some),
            Act::RemoveNic => {
                let none = BTreeMap::from([("eth0".to_owned(), strings(&[("type", "none")]))]);
                let put = InstancePut { devices: Some(none), ..InstancePut::default() };
                client.patch_instance(VICTIM, &put, None).await.map(Some)
            }
            Act::Exec => {
                let mut exec = client.exec_instance(VICTIM, &super::order(&["echo", "whole"])).await?;
                let mut said = Vec::new();
                while let Some(bytes) = exec.stdout.read().await? {
                    said.extend_from_slice(&bytes);
                }
                let code = client.exec_result(&exec.operation.id).await?;
                if (code, &*said) == (0, b"whole\n") {
                    return Ok(None);
                }
                let act = format!("exec ended with {code} and said {:?}", String::from_utf8_lossy(&said));
                Err(Error::Local { act, source: std::io::Error::other("it is not whole") })
            }
            Act::Push => {
                let mut files = client.get_instance_sftp(VICTIM).await?;
                let mut content: &[u8] = b"whole";
                let attributes = Attributes::default();
                files.write_file(Path::new("/root/pushed"), &mut content, &attributes).await.map(|_| None)
            }
            Act::Import => {
                let path = super::busybox_archive().await;
                let file = tokio::fs::File::open(&path).await.expect("open the archive");
                let words = ImageWords { aliases: vec!["bb".into()], ..ImageWords::default() };
                client.import_image(ImageUpload::Unified(Box::new(file)), &words).await.map(Some)
            }
            Act::Build => client.build_image("busybox", &[]).await.map(Some),
            Act::MakeNetwork => {
                let post =
                    NamespacesPost { kind: "net".into(), name: network_name(), netns: true, ..Default::default() };
                client.create_namespace(&post).await.map(|()| None)
            }
            Act::DropNetwork => client.delete_namespace("net", &network_name()).await.map(|()| None),
            Act::RemoveImage => {
                let fingerprint = client.get_image_alias("bb").await?.value.target;
                client.delete_image(&fingerprint).await.map(Some)
            }
        }
    }

    /// Does it to the end, or until the daemon is gone.
    pub async fn attempt(self, client: &Client) -> Seen {
        let attempted = async {
            let operation = match self.ask(client).await {
                Ok(Some(operation)) => operation,
                Ok(None) => return Seen { operation: None, end: Some(Ok(())) },
                Err(error) => return Seen { operation: None, end: told(&error).then(|| Err(error.to_string())) },
            };
            let end = match client.wait_operation(&operation.id, None).await {
                Ok(ended) if ended.err.is_empty() => Some(Ok(())),
                Ok(ended) => Some(Err(ended.err)),
                Err(error) => told(&error).then(|| Err(error.to_string())),
            };
            Seen { operation: Some(operation), end }
        };
        let seen = tokio::time::timeout(PATIENCE, attempted).await;
        seen.unwrap_or_else(|_| panic!("{self:?} does not end"))
    }

    /// Whether what was asked for is so.
    async fn is_reached(self, daemon: &Daemon) -> bool {
        match self {
            Act::Create | Act::Halt | Act::Stop => how(daemon).await == Is::Stopped,
            Act::Launch | Act::Start | Act::Restart | Act::Thaw => how(daemon).await == Is::Running,
            Act::Delete => how(daemon).await == Is::Absent,
            Act::Freeze => how(daemon).await == Is::Frozen,
            Act::Limit => {
                let state = daemon.client.get_instance_state(VICTIM).await.expect("state");
                state.memory.total.to_string() == LIMIT
            }
            Act::RemoveNic => {
                let state = daemon.client.get_instance_state(VICTIM).await.expect("state");
                !state.network.expect("links").contains_key("eth0")
            }
            Act::Exec => true,
            Act::Push => daemon.exec(VICTIM, &["cat", "/root/pushed"]).await.stdout == "whole",
            Act::Import | Act::Build => images(daemon).await > 0,
            Act::RemoveImage => images(daemon).await == 0,
            Act::MakeNetwork => network(daemon).await,
            Act::DropNetwork => !network(daemon).await,
        }
    }

    /// What may be when it was not reached.
    async fn is_as_before(self, daemon: &Daemon) -> bool {
        match self {
            // A new instance that could not be started has been made all the same.
            Act::Launch => matches!(how(daemon).await, Is::Absent | Is::Stopped),
            Act::Create => how(daemon).await == Is::Absent,
            Act::Start | Act::Delete => how(daemon).await == Is::Stopped,
            // The old boot was gone when the new one failed.
            Act::Restart => matches!(how(daemon).await, Is::Running | Is::Stopped),
            Act::Halt | Act::Stop | Act::Freeze | Act::Limit | Act::RemoveNic | Act::Exec | Act::Push => {
                how(daemon).await == Is::Running
            }
            Act::Thaw => how(daemon).await == Is::Frozen,
            Act::Import | Act::Build | Act::RemoveImage | Act::MakeNetwork | Act::DropNetwork => true,
        }
    }

    /// The end of an attempt during which something died or failed: settled, told truthfully, and nothing in the way.
    ///
    /// `point` says how to have the same again.
    pub async fn judge(self, daemon: &Daemon, seen: &Seen, point: &str) {
        let violated = |what: &str| -> ! { panic!("violation at {point}: {what}: {seen:?}\n{}", daemon.log()) };
        let mut end = seen.end.clone();
        if let Some(operation) = &seen.operation {
            match daemon.client.wait_operation(&operation.id, Some(PATIENCE)).await {
                Ok(found) if !found.is_final() => violated("the operation does not end"),
                Ok(found) => {
                    let now = if found.err.is_empty() { Ok(()) } else { Err(found.err) };
                    // Whoever was told that it is done may rely on it, over any death of the daemon.
                    if seen.end == Some(Ok(())) && now.is_err() {
                        violated(&format!("told as done, and now {now:?}"));
                    }
                    end = Some(now);
                }
                Err(error) => violated(&format!("accepted, and now {error}")),
            }
        }
        daemon.healthy_at(point).await;
        let reached = self.is_reached(daemon).await;
        match &end {
            Some(Ok(())) if !reached => violated("told as done, and is not"),
            Some(Err(text)) if text.trim().is_empty() => violated("failed without a word"),
            _ if !reached && !self.is_as_before(daemon).await => {
                violated(&format!("neither as wished nor as before, but {:?}", how(daemon).await));
            }
            _ => {}
        }
        if !reached || matches!(self, Act::Exec | Act::Push) {
            self.retry(daemon, point).await;
        }
    }

    /// The same once more, with nothing in its way.
    async fn retry(self, daemon: &Daemon, point: &str) {
        if self == Act::Launch && how(daemon).await == Is::Stopped {
            bring(daemon, Is::Absent).await;
        } else if self == Act::Restart && how(daemon).await == Is::Stopped {
            bring(daemon, Is::Running).await;
        }
        let again = self.attempt(&daemon.client).await;
        let fine = again.end == Some(Ok(())) && self.is_reached(daemon).await;
        assert!(fine, "violation at {point}: asked for again: {again:?}\n{}", daemon.log());
    }
}

/// The daemon itself said it; else it was gone before it could.
fn told(error: &Error) -> bool {
    !(error.is_disconnect() || matches!(error, Error::Connect { .. }))
}

async fn how(daemon: &Daemon) -> Is {
    // A daemon that has just started may not have looked at it yet; the doctor waits for that.
    let found = daemon.client.get_instance(VICTIM).await;
    if found.is_ok_and(|found| matches!(&*found.value.status, "Starting" | "Stopping")) {
        daemon.doctor().await;
    }
    match daemon.client.get_instance(VICTIM).await {
        Ok(found) => match &*found.value.status {
            "Stopped" => Is::Stopped,
            "Running" => Is::Running,
            "Frozen" => Is::Frozen,
            other => panic!("{VICTIM} is {other}\n{}", daemon.log()),
        },
        Err(error) if error.status() == Some(404) => Is::Absent,
        Err(error) => panic!("{error}\n{}", daemon.log()),
    }
}

/// Brings the victim from anywhere to where it is wanted.
async fn bring(daemon: &Daemon, wanted: Is) {
    let found = how(daemon).await;
    match (found, wanted) {
        (Is::Absent, Is::Absent) => {}
        _ if found == wanted => {}
        (Is::Absent, Is::Stopped) => drop(Act::Create.attempt(&daemon.client).await),
        (Is::Absent, Is::Running) => drop(Act::Launch.attempt(&daemon.client).await),
        (Is::Absent, Is::Frozen) => {
            Act::Launch.attempt(&daemon.client).await;
            daemon.change(VICTIM, "freeze", false).await;
        }
        (Is::Stopped, Is::Absent) => daemon.try_delete(VICTIM).await.expect("deleted"),
        (Is::Running | Is::Frozen, Is::Absent) => {
            daemon.change(VICTIM, "stop", true).await;
            daemon.try_delete(VICTIM).await.expect("deleted");
        }
        (Is::Running | Is::Frozen, Is::Stopped) => daemon.change(VICTIM, "stop", true).await,
        (Is::Frozen, _) => daemon.change(VICTIM, "unfreeze", false).await,
        (Is::Running, _) => daemon.change(VICTIM, "freeze", false).await,
        (Is::Stopped, _) => {
            daemon.change(VICTIM, "start", false).await;
            if wanted == Is::Frozen {
                daemon.change(VICTIM, "freeze", false).await;
            }
        }
    }
    assert_eq!(how(daemon).await, wanted, "{}", daemon.log());
}

/// The network object of [`NAMESPACE_ACTS`], which is at /run/netns, too.
fn network_name() -> String {
    format!("sysctl-test-crash-{}", std::process::id())
}

/// Whether it is there: whole, or not at all.
async fn network(daemon: &Daemon) -> bool {
    let found = daemon.client.get_namespace("net", &network_name()).await;
    let is_there = found.as_ref().is_ok_and(|view| view.value.inode != 0);
    let link = Path::new("/run/netns").join(network_name());
    assert_eq!((found.is_ok(), link.exists()), (is_there, is_there), "{}", daemon.log());
    is_there
}

async fn images(daemon: &Daemon) -> usize {
    let images = daemon.client.get_images(&Default::default()).await.expect("images");
    images.iter().filter(|image| image.size > 0).count()
}

async fn forget_images(daemon: &Daemon) {
    let images = daemon.client.get_images(&Default::default()).await.expect("images");
    for image in images.iter().filter(|image| image.size > 0) {
        let operation = daemon.client.delete_image(&image.fingerprint).await.expect("accepted");
        daemon.client.finish(&operation).await.expect("deleted");
    }
}

/// A daemon and somebody whom nothing of all this may touch.
pub struct Crashing {
    pub daemon: Daemon,
    bystander: Option<u32>,
    points: usize,
}

impl Crashing {
    /// With the image, and the bystander running.
    pub async fn new(what: &str) -> Crashing {
        let daemon = Daemon::new(what);
        daemon.import_busybox().await;
        daemon.launch(BYSTANDER, &[]).await;
        let bystander = Some(daemon.init_pid(BYSTANDER).await);
        Crashing { daemon, bystander, points: 0 }
    }

    /// Without either, for acts on images.
    pub fn bare(what: &str) -> Crashing {
        Crashing { daemon: Daemon::new(what), bystander: None, points: 0 }
    }

    /// Has images built from a mirror of the test's own.
    pub fn set_recipes(&mut self, mirror: &Mirror) {
        self.daemon.terminate();
        self.daemon.set_environment("SYSCTL_IMAGES_DIR", &mirror.recipes().display().to_string());
        self.daemon.start();
    }

    /// Has nothing in the daemon's environment but this.
    pub fn set(&mut self, environment: &[(&str, &str)]) {
        for key in ["SYSCTL_CRASH_AT", "SYSCTL_CRASH_COUNT"] {
            let value = environment.iter().find(|(name, _)| *name == key).map_or("", |(_, value)| value);
            self.daemon.set_environment(key, value);
        }
    }

    /// Starts the daemon with this in its environment.
    pub fn start(&mut self, environment: &[(&str, &str)]) {
        self.set(environment);
        self.daemon.start();
    }

    /// Starts it anew.
    pub fn restart(&mut self, environment: &[(&str, &str)]) {
        self.daemon.terminate();
        self.start(environment);
    }

    /// Everything that must hold after a point; it counts when it was `hit`.
    pub async fn judge(&mut self, act: Act, seen: &Seen, hit: bool, point: &str) {
        self.points += usize::from(hit);
        act.judge(&self.daemon, seen, point).await;
        self.judge_bystander(point).await;
    }

    /// The same after a start of the daemon; after a first one there is nothing yet but what it makes itself.
    pub async fn judge_start(&mut self, is_first: bool, hit: bool, point: &str) {
        self.points += usize::from(hit);
        self.daemon.healthy_at(point).await;
        if !is_first {
            return self.judge_bystander(point).await;
        }
        self.bystander = None;
        self.daemon.import_busybox().await;
        self.daemon.launch(BYSTANDER, &[]).await;
        self.daemon.print(BYSTANDER, &["true"]).await;
    }

    async fn judge_bystander(&self, point: &str) {
        if let Some(bystander) = self.bystander {
            assert_eq!(self.daemon.init_pid(BYSTANDER).await, bystander, "violation at {point}: another guest died");
            let said = self.daemon.print(BYSTANDER, &["echo", "alive"]).await;
            assert_eq!(said, "alive", "violation at {point}: another guest is disturbed");
        }
    }

    /// Clean, and the figure.
    pub async fn finish(self, words: &str) {
        eprintln!("figure: crash points {}, violations 0: {words}", self.points);
        self.daemon.finish().await;
    }
}

impl Daemon {
    async fn healthy_at(&self, point: &str) {
        let report = self.doctor().await;
        assert!(report.findings.is_empty(), "violation at {point}: {:#?}\n{}", report.findings, self.log());
    }

    /// Has it dead, by what was injected or else now; whether it was the former.
    pub fn bury(&mut self, expected: i32, is_told_dead: bool) -> bool {
        let mut child = self.child.take().expect("the daemon runs");
        if !is_told_dead {
            child.kill().expect("kill");
        }
        let ended = testkit::eventually("the daemon's end", || child.try_wait().expect("wait"));
        ended.signal() == Some(expected)
    }

    /// Whether it has died; `expected` waits for that.
    pub fn is_dead(&mut self, expected: bool) -> bool {
        let child = self.child.as_mut().expect("the daemon runs");
        let look = |child: &mut std::process::Child| {
            // Not reaped yet: that is for whoever buries it.
            let state = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
            state.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
        };
        if expected {
            testkit::eventually("the daemon's death", || look(child).then_some(()));
        }
        look(child)
    }

    /// Ends it for another start, which is a first one when everything is removed.
    pub fn end_for_start(&mut self, is_first: bool) {
        if is_first {
            self.purge_for_another();
        } else if self.child.is_some() {
            self.terminate();
        }
    }

    /// Starts from now on are traced with these words, as long as there are any. What they start is not.
    pub fn trace_start(&mut self, words: &[String], log: &std::path::Path) {
        self.tracer.clear();
        if !words.is_empty() {
            let fixed = ["strace", "-D", "-f", "-q", "-y", "-b", "execve", "-o"].map(str::to_owned);
            self.tracer.extend(fixed.into_iter().chain([log.display().to_string()]).chain(words.iter().cloned()));
        }
    }

    /// The spawn process and its spare keeper; with `guest` also the keeper of the victim.
    pub async fn keeping(&self, guest: bool) -> Vec<u32> {
        let parent = |init: u32| super::processes().into_iter().find(|p| p.pid == init).map(|p| p.parent);
        let mut init = if guest { Some(self.init_pid(VICTIM).await) } else { None };
        if init.and_then(parent) == Some(1) {
            // Its keeper was the victim before: the next boot has one that is init's parent again.
            self.change(VICTIM, "restart", true).await;
            init = Some(self.init_pid(VICTIM).await);
        }
        let directory = self.runtime_dir().display().to_string();
        if !super::processes().iter().any(|p| p.arguments.contains("spawn") && p.arguments.contains(&directory)) {
            // It was the victim, and nobody has needed another one yet.
            self.launch("waker", &[]).await;
            self.change("waker", "stop", true).await;
            self.try_delete("waker").await.expect("deleted");
        }
        testkit::eventually("the spawn process", || {
            let all = super::processes();
            let spawn = all.iter().find(|p| p.arguments.contains("spawn") && p.arguments.contains(&directory))?;
            let is_spare = |p: &&super::Process| p.parent == spawn.pid && !all.iter().any(|q| q.parent == p.pid);
            let spare = all.iter().filter(|p| p.arguments.contains("keep")).find(is_spare);
            let victims = all.iter().find(|p| Some(p.pid) == init).map(|p| p.parent);
            // There is no spare one for a moment: then its start is followed.
            Some([spawn.pid].into_iter().chain(spare.map(|p| p.pid)).chain(victims).collect())
        })
    }

    /// Starts it; whether it dies by `expected` before it is ready.
    pub fn try_start(&mut self, expected: i32) -> bool {
        let notify = self.begin();
        notify.set_nonblocking(true).expect("set to not block");
        let mut said = [0u8; 256];
        let mut child = self.child.take().expect("the daemon runs");
        let ended = testkit::eventually("readiness or death", || match notify.recv(&mut said) {
            Ok(_) => Some(None),
            Err(_) => child.try_wait().expect("wait").map(Some),
        });
        match ended {
            Some(status) => {
                assert_eq!(status.signal(), Some(expected), "{}", self.log());
                true
            }
            None => {
                self.child = Some(child);
                false
            }
        }
    }

    /// Ends it and removes everything, so that its next start is a first one.
    pub fn purge_for_another(&mut self) {
        if self.child.is_some() {
            self.terminate();
        }
        let output = self.command().arg("--purge").output().expect("sysctld --purge");
        assert!(output.status.success(), "purge: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A purge that is to die on its way.
    pub fn purge_and_die(&mut self, expected: i32) {
        let output = self.command().arg("--purge").output().expect("sysctld --purge");
        assert_eq!(output.status.signal(), Some(expected), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Which of `count` points are tried: all, or every n-th so that about `few` are, beginning at one that the seed says.
pub fn spread_of<T>(all: &[T], few: usize) -> Vec<&T> {
    spread(all.len(), few).into_iter().map(|number| &all[number - 1]).collect()
}

/// The same as numbers from 1.
pub fn spread(count: usize, few: usize) -> Vec<usize> {
    let every = if testkit::budget(0, 1) == 1 { 1 } else { count.div_ceil(few.max(1)).max(1) };
    let first = seed() % every;
    (1..=count).filter(|number| number % every == first % every).collect()
}

/// What a spread begins with; `SYSCTL_TEST_SEED` for another one.
pub fn seed() -> usize {
    std::env::var("SYSCTL_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}
