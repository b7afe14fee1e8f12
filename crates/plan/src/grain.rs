//! Which namespaces are shared, and what follows: mounts, ids, masked units, refusals. One table and one function.

use std::collections::BTreeMap;

use config::{GrainChoice, ShareChoice};
use model::{Clocks, HostFacts, IdMap, InstanceId, InstanceName, NamespaceKind, Namespaces, Share};

/// An instance whose namespaces another one shares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Which.
    pub id: InstanceId,
    /// Ids of the user namespace that it lives in.
    pub ids: IdMap,
    /// Whose user namespace that is: its own, or that of the instance at the end of its chain.
    pub user_of: InstanceId,
    /// Its namespaces.
    pub namespaces: Namespaces,
}

/// The grain of one instance, decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grain {
    /// Namespaces.
    pub namespaces: Namespaces,
    /// Ids of the user namespace that it lives in.
    pub ids: IdMap,
    /// Whose user namespace that is.
    pub user_of: InstanceId,
}

/// A choice that is not possible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The key.
    pub key: String,
    /// Why, and what to do.
    pub reason: String,
}

/// Where a namespace comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Private,
    Host,
    Instance,
    Path,
}

fn mode(choice: &ShareChoice) -> Mode {
    match choice {
        ShareChoice::Private => Mode::Private,
        ShareChoice::Host => Mode::Host,
        ShareChoice::Instance(_) => Mode::Instance,
        ShareChoice::Path(_) => Mode::Path,
    }
}

const ROOT: &str = "the root file system is what an instance is: its mounts are its own";
const FIRST: &str = "a full system's init must be process 1, which it is only in a pid namespace of its own";
const NO_IDS: &str = "without a user namespace of a guest root inside is root outside, which is not offered; name what is \
    needed: security.caps, security.nesting, namespaces.net";
const UNKNOWN_IDS: &str = "which ids belong to that one nobody can tell: share the users of an instance";
const GROUPS: &str = "it would see the other's groups and not find its own: private, or host to see all";

/// THE table: what is not possible, and why. Everything else is.
const REFUSED: [(NamespaceKind, Mode, &str); 10] = [
    (NamespaceKind::Mnt, Mode::Host, ROOT),
    (NamespaceKind::Mnt, Mode::Instance, ROOT),
    (NamespaceKind::Mnt, Mode::Path, ROOT),
    (NamespaceKind::Pid, Mode::Host, FIRST),
    (NamespaceKind::Pid, Mode::Instance, FIRST),
    (NamespaceKind::Pid, Mode::Path, FIRST),
    (NamespaceKind::User, Mode::Host, NO_IDS),
    (NamespaceKind::User, Mode::Path, UNKNOWN_IDS),
    (NamespaceKind::Cgroup, Mode::Instance, GROUPS),
    (NamespaceKind::Cgroup, Mode::Path, GROUPS),
];

/// Units that would set up a network which is somebody else's, or take a port in it that its owner has.
const NETWORK_UNITS: [&str; 6] = [
    "networking.service",
    "systemd-networkd.service",
    "systemd-networkd.socket",
    "systemd-networkd-wait-online.service",
    "systemd-resolved.service",
    "NetworkManager.service",
];

