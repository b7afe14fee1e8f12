//! Control groups of bare guests: the same groups and writes as the daemon's, v1 hierarchies included.

use std::fs;
use std::os::unix::fs::lchown;
use std::path::{Path, PathBuf};

use rustix::process::Pid;

use crate::{BASE, Result, act};

/// The hierarchies of this host.
pub(crate) struct Groups {
    unified: PathBuf,
    v1: Vec<(PathBuf, String)>,
}

impl Groups {
    pub(crate) fn new() -> Result<Groups> {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").map_err(act("mountinfo"))?;
        let own = format!("sysctl-bench-{}", std::process::id());
        let (mut unified, mut v1) = (None, Vec::<(PathBuf, String)>::new());
        for line in mountinfo.lines() {
            let Some((mount, fs)) = line.split_once(" - ") else { continue };
            let Some(root) = mount.split(' ').nth(4) else { continue };
            let mut fs = fs.split(' ');
            match (fs.next(), fs.nth(1)) {
                (Some("cgroup2"), _) if unified.is_none() => unified = Some(Path::new(root).join(&own)),
                (Some("cgroup"), Some(options)) if !v1.iter().any(|(_, known)| known == options) => {
                    v1.push((Path::new(root).join(&own), options.to_owned()));
                }
                _ => {}
            }
        }
        let groups = Groups { unified: unified.ok_or("no cgroup2")?, v1 };
        fs::create_dir(&groups.unified).map_err(act("mkdir the group"))?;
        for (path, options) in &groups.v1 {
            make_v1(path, options)?;
        }
        Ok(groups)
    }

    pub(crate) fn create(&self, name: &str) -> Result<(PathBuf, Vec<PathBuf>)> {
        let group = self.unified.join(name);
        fs::create_dir(&group).map_err(act("mkdir the group"))?;
        let mut v1 = Vec::new();
        for (base, options) in &self.v1 {
            let path = base.join(name);
            make_v1(&path, options)?;
            limit_v1(&path, options)?;
            v1.push(path);
        }
        for (file, text) in [("cgroup.max.descendants", "4096"), ("cgroup.max.depth", "32")] {
            fs::write(group.join(file), text).map_err(act(file))?;
        }
        let payload = group.join("payload");
        fs::create_dir(&payload).map_err(act("mkdir the payload"))?;
        delegate(&payload)?;
        Ok((group, v1))
    }

    pub(crate) fn remove(&self) {
        remove_tree(&self.unified);
        for (path, _) in &self.v1 {
            remove_tree(path);
        }
    }
}

fn has(options: &str, controller: &str) -> bool {
    options.split(',').any(|option| option == controller)
}

fn make_v1(path: &Path, options: &str) -> Result<()> {
    fs::create_dir(path).map_err(act("mkdir a v1 group"))?;
    if has(options, "cpuset") {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let parent = fs::read_to_string(path.join("..").join(file)).map_err(act(file))?;
            fs::write(path.join(file), parent.trim()).map_err(act(file))?;
        }
    }
    Ok(())
}

/// The writes for an instance of which nothing is said.
fn limit_v1(path: &Path, options: &str) -> Result<()> {
    const SETTINGS: [(&str, &str, &str); 4] = [
        ("memory", "memory.limit_in_bytes", "8589934592"),
        ("cpu", "cpu.cfs_quota_us", "-1"),
        ("cpu", "cpu.shares", "1024"),
        ("pids", "pids.max", "16384"),
    ];
    for (_, file, text) in SETTINGS.iter().filter(|(controller, ..)| has(options, controller)) {
        fs::write(path.join(file), text).map_err(act(file))?;
    }
    Ok(())
}

pub(crate) fn enter_v1(groups: &[PathBuf], pid: Pid) -> Result<()> {
    let text = pid.as_raw_nonzero().to_string();
    groups.iter().try_for_each(|group| fs::write(group.join("cgroup.procs"), &text).map_err(act("cgroup.procs")))
}

pub(crate) fn delegate(group: &Path) -> Result<()> {
    let chown = |path: &Path| lchown(path, Some(BASE), Some(BASE)).map_err(act("chown"));
    chown(group)?;
    ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"].iter().try_for_each(|file| chown(&group.join(file)))
}

pub(crate) fn remove_tree(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}
