//! What networks and NICs are in the sets, both ways: to set them and to read them back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use model::{Cidr, Mac, NicSpec};

use super::encode::Family;
use crate::link::LinkName;

/// The named sets of both tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Set {
    /// Bridges of ours.
    Bridges,
    /// A bridge twice: packets that leave by the bridge that they came in by.
    Loops,
    /// Bridges whose guests and other networks of ours do not reach each other.
    Isolated,
    /// Bridges whose guests reach every service of the host.
    HostOpen,
    /// Bridges whose IPv4 leaves with the host's address.
    Nat4,
    /// Bridges whose IPv6 leaves with the host's address.
    Nat6,
    /// Bridge and its IPv4 address.
    Gateways4,
    /// Bridge and its IPv6 address.
    Gateways6,
    /// Ports that send only from their NIC's addresses.
    Guarded,
    /// Ports that send from any address.
    Spoofing,
    /// Port and hardware address that it may send from.
    Macs,
    /// Port and IPv4 address that it may send from.
    Sources4,
    /// Port and IPv6 address that it may send from.
    Sources6,
    /// IPv4 addresses that we serve DNS at.
    Servers4,
    /// IPv6 addresses that we serve DNS at.
    Servers6,
    /// Ports that asked something lately, and how often: kept by the kernel.
    Askers,
}

/// The parts of a set's key, one behind the other, each padded to four bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Link,
    Mac,
    Ipv4,
    Ipv6,
}

impl Part {
    pub(super) fn length(self) -> usize {
        match self {
            Part::Link | Part::Ipv6 => 16,
            Part::Mac => 8, // six, padded
            Part::Ipv4 => 4,
        }
    }

    /// How nft(8) calls it; only for people who list the table.
    pub(super) fn type_number(self) -> u32 {
        match self {
            Part::Ipv4 => 7,
            Part::Ipv6 => 8,
            Part::Mac => 9,
            Part::Link => 41,
        }
    }
}

impl Set {
    pub(super) const ALL: [Set; 16] = [
        Set::Bridges,
        Set::Loops,
        Set::Isolated,
        Set::HostOpen,
        Set::Nat4,
        Set::Nat6,
        Set::Gateways4,
        Set::Gateways6,
        Set::Guarded,
        Set::Spoofing,
        Set::Macs,
        Set::Sources4,
        Set::Sources6,
        Set::Servers4,
        Set::Servers6,
        Set::Askers,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Set::Bridges => "bridges",
            Set::Loops => "loops",
            Set::Isolated => "isolated",
            Set::HostOpen => "host_open",
            Set::Nat4 => "nat4",
            Set::Nat6 => "nat6",
            Set::Gateways4 => "gateways4",
            Set::Gateways6 => "gateways6",
            Set::Guarded => "guarded",
            Set::Spoofing => "spoofing",
            Set::Macs => "macs",
            Set::Sources4 => "sources4",
            Set::Sources6 => "sources6",
            Set::Servers4 => "servers4",
            Set::Servers6 => "servers6",
            Set::Askers => "askers",
        }
    }

    pub(super) fn family(self) -> Family {
        match self {
            Set::Bridges
            | Set::Loops
            | Set::Isolated
            | Set::HostOpen
            | Set::Nat4
            | Set::Nat6
            | Set::Gateways4
            | Set::Gateways6 => Family::Inet,
            Set::Guarded
            | Set::Spoofing
            | Set::Macs
            | Set::Sources4
            | Set::Sources6
            | Set::Servers4
            | Set::Servers6
            | Set::Askers => Family::Bridge,
        }
    }

    pub(super) fn key(self) -> &'static [Part] {
        match self {
            Set::Bridges
            | Set::Isolated
            | Set::HostOpen
            | Set::Nat4
            | Set::Nat6
            | Set::Guarded
            | Set::Spoofing
            | Set::Askers => &[Part::Link],
            Set::Loops => &[Part::Link, Part::Link],
            Set::Macs => &[Part::Link, Part::Mac],
            Set::Gateways4 | Set::Sources4 => &[Part::Link, Part::Ipv4],
            Set::Gateways6 | Set::Sources6 => &[Part::Link, Part::Ipv6],
            Set::Servers4 => &[Part::Ipv4],
            Set::Servers6 => &[Part::Ipv6],
        }
    }

    /// Whether packets put elements in, and time takes them out.
    pub(super) fn is_kept_by_kernel(self) -> bool {
        self == Set::Askers
    }
}

/// One element of one set.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Element {
    pub(super) set: Set,
    pub(super) key: Vec<u8>,
}

impl Element {
    /// The element that starts with a link's name.
    fn of(set: Set, link: &LinkName, rest: &[u8]) -> Element {
        let mut key = link.padded().to_vec();
        key.extend_from_slice(rest);
        key.resize(key.len().next_multiple_of(4), 0);
        Element { set, key }
    }

    /// The name of the link that the element starts with.
    fn link(&self) -> Option<LinkName> {
        if self.set.key().first() != Some(&Part::Link) {
            return None;
        }
        LinkName::from_padded(self.key.get(..16)?)
    }

