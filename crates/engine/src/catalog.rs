//! All objects but instances, in memory, and the look-ups that definitions need.

use std::collections::BTreeMap;

use config::{Expanded, InstanceConfig, Written};
use model::{
    Fingerprint, FirstBootFile, HostFacts, InstanceId, InstanceSpec, NamespaceKind, NamespaceName, NetworkName,
    NicSpec, PoolName, ProfileName, ProjectName, Wish,
};

use crate::allocate::Allocator;
use crate::error::{Error, Result};
use crate::record::{
    Alias, ImageRecord, InstanceRecord, NamespaceRecord, NetworkRecord, PoolRecord, ProfileRecord, ProjectRecord,
    Record, WishState,
};
use crate::{EngineConfig, RecipeFacts};

/// The catalogue.
#[derive(Debug, Clone)]
pub(crate) struct Catalog {
    pub(crate) profiles: BTreeMap<(ProjectName, ProfileName), ProfileRecord>,
    pub(crate) projects: BTreeMap<ProjectName, ProjectRecord>,
    pub(crate) pools: BTreeMap<PoolName, PoolRecord>,
    pub(crate) networks: BTreeMap<NetworkName, NetworkRecord>,
    pub(crate) namespaces: BTreeMap<(NamespaceKind, NamespaceName), NamespaceRecord>,
    pub(crate) images: BTreeMap<Fingerprint, ImageRecord>,
    pub(crate) aliases: BTreeMap<String, Alias>,
    pub(crate) recipes: Vec<RecipeFacts>,
    pub(crate) allocator: Allocator,
}

/// An image that can be had: one that is here, or one that would be built.
#[derive(Debug, Clone, PartialEq)]
pub enum ImageChoice {
    /// Its files are here.
    Here(Box<ImageRecord>),
    /// It would be built from this recipe.
    Recipe(Box<RecipeFacts>),
}

impl ImageChoice {
    /// Its fingerprint; that of the recipe before it is built.
    pub fn fingerprint(&self) -> Fingerprint {
        match self {
            ImageChoice::Here(record) => record.facts.fingerprint,
            ImageChoice::Recipe(recipe) => recipe.fingerprint,
        }
    }

    /// Its properties.
    pub fn properties(&self) -> &BTreeMap<String, String> {
        match self {
            ImageChoice::Here(record) => &record.properties,
            ImageChoice::Recipe(recipe) => &recipe.properties,
        }
    }

    /// Its architecture.
    pub fn architecture(&self) -> &str {
        match self {
            ImageChoice::Here(record) => &record.facts.architecture,
            ImageChoice::Recipe(recipe) => &recipe.architecture,
        }
    }
}

impl Catalog {
    /// Reads all documents.
    pub(crate) fn load(store: &store::Store, config: &EngineConfig) -> Result<Catalog> {
        fn all<R: Record, K: Ord>(store: &store::Store, key: impl Fn(&R) -> K) -> Result<BTreeMap<K, R>> {
            let records = parse_all::<R>(store)?;
            Ok(records.into_iter().map(|record| (key(&record), record)).collect())
        }
        let mut allocator = Allocator::new(config.id_ranges.clone());
        let namespaces = all(store, |r: &NamespaceRecord| (r.kind, r.name.clone()))?;
        namespaces.values().filter_map(|r| r.ids).for_each(|ids| allocator.note_ids(ids));
        Ok(Catalog {
            namespaces,
            profiles: all(store, |r: &ProfileRecord| (r.project.clone(), r.name.clone()))?,
            projects: all(store, |r: &ProjectRecord| r.name.clone())?,
            pools: all(store, |r: &PoolRecord| r.spec.name.clone())?,
            networks: all(store, |r: &NetworkRecord| r.spec.name.clone())?,
            images: all(store, |r: &ImageRecord| r.facts.fingerprint)?,
            aliases: all(store, |r: &Alias| r.name.clone())?,
            recipes: config.recipes.clone(),
            allocator,
        })
    }

