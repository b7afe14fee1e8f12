//! Network values: hardware addresses, prefixes, the NIC of an instance.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::chain::ChainSpec;
use crate::id::{BootGen, InstanceId};
use crate::name::{DeviceName, NetworkName};

/// An Ethernet hardware address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The prefix of the addresses that we give out: locally administered, unicast.
    pub const PREFIX: [u8; 3] = [0x0a, 0x5c, 0x71];

    /// The `n`-th address that is made of the ids of instance and device: the same one again for the same NIC.
    pub fn of(id: InstanceId, device: &DeviceName, n: u8) -> Mac {
        let mut seed = id.0.as_u128() as u64;
        for byte in device.as_str().bytes() {
            seed = (seed ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3); // FNV-1a
        }
        let [a, b, c] = Mac::PREFIX;
        let [d, e, f, ..] = seed.wrapping_add(n.into()).to_le_bytes();
        Mac([a, b, c, d, e, f])
    }

    /// The link-local IPv6 address that the kernel derives from this address (EUI-64, RFC 4291 appendix A).
    pub fn link_local(self) -> Ipv6Addr {
        self.within(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0))
    }

    /// The address that a guest makes itself of this one and the /64 network of `other` (SLAAC, RFC 4862).
    pub fn within(self, other: Ipv6Addr) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        let [n0, n1, n2, n3, ..] = other.segments();
        let part = |high, low| u16::from_be_bytes([high, low]);
        Ipv6Addr::new(n0, n1, n2, n3, part(a ^ 2, b), part(c, 0xff), part(0xfe, d), part(e, f))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not six pairs of hexadecimal digits with colons between, or a group address.
#[derive(Debug, thiserror::Error)]
#[error("not a unicast hardware address like 0a:5c:71:00:00:01")]
pub struct ParseMacError;

impl FromStr for Mac {
    type Err = ParseMacError;
    fn from_str(text: &str) -> Result<Self, ParseMacError> {
        let mut bytes = [0u8; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or(ParseMacError)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| ParseMacError)?;
        }
        if parts.next().is_some() || bytes[0] & 1 == 1 { Err(ParseMacError) } else { Ok(Mac(bytes)) }
    }
}

/// An address with the length of its network's prefix.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    /// The address.
    pub address: IpAddr,
    /// Prefix length in bits.
    pub prefix: u8,
}

impl Cidr {
    /// The address when it is one of IPv4.
    pub fn ipv4(self) -> Option<std::net::Ipv4Addr> {
        match self.address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }
    }

    /// The address when it is one of IPv6.
    pub fn ipv6(self) -> Option<std::net::Ipv6Addr> {
        match self.address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address),
        }
    }

    /// Whether `other` lies in the same network.
    pub fn contains(self, other: IpAddr) -> bool {
        match (self.address, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let shift = 32 - u32::from(self.prefix.min(32));
                u64::from(u32::from(a)) >> shift == u64::from(u32::from(b)) >> shift
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => match self.prefix {
                0 => true,
                prefix => u128::from(a) >> (128 - prefix.min(128)) == u128::from(b) >> (128 - prefix.min(128)),
            },
            _ => false,
        }
    }

    /// Whether the two networks have an address in common.
    pub fn overlaps(self, other: Cidr) -> bool {
        if self.prefix <= other.prefix { self.contains(other.address) } else { other.contains(self.address) }
    }

    /// The `n`-th address of the network (0 is the network's own).
    pub fn nth(self, n: u64) -> IpAddr {
        match self.address {
            IpAddr::V4(a) => {
                let shift = 32 - u32::from(self.prefix.min(32));
                let network = (u64::from(u32::from(a)) >> shift) << shift;
                IpAddr::V4(Ipv4Addr::from((network + n) as u32))
            }
            IpAddr::V6(a) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix.min(128))).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from((u128::from(a) & mask) + u128::from(n)))
            }
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not `address/length`.
#[derive(Debug, thiserror::Error)]
#[error("not an address with a prefix length like 10.1.2.1/24 or fd00::1/64")]
pub struct ParseCidrError;

