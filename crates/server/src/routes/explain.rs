//! What isolates a running instance, and from what: extension `sysctl_explain`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use engine::InstanceView;
use model::sandbox::CAPABILITIES;
use model::{MountMode, SandboxSpec, Seccomp};
use sysctl_api::Explanation;

use crate::App;
use crate::error::ApiError;
use crate::reply::{self, Answer};
use crate::request::Caller;

pub(crate) async fn get(State(app): State<Arc<App>>, Path(name): Path<String>, caller: Caller) -> Answer {
    let view = app.engine.instance(&caller.project()?, &name)?;
    let pid = view.pid().ok_or_else(|| ApiError::bad("Instance is not running: nothing isolates it from anything"))?;
    let sandbox = app.engine.sandbox(&view.record)?;
    let namespaces = app.access.namespaces(pid)?;
    let (kept, dropped) = capabilities(&sandbox);
    Ok(reply::sync(&Explanation {
        name: view.record.name.to_string(),
        pid: pid.into(),
        namespaces: namespaces.iter().map(|(kind, own)| (kind.clone(), whose(*own).to_owned())).collect(),
        ids: format!(
            "0 to {} inside are {} to {} on the host, and nobody else's",
            sandbox.ids.count - 1,
            sandbox.ids.base,
            sandbox.ids.end() - 1
        ),
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
        links: links(&view),
        exposed: exposed(&sandbox, &namespaces),
    }))
}

fn whose(own: bool) -> &'static str {
    if own { "its own" } else { "the host's" }
}

fn capabilities(sandbox: &SandboxSpec) -> (Vec<String>, Vec<String>) {
    let all = CAPABILITIES.iter().enumerate();
    let (kept, dropped): (Vec<_>, Vec<_>) = all.partition(|(n, _)| sandbox.capabilities.contains(&(*n as u8)));
    let names = |list: Vec<(usize, &&str)>| list.into_iter().map(|(_, name)| (*name).to_owned()).collect();
    (names(kept), names(dropped))
}

/// What the knobs were last seen at, not what was wished.
fn limits(view: &InstanceView) -> BTreeMap<String, String> {
    let boot = view.record.wish.power.boot().and_then(|boot| view.observed.boots.get(&boot));
    let settings = boot.and_then(|boot| boot.group.as_ref()).map(|group| &group.settings);
    settings.into_iter().flatten().map(|(knob, setting)| (format!("{knob:?}"), setting.to_string())).collect()
}

fn links(view: &InstanceView) -> BTreeMap<String, String> {
    let boot = view.record.wish.power.boot().and_then(|boot| view.observed.boots.get(&boot));
    let mut links = BTreeMap::new();
    for (device, grant) in &view.record.wish.nics {
        let seen = boot.and_then(|boot| boot.nics.get(device));
        let host = seen.map_or("no link", |nic| nic.host_name.as_str());
        let addresses: Vec<String> =
            grant.ipv4.iter().map(ToString::to_string).chain(grant.ipv6.iter().map(ToString::to_string)).collect();
        let text = format!("{host} on {}, may send as {} {}", grant.network, grant.mac, addresses.join(" "));
        links.insert(device.to_string(), text);
    }
    links
}

/// What is shared, in sentences.
fn exposed(sandbox: &SandboxSpec, namespaces: &BTreeMap<String, bool>) -> Vec<String> {
    let mut exposed = vec![
        "the kernel: a bug in it is the way out that nothing here closes".to_owned(),
        "CPU caches and timing; and the page cache, for files of the image's layer".to_owned(),
    ];
    for (kind, what) in [
        ("time", "the clocks: how long the host has been up"),
        ("net", "the host's links, addresses and abstract sockets"),
        ("pid", "the host's processes"),
        ("ipc", "the host's System V objects and message queues"),
        ("uts", "the host's name"),
        ("user", "the host's ids: root inside is root outside"),
    ] {
        if namespaces.get(kind) == Some(&false) {
            exposed.push(what.to_owned());
        }
    }
    if sandbox.mounts == MountMode::Lean {
        exposed.push("what /proc tells of the host as a whole: load, memory, CPUs, kernel version".to_owned());
    }
    if sandbox.seccomp == Seccomp::Off {
        exposed.push("every system call of the kernel".to_owned());
    }
    exposed
}
