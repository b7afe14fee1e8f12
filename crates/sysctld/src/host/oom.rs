//! Processes that the kernel kills because a guest has no memory left: told by the kernel, asked for by nobody.
//!
//! One descriptor for all guests wakes us ([`Groups::watch_oom`]); counters tell whose processes were killed, and the
//! kernel's log, where we may read it, tells which.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use engine::HostEvent;
use kernel::Errno;
use model::Boot;
use runtime::cgroup::Groups;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::channel;
use super::hits::HitWatch;

/// Looks after one notice. cgroup v1 says that memory is out before it kills; a kill may take the victim a while.
const LOOKS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(50), Duration::from_secs(1)];

/// Records of the kernel's log that are read at once: its buffer holds a few thousand.
const RECORDS: usize = 4096;

/// Whoever waits for kills.
#[derive(Debug)]
pub(super) struct OomWatch {
    groups: Arc<Groups>,
    /// Who is to know, as no other file of cgroup v1 tells of memory.
    hits: Option<Arc<HitWatch>>,
    socket: AsyncFd<OwnedFd>,
    /// Kills that were told of each boot.
    told: Mutex<BTreeMap<Boot, u64>>,
}

impl OomWatch {
    pub(super) fn start(
        groups: Arc<Groups>,
        hits: Option<Arc<HitWatch>>,
        events: mpsc::Sender<HostEvent>,
    ) -> Result<Arc<OomWatch>, Errno> {
        let socket = channel::watch(groups.oom_notices()?, Interest::READABLE)?;
        let watch = Arc::new(OomWatch { groups, hits, socket, told: Mutex::default() });
        tokio::spawn(watch.clone().run(events));
        Ok(watch)
    }

    /// From now on kills in a boot's group are told. Without them a guest runs just as well.
    pub(super) fn add(&self, boot: Boot) {
        let kills = self.groups.hits(boot).oom_kills;
        let is_new = self.told().insert(boot, kills).is_none();
        if is_new && let Err(error) = self.groups.watch_oom(boot, self.socket.get_ref()) {
            tracing::warn!(%boot, %error, "kills for want of memory are not told");
        }
    }

    pub(super) fn remove(&self, boot: Boot) {
        self.told().remove(&boot);
    }

    fn told(&self) -> std::sync::MutexGuard<'_, BTreeMap<Boot, u64>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self: Arc<Self>, events: mpsc::Sender<HostEvent>) {
        let mut log = kernel_log();
        while let Ok(mut ready) = self.socket.readable().await {
            let mut notices = [0u8; 4096];
            // What it says is only that something is to be seen.
            while rustix::io::read(self.socket.get_ref(), &mut notices).is_ok_and(|n| n > 0) {}
            ready.clear_ready();
            for pause in LOOKS {
                tokio::time::sleep(pause).await;
                self.look(log.as_mut(), &events);
            }
        }
    }

    fn look(&self, log: Option<&mut File>, events: &mpsc::Sender<HostEvent>) {
        let mut killed = Vec::new();
        for (boot, told) in self.told().iter_mut() {
            let kills = self.groups.hits(*boot).oom_kills;
            if kills > *told {
                killed.push((*boot, kills - *told));
                *told = kills;
            }
        }
        if killed.is_empty() {
            return;
        }
        let said = log.map(read_log).unwrap_or_default();
        for (boot, kills) in killed {
            let victims = victims(&said, boot);
            tracing::warn!(%boot, kills, ?victims, "killed for want of memory");
            let _ = events.try_send(HostEvent::OutOfMemory { boot, kills, victims });
            self.hits.iter().for_each(|hits| hits.look(boot));
        }
    }
}

/// The kernel's log from here on; `None` where it is not for us.
fn kernel_log() -> Option<File> {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let mut log = File::options().read(true).custom_flags(nonblocking).open("/dev/kmsg").ok()?;
    log.seek(SeekFrom::End(0)).ok()?;
    Some(log)
}

fn read_log(log: &mut File) -> String {
    let (mut text, mut record) = (String::new(), [0u8; 8192]);
    for _ in 0..RECORDS {
        match log.read(&mut record) {
            Ok(length) if length > 0 => text.push_str(&String::from_utf8_lossy(&record[..length])),
            // Older records were overwritten meanwhile: on with what is left.
            Err(error) if error.raw_os_error() == Some(Errno::PIPE.raw_os_error()) => {}
            _ => break,
        }
    }
    text
}

/// Names of the programs of a boot that were killed, from lines like
/// `oom-kill:constraint=CONSTRAINT_MEMCG,…,oom_memcg=/base/BOOT,task_memcg=/base/BOOT,task=dd,pid=7,uid=0`.
fn victims(log: &str, boot: Boot) -> Vec<String> {
    let name = boot.to_string();
    // Wherever in the guest it was, and whoever had no memory left: the guest, a group of its own making, or the host.
    let is_inside = |path: &str| path.split('/').any(|part| part == name);
    let of_boot = |line: &&str| {
        line.contains("oom-kill:")
            && line.split(',').any(|part| part.strip_prefix("task_memcg=").is_some_and(is_inside))
    };
    let victim = |line: &str| line.split(',').find_map(|part| Some(part.strip_prefix("task=")?.to_owned()));
    log.lines().filter(of_boot).filter_map(victim).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn victims_are_those_of_the_boot_alone() {
        let boot: Boot = "3f1c9a52-6f0e-4a0b-9d7e-000000000001.2".parse().expect("a boot");
        let line = |boot: &str, task: &str| {
            format!(
                "4,1,2,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=x,mems_allowed=0,oom_memcg=/sysctl-a/{boot},task_memcg=/sysctl-a/{boot},task={task},pid=7,uid=0\n"
            )
        };
        let log =
            line(&boot.to_string(), "dd") + &line("3f1c9a52-6f0e-4a0b-9d7e-000000000001.22", "other") + "nonsense\n";
        assert_eq!(victims(&log, boot), ["dd"]);
        // In a group that the guest made, and when the host had no memory left.
        let deep = format!(
            "4,1,2,-;oom-kill:constraint=CONSTRAINT_MEMCG,oom_memcg=/sysctl-a/{boot}/payload/x,task_memcg=/sysctl-a/{boot}/payload/x,task=java,pid=7,uid=0\n"
        );
        let global = format!(
            "4,1,2,-;oom-kill:constraint=CONSTRAINT_NONE,global_oom,task_memcg=/sysctl-a/{boot}/payload,task=node,pid=7,uid=0\n"
        );
        assert_eq!(victims(&(deep + &global), boot), ["java", "node"]);
        assert_eq!(victims("", boot), [""; 0]);
    }
}
