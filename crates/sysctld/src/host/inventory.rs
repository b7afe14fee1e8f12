//! Everything of ours on this host, for whoever compares it with what is remembered. Only reads: /proc, /sys, directories,
//! netlink through sockets of its own, so that nobody waits for it.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use engine::{Cure, Damage, Inventory, Object, StepError, VolumeSeen};
use model::{Boot, InstanceId};
use runtime::protocol::phase;

use super::boots::BootNow;
use super::{RealHost, launch, processes, words};

/// Descriptors that need no other reason: a daemon at rest has some 30, of them 12 for one network, 6 for the database; and
/// the rings of an exec, 3 each, stay until its end was told, also when its instance is gone by then: 70 of them.
const RESTING: usize = 256;

/// What each boot has: the keeper's socket, the guest's network namespace and the socket in it, the console's ring.
const PER_BOOT: usize = 4;

/// What each session has: a ring for each stream, and a terminal's or helper's socket.
const PER_SESSION: usize = 3;

type Found<T> = Result<T, StepError>;

impl RealHost {
    pub(super) fn collect(&self) -> Found<Inventory> {
        let mut inventory = Inventory::default();
        let boots = self.boots.now();
        self.collect_boots(&boots, &mut inventory)?;
        self.networks.inspect(self.boots.attached(), &mut inventory).map_err(|e| words::because("inventory", &e))?;
        let wires = self.boots.all_wires().into_iter();
        inventory.objects.extend(wires.map(|(boot, device, name)| Object::Link(boot, device, name)));
        self.collect_pools(&boots, &mut inventory)?;
        inventory.objects.extend(self.boots.pins.seen().into_keys().map(Object::Pin));
        inventory.damage.extend(
            self.boots.pins.strays().into_iter().map(|path| stray("pin file", path.display().to_string(), path)),
        );
        inventory.objects.extend(self.images.list().into_iter().map(|image| Object::Image(image.fingerprint)));
        inventory.damage.extend(self.images.leftovers().into_iter().map(|path| {
            let name = path.strip_prefix(&self.state_dir).unwrap_or(&path).display().to_string();
            stray("image file", name, path)
        }));
        self.collect_processes(&boots, &mut inventory);
        inventory.damage.extend(self.mounts());
        inventory.damage.extend(self.partial_names());
        inventory.damage.extend(self.claim.damage());
        self.notes(&mut inventory.notes);
        Ok(inventory)
    }

    fn collect_boots(&self, boots: &[BootNow], inventory: &mut Inventory) -> Found<()> {
        let failed = |e: &(dyn std::error::Error + 'static)| words::because("inventory", e);
        let (groups, strangers) = self.boots.groups.list().map_err(|e| failed(&e))?;
        for boot in &groups {
            for path in self.boots.groups.missing(*boot) {
                let text = format!("lacks {}", path.display());
                let (object, of) = (boot.to_string(), Some(boot.id));
                inventory.damage.push(Damage { kind: "control group", object, text, of, cure: Cure::Loop });
            }
        }
        let objects = &mut inventory.objects;
        objects.extend(groups.into_iter().map(Object::Group));
        objects.extend(strangers.into_iter().map(|name| Object::Stray { kind: "control group", name }));
        for name in names(&self.runtime_dir.join("keep")) {
            objects.push(match name.parse() {
                Ok(boot) => Object::Keeper(boot),
                Err(_) => Object::Stray { kind: "keeper directory", name },
            });
        }
        let logs = names(&self.state_dir.join("logs"));
        objects.extend(logs.iter().filter_map(|name| name.parse().ok()).map(Object::Logs));
        for now in boots.iter().filter(|now| now.phase == phase::RUNNING) {
            if !self.boots.groups.holds(now.boot, now.pid) && launch::start_time(now.pid).is_some() {
                inventory.damage.push(Damage {
                    kind: "process",
                    object: format!("{} of {}", now.pid, now.boot),
                    text: "the guest's init is outside of its control groups, and of all limits".into(),
                    of: Some(now.boot.id),
                    cure: Cure::Regroup(now.boot),
                });
            }
        }
        Ok(())
    }

    fn collect_pools(&self, boots: &[BootNow], inventory: &mut Inventory) -> Found<()> {
        let failed = |e: storage::Error| words::because("inventory", &e);
        let locks = Locks::read();
        let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner).clone();
        for (name, pool) in &pools {
            for id in pool.volumes().map_err(failed)? {
                let volume = pool.volume_seen(id).map_err(failed)?;
                let path = pool.directory().join("volumes").join(id.to_string());
                inventory.damage.extend(holder(id, &path, boots, &locks));
                if volume.roots.is_empty() {
                    let damage = stray("volume", id.to_string(), path);
                    inventory.damage.push(Damage { of: Some(id), ..damage });
                }
                inventory.objects.extend(volume.roots.iter().map(|root| Object::Root(id, *root)));
                let workless = volume.roots.difference(&volume.works).copied().collect();
                let rootless = volume.works.difference(&volume.roots).copied().collect();
                inventory.volumes.push(VolumeSeen { id, pool: name.clone(), workless, rootless, layer: volume.layer });
            }
            let layers = pool.layers().map_err(failed)?;
            inventory.objects.extend(layers.into_iter().map(|layer| Object::Layer(layer, name.clone())));
            let mut left = pool.leftovers().map_err(failed)?;
            // Looked at first: what is still there when nobody is emptying it was forgotten.
            let trash = pool.trash().map_err(failed)?;
            if !self.is_emptying(pool) {
                left.extend(trash.into_iter().filter(|name| pool.directory().join(name).exists()));
            }
            for left in left {
                let path = pool.directory().join(&left);
                let is_ours = left.starts_with("trash/") || left.contains("/.partial-");
                let damage = stray("file in the pool", format!("{name}/{left}"), path.clone());
                let people = Cure::People(format!("this was not made by the daemon: move {} away", path.display()));
                inventory.damage.push(if is_ours { damage } else { Damage { cure: people, ..damage } });
            }
        }
        Ok(())
    }

