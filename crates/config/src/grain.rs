//! Which namespaces an instance shares, and with whom: from text to types.

use std::collections::BTreeMap;

use model::{Clocks, InstanceName, NamespaceKind, NamespaceName};

use crate::Invalid;
use crate::written::Map;

/// Whose namespace of a kind an instance asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShareChoice {
    /// A new one of its own.
    Private,
    /// The host's.
    Host,
    /// That of another instance of the same project.
    Instance(InstanceName),
    /// A namespace object of its kind.
    Named(NamespaceName),
    /// One that is pinned at this path of the host.
    Path(String),
}

/// What happens to an instance when the one whose namespaces it shares is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum JoinPolicy {
    /// The owner's stop is refused while this one runs.
    #[default]
    Require,
    /// This one is stopped with the owner.
    StopWith,
    /// Nothing: the namespaces live on for as long as this one runs.
    Detach,
}

/// The grain of an instance's isolation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GrainChoice {
    /// What was asked for, by kind; the rest is as the default has it.
    pub shares: BTreeMap<NamespaceKind, ShareChoice>,
    /// When an owner stops.
    pub policy: JoinPolicy,
    /// Clocks of a time namespace of its own; `None` means the default.
    pub clocks: Option<Clocks>,
    /// Its own network outlives its boots.
    pub persist: bool,
    /// The program that becomes init, where that is not the image's own.
    pub init: Option<String>,
}

impl GrainChoice {
    /// The namespace objects that it lives in, with their kinds.
    pub fn objects(&self) -> impl Iterator<Item = (NamespaceKind, &NamespaceName)> {
        self.shares.iter().filter_map(|(kind, share)| match share {
            ShareChoice::Named(name) => Some((*kind, name)),
            _ => None,
        })
    }

    /// The instances whose namespaces it shares.
    pub fn owners(&self) -> impl Iterator<Item = &InstanceName> {
        self.shares.values().filter_map(|share| if let ShareChoice::Instance(name) = share { Some(name) } else { None })
    }
}

/// What a value of `namespaces.KIND` may look like, for people.
pub(crate) const SHARE: &str = "private, host, instance:NAME, named:OBJECT or path:/run/netns/NAME";

/// What a value of `namespaces.preset` may look like, for people.
pub(crate) const PRESET: &str = "full, hostnet, sidecar:NAME, slim or toolbox";

/// What a value of `time.offset.boottime` may look like, for people.
pub(crate) const OFFSET: &str = "auto, or seconds to add to the host's clocks, like 86400 or -60";

/// What a value of `boot.init` may look like, for people.
pub(crate) const PROGRAM: &str = "the path of a program inside, like /usr/local/bin/app, without . and ..,";

/// Longest path that a namespace may be pinned at, or a program be at: PATH_MAX less what is joined to it.
const MAX_PATH: usize = 4000;

/// Reads a value of `namespaces.KIND`.
pub(crate) fn share(text: &str) -> Option<ShareChoice> {
    match text.split_once(':') {
        None if text == "private" => Some(ShareChoice::Private),
        None if text == "host" => Some(ShareChoice::Host),
        Some(("instance", name)) => name.parse().ok().map(ShareChoice::Instance),
        Some(("named", name)) => name.parse().ok().map(ShareChoice::Named),
        Some(("path", path)) if path.starts_with('/') && path.len() <= MAX_PATH => {
            Some(ShareChoice::Path(path.to_owned()))
        }
        _ => None,
    }
}

/// Reads a value of `namespaces.preset`: what it stands for.
pub(crate) fn preset(text: &str) -> Option<BTreeMap<NamespaceKind, ShareChoice>> {
    use NamespaceKind::{Cgroup, Ipc, Net, Pid, Time, User, Uts};
    match text.split_once(':') {
        None if text == "full" => Some(BTreeMap::new()),
        None if text == "hostnet" => Some([(Net, ShareChoice::Host)].into()),
        None if text == "slim" => Some([(Ipc, ShareChoice::Host), (Uts, ShareChoice::Host)].into()),
        // The users stay its own: without them root inside would be root outside.
        None if text == "toolbox" => Some([Cgroup, Ipc, Net, Pid, Time, Uts].map(|k| (k, ShareChoice::Host)).into()),
        Some(("sidecar", name)) => {
            let owner = ShareChoice::Instance(name.parse().ok()?);
            Some([Net, Ipc, User].map(|kind| (kind, owner.clone())).into())
        }
        _ => None,
    }
}

/// Whether it may be a value of `boot.init`. That there is such a program only its start can tell: where links lead is the
/// guest's.
pub(crate) fn program(text: &str) -> bool {
    let is_name = |part: &str| !matches!(part, "" | "." | "..");
    text.len() <= MAX_PATH && text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_name))
}