    /// The bytes behind the link's name.
    fn rest<const N: usize>(&self) -> Option<[u8; N]> {
        self.key.get(16..16 + N)?.try_into().ok()
    }
}

/// What the firewall knows of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkRules {
    /// Name of the bridge.
    pub bridge: LinkName,
    /// The host's IPv4 address on it, where DNS is served.
    pub gateway4: Option<Ipv4Addr>,
    /// The host's IPv6 address on it, where DNS is served.
    pub gateway6: Option<Ipv6Addr>,
    /// IPv4 packets that leave by an interface that is no network of ours get that interface's address.
    pub nat4: bool,
    /// The same for IPv6.
    pub nat6: bool,
    /// Guests reach every service of the host, not only DHCP, DNS and ICMP, and the cloud's services for the host.
    pub host_open: bool,
    /// Guests and the other networks of this daemon do not reach each other.
    pub isolated: bool,
}

impl NetworkRules {
    /// Switches and whether they are on.
    fn switches(&self) -> [(Set, bool); 4] {
        [
            (Set::Nat4, self.nat4),
            (Set::Nat6, self.nat6),
            (Set::HostOpen, self.host_open),
            (Set::Isolated, self.isolated),
        ]
    }

    /// The elements that stand for the network.
    pub(super) fn elements(&self) -> Vec<Element> {
        let bridge = &self.bridge;
        let mut elements =
            vec![Element::of(Set::Bridges, bridge, &[]), Element::of(Set::Loops, bridge, &bridge.padded())];
        elements.extend(self.gateway4.map(|ip| Element::of(Set::Gateways4, bridge, &ip.octets())));
        elements.extend(self.gateway6.map(|ip| Element::of(Set::Gateways6, bridge, &ip.octets())));
        elements.extend(self.servers());
        elements.extend(self.switches().iter().filter(|(_, on)| *on).map(|(set, _)| Element::of(*set, bridge, &[])));
        elements
    }

    /// The elements that do not name the bridge, as the other table does not know it.
    fn servers(&self) -> impl Iterator<Item = Element> {
        let ipv4 = self.gateway4.map(|ip| Element { set: Set::Servers4, key: ip.octets().to_vec() });
        let ipv6 = self.gateway6.map(|ip| Element { set: Set::Servers6, key: ip.octets().to_vec() });
        ipv4.into_iter().chain(ipv6)
    }

    /// The elements that must not be there beside them: switches that are off.
    pub(super) fn foreign(&self) -> Vec<Element> {
        self.switches().iter().filter(|(_, on)| !*on).map(|(set, _)| Element::of(*set, &self.bridge, &[])).collect()
    }

    /// All elements that the network may have.
    pub(super) fn all(&self) -> Vec<Element> {
        self.elements().into_iter().chain(self.foreign()).collect()
    }
}

/// What the firewall knows of a NIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NicRules {
    /// Name of the host's end, the port of the bridge.
    pub port: LinkName,
    /// The NIC's hardware address. The link-local IPv6 address that belongs to it is allowed too.
    pub mac: Mac,
    /// The NIC's IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// The NIC's IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Frames from any address get through. Answers of DHCP servers, router advertisements, tagged frames and spanning
    /// tree still do not.
    pub spoofing: bool,
}

impl NicRules {
    /// The rules for a NIC whose host's end is called `port`.
    pub fn of(port: LinkName, nic: &NicSpec) -> NicRules {
        let address = |cidr: Option<Cidr>| cidr.map(|cidr| cidr.address);
        NicRules {
            port,
            mac: nic.mac,
            ipv4: address(nic.ipv4).and_then(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None }),
            ipv6: address(nic.ipv6).and_then(|ip| if let IpAddr::V6(ip) = ip { Some(ip) } else { None }),
            spoofing: nic.spoofing,
        }
    }

    /// The elements that stand for the NIC.
    pub(super) fn elements(&self) -> Vec<Element> {
        if self.spoofing {
            return vec![Element::of(Set::Spoofing, &self.port, &[])];
        }
        self.guarded()
    }

    fn guarded(&self) -> Vec<Element> {
        let port = &self.port;
        let mut elements = vec![
            Element::of(Set::Guarded, port, &[]),
            Element::of(Set::Macs, port, &self.mac.0),
            Element::of(Set::Sources6, port, &self.mac.link_local().octets()),
        ];
        elements.extend(self.ipv4.map(|ip| Element::of(Set::Sources4, port, &ip.octets())));
        // Guests that hear router advertisements also make themselves this one, if it is not the same.
        let own = self.ipv6.map(|ip| self.mac.within(ip)).filter(|own| Some(*own) != self.ipv6);
        elements.extend(self.ipv6.into_iter().chain(own).map(|ip| Element::of(Set::Sources6, port, &ip.octets())));
        elements
    }

    /// The elements that must not be there beside them: those of the other mode.
    pub(super) fn foreign(&self) -> Vec<Element> {
        if self.spoofing { self.guarded() } else { vec![Element::of(Set::Spoofing, &self.port, &[])] }
    }

    /// All elements that the NIC may have.
    pub(super) fn all(&self) -> Vec<Element> {
        self.elements().into_iter().chain(self.foreign()).collect()
    }
}