    fn collect_processes(&self, boots: &[BootNow], inventory: &mut Inventory) {
        let keep = self.runtime_dir.join("keep");
        let known = processes::Known {
            spawn_socket: self.runtime_dir.join("spawn.socket").display().to_string(),
            lxcfs: (self.boots.lxcfs.mark(), self.boots.lxcfs.now().map(|view| view.pid)),
            helpers: self.boots.spawn.helpers(),
            boots: boots.iter().filter(|now| now.has_keeper).map(|now| now.boot).collect(),
            keepers: boots.iter().filter(|now| now.has_keeper).map(|now| (now.keeper, now.boot)).collect(),
            directories: names(&keep).iter().filter_map(|name| name.parse().ok()).collect(),
        };
        let found = processes::list(&keep, &known.keepers, &known.lxcfs.0);
        inventory.damage.extend(processes::judge(&found, &known));
        inventory.looked_at.push(("process", found.len()));
        let socket = self.runtime_dir.join("unix.socket").display().to_string();
        let text = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
        let connections = text.lines().filter(|line| line.ends_with(&socket)).count();
        let sessions: usize = boots.iter().map(|now| now.sessions).sum();
        let of_boots = boots.len() * PER_BOOT
            + sessions * PER_SESSION
            + self.boots.needs.descriptors()
            + self.boots.rests.descriptors(&self.boots);
        // A connection may be a stream between a client and a helper, a file that is sent, or an image.
        let allowed = RESTING + of_boots + connections * 3 + known.helpers.len() * 2;
        let kinds = processes::descriptors();
        inventory.looked_at.push(("descriptor", kinds.values().sum()));
        inventory.damage.extend(processes::surplus(&kinds, allowed));
    }

    /// Mounts of ours in namespaces where there must be none: this daemon's and the host's.
    fn mounts(&self) -> Vec<Damage> {
        let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner);
        let mut places: Vec<PathBuf> = ["layers", "volumes", "trash"]
            .iter()
            .flat_map(|part| pools.values().map(move |pool| pool.directory().join(part)))
            .collect();
        drop(pools);
        places.extend(["keep", "mnt"].map(|part| self.runtime_dir.join(part)));
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let points: BTreeSet<String> = [read("/proc/self/mountinfo"), read("/proc/1/mountinfo")]
            .iter()
            .flat_map(|text| text.lines().filter_map(|line| line.split(' ').nth(4)).map(str::to_owned))
            .filter(|point| places.iter().any(|place| Path::new(point).starts_with(place)))
            .collect();
        let damage = |point: String| Damage {
            kind: "mount",
            text: "is mounted in the host's own namespace, where nothing of a guest may be".into(),
            of: None,
            cure: Cure::People(format!("umount {point}")),
            object: point,
        };
        points.into_iter().map(damage).collect()
    }

    /// Names of what was being written when its writer died.
    fn partial_names(&self) -> Vec<Damage> {
        let is_partial =
            |name: &str| name.starts_with(".partial") || [".new", ".partial"].iter().any(|end| name.ends_with(end));
        let keep = self.runtime_dir.join("keep");
        let mut places: Vec<(PathBuf, Option<InstanceId>)> =
            [self.runtime_dir.clone(), keep.clone(), self.state_dir.clone(), self.state_dir.join("recipes")]
                .map(|place| (place, None))
                .into();
        let boots = names(&keep).into_iter().filter_map(|name| name.parse::<Boot>().ok());
        places.extend(boots.map(|boot| (keep.join(boot.to_string()), Some(boot.id))));
        let mut found = Vec::new();
        for (place, of) in places {
            for name in names(&place).into_iter().filter(|name| is_partial(name)) {
                let path = place.join(name);
                found.push(Damage { of, ..stray("partial file", path.display().to_string(), path) });
            }
        }
        found
    }

    /// Limits of the host that many guests run into.
    fn notes(&self, notes: &mut Vec<(String, String)>) {
        let number = |path: &str| -> Option<u64> { std::fs::read_to_string(path).ok()?.trim().parse().ok() };
        for (key, least) in [
            ("kernel/keys/maxkeys", 2000),
            ("fs/inotify/max_user_instances", 128),
            ("net/ipv4/neigh/default/gc_thresh3", 8192),
            ("kernel/pid_max", 131_072),
        ] {
            if let Some(value) = number(&format!("/proc/sys/{key}")).filter(|value| *value < least) {
                let name = key.replace('/', ".");
                notes.push((
                    format!("{name} is {value}"),
                    format!("for many guests raise it: sysctl -w {name}={least}"),
                ));
            }
        }
        if self.boots.lxcfs.is_away() {
            notes.push((
                "lxcfs does not run".into(),
                "guests see the host's numbers in /proc; it is started again: look at the daemon's log".into(),
            ));
        }
        if !self.facts.may_raise_limits {
            notes.push((
                "the daemon lacks CAP_SYS_RESOURCE".into(),
                "guests get no more open files than the daemon's own hard limit".into(),
            ));
        }
    }
}

