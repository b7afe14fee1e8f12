//! From text to types, for instances.

use std::collections::{BTreeMap, BTreeSet};

use model::scale::Autoscale;
use model::{Limits, MountMode, Seccomp, Told};

use crate::device_rules;
use crate::devices::{self, DeviceKind, NicChoice, RootChoice, WireChoice};
use crate::grain::{self, GrainChoice};
use crate::keys::{FOREIGN, Kind, describe_kind, find_key};
use crate::limits::{
    allowance, autoscale, bit_rate, cpu_range, cpus, idle_freeze_ms, limits, memory, memory_range, pause_ms, percent,
    scale_down, scale_up, scarce, swap, time_us, told,
};
use crate::written::{Expanded, Map, Written};
use crate::{INSTANCE_KEYS, Invalid};

/// What an instance asks of its isolation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SandboxChoice {
    /// Room for containers inside.
    pub nesting: bool,
    /// Locking of mounts.
    pub mounts: MountMode,
    /// System calls.
    pub seccomp: Seccomp,
    /// A keyring of its own is not wanted.
    pub shared_keyring: bool,
    /// Capabilities to keep beyond the default, by name.
    pub more_capabilities: BTreeSet<String>,
    /// Capabilities to drop beyond the default, by name.
    pub fewer_capabilities: BTreeSet<String>,
}

/// The whole configuration, typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceConfig {
    /// Limits.
    pub limits: Limits,
    /// Those of them that follow the need.
    pub autoscale: Autoscale,
    /// Waits that are events.
    pub told: Told,
    /// Milliseconds without work after which it is held still; `None` for never.
    pub idle_freeze_ms: Option<u64>,
    /// Isolation.
    pub sandbox: SandboxChoice,
    /// Namespaces.
    pub grain: GrainChoice,
    /// Environment of init and of exec'd programs.
    pub environment: Vec<(String, String)>,
    /// Root disk.
    pub root: RootChoice,
    /// NICs, by device name.
    pub nics: Vec<NicChoice>,
    /// NICs at ends of wires, by device name.
    pub wires: Vec<WireChoice>,
}

/// Reads a configuration with its profiles laid over. The first thing wrong is told.
pub fn parse_instance(expanded: &Expanded) -> Result<InstanceConfig, Invalid> {
    let config = &expanded.config;
    config.iter().try_for_each(|(key, value)| check(key, value))?;
    let (root, nics, wires) = parse_devices(expanded)?;
    let limits = Limits { disk_rates: root.rates, ..limits(config) };
    Ok(InstanceConfig {
        limits,
        autoscale: autoscale(config),
        told: told(config),
        idle_freeze_ms: idle_freeze_ms(config),
        sandbox: sandbox(config)?,
        grain: grain::parse(config)?,
        environment: environment(config),
        root,
        nics,
        wires,
    })
}

/// Whether the keys and devices of a profile make sense by themselves, and its NICs. What is missing may come from elsewhere.
pub fn check_profile(written: &Written) -> Result<Vec<NicChoice>, Invalid> {
    written.config.iter().try_for_each(|(key, value)| check(key, value))?;
    let nic = |(name, map): (&String, &Map)| match devices::parse(name, map) {
        Ok(DeviceKind::Wire(_)) => {
            let reason = "a wire joins two instances: give it to one of them, not to a profile";
            Some(Err(Invalid::new(format!("{name}.nictype"), "wire", reason)))
        }
        Ok(DeviceKind::Nic(nic)) => Some(Ok(*nic)),
        Ok(DeviceKind::Root(_) | DeviceKind::None) => None,
        Err(error) => Some(Err(error)),
    };
    written.devices.iter().filter_map(nic).collect()
}

