//! What callers may reach on the host without changing what is wished.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use engine::{Access, BoxFuture, Cure, ImageFacts, Inventory, LinkUsage, Object, PoolUsage, RootFiles, StepError};
use kernel::Errno;
use model::{Boot, IdMap, InstanceId, NamespaceKind, PinId, PoolName, RootGen, RootSource};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::{RealHost, console, launch, usage, words};

/// How many boots' namespaces are remembered before those that ended are forgotten: some 400 bytes each, and more where more
/// run at once.
const MANY_INODES: usize = 1024;

impl RealHost {
    async fn open_files(
        &self,
        boot: Option<Boot>,
        root: (InstanceId, RootGen, RootSource),
        pool: &PoolName,
        ids: IdMap,
    ) -> Result<OwnedFd, StepError> {
        const STEP: &str = "files";
        let mut argv = vec!["files".to_owned()];
        match boot {
            Some(boot) => {
                let pid = self.boots.running(boot)?.state().pid;
                let gone = || engine::step_error(STEP, "the instance does not run");
                let start = launch::start_time(pid).ok_or_else(gone)?;
                argv.extend(["--pid".into(), pid.to_string(), "--start".into(), start.to_string()]);
            }
            None => {
                let layout = self.pool(pool)?.layout(root.0, root.1, root.2);
                argv.extend(["--root".into(), launch::root_argument(layout, &self.facts)]);
                argv.extend(["--scratch".into(), self.runtime_dir.join("mnt").display().to_string()]);
            }
        }
        argv.extend(["--ids".into(), format!("{}:{}", ids.base, ids.count)]);
        let (kind, flags) = (SocketType::STREAM, SocketFlags::CLOEXEC);
        self.boots.spawn.help(argv, || rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None)).await
    }
}

impl RealHost {
    async fn put_right(&self, cure: &Cure) -> Result<(), StepError> {
        match cure {
            Cure::Remove(path) => remove(path).map_err(|e| words::because("remove", &e)),
            Cure::End(pid, start) => {
                self.boots.end_process(*pid, *start);
                Ok(())
            }
            Cure::Replace(boot, pid, start) => self.boots.hand_over(*boot, *pid, *start).await,
            Cure::Regroup(boot) => {
                let pid = self.boots.running(*boot)?.state().pid;
                self.boots.groups.regroup(*boot, pid).map_err(|e| words::because("regroup", &e))
            }
            // The engine's.
            Cure::Loop | Cure::People(_) | Cure::Remake(_) | Cure::Claims(_) => Ok(()),
        }
    }

