//! The documents: what is remembered of each object.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use config::Written;
use model::scale::{Levels, Scaling};
use model::{
    BootGen, Cidr, DeviceName, Fingerprint, IdMap, InstanceId, InstanceName, Mac, NamespaceKind, NamespaceName,
    NetworkName, NetworkSpec, PinId, PoolName, PoolSpec, Power, ProfileName, ProjectName, RootGen, RootSource,
    StopKind,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use store::Op;
use uuid::Uuid;

use crate::host::ImageFacts;

/// An object that is kept as a document.
pub(crate) trait Record: Serialize + DeserializeOwned {
    /// Kind of its documents.
    const KIND: &'static str;

    /// Key of its document.
    fn key(&self) -> String;

    /// Writes it.
    fn put(&self) -> Op {
        // Plain maps, numbers and text always become JSON.
        Op::Put { kind: Self::KIND, key: self.key(), body: serde_json::to_string(self).unwrap_or_default() }
    }

    /// Deletes it.
    fn delete(&self) -> Op {
        Op::Delete { kind: Self::KIND, key: self.key() }
    }
}

/// What a NIC was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicGrant {
    /// On which network.
    pub network: NetworkName,
    /// Hardware address.
    pub mac: Mac,
    /// IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
}

/// The part of an instance that its users change: its wish, as written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WishState {
    /// It exists.
    pub exists: bool,
    /// Whether it runs.
    pub power: Power,
    /// How other boots are ended.
    pub stop: StopKind,
    /// Which root file system it has.
    pub root: RootGen,
    /// What that is made from.
    pub source: RootSource,
    /// Its own keys and devices.
    pub written: Written,
    /// Profiles, in their order.
    pub profiles: Vec<ProfileName>,
    /// Words about it.
    pub description: String,
    /// It is deleted when it stops.
    pub ephemeral: bool,
    /// What its NICs were given, by device.
    pub nics: BTreeMap<DeviceName, NicGrant>,
    /// Range of ids.
    pub ids: IdMap,
}

/// An instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// Its id.
    pub id: InstanceId,
    /// Project.
    pub project: ProjectName,
    /// Name.
    pub name: InstanceName,
    /// Architecture, like `x86_64`.
    pub architecture: String,
    /// Pool of its root file system.
    pub pool: PoolName,
    /// Milliseconds since 1970.
    pub created_ms: i64,
    /// When it was last started, in milliseconds since 1970; 0 for never.
    pub last_used_ms: i64,
    /// What should be.
    pub wish: WishState,
    /// What should have been before, until the operation that changed it is final.
    pub previous: Option<Box<WishState>>,
    /// That operation.
    pub operation: Option<Uuid>,
    /// Where limits are that follow the need.
    #[serde(default)]
    pub levels: Levels,
    /// How they came there: the newest moves, the last one at the end.
    #[serde(default)]
    pub scalings: Vec<Scaling>,
    /// The last boot number that was given out.
    pub newest_boot: BootGen,
    /// It did nothing for a while and is held still until it is called.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asleep: bool,
    /// Why the wish could not be reached.
    pub error: Option<String>,
    /// What is told once the wish is reached, by whichever daemon lives then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub telling: Vec<Telling>,
    /// Whose namespaces its newest boot lives in, and the boot of theirs that made them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub joined: BTreeMap<InstanceId, BootGen>,
    /// Pinned namespaces that its newest boot lives in.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub pins: BTreeSet<PinId>,
}

/// A lifecycle event that is yet to be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Telling {
    /// What, like `instance-started`.
    pub action: String,
    /// More about it.
    pub context: BTreeMap<String, serde_json::Value>,
    /// Who asked; `None` for the guest itself.
    pub requestor: Option<String>,
    /// It is true of an operation that failed, too.
    pub always: bool,
}

impl Record for InstanceRecord {
    const KIND: &'static str = "instance";
    fn key(&self) -> String {
        self.id.to_string()
    }
}

/// A profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileRecord {
    /// Project.
    pub project: ProjectName,
    /// Name.
    pub name: ProfileName,
    /// Words about it.
    pub description: String,
    /// Keys and devices.
    pub written: Written,
}

impl Record for ProfileRecord {
    const KIND: &'static str = "profile";
    fn key(&self) -> String {
        format!("{}/{}", self.project, self.name)
    }
}

/// A project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectRecord {
    /// Name.
    pub name: ProjectName,
    /// Words about it.
    pub description: String,
    /// Keys.
    pub config: BTreeMap<String, String>,
}

impl Record for ProjectRecord {
    const KIND: &'static str = "project";
    fn key(&self) -> String {
        self.name.to_string()
    }
}

/// A storage pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolRecord {
    /// What it is.
    pub spec: PoolSpec,
    /// Words about it.
    pub description: String,
}

impl Record for PoolRecord {
    const KIND: &'static str = "pool";
    fn key(&self) -> String {
        self.spec.name.to_string()
    }
}

/// A managed network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// What it is.
    pub spec: NetworkSpec,
    /// Words about it.
    pub description: String,
    /// The keys of a chain, as they were written.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub config: BTreeMap<String, String>,
}

impl Record for NetworkRecord {
    const KIND: &'static str = "network";
    fn key(&self) -> String {
        self.spec.name.to_string()
    }
}

impl NetworkRecord {
    /// The address of a grant with the network's prefix length.
    pub(crate) fn cidr4(&self, address: Option<Ipv4Addr>) -> Option<Cidr> {
        Some(Cidr { address: address?.into(), prefix: self.spec.ipv4?.prefix })
    }

    /// The same for IPv6.
    pub(crate) fn cidr6(&self, address: Option<Ipv6Addr>) -> Option<Cidr> {
        Some(Cidr { address: address?.into(), prefix: self.spec.ipv6?.prefix })
    }
}

/// A namespace object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceRecord {
    /// Its id.
    pub id: Uuid,
    /// Its kind.
    pub kind: NamespaceKind,
    /// Its name among those of its kind.
    pub name: NamespaceName,
    /// Words about it.
    pub description: String,
    /// It is at `/run/netns`, too.
    pub netns: bool,
    /// Range of ids, of a user namespace.
    pub ids: Option<IdMap>,
    /// The user namespace object that has rights over it.
    pub within: Option<Uuid>,
    /// The path of the host that it was taken from, and is again when it is lost.
    pub adopted: Option<String>,
    /// Milliseconds since 1970.
    pub created_ms: i64,
}

impl Record for NamespaceRecord {
    const KIND: &'static str = "namespace";
    fn key(&self) -> String {
        self.id.to_string()
    }
}

/// Another name of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alias {
    /// Name.
    pub name: String,
    /// Words about it.
    pub description: String,
    /// The image.
    pub target: Fingerprint,
}

impl Record for Alias {
    const KIND: &'static str = "alias";
    fn key(&self) -> String {
        self.name.clone()
    }
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// What its files say.
    pub facts: ImageFacts,
    /// Properties as they were edited.
    pub properties: BTreeMap<String, String>,
    /// Everybody may have it.
    pub public: bool,
    /// Milliseconds since 1970.
    pub uploaded_ms: i64,
    /// When an instance was last made from it, in milliseconds since 1970; 0 for never.
    pub last_used_ms: i64,
    /// Pools that hold its layer.
    pub pools: Vec<PoolName>,
}

impl Record for ImageRecord {
    const KIND: &'static str = "image";
    fn key(&self) -> String {
        self.facts.fingerprint.to_string()
    }
}