/// What stands in the sets, grouped by link: what [`NetworkRules`] and [`NicRules`] would have made it, and the number
/// of elements that these would not have made, or would have made and are missing.
pub(super) fn group(elements: &[Element]) -> (Vec<NetworkRules>, Vec<NicRules>, usize) {
    let mut by_link: BTreeMap<LinkName, Vec<&Element>> = BTreeMap::new();
    for element in elements {
        if let Some(link) = element.link() {
            by_link.entry(link).or_default().push(element);
        }
    }
    let (mut networks, mut nics) = (Vec::new(), Vec::new());
    for (link, elements) in by_link {
        let is = |set| elements.iter().any(|element| element.set == set);
        if is(Set::Bridges) {
            networks.push(network(link.clone(), &elements));
        }
        if is(Set::Guarded) || is(Set::Spoofing) {
            nics.push(nic(link, &elements));
        }
    }
    let expected = networks.iter().flat_map(NetworkRules::elements).chain(nics.iter().flat_map(NicRules::elements));
    let (expected, present): (BTreeSet<Element>, BTreeSet<Element>) =
        (expected.collect(), elements.iter().cloned().collect());
    (networks, nics, expected.symmetric_difference(&present).count())
}

fn network(bridge: LinkName, elements: &[&Element]) -> NetworkRules {
    let is = |set| elements.iter().any(|element| element.set == set);
    let of = |set| elements.iter().find(|element| element.set == set);
    NetworkRules {
        bridge,
        gateway4: of(Set::Gateways4).and_then(|e| e.rest::<4>()).map(Ipv4Addr::from),
        gateway6: of(Set::Gateways6).and_then(|e| e.rest::<16>()).map(Ipv6Addr::from),
        nat4: is(Set::Nat4),
        nat6: is(Set::Nat6),
        host_open: is(Set::HostOpen),
        isolated: is(Set::Isolated),
    }
}

fn nic(port: LinkName, elements: &[&Element]) -> NicRules {
    let of = |set| elements.iter().find(|element| element.set == set);
    let mac = Mac(of(Set::Macs).and_then(|e| e.rest::<6>()).unwrap_or_default());
    let sources6 = elements.iter().filter(|e| e.set == Set::Sources6).filter_map(|e| e.rest::<16>());
    let sources6: Vec<Ipv6Addr> = sources6.map(Ipv6Addr::from).filter(|ip| *ip != mac.link_local()).collect();
    NicRules {
        port,
        mac,
        ipv4: of(Set::Sources4).and_then(|e| e.rest::<4>()).map(Ipv4Addr::from),
        // The one that was chosen, unless it is the one that the guest makes itself.
        ipv6: sources6.iter().find(|ip| mac.within(**ip) != **ip).or(sources6.first()).copied(),
        spoofing: elements.iter().any(|element| element.set == Set::Spoofing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> LinkName {
        text.parse().expect("valid")
    }

    #[test]
    fn what_is_set_reads_back_as_it_was() {
        let network = NetworkRules {
            bridge: name("br0"),
            gateway4: Some(Ipv4Addr::new(10, 1, 2, 1)),
            gateway6: None,
            nat4: true,
            nat6: false,
            host_open: false,
            isolated: true,
        };
        let guarded = NicRules {
            port: name("v1"),
            mac: Mac([2, 0, 0, 0, 0, 1]),
            ipv4: Some(Ipv4Addr::new(10, 1, 2, 3)),
            ipv6: Some(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3)),
            spoofing: false,
        };
        let open = NicRules { port: name("v2"), mac: Mac([0; 6]), ipv4: None, ipv6: None, spoofing: true };
        let mut elements = network.elements();
        elements.extend(open.elements());
        elements.extend(guarded.elements());
        assert_eq!(group(&elements), (vec![network.clone()], vec![guarded.clone(), open], 0));
        elements.push(Element::of(Set::Sources4, &name("v1"), &[10, 9, 9, 9]));
        elements.push(Element::of(Set::Macs, &name("gone"), &[1; 6]));
        assert_eq!(group(&elements).2, 2);
        assert_eq!(guarded.elements().len(), 6);
        let own = NicRules { ipv6: guarded.ipv6.map(|ip| guarded.mac.within(ip)), ..guarded };
        assert_eq!((own.elements().len(), group(&own.elements()).1), (5, vec![own]));
    }

    #[test]
    fn keys_have_the_length_that_their_sets_declare() {
        let nic = NicRules {
            port: name("v1"),
            mac: Mac([2; 6]),
            ipv4: Some(Ipv4Addr::LOCALHOST),
            ipv6: Some(Ipv6Addr::LOCALHOST),
            spoofing: false,
        };
        for element in nic.all() {
            let declared: usize = element.set.key().iter().map(|part| part.length()).sum();
            assert_eq!(element.key.len(), declared, "{element:?}");
        }
    }
}