impl FromStr for Cidr {
    type Err = ParseCidrError;
    fn from_str(text: &str) -> Result<Self, ParseCidrError> {
        let (address, prefix) = text.split_once('/').ok_or(ParseCidrError)?;
        let address: IpAddr = address.parse().map_err(|_| ParseCidrError)?;
        let prefix: u8 = prefix.parse().map_err(|_| ParseCidrError)?;
        let limit = if address.is_ipv4() { 32 } else { 128 };
        if prefix <= limit { Ok(Cidr { address, prefix }) } else { Err(ParseCidrError) }
    }
}

macro_rules! serde_by_text {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
serde_by_text!(Mac, Cidr);

/// A NIC of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NicId {
    /// Which instance.
    pub id: InstanceId,
    /// Which device of it.
    pub device: DeviceName,
}

/// A wire as it is known again in a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireSeen {
    /// Its far end.
    pub to: NicId,
    /// Tells a wire from the same one with other names, addresses or size.
    pub made: u64,
}

/// The far end of a wire, with what is decided about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireEnd {
    /// Whose it is.
    pub to: NicId,
    /// The boot that it lies in.
    pub boot: BootGen,
    /// What the link is called there.
    pub guest_name: String,
    /// Its hardware address.
    pub mac: Mac,
    /// Its IPv4 address.
    pub ipv4: Option<Cidr>,
    /// Its IPv6 address.
    pub ipv6: Option<Cidr>,
}

/// What a NIC leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Plug {
    /// A managed bridge, which the host's end is put on.
    Network(NetworkName),
    /// A chain: where the host's end leads is decided there.
    Chain(NetworkName),
    /// A NIC of another instance: no end is on the host.
    Wire(Box<WireEnd>),
}

/// What goes through a NIC at most, and how urgent it is; `None` says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NicLimits {
    /// Bytes to the guest each second.
    pub ingress_bytes: Option<u64>,
    /// Bytes from the guest each second.
    pub egress_bytes: Option<u64>,
    /// Priority of what the guest sends, as the host's queues know it; at a link with a limit more goes first, up to 8.
    pub priority: Option<u32>,
}

/// A NIC with all that is decided about it before the instance starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicSpec {
    /// The device's name in the definition.
    pub device: DeviceName,
    /// What the link is called in the guest, at most 15 characters.
    pub guest_name: String,
    /// What it leads to.
    pub plug: Plug,
    /// Hardware address of the guest's end.
    pub mac: Mac,
    /// Largest packet; `None` takes the bridge's.
    pub mtu: Option<u32>,
    /// IPv4 address in the guest, with the network's prefix length.
    pub ipv4: Option<Cidr>,
    /// IPv6 address in the guest, with the network's prefix length.
    pub ipv6: Option<Cidr>,
    /// Default route for IPv4.
    pub gateway4: Option<Ipv4Addr>,
    /// Default route for IPv6.
    pub gateway6: Option<Ipv6Addr>,
    /// Whether frames with a foreign source address are let through.
    pub spoofing: bool,
    /// Its limits.
    #[serde(default)]
    pub limits: NicLimits,
}

impl NicSpec {
    /// The far end, when it is a wire.
    pub fn wire(&self) -> Option<&WireEnd> {
        match &self.plug {
            Plug::Wire(end) => Some(end),
            Plug::Network(_) | Plug::Chain(_) => None,
        }
    }

    /// Whether it has a part in a chain.
    pub fn is_chained(&self) -> bool {
        matches!(self.plug, Plug::Chain(_))
    }

    /// What it is to be seen as, when it is a wire. `own`: whose NIC this is.
    pub fn wire_seen(&self, own: InstanceId) -> Option<WireSeen> {
        let far = self.wire()?;
        let mut ends = [
            (own, &self.device, &self.guest_name, self.mac, self.ipv4, self.ipv6),
            (far.to.id, &far.to.device, &far.guest_name, far.mac, far.ipv4, far.ipv6),
        ];
        // The same from either end.
        ends.sort();
        let text = format!("{ends:?} {:?}", self.mtu);
        let fold = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3); // FNV-1a
        Some(WireSeen { to: far.to.clone(), made: text.bytes().fold(0xcbf2_9ce4_8422_2325, fold) })
    }

    /// The same wire as the instance at its far end has it; `None` when it is none. `own`: whose NIC this is.
    pub fn mirrored(&self, own: InstanceId, boot: BootGen) -> Option<NicSpec> {
        let far = self.wire()?;
        let near = WireEnd {
            to: NicId { id: own, device: self.device.clone() },
            boot,
            guest_name: self.guest_name.clone(),
            mac: self.mac,
            ipv4: self.ipv4,
            ipv6: self.ipv6,
        };
        Some(NicSpec {
            device: far.to.device.clone(),
            guest_name: far.guest_name.clone(),
            plug: Plug::Wire(Box::new(near)),
            mac: far.mac,
            ipv4: far.ipv4,
            ipv6: far.ipv6,
            ..self.clone()
        })
    }
}