/// Decides the grain of instance `id`, whose own range of ids is `ids`. `owners` has every instance that the choice names.
pub fn grain(
    choice: &GrainChoice,
    (id, ids): (InstanceId, IdMap),
    owners: &BTreeMap<InstanceName, Owner>,
    facts: &HostFacts,
) -> Result<Grain, Refusal> {
    for (kind, choice) in &choice.shares {
        if let Some((.., reason)) = REFUSED.iter().find(|(k, m, _)| k == kind && *m == mode(choice)) {
            return Err(refusal(*kind, reason));
        }
    }
    let owner = |kind: NamespaceKind| match choice.shares.get(&kind) {
        Some(ShareChoice::Instance(name)) => owners.get(name).map(Some).ok_or_else(|| {
            let reason = format!("there is no instance {name} in this project whose namespace could be shared");
            refusal(kind, &reason)
        }),
        _ => Ok(None),
    };
    let (user_of, ids) = owner(NamespaceKind::User)?.map_or((id, ids), |owner| (owner.user_of, owner.ids));
    let mut namespaces = Namespaces::default();
    for (kind, choice) in &choice.shares {
        let (share, is_foreign) = match (choice, owner(*kind)?) {
            (ShareChoice::Private, _) => continue,
            (ShareChoice::Host, _) => (Share::Host, true),
            (ShareChoice::Path(path), _) => (Share::Path(path.clone()), true),
            (ShareChoice::Instance(_), Some(owner)) if owner.id == id => {
                return Err(refusal(*kind, "an instance can't share its own namespace with itself: private"));
            }
            (ShareChoice::Instance(_), owner) => {
                let Some(owner) = owner else { continue };
                let belongs = owner.user_of == user_of && !owner.namespaces.foreign.contains(kind);
                (Share::Instance(owner.id), !belongs)
            }
        };
        namespaces.shares.insert(*kind, share);
        // A user namespace belongs to none but its parent's.
        if is_foreign && *kind != NamespaceKind::User {
            namespaces.foreign.insert(*kind);
        }
    }
    if *namespaces.of(NamespaceKind::Net) != Share::Private {
        namespaces.masked_units = NETWORK_UNITS.map(str::to_owned).into();
    }
    namespaces.clocks = clocks(choice, &mut namespaces, facts)?;
    Ok(Grain { namespaces, ids, user_of })
}

fn refusal(kind: NamespaceKind, reason: &str) -> Refusal {
    Refusal { key: format!("namespaces.{}", kind.as_str()), reason: reason.to_owned() }
}

/// Clocks of its own, where the kernel has them and nothing else was asked for.
fn clocks(choice: &GrainChoice, namespaces: &mut Namespaces, facts: &HostFacts) -> Result<Option<Clocks>, Refusal> {
    const TIME: NamespaceKind = NamespaceKind::Time;
    if *namespaces.of(TIME) != Share::Private {
        return Ok(None);
    }
    if facts.time_namespaces {
        return Ok(Some(choice.clocks.unwrap_or(Clocks::FromZero)));
    }
    if choice.clocks.is_some() || choice.shares.contains_key(&TIME) {
        return Err(refusal(TIME, "this kernel has no time namespaces (CONFIG_TIME_NS)"));
    }
    namespaces.shares.insert(TIME, Share::Host);
    Ok(None)
}

