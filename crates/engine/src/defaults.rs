//! What the first start on an empty database makes, so that no `init` step is needed.

use std::sync::Arc;

use config::Written;
use model::{NetworkSpec, PoolSpec, ProjectName, Step};

use crate::create::default_profile;
use crate::error::{Error, Result};
use crate::record::{NetworkRecord, PoolRecord, ProfileRecord, ProjectRecord, Record};
use crate::shared::Shared;

/// What is made; whoever starts the engine has looked for names and subnets that are free.
#[derive(Debug, Clone, Default)]
pub struct FirstStart {
    /// The pool `default`.
    pub pool: Option<PoolSpec>,
    /// The bridge.
    pub network: Option<NetworkSpec>,
}

/// Makes what is missing on the very first start.
pub(crate) async fn make(shared: &Arc<Shared>) -> Result<()> {
    let first = &shared.first_start;
    // A damaged database of which nothing could be rescued is no first start.
    if !shared.catalog().projects.is_empty() || shared.store.read_only().is_some() {
        return Ok(());
    }
    let project =
        ProjectRecord { name: ProjectName::default(), description: "Default project".into(), config: features() };
    let mut ops = vec![project.put()];
    let mut devices = std::collections::BTreeMap::new();
    let device = |pairs: &[(&str, &str)]| -> config::Map {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    };
    if let Some(pool) = &first.pool {
        shared.host.apply(&Step::EnsurePool { pool: pool.clone() }, &|_| {}).await?;
        let record = PoolRecord { spec: pool.clone(), description: String::new() };
        ops.push(record.put());
        devices.insert("root".to_owned(), device(&[("type", "disk"), ("path", "/"), ("pool", pool.name.as_str())]));
        shared.catalog_mut().pools.insert(pool.name.clone(), record);
    }
    if let Some(network) = &first.network {
        let record = NetworkRecord { spec: network.clone(), description: String::new(), config: Default::default() };
        ops.push(record.put());
        devices.insert(
            "eth0".to_owned(),
            device(&[("type", "nic"), ("name", "eth0"), ("network", network.name.as_str())]),
        );
        shared.catalog_mut().networks.insert(network.name.clone(), record);
    }
    let profile = ProfileRecord {
        project: ProjectName::default(),
        name: default_profile(),
        description: "Default profile".into(),
        written: Written { config: Default::default(), devices },
    };
    ops.push(profile.put());
    {
        let mut catalog = shared.catalog_mut();
        catalog.profiles.insert((profile.project.clone(), profile.name.clone()), profile);
        catalog.projects.insert(project.name.clone(), project);
    }
    shared
        .submit_and_wait(store::Class::Wish, ops)
        .await
        .map_err(|error| Error::Internal(format!("first start: {error}")))
}

/// The project's own everything.
fn features() -> std::collections::BTreeMap<String, String> {
    ["images", "networks", "networks.zones", "profiles", "storage.buckets", "storage.volumes"]
        .map(|feature| (format!("features.{feature}"), "true".to_owned()))
        .into()
}
