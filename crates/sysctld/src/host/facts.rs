//! Finding out, once, what this host can do.

use std::collections::BTreeSet;
use std::path::Path;

use ::network::link;
use ::network::netlink::Socket;
use model::{CgroupLayout, HostFacts, OverlayWay};
use runtime::cgroup::Groups;
use rustix::thread::CapabilitySet;

/// Kernel release as numbers, like (6, 18).
fn release(text: &str) -> (u32, u32) {
    let mut parts = text.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// Layers of an overlay by descriptor came with Linux 6.13, `lowerdir+` that takes idmapped mounts with 6.8; before that
/// only the string of names works. Found by trying on 6.1, 6.12 and 6.18.
fn overlay(kernel: (u32, u32)) -> OverlayWay {
    match kernel {
        (6, 13..) | (7.., _) => OverlayWay::Descriptors,
        (6, 8..) => OverlayWay::AttachedAppend,
        _ => OverlayWay::AttachedString,
    }
}

/// Looks at the host. `forced` overrides how overlays are made (tests), `link_limits` is what [`link_limits`] said.
pub(crate) fn find(
    cgroups: CgroupLayout,
    groups: &Groups,
    state_dir: &Path,
    forced: Option<OverlayWay>,
    link_limits: bool,
) -> HostFacts {
    let names = rustix::system::uname();
    let kernel = names.release().to_string_lossy().into_owned();
    let version = release(&kernel);
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let capabilities = rustix::thread::capabilities(None).map(|sets| sets.effective).unwrap_or(CapabilitySet::empty());
    HostFacts {
        machine: names.machine().to_string_lossy().into_owned(),
        kernel,
        cgroups,
        knobs: groups.knobs().clone(),
        disk: super::disk::of(state_dir),
        overlay: forced.unwrap_or_else(|| overlay(version)),
        proc_by_descriptor: version >= (6, 17),
        time_namespaces: Path::new("/proc/self/ns/time").exists(),
        pressure: Path::new("/proc/pressure/memory").exists(),
        cpus: cpus(&read("/sys/devices/system/cpu/online")),
        memory_bytes: memory(&read("/proc/meminfo")),
        landlock: kernel::landlock::abi(),
        devices: ["fuse", "net/tun"]
            .into_iter()
            .filter(|name| Path::new("/dev").join(name).exists())
            .map(str::to_owned)
            .collect(),
        link_limits,
        lxcfs: super::lxcfs::program().is_some(),
        may_raise_limits: capabilities.contains(CapabilitySet::SYS_RESOURCE),
    }
}

/// Whether links can be held to limits.
///
/// Trying it lasts longer than the rest of a daemon's start. A kernel that could once in its life still can, so it is asked once
/// and the answer kept in the runtime directory; only what it takes of this daemon is tried each time.
pub(crate) fn link_limits(runtime_dir: &Path) -> bool {
    let kept = runtime_dir.join("link-limits");
    let life = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    if !life.is_empty() && std::fs::read_to_string(&kept).is_ok_and(|kept| kept == life) {
        return link::can_load();
    }
    let can = Socket::route().is_ok_and(|mut socket| link::can_limit(&mut socket));
    if can {
        // Where it cannot be kept the next daemon tries again.
        let _ = std::fs::write(&kept, life);
    }
    can
}

fn cpus(list: &str) -> BTreeSet<u32> {
    model::limits::parse_cpu_list(list).filter(|ids| !ids.is_empty()).unwrap_or_else(|| vec![0]).into_iter().collect()
}

fn memory(meminfo: &str) -> u64 {
    let kilobytes = meminfo
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

/// What keeps this host from running guests at all; each says what to do.
pub(crate) fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    let mut need = |ok: bool, text: &str| {
        if !ok {
            missing.push(text.to_owned());
        }
    };
    let names = rustix::system::uname();
    let version = release(&names.release().to_string_lossy());
    need(version >= (6, 1), "Linux 6.1 or newer: this kernel is older");
    for (name, what) in
        [("user", "CONFIG_USER_NS"), ("pid", "CONFIG_PID_NS"), ("net", "CONFIG_NET_NS"), ("cgroup", "CONFIG_CGROUPS")]
    {
        let there = Path::new("/proc/self/ns").join(name).exists();
        need(there, &format!("{name} namespaces: this kernel was built without {what}"));
    }
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    // A module that is not loaded yet is loaded by its first mount.
    let overlay = filesystems.contains("overlay") || Path::new("/lib/modules").exists();
    need(overlay, "the overlay file system: this kernel was built without CONFIG_OVERLAY_FS");
    let limit = std::fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    need(limit.trim() != "0", "user namespaces: set the sysctl user.max_user_namespaces above 0");
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_as_numbers() {
        assert_eq!(release("6.1.0-56-cloud-amd64"), (6, 1));
        assert_eq!(release("6.18.44-fc-v669"), (6, 18));
        assert_eq!(release("x"), (0, 0));
        assert_eq!(overlay((6, 1)), OverlayWay::AttachedString);
        assert_eq!(overlay((6, 12)), OverlayWay::AttachedAppend);
        assert_eq!((overlay((6, 13)), overlay((7, 0))), (OverlayWay::Descriptors, OverlayWay::Descriptors));
    }

    #[test]
    fn memory_is_in_bytes() {
        assert_eq!(memory("MemTotal:       24669120 kB\nMemFree: 1 kB\n"), 24_669_120 * 1024);
    }
}