/// Whether a key exists and its value is of its kind.
fn check(key: &str, value: &str) -> Result<(), Invalid> {
    let Some(entry) = find_key(key) else { return Err(unknown(key, value)) };
    let allowed = || Invalid::new(key, value, format!("{} is allowed", describe_kind(entry.kind)));
    let control = |c: char| c.is_control() && !matches!(c, '\n' | '\t' | '\r');
    if value.chars().any(control) || key.chars().any(char::is_control) {
        return Err(Invalid::new(key, value, "control characters are not allowed"));
    }
    // An empty value takes a key back, as in other managers.
    if entry.kind == Kind::Devices {
        return device_rules::rules(value).map(drop).map_err(|reason| Invalid::new(key, value, reason));
    }
    let fine = value.is_empty()
        || match entry.kind {
            Kind::Bool => boolean(value).is_some(),
            Kind::Integer(low, high) => value.parse::<u64>().is_ok_and(|n| (low..=high).contains(&n)),
            Kind::OneOf(words) => words.contains(&value),
            Kind::Memory => memory(value).is_some(),
            Kind::Size => value.parse::<model::Bytes>().is_ok(),
            Kind::BitRate => bit_rate(value).is_some(),
            Kind::Swap => swap(value).is_some(),
            Kind::Cpus => cpus(value).is_some(),
            Kind::Allowance => allowance(value).is_some(),
            Kind::Time => time_us(value).is_some_and(|us| us > 0),
            Kind::Pause => pause_ms(value).is_some(),
            Kind::Percent => percent(value).is_some(),
            Kind::Scarce => scarce(value).is_some(),
            Kind::MemoryRange => memory_range(value).is_some(),
            Kind::ScaleUp => scale_up(value).is_some(),
            Kind::ScaleDown => scale_down(value).is_some(),
            Kind::CpuRange => cpu_range(value).is_some(),
            Kind::Capabilities => capabilities(value).is_some(),
            Kind::Share => grain::share(value).is_some(),
            Kind::Preset => grain::preset(value).is_some(),
            Kind::Offset => grain::clocks(value).is_some(),
            Kind::Program => grain::program(value),
            // Says itself what is wrong, above.
            Kind::Devices | Kind::Text => true,
        };
    if !fine {
        return Err(allowed());
    }
    if key == "security.privileged" && boolean(value) == Some(true) {
        let reason = "a container without isolation is not offered; name what it needs: security.nesting, security.caps, security.seccomp";
        return Err(Invalid::new(key, value, reason));
    }
    Ok(())
}

fn unknown(key: &str, value: &str) -> Invalid {
    if let Some((_, reason)) = FOREIGN.iter().find(|(prefix, _)| key.starts_with(prefix)) {
        return Invalid::new(key, value, *reason);
    }
    // The known key with the most leading characters in common is what was meant, if it was a slip.
    let common = |name: &str| name.bytes().zip(key.bytes()).take_while(|(a, b)| a == b).count();
    let near = INSTANCE_KEYS.iter().max_by_key(|k| common(k.name)).filter(|k| common(k.name) >= 4);
    let hint = near.map(|k| format!("; did you mean {}?", k.name)).unwrap_or_default();
    Invalid::new(key, value, format!("unknown configuration key{hint}"))
}

/// A truth value as people write it.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" | "" => Some(false),
        _ => None,
    }
}

/// Capabilities to keep and to drop.
fn capabilities(text: &str) -> Option<(BTreeSet<String>, BTreeSet<String>)> {
    let (mut more, mut fewer) = (BTreeSet::new(), BTreeSet::new());
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (set, name) = match part.split_at_checked(1)? {
            ("+", name) => (&mut more, name),
            ("-", name) => (&mut fewer, name),
            _ => return None,
        };
        let name = name.to_ascii_lowercase();
        let name = name.strip_prefix("cap_").unwrap_or(&name);
        if !model::sandbox::CAPABILITIES.contains(&name) {
            return None;
        }
        set.insert(name.to_owned());
    }
    Some((more, fewer))
}

pub(crate) fn given<'a>(config: &'a Map, key: &str) -> Option<&'a str> {
    config.get(key).map(String::as_str).filter(|value| !value.is_empty())
}

fn sandbox(config: &Map) -> Result<SandboxChoice, Invalid> {
    let is = |key: &str| given(config, key).and_then(boolean);
    let (more_capabilities, fewer_capabilities) =
        given(config, "security.caps").and_then(capabilities).unwrap_or_default();
    Ok(SandboxChoice {
        nesting: is("security.nesting") == Some(true),
        mounts: if given(config, "security.mounts") == Some("strict") { MountMode::Strict } else { MountMode::Lean },
        seccomp: if given(config, "security.seccomp") == Some("off") { Seccomp::Off } else { Seccomp::Base },
        shared_keyring: is("security.keyring") == Some(false),
        more_capabilities,
        fewer_capabilities,
    })
}

