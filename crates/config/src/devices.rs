//! Devices of an instance.

use std::net::IpAddr;

use model::{DeviceName, DiskRates, Mac, NetworkName, PoolName};

use crate::Invalid;
use crate::written::Map;

/// The root disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootChoice {
    /// Name of the device.
    pub device: DeviceName,
    /// Its pool.
    pub pool: PoolName,
    /// Most traffic.
    pub rates: DiskRates,
}

/// A NIC on a managed network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NicChoice {
    /// Name of the device.
    pub device: DeviceName,
    /// Name of the link in the guest.
    pub guest_name: String,
    /// The network.
    pub network: NetworkName,
    /// Hardware address; given out when `None`.
    pub mac: Option<Mac>,
    /// IPv4 address; given out when `None`.
    pub ipv4: Option<IpAddr>,
    /// IPv6 address; given out when `None`.
    pub ipv6: Option<IpAddr>,
    /// Largest packet.
    pub mtu: Option<u32>,
    /// Frames with a foreign source address are dropped.
    pub filtering: bool,
}

/// One device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceKind {
    /// The disk at `/`.
    Root(RootChoice),
    /// A NIC.
    Nic(Box<NicChoice>),
    /// Nothing: hides a device of a profile.
    None,
}

/// The keys of a device that have not been looked at yet.
struct Keys<'a> {
    device: &'a str,
    left: Map,
}

impl Keys<'_> {
    fn take(&mut self, key: &str) -> Option<String> {
        self.left.remove(key).filter(|value| !value.is_empty())
    }

    fn invalid(&self, key: &str, value: &str, reason: impl Into<String>) -> Invalid {
        Invalid::new(format!("{}.{key}", self.device), value, reason)
    }

    fn parsed<T: std::str::FromStr>(&mut self, key: &str) -> Result<Option<T>, Invalid>
    where
        T::Err: std::fmt::Display,
    {
        self.take(key)
            .map(|value| value.parse().map_err(|e: T::Err| self.invalid(key, &value, e.to_string())))
            .transpose()
    }

    fn required<T: std::str::FromStr>(&mut self, key: &str) -> Result<T, Invalid>
    where
        T::Err: std::fmt::Display,
    {
        self.parsed(key)?.ok_or_else(|| self.invalid(key, "", "is required for this device"))
    }

    /// Every key must have been taken.
    fn finish(self, allowed: &str) -> Result<(), Invalid> {
        match self.left.iter().find(|(key, _)| !key.starts_with("user.")) {
            None => Ok(()),
            Some((key, value)) => Err(Invalid::new(
                format!("{}.{key}", self.device),
                value,
                format!("unknown key for this device; known: {allowed}"),
            )),
        }
    }
}

/// Reads one device.
pub(crate) fn parse(name: &str, map: &Map) -> Result<DeviceKind, Invalid> {
    let device: DeviceName = name.parse().map_err(|e: model::InvalidName| Invalid::new(name, "", e.to_string()))?;
    let mut keys = Keys { device: name, left: map.clone() };
    match keys.take("type").as_deref() {
        Some("none") => Ok(DeviceKind::None),
        Some("disk") => root(device, keys).map(DeviceKind::Root),
        Some("nic") => nic(device, keys).map(|nic| DeviceKind::Nic(Box::new(nic))),
        Some(other) => Err(keys.invalid(
            "type",
            other,
            "this kind of device is not supported; supported: disk (the root), nic, none",
        )),
        None => Err(keys.invalid("type", "", "is required: disk, nic or none")),
    }
}

fn root(device: DeviceName, mut keys: Keys<'_>) -> Result<RootChoice, Invalid> {
    let path = keys.take("path");
    if path.as_deref() != Some("/") {
        let reason = "only the root disk (path=/) is supported";
        return Err(keys.invalid("path", path.as_deref().unwrap_or(""), reason));
    }
    let choice = RootChoice { device, pool: keys.required("pool")?, rates: rates(&mut keys)? };
    keys.finish("limits.max, limits.read, limits.write, path, pool")?;
    Ok(choice)
}

