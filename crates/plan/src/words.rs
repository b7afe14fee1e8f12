//! Steps and failures in words that people can act on.

use model::{NetworkSpec, PinSource, PinSpec, Plug, RootSource, Step};

/// A step as one line of a plan.
pub fn sentence(step: &Step) -> String {
    match step {
        Step::EnsureImage { fingerprint, pool } => {
            format!("have image {:.12} unpacked in pool {pool}", fingerprint.to_string())
        }
        Step::CreateRoot { root, pool, source, .. } => match source {
            RootSource::Empty => format!("make empty root file system {root} in pool {pool}"),
            RootSource::Image(image) => {
                format!("make root file system {root} in pool {pool} on image {:.12}", image.to_string())
            }
        },
        Step::CreateGroup { boot, settings, owner } => {
            let set = settings.iter().filter(|(knob, value)| **value != knob.initial());
            let knobs: Vec<String> = set.map(|(knob, value)| format!("{knob:?}={value}")).collect();
            format!("make control group {boot}, delegated to id {owner}: {}", knobs.join(" "))
        }
        Step::Spawn { boot, spec, .. } => {
            let ids = spec.sandbox.ids;
            format!("make init of boot {boot} in new namespaces, ids {} to {}", ids.base, ids.end() - 1)
        }
        Step::AttachNic { nic, .. } => {
            let addresses: Vec<String> = [nic.ipv4, nic.ipv6].iter().flatten().map(ToString::to_string).collect();
            let to = match &nic.plug {
                Plug::Network(network) => network.to_string(),
                Plug::Chain(chain) => format!("chain {chain}"),
                Plug::Wire(end) => format!("{} of instance {} by a wire", end.to.device, end.to.id),
            };
            format!("link {} to {to} as {} with {}", nic.device, nic.mac, addresses.join(" "))
        }
        Step::Start { .. } => "let init run".into(),
        Step::SetLimits { settings, .. } => {
            let knobs: Vec<String> = settings.iter().map(|(knob, value)| format!("{knob:?}={value}")).collect();
            format!("set limits: {}", knobs.join(" "))
        }
        Step::Freeze { .. } => "hold all processes still".into(),
        Step::Thaw { .. } => "let all processes go on".into(),
        Step::Halt { timeout_s, .. } => format!("ask init to halt and wait up to {timeout_s} s"),
        Step::Kill { .. } => "kill all processes that are left".into(),
        Step::DetachNic { device, host_name, .. } if host_name.is_empty() => format!("take the wire off {device}"),
        Step::DetachNic { device, host_name, .. } => format!("remove link {host_name} of {device}"),
        Step::ReleaseKeeper { .. } => "let the keeper go".into(),
        Step::RemoveGroup { boot } => format!("remove control group {boot}"),
        Step::DiscardRoot { root, pool, .. } => format!("throw root file system {root} in pool {pool} away"),
        Step::AdoptImage { upload } => format!("check upload {upload} and keep it as an image"),
        Step::BuildImage { recipe } => format!("build image from recipe {:.12}", recipe.to_string()),
        Step::UnpackLayer { fingerprint, pool } => {
            format!("unpack image {:.12} in pool {pool}", fingerprint.to_string())
        }
        Step::RemoveLayer { fingerprint, pool } => {
            format!("remove image {:.12} from pool {pool}", fingerprint.to_string())
        }
        Step::RemoveImage { fingerprint } => format!("remove image {:.12}", fingerprint.to_string()),
        Step::EnsurePool { pool } => format!("have pool {}", pool.name),
        Step::EnsureNetwork { network: NetworkSpec { name, chain: Some(chain), .. } } => {
            let on_path = chain.hops.iter().filter(|hop| !hop.bypassed).count();
            format!("have chain {name} from network {} over {on_path} functions to {}", chain.from, chain.to.device)
        }
        Step::EnsureNetwork { network } => format!("have network {}", network.name),
        Step::RemoveNetwork { name } => format!("remove network {name}"),
        Step::PinNamespace { spec: PinSpec { pin, source, netns } } => {
            let from = match source {
                PinSource::Users(ids) => format!("a new one, ids {} to {}", ids.base, ids.end() - 1),
                PinSource::New(Some(users)) => format!("a new one in the users of {users}"),
                PinSource::New(None) => "a new one".into(),
                PinSource::Instance(id) => format!("that of instance {id}"),
                PinSource::Path(path) => format!("that at {path}"),
            };
            let also = netns.as_ref().map(|name| format!(", also at /run/netns/{name}")).unwrap_or_default();
            format!("pin {} namespace {pin}: {from}{also}", pin.kind.as_str())
        }
        Step::UnpinNamespace { pin } => format!("let pinned {} namespace {pin} go", pin.kind.as_str()),
    }
}

/// What to do about a failed call, when that is known.
pub fn hint(call: &str, errno: i32) -> Option<&'static str> {
    const ENOENT: i32 = 2;
    const EAGAIN: i32 = 11;
    const ENOMEM: i32 = 12;
    const EBUSY: i32 = 16;
    const EINVAL: i32 = 22;
    const EMFILE: i32 = 24;
    const ENOSPC: i32 = 28;
    const EROFS: i32 = 30;
    const ENOSYS: i32 = 38;
    const EUSERS: i32 = 87;
    Some(match (call, errno) {
        ("execve", ENOENT) => {
            "the image has no such program: is it a full system with /sbin/init, for this machine's architecture? Another \
             program is named by boot.init"
        }
        ("look: systemd must be process 1", _) => {
            "name another program by boot.init, or leave namespaces.pid private: systemd starts only as the first process there"
        }
        ("clone3: the pid namespace has ended", _) => {
            "whose first process has ended: start that again, or leave namespaces.pid private"
        }
        (call, ENOSPC) if call.starts_with("clone") || call.starts_with("unshare") => {
            "the host's limit on namespaces is reached: raise the user.max_*_namespaces sysctls"
        }
        (_, ENOSPC) => "the disk is full: free some space or use another pool",
        (call, EBUSY) if call.contains("/memory.") => {
            "the guest uses more memory than that and no more of it can be taken away: end something in it first"
        }
        (call, EINVAL) if call.contains("idmap") => {
            "this file system cannot be idmapped: use a pool on ext4, xfs or btrfs"
        }
        (call, EROFS) if call.contains("overlay") => {
            "the kernel could not make overlay's work directory: is the pool's disk read-only?"
        }
        (_, EAGAIN) => {
            "the host's limit on processes is reached: end some, or raise kernel.pid_max and TasksMax of the keeper's unit"
        }
        (_, ENOMEM) => "the host is out of memory: stop something, or set limits.memory on what uses most",
        (_, EMFILE) => "too many open files: raise LimitNOFILE of the daemon's units",
        (_, ENOSYS) => "this kernel is too old for it: 6.1 is the oldest that is supported",
        (_, EUSERS) => "end another one first",
        _ => return None,
    })
}