/// A file or directory that belongs to nothing.
fn stray(kind: &'static str, object: String, path: PathBuf) -> Damage {
    Damage { kind, object, text: "belongs to nothing".into(), of: None, cure: Cure::Remove(path) }
}

/// Whether the root file systems of an instance are held by whom they should be.
fn holder(id: InstanceId, volume: &Path, boots: &[BootNow], locks: &Locks) -> Option<Damage> {
    let file = std::fs::metadata(volume.join("fs/lock")).ok()?;
    let is_live = |now: &&BootNow| now.boot.id == id && matches!(now.phase, phase::READY | phase::RUNNING);
    let is_live = boots.iter().any(|now| is_live(&now));
    let is_adopted = boots.iter().any(|now| now.boot.id == id && now.adopted);
    let damage = |text: String, fix: String| {
        Some(Damage { kind: "volume", object: id.to_string(), text, of: Some(id), cure: Cure::People(fix) })
    };
    match locks.holder(&file) {
        // A lock dies with the keeper that took it; the guest that another one took over has its files mounted all the same.
        None if is_live && !is_adopted && !locks.by_inode(&file) => damage(
            "its guest runs and nobody holds the lock of its root file system".into(),
            "stop the instance and start it again".into(),
        ),
        Some(pid) if !is_live && !is_keeper(pid) => damage(
            format!("its root file system is locked by process {pid}, which is none of ours"),
            format!("end process {pid}: the instance cannot be started"),
        ),
        _ => None,
    }
}

/// Whether a process runs the keeper's program. One that is gone may have been: its descriptor lives on elsewhere.
fn is_keeper(pid: u32) -> bool {
    let text = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let program = text.split(|b| *b == 0).next().unwrap_or_default();
    text.is_empty() || program.ends_with(b"sysctl-keeper")
}

/// Locks of whole files, as /proc/locks has them.
struct Locks(Vec<(u32, u64, u64)>);

impl Locks {
    fn read() -> Locks {
        Locks::parse(&std::fs::read_to_string("/proc/locks").unwrap_or_default())
    }

    /// `1: FLOCK  ADVISORY  WRITE 812 fd:01:3456 0 EOF`, where those who wait have `->` before `FLOCK`.
    fn parse(text: &str) -> Locks {
        let line = |line: &str| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if *fields.get(1)? != "FLOCK" {
                return None;
            }
            let mut place = fields.get(5)?.split(':');
            let mut part = |radix| u64::from_str_radix(place.next()?, radix).ok();
            let (major, minor, inode) = (part(16)?, part(16)?, part(10)?);
            let device = rustix::fs::makedev(major as u32, minor as u32);
            Some((fields.get(4)?.parse().ok()?, device, inode))
        };
        Locks(text.lines().filter_map(line).collect())
    }

    /// Who locked a file.
    fn holder(&self, file: &std::fs::Metadata) -> Option<u32> {
        self.0.iter().find(|(_, device, inode)| (*device, *inode) == (file.dev(), file.ino())).map(|(pid, ..)| *pid)
    }

    /// Whether a file of that number is locked: on btrfs the kernel tells another device here than stat(2) does.
    fn by_inode(&self, file: &std::fs::Metadata) -> bool {
        self.0.iter().any(|(.., inode)| *inode == file.ino())
    }
}

/// Names in a directory; none when it is missing.
fn names(path: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_read_as_the_kernel_prints_them() {
        let text = "1: FLOCK  ADVISORY  WRITE 812 08:01:3456 0 EOF\n1: -> FLOCK  ADVISORY  WRITE 9 08:01:3456 0 EOF\n\
                    2: POSIX  ADVISORY  READ 5 08:01:7 0 EOF\n3: FLOCK  ADVISORY  WRITE 4 fd:1f:9 0 EOF\n";
        let (first, third) = (rustix::fs::makedev(8, 1), rustix::fs::makedev(0xfd, 0x1f));
        assert_eq!(Locks::parse(text).0, [(812, first, 3456), (4, third, 9)]);
    }
}
