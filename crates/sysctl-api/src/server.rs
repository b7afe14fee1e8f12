//! `GET /1.0`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Config;

/// The server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Server {
    /// Keys of the server.
    pub config: Config,
    /// What it can do beyond the first API.
    pub api_extensions: Vec<String>,
    /// `stable`.
    pub api_status: String,
    /// `1.0`.
    pub api_version: String,
    /// `trusted` or `untrusted`.
    pub auth: String,
    /// Whether it serves anybody.
    pub public: bool,
    /// Ways to become trusted.
    pub auth_methods: Vec<String>,
    /// Who the caller is.
    pub auth_user_name: String,
    /// How that is known.
    pub auth_user_method: String,
    /// Where it runs.
    pub environment: Environment,
}

/// Where a server runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Environment {
    /// Addresses it listens on.
    pub addresses: Vec<String>,
    /// Architectures of instances it runs.
    pub architectures: Vec<String>,
    /// Its certificate in PEM.
    pub certificate: String,
    /// SHA-256 of the certificate.
    pub certificate_fingerprint: String,
    /// `read-write`, or `read-only` and why. Ours.
    pub database: String,
    /// What runs instances.
    pub driver: String,
    /// Its version.
    pub driver_version: String,
    /// What filters packets.
    pub firewall: String,
    /// Kernel.
    pub kernel: String,
    /// Machine of the kernel.
    pub kernel_architecture: String,
    /// What the kernel can do, `"true"` or `"false"`.
    pub kernel_features: BTreeMap<String, String>,
    /// Release of the kernel.
    pub kernel_version: String,
    /// Always empty here: nothing of LXC is used.
    pub lxc_features: BTreeMap<String, String>,
    /// Distribution.
    pub os_name: String,
    /// Its version.
    pub os_version: String,
    /// Project of the request.
    pub project: String,
    /// `sysctl`.
    pub server: String,
    /// Member of a cluster.
    pub server_clustered: bool,
    /// How events are spread in a cluster.
    pub server_event_mode: String,
    /// Host name.
    pub server_name: String,
    /// Pid of the daemon.
    pub server_pid: u32,
    /// Version of the daemon.
    pub server_version: String,
    /// Drivers of the pools in use.
    pub storage: String,
    /// Their versions.
    pub storage_version: String,
    /// Drivers that could be used.
    pub storage_supported_drivers: Vec<StorageDriver>,
}

/// A storage driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct StorageDriver {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Its data are elsewhere.
    pub remote: bool,
}