/// A managed bridge, or a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// Its name, also that of its link.
    pub name: NetworkName,
    /// Gateway's IPv4 address with prefix length.
    pub ipv4: Option<Cidr>,
    /// Gateway's IPv6 address with prefix length.
    pub ipv6: Option<Cidr>,
    /// Traffic that leaves through another link gets that link's address.
    pub nat: bool,
    /// Largest packet.
    pub mtu: Option<u32>,
    /// Domain that instances are named in.
    pub domain: String,
    /// What it is instead of a bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<ChainSpec>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect(text)
    }

    #[test]
    fn addresses_are_counted_inside_their_network() {
        assert_eq!(cidr("10.1.2.7/24").nth(1), "10.1.2.1".parse::<IpAddr>().expect("address"));
        assert_eq!(cidr("fd00::7/64").nth(0x10), "fd00::10".parse::<IpAddr>().expect("address"));
        assert_eq!(cidr("0.0.0.0/0").nth(5), "0.0.0.5".parse::<IpAddr>().expect("address"));
    }

    #[test]
    fn networks_overlap_when_one_holds_the_other() {
        assert!(cidr("10.0.0.0/8").overlaps(cidr("10.9.0.0/24")));
        assert!(cidr("10.9.0.0/24").overlaps(cidr("10.0.0.0/8")));
        assert!(!cidr("10.9.0.0/24").overlaps(cidr("10.8.0.0/24")));
        assert!(!cidr("10.9.0.0/24").overlaps(cidr("fd00::/8")));
        assert!(cidr("::/0").overlaps(cidr("fd00::/8")));
        assert!(cidr("0.0.0.0/0").overlaps(cidr("192.0.2.0/24")));
    }

    #[test]
    fn a_wire_is_the_same_from_either_end_until_something_of_it_changes() {
        let id = |n| InstanceId(uuid::Uuid::from_u128(n));
        let to = NicId { id: id(2), device: "wan".parse().expect("name") };
        let (ipv4, mac) = (Some(cidr("10.7.7.2/30")), Mac::of(id(2), &to.device, 0));
        let end = WireEnd { to, boot: BootGen(3), guest_name: "wan".into(), mac, ipv4, ipv6: None };
        let device: DeviceName = "eth1".parse().expect("name");
        let near = NicSpec {
            guest_name: "eth1".into(),
            plug: Plug::Wire(Box::new(end)),
            mac: Mac::of(id(1), &device, 0),
            device,
            mtu: None,
            ipv4: None,
            ipv6: None,
            gateway4: None,
            gateway6: None,
            spoofing: true,
            limits: NicLimits::default(),
        };
        let far = near.mirrored(id(1), BootGen(1)).expect("a wire");
        assert_eq!(far.mirrored(id(2), BootGen(3)), Some(near.clone()));
        let made = |nic: &NicSpec, own| nic.wire_seen(own).expect("a wire").made;
        assert_eq!(made(&near, id(1)), made(&far, id(2)));
        let changed = NicSpec { mtu: Some(9000), ..near.clone() };
        assert_ne!(made(&changed, id(1)), made(&near, id(1)));
    }

    #[test]
    fn hardware_addresses_are_unicast() {
        assert_eq!("0a:5c:71:00:00:01".parse::<Mac>().expect("valid").to_string(), "0a:5c:71:00:00:01");
        assert_eq!(Mac([0x0a, 0x5c, 0x71, 0, 0, 1]).link_local().to_string(), "fe80::85c:71ff:fe00:1");
        for bad in
            ["", "0a:5c:71:00:00", "0a:5c:71:00:00:01:02", "01:00:00:00:00:00", "0a-5c-71-00-00-01", "a:5c:71:0:0:1"]
        {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
