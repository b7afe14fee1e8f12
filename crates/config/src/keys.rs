//! THE table. Parsing, documentation, completion and the API's own description of itself are made from it.

/// What a value may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false` (also `1`, `0`, `yes`, `no`, `on`, `off`).
    Bool,
    /// A whole number in a range, inclusive.
    Integer(u64, u64),
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A size, or a share of the host's memory like `50%`.
    Memory,
    /// A size.
    Size,
    /// Bits each second like `100Mbit`.
    BitRate,
    /// Whether there is swap, or a size.
    Swap,
    /// A number of CPUs, or a set of their ids like `0-3,7`.
    Cpus,
    /// `50%` of a CPU when others want it, or a hard `25ms/100ms`.
    Allowance,
    /// A time like `25ms`.
    Time,
    /// A longer time like `30s`, `5m` or `2h`.
    Pause,
    /// A share of a hundred like `12.5%`.
    Percent,
    /// Some of `cpu`, `io` and `memory`, with commas between.
    Scarce,
    /// A range of sizes like `256MiB..4GiB`.
    MemoryRange,
    /// When a level rises and how far, like `some>10%/2s, step 25%`.
    ScaleUp,
    /// When a level falls and how far, like `some<1%/60s, step 10%`.
    ScaleDown,
    /// A range of CPU time in hundredths of one CPU, like `25%..400%`.
    CpuRange,
    /// Changes to the devices that may be used, like `-fuse,+net/tun`.
    Devices,
    /// Changes to the set of kept capabilities, like `+sys_time,-net_raw`.
    Capabilities,
    /// Whose namespace of a kind: `private`, `host`, `instance:NAME`, `named:OBJECT`, `path:FILE`.
    Share,
    /// A set of such choices by name.
    Preset,
    /// Seconds to add to the host's clocks, or `auto`.
    Offset,
    /// The absolute path of a program.
    Program,
    /// Any text without control characters except line breaks and tabs.
    Text,
}

/// When a change of a key takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Live {
    /// At once, also while running.
    Now,
    /// At the next start.
    Restart,
}

/// One key, or with a name that ends in `*` a family of keys.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Name.
    pub name: &'static str,
    /// What its values may be.
    pub kind: Kind,
    /// What holds when it is not given, in words.
    pub default: &'static str,
    /// When a change takes effect.
    pub live: Live,
    /// What it does, in one sentence.
    pub doc: &'static str,
    /// API extension that brought it; empty for those of the first API.
    pub extension: &'static str,
}

const fn key(name: &'static str, kind: Kind, default: &'static str, live: Live, doc: &'static str) -> Key {
    Key { name, kind, default, live, doc, extension: "" }
}

/// A key that an extension of the API brought.
const fn key_of(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    live: Live,
    doc: &'static str,
    extension: &'static str,
) -> Key {
    Key { name, kind, default, live, doc, extension }
}

