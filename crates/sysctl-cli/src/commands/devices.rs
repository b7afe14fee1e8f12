//! Devices of a new instance: what the words override, over what its profiles say.

use std::collections::BTreeMap;

use sysctl_api::Devices;

/// `NAME,KEY=VALUE…`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Override {
    pub(crate) name: String,
    pub(crate) keys: BTreeMap<String, String>,
}

impl std::str::FromStr for Override {
    type Err = String;

    fn from_str(text: &str) -> Result<Override, String> {
        let mut parts = text.split(',');
        let name = parts.next().filter(|name| !name.is_empty() && !name.contains('='));
        let name = name.ok_or("NAME,KEY=VALUE is expected, like root,size=1GiB")?.to_owned();
        let keys: BTreeMap<_, _> = parts.map(crate::args::key_value).collect::<Result<_, _>>()?;
        if keys.is_empty() {
            return Err(format!("what shall be set on {name}? {name},KEY=VALUE is expected"));
        }
        Ok(Override { name, keys })
    }
}

/// What the words say about devices.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    pub(crate) overrides: Vec<Override>,
    pub(crate) network: Option<String>,
    pub(crate) storage: Option<String>,
}

impl Wanted {
    /// Whether the profiles have to be looked at: an override of a device replaces all of it.
    pub(crate) fn needs_profiles(&self) -> bool {
        self.network.is_some()
            || self.storage.is_some()
            || self.overrides.iter().any(|device| !device.keys.contains_key("type"))
    }

    /// The instance's own devices, given those of its profiles, laid over one another.
    pub(crate) fn resolve(&self, inherited: &Devices) -> Result<Devices, String> {
        let mut own = Devices::new();
        if let Some(pool) = &self.storage {
            let is_root = |keys: &BTreeMap<String, String>| keys.get("path").map(String::as_str) == Some("/");
            let found = inherited.iter().find(|(_, keys)| is_root(keys));
            let (name, mut keys) = match found {
                Some((name, keys)) => (name.clone(), keys.clone()),
                None => ("root".to_owned(), [("type".into(), "disk".into()), ("path".into(), "/".into())].into()),
            };
            keys.insert("pool".into(), pool.clone());
            own.insert(name, keys);
        }
        if let Some(network) = &self.network {
            // What belonged to another network (an address, a parent) does not fit this one.
            let pairs = [("type", "nic"), ("name", "eth0"), ("network", network)];
            let keys = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
            own.insert("eth0".into(), keys.into());
        }
        for Override { name, keys } in &self.overrides {
            let base = own.get(name).or_else(|| inherited.get(name)).cloned();
            if base.is_none() && !keys.contains_key("type") {
                let known: Vec<&str> = inherited.keys().map(String::as_str).collect();
                return Err(format!(
                    "no profile has a device {name:?} to override (there are: {}); a new one needs type=…",
                    if known.is_empty() { "none".into() } else { known.join(", ") }
                ));
            }
            let device = own.entry(name.clone()).or_insert_with(|| base.unwrap_or_default());
            device.extend(keys.clone());
        }
        Ok(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn profile() -> Devices {
        [
            ("root".to_owned(), keys(&[("type", "disk"), ("path", "/"), ("pool", "default")])),
            ("eth0".to_owned(), keys(&[("type", "nic"), ("network", "sysctlbr0"), ("ipv4.address", "10.0.0.9")])),
        ]
        .into()
    }

    #[test]
    fn an_override_keeps_what_the_profile_says() {
        let wanted = Wanted { overrides: vec!["root,size=1GiB".parse().expect("a device")], ..Wanted::default() };
        assert!(wanted.needs_profiles());
        let own = wanted.resolve(&profile()).expect("devices");
        assert_eq!(own["root"], keys(&[("type", "disk"), ("path", "/"), ("pool", "default"), ("size", "1GiB")]));
        assert_eq!(own.len(), 1);
    }

    #[test]
    fn pool_and_network_are_devices_too() {
        let wanted = Wanted {
            overrides: vec!["root,size=2GiB".parse().expect("a device")],
            network: Some("other".into()),
            storage: Some("fast".into()),
        };
        let own = wanted.resolve(&profile()).expect("devices");
        assert_eq!(own["root"], keys(&[("type", "disk"), ("path", "/"), ("pool", "fast"), ("size", "2GiB")]));
        assert_eq!(own["eth0"], keys(&[("type", "nic"), ("name", "eth0"), ("network", "other")]));
        let bare = wanted.resolve(&Devices::new()).expect("devices");
        assert_eq!(bare["root"]["pool"], "fast");
    }

    #[test]
    fn a_device_that_nobody_has_needs_a_type() {
        let wanted = |text: &str| Wanted { overrides: vec![text.parse().expect("a device")], ..Wanted::default() };
        let error = wanted("data,size=1GiB").resolve(&profile()).expect_err("no such device");
        assert!(error.contains("eth0, root"), "{error}");
        let own = wanted("data,type=disk,source=/srv,path=/srv").resolve(&Devices::new()).expect("devices");
        assert_eq!(own["data"]["source"], "/srv");
        for wrong in ["", "root", "root,", "size=1GiB", "root,size"] {
            assert!(wrong.parse::<Override>().is_err(), "{wrong:?}");
        }
    }
}
