//! Images.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Config, or_default};

/// An image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Image {
    /// Kept up to date with where it came from.
    pub auto_update: bool,
    /// Properties.
    #[serde(deserialize_with = "or_default")]
    pub properties: Config,
    /// Everybody may have it.
    pub public: bool,
    /// RFC 3339.
    pub expires_at: String,
    /// Profiles that instances made from it get.
    #[serde(deserialize_with = "or_default")]
    pub profiles: Vec<String>,
    /// Other names.
    #[serde(deserialize_with = "or_default")]
    pub aliases: Vec<ImageAlias>,
    /// Architecture.
    pub architecture: String,
    /// It came from elsewhere by itself.
    pub cached: bool,
    /// Name of its file.
    pub filename: String,
    /// SHA-256.
    pub fingerprint: String,
    /// Bytes.
    pub size: i64,
    /// `container`.
    #[serde(rename = "type")]
    pub kind: String,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub last_used_at: String,
    /// RFC 3339.
    pub uploaded_at: String,
    /// Project.
    pub project: String,
}

/// A name of an image, as part of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct ImageAlias {
    /// Name.
    pub name: String,
    /// Words about it.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
}

/// `GET /1.0/images/aliases/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct ImageAliasEntry {
    /// Words about it.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
    /// Fingerprint.
    #[serde(deserialize_with = "or_default")]
    pub target: String,
    /// Name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// `container`.
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: String,
}

/// `POST /1.0/images/aliases`.
pub type ImageAliasPost = ImageAliasEntry;

/// `PUT /1.0/images/FINGERPRINT`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct ImagePut {
    /// Kept up to date.
    #[serde(deserialize_with = "or_default")]
    pub auto_update: bool,
    /// Properties.
    #[serde(deserialize_with = "or_default")]
    pub properties: Config,
    /// Everybody may have it.
    #[serde(deserialize_with = "or_default")]
    pub public: bool,
    /// RFC 3339.
    #[serde(deserialize_with = "or_default")]
    pub expires_at: String,
    /// Profiles.
    #[serde(deserialize_with = "or_default")]
    pub profiles: Vec<String>,
}

/// `POST /1.0/images` with JSON: make an image from something that the server has or can build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct ImagePost {
    /// Kept up to date.
    #[serde(deserialize_with = "or_default")]
    pub auto_update: bool,
    /// Properties.
    #[serde(deserialize_with = "or_default")]
    pub properties: Config,
    /// Everybody may have it.
    #[serde(deserialize_with = "or_default")]
    pub public: bool,
    /// Name of the file.
    #[serde(deserialize_with = "or_default")]
    pub filename: String,
    /// What from.
    pub source: Option<ImageSource>,
    /// Names that it gets.
    #[serde(deserialize_with = "or_default")]
    pub aliases: Vec<ImageAlias>,
}

/// What an image is made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct ImageSource {
    /// `image`, `instance`, `snapshot`, `url`; ours: `recipe`.
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    /// Alias.
    #[serde(deserialize_with = "or_default")]
    pub alias: String,
    /// Fingerprint.
    #[serde(deserialize_with = "or_default")]
    pub fingerprint: String,
    /// Name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// Anything else.
    #[serde(flatten)]
    pub rest: BTreeMap<String, serde_json::Value>,
}
