//! Chains as the wire has them: where each stands, and what went through its links.

use engine::{LinkUsage, NetworkRecord};
use model::{ChainSpec, NicId};
use sysctl_api::{ChainHop, ChainLink, ChainState};

use super::graph::ChainLine;
use crate::App;

/// The hops of a chain, the network it begins at and the NIC it ends at among them. `links`: all of the host.
pub(crate) fn chain_state(app: &App, record: &NetworkRecord, chain: &ChainSpec, links: &[LinkUsage]) -> ChainState {
    let uplink = links.iter().find(|link| link.name == record.spec.name.as_str());
    let mut hops = vec![ChainHop {
        name: chain.from.to_string(),
        up: uplink.is_some_and(|link| link.up),
        bypassed: false,
        links: uplink.map(|link| counted(link.name.clone(), link.counters)).into_iter().collect(),
    }];
    let name = |id| app.engine.name_of(id).map(|name| name.to_string()).unwrap_or_default();
    for hop in &chain.hops {
        hops.push(of_nics(app, name(hop.function), &hop.nics(), hop.bypassed, links));
    }
    let end = format!("{}:{}", name(chain.to.id), chain.to.device);
    hops.push(of_nics(app, end, std::slice::from_ref(&chain.to), false, links));
    ChainState { hops }
}

fn of_nics(app: &App, name: String, nics: &[NicId], bypassed: bool, links: &[LinkUsage]) -> ChainHop {
    let instances = app.engine.instances();
    let host_name = |nic: &NicId| {
        let view = instances.iter().find(|view| view.record.id == nic.id && view.pid().is_some())?;
        view.seen()?.nics.get(&nic.device).filter(|seen| seen.chained).map(|seen| seen.host_name.clone())
    };
    let link = |nic: &NicId| {
        let host_name = host_name(nic)?;
        let link = links.iter().find(|link| link.name == host_name && link.up)?;
        // The host receives what the guest sends.
        let [rx_bytes, tx_bytes, rx, tx, rx_errors, tx_errors, rx_dropped, tx_dropped] = link.counters;
        let turned = [tx_bytes, rx_bytes, tx, rx, tx_errors, rx_errors, tx_dropped, rx_dropped];
        Some(counted(nic.device.to_string(), turned))
    };
    let found: Vec<ChainLink> = nics.iter().filter_map(link).collect();
    ChainHop { name, up: found.len() == nics.len(), bypassed, links: found }
}

fn counted(name: String, counters: [i64; 8]) -> ChainLink {
    let [bytes_received, bytes_sent, packets_received, packets_sent, _, _, received, sent] = counters;
    let packets_dropped = received + sent;
    ChainLink { name, bytes_received, bytes_sent, packets_received, packets_sent, packets_dropped }
}

/// All chains, for pictures.
pub(crate) fn chain_lines(app: &App) -> Vec<ChainLine> {
    let name = |id| app.engine.name_of(id).map(|name| name.to_string()).unwrap_or_default();
    let line = |record: NetworkRecord| {
        let chain = record.chain()?;
        Some(ChainLine {
            name: record.spec.name.to_string(),
            from: chain.from.to_string(),
            functions: chain.hops.iter().filter(|hop| !hop.bypassed).map(|hop| name(hop.function)).collect(),
            to: name(chain.to.id),
            device: chain.to.device.to_string(),
        })
    };
    app.engine.networks().into_iter().filter_map(line).collect()
}
