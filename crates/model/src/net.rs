//! Network values: hardware addresses, prefixes, the NIC of an instance.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::{DeviceName, NetworkName};

/// An Ethernet hardware address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The prefix of the addresses that we give out: locally administered, unicast.
    pub const PREFIX: [u8; 3] = [0x0a, 0x5c, 0x71];

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

/// A NIC with all that is decided about it before the instance starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicSpec {
    /// The device's name in the definition.
    pub device: DeviceName,
    /// What the link is called in the guest, at most 15 characters.
    pub guest_name: String,
    /// The managed bridge that the host end is put on.
    pub network: NetworkName,
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
}

/// A managed bridge.
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
