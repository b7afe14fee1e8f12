//! Devices of an instance.

use std::net::IpAddr;

use model::{Cidr, DeviceName, DiskRates, InstanceName, Mac, NetworkName, NicLimits, PoolName};

use crate::Invalid;
use crate::written::{Map, Written};

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
    /// Limits of it alone.
    pub limits: NicLimits,
}

/// A NIC that a wire joins with one of another instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireChoice {
    /// Name of the device.
    pub device: DeviceName,
    /// Name of the link in the guest.
    pub guest_name: String,
    /// The instance at the far end.
    pub peer: InstanceName,
    /// Its device.
    pub peer_device: DeviceName,
    /// Hardware address; made of the ids when `None`.
    pub mac: Option<Mac>,
    /// IPv4 address with the length of its network's prefix.
    pub ipv4: Option<Cidr>,
    /// IPv6 address with the length of its network's prefix.
    pub ipv6: Option<Cidr>,
    /// Largest packet.
    pub mtu: Option<u32>,
}

impl WireChoice {
    /// The far end of a wire where nobody says anything about it.
    pub fn implied(device: DeviceName, peer: InstanceName, peer_device: DeviceName) -> WireChoice {
        let guest_name = device.to_string();
        WireChoice { device, guest_name, peer, peer_device, mac: None, ipv4: None, ipv6: None, mtu: None }
    }

    /// Whether this is the far end of the other as the other is of this.
    pub fn names_back(&self, own: &InstanceName, other: &WireChoice) -> bool {
        self.peer == *own && self.peer_device == other.device && other.peer_device == self.device
    }
}

/// One device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceKind {
    /// The disk at `/`.
    Root(RootChoice),
    /// A NIC.
    Nic(Box<NicChoice>),
    /// A NIC at the end of a wire.
    Wire(Box<WireChoice>),
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
        Some("nic") if is_wire(map) => wire(device, keys).map(|wire| DeviceKind::Wire(Box::new(wire))),
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

/// Whether a device is the end of a wire.
pub fn is_wire(device: &Map) -> bool {
    device.get("nictype").is_some_and(|kind| kind == "wire")
}

/// The wires of a definition's own devices, as far as they can be read.
pub fn wires(written: &Written) -> impl Iterator<Item = WireChoice> {
    let wires = written.devices.iter().filter(|(_, device)| is_wire(device));
    wires.filter_map(|(name, device)| match parse(name, device) {
        Ok(DeviceKind::Wire(choice)) => Some(*choice),
        _ => None,
    })
}

fn wire(device: DeviceName, mut keys: Keys<'_>) -> Result<WireChoice, Invalid> {
    drop(keys.take("nictype"));
    let peer: String = keys.required("peer")?;
    let (instance, far) = peer.split_once(':').unwrap_or((&peer, device.as_str()));
    let wrong = |e: model::InvalidName| keys.invalid("peer", &peer, format!("{e}; INSTANCE:DEVICE is allowed"));
    let (instance, far) = (instance.parse().map_err(wrong)?, far.parse().map_err(wrong)?);
    let guest_name = keys.take("name").unwrap_or_else(|| device.to_string());
    link_name(&keys, &guest_name)?;
    let choice = WireChoice {
        guest_name,
        peer: instance,
        peer_device: far,
        mac: keys.parsed("hwaddr")?,
        ipv4: prefixed(&mut keys, "ipv4.address", true)?,
        ipv6: prefixed(&mut keys, "ipv6.address", false)?,
        mtu: mtu(&mut keys)?,
        device,
    };
    // Each end belongs to a guest's network namespace: its root could take off whatever holds the link to a limit.
    if let Some((key, value)) = keys.left.iter().find(|(key, value)| key.starts_with("limits.") && !value.is_empty()) {
        let reason = "a wire has no end on the host, and a limit at an end in a guest its root could take off: limit a NIC of a \
                      network instead, or all that the instance's own sockets send and receive by any link \
                      (limits.network.egress, limits.network.ingress)";
        return Err(keys.invalid(key, value, reason));
    }
    keys.finish("hwaddr, ipv4.address, ipv6.address, mtu, name, peer")?;
    Ok(choice)
}

/// An address on a wire, where no network tells how long its prefix is.
fn prefixed(keys: &mut Keys<'_>, key: &str, v4: bool) -> Result<Option<Cidr>, Invalid> {
    match keys.parsed::<Cidr>(key)? {
        Some(cidr) if cidr.address.is_ipv4() != v4 => {
            Err(keys.invalid(key, &cidr.to_string(), if v4 { "an IPv4 address" } else { "an IPv6 address" }))
        }
        other => Ok(other),
    }
}

fn mtu(keys: &mut Keys<'_>) -> Result<Option<u32>, Invalid> {
    match keys.parsed::<u32>("mtu")? {
        Some(mtu) if !(1280..=65_535).contains(&mtu) => {
            Err(keys.invalid("mtu", &mtu.to_string(), "from 1280 (the least for IPv6) to 65535"))
        }
        other => Ok(other),
    }
}

fn nic(device: DeviceName, mut keys: Keys<'_>) -> Result<NicChoice, Invalid> {
    match keys.take("nictype").as_deref() {
        None | Some("bridged") => {}
        Some(other) => {
            let reason = "bridged (leave it out and name a managed network) or wire (with peer=INSTANCE:DEVICE)";
            return Err(keys.invalid("nictype", other, reason));
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
        mtu: mtu(&mut keys)?,
        filtering: filtering(&mut keys)?,
        limits: nic_limits(&mut keys)?,
        device,
    };
    keys.finish(
        "hwaddr, ipv4.address, ipv6.address, limits.egress, limits.ingress, limits.max, limits.priority, mtu, name, network, \
         security.mac_filtering",
    )?;
    Ok(choice)
}

/// `limits.max` stands for both ways. Ingress is what the guest receives.
fn nic_limits(keys: &mut Keys<'_>) -> Result<NicLimits, Invalid> {
    let mut found = [None; 3];
    for (slot, key) in found.iter_mut().zip(["limits.ingress", "limits.egress", "limits.max"]) {
        let Some(value) = keys.take(key) else { continue };
        let reason = "bits each second like 100Mbit, at least 8kbit";
        *slot = Some(crate::limits::bit_rate(&value).ok_or_else(|| keys.invalid(key, &value, reason))?);
    }
    let [ingress, egress, both] = found;
    if both.is_some() && (ingress.is_some() || egress.is_some()) {
        let reason = "limits.max stands for both ways: leave out limits.ingress and limits.egress";
        return Err(keys.invalid("limits.max", "", reason));
    }
    Ok(NicLimits {
        ingress_bytes: ingress.or(both),
        egress_bytes: egress.or(both),
        priority: keys.parsed("limits.priority")?,
    })
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
