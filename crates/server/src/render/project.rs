//! Profiles, projects and pools.

use engine::{PoolRecord, ProfileRecord, ProjectRecord};
use sysctl_api::{Profile, Project, StoragePool};

use super::pairs;

/// A profile.
pub(crate) fn profile(record: &ProfileRecord, used_by: Vec<String>) -> Profile {
    Profile {
        config: record.written.config.clone(),
        description: record.description.clone(),
        devices: record.written.devices.clone(),
        name: record.name.to_string(),
        used_by,
        project: record.project.to_string(),
    }
}

/// A project.
pub(crate) fn project(record: &ProjectRecord, used_by: Vec<String>) -> Project {
    Project {
        config: record.config.clone(),
        description: record.description.clone(),
        name: record.name.to_string(),
        used_by,
    }
}

/// A pool.
pub(crate) fn pool(record: &PoolRecord, source: String, used_by: Vec<String>) -> StoragePool {
    StoragePool {
        config: pairs([("source", source)]),
        description: record.description.clone(),
        name: record.spec.name.to_string(),
        driver: record.spec.driver.clone(),
        used_by,
        status: "Created".into(),
        locations: vec!["none".into()],
    }
}
