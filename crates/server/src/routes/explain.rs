//! What isolates a running instance, and from what: extension `sysctl_explain`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use engine::InstanceView;
use model::sandbox::CAPABILITIES;
use model::{InstanceId, MountMode, NamespaceKind, SandboxSpec, Seccomp, Share};
use sysctl_api::Explanation;

use super::namespaces::{label_of, name_of};
use crate::App;
use crate::error::ApiError;
use crate::reply::{self, Answer};
use crate::request::Caller;

pub(crate) async fn get(State(app): State<Arc<App>>, Path(name): Path<String>, caller: Caller) -> Answer {
    let view = app.engine.instance(&caller.project()?, &name)?;
    match caller.query.get("as") {
        None | Some("json") => {}
        Some("shell") => return Ok(reply::sync(&app.engine.script(&view, &*app.access)?)),
        Some(other) => return Err(ApiError::bad(format!("as: {other:?} is not known: json or shell"))),
    }
    let pid = view.pid().ok_or_else(|| ApiError::bad("Instance is not running: nothing isolates it from anything"))?;
    let sandbox = app.engine.sandbox(&view.record)?;
    let (namespaces, host) = (app.access.namespaces(pid)?, app.access.namespaces(std::process::id())?);
    let is_hosts = |kind: NamespaceKind| namespaces.get(&kind) == host.get(&kind);
    let (kept, dropped) = capabilities(&sandbox);
    Ok(reply::sync(&Explanation {
        name: view.record.name.to_string(),
        pid: pid.into(),
        namespaces: NamespaceKind::ALL
            .into_iter()
            .map(|kind| (kind.as_str().to_owned(), whose(&app, &sandbox, kind, is_hosts(kind))))
            .collect(),
        ids: ids(&app, &sandbox),
        capabilities: kept,
        capabilities_dropped: dropped,
        seccomp: match sandbox.seccomp {
            Seccomp::Base => {
                "calls that reach the kernel as a whole are refused, and sockets of unusual families".into()
            }
            Seccomp::Off => "every system call is allowed".into(),
        },
        mounts: match sandbox.mounts {
            MountMode::Lean => "/, /proc, /sys and /dev are locked: root cannot undo them or change their flags".into(),
            MountMode::Strict => {
                "as lean, and what /proc tells of the host is covered; fresh mounts of proc fail".into()
            }
        },
        sys_writable: sandbox.sys_writable,
        devices: sandbox.devices.iter().map(|node| format!("/dev/{}", node.path)).collect(),
        limits: limits(&view),
        links: links(&app, &view),
        exposed: exposed(&app, &sandbox, is_hosts),
    }))
}

/// Whose namespace it is, as the kernel says; the definition tells a neighbour's from its own.
fn whose(app: &App, sandbox: &SandboxSpec, kind: NamespaceKind, is_hosts: bool) -> String {
    let rights = if sandbox.namespaces.foreign.contains(&kind) { ", without rights over it" } else { "" };
    match sandbox.namespaces.of(kind) {
        _ if is_hosts => "the host's".into(),
        Share::Private | Share::Host => "its own".into(),
        Share::Instance(id) => format!("that of {}{rights}", name_of(app, *id)),
        Share::Path(path) => format!("the one at {path}{rights}"),
        Share::Pin(pin) if app.engine.name_of(InstanceId(pin.of)).is_some() => {
            "its own, which outlives its boots".into()
        }
        Share::Pin(pin) => format!("namespace {}{rights}", label_of(app, *pin)),
    }
}

fn ids(app: &App, sandbox: &SandboxSpec) -> String {
    let (first, last) = (sandbox.ids.base, sandbox.ids.end() - 1);
    let whose = match sandbox.namespaces.of(NamespaceKind::User) {
        Share::Instance(id) => format!("{}'s as well: each is root over the other", name_of(app, *id)),
        Share::Pin(pin) if app.engine.name_of(InstanceId(pin.of)).is_some() => "nobody else's".to_owned(),
        Share::Pin(pin) => format!("those of whoever lives in {}: each is root over the others", label_of(app, *pin)),
        Share::Private | Share::Host | Share::Path(_) => "nobody else's".to_owned(),
    };
    format!("0 to {} inside are {first} to {last} on the host, and {whose}", sandbox.ids.count - 1)
}