/// Reads a value of `time.offset.boottime`.
pub(crate) fn clocks(text: &str) -> Option<Clocks> {
    // Two hundred years: beyond it the kernel's own arithmetic ends (KTIME_SEC_MAX / 2).
    const MOST: i64 = 200 * 365 * 86_400;
    match text {
        "auto" => Some(Clocks::FromZero),
        _ => text.parse().ok().filter(|seconds: &i64| seconds.abs() <= MOST).map(Clocks::Offset),
    }
}

/// Everything together: a preset, and each kind that was named beside it.
pub fn parse(config: &Map) -> Result<GrainChoice, Invalid> {
    let given = |key: &str| config.get(key).map(String::as_str).filter(|value| !value.is_empty());
    let mut shares = given("namespaces.preset").and_then(preset).unwrap_or_default();
    for kind in NamespaceKind::ALL {
        if let Some(choice) = given(&format!("namespaces.{}", kind.as_str())).and_then(share) {
            shares.insert(kind, choice);
        }
    }
    let clocks = given("time.offset.boottime").and_then(clocks);
    let own_clock = !matches!(shares.get(&NamespaceKind::Time), None | Some(ShareChoice::Private));
    if let (Some(_), true) = (clocks, own_clock) {
        let value = given("time.offset.boottime").unwrap_or_default();
        let reason = "clocks can only be set in a time namespace of its own: leave namespaces.time private";
        return Err(Invalid::new("time.offset.boottime", value, reason));
    }
    let policy = match given("namespaces.join.policy") {
        Some("stop-with") => JoinPolicy::StopWith,
        Some("detach") => JoinPolicy::Detach,
        _ => JoinPolicy::Require,
    };
    let persist = given("namespaces.net.persist").and_then(crate::instance::boolean).unwrap_or(false);
    let init = given("boot.init").map(str::to_owned);
    Ok(GrainChoice { shares, policy, clocks, persist, init })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(config: &[(&str, &str)]) -> Result<GrainChoice, Invalid> {
        parse(&config.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn a_kind_that_is_named_wins_over_the_preset() {
        let grain = of(&[("namespaces.preset", "sidecar:db1"), ("namespaces.ipc", "private")]).expect("valid");
        let owner = ShareChoice::Instance("db1".parse().expect("name"));
        assert_eq!(grain.shares[&NamespaceKind::Net], owner);
        assert_eq!(grain.shares[&NamespaceKind::User], owner);
        assert_eq!(grain.shares[&NamespaceKind::Ipc], ShareChoice::Private);
        assert_eq!(grain.owners().count(), 2);
        let toolbox = of(&[("namespaces.preset", "toolbox"), ("namespaces.net", "private")]).expect("valid");
        let hosts = toolbox.shares.iter().filter(|(_, share)| **share == ShareChoice::Host).map(|(kind, _)| *kind);
        use NamespaceKind::{Cgroup, Ipc, Pid, Time, Uts};
        assert_eq!(hosts.collect::<Vec<_>>(), [Cgroup, Ipc, Pid, Time, Uts]);
    }

    #[test]
    fn values_are_read_or_refused() {
        assert_eq!(share("host"), Some(ShareChoice::Host));
        assert_eq!(share("path:/run/netns/blue"), Some(ShareChoice::Path("/run/netns/blue".into())));
        assert_eq!(share("named:blue"), Some(ShareChoice::Named("blue".parse().expect("name"))));
        for wrong in ["", "Host", "instance:", "instance:a/b", "path:run", "path:", "named", "named:", "named:../x"] {
            assert_eq!(share(wrong), None, "{wrong}");
        }
        for wrong in ["", "sidecar", "sidecar:", "everything"] {
            assert_eq!(preset(wrong), None, "{wrong}");
        }
        for wrong in ["", "/", "init", "/sbin/", "//sbin", "/sbin/../init", "/./init", "../init"] {
            assert!(!program(wrong), "{wrong}");
        }
        assert!(program("/sbin/init") && program("/opt/my app/run"));
        assert_eq!((clocks("auto"), clocks("-60")), (Some(Clocks::FromZero), Some(Clocks::Offset(-60))));
        assert_eq!((clocks("soon"), clocks("99999999999999")), (None, None));
    }

    #[test]
    fn clocks_of_the_host_cannot_be_set() {
        let error = of(&[("namespaces.time", "host"), ("time.offset.boottime", "5")]).expect_err("refused");
        assert!(error.reason.contains("namespaces.time"), "{error}");
        assert!(of(&[("time.offset.boottime", "5")]).is_ok());
    }
}
