//! What a start does, as a script for a shell: for people who want to see it, and to do it by hand.
//!
//! It is made of the same specification as a launch. Each part prints what the launcher's step of that name does, with the
//! tools of util-linux and iproute2; what they cannot do is said in a comment at its top.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use model::sandbox::{CAPABILITIES, COVERED, OWN_OF_READ_ONLY, READ_ONLY};
use model::{
    Cidr, Clocks, InstanceId, InstanceSpec, MountMode, NamespaceKind, NicSpec, Plug, SandboxSpec, Seccomp, Settings,
    Share, V1Hierarchy,
};

use crate::sandbox::environment;

mod limits;

/// What the specification leaves to the host: where things are now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whereabouts {
    /// Whose script it is.
    pub id: InstanceId,
    /// Directories of the root file system, topmost first.
    pub layers: Vec<String>,
    /// The lock that whoever has the root file system mounted holds.
    pub lock: String,
    /// Files of the namespaces that are pinned, by kind.
    pub pins: BTreeMap<NamespaceKind, String>,
    /// Names of other instances, and the pid of their init where they run.
    pub others: BTreeMap<InstanceId, (String, Option<u32>)>,
    /// Limits.
    pub settings: Settings,
    /// Hierarchies of cgroup v1.
    pub v1: Vec<V1Hierarchy>,
}

/// Kinds in the order in which they are told, with their option of unshare(1) and nsenter(1). The user namespace, the mounts
/// and the control groups have places of their own in a start.
const BY_CLONE: [NamespaceKind; 4] = [NamespaceKind::Net, NamespaceKind::Ipc, NamespaceKind::Uts, NamespaceKind::Pid];

/// Options of prlimit(1) by the number of the resource.
const RESOURCES: [&str; 16] = [
    "cpu",
    "fsize",
    "data",
    "stack",
    "core",
    "rss",
    "nproc",
    "nofile",
    "memlock",
    "as",
    "locks",
    "sigpending",
    "msgqueue",
    "nice",
    "rtprio",
    "rttime",
];

/// The script that starts an instance without us.
pub fn shell(spec: &InstanceSpec, at: &Whereabouts) -> String {
    let sandbox = &spec.sandbox;
    [
        head(spec),
        users(sandbox, at),
        files(at),
        waiting(spec, at),
        tree(sandbox),
        limits::group(at),
        children(spec),
        spec.nics.iter().enumerate().map(|(number, nic)| link(number, nic, at)).collect(),
        END.to_owned(),
    ]
    .concat()
}

/// A word that a shell takes as it is.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=+,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

