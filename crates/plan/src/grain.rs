//! Which namespaces are shared, and what follows: mounts, ids, masked units, refusals. One table and one function.

use std::collections::BTreeMap;

use config::{GrainChoice, JoinPolicy, ShareChoice};
use model::{
    Clocks, HostFacts, IdMap, InstanceId, InstanceName, NamespaceKind, NamespaceName, Namespaces, PinId, Share,
};

/// Whose user namespace something lives in or belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Users {
    /// That which the boots of an instance get new.
    Instance(InstanceId),
    /// That of a namespace object.
    Pin(PinId),
}

/// A namespace object that an instance lives in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Object {
    /// Its pin.
    pub pin: PinId,
    /// Ids, of a user namespace.
    pub ids: Option<IdMap>,
    /// The user namespace that has rights over it, where that is known and not the host's.
    pub users: Option<PinId>,
}

/// What an instance can share: instances of its project, and namespace objects.
#[derive(Debug, Clone, Default)]
pub struct Neighbours {
    /// Instances that the choice names.
    pub owners: BTreeMap<InstanceName, Owner>,
    /// Objects that the choice names.
    pub objects: BTreeMap<(NamespaceKind, NamespaceName), Object>,
}

/// An instance whose namespaces another one shares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Which.
    pub id: InstanceId,
    /// Ids of the user namespace that it lives in.
    pub ids: IdMap,
    /// Whose user namespace that is: its own, or that at the end of its chain.
    pub user_of: Users,
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
    pub user_of: Users,
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
    Named,
    Path,
}

fn mode(choice: &ShareChoice) -> Mode {
    match choice {
        ShareChoice::Private => Mode::Private,
        ShareChoice::Host => Mode::Host,
        ShareChoice::Instance(_) => Mode::Instance,
        ShareChoice::Named(_) => Mode::Named,
        ShareChoice::Path(_) => Mode::Path,
    }
}

const ROOT: &str = "the root file system is what an instance is: its mounts are its own";
const FIRST: &str = "a full system's init must be process 1, which it is only in a pid namespace of its own: name \
    another program by boot.init, or leave this private";
const WHOLE: &str = "a pid namespace ends with its first process, and all that live in it: no policy can keep it alive. Leave out \
    namespaces.join.policy=detach, or namespaces.pid";
const NO_IDS: &str = "without a user namespace of a guest root inside is root outside, which is not offered; name what is \
    needed: security.caps, security.nesting, namespaces.net";
const UNKNOWN_IDS: &str = "which ids belong to that one nobody can tell: share the users of an instance";
const ENDS: &str = "it ends with its first process, so that no object could keep it";
const GROUPS: &str = "it would see the other's groups and not find its own: private, or host to see all";

/// THE table: what is not possible, and why. Everything else is; of [`FIRST`] only those who bring an init of their own.
const REFUSED: [(NamespaceKind, Mode, &str); 13] = [
    (NamespaceKind::Mnt, Mode::Host, ROOT),
    (NamespaceKind::Mnt, Mode::Instance, ROOT),
    (NamespaceKind::Mnt, Mode::Named, ROOT),
    (NamespaceKind::Mnt, Mode::Path, ROOT),
    (NamespaceKind::Pid, Mode::Host, FIRST),
    (NamespaceKind::Pid, Mode::Instance, FIRST),
    (NamespaceKind::Pid, Mode::Named, ENDS),
    (NamespaceKind::Pid, Mode::Path, FIRST),
    (NamespaceKind::User, Mode::Host, NO_IDS),
    (NamespaceKind::User, Mode::Path, UNKNOWN_IDS),
    (NamespaceKind::Cgroup, Mode::Instance, GROUPS),
    (NamespaceKind::Cgroup, Mode::Named, GROUPS),
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

/// Why there can be no object of a kind, when there can't.
pub fn refuse_object(kind: NamespaceKind) -> Option<&'static str> {
    REFUSED.iter().find(|(k, m, _)| *k == kind && *m == Mode::Named).map(|(.., reason)| *reason)
}

/// Why an instance with this choice can't have a namespace of a kind from there, when it can't.
fn refuse(kind: NamespaceKind, mode: Mode, choice: &GrainChoice) -> Option<&'static str> {
    let (.., reason) = REFUSED.iter().find(|(k, m, _)| *k == kind && *m == mode)?;
    (*reason != FIRST || choice.init.is_none()).then_some(*reason)
}

