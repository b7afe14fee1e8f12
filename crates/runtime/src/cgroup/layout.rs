//! Finding out how this host's control groups are mounted.

use model::{CgroupLayout, V1Hierarchy};

/// A host without usable control groups.
#[derive(Debug, thiserror::Error)]
#[error("no cgroup2 mount found in /proc/self/mountinfo: mount it (`mount -t cgroup2 none /sys/fs/cgroup`)")]
pub struct LayoutError;

/// Reads the layout from the text of `/proc/self/mountinfo` (proc(5)).
pub fn find(mountinfo: &str) -> Result<CgroupLayout, LayoutError> {
    let mut unified = None;
    let mut v1: Vec<V1Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((mount, fs)) = line.split_once(" - ") else { continue };
        let (mount, fs): (Vec<&str>, Vec<&str>) = (mount.split(' ').collect(), fs.split(' ').collect());
        let (Some(root), [kind, _, options, ..]) = (mount.get(4), fs.as_slice()) else { continue };
        match *kind {
            // The first one: later mounts of the same tree are bind mounts into containers.
            "cgroup2" if unified.is_none() => unified = Some((*root).to_owned()),
            "cgroup" => {
                let controllers: Vec<String> = options
                    .split(',')
                    .filter(|o| {
                        !matches!(*o, "rw" | "ro" | "xattr" | "clone_children") && !o.starts_with("release_agent")
                    })
                    .map(str::to_owned)
                    .collect();
                if !v1.iter().any(|known| known.controllers == controllers) {
                    v1.push(V1Hierarchy { root: (*root).to_owned(), controllers });
                }
            }
            _ => {}
        }
    }
    let root = unified.ok_or(LayoutError)?;
    // A lone `name=` hierarchy limits nothing: the controllers are in cgroup2 then.
    let limiting = v1.iter().any(|h| h.controllers.iter().any(|c| !c.starts_with("name=")));
    Ok(if limiting { CgroupLayout::Hybrid { root, v1 } } else { CgroupLayout::Unified { root } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unified_host_has_one_tree() {
        let text = "31 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(find(text).expect("layout"), CgroupLayout::Unified { root: "/sys/fs/cgroup".into() });
    }

    #[test]
    fn a_hybrid_host_has_controllers_beside_cgroup2() {
        let text = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
                    40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                    41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n\
                    99 31 0:29 / /elsewhere/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n";
        let CgroupLayout::Hybrid { root, v1 } = find(text).expect("layout") else { panic!("not hybrid") };
        assert_eq!(root, "/sys/fs/cgroup/unified");
        let controllers: Vec<_> = v1.iter().map(|h| h.controllers.join(",")).collect();
        assert_eq!(controllers, ["cpu,cpuacct", "name=systemd"]);
    }

    #[test]
    fn a_host_without_cgroup2_is_refused() {
        assert!(find("1 1 0:1 / / rw - ext4 /dev/vda rw\n").is_err());
        assert!(find("garbage").is_err());
    }
}
