//! Networks.

use std::sync::Arc;

use axum::extract::{Path, State};
use engine::{LinkUsage, NetworkRecord};
use serde_json::Value;
use sysctl_api::{Network, NetworkLease};

use crate::App;
use crate::error::ApiError;
use crate::filter::Filter;
use crate::render;
use crate::reply::{self, Answer};
use crate::request::Caller;

fn not_found(name: &str) -> ApiError {
    ApiError::not_found(format!("Network {name:?} not found"))
}

fn managed(app: &App, name: &str) -> Option<NetworkRecord> {
    app.engine.networks().into_iter().find(|network| network.spec.name.as_str() == name)
}

fn users(app: &App, record: &NetworkRecord) -> Vec<String> {
    let uses =
        |view: &&Arc<engine::InstanceView>| view.record.wish.nics.values().any(|g| g.network == record.spec.name);
    let instances = app.engine.instances();
    let names = instances.iter().filter(uses).map(|view| format!("/1.0/instances/{}", view.record.name));
    let profiles = app.engine.profiles(&model::ProjectName::default());
    let profiles = profiles.iter().filter(|p| {
        p.written.devices.values().any(|d| d.get("network").map(String::as_str) == Some(record.spec.name.as_str()))
    });
    names.chain(profiles.map(|p| format!("/1.0/profiles/{}", p.name))).collect()
}

/// Managed bridges, and the host's own links beside them.
fn all(app: &App) -> Result<Vec<Network>, ApiError> {
    let managed = app.engine.networks();
    let mut networks: Vec<Network> = managed.iter().map(|n| render::network(n, users(app, n))).collect();
    let ours: Vec<String> = networks.iter().map(|network| network.name.clone()).collect();
    // Links of guests are no networks.
    let hosts = app.engine.instances();
    let guests: Vec<&str> = hosts
        .iter()
        .flat_map(|view| view.observed.boots.values())
        .flat_map(|boot| boot.nics.values())
        .map(|nic| nic.host_name.as_str())
        .collect();
    for link in app.access.links()? {
        if !ours.contains(&link.name) && !guests.contains(&link.name.as_str()) {
            networks.push(render::link_as_network(&link));
        }
    }
    networks.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(networks)
}

pub(crate) async fn list(State(app): State<Arc<App>>, caller: Caller) -> Answer {
    let filter = Filter::parse(caller.query.get("filter"))?;
    let recursion = caller.query.recursion();
    let mut items = Vec::new();
    for network in all(&app)? {
        let value = serde_json::to_value(&network).unwrap_or_default();
        if filter.matches(&value) {
            items.push(if recursion == 0 { Value::from(format!("/1.0/networks/{}", network.name)) } else { value });
        }
    }
    Ok(reply::sync(&items))
}

pub(crate) async fn get(State(app): State<Arc<App>>, Path(name): Path<String>) -> Answer {
    let network = all(&app)?.into_iter().find(|network| network.name == name).ok_or_else(|| not_found(&name))?;
    let tag = engine::etag::of(&(&network.config, &network.description));
    Ok(reply::tagged(&network, &tag))
}

fn link(app: &App, name: &str) -> Result<LinkUsage, ApiError> {
    app.access.links()?.into_iter().find(|link| link.name == name).ok_or_else(|| not_found(name))
}

pub(crate) async fn state(State(app): State<Arc<App>>, Path(name): Path<String>) -> Answer {
    Ok(reply::sync(&render::network_state(&link(&app, &name)?)))
}

pub(crate) async fn leases(State(app): State<Arc<App>>, Path(name): Path<String>) -> Answer {
    let record = managed(&app, &name).ok_or_else(|| not_found(&name))?;
    let gateways = record.spec.ipv4.into_iter().chain(record.spec.ipv6).map(|cidr| NetworkLease {
        hostname: format!("{}.gw", record.spec.name),
        address: cidr.address.to_string(),
        kind: "gateway".into(),
        location: "none".into(),
        ..NetworkLease::default()
    });
    let instances = app.engine.instances();
    let given = instances.iter().flat_map(|view| render::lease(view, &record));
    Ok(reply::sync(&gateways.chain(given).collect::<Vec<_>>()))
}
