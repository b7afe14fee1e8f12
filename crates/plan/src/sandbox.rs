//! The isolation of an instance: hardened defaults, and what its definition changes about them.

use std::collections::BTreeSet;

use config::SandboxChoice;
use model::sandbox::{CAPABILITIES, ResourceLimit};
use model::{DeviceNode, DeviceRange, HostFacts, InstanceId, SandboxSpec};

use crate::grain::Grain;

/// Capabilities that init does not have unless asked for: nothing in a full system needs them inside a user namespace, and
/// all have been part of ways out of one.
const DROPPED: [&str; 13] = [
    "sys_module",
    "sys_rawio",
    "sys_pacct",
    "sys_time",
    "audit_control",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];

/// Nodes that every guest has.
const NODES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Nodes that a guest has when the host has them: rootless tools live on these two, and both act within the guest's own
/// namespaces.
const NODES_OF_HOST: [&str; 2] = ["fuse", "net/tun"];

/// Nested user namespaces that a guest may have.
const USER_NAMESPACES: u32 = 16_384;

/// The isolation for a choice, the namespaces that were decided on, and a host.
pub fn sandbox(choice: &SandboxChoice, grain: Grain, facts: &HostFacts) -> SandboxSpec {
    SandboxSpec {
        ids: grain.ids,
        namespaces: grain.namespaces,
        mounts: choice.mounts,
        sys_writable: choice.nesting,
        capabilities: capabilities(choice),
        seccomp: choice.seccomp,
        devices: nodes(facts).filter_map(node).collect(),
        rlimits: rlimits(),
        keyring: !choice.shared_keyring,
        max_user_namespaces: USER_NAMESPACES,
    }
}

/// Names of the nodes in a guest's `/dev`.
pub(crate) fn nodes(facts: &HostFacts) -> impl Iterator<Item = &'static str> {
    NODES.into_iter().chain(NODES_OF_HOST.into_iter().filter(|name| facts.devices.contains(*name)))
}

fn node(name: &str) -> Option<DeviceNode> {
    let DeviceRange { major, minor: Some(minor), .. } = DeviceRange::named(name)? else { return None };
    Some(DeviceNode { path: name.to_owned(), major, minor })
}

fn capabilities(choice: &SandboxChoice) -> BTreeSet<u8> {
    (0u8..)
        .zip(CAPABILITIES)
        .filter(|(_, name)| {
            let kept = !DROPPED.contains(name) || choice.more_capabilities.contains(*name);
            kept && !choice.fewer_capabilities.contains(*name)
        })
        .map(|(number, _)| number)
        .collect()
}

/// What a machine of its own would have: many open files (systemd raises the soft limit where it wants), no core dumps by
/// default, a little locked memory.
fn rlimits() -> Vec<ResourceLimit> {
    const CORE: u32 = 4;
    const NOFILE: u32 = 7;
    const MEMLOCK: u32 = 8;
    let limit = |resource, soft, hard| ResourceLimit { resource, soft, hard };
    vec![limit(CORE, 0, u64::MAX), limit(NOFILE, 1024, 1 << 20), limit(MEMLOCK, 8 << 20, 8 << 20)]
}

/// The environment of a guest's init, as `NAME=value`.
pub fn environment(id: InstanceId, own: &[(String, String)]) -> Vec<String> {
    let mut environment = vec![
        // What guests tell a container by (systemd's CONTAINER_INTERFACE); images know this word since LXC.
        "container=lxc".to_owned(),
        // The machine id of a guest that has none yet.
        format!("container_uuid={id}"),
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        "TERM=linux".to_owned(),
    ];
    for (name, value) in own {
        environment.retain(|entry| entry.split_once('=').is_none_or(|(known, _)| known != name));
        environment.push(format!("{name}={value}"));
    }
    environment
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::tests::facts;

    fn grain() -> Grain {
        let ids = model::IdMap { base: 1 << 20, count: model::IdMap::ORDINARY };
        Grain { namespaces: Default::default(), ids, user_of: crate::Users::Instance(InstanceId(uuid::Uuid::nil())) }
    }

    #[test]
    fn capabilities_can_be_added_and_taken() {
        let number = |name: &str| CAPABILITIES.iter().position(|c| *c == name).expect(name) as u8;
        let default = sandbox(&SandboxChoice::default(), grain(), &facts()).capabilities;
        assert!(default.contains(&number("net_admin")) && !default.contains(&number("sys_module")));
        let choice = SandboxChoice {
            more_capabilities: ["sys_time".to_owned()].into(),
            fewer_capabilities: ["net_raw".to_owned()].into(),
            ..SandboxChoice::default()
        };
        let changed = sandbox(&choice, grain(), &facts()).capabilities;
        assert!(changed.contains(&number("sys_time")) && !changed.contains(&number("net_raw")));
    }

    #[test]
    fn nodes_that_the_host_lacks_are_left_out() {
        let paths: Vec<String> =
            sandbox(&SandboxChoice::default(), grain(), &facts()).devices.into_iter().map(|d| d.path).collect();
        assert!(paths.contains(&"fuse".to_owned()) && !paths.contains(&"net/tun".to_owned()));
    }

    #[test]
    fn the_definition_may_change_the_environment() {
        let id = InstanceId(uuid::Uuid::nil());
        let all = environment(id, &[("TERM".into(), "xterm".into()), ("A".into(), "b=c".into())]);
        assert!(all.contains(&"TERM=xterm".to_owned()) && all.contains(&"A=b=c".to_owned()));
        assert_eq!(all.iter().filter(|e| e.starts_with("TERM=")).count(), 1);
    }
}