/// `limits.max` stands for both ways.
fn rates(keys: &mut Keys<'_>) -> Result<DiskRates, Invalid> {
    let mut found = [(None, None); 3];
    for (slot, key) in found.iter_mut().zip(["limits.read", "limits.write", "limits.max"]) {
        let Some(value) = keys.take(key) else { continue };
        let reason = "bytes each second like 10MB, operations each second like 500iops, or both with a comma between";
        *slot = crate::limits::rate(&value).ok_or_else(|| keys.invalid(key, &value, reason))?;
    }
    let [read, write, both] = found;
    if both != (None, None) && (read, write) != ((None, None), (None, None)) {
        return Err(keys.invalid(
            "limits.max",
            "",
            "limits.max stands for both ways: leave out limits.read and limits.write",
        ));
    }
    Ok(DiskRates {
        read_bytes: read.0.or(both.0),
        write_bytes: write.0.or(both.0),
        read_ops: read.1.or(both.1),
        write_ops: write.1.or(both.1),
    })
}

fn nic(device: DeviceName, mut keys: Keys<'_>) -> Result<NicChoice, Invalid> {
    match keys.take("nictype").as_deref() {
        None | Some("bridged") => {}
        Some(other) => {
            return Err(keys.invalid("nictype", other, "not supported; leave it out and name a managed network"));
        }
    }
    let network = match keys.take("parent") {
        Some(parent) if !keys.left.contains_key("network") => {
            parent.parse().map_err(|e: model::InvalidName| keys.invalid("parent", &parent, e.to_string()))?
        }
        _ => keys.required("network")?,
    };
    let guest_name = keys.take("name").unwrap_or_else(|| device.to_string());
    link_name(&keys, &guest_name)?;
    let address = |keys: &mut Keys<'_>, key: &str, v4: bool| -> Result<Option<IpAddr>, Invalid> {
        match keys.parsed::<IpAddr>(key)? {
            Some(address) if address.is_ipv4() != v4 => {
                Err(keys.invalid(key, &address.to_string(), if v4 { "an IPv4 address" } else { "an IPv6 address" }))
            }
            other => Ok(other),
        }
    };
    let choice = NicChoice {
        guest_name,
        network,
        mac: keys.parsed("hwaddr")?,
        ipv4: address(&mut keys, "ipv4.address", true)?,
        ipv6: address(&mut keys, "ipv6.address", false)?,
        mtu: match keys.parsed::<u32>("mtu")? {
            Some(mtu) if !(1280..=65_535).contains(&mtu) => {
                return Err(keys.invalid("mtu", &mtu.to_string(), "from 1280 (the least for IPv6) to 65535"));
            }
            other => other,
        },
        filtering: filtering(&mut keys)?,
        device,
    };
    keys.finish("hwaddr, ipv4.address, ipv6.address, mtu, name, network, security.mac_filtering")?;
    Ok(choice)
}

/// Filters of source addresses are one here, and on unless all that speak of them say `false`.
fn filtering(keys: &mut Keys<'_>) -> Result<bool, Invalid> {
    let mut on = None;
    for key in ["security.mac_filtering", "security.ipv4_filtering", "security.ipv6_filtering"] {
        if let Some(value) = keys.take(key) {
            let value = crate::instance::boolean(&value).ok_or_else(|| keys.invalid(key, &value, "true or false"))?;
            on = Some(on.unwrap_or(false) || value);
        }
    }
    Ok(on.unwrap_or(true))
}

/// The kernel's rule for names of links (`dev_valid_name`).
fn link_name(keys: &Keys<'_>, name: &str) -> Result<(), Invalid> {
    let fine = (1..=15).contains(&name.len())
        && name != "."
        && name != ".."
        && name.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'%'));
    if fine {
        Ok(())
    } else {
        Err(keys.invalid("name", name, "a link's name has 1 to 15 printable characters without / : %"))
    }
}