    /// Removes what no step of an instance is about; the rest went with the steps.
    fn throw_away(&self, object: &Object) -> Result<(), StepError> {
        let failed = |e: &(dyn std::error::Error + 'static)| words::because("discard", e);
        match object {
            Object::Bridge(name) | Object::Stray { kind: "link", name } => {
                self.networks.remove_link(name).map_err(|e| failed(&e))
            }
            Object::Guarded(_) => self.networks.guard_again().map_err(|e| failed(&e)),
            Object::Stray { kind: "control group", name } => {
                self.boots.groups.remove_stranger(name).map_err(|e| failed(&e))
            }
            // Nobody answered there, else the loop would have ended it.
            Object::Keeper(boot) if !self.boots.has_keeper(*boot) => {
                remove(&self.runtime_dir.join("keep").join(boot.to_string())).map_err(|e| failed(&e))
            }
            Object::Stray { kind: "keeper directory", name } => {
                remove(&self.runtime_dir.join("keep").join(name)).map_err(|e| failed(&e))
            }
            Object::Logs(id) => {
                self.boots.remove_logs(*id);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Removes a file or a tree; done when it is gone.
fn remove(path: &Path) -> std::io::Result<()> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Access for RealHost {
    fn upload(&self, name: &str) -> Result<PathBuf, StepError> {
        self.images.begin_upload(name).map_err(|e| words::because("upload", &e))
    }

    fn drop_upload(&self, name: &str) {
        self.images.end_upload(name);
    }

    fn image_files(&self, facts: &ImageFacts) -> Vec<PathBuf> {
        self.images.files(facts)
    }

    fn console_log(&self, id: InstanceId) -> BoxFuture<'_, Vec<u8>> {
        Box::pin(async move { console::read(&self.boots.console_log(id)).await })
    }

    fn clear_console_log(&self, id: InstanceId) -> BoxFuture<'_, ()> {
        Box::pin(async move { console::clear(&self.boots.console_log(id)).await })
    }

    fn pool_usage(&self, pool: &PoolName) -> Result<PoolUsage, StepError> {
        let usage = self.pool(pool)?.usage().map_err(|e| words::because("pool_usage", &e))?;
        Ok(PoolUsage {
            used_bytes: usage.used_bytes,
            total_bytes: usage.total_bytes,
            used_inodes: usage.used_inodes,
            total_inodes: usage.total_inodes,
        })
    }

    fn pool_source(&self, pool: &PoolName) -> Option<PathBuf> {
        self.pool(pool).ok().map(|pool| pool.directory().to_owned())
    }

    fn root_files(&self, pool: &PoolName, root: (InstanceId, RootGen, RootSource)) -> Result<RootFiles, StepError> {
        let layout = self.pool(pool)?.layout(root.0, root.1, root.2);
        let volume = layout.pool.join(&layout.volume);
        let layers = [volume.join(&layout.upper)].into_iter();
        let layers = layers.chain(layout.layers.iter().map(|layer| layout.pool.join(layer))).collect();
        Ok(RootFiles { layers, lock: volume.join("lock") })
    }

    fn namespaces(&self, pid: u32) -> Result<BTreeMap<NamespaceKind, u64>, StepError> {
        let failed = |errno| words::failed("explain", "look at", &format!("/proc/{pid}/ns"), errno);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // Found once: to look a process up takes longer than all else here.
        let directory = rustix::fs::open(format!("/proc/{pid}/ns"), flags, Mode::empty()).map_err(failed)?;
        let inode = |kind: NamespaceKind| {
            let link = rustix::fs::readlinkat(&directory, kind.as_str(), Vec::new())?;
            // As `net:[4026531840]`, see namespaces(7).
            let number = link.to_str().ok().and_then(|text| text.split(['[', ']']).nth(1)?.parse().ok());
            number.ok_or(Errno::INVAL)
        };
        let found: kernel::Result<_> = NamespaceKind::ALL
            .into_iter()
            .filter(|kind| *kind != NamespaceKind::Time || self.facts.time_namespaces)
            .map(|kind| Ok((kind, inode(kind)?)))
            .collect();
        found.map_err(failed)
    }

    fn namespaces_of(&self, boot: Boot) -> Result<BTreeMap<NamespaceKind, u64>, StepError> {
        let pid = self.boots.running(boot)?.state().pid;
        let mut known = self.inodes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, inodes)) = known.get(&boot)
            && *of == pid
        {
            return Ok(inodes.clone());
        }
        let inodes = self.namespaces(pid)?;
        if known.len() >= MANY_INODES {
            known.retain(|boot, _| self.boots.running(*boot).is_ok());
        }
        known.insert(boot, (pid, inodes.clone()));
        Ok(inodes)
    }

    fn pin_file(&self, pin: PinId) -> PathBuf {
        self.boots.pins.file(pin)
    }

    fn links(&self) -> Result<Vec<LinkUsage>, StepError> {
        let (links, addresses) = self.networks.links().map_err(|e| words::because("links", &e))?;
        let of = |index: u32| addresses.iter().filter(|a| a.index == index).copied().collect::<Vec<_>>();
        Ok(links.iter().map(|link| usage::link_usage(link, &of(link.index))).collect())
    }

    fn files<'a>(
        &'a self,
        boot: Option<Boot>,
        root: (InstanceId, RootGen, RootSource),
        pool: &'a PoolName,
        ids: IdMap,
    ) -> BoxFuture<'a, Result<OwnedFd, StepError>> {
        if let Some(boot) = boot {
            self.boots.rests.call(boot, "its files");
        }
        Box::pin(self.open_files(boot, root, pool, ids))
    }

    fn inventory(&self) -> BoxFuture<'_, Result<Inventory, StepError>> {
        // Reads /proc, /sys and directories; whoever else had this thread goes on elsewhere.
        Box::pin(async move { tokio::task::block_in_place(|| self.collect()) })
    }

    fn search<'a>(&'a self, boots: &'a BTreeSet<Boot>) -> BoxFuture<'a, Result<(), StepError>> {
        Box::pin(async move {
            self.claim.renew().map_err(|e| words::because("search", &e))?;
            self.boots.spawn.ready().await?;
            self.boots.search(boots).await
        })
    }

    fn cure<'a>(&'a self, cure: &'a Cure) -> BoxFuture<'a, Result<(), StepError>> {
        Box::pin(self.put_right(cure))
    }

    fn discard<'a>(&'a self, object: &'a Object) -> BoxFuture<'a, Result<(), StepError>> {
        Box::pin(async move {
            match object {
                Object::Pin(pin) => self.boots.pins.unpin(*pin).await,
                object => tokio::task::block_in_place(|| self.throw_away(object)),
            }
        })
    }

    fn state_dir(&self) -> &Path {
        &self.state_dir
    }
}