    /// An image by alias, fingerprint or the beginning of one.
    pub(crate) fn image(&self, word: &str) -> Result<ImageChoice> {
        if let Some(alias) = self.aliases.get(word) {
            return self.image_by_fingerprint(alias.target);
        }
        if let Some(recipe) = self.recipes.iter().find(|r| r.aliases.iter().any(|a| a == word)) {
            return Ok(self.built_or_recipe(recipe));
        }
        if let Ok(fingerprint) = word.parse() {
            return self.image_by_fingerprint(fingerprint);
        }
        self.image_by_prefix(word)
    }

    pub(crate) fn image_by_fingerprint(&self, fingerprint: Fingerprint) -> Result<ImageChoice> {
        if let Some(record) = self.images.get(&fingerprint) {
            return Ok(ImageChoice::Here(Box::new(record.clone())));
        }
        let recipe = self.recipes.iter().find(|r| r.fingerprint == fingerprint);
        recipe.map(|r| self.built_or_recipe(r)).ok_or_else(|| Error::NotFound(format!("Image {fingerprint} not found")))
    }

    fn image_by_prefix(&self, prefix: &str) -> Result<ImageChoice> {
        let not_found = || Error::NotFound(format!("Image {prefix:?} not found"));
        if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()) {
            return Err(not_found());
        }
        let known = self.images.keys().copied().chain(self.recipes.iter().map(|r| r.fingerprint));
        let mut matching = known.filter(|fingerprint| fingerprint.to_string().starts_with(prefix));
        match (matching.next(), matching.next()) {
            (Some(one), None) => self.image_by_fingerprint(one),
            (Some(_), Some(_)) => Err(Error::Invalid(format!("{prefix:?} is the beginning of several fingerprints"))),
            (None, _) => Err(not_found()),
        }
    }

    fn built_or_recipe(&self, recipe: &RecipeFacts) -> ImageChoice {
        match self.images.values().find(|image| image.facts.recipe == Some(recipe.fingerprint)) {
            Some(record) => ImageChoice::Here(Box::new(record.clone())),
            None => ImageChoice::Recipe(Box::new(recipe.clone())),
        }
    }

    fn profile(&self, project: &ProjectName, name: &ProfileName) -> Result<&ProfileRecord> {
        let key = (project.clone(), name.clone());
        self.profiles.get(&key).ok_or_else(|| Error::NotFound(format!("Profile {name:?} not found")))
    }

    /// A definition with its profiles laid over.
    pub(crate) fn expand(&self, project: &ProjectName, profiles: &[ProfileName], own: &Written) -> Result<Expanded> {
        let layers: Vec<&Written> =
            profiles.iter().map(|name| self.profile(project, name).map(|p| &p.written)).collect::<Result<_>>()?;
        Ok(config::expand(layers, own))
    }

    /// Whether a definition says anything about namespaces, itself or by a profile.
    pub(crate) fn names_namespaces(&self, record: &InstanceRecord) -> bool {
        let does = |written: &Written| written.config.keys().any(|key| key.starts_with("namespaces."));
        let of_profiles = |name| self.profile(&record.project, name).is_ok_and(|profile| does(&profile.written));
        does(&record.wish.written) || record.wish.profiles.iter().any(of_profiles)
    }

    /// A definition, typed and checked against what exists.
    pub(crate) fn config(&self, project: &ProjectName, wish: &WishState) -> Result<InstanceConfig> {
        let mut config = config::parse_instance(&self.expand(project, &wish.profiles, &wish.written)?)?;
        if !self.pools.contains_key(&config.root.pool) {
            return Err(Error::NotFound(format!("Storage pool {} not found", config.root.pool)));
        }
        if let Some(reason) = plan::refuse_nics(&config.grain) {
            let own = |device: &config::Map| device.get("type").is_some_and(|kind| kind == "nic");
            if let Some((name, _)) = wish.written.devices.iter().find(|(_, device)| own(device)) {
                return Err(Error::Invalid(format!("Invalid config: {name}: {reason}")));
            }
            // Those of its profiles are for instances with a network of their own.
            config.nics.clear();
        }
        for nic in &config.nics {
            if self.network(&nic.network)?.chain().is_some() {
                let text =
                    format!("{}.network: {} is a chain: name this NIC in its key chain.to", nic.device, nic.network);
                return Err(Error::Invalid(format!("Invalid config: {text}")));
            }
        }
        Ok(config)
    }

    pub(crate) fn network(&self, name: &NetworkName) -> Result<&NetworkRecord> {
        self.networks.get(name).ok_or_else(|| Error::NotFound(format!("Network {name} not found")))
    }

    /// What the loop works towards for an instance.
    pub(crate) fn wish(
        &self,
        record: &InstanceRecord,
        config: InstanceConfig,
        grain: plan::Grain,
        (wires, facts): (Vec<NicSpec>, &HostFacts),
    ) -> Result<Wish> {
        let wish = &record.wish;
        let mut nics = self.nics(&config, record)?;
        nics.extend(self.chain_nics(record.id));
        nics.extend(wires);
        Ok(Wish {
            id: record.id,
            exists: wish.exists,
            power: wish.power,
            stop: wish.stop,
            root: wish.root,
            source: wish.source,
            spec: InstanceSpec {
                name: record.name.clone(),
                pool: record.pool.clone(),
                sandbox: plan::sandbox(&config.sandbox, grain, facts),
                limits: plan::scaled(&config.limits, &config.autoscale, &record.levels),
                nics,
                first_boot: first_boot(record),
                environment: config.environment,
                init: config.grain.init.unwrap_or_else(|| model::INIT.to_owned()),
            },
        })
    }

    fn nics(&self, config: &InstanceConfig, record: &InstanceRecord) -> Result<Vec<NicSpec>> {
        let mut nics = Vec::new();
        for choice in &config.nics {
            let network = self.network(&choice.network)?;
            // A profile that was given a NIC after the instance was made takes effect when the instance is next changed.
            let Some(grant) = record.wish.nics.get(&choice.device) else { continue };
            nics.push(NicSpec {
                device: choice.device.clone(),
                guest_name: choice.guest_name.clone(),
                plug: self.plug(record.id, choice),
                mac: grant.mac,
                mtu: choice.mtu.or(network.spec.mtu),
                ipv4: network.cidr4(grant.ipv4),
                ipv6: network.cidr6(grant.ipv6),
                gateway4: network.spec.ipv4.and_then(|g| match g.address {
                    std::net::IpAddr::V4(a) => Some(a),
                    std::net::IpAddr::V6(_) => None,
                }),
                gateway6: network.spec.ipv6.and_then(|g| match g.address {
                    std::net::IpAddr::V6(a) => Some(a),
                    std::net::IpAddr::V4(_) => None,
                }),
                spoofing: !choice.filtering,
                limits: choice.limits,
            });
        }
        Ok(nics)
    }
}

/// What tells an instance from its neighbours on the same image.
fn first_boot(record: &InstanceRecord) -> Vec<FirstBootFile> {
    let file = |path: &str, content: String| FirstBootFile { path: path.into(), content, mode: 0o644 };
    vec![
        file("/etc/hostname", format!("{}\n", record.name)),
        file("/etc/machine-id", format!("{}\n", machine_id(record.id))),
    ]
}

/// The instance's id as machine-id(5) wants it.
fn machine_id(id: InstanceId) -> String {
    id.0.simple().to_string()
}

/// All documents of a kind.
pub(crate) fn parse_all<R: Record>(store: &store::Store) -> Result<Vec<R>> {
    let parse = |document: store::Document| {
        serde_json::from_str(&document.body)
            .map_err(|error| Error::Internal(format!("{} {}: {error}", R::KIND, document.key)))
    };
    store.list(R::KIND)?.into_iter().map(parse).collect()
}