fn capabilities(sandbox: &SandboxSpec) -> (Vec<String>, Vec<String>) {
    let all = CAPABILITIES.iter().enumerate();
    let (kept, dropped): (Vec<_>, Vec<_>) = all.partition(|(n, _)| sandbox.capabilities.contains(&(*n as u8)));
    let names = |list: Vec<(usize, &&str)>| list.into_iter().map(|(_, name)| (*name).to_owned()).collect();
    (names(kept), names(dropped))
}

/// What the knobs were last seen at, not what was wished.
fn limits(view: &InstanceView) -> BTreeMap<String, String> {
    view.settings().into_iter().flatten().map(|(knob, setting)| (format!("{knob:?}"), setting.to_string())).collect()
}

fn links(app: &App, view: &InstanceView) -> BTreeMap<String, String> {
    let boot = view.seen();
    let mut links = BTreeMap::new();
    for (device, grant) in &view.record.wish.nics {
        let seen = boot.and_then(|boot| boot.nics.get(device));
        let host = seen.map_or("no link", |nic| nic.host_name.as_str());
        let addresses: Vec<String> =
            grant.ipv4.iter().map(ToString::to_string).chain(grant.ipv6.iter().map(ToString::to_string)).collect();
        let text = format!("{host} on {}, may send as {} {}", grant.network, grant.mac, addresses.join(" "));
        links.insert(device.to_string(), text);
    }
    for (device, nic) in boot.into_iter().flat_map(|boot| &boot.nics) {
        if let Some(to) = nic.wire.as_ref().map(|wire| &wire.to) {
            let text =
                format!("a wire to {} of {}, which passes no firewall of the host", to.device, name_of(app, to.id));
            links.insert(device.to_string(), text);
        }
    }
    links
}

/// What it means to live among the processes of another instance.
fn among_others(app: &App, sandbox: &SandboxSpec) -> Vec<String> {
    let Share::Instance(id) = sandbox.namespaces.of(NamespaceKind::Pid) else { return Vec::new() };
    let name = name_of(app, *id);
    let mut told = vec![
        format!("the processes of {name}, and to it its own: names, command lines, what they use"),
        format!("its life: where the first process there is {name}'s, the kernel kills all of it when that ends"),
    ];
    if !sandbox.namespaces.foreign.contains(&NamespaceKind::Pid) {
        told.push(format!(
            "the files of {name}, and to it its own, by /proc/PID/root; and reboot(2), which ends {name}: they have the same users"
        ));
    }
    told
}

/// What is shared, in sentences.
fn exposed(app: &App, sandbox: &SandboxSpec, is_hosts: impl Fn(NamespaceKind) -> bool) -> Vec<String> {
    let mut exposed = vec![
        "the kernel: a bug in it is the way out that nothing here closes".to_owned(),
        "CPU caches and timing; and the page cache, for files of the image's layer".to_owned(),
    ];
    for (kind, what) in [
        (NamespaceKind::Time, "the clocks: how long the host has been up"),
        (NamespaceKind::Net, "the host's links, addresses and abstract sockets"),
        (NamespaceKind::Pid, "the host's processes, and those of all guests: names, command lines, what they use"),
        (NamespaceKind::Ipc, "the host's System V objects and message queues"),
        (NamespaceKind::Uts, "the host's name"),
        (NamespaceKind::Cgroup, "the host's control groups: which there are and what they use"),
        (NamespaceKind::User, "the host's ids: root inside is root outside"),
    ] {
        if is_hosts(kind) {
            exposed.push(what.to_owned());
        }
    }
    for (kind, share) in &sandbox.namespaces.shares {
        if let Share::Instance(id) = share {
            exposed.push(format!("its {} namespace, with {}", kind.as_str(), name_of(app, *id)));
        }
    }
    exposed.extend(among_others(app, sandbox));
    if sandbox.mounts == MountMode::Lean {
        exposed.push("what /proc tells of the host as a whole: load, memory, CPUs, kernel version".to_owned());
    }
    if sandbox.seccomp == Seccomp::Off {
        exposed.push("every system call of the kernel".to_owned());
    }
    exposed
}