/// A limit of ours, live like all of them.
const fn limit(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Key {
    Key { name, kind, default, live: Live::Now, doc, extension: "sysctl_limits_sync" }
}

/// A key of limits that follow the need.
const fn scale(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Key {
    Key { name, kind, default, live: Live::Now, doc, extension: "sysctl_autoscale" }
}

/// All keys of instances and profiles.
pub const INSTANCE_KEYS: &[Key] = &[
    scale(
        "autoscale.cooldown",
        Kind::Pause,
        "none",
        "How long after a level moved none of the instance's moves again.",
    ),
    scale(
        "autoscale.cpu",
        Kind::CpuRange,
        "none",
        "Range in which its CPU time follows what it waits for, in hundredths of one CPU.",
    ),
    scale(
        "autoscale.cpu.down",
        Kind::ScaleDown,
        "some<10%/4s, step 10%",
        "How little its processes wait for a CPU over which time so that its CPU time falls, and how far.",
    ),
    scale(
        "autoscale.cpu.up",
        Kind::ScaleUp,
        "some>10%/2s, step 25%",
        "How much its processes wait for a CPU within which time so that its CPU time rises, and how far.",
    ),
    scale(
        "autoscale.memory",
        Kind::MemoryRange,
        "none",
        "Range in which its memory follows the need: it is killed only beyond the most, and what it does not need is taken back.",
    ),
    scale(
        "autoscale.memory.down",
        Kind::ScaleDown,
        "some<10%/4s, step 10%",
        "How little its processes wait for memory over which time so that some is taken back, and how far.",
    ),
    scale(
        "autoscale.memory.up",
        Kind::ScaleUp,
        "some>10%/2s, step 25%",
        "How much its processes wait for memory within which time so that it gets more, and how far; with cgroup v1 it gets more when it uses its level.",
    ),
    scale(
        "autoscale.mode",
        Kind::OneOf(&["on", "observe", "off"]),
        "on",
        "Whether limits follow the need, or what would be done is only told, or neither.",
    ),
    key_of(
        "boot.init",
        Kind::Program,
        "/sbin/init",
        Live::Restart,
        "The program that becomes its first process; one other than systemd can live among processes that are not its own.",
        "sysctl_namespaces",
    ),
    limit(
        "devices.policy",
        Kind::OneOf(&["default", "deny", "allow"]),
        "default",
        "Which devices it may open: those that its /dev has nodes of, only those that every program needs, or whatever it has a node of.",
    ),
    limit("devices.rules", Kind::Devices, "none", "Devices that it may open in addition, or may not, in their order."),
    key(
        "environment.*",
        Kind::Text,
        "",
        Live::Restart,
        "A variable in the environment of init and of exec'd programs.",
    ),
    Key {
        name: "idle.freeze",
        kind: Kind::Pause,
        default: "never",
        live: Live::Now,
        doc: "How long it does nothing before it is held still and its memory is taken back; it goes on with the first packet or request.",
        extension: "sysctl_idle",
    },
    key("image.*", Kind::Text, "", Live::Now, "A property of the image that the instance was made from."),
    limit(
        "limits.action.cpu",
        Kind::OneOf(&["event", "throttle", "freeze", "kill"]),
        "event",
        "What happens when it waits for more CPU time than its hard allowance; at the allowance it is slowed down in any case.",
    ),
    limit(
        "limits.action.memory",
        Kind::OneOf(&["event", "throttle", "freeze", "kill"]),
        "event",
        "What happens when no memory is left at its limit and a process is killed; throttle slows it down there instead (cgroup2).",
    ),
    limit(
        "limits.action.pids",
        Kind::OneOf(&["event", "freeze", "kill"]),
        "event",
        "What happens when a process is not made because it has as many as it may.",
    ),
    key("limits.cpu", Kind::Cpus, "all CPUs", Live::Now, "How many CPUs the instance runs on, or which."),
    key(
        "limits.cpu.allowance",
        Kind::Allowance,
        "100%",
        Live::Now,
        "How much CPU time it gets: a share when others want it too, or a hard quota in each period.",
    ),
    limit(
        "limits.cpu.burst",
        Kind::Time,
        "none",
        "CPU time of a hard allowance that was not used in one period and may be used in a later one.",
    ),
    limit(
        "limits.cpu.idle",
        Kind::Bool,
        "false",
        "Run only while no other instance and nothing on the host wants the CPU.",
    ),
    limit(
        "limits.cpu.partition",
        Kind::OneOf(&["member", "root", "isolated"]),
        "member",
        "Who else runs on the CPUs of limits.cpu: everybody, nobody, or nobody and without balancing between them.",
    ),
    key("limits.cpu.priority", Kind::Integer(0, 10), "10", Live::Now, "Weight against instances with the same share."),
    limit(
        "limits.cpu.uclamp.max",
        Kind::Percent,
        "100%",
        "Most speed of the CPUs that its processes are placed by, which keeps them on slow ones.",
    ),
    limit(
        "limits.cpu.uclamp.min",
        Kind::Percent,
        "0%",
        "Least speed of the CPUs that its processes are placed by, which keeps them on fast ones.",
    ),
    limit(
        "limits.disk.latency",
        Kind::Time,
        "none",
        "How long a request to the root disk should take at most; others on the disk wait for it.",
    ),
    key("limits.disk.priority", Kind::Integer(0, 10), "5", Live::Now, "Weight against others on the same disk."),
    key("limits.hugepages.1GB", Kind::Size, "no limit", Live::Now, "Most memory in huge pages of 1 GB."),
    key("limits.hugepages.1MB", Kind::Size, "no limit", Live::Now, "Most memory in huge pages of 1 MB."),
    key("limits.hugepages.2MB", Kind::Size, "no limit", Live::Now, "Most memory in huge pages of 2 MB."),
    key("limits.hugepages.64KB", Kind::Size, "no limit", Live::Now, "Most memory in huge pages of 64 KB."),
    key("limits.memory", Kind::Memory, "all but 1 GiB of the host's", Live::Now, "Most memory that it may use."),
    key(
        "limits.memory.enforce",
        Kind::OneOf(&["hard", "soft"]),
        "hard",
        Live::Now,
        "Whether a process is killed beyond the limit (hard) or the instance only slowed down (soft).",
    ),
    limit(
        "limits.memory.high",
        Kind::Memory,
        "none",
        "Beyond it the instance is slowed down; with cgroup v1 its memory is only the first to be taken when the host is short.",
    ),
    limit(
        "limits.memory.low",
        Kind::Memory,
        "none",
        "Memory that is taken away only when nobody else has any to give.",
    ),
    limit("limits.memory.min", Kind::Memory, "none", "Memory that is never taken away."),
    limit(
        "limits.memory.oom_group",
        Kind::Bool,
        "false",
        "Out of memory, all its processes are killed together instead of one.",
    ),
    key(
        "limits.memory.swap",
        Kind::Swap,
        "as the host has it",
        Live::Now,
        "Whether its memory may be swapped out, or how much of it.",
    ),
    limit("limits.memory.zswap", Kind::Size, "no limit", "Most memory in the compressed cache before swap."),
    limit(
        "limits.misc.*",
        Kind::Integer(0, 1 << 40),
        "no limit",
        "Most of what the machine has a limited number of, by the kernel's name for it.",
    ),
    limit(
        "limits.network.egress",
        Kind::BitRate,
        "no limit",
        "Most that its programs send each second, by all NICs together; raw packets and its own loopback are not counted.",
    ),
    limit(
        "limits.network.ingress",
        Kind::BitRate,
        "no limit",
        "Most that its programs receive each second, by all NICs together.",
    ),
    key("limits.processes", Kind::Integer(1, 4_194_304), "16384", Live::Now, "Most processes and threads."),
    limit("limits.rdma.handles", Kind::Integer(0, 1 << 31), "no limit", "Most handles of each RDMA device."),
    limit("limits.rdma.objects", Kind::Integer(0, 1 << 31), "no limit", "Most objects of each RDMA device."),
    key_of(
        "namespaces.cgroup",
        Kind::Share,
        "private",
        Live::Restart,
        "Whose view of the control groups it has.",
        "sysctl_namespaces",
    ),
    key_of(
        "namespaces.ipc",
        Kind::Share,
        "private",
        Live::Restart,
        "Whose System V objects and message queues it sees.",
        "sysctl_namespaces",
    ),
    key_of(
        "namespaces.join.policy",
        Kind::OneOf(&["require", "stop-with", "detach"]),
        "require",
        Live::Restart,
        "When an instance whose namespaces it shares is to stop: refuse that, stop with it, or keep the namespaces alive.",
        "sysctl_namespaces",
    ),
    key_of(
        "namespaces.mnt",
        Kind::Share,
        "private",
        Live::Restart,
        "Whose mounts it has; only its own, as the root file system is what an instance is.",
        "sysctl_namespaces",
    ),
    key_of(
        "namespaces.net",
        Kind::Share,
        "private",
        Live::Restart,
        "Whose network it uses: links, addresses, routes, firewall.",
        "sysctl_namespaces",
    ),
    key_of(
        "namespaces.net.persist",
        Kind::Bool,
        "false",
        Live::Restart,
        "Whether its own network outlives its boots: links, addresses, routes and firewall; it is at /run/netns by its name, too.",
        "sysctl_namespaces",
    ),
    key_of(
        "namespaces.pid",
        Kind::Share,
        "private",
        Live::Restart,
        "Whose processes it sees; with others than its own, which takes boot.init, init is not process 1.",
        "sysctl_namespaces",
    ),
    key_of(
        "namespaces.preset",
        Kind::Preset,
        "full",
        Live::Restart,
        "Several choices at once: the network of the host, all that a sidecar shares, fewer objects, or a toolbox; single keys win over it.",
        "sysctl_namespaces",
    ),
    key_of(
        "namespaces.time",
        Kind::Share,
        "private",
        Live::Restart,
        "Whose clocks it reads: with its own, uptime is how long it has been up.",
        "sysctl_namespaces",
    ),
    key_of(
        "namespaces.user",
        Kind::Share,
        "private",
        Live::Restart,
        "Whose users and ids it has; sharing them shares the rights over all else that is shared.",
        "sysctl_namespaces",
    ),
    key_of("namespaces.uts", Kind::Share, "private", Live::Restart, "Whose host name it has.", "sysctl_namespaces"),
    limit(
        "pressure.events",
        Kind::Scarce,
        "none",
        "Which waits are events: a tenth of two seconds or more for cpu, io or memory, told once a minute at most.",
    ),
    key(
        "security.caps",
        Kind::Capabilities,
        "those that a full system needs",
        Live::Restart,
        "Capabilities that are kept or dropped in addition to the default.",
    ),
    key(
        "security.keyring",
        Kind::Bool,
        "true",
        Live::Restart,
        "Whether init starts with a session keyring of its own.",
    ),
    key(
        "security.mounts",
        Kind::OneOf(&["lean", "strict"]),
        "lean",
        Live::Restart,
        "Strict also masks what /proc tells of the host; nested sandboxes then cannot mount a proc of their own.",
    ),
    key(
        "security.nesting",
        Kind::Bool,
        "false",
        Live::Restart,
        "Room for containers inside: a range of 1,048,576 ids and a writable /sys.",
    ),
    key(
        "security.privileged",
        Kind::Bool,
        "false",
        Live::Restart,
        "Only `false`: here each namespace, mask and capability is a switch of its own.",
    ),
    key(
        "security.seccomp",
        Kind::OneOf(&["base", "off"]),
        "base",
        Live::Restart,
        "Which system calls are refused: those that reach the host's kernel as a whole, or none.",
    ),
    key_of(
        "time.offset.boottime",
        Kind::Offset,
        "auto",
        Live::Restart,
        "What its clocks show: how long it has been up, or the host's clocks and so many seconds more.",
        "sysctl_namespaces",
    ),
    key("user.*", Kind::Text, "", Live::Now, "Yours: kept and told, never looked at."),
    key("volatile.*", Kind::Text, "", Live::Now, "Written by the daemon; accepted back unchanged."),
];

/// The entry for a key; families match any name with their prefix and something after it.
pub fn find_key(name: &str) -> Option<&'static Key> {
    INSTANCE_KEYS.iter().find(|key| match key.name.strip_suffix('*') {
        Some(prefix) => name.len() > prefix.len() && name.starts_with(prefix),
        None => key.name == name,
    })
}

/// What a kind of value looks like, for people.
pub fn describe_kind(kind: Kind) -> String {
    match kind {
        Kind::Bool => "true or false".into(),
        Kind::Integer(low, high) => format!("a whole number from {low} to {high}"),
        Kind::OneOf(words) => words.join(" or "),
        Kind::Memory => "a size like 512MiB or 2GB, or a share of the host's memory like 25%".into(),
        Kind::Size => "a size like 512MiB or 2GB".into(),
        Kind::BitRate => "bits each second like 500kbit, 100Mbit or 1Gbit, at least 8kbit".into(),
        Kind::Swap => "true or false, or a size like 512MiB".into(),
        Kind::Time => "a time like 25ms".into(),
        Kind::Pause => "a time from 1s to 30 days like 30s, 5m or 2h".into(),
        Kind::Percent => "a share like 12.5%, up to 100%".into(),
        Kind::Scarce => "some of cpu, io and memory, like cpu,memory".into(),
        Kind::MemoryRange => "a range of sizes like 256MiB..4GiB, the least first".into(),
        Kind::ScaleUp => {
            "a share of a time like some>10%/2s, and how far like some>10%/2s, step 25% (1% to 400%)".into()
        }
        Kind::ScaleDown => {
            "a share of a time like some<1%/60s, and how far like some<1%/60s, step 10% (1% to 50%)".into()
        }
        Kind::CpuRange => "a range of CPU time like 25%..400%, the least first; 100% is one CPU".into(),
        Kind::Cpus => "a number of CPUs like 2, or their ids like 0-1,3 (one alone: 3-3)".into(),
        Kind::Allowance => "a share like 50%, or a quota in a period like 25ms/100ms".into(),
        Kind::Devices => crate::device_rules::RULES.into(),
        Kind::Capabilities => "capabilities with + or - before each, like +sys_time,-net_raw".into(),
        Kind::Share => crate::grain::SHARE.into(),
        Kind::Preset => crate::grain::PRESET.into(),
        Kind::Offset => crate::grain::OFFSET.into(),
        Kind::Program => crate::grain::PROGRAM.into(),
        Kind::Text => "text without control characters".into(),
    }
}

/// Keys of other managers that mean something we do in another way, or not at all, with what to do instead.
pub(crate) const FOREIGN: &[(&str, &str)] = &[
    (
        "raw.",
        "raw text for another program is not taken; each namespace, mount mode, capability and limit has a key of its own",
    ),
    ("nvidia.", "there is no NVIDIA runtime here"),
    ("security.secureboot", "is for virtual machines"),
    ("security.csm", "is for virtual machines"),
    ("security.idmap.isolated", "every instance has ids of its own here; leave the key out"),
    ("migration.stateful", "the state of running processes is not moved"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_every_key_is_found_by_its_name() {
        assert!(INSTANCE_KEYS.is_sorted_by(|a, b| a.name < b.name));
        for key in INSTANCE_KEYS {
            let name = key.name.replace('*', "x");
            assert_eq!(find_key(&name).map(|k| k.name), Some(key.name));
            assert!(key.doc.ends_with('.'), "{}", key.name);
        }
        assert!(find_key("user.").is_none());
        assert!(find_key("limits.memoryy").is_none());
    }
}