/// Why NICs of its own make no sense, when they don't.
pub fn refuse_nics(choice: &GrainChoice) -> Option<&'static str> {
    match choice.shares.get(&NamespaceKind::Net).map(mode) {
        None | Some(Mode::Private) => None,
        Some(Mode::Host) => Some("it uses the host's network (namespaces.net=host) and can't have NICs of its own"),
        Some(Mode::Instance | Mode::Path) => Some(
            "it shares a network (namespaces.net) and can't have NICs of its own: give them to whom it shares with",
        ),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::settings::tests::facts;

    const MINE: IdMap = IdMap { base: 1 << 20, count: IdMap::ORDINARY };
    const THEIRS: IdMap = IdMap { base: 5 << 20, count: IdMap::ORDINARY };

    fn id(number: u128) -> InstanceId {
        InstanceId(Uuid::from_u128(number))
    }

    fn choice(config: &[(&str, &str)]) -> GrainChoice {
        let mut all: BTreeMap<String, String> =
            config.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let root = [("type", "disk"), ("path", "/"), ("pool", "default")];
        let root = root.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let expanded =
            config::Expanded { config: std::mem::take(&mut all), devices: [("root".to_owned(), root)].into() };
        config::parse_instance(&expanded).expect("valid").grain
    }

    fn owners() -> BTreeMap<InstanceName, Owner> {
        let plain = Owner { id: id(2), ids: THEIRS, user_of: id(2), namespaces: Namespaces::default() };
        // Shares db1's users and the host's network.
        let odd = grain(
            &choice(&[("namespaces.user", "instance:db1"), ("namespaces.net", "host")]),
            (id(3), MINE),
            &[("db1".parse().expect("name"), plain.clone())].into(),
            &facts(),
        )
        .expect("possible");
        let odd = Owner { id: id(3), ids: odd.ids, user_of: odd.user_of, namespaces: odd.namespaces };
        [("db1", plain), ("odd", odd)].map(|(name, owner)| (name.parse().expect("name"), owner)).into()
    }

    fn of(config: &[(&str, &str)]) -> Result<Grain, Refusal> {
        grain(&choice(config), (id(1), MINE), &owners(), &facts())
    }

    #[test]
    fn by_default_everything_is_private_and_uptime_is_its_own() {
        let grain = of(&[]).expect("possible");
        assert_eq!((grain.ids, grain.user_of), (MINE, id(1)));
        assert!(grain.namespaces.shares.is_empty() && grain.namespaces.masked_units.is_empty());
        assert_eq!(grain.namespaces.clocks, Some(Clocks::FromZero));
        assert_eq!(of(&[("namespaces.time", "host")]).expect("possible").namespaces.clocks, None);
    }

    #[test]
    fn every_cell_of_the_table_is_possible_or_refused_with_a_reason() {
        let (mut possible, mut refused) = (0, 0);
        for kind in NamespaceKind::ALL {
            for value in ["private", "host", "instance:db1", "path:/run/netns/x"] {
                match of(&[(&format!("namespaces.{}", kind.as_str()), value)]) {
                    Ok(_) => possible += 1,
                    Err(refusal) => {
                        assert!(refusal.key.ends_with(kind.as_str()) && refusal.reason.len() > 20, "{refusal:?}");
                        refused += 1;
                    }
                }
            }
        }
        assert_eq!((possible, refused), (22, 10));
    }

    #[test]
    fn what_belongs_to_the_shared_user_namespace_is_its_own_to_administer() {
        let sidecar = of(&[("namespaces.preset", "sidecar:db1")]).expect("possible");
        assert_eq!((sidecar.ids, sidecar.user_of), (THEIRS, id(2)));
        assert!(sidecar.namespaces.foreign.is_empty());
        assert!(sidecar.namespaces.masked_units.iter().any(|unit| unit.contains("resolved")));
        let stranger = of(&[("namespaces.net", "instance:db1")]).expect("possible");
        assert_eq!(stranger.ids, MINE);
        assert!(stranger.namespaces.foreign.contains(&NamespaceKind::Net));
        // The same users through another instance, whose own network is not theirs.
        let indirect = [("namespaces.user", "instance:odd"), ("namespaces.ipc", "instance:db1")];
        let indirect = of(&indirect).expect("possible");
        assert_eq!(indirect.user_of, id(2));
        assert!(indirect.namespaces.foreign.is_empty());
        let borrowed = of(&[("namespaces.user", "instance:odd"), ("namespaces.net", "instance:odd")]);
        assert!(borrowed.expect("possible").namespaces.foreign.contains(&NamespaceKind::Net));
    }

    #[test]
    fn missing_owners_and_missing_features_are_named() {
        let missing = of(&[("namespaces.net", "instance:nobody")]).expect_err("refused");
        assert!(missing.reason.contains("nobody"), "{missing:?}");
        let old = HostFacts { time_namespaces: false, ..facts() };
        let on_old = |config: &[(&str, &str)]| grain(&choice(config), (id(1), MINE), &owners(), &old);
        assert_eq!(*on_old(&[]).expect("possible").namespaces.of(NamespaceKind::Time), Share::Host);
        assert!(on_old(&[("namespaces.time", "private")]).expect_err("refused").reason.contains("CONFIG_TIME_NS"));
    }

    #[test]
    fn nics_go_with_a_network_of_its_own() {
        assert_eq!(refuse_nics(&choice(&[])), None);
        assert!(refuse_nics(&choice(&[("namespaces.preset", "hostnet")])).expect("refused").contains("host's network"));
        assert!(refuse_nics(&choice(&[("namespaces.net", "instance:db1")])).is_some());
    }
}
