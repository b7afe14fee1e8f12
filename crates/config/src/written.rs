//! Configuration as users wrote it: maps of text, and profiles laid over one another.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Keys and values.
pub type Map = BTreeMap<String, String>;

/// Devices: name to keys and values.
pub type Maps = BTreeMap<String, Map>;

/// What one instance or profile says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Written {
    /// Configuration keys.
    pub config: Map,
    /// Devices.
    pub devices: Maps,
}

/// What holds for an instance, its profiles included.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expanded {
    /// Configuration keys.
    pub config: Map,
    /// Devices.
    pub devices: Maps,
}

/// Lays profiles over one another in their order and the instance's own over them: the last to say a key, or to name a
/// device, wins. A device is taken whole.
pub fn expand<'a>(profiles: impl IntoIterator<Item = &'a Written>, own: &'a Written) -> Expanded {
    let mut expanded = Expanded::default();
    for layer in profiles.into_iter().chain([own]) {
        expanded.config.extend(layer.config.iter().map(|(k, v)| (k.clone(), v.clone())));
        expanded.devices.extend(layer.devices.iter().map(|(k, v)| (k.clone(), v.clone())));
    }
    expanded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(config: &[(&str, &str)], devices: &[(&str, &[(&str, &str)])]) -> Written {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect::<Map>();
        Written { config: map(config), devices: devices.iter().map(|(n, d)| ((*n).into(), map(d))).collect() }
    }

    #[test]
    fn the_instance_wins_over_profiles_and_later_profiles_over_earlier_ones() {
        let a = written(&[("k", "a"), ("only", "a")], &[("eth0", &[("type", "nic"), ("network", "x"), ("mtu", "1")])]);
        let b = written(&[("k", "b")], &[("eth0", &[("type", "nic"), ("network", "y")])]);
        let own = written(&[("own", "1")], &[]);
        let all = expand([&a, &b], &own);
        assert_eq!(all.config["k"], "b");
        assert_eq!(all.config["only"], "a");
        assert_eq!(all.devices["eth0"], written(&[("type", "nic"), ("network", "y")], &[]).config);
    }
}
