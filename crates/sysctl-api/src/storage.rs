//! Storage pools.

use serde::{Deserialize, Serialize};

use crate::{Config, or_default};

/// A storage pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct StoragePool {
    /// Keys.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// Words about it.
    pub description: String,
    /// Name.
    pub name: String,
    /// Driver.
    pub driver: String,
    /// Paths of what uses it.
    #[serde(deserialize_with = "or_default")]
    pub used_by: Vec<String>,
    /// `Created`.
    pub status: String,
    /// Members of the cluster that have it.
    #[serde(deserialize_with = "or_default")]
    pub locations: Vec<String>,
}

/// `GET /1.0/storage-pools/NAME/resources`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct PoolResources {
    /// Bytes.
    pub space: PoolSpace,
    /// Inodes.
    pub inodes: PoolInodes,
}

/// Bytes of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct PoolSpace {
    /// In use.
    pub used: u64,
    /// All.
    pub total: u64,
}

/// Inodes of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct PoolInodes {
    /// In use.
    pub used: u64,
    /// All.
    pub total: u64,
}
