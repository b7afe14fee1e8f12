//! Profiles and projects.

use serde::{Deserialize, Serialize};

use crate::{Config, Devices, or_default};

/// A profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Profile {
    /// Keys.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// Words about it.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
    /// Devices.
    #[serde(deserialize_with = "or_default")]
    pub devices: Devices,
    /// Name.
    pub name: String,
    /// Paths of what uses it.
    #[serde(deserialize_with = "or_default")]
    pub used_by: Vec<String>,
    /// Project.
    pub project: String,
}

/// `POST /1.0/profiles`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct ProfilesPost {
    /// Keys.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// Words about it.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
    /// Devices.
    #[serde(deserialize_with = "or_default")]
    pub devices: Devices,
    /// Name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
}

/// `PUT` and `PATCH /1.0/profiles/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct ProfilePut {
    /// Keys.
    pub config: Option<Config>,
    /// Words about it.
    pub description: Option<String>,
    /// Devices.
    pub devices: Option<Devices>,
}

/// A project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Project {
    /// Keys.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// Words about it.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
    /// Name.
    pub name: String,
    /// Paths of what is in it.
    #[serde(deserialize_with = "or_default")]
    pub used_by: Vec<String>,
}

/// `PUT` and `PATCH /1.0/projects/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct ProjectPut {
    /// Keys.
    pub config: Option<Config>,
    /// Words about it.
    pub description: Option<String>,
}
