//! Networks.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use engine::{LinkUsage, NetworkRecord, NewNetwork};
use model::NetworkName;
use serde_json::Value;
use sysctl_api::{Config, Network, NetworkLease, NetworkPut, NetworksPost};

use super::instances::foreseen;
use crate::App;
use crate::error::ApiError;
use crate::filter::Filter;
use crate::render;
use crate::reply::{self, Answer};
use crate::request::{self, Caller};

fn not_found(name: &str) -> ApiError {
    ApiError::not_found(format!("Network {name:?} not found"))
}

fn managed(app: &App, name: &str) -> Option<NetworkRecord> {
    app.engine.networks().into_iter().find(|network| network.spec.name.as_str() == name)
}

fn users(app: &App, record: &NetworkRecord) -> Vec<String> {
    if let Some(chain) = record.chain() {
        let names = chain.nics().filter_map(|nic| app.engine.name_of(nic.id));
        let mut users: Vec<String> = names.map(|name| format!("/1.0/instances/{name}")).collect();
        users.sort();
        users.dedup();
        return users;
    }
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
    let mut state = render::network_state(&link(&app, &name)?);
    let record = managed(&app, &name);
    if let Some((record, chain)) = record.as_ref().and_then(|record| Some((record, record.chain()?))) {
        state.chain = Some(render::chain::chain_state(&app, record, chain, &app.access.links()?));
    }
    Ok(reply::sync(&state))
}

fn named(name: &str) -> Result<NetworkName, ApiError> {
    name.parse().map_err(|e: model::InvalidName| ApiError::bad(e.to_string()))
}

pub(crate) async fn create(State(app): State<Arc<App>>, caller: Caller, body: Bytes) -> Answer {
    let NetworksPost { name, kind, config, description } = request::body(&body)?;
    if kind != "chain" {
        let text = format!("type {kind:?} is not supported yet: only chains can be created, with --type=chain");
        return Err(ApiError::bad(text));
    }
    let new = NewNetwork { name: named(&name)?, description, config };
    if caller.query.is_on("plan") {
        return Ok(reply::sync(&foreseen(&app.engine.foresee_new_network(new)?)));
    }
    app.engine.create_network(new).await?;
    Ok(reply::created(&format!("/1.0/networks/{name}")))
}

pub(crate) async fn put(State(app): State<Arc<App>>, Path(name): Path<String>, caller: Caller, body: Bytes) -> Answer {
    let NetworkPut { config, description } = request::body(&body)?;
    change(&app, &caller, &named(&name)?, Some(description), config).await
}

/// Changes a network, or tells what that would do.
async fn change(app: &App, caller: &Caller, name: &NetworkName, description: Option<String>, config: Config) -> Answer {
    if caller.query.is_on("plan") {
        let foresight = app.engine.foresee_network(name, description, config, caller.expect())?;
        return Ok(reply::sync(&foreseen(&foresight)));
    }
    app.engine.change_network(name, description, config, caller.expect()).await?;
    Ok(reply::done())
}

/// Keys that are not named stay as they are; an empty value takes one back.
pub(crate) async fn patch(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    caller: Caller,
    body: Bytes,
) -> Answer {
    let patch: NetworkPut = request::body(&body)?;
    let record = managed(&app, &name).ok_or_else(|| not_found(&name))?;
    let mut config = record.config;
    config.extend(patch.config);
    config.retain(|_, value| !value.is_empty());
    let description = Some(patch.description).filter(|text| !text.is_empty());
    change(&app, &caller, &named(&name)?, description, config).await
}

pub(crate) async fn delete(State(app): State<Arc<App>>, Path(name): Path<String>, caller: Caller) -> Answer {
    if caller.query.is_on("plan") {
        return Ok(reply::sync(&foreseen(&app.engine.foresee_no_network(&named(&name)?)?)));
    }
    app.engine.delete_network(&named(&name)?).await?;
    Ok(reply::done())
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
