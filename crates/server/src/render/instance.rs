//! Instances.

use std::collections::BTreeMap;

use config::Expanded;
use engine::{InstanceStatus, InstanceView, LinkUsage, Usage};
use model::RootSource;
use serde_json::json;
use sysctl_api::{
    Config, Instance, InstanceFull, InstanceState, NEVER, StateAddress, StateCounters, StateCpu, StateMemory,
    StateNetwork, code,
};

use super::{time_ms, time_s};

fn status(status: InstanceStatus) -> (&'static str, u16) {
    match status {
        InstanceStatus::Stopped => ("Stopped", code::STOPPED),
        InstanceStatus::Running => ("Running", code::RUNNING),
        InstanceStatus::Frozen => ("Frozen", code::FROZEN),
        InstanceStatus::Starting => ("Starting", code::STARTING),
        InstanceStatus::Stopping => ("Stopping", code::STOPPING),
        InstanceStatus::Error => ("Error", code::ERROR),
    }
}

/// What the daemon itself keeps, under the names that clients know.
fn volatile(view: &InstanceView) -> Config {
    let record = &view.record;
    let mut keys = Config::new();
    let mut set = |key: &str, value: String| drop(keys.insert(format!("volatile.{key}"), value));
    let ids = record.wish.ids;
    let map = json!([
        {"Isuid": true, "Isgid": true, "Hostid": ids.base, "Nsid": 0, "Maprange": ids.count},
    ])
    .to_string();
    set("uuid", record.id.to_string());
    set("uuid.generation", record.id.to_string());
    set("cloud-init.instance-id", record.id.to_string());
    set("last_state.power", if record.wish.power.boot().is_some() { "RUNNING" } else { "STOPPED" }.into());
    set("idmap.base", ids.base.to_string());
    set("idmap.current", map.clone());
    set("idmap.next", map);
    set("last_state.idmap", "[]".into());
    if let RootSource::Image(fingerprint) = record.wish.source {
        set("base_image", fingerprint.to_string());
    }
    for (device, grant) in &record.wish.nics {
        set(&format!("{device}.hwaddr"), grant.mac.to_string());
    }
    let boot = view.seen();
    for (device, nic) in boot.into_iter().flat_map(|seen| &seen.nics) {
        // A wire has no end on the host.
        if nic.wire.is_none() {
            set(&format!("{device}.host_name"), nic.host_name.clone());
        }
    }
    keys
}

/// An instance.
pub(crate) fn instance(view: &InstanceView, expanded: Expanded) -> Instance {
    let record = &view.record;
    let wish = &record.wish;
    let volatile = volatile(view);
    let (status, status_code) = status(view.status());
    let with = |mut config: Config| {
        config.extend(volatile.iter().map(|(k, v)| (k.clone(), v.clone())));
        config
    };
    Instance {
        architecture: record.architecture.clone(),
        config: with(wish.written.config.clone()),
        devices: wish.written.devices.clone(),
        ephemeral: wish.ephemeral,
        profiles: wish.profiles.iter().map(ToString::to_string).collect(),
        stateful: false,
        description: wish.description.clone(),
        created_at: time_ms(record.created_ms),
        expanded_config: with(expanded.config),
        expanded_devices: expanded.devices,
        name: record.name.to_string(),
        status: status.into(),
        status_code,
        last_used_at: time_ms(record.last_used_ms),
        location: "none".into(),
        kind: "container".into(),
        project: record.project.to_string(),
    }
}

/// An instance with its state.
pub(crate) fn full(instance: Instance, state: InstanceState) -> InstanceFull {
    InstanceFull { instance, backups: None, state: Some(state), snapshots: None }
}

/// What an instance uses that does not run.
pub(crate) fn stopped_state(view: &InstanceView) -> InstanceState {
    let (status, status_code) = status(view.status());
    InstanceState { status: status.into(), status_code, started_at: NEVER.into(), ..InstanceState::default() }
}

/// What a running instance uses.
pub(crate) fn state(view: &InstanceView, usage: &Usage) -> InstanceState {
    let hosts: BTreeMap<&str, &str> = host_names(view);
    InstanceState {
        memory: StateMemory {
            usage: usage.memory_bytes,
            usage_peak: usage.memory_peak_bytes,
            total: usage.memory_limit_bytes,
            swap_usage: usage.swap_bytes,
            swap_usage_peak: 0,
        },
        network: Some(usage.links.iter().map(|link| (link.name.clone(), link_state(link, &hosts))).collect()),
        pid: i64::from(usage.pid),
        processes: usage.processes,
        cpu: StateCpu { usage: usage.cpu_ns, allocated_time: usage.cpu_allowed_ns },
        started_at: time_s(usage.started_at),
        ..stopped_state(view)
    }
}

/// Names of the host's ends, by hardware address of the guest's.
fn host_names(view: &InstanceView) -> BTreeMap<&str, &str> {
    let boot = view.seen();
    let nics = boot.into_iter().flat_map(|seen| &seen.nics);
    nics.map(|(device, nic)| (device.as_str(), nic.host_name.as_str())).collect()
}

fn link_state(link: &LinkUsage, hosts: &BTreeMap<&str, &str>) -> StateNetwork {
    let [rx_bytes, tx_bytes, rx_packets, tx_packets, rx_errors, tx_errors, rx_dropped, tx_dropped] = link.counters;
    StateNetwork {
        addresses: link.addresses.iter().map(|cidr| address(*cidr, link.loopback)).collect(),
        counters: StateCounters {
            bytes_received: rx_bytes,
            bytes_sent: tx_bytes,
            packets_received: rx_packets,
            packets_sent: tx_packets,
            errors_received: rx_errors,
            errors_sent: tx_errors,
            packets_dropped_outbound: tx_dropped,
            packets_dropped_inbound: rx_dropped,
        },
        hwaddr: link.mac.clone(),
        host_name: hosts.get(link.name.as_str()).map_or(String::new(), |name| (*name).to_owned()),
        mtu: link.mtu,
        state: if link.up { "up" } else { "down" }.into(),
        kind: if link.loopback { "loopback" } else { "broadcast" }.into(),
    }
}

fn address(cidr: model::Cidr, loopback: bool) -> StateAddress {
    let link_local = match cidr.address {
        std::net::IpAddr::V4(a) => a.is_link_local(),
        std::net::IpAddr::V6(a) => a.is_unicast_link_local(),
    };
    StateAddress {
        family: if cidr.address.is_ipv4() { "inet" } else { "inet6" }.into(),
        address: cidr.address.to_string(),
        netmask: cidr.prefix.to_string(),
        scope: if loopback {
            "local"
        } else if link_local {
            "link"
        } else {
            "global"
        }
        .into(),
    }
}
