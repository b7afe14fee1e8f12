//! From an instance's specification to what a keeper is told, and what `/proc` says about its guest.

use std::path::{Path, PathBuf};

use engine::StepError;
use model::{
    Boot, HostFacts, InstanceId, InstanceSpec, MountMode, NamespaceKind, Namespaces, OverlayWay, PinId, Share,
};
use runtime::cgroup::Groups;
use runtime::launch::root;
use runtime::protocol::{Clocks, Confinement, File, Join, LaunchSpec, Node, Rlimit, RootSpec};
use runtime::wire::{Blob, Field};
use storage::RootLayout;

/// The bit of a kind of namespace in `clone(2)`.
fn clone_bit(kind: NamespaceKind) -> u64 {
    match kind {
        NamespaceKind::Time => 0x80,
        NamespaceKind::Mnt => 0x2_0000,
        NamespaceKind::Cgroup => 0x0200_0000,
        NamespaceKind::Uts => 0x0400_0000,
        NamespaceKind::Ipc => 0x0800_0000,
        NamespaceKind::User => 0x1000_0000,
        NamespaceKind::Pid => 0x2000_0000,
        NamespaceKind::Net => 0x4000_0000,
    }
}

/// The bits of these kinds together.
pub(crate) fn clone_bits(kinds: impl IntoIterator<Item = NamespaceKind>) -> u64 {
    kinds.into_iter().fold(0, |bits, kind| bits | clone_bit(kind))
}

/// The namespaces to enter. `init_of` knows pid and start time of the init of an instance that runs, `pin_file` the file of a
/// pin.
pub(crate) fn joins(
    namespaces: &Namespaces,
    init_of: impl Fn(InstanceId) -> Option<(u32, u64)>,
    pin_file: impl Fn(PinId) -> PathBuf,
) -> Result<Vec<Join>, StepError> {
    let mut joins = Vec::new();
    for (kind, share) in &namespaces.shares {
        let join = Join { kind: clone_bit(*kind), ..Join::default() };
        match share {
            Share::Private | Share::Host => {}
            Share::Path(path) => joins.push(Join { path: path.clone(), ..join }),
            Share::Pin(pin) => joins.push(Join { path: pin_file(*pin).display().to_string(), ..join }),
            Share::Instance(id) => {
                let text = || format!("the instance whose {} namespace it shares does not run", kind.as_str());
                let (pid, start) = init_of(*id).ok_or_else(|| engine::step_error("spawn", text()))?;
                joins.push(Join { pid, start, ..join });
            }
        }
    }
    Ok(joins)
}

/// What a keeper is told to make a guest. `fresh`: no boot has had this root yet.
pub(crate) fn spec(
    boot: Boot,
    layout: RootLayout,
    spec: &InstanceSpec,
    fresh: bool,
    (facts, groups, scratch): (&HostFacts, &Groups, &Path),
    joins: Vec<Join>,
) -> LaunchSpec {
    let sandbox = &spec.sandbox;
    let namespaces = &sandbox.namespaces;
    let is_new = |kind: &NamespaceKind| *namespaces.of(*kind) == Share::Private;
    let text = |path: &Path| path.display().to_string();
    let root = root_spec(layout, facts);
    let files = if fresh { spec.first_boot.as_slice() } else { &[] };
    LaunchSpec {
        boot: boot.to_string(),
        hostname: spec.name.to_string(),
        id_base: sandbox.ids.base,
        id_count: sandbox.ids.count,
        namespaces: clone_bits(NamespaceKind::ALL.into_iter().filter(is_new)),
        root,
        scratch: text(scratch),
        group: text(&groups.payload(boot)),
        v1_groups: groups.extra_groups(boot).iter().map(|path| text(path)).collect(),
        strict: sandbox.mounts == MountMode::Strict,
        sys_writable: sandbox.sys_writable,
        proc_by_descriptor: facts.proc_by_descriptor,
        devices: sandbox
            .devices
            .iter()
            .map(|d| Node { path: d.path.clone(), major: d.major, minor: d.minor })
            .collect(),
        confinement: confinement(sandbox),
        argv: vec![spec.init.clone()],
        environment: plan::environment(boot.id, &spec.environment),
        files: files
            .iter()
            .map(|f| File { path: f.path.clone(), content: Blob(f.content.clone().into_bytes()), mode: f.mode })
            .collect(),
        max_user_namespaces: sandbox.max_user_namespaces,
        fail_at: std::env::var("SYSCTL_FAIL_LAUNCH").unwrap_or_default(),
        joins,
        foreign: clone_bits(namespaces.foreign.iter().copied()),
        clocks: namespaces.clocks.map(|clocks| match clocks {
            model::Clocks::FromZero => Clocks { from_zero: true, offset_s: 0 },
            model::Clocks::Offset(offset_s) => Clocks { from_zero: false, offset_s },
        }),
        masked_units: namespaces.masked_units.clone(),
        view: None,
    }
}

