//! Which devices a guest may open.

use std::collections::BTreeSet;

use config::Invalid;
use model::{DevicePolicy, DeviceRange, HostFacts, Limits};

use crate::sandbox::nodes;

/// What every program needs, and what has no device behind it.
const LEAST: [&str; 8] = ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts"];

/// Devices that a guest may open, sorted; `None` for any.
pub(crate) fn usable(limits: &Limits, facts: &HostFacts) -> Option<Vec<DeviceRange>> {
    let of_host = nodes(facts).filter(|_| limits.device_policy == DevicePolicy::Default);
    let named = LEAST.into_iter().chain(of_host).filter_map(DeviceRange::named);
    let mut ranges: Vec<DeviceRange> = named.collect::<BTreeSet<_>>().into_iter().collect();
    for rule in &limits.device_rules {
        let before = ranges.iter().position(|range| range.is_of(&rule.range)).map(|at| ranges.swap_remove(at));
        let access = match (before, rule.allow) {
            (Some(before), true) => Some(before.access.with(rule.range.access)),
            (Some(before), false) => before.access.without(rule.range.access),
            (None, allow) => allow.then_some(rule.range.access),
        };
        ranges.extend(access.map(|access| DeviceRange { access, ..rule.range }));
    }
    ranges.sort_unstable();
    (limits.device_policy != DevicePolicy::Allow).then_some(ranges)
}

/// Refuses what a guest on this host cannot have.
pub(crate) fn refuse(limits: &Limits, facts: &HostFacts) -> Result<(), Invalid> {
    let invalid = |reason: String| Err(Invalid { key: "devices.rules".into(), value: String::new(), reason });
    if limits.device_policy == DevicePolicy::Allow && !limits.device_rules.is_empty() {
        return invalid(
            "with devices.policy=allow there are none: cgroup v1 does not tell of exceptions to everything".into(),
        );
    }
    let here: Vec<DeviceRange> = LEAST.into_iter().chain(nodes(facts)).filter_map(DeviceRange::named).collect();
    let is_here = |wanted: &DeviceRange| here.iter().any(|range| range.is_of(wanted));
    match limits.device_rules.iter().find(|rule| rule.allow && !is_here(&rule.range)) {
        Some(rule) => invalid(format!("{}: this host has no such device, so guests have no node of it", rule.range)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use model::DeviceRule;
    use model::devices::Access;

    use super::*;
    use crate::settings::tests::facts;

    fn rule(allow: bool, name: &str, access: Access) -> DeviceRule {
        DeviceRule { allow, range: DeviceRange { access, ..DeviceRange::named(name).expect(name) } }
    }

    fn of(device_policy: DevicePolicy, device_rules: Vec<DeviceRule>) -> Option<String> {
        let limits = Limits { device_policy, device_rules, ..Limits::default() };
        let texts = |ranges: Vec<DeviceRange>| ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        usable(&limits, &facts()).map(texts)
    }

    #[test]
    fn a_guest_may_open_what_it_has_nodes_of_and_rules_change_that_in_their_order() {
        let least = "c 1:3 rw,c 1:5 rw,c 1:7 rw,c 1:8 rw,c 1:9 rw,c 5:0 rw,c 5:2 rw";
        let with = |more: &str| Some(format!("{least}{more},c 136:* rw"));
        assert_eq!(of(DevicePolicy::Default, vec![]), with(",c 10:229 rw"));
        assert_eq!(of(DevicePolicy::Deny, vec![]), with(""));
        assert_eq!(of(DevicePolicy::Allow, vec![]), None);
        let (read, write) = (Access { read: true, write: false }, Access { read: false, write: true });
        assert_eq!(of(DevicePolicy::Deny, vec![rule(true, "fuse", read)]), with(",c 10:229 r"));
        assert_eq!(of(DevicePolicy::Default, vec![rule(false, "fuse", write)]), with(",c 10:229 r"));
        let twice = vec![rule(false, "fuse", Access::FULL), rule(true, "fuse", write), rule(true, "fuse", read)];
        assert_eq!(of(DevicePolicy::Default, twice), with(",c 10:229 rw"));
        assert_eq!(of(DevicePolicy::Deny, vec![rule(false, "fuse", Access::FULL)]), with(""));
    }

    #[test]
    fn what_this_host_does_not_have_is_refused() {
        let refused = |device_policy, rule| {
            let limits = Limits { device_policy, device_rules: vec![rule], ..Limits::default() };
            refuse(&limits, &facts()).expect_err("refused").to_string()
        };
        let tun = rule(true, "net/tun", Access::FULL);
        assert!(refused(DevicePolicy::Default, tun).contains("no such device"));
        let fuse = rule(false, "fuse", Access::FULL);
        assert!(refused(DevicePolicy::Allow, fuse).contains("devices.policy=allow"));
        let fine = Limits { device_rules: vec![fuse], ..Limits::default() };
        assert_eq!(refuse(&fine, &facts()), Ok(()));
    }
}
