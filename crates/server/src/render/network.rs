//! Networks: managed bridges, and the links of the host beside them.

use engine::{InstanceView, LinkUsage, NetworkRecord};
use sysctl_api::{Network, NetworkLease, NetworkState, NetworkStateAddress, NetworkStateCounters};

use super::pairs;

/// A managed bridge, or a chain.
pub(crate) fn network(record: &NetworkRecord, used_by: Vec<String>) -> Network {
    let spec = &record.spec;
    let described = Network {
        description: record.description.clone(),
        name: spec.name.to_string(),
        used_by,
        managed: true,
        status: "Created".into(),
        locations: vec!["none".into()],
        project: "default".into(),
        ..Network::default()
    };
    if record.chain().is_some() {
        return Network { config: record.config.clone(), kind: "chain".into(), ..described };
    }
    let address = |cidr: Option<model::Cidr>| cidr.map_or("none".to_owned(), |c| c.to_string());
    let mut config = pairs([
        ("ipv4.address", address(spec.ipv4)),
        ("ipv4.nat", spec.nat.to_string()),
        ("ipv6.address", address(spec.ipv6)),
        ("ipv6.nat", spec.nat.to_string()),
        ("dns.domain", spec.domain.clone()),
    ]);
    if let Some(mtu) = spec.mtu {
        config.insert("bridge.mtu".into(), mtu.to_string());
    }
    Network { config, kind: "bridge".into(), ..described }
}

/// A link of the host.
pub(crate) fn link_as_network(link: &LinkUsage) -> Network {
    let kind = match link.name.as_str() {
        _ if link.loopback => "loopback",
        name if std::path::Path::new("/sys/class/net").join(name).join("bridge").exists() => "bridge",
        _ => "physical",
    };
    Network { name: link.name.clone(), kind: kind.into(), project: "default".into(), ..Network::default() }
}

/// State of a link.
pub(crate) fn network_state(link: &LinkUsage) -> NetworkState {
    let [bytes_received, bytes_sent, packets_received, packets_sent, ..] = link.counters;
    NetworkState {
        addresses: link
            .addresses
            .iter()
            .map(|cidr| NetworkStateAddress {
                family: if cidr.address.is_ipv4() { "inet" } else { "inet6" }.into(),
                address: cidr.address.to_string(),
                netmask: cidr.prefix.to_string(),
                scope: match cidr.address {
                    std::net::IpAddr::V6(a) if a.is_unicast_link_local() => "link",
                    _ => "global",
                }
                .into(),
            })
            .collect(),
        counters: NetworkStateCounters { bytes_received, bytes_sent, packets_received, packets_sent },
        hwaddr: link.mac.clone(),
        mtu: link.mtu,
        state: if link.up { "up" } else { "down" }.into(),
        kind: if link.loopback { "loopback" } else { "broadcast" }.into(),
        bridge: None,
        chain: None,
    }
}

/// Addresses of an instance on a network.
pub(crate) fn lease(view: &InstanceView, network: &NetworkRecord) -> Vec<NetworkLease> {
    let mut leases = Vec::new();
    let of_network = view.record.wish.nics.values().filter(|grant| grant.network == network.spec.name);
    for grant in of_network {
        let addresses = grant.ipv4.map(|a| a.to_string()).into_iter().chain(grant.ipv6.map(|a| a.to_string()));
        leases.extend(addresses.map(|address| NetworkLease {
            hostname: view.record.name.to_string(),
            hwaddr: grant.mac.to_string(),
            address,
            kind: "static".into(),
            location: "none".into(),
            project: view.record.project.to_string(),
        }));
    }
    leases
}