fn root_spec(layout: RootLayout, facts: &HostFacts) -> RootSpec {
    RootSpec {
        pool: layout.pool.display().to_string(),
        layers: layout.layers,
        volume: layout.volume,
        upper: layout.upper,
        work: layout.work,
        way: match facts.overlay {
            OverlayWay::Descriptors => 0,
            OverlayWay::AttachedAppend => 1,
            OverlayWay::AttachedString => 2,
        },
    }
}

/// A root file system as an argument: its record in hexadecimal digits.
pub(crate) fn root_argument(layout: RootLayout, facts: &HostFacts) -> String {
    let mut record = Vec::new();
    root_spec(layout, facts).put(&mut record);
    record.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What init and every exec'd process are confined by.
pub(crate) fn confinement(sandbox: &model::SandboxSpec) -> Confinement {
    Confinement {
        capabilities: sandbox.capabilities.iter().fold(0, |set, number| set | 1u64 << number),
        seccomp: Blob(runtime::seccomp::compile(sandbox.seccomp)),
        rlimits: sandbox.rlimits.iter().map(|l| Rlimit { resource: l.resource, soft: l.soft, hard: l.hard }).collect(),
        keyring: sandbox.keyring,
    }
}

/// What a keeper wrote down about its guest, for the one after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeptStatus {
    pub(crate) phase: u8,
    pub(crate) pid: u32,
    /// Start time of init in clock ticks since boot.
    pub(crate) start: u64,
}

/// Reads the status file of a keeper: `1 phase pid start`.
pub(crate) fn read_status(directory: &Path) -> Option<KeptStatus> {
    let text = std::fs::read_to_string(directory.join("status")).ok()?;
    let mut fields = text.split_whitespace();
    if fields.next() != Some("1") {
        return None;
    }
    let mut number = || fields.next()?.parse::<u64>().ok();
    Some(KeptStatus { phase: number()? as u8, pid: number()? as u32, start: number()? })
}

/// Start time of a process in clock ticks since boot (proc(5)); `None` when it is gone or dead.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    match fields.next()? {
        "Z" | "X" => None,
        _ => fields.nth(18)?.parse().ok(),
    }
}

/// Whether the pid still belongs to the process that started then.
pub(crate) fn is_same_process(pid: u32, start: u64) -> bool {
    start_time(pid) == Some(start)
}

/// Host id of a process's user.
pub(crate) fn owner_of(pid: u32) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    std::fs::read_to_string(format!("/proc/{pid}/status"))
        .ok()
        .and_then(|text| text.lines().find_map(|l| l.strip_prefix("Uid:")?.split_whitespace().next()?.parse().ok()))
        .or_else(|| std::fs::metadata(format!("/proc/{pid}")).ok().map(|m| m.uid()))
}

/// The signal that makes an init halt, as far as it listens to one now.
///
/// systemd takes SIGRTMIN+3 (37), which it blocks and reads from a descriptor; others (busybox, sysvinit, OpenRC) take
/// SIGPWR (30), which LXC made the custom, and programs that are no init SIGTERM (15). One that waits for signals in
/// sigtimedwait(2), as busybox does, shows none of them, so SIGPWR is worth a try in any case: a first process that does not
/// take it is not touched by it (pid_namespaces(7)). One that is not the first is ended by any, as it would be on the host.
pub(crate) fn halt_signal(pid: u32) -> (i32, bool) {
    const HALT: i32 = 37;
    const POWER: i32 = 30;
    const TERM: i32 = 15;
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let set =
        |name: &str| text.lines().find_map(|l| u64::from_str_radix(l.strip_prefix(name)?.trim(), 16).ok()).unwrap_or(0);
    let heard = set("SigBlk:") | set("SigCgt:");
    let is_heard = |signal: i32| heard & (1 << (signal - 1)) != 0;
    match [HALT, POWER, TERM].into_iter().find(|signal| is_heard(*signal)) {
        Some(signal) => (signal, true),
        None if root::is_first(pid) => (POWER, false),
        None => (TERM, true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process_is_the_same_until_it_is_another() {
        let start = start_time(std::process::id()).expect("alive");
        assert!(is_same_process(std::process::id(), start));
        assert!(!is_same_process(std::process::id(), start + 1));
        assert_eq!(start_time(u32::MAX), None);
    }
}