fn environment(config: &Map) -> Vec<(String, String)> {
    config
        .iter()
        .filter_map(|(key, value)| key.strip_prefix("environment.").map(|name| (name.to_owned(), value.clone())))
        .collect()
}

fn parse_devices(expanded: &Expanded) -> Result<(RootChoice, Vec<NicChoice>, Vec<WireChoice>), Invalid> {
    let (mut root, mut nics, mut wires): (Option<RootChoice>, Vec<NicChoice>, Vec<WireChoice>) = Default::default();
    let mut links: BTreeMap<String, String> = BTreeMap::new();
    let mut is_free = |device: &str, guest_name: &str| match links.insert(guest_name.to_owned(), device.to_owned()) {
        None => Ok(()),
        Some(other) => {
            let reason = format!("{other} has this name in the guest already");
            Err(Invalid::new(format!("{device}.name"), guest_name, reason))
        }
    };
    for (name, map) in &expanded.devices {
        match devices::parse(name, map)? {
            DeviceKind::Root(found) => {
                if let Some(other) = &root {
                    return Err(Invalid::new(name, "", format!("there is a root disk already: {}", other.device)));
                }
                root = Some(found);
            }
            DeviceKind::Nic(found) => {
                is_free(name, &found.guest_name)?;
                nics.push(*found);
            }
            DeviceKind::Wire(found) => {
                is_free(name, &found.guest_name)?;
                wires.push(*found);
            }
            DeviceKind::None => {}
        }
    }
    let missing = || {
        Invalid::new(
            "root",
            "",
            "no root disk: add a device {type: disk, path: /, pool: POOL}, or use a profile that has one",
        )
    };
    Ok((root.ok_or_else(missing)?, nics, wires))
}

#[cfg(test)]
mod tests {
    use model::DiskRates;

    use super::*;

    fn expanded(config: &[(&str, &str)]) -> Expanded {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect::<Map>();
        let root = map(&[("type", "disk"), ("path", "/"), ("pool", "default")]);
        Expanded { config: map(config), devices: [("root".to_owned(), root)].into() }
    }

    #[test]
    fn wrong_values_name_key_value_and_what_is_allowed() {
        for (key, value, word) in [
            ("limits.memory", "lots", "512MiB"),
            ("limits.memory", "10", "512MiB"),
            ("limits.cpu", "0", "0-1,3"),
            ("limits.cpu", "3-1", "0-1,3"),
            ("limits.cpu.allowance", "0%", "50%"),
            ("limits.cpu.allowance", "25ms/9000ms", "25ms/100ms"),
            ("limits.processes", "-1", "1 to"),
            ("limits.memory.enforce", "maybe", "hard or soft"),
            ("limits.memory.high", "10", "512MiB"),
            ("limits.memory.swap", "some", "true or false"),
            ("limits.memory.zswap", "25%", "512MiB"),
            ("limits.network.egress", "10MB", "100Mbit"),
            ("limits.network.ingress", "1kbit", "8kbit"),
            ("limits.cpu.burst", "0ms", "25ms"),
            ("limits.cpu.uclamp.min", "101%", "12.5%"),
            ("limits.disk.priority", "11", "0 to 10"),
            ("pressure.events", "disk", "cpu, io and memory"),
            ("autoscale.memory.up", "some<10%/2s", "some>10%/2s"),
            ("autoscale.cpu.down", "some<1%/60s, step 90%", "1% to 50%"),
            ("devices.policy", "some", "default or deny"),
            ("devices.rules", "+c 10:229 m", "to make nodes"),
            ("limits.hugepages.2MB", "many", "512MiB"),
            ("security.nesting", "perhaps", "true or false"),
            ("security.caps", "sys_time", "+"),
            ("security.caps", "+flying", "+"),
            ("user.x", "a\u{7}b", "control"),
        ] {
            let error = parse_instance(&expanded(&[(key, value)])).expect_err(value).to_string();
            assert!(error.contains(key) && error.contains(word), "{error}");
        }
    }