/// Decides the grain of instance `id`, whose own range of ids is `ids`. `neighbours` has everything that the choice names.
pub fn grain(
    choice: &GrainChoice,
    (id, ids): (InstanceId, IdMap),
    neighbours: &Neighbours,
    facts: &HostFacts,
) -> Result<Grain, Refusal> {
    for (kind, share) in &choice.shares {
        if let Some(reason) = refuse(*kind, mode(share), choice) {
            return Err(refusal(*kind, reason));
        }
    }
    let joins_pids = matches!(choice.shares.get(&NamespaceKind::Pid), Some(ShareChoice::Instance(_)));
    if joins_pids && choice.policy == JoinPolicy::Detach {
        return Err(Refusal { key: "namespaces.join.policy".to_owned(), reason: WHOLE.to_owned() });
    }
    let owner = |kind: NamespaceKind| match choice.shares.get(&kind) {
        Some(ShareChoice::Instance(name)) => neighbours.owners.get(name).map(Some).ok_or_else(|| {
            let reason = format!("there is no instance {name} in this project whose namespace could be shared");
            refusal(kind, &reason)
        }),
        _ => Ok(None),
    };
    let object = |kind: NamespaceKind| match choice.shares.get(&kind) {
        Some(ShareChoice::Named(name)) => neighbours.objects.get(&(kind, name.clone())).map(Some).ok_or_else(|| {
            let made = format!("sysctl-cli ns create {}/{name}", kind.as_str());
            refusal(kind, &format!("there is no such namespace: make it by {made}"))
        }),
        _ => Ok(None),
    };
    let (user_of, ids) = match (owner(NamespaceKind::User)?, object(NamespaceKind::User)?) {
        (Some(owner), _) => (owner.user_of, owner.ids),
        (None, Some(Object { pin, ids: Some(ids), .. })) => (Users::Pin(*pin), *ids),
        (None, Some(_)) => return Err(refusal(NamespaceKind::User, UNKNOWN_IDS)),
        (None, None) => (Users::Instance(id), ids),
    };
    let mut namespaces = Namespaces::default();
    for (kind, choice) in &choice.shares {
        let (share, is_foreign) = match (choice, owner(*kind)?) {
            (ShareChoice::Private, _) => continue,
            (ShareChoice::Host, _) => (Share::Host, true),
            (ShareChoice::Path(path), _) => (Share::Path(path.clone()), true),
            (ShareChoice::Named(_), _) => {
                let Some(object) = object(*kind)? else { continue };
                (Share::Pin(object.pin), object.users.map(Users::Pin) != Some(user_of))
            }
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
    // What nobody else sets up is its own to set up, where it may.
    let is_set_up = match namespaces.of(NamespaceKind::Net) {
        Share::Private => false,
        Share::Pin(_) => namespaces.foreign.contains(&NamespaceKind::Net),
        Share::Host | Share::Instance(_) | Share::Path(_) => true,
    };
    if is_set_up {
        namespaces.masked_units = NETWORK_UNITS.map(str::to_owned).into();
    }
    namespaces.clocks = clocks(choice, &mut namespaces, facts)?;
    let user_of = if choice.persist { persist(&mut namespaces, id)? } else { user_of };
    Ok(Grain { namespaces, ids, user_of })
}

fn refusal(kind: NamespaceKind, reason: &str) -> Refusal {
    Refusal { key: format!("namespaces.{}", kind.as_str()), reason: reason.to_owned() }
}

/// A network that outlives the boots of an instance belongs to users that do.
fn persist(namespaces: &mut Namespaces, id: InstanceId) -> Result<Users, Refusal> {
    use NamespaceKind::{Net, User};
    if [Net, User].iter().any(|kind| *namespaces.of(*kind) != Share::Private) {
        let key = "namespaces.net.persist".to_owned();
        let reason = "only a network of its own persists, with users of its own: what is shared lives as long as its owner; \
            namespaces.net=named:OBJECT is one that lives on";
        return Err(Refusal { key, reason: reason.to_owned() });
    }
    let pin = |kind| PinId { of: id.0, kind };
    namespaces.shares.extend([Net, User].map(|kind| (kind, Share::Pin(pin(kind)))));
    Ok(Users::Pin(pin(User)))
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
        Some(Mode::Named) => Some(
            "it uses the network of a namespace object (namespaces.net) and can't have NICs of its own: give that its links",
        ),
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

    const TEAM: IdMap = IdMap { base: 9 << 20, count: IdMap::ORDINARY };

    fn pin(number: u128, kind: NamespaceKind) -> PinId {
        PinId { of: Uuid::from_u128(number), kind }
    }

    /// `team` has users, `blue` a network that these may change, `grey` one that is the host's.
    fn objects() -> BTreeMap<(NamespaceKind, NamespaceName), Object> {
        use NamespaceKind::{Net, User};
        let team = Object { pin: pin(10, User), ids: Some(TEAM), users: None };
        let blue = Object { pin: pin(11, Net), ids: None, users: Some(team.pin) };
        let grey = Object { pin: pin(12, Net), ids: None, users: None };
        [("team", User, team), ("blue", Net, blue), ("grey", Net, grey)]
            .map(|(name, kind, object)| ((kind, name.parse().expect("name")), object))
            .into()
    }

    fn neighbours() -> Neighbours {
        let plain =
            Owner { id: id(2), ids: THEIRS, user_of: Users::Instance(id(2)), namespaces: Namespaces::default() };
        // Shares db1's users and the host's network.
        let odd = grain(
            &choice(&[("namespaces.user", "instance:db1"), ("namespaces.net", "host")]),
            (id(3), MINE),
            &Neighbours { owners: [("db1".parse().expect("name"), plain.clone())].into(), objects: BTreeMap::new() },
            &facts(),
        )
        .expect("possible");
        let odd = Owner { id: id(3), ids: odd.ids, user_of: odd.user_of, namespaces: odd.namespaces };
        let owners = [("db1", plain), ("odd", odd)].map(|(name, owner)| (name.parse().expect("name"), owner)).into();
        Neighbours { owners, objects: objects() }
    }

    fn of(config: &[(&str, &str)]) -> Result<Grain, Refusal> {
        grain(&choice(config), (id(1), MINE), &neighbours(), &facts())
    }

    #[test]
    fn by_default_everything_is_private_and_uptime_is_its_own() {
        let grain = of(&[]).expect("possible");
        assert_eq!((grain.ids, grain.user_of), (MINE, Users::Instance(id(1))));
        assert!(grain.namespaces.shares.is_empty() && grain.namespaces.masked_units.is_empty());
        assert_eq!(grain.namespaces.clocks, Some(Clocks::FromZero));
        assert_eq!(of(&[("namespaces.time", "host")]).expect("possible").namespaces.clocks, None);
    }

    #[test]
    fn every_cell_of_the_table_is_possible_or_refused_with_a_reason() {
        let (mut possible, mut refused) = (0, 0);
        for kind in NamespaceKind::ALL {
            let named = if kind == NamespaceKind::User { "named:team" } else { "named:grey" };
            for value in ["private", "host", "instance:db1", named, "path:/run/netns/x"] {
                // Of other kinds there is no object here, which is a refusal of its own.
                if value == "named:grey" && refuse_object(kind).is_none() && kind != NamespaceKind::Net {
                    continue;
                }
                match of(&[(&format!("namespaces.{}", kind.as_str()), value)]) {
                    Ok(_) => possible += 1,
                    Err(refusal) => {
                        assert!(refusal.key.ends_with(kind.as_str()) && refusal.reason.len() > 20, "{refusal:?}");
                        refused += 1;
                    }
                }
            }
        }
        assert_eq!((possible, refused), (24, 13));
    }

    #[test]
    fn processes_of_others_are_for_an_init_that_needs_not_be_the_first() {
        for value in ["host", "instance:db1", "path:/run/x"] {
            let pid = ("namespaces.pid", value);
            assert!(of(&[pid]).expect_err("a full system").reason.contains("boot.init"));
            let grain = of(&[pid, ("boot.init", "/bin/app")]).expect("possible");
            assert!(grain.namespaces.foreign.contains(&NamespaceKind::Pid), "{value}");
        }
        let init = ("boot.init", "/bin/app");
        assert!(of(&[("namespaces.pid", "named:x"), init]).expect_err("no object").reason.contains("first process"));
        let theirs = [("namespaces.pid", "instance:db1"), ("namespaces.user", "instance:db1"), init];
        assert!(of(&theirs).expect("possible").namespaces.foreign.is_empty());
        let kept = [("namespaces.pid", "instance:db1"), ("namespaces.join.policy", "detach"), init];
        assert_eq!(of(&kept).expect_err("nobody can keep it").key, "namespaces.join.policy");
    }

    #[test]
    fn what_belongs_to_the_shared_user_namespace_is_its_own_to_administer() {
        let sidecar = of(&[("namespaces.preset", "sidecar:db1")]).expect("possible");
        assert_eq!((sidecar.ids, sidecar.user_of), (THEIRS, Users::Instance(id(2))));
        assert!(sidecar.namespaces.foreign.is_empty());
        assert!(sidecar.namespaces.masked_units.iter().any(|unit| unit.contains("resolved")));
        let stranger = of(&[("namespaces.net", "instance:db1")]).expect("possible");
        assert_eq!(stranger.ids, MINE);
        assert!(stranger.namespaces.foreign.contains(&NamespaceKind::Net));
        // The same users through another instance, whose own network is not theirs.
        let indirect = [("namespaces.user", "instance:odd"), ("namespaces.ipc", "instance:db1")];
        let indirect = of(&indirect).expect("possible");
        assert_eq!(indirect.user_of, Users::Instance(id(2)));
        assert!(indirect.namespaces.foreign.is_empty());
        let borrowed = of(&[("namespaces.user", "instance:odd"), ("namespaces.net", "instance:odd")]);
        assert!(borrowed.expect("possible").namespaces.foreign.contains(&NamespaceKind::Net));
    }

    #[test]
    fn an_object_is_its_own_to_administer_with_the_users_that_it_was_made_in() {
        let team = [("namespaces.user", "named:team"), ("namespaces.net", "named:blue")];
        let team = of(&team).expect("possible");
        assert_eq!((team.ids, team.user_of), (TEAM, Users::Pin(pin(10, NamespaceKind::User))));
        assert!(team.namespaces.foreign.is_empty() && team.namespaces.masked_units.is_empty());
        assert_eq!(team.namespaces.pins().count(), 2);
        for other in [&[("namespaces.net", "named:blue")][..], &[("namespaces.net", "named:grey")][..]] {
            let grain = of(other).expect("possible");
            assert!(grain.namespaces.foreign.contains(&NamespaceKind::Net), "{other:?}");
            assert!(!grain.namespaces.masked_units.is_empty() && grain.ids == MINE, "{other:?}");
        }
        let missing = of(&[("namespaces.uts", "named:blue")]).expect_err("of another kind");
        assert!(missing.reason.contains("sysctl-cli ns create uts/blue"), "{missing:?}");
    }

    #[test]
    fn a_network_persists_with_users_of_its_own_or_not_at_all() {
        let grain = of(&[("namespaces.net.persist", "true")]).expect("possible");
        let own = |kind| Share::Pin(PinId { of: id(1).0, kind });
        for kind in [NamespaceKind::Net, NamespaceKind::User] {
            assert_eq!(*grain.namespaces.of(kind), own(kind));
        }
        assert!(grain.namespaces.foreign.is_empty() && grain.namespaces.masked_units.is_empty());
        assert_eq!(grain.ids, MINE);
        for other in [("namespaces.net", "host"), ("namespaces.user", "instance:db1"), ("namespaces.preset", "hostnet")]
        {
            let refused = of(&[("namespaces.net.persist", "true"), other]).expect_err("refused");
            assert_eq!(refused.key, "namespaces.net.persist", "{other:?}");
        }
    }

    #[test]
    fn missing_owners_and_missing_features_are_named() {
        let missing = of(&[("namespaces.net", "instance:nobody")]).expect_err("refused");
        assert!(missing.reason.contains("nobody"), "{missing:?}");
        let old = HostFacts { time_namespaces: false, ..facts() };
        let on_old = |config: &[(&str, &str)]| grain(&choice(config), (id(1), MINE), &neighbours(), &old);
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
