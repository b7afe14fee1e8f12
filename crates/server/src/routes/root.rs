//! The server itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::response::Response;
use model::{CgroupLayout, HostFacts};
use serde_json::json;
use sysctl_api::{EXTENSIONS, Environment, OWN_EXTENSIONS, Server, StorageDriver};

use crate::App;
use crate::error::ApiError;
use crate::reply::{self, Answer};
use crate::request::{self, Caller};

pub(crate) async fn versions() -> Response {
    reply::sync(&["/1.0"])
}

pub(crate) async fn get(State(app): State<Arc<App>>, caller: Caller) -> Answer {
    let server = server(&app, &caller)?;
    let tag = engine::etag::of(&server.config);
    Ok(reply::tagged(&server, &tag))
}

/// There are no keys of the server yet; an empty set is accepted, as installers send it.
pub(crate) async fn put(body: Bytes) -> Answer {
    let put: serde_json::Value = request::body(&body)?;
    let config = put.get("config").and_then(|c| c.as_object());
    match config.into_iter().flatten().next() {
        None => Ok(reply::done()),
        Some((key, _)) => Err(ApiError::bad(format!("Invalid config: {key}: unknown key of the server"))),
    }
}

pub(crate) async fn empty_list() -> Response {
    reply::sync::<[(); 0]>(&[])
}

pub(crate) async fn cluster() -> Response {
    reply::sync(&json!({"server_name": "", "enabled": false, "member_config": []}))
}

fn server(app: &App, caller: &Caller) -> Result<Server, ApiError> {
    let facts = app.engine.facts();
    let all = EXTENSIONS.iter().chain(OWN_EXTENSIONS);
    Ok(Server {
        config: BTreeMap::new(),
        api_extensions: all.map(|e| (*e).to_owned()).collect(),
        api_status: "stable".into(),
        api_version: "1.0".into(),
        auth: "trusted".into(),
        public: false,
        auth_methods: vec!["tls".into()],
        auth_user_name: caller.peer.name(),
        auth_user_method: "unix".into(),
        environment: environment(app, facts, caller.project()?.as_str()),
    })
}

fn environment(app: &App, facts: &HostFacts, project: &str) -> Environment {
    let driver = StorageDriver { name: "overlay".into(), version: "1".into(), remote: false };
    Environment {
        architectures: match facts.machine.as_str() {
            "x86_64" => vec!["x86_64".into(), "i686".into()],
            other => vec![other.to_owned()],
        },
        database: app.engine.store().read_only().map_or_else(|| "read-write".into(), |why| format!("read-only: {why}")),
        driver: "sysctl".into(),
        driver_version: app.info.version.clone(),
        firewall: "nftables".into(),
        kernel: "Linux".into(),
        kernel_architecture: facts.machine.clone(),
        kernel_features: features(facts),
        kernel_version: facts.kernel.clone(),
        os_name: app.info.os.0.clone(),
        os_version: app.info.os.1.clone(),
        project: project.to_owned(),
        server: "sysctl".into(),
        server_event_mode: "full-mesh".into(),
        server_name: app.info.host_name.clone(),
        server_pid: std::process::id(),
        server_version: app.info.version.clone(),
        storage: "overlay".into(),
        storage_version: "1".into(),
        storage_supported_drivers: vec![driver],
        ..Environment::default()
    }
}

fn features(facts: &HostFacts) -> BTreeMap<String, String> {
    let mut features = BTreeMap::new();
    let mut set = |name: &str, there: bool| drop(features.insert(name.to_owned(), there.to_string()));
    set("idmapped_mounts", true);
    set("cgroup2", matches!(facts.cgroups, CgroupLayout::Unified { .. }));
    set("pressure", facts.pressure);
    set("time_namespaces", facts.time_namespaces);
    set("landlock", facts.landlock > 0);
    set("proc_by_descriptor", facts.proc_by_descriptor);
    set("link_limits", facts.link_limits);
    set("lxcfs", facts.lxcfs);
    for knob in model::Knob::ALL {
        set(&format!("knob.{knob:?}"), facts.knobs.contains(&knob));
    }
    features
}