    #[test]
    fn unknown_and_foreign_keys_say_what_to_do() {
        let error = |key| parse_instance(&expanded(&[(key, "x")])).expect_err(key).to_string();
        assert!(error("limits.memry").contains("did you mean limits.memory"));
        assert!(error("raw.lxc").contains("raw text"));
        assert!(error("something").contains("unknown configuration key"));
        let privileged = parse_instance(&expanded(&[("security.privileged", "true")])).expect_err("privileged");
        assert!(privileged.reason.contains("security.caps"));
        assert!(parse_instance(&expanded(&[("security.privileged", "false")])).is_ok());
    }

    #[test]
    fn devices_are_checked_key_by_key() {
        let with = |name: &str, pairs: &[(&str, &str)]| {
            let mut all = expanded(&[]);
            all.devices.insert(name.into(), pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect());
            parse_instance(&all)
        };
        let nic = with("eth0", &[("type", "nic"), ("network", "br0"), ("ipv4.address", "10.0.0.5")]).expect("nic");
        assert_eq!((nic.nics[0].guest_name.as_str(), nic.nics[0].filtering), ("eth0", true));
        let wire =
            with("eth1", &[("type", "nic"), ("nictype", "wire"), ("peer", "b"), ("ipv4.address", "10.0.0.1/30")]);
        let wire = wire.expect("wire").wires.remove(0);
        assert_eq!((wire.peer.as_str(), wire.peer_device.as_str(), wire.guest_name.as_str()), ("b", "eth1", "eth1"));
        for (pairs, word) in [
            (vec![("type", "nic"), ("nictype", "wire")], "required"),
            (vec![("type", "nic"), ("nictype", "wire"), ("peer", "b:")], "INSTANCE:DEVICE"),
            (vec![("type", "nic"), ("nictype", "wire"), ("peer", "b:x"), ("network", "br0")], "unknown key"),
            (vec![("type", "nic"), ("nictype", "wire"), ("peer", "b:x"), ("ipv4.address", "10.0.0.1")], "prefix"),
            (vec![("type", "nic"), ("nictype", "macvlan"), ("network", "br0")], "bridged"),
            (vec![("type", "nic")], "network"),
            (vec![("type", "nic"), ("network", "br0"), ("colour", "red")], "colour"),
            (vec![("type", "nic"), ("network", "br0"), ("ipv4.address", "fd00::1")], "IPv4"),
            (vec![("type", "nic"), ("network", "br0"), ("hwaddr", "01:00:00:00:00:00")], "unicast"),
            (vec![("type", "nic"), ("network", "br0"), ("mtu", "9")], "1280"),
            (vec![("type", "nic"), ("network", "br0"), ("name", "a/b")], "characters"),
            (vec![("type", "disk"), ("path", "/"), ("pool", "default"), ("limits.read", "0")], "500iops"),
            (
                vec![
                    ("type", "disk"),
                    ("path", "/"),
                    ("pool", "default"),
                    ("limits.max", "1MB"),
                    ("limits.read", "1MB"),
                ],
                "limits.max",
            ),
            (vec![("type", "gpu")], "not supported"),
            (vec![("path", "/")], "required"),
            (vec![("type", "disk"), ("path", "/"), ("pool", "default")], "root disk already"),
        ] {
            let error = with("dev", &pairs).expect_err(word).to_string();
            assert!(error.contains(word), "{error}");
        }
        let mut limited = expanded(&[]);
        let root = limited.devices.get_mut("root").expect("root");
        root.insert("limits.max".into(), "10MB,30iops".into());
        let both = DiskRates {
            read_bytes: Some(10_000_000),
            write_bytes: Some(10_000_000),
            read_ops: Some(30),
            write_ops: Some(30),
        };
        assert_eq!(parse_instance(&limited).expect("valid").limits.disk_rates, both);
        let mut none = expanded(&[]);
        none.devices.clear();
        assert!(parse_instance(&none).expect_err("no root").to_string().contains("no root disk"));
    }
}
