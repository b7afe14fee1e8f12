//! Storage pools.

use sysctl_api::{PoolResources, StoragePool};

use crate::client::{Client, Tagged};
use crate::error::Result;
use crate::uri::Uri;

const POOLS: &str = "/1.0/storage-pools";

impl Client {
    /// All pools.
    pub async fn get_storage_pools(&self) -> Result<Vec<StoragePool>> {
        self.get(Uri::new(POOLS).query("recursion", "1")).await
    }

    /// A pool.
    pub async fn get_storage_pool(&self, name: &str) -> Result<Tagged<StoragePool>> {
        self.get_tagged(Uri::new(POOLS).part(name)).await
    }

    /// How full a pool is.
    pub async fn get_storage_pool_resources(&self, name: &str) -> Result<PoolResources> {
        self.get(Uri::new(POOLS).part(name).part("resources")).await
    }
}
