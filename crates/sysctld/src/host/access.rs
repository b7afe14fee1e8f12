//! What callers may reach on the host without changing what is wished.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use engine::{Access, BoxFuture, ImageFacts, Inventory, LinkUsage, Object, PoolUsage, StepError};
use model::{Boot, IdMap, InstanceId, PoolName, RootGen, RootSource};

use super::{RealHost, console, launch, usage, words};

impl RealHost {
    async fn open_files(
        &self,
        boot: Option<Boot>,
        root: (InstanceId, RootGen, RootSource),
        pool: &PoolName,
        ids: IdMap,
    ) -> Result<OwnedFd, StepError> {
        const STEP: &str = "files";
        let failed = |errno| words::failed(STEP, "socketpair for", "the files helper", errno);
        let flags = rustix::net::SocketFlags::CLOEXEC;
        let kind = rustix::net::SocketType::STREAM;
        let (ours, theirs) =
            rustix::net::socketpair(rustix::net::AddressFamily::UNIX, kind, flags, None).map_err(failed)?;
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
        self.boots.spawn.help(argv, &[theirs.as_fd()]).await?;
        Ok(ours)
    }

    fn collect(&self) -> Result<Inventory, StepError> {
        let failed = |e: &(dyn std::error::Error + 'static)| words::because("inventory", e);
        let mut inventory = Inventory::default();
        let objects = &mut inventory.objects;
        let (boots, strangers) = self.boots.groups.list().map_err(|e| failed(&e))?;
        objects.extend(boots.into_iter().map(Object::Group));
        objects.extend(strangers.into_iter().map(|name| Object::Stray { kind: "control group", name }));
        for entry in std::fs::read_dir(self.runtime_dir.join("keep")).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            objects.push(match name.parse() {
                Ok(boot) => Object::Keeper(boot),
                Err(_) => Object::Stray { kind: "keeper directory", name },
            });
        }
        for (name, rest) in self.networks.our_links().map_err(|e| failed(&e))? {
            objects.push(match rest.split_once(':').map(|(boot, _)| boot.parse()) {
                Some(Ok(boot)) => Object::Link(boot, name),
                Some(Err(_)) => Object::Stray { kind: "link", name },
                None => Object::Bridge(name),
            });
        }
        match self.networks.guarded().map_err(|e| failed(&e))? {
            Some(ports) => objects.extend(ports.into_iter().map(Object::Guarded)),
            None => inventory.notes.push((
                "this kernel has no nf_tables".into(),
                "guests are not guarded against one another and there is no NAT; use a kernel with CONFIG_NF_TABLES"
                    .into(),
            )),
        }
        let objects = &mut inventory.objects;
        let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner);
        for (name, pool) in &*pools {
            for id in pool.volumes().map_err(|e| failed(&e))? {
                let roots = pool.roots(id).map_err(|e| failed(&e))?;
                if roots.is_empty() {
                    objects.push(Object::Stray { kind: "volume", name: id.to_string() });
                }
                objects.extend(roots.into_iter().map(|root| Object::Root(id, root)));
            }
            objects.extend(pool.layers().map_err(|e| failed(&e))?.into_iter().map(|l| Object::Layer(l, name.clone())));
            let mut left = pool.leftovers().map_err(|e| failed(&e))?;
            // Looked at first: what is still there when nobody is emptying it was forgotten.
            let trash = pool.trash().map_err(|e| failed(&e))?;
            if !self.is_emptying(pool) {
                left.extend(trash.into_iter().filter(|name| pool.directory().join(name).exists()));
            }
            objects.extend(
                left.into_iter().map(|n| Object::Stray { kind: "file in the pool", name: format!("{name}/{n}") }),
            );
        }
        objects.extend(self.images.list().into_iter().map(|image| Object::Image(image.fingerprint)));
        objects.extend(self.images.leftovers().into_iter().map(|name| Object::Stray { kind: "image file", name }));
        self.notes(&mut inventory.notes);
        Ok(inventory)
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
        if !self.facts.may_raise_limits {
            notes.push((
                "the daemon lacks CAP_SYS_RESOURCE".into(),
                "guests get no more open files than the daemon's own hard limit".into(),
            ));
        }
    }
}

impl Access for RealHost {
    fn upload(&self, name: &str) -> Result<PathBuf, StepError> {
        let directory = self.images.uploads().join(name);
        std::fs::create_dir(&directory).map_err(|e| words::because("upload", &e))?;
        Ok(directory)
    }

    fn drop_upload(&self, name: &str) {
        let _ = std::fs::remove_dir_all(self.images.uploads().join(name));
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
        Box::pin(self.open_files(boot, root, pool, ids))
    }

    fn inventory(&self) -> BoxFuture<'_, Result<Inventory, StepError>> {
        Box::pin(async move { self.collect() })
    }

    fn state_dir(&self) -> &Path {
        &self.state_dir
    }
}
