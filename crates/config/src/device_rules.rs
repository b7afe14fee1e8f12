//! Rules about which devices may be opened, from text to types.

use model::devices::NODES;
use model::{DevicePolicy, DeviceRange, DeviceRule};

use crate::instance::given;
use crate::written::Map;

/// Rules in one value: each node twice, and some to spare.
const MOST: usize = 32;

/// Devices that init, consoles and exec are nothing without.
const NEEDED: [&str; 3] = ["null", "ptmx", "pts"];

/// What rules look like, for people.
pub(crate) const RULES: &str =
    "devices with + or - before each, like -fuse,+net/tun or -c 10:229 w (read is r, write is w, and both is rw)";

/// The policy of a configuration and the rules that change it; those that cannot be read are left out.
pub(crate) fn devices(config: &Map) -> (DevicePolicy, Vec<DeviceRule>) {
    let policy = match given(config, "devices.policy") {
        Some("deny") => DevicePolicy::Deny,
        Some("allow") => DevicePolicy::Allow,
        _ => DevicePolicy::Default,
    };
    (policy, given(config, "devices.rules").and_then(|text| rules(text).ok()).unwrap_or_default())
}

/// Reads rules, which are applied in their order. What is wrong is told, in words.
pub(crate) fn rules(text: &str) -> Result<Vec<DeviceRule>, String> {
    let parts: Vec<&str> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    if parts.len() > MOST {
        return Err(format!("at most {MOST} rules are allowed"));
    }
    parts.into_iter().map(rule).collect()
}

fn rule(text: &str) -> Result<DeviceRule, String> {
    let shape = || format!("{text:?} is none of: {RULES}");
    let (allow, rest) = match text.split_at_checked(1) {
        Some(("+", rest)) => (true, rest),
        Some(("-", rest)) => (false, rest),
        _ => return Err(shape()),
    };
    let words: Vec<&str> = rest.split_whitespace().collect();
    let (device, access) = match words.as_slice() {
        [kind @ ("a" | "b" | "c"), numbers, access @ ..] => (format!("{kind} {numbers}"), access),
        [name, access @ ..] => {
            let range = DeviceRange::named(name).ok_or_else(|| {
                let names: Vec<&str> = NODES.iter().map(|(name, ..)| *name).collect();
                format!("{name:?} is no node that guests have; those are {}", names.join(", "))
            })?;
            (range.to_string().trim_end_matches(" rw").to_owned(), access)
        }
        [] => return Err(shape()),
    };
    let access = match access {
        [] => "rw",
        [access] if access.contains('m') => {
            return Err("m, to make nodes, is not to be had: in a user namespace of its own nobody makes any".into());
        }
        [access] => access,
        _ => return Err(shape()),
    };
    if device.starts_with('b') {
        return Err("b, block devices, are not to be had: a guest has no node of one, and cannot make any".into());
    }
    let range: DeviceRange = format!("{device} {access}").parse().map_err(|_| shape())?;
    refuse(allow, range).map_or(Ok(DeviceRule { allow, range }), Err)
}

/// Why a guest cannot have a rule.
fn refuse(allow: bool, range: DeviceRange) -> Option<String> {
    // Of a family that guests have one device may not be taken, as cgroup v1 knows no exceptions of exceptions.
    let known =
        NODES.iter().find(|(_, major, minor)| *major == range.major && (minor.is_none() || *minor == range.minor));
    match known {
        None if allow => {
            Some(format!("{range}: a guest has no node of it, and in a user namespace of its own it cannot make one"))
        }
        Some((name, ..)) if !allow && NEEDED.contains(name) => {
            Some(format!("{name} cannot be taken: init, the console and exec are nothing without it"))
        }
        Some((name, _, minor)) if *minor != range.minor => Some(format!("{name} is c {}:*, all or none", range.major)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use model::devices::Access;

    use super::*;

    const BOTH: Access = Access::FULL;

    #[test]
    fn rules_name_devices_or_number_them() {
        let range = |major, minor, access| DeviceRange { major, minor: Some(minor), access };
        let write = Access { read: false, write: true };
        let read = rules("-fuse, +net/tun r,-c 10:229 w,+zero").expect("rules");
        let expected = [
            DeviceRule { allow: false, range: range(10, 229, BOTH) },
            DeviceRule { allow: true, range: range(10, 200, Access { read: true, write: false }) },
            DeviceRule { allow: false, range: range(10, 229, write) },
            DeviceRule { allow: true, range: range(1, 5, BOTH) },
        ];
        assert_eq!(read, expected);
        assert_eq!(rules(" ,"), Ok(Vec::new()));
    }

    #[test]
    fn what_a_guest_in_its_own_user_namespace_cannot_get_is_refused_with_the_reason() {
        for (text, word) in [
            ("fuse", "+ or -"),
            ("+", "+ or -"),
            ("+sda", "no node that guests have"),
            ("+c 10:229 rwm", "to make nodes"),
            ("+b 8:0 rw", "block devices"),
            ("+c 4:64", "cannot make one"),
            ("+a *:* rw", "+ or -"),
            ("+c 10:229 x", "+ or -"),
            ("+c 10:229 r w", "+ or -"),
            ("-null", "cannot be taken"),
            ("-pts", "cannot be taken"),
            ("-c 136:5", "cannot be taken"),
            ("+c 136:5", "all or none"),
            ("-c 5:2 w", "cannot be taken"),
        ] {
            let error = rules(text).expect_err(text);
            assert!(error.contains(word), "{text}: {error}");
        }
        assert!(rules(&"-fuse,".repeat(MOST)).is_ok());
        assert!(rules(&"-fuse,".repeat(MOST + 1)).expect_err("many").contains("at most"));
        // One that a guest has no node of anyway.
        assert!(rules("-c 4:64").is_ok());
    }
}