fn head(spec: &InstanceSpec) -> String {
    let (name, ids) = (&spec.name, spec.sandbox.ids);
    let mut cannot = Vec::new();
    if spec.sandbox.seccomp == Seccomp::Base {
        cannot.push("the filter of system calls");
    }
    if spec.sandbox.keyring {
        cannot.push("a session keyring of its own");
    }
    if spec.sandbox.mounts == MountMode::Strict {
        cannot.push("locking the mounts below /dev and /run as well (security.mounts=strict)");
    }
    if !spec.sandbox.namespaces.is_first() {
        cannot.push("that what its processes leave behind comes to its init");
    }
    cannot.extend([
        "a terminal of its own as /dev/console",
        "files of the first boot, where it has never run",
        "its limits in /proc, where the host has lxcfs: that lives where no path leads",
        "layers with shifted ids under an overlay, by descriptors: its files are copied instead",
    ]);
    let cannot: String = cannot.into_iter().fold(String::new(), |text, what| text + "#   - " + what + "\n");
    format!(
        r#"#!/bin/sh
# {name}, started by hand: what sysctl does for it, in the order in which it does it.
#
#   sysctl-cli explain {name} --as-shell >{name}.sh && sh {name}.sh [PROGRAM [ARGUMENT...]]
#
# Run it as root, while {name} is stopped. It copies the root file system, runs PROGRAM there ({init} where none is
# named), and leaves nothing when that has ended. ROOT=DIRECTORY has it copy that one, TMPDIR is where to.
# A shell has no way to do this, so it is missing:
{cannot}
set -eu
umask 022
name={name} base={base} count={count}
[ $# -gt 0 ] || set -- {init}
work=$(mktemp -d "${{TMPDIR:-/var/tmp}}/$name.XXXXXX")
chmod 755 "$work"
users= made= init= group= limited= ports= said=
undo() {{
    # The first process of a pid namespace takes all others along; the group has those of a pid namespace that is shared.
    [ -z "$init" ] || kill -KILL "$init" 2>/dev/null || :
    [ -z "$group" ] || echo 1 >"$group/cgroup.kill" || :
    # Of this signal's deaths shells say nothing.
    [ -z "$users" ] || kill -s PIPE "$users" 2>/dev/null || :
    wait 2>/dev/null || :
    [ -z "$group" ] || rmdir "$group/payload" "$group"
    for own in $limited; do rmdir "$own"; done
    # They went with its network, unless that persists.
    for port in $ports; do ip link delete "$port" 2>/dev/null || :; done
    rm -rf --one-file-system "$work"
}}
trap undo EXIT
trap 'exit 130' HUP INT TERM
mkfifo "$work/ask" "$work/told"
exec 3<>"$work/ask" 4<>"$work/told" 5<&0
# What runs in the background says what it has to say, or that it failed.
or_tell() {{ "$@" || {{ code=$?; echo failed >&4; exit "$code"; }}; }}
heard() {{ read -r said <&4; [ "$said" != failed ]; }}
"#,
        base = ids.base,
        count = ids.count,
        init = quoted(&spec.init),
    )
}

/// Where somebody else's namespace is, as a word of the script; none for the host's and for its own.
fn place(kind: NamespaceKind, sandbox: &SandboxSpec, at: &Whereabouts) -> Option<String> {
    match sandbox.namespaces.of(kind) {
        Share::Private | Share::Host => None,
        Share::Path(path) => Some(quoted(path)),
        Share::Pin(_) => at.pins.get(&kind).map(|file| quoted(file)),
        Share::Instance(id) => Some(format!("/proc/{}/ns/{}", pid_of(*id, at), kind.as_str())),
    }
}

/// The init of another instance: its pid now, or what the caller is asked for.
fn pid_of(id: InstanceId, at: &Whereabouts) -> String {
    match at.others.get(&id) {
        Some((_, Some(pid))) => pid.to_string(),
        Some((name, None)) => format!("\"${{OTHER:?must be the pid of the init of {name}, which does not run}}\""),
        None => format!("\"${{OTHER:?must be the pid of the init of {id}}}\""),
    }
}

fn users(sandbox: &SandboxSpec, at: &Whereabouts) -> String {
    if let Some(place) = place(NamespaceKind::User, sandbox, at) {
        return format!(
            "\n# 1. Its users are there already: 0 to {} inside are $base and on.\nusers_at={place}\n",
            sandbox.ids.count - 1
        );
    }
    r#"
# 1. Its users: 0 inside is $base on the host. A process holds their namespace until its init is there.
or_tell unshare --user sh -c 'echo $$ >&4; exec sleep infinity' &
heard
users=$said
echo "0 $base $count" >"/proc/$users/uid_map"
echo "0 $base $count" >"/proc/$users/gid_map"
users_at=/proc/$users/ns/user
"#
    .to_owned()
}

fn files(at: &Whereabouts) -> String {
    // A colon parts layers from one another.
    let lower: Vec<String> = at.layers.iter().map(|layer| layer.replace('\\', "\\\\").replace(':', "\\:")).collect();
    format!(
        r#"
# 2. Its files, written by its own root, so that each has its owner in there. Nobody else may have them mounted meanwhile.
root=$work/root
mkdir "$root" "$work/image"
chown "$base:$base" "$root"
layers={lower}
pack='tar --numeric-owner --xattrs --xattrs-include=security.capability'
if [ -n "${{ROOT-}}" ]; then
    $pack -C "$ROOT" -cf - . || : >"$work/failed"
else
    flock --nonblock {lock} unshare --mount --propagation private -- sh -c \
        'mount -t overlay -o "ro,redirect_dir=follow,metacopy=on,lowerdir=$1" overlay "$2" && shift && exec $0 -C "$@" -cf - .' \
        "$pack" "$layers" "$work/image" || : >"$work/failed"
fi | nsenter --user="$users_at" -- $pack -C "$root" -xpf - || : >"$work/failed"
[ ! -e "$work/failed" ] || {{ echo "the files of $name cannot be read; does it run?" >&2; exit 1; }}
"#,
        lower = quoted(&lower.join(":")),
        lock = quoted(&at.lock),
    )
}

/// Init as it waits: in its namespaces, with the host's files still.
fn waiting(spec: &InstanceSpec, at: &Whereabouts) -> String {
    let sandbox = &spec.sandbox;
    let is_new = |kind: &NamespaceKind| *sandbox.namespaces.of(*kind) == Share::Private;
    let mut shared: Vec<String> = BY_CLONE
        .into_iter()
        .chain([NamespaceKind::Time])
        .filter_map(|kind| Some(format!(" --{}={}", kind.as_str(), place(kind, sandbox, at)?)))
        .collect();
    if !shared.is_empty() {
        shared.insert(0, "nsenter".into());
        shared.push(" -- \\\n".into());
    }
    let clocks = match sandbox.namespaces.clocks {
        None => String::new(),
        // What a shell cannot read: how long the host was up without its pauses.
        Some(Clocks::FromZero) => r#" --time --boottime="-$(cut -d. -f1 /proc/uptime)""#.into(),
        Some(Clocks::Offset(seconds)) => format!(" --time --boottime={seconds} --monotonic={seconds}"),
    };
    let mut new: String =
        BY_CLONE.iter().filter(|kind| is_new(kind)).map(|kind| format!(" --{}", kind.as_str())).collect();
    if is_new(&NamespaceKind::Pid) {
        new.push_str(" --kill-child");
    }
    let group = if is_new(&NamespaceKind::Cgroup) { " --cgroup" } else { "" };
    // Said as a whole: setpriv(1) would ask the /proc that it stands in, the host's, what there is to take from.
    let kept: String = sandbox
        .capabilities
        .iter()
        .filter_map(|number| CAPABILITIES.get(usize::from(*number)))
        .map(|name| format!(",+{name}"))
        .collect();
    let variables: Vec<String> = environment(at.id, &spec.environment).iter().map(|entry| quoted(entry)).collect();
    let limits: String = sandbox
        .rlimits
        .iter()
        .filter_map(|limit| {
            let option = RESOURCES.get(limit.resource as usize)?;
            let text = |n: u64| if n == u64::MAX { "unlimited".to_owned() } else { n.to_string() };
            Some(format!("most {option} {} {}\n", text(limit.soft), text(limit.hard)))
        })
        .collect();
    format!(
        r#"
# 3. Its first process: what it shares is entered, with the users last; what is new belongs to them. It waits, says which
#    number it has on the host, and is told when its tree stands. Then it takes a copy of the mounts, which belongs to its
#    users: every mount that is in there by then is locked, and its root cannot undo it.
begins='read -r pid rest </proc/self/stat; echo "$pid" >&4; read -r _ <&3; exec "$@"'
stands='echo >&4; read -r _ <&3; cd /; exec 3>&- 4>&- 5>&-; exec "$@"'
or_tell {shared}unshare --mount --propagation private{clocks} -- nsenter --user="$users_at" -- unshare{new} --fork -- sh -c "$begins" begins \
    unshare --mount{group} -- env -i {variables} \
    setpriv --bounding-set=-all{kept} sh -c "$stands" stands "$@" <&5 &
made=$!
heard
init=$said
most() {{
    prlimit --pid "$init" "--$1=$2:"
    prlimit --pid "$init" "--$1=:$3" 2>/dev/null || echo "not raised, which takes CAP_SYS_RESOURCE: $1 to $3" >&2
}}
{limits}"#,
        shared = shared.concat(),
        variables = variables.join(" "),
    )
}

fn tree(sandbox: &SandboxSpec) -> String {
    let strict = sandbox.mounts == MountMode::Strict;
    let proc = if strict { "nosuid,nodev,noexec" } else { "defaults" };
    let sys = if sandbox.sys_writable { "rw" } else { "ro" };
    let mut text = format!(
        r#"
# 4. What is locked: its root, /proc, /sys and /dev, made by the host's root in its namespaces.
tree() {{ nsenter --target "$init" --mount --net --ipc --pid -- "$@"; }}
tree mount --bind "$root" "$root"
tree mount -o remount,bind,nodev "$root"
tree mount -t proc -o {proc} proc "$root/proc"
tree mount -t sysfs -o {sys},nosuid,nodev,noexec sysfs "$root/sys"
tree mount -t tmpfs -o "mode=755,size=4m,nr_inodes=4096,uid=$base,gid=$base,nosuid,noexec" tmpfs "$root/dev"
for directory in net pts shm mqueue .host; do tree mkdir "$root/dev/$directory"; done
"#
    );
    for node in &sandbox.devices {
        let (path, major, minor) = (&node.path, node.major, node.minor);
        let _ = writeln!(text, "tree mknod -m 666 \"$root/dev/{path}\" c {major} {minor}");
    }
    text.push_str(
        r#"for link in /proc/self/fd:fd fd/0:stdin fd/1:stdout fd/2:stderr pts/ptmx:ptmx /proc/kcore:core; do
    tree ln -s "${link%:*}" "$root/dev/${link#*:}"
done
tree chown -R -h "$base:$base" "$root/dev"
"#,
    );
    // Who does not own a namespace may not mount what shows it.
    if sandbox.namespaces.foreign.contains(&NamespaceKind::Cgroup) {
        text.push_str("tree mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 \"$root/sys/fs/cgroup\"\n");
    }
    if sandbox.namespaces.foreign.contains(&NamespaceKind::Ipc) {
        text.push_str("tree mount -t mqueue -o nosuid,nodev,noexec mqueue \"$root/dev/mqueue\"\n");
    }
    if strict {
        text.push_str(&masks());
    }
    text
}

/// What the strict mode covers of `/proc`.
fn masks() -> String {
    format!(
        r#"for path in {covered}; do
    tree test -e "$root/proc/$path" || continue
    tree mount --bind /dev/null "$root/proc/$path"
done
for path in {read_only}; do
    tree test -e "$root/proc/$path" || continue
    tree mount --bind "$root/proc/$path" "$root/proc/$path"
    tree mount -o remount,bind,ro,nosuid,nodev,noexec "$root/proc/$path"
done
for path in {own}; do
    tree mount --bind "$root/proc/$path" "$root/proc/$path"
    tree mount -o remount,bind,rw,nosuid,nodev,noexec "$root/proc/$path"
done
"#,
        covered = COVERED.join(" "),
        read_only = READ_ONLY.join(" "),
        own = OWN_OF_READ_ONLY.join(" "),
    )
}

fn children(spec: &InstanceSpec) -> String {
    let sandbox = &spec.sandbox;
    let namespaces = &sandbox.namespaces;
    let is_new = |kind: NamespaceKind| *namespaces.of(kind) == Share::Private;
    let mut text = r#"
# 6. It takes its copy. From here on mounts are its own root's, who may change them.
echo >&3
heard
inside() { nsenter --target "$init" --user --mount --net --ipc --uts --cgroup --pid -- "$@"; }
inside mount -o remount,bind,nosuid,nodev,noexec "$root/proc"
"#
    .to_owned();
    if !namespaces.foreign.contains(&NamespaceKind::Cgroup) {
        text.push_str("inside mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 \"$root/sys/fs/cgroup\"\n");
    }
    if !namespaces.foreign.contains(&NamespaceKind::Ipc) {
        text.push_str("inside mount -t mqueue -o nosuid,nodev,noexec mqueue \"$root/dev/mqueue\"\n");
    }
    text.push_str(
        r#"for path in sys/kernel/debug sys/kernel/tracing sys/kernel/config sys/fs/fuse/connections; do
    [ ! -d "/$path" ] || inside mount --bind "$root/$path" "$root/$path"
done
inside mount -t devpts -o ptmxmode=0666,mode=0620,gid=5,max=1024,nosuid,noexec devpts "$root/dev/pts"
inside mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/dev/shm"
[ -L "$root/run" ] || inside mount -t tmpfs -o mode=755,size=20%,nosuid,nodev tmpfs "$root/run"
"#,
    );
    if is_new(NamespaceKind::Uts) {
        text.push_str("inside hostname \"$name\"\n");
    }
    if is_new(NamespaceKind::User) && sandbox.max_user_namespaces > 0 {
        let most = sandbox.max_user_namespaces;
        let _ = writeln!(text, "inside sh -c 'echo {most} >/proc/sys/user/max_user_namespaces'");
    }
    if !namespaces.masked_units.is_empty() {
        text.push_str("inside mkdir -p \"$root/run/systemd/system\"\n");
        let units = namespaces.masked_units.join(" ");
        let _ = writeln!(
            text,
            "for unit in {units}; do\n    inside ln -s /dev/null \"$root/run/systemd/system/$unit\"\ndone"
        );
    }
    text
}

/// One NIC. Links have names that the daemon does not give.
fn link(number: usize, nic: &NicSpec, at: &Whereabouts) -> String {
    let (device, guest, mac) = (&nic.device, quoted(&nic.guest_name), nic.mac);
    let mtu = nic.mtu.map(|mtu| format!(" mtu {mtu}")).unwrap_or_default();
    let mut text = format!("\n# 7. Its link {device}");
    let addresses = |text: &mut String, at: &str, name: &str, ips: [Option<Cidr>; 2]| {
        for ip in ips.into_iter().flatten() {
            // Nobody else has it: it was given to this instance.
            let nodad = if ip.ipv6().is_some() { " nodad" } else { "" };
            let _ = writeln!(text, "{at} ip address add {ip} dev {name}{nodad}");
        }
        let _ = writeln!(text, "{at} ip link set {name} up\n{at} ip link set lo up");
    };
    const OWN: &str = "nsenter --target \"$init\" --net --";
    match &nic.plug {
        Plug::Network(network) => {
            let guarded = if nic.spoofing { "" } else { " The daemon's firewall lets it send as itself only." };
            let _ = writeln!(text, ", on {network}.{guarded}");
            text.push_str(&pair(number, &guest, nic));
            let _ = writeln!(text, "ip link set \"$port\" master {network} up");
        }
        Plug::Chain(chain) => {
            let _ = writeln!(text, ", in the chain {chain}: where its frames go is a table of the daemon's firewall.");
            text.push_str(&pair(number, &guest, nic));
            text.push_str("ip link set \"$port\" up\n");
        }
        Plug::Wire(far) => {
            let pid = pid_of(far.to.id, at);
            let far_name = quoted(&far.guest_name);
            let _ = writeln!(text, ", a wire: no end of it is on the host.\nfar={pid}");
            let _ = writeln!(
                text,
                "ip link add h$$x{number}{mtu} type veth peer name {guest} address {mac}{mtu} netns \"$init\"\n\
                 ip link set h$$x{number} address {} name {far_name} netns \"$far\"",
                far.mac
            );
            addresses(&mut text, "nsenter --target \"$far\" --net --", &far_name, [far.ipv4, far.ipv6]);
        }
    }
    addresses(&mut text, OWN, &guest, [nic.ipv4, nic.ipv6]);
    for (gateway, own) in [(nic.gateway4.map(IpAddr::V4), nic.ipv4), (nic.gateway6.map(IpAddr::V6), nic.ipv6)] {
        let Some(gateway) = gateway else { continue };
        let covered = match gateway {
            IpAddr::V6(address) if address.is_unicast_link_local() => true,
            _ => own.is_some_and(|own| own.contains(gateway)),
        };
        let on_link = if covered { "" } else { " onlink" };
        let _ = writeln!(text, "{OWN} ip route add default via {gateway} dev {guest} proto static{on_link}");
    }
    text
}

/// A pair of links with an end on the host, called `$port`.
fn pair(number: usize, guest: &str, nic: &NicSpec) -> String {
    let mtu = nic.mtu.map(|mtu| format!(" mtu {mtu}")).unwrap_or_default();
    format!(
        "port=h$$x{number}\nports=\"$ports $port\"\n\
         ip link add \"$port\"{mtu} type veth peer name {guest} address {}{mtu} netns \"$init\"\n",
        nic.mac
    )
}

const END: &str = r#"
# 8. Its root becomes the root, and the host's tree goes. A tool of the host that stands in the host's tree takes it away.
nsenter --target "$init" --mount -- sh -c 'cd "$1" && mount --rbind . . && cd "$1" && pivot_root . dev/.host' pivot "$root"
nsenter --mount="/proc/$init/ns/mnt" --root=/ -- umount --lazy --no-canonicalize "/proc/$init/root/dev/.host"
rmdir "/proc/$init/root/dev/.host"

# 9. It runs.
echo >&3
code=0
wait "$made" || code=$?
init=
exit "$code"
"#;

#[cfg(test)]
mod tests {
    use model::{DeviceNode, Knob, Setting};
    use uuid::Uuid;

    use super::*;
    use crate::settings::tests::wish;

    pub(super) fn at() -> Whereabouts {
        Whereabouts {
            id: InstanceId(Uuid::from_u128(1)),
            layers: vec!["/pool/volumes/a b/upper.1".into(), "/pool/layers/f".into()],
            lock: "/pool/volumes/a b/lock".into(),
            pins: BTreeMap::new(),
            others: [(InstanceId(Uuid::from_u128(2)), ("db1".to_owned(), Some(77)))].into(),
            settings: [(Knob::MemoryMax, Setting::Number(1 << 20)), (Knob::CpuMax, Setting::Quota(5000, 100_000))]
                .into(),
            v1: Vec::new(),
        }
    }

    fn has(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.contains(line), "{line:?} is missing in\n{text}");
        }
    }

    #[test]
    fn the_script_makes_what_the_specification_says() {
        let mut spec = wish().spec;
        spec.sandbox.devices = vec![DeviceNode { path: "null".into(), major: 1, minor: 3 }];
        spec.environment = vec![("GREETING".into(), "it's me".into())];
        let text = shell(&spec, &at());
        has(
            &text,
            &[
                &format!("base={} count={}", spec.sandbox.ids.base, spec.sandbox.ids.count),
                "layers='/pool/volumes/a b/upper.1:/pool/layers/f'\n",
                "flock --nonblock '/pool/volumes/a b/lock'",
                "unshare --net --ipc --uts --pid --kill-child --fork",
                r"'GREETING=it'\''s me'",
                "tree mknod -m 666 \"$root/dev/null\" c 1 3",
                "limit memory.max 1048576",
                "limit cpu.max '5000 100000'",
                "inside hostname \"$name\"",
                "#   - the filter of system calls",
            ],
        );
    }

    #[test]
    fn what_is_shared_is_entered_and_not_made() {
        let mut spec = wish().spec;
        let owner = Share::Instance(InstanceId(Uuid::from_u128(2)));
        spec.sandbox.namespaces.shares =
            [(NamespaceKind::Net, owner.clone()), (NamespaceKind::User, owner), (NamespaceKind::Uts, Share::Host)]
                .into();
        spec.sandbox.namespaces.masked_units = vec!["systemd-networkd.service".into()];
        let text = shell(&spec, &at());
        has(
            &text,
            &[
                "users_at=/proc/77/ns/user",
                "nsenter --net=/proc/77/ns/net -- \\\nunshare --mount",
                "unshare --ipc --pid --kill-child --fork",
                "for unit in systemd-networkd.service; do",
            ],
        );
        assert!(!text.contains("inside hostname") && !text.contains("unshare --user"), "{text}");
        spec.sandbox.namespaces.shares.insert(NamespaceKind::Pid, Share::Host);
        spec.init = "/opt/my app".into();
        has(&shell(&spec, &at()), &["unshare --ipc --fork", "set -- '/opt/my app'\n", "comes to its init"]);
        let stopped =
            Whereabouts { others: [(InstanceId(Uuid::from_u128(2)), ("db1".to_owned(), None))].into(), ..at() };
        has(&shell(&spec, &stopped), &["${OTHER:?must be the pid of the init of db1"]);
    }

    #[test]
    fn strict_masks_and_a_writable_sys_are_in_it_where_they_are_asked_for() {
        let mut spec = wish().spec;
        (spec.sandbox.mounts, spec.sandbox.sys_writable) = (MountMode::Lean, false);
        let lean = shell(&spec, &at());
        assert!(!lean.contains("/dev/null \"$root/proc") && lean.contains("sysfs -o ro,"), "{lean}");
        (spec.sandbox.mounts, spec.sandbox.sys_writable) = (MountMode::Strict, true);
        has(&shell(&spec, &at()), &["for path in kcore keys", "sysfs -o rw,"]);
    }
}
