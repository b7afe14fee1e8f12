//! Giving out what must be unique: id ranges, hardware addresses, network addresses.
//!
//! Memory decides, so that no two requests get the same; the claims in the database say so again, and hold over crashes.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use config::NicChoice;
use model::{IdMap, InstanceId, Mac, NetworkName};
use store::Op;

use crate::error::{Error, Result};
use crate::record::{InstanceRecord, NetworkRecord, NicGrant, WishState};

/// What is given out.
#[derive(Debug, Clone, Default)]
pub(crate) struct Allocator {
    /// Host ids that this daemon may give out.
    ranges: Vec<IdMap>,
    /// Ranges given out, by base.
    ids: BTreeSet<(u32, u32)>,
    macs: HashSet<Mac>,
    addresses: HashSet<(NetworkName, IpAddr)>,
}

impl Allocator {
    pub(crate) fn new(ranges: Vec<IdMap>) -> Allocator {
        Allocator { ranges, ..Allocator::default() }
    }

    /// Notes what an instance has.
    pub(crate) fn note(&mut self, record: &InstanceRecord) {
        for wish in [Some(&record.wish), record.previous.as_deref()].into_iter().flatten() {
            self.note_ids(wish.ids);
            for grant in wish.nics.values() {
                self.note_grant(grant);
            }
        }
    }

    /// Notes that a range of ids is given out.
    pub(crate) fn note_ids(&mut self, ids: IdMap) {
        self.ids.insert((ids.base, ids.count));
    }

    fn note_grant(&mut self, grant: &NicGrant) {
        self.macs.insert(grant.mac);
        for address in addresses(grant) {
            self.addresses.insert((grant.network.clone(), address));
        }
    }

    /// Takes back what an instance had.
    pub(crate) fn forget(&mut self, record: &InstanceRecord) {
        for wish in [Some(&record.wish), record.previous.as_deref()].into_iter().flatten() {
            self.forget_wish(wish);
        }
    }

    /// Takes back what a wish was given.
    pub(crate) fn forget_wish(&mut self, wish: &WishState) {
        self.forget_ids(wish.ids);
        wish.nics.values().for_each(|grant| self.forget_grant(grant));
    }

    /// Takes a range of ids back.
    pub(crate) fn forget_ids(&mut self, ids: IdMap) {
        self.ids.remove(&(ids.base, ids.count));
    }

    /// Takes one NIC's things back.
    pub(crate) fn forget_grant(&mut self, grant: &NicGrant) {
        self.macs.remove(&grant.mac);
        for address in addresses(grant) {
            self.addresses.remove(&(grant.network.clone(), address));
        }
    }

    /// The lowest free range of so many ids, aligned to its size so that ranges of both sizes pack well.
    pub(crate) fn ids(&mut self, count: u32) -> Result<IdMap> {
        for range in &self.ranges {
            let first = u64::from(range.base).next_multiple_of(u64::from(count));
            let mut base = first;
            while base + u64::from(count) <= range.end() {
                let candidate = IdMap { base: base as u32, count };
                match self.overlap(candidate) {
                    None => {
                        self.ids.insert((candidate.base, count));
                        return Ok(candidate);
                    }
                    // Go on behind what is in the way.
                    Some(end) => base = end.next_multiple_of(u64::from(count)),
                }
            }
        }
        Err(Error::Conflict(format!("no range of {count} ids is left: start the daemon with a larger --id-range")))
    }

    /// The end of a given-out range that overlaps the candidate.
    fn overlap(&self, candidate: IdMap) -> Option<u64> {
        // Ranges do not overlap one another, so those at or before the candidate's end are looked at from the last.
        let last = (candidate.end() - 1).min(u64::from(u32::MAX)) as u32;
        let (base, count) = self.ids.range(..=(last, u32::MAX)).next_back()?;
        let found = IdMap { base: *base, count: *count };
        found.overlaps(candidate).then(|| found.end())
    }

    /// Addresses for a NIC on a network; those that its definition asks for, or free ones.
    pub(crate) fn nic(&mut self, choice: &NicChoice, network: &NetworkRecord, id: InstanceId) -> Result<NicGrant> {
        let mac = self.mac(choice, id)?;
        let name = &network.spec.name;
        let ipv4 = match (network.spec.ipv4, choice.ipv4) {
            (Some(gateway), Some(IpAddr::V4(wanted))) => {
                self.wanted(name, gateway, wanted.into())?;
                Some(wanted)
            }
            (Some(gateway), _) => Some(self.free4(name, gateway)?),
            (None, Some(wanted)) => return Err(no_family(name, wanted)),
            (None, None) => None,
        };
        let ipv6 = match (network.spec.ipv6, choice.ipv6) {
            (Some(gateway), Some(IpAddr::V6(wanted))) => {
                self.wanted(name, gateway, wanted.into())?;
                Some(wanted)
            }
            (Some(gateway), _) => Some(self.free6(name, gateway, mac, ipv4)),
            (None, Some(wanted)) => return Err(no_family(name, wanted)),
            (None, None) => None,
        };
        let grant = NicGrant { network: name.clone(), mac, ipv4, ipv6 };
        self.note_grant(&grant);
        Ok(grant)
    }

    /// A hardware address made of the ids of instance and device: the same one again for the same NIC, where it is free.
    fn mac(&self, choice: &NicChoice, id: InstanceId) -> Result<Mac> {
        if let Some(mac) = choice.mac {
            return if self.macs.contains(&mac) {
                Err(Error::Conflict(format!("hardware address {mac} is already in use")))
            } else {
                Ok(mac)
            };
        }
        (0..=u8::MAX)
            .map(|n| Mac::of(id, &choice.device, n))
            .find(|mac| !self.macs.contains(mac))
            .ok_or_else(|| Error::Conflict("no hardware address is free".into()))
    }

    fn wanted(&self, network: &NetworkName, gateway: model::Cidr, wanted: IpAddr) -> Result<()> {
        if !gateway.contains(wanted) || wanted == gateway.address {
            return Err(Error::Invalid(format!("address {wanted} is not a guest's in network {network} ({gateway})")));
        }
        if self.addresses.contains(&(network.clone(), wanted)) {
            return Err(Error::Conflict(format!("address {wanted} is already in use in network {network}")));
        }
        Ok(())
    }

    fn free4(&self, network: &NetworkName, gateway: model::Cidr) -> Result<Ipv4Addr> {
        // Not the network's own address, not the broadcast address.
        let last = (1u64 << (32 - u32::from(gateway.prefix))).saturating_sub(2);
        (1..=last)
            .filter_map(|n| match gateway.nth(n) {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            })
            .find(|a| gateway.address != IpAddr::V4(*a) && !self.addresses.contains(&(network.clone(), (*a).into())))
            .ok_or_else(|| Error::Conflict(format!("network {network} ({gateway}) has no free address")))
    }

    /// The last number of the IPv4 address, so that people recognise it; else one made of the hardware address.
    fn free6(&self, network: &NetworkName, gateway: model::Cidr, mac: Mac, ipv4: Option<Ipv4Addr>) -> Ipv6Addr {
        // The address that the guest makes itself by the router's advertisement: then there is one that everybody knows.
        if let (IpAddr::V6(prefix), 64) = (gateway.address, gateway.prefix) {
            let own = mac.within(prefix);
            if own != prefix && !self.addresses.contains(&(network.clone(), own.into())) {
                return own;
            }
        }
        let [_, _, _, d, e, f] = mac.0;
        let number = ipv4.map_or(0, |a| u64::from(a.octets()[3]) | u64::from(a.octets()[2]) << 16);
        let by_mac = u64::from_be_bytes([0, 0, 0, 1, 0, d, e, f]);
        let candidates = [number, by_mac].into_iter().chain((by_mac + 1)..);
        let free = |n: &u64| {
            let address = gateway.nth(*n);
            *n > 0 && address != gateway.address && !self.addresses.contains(&(network.clone(), address))
        };
        match candidates.into_iter().find(free).map(|n| gateway.nth(n)) {
            Some(IpAddr::V6(address)) => address,
            _ => Ipv6Addr::UNSPECIFIED,
        }
    }
}

fn no_family(network: &NetworkName, wanted: IpAddr) -> Error {
    Error::Invalid(format!("network {network} has no addresses of the kind of {wanted}"))
}

fn addresses(grant: &NicGrant) -> impl Iterator<Item = IpAddr> {
    grant.ipv4.map(IpAddr::V4).into_iter().chain(grant.ipv6.map(IpAddr::V6))
}

/// Everything that an instance has, as its claims from now on.
pub(crate) fn claims_anew(record: &InstanceRecord) -> Vec<Op> {
    let mut ops = vec![Op::ReleaseAll { owner: record.id.to_string() }];
    ops.extend(claims(record));
    ops
}

/// Everything that an instance has, as claims in its name.
pub(crate) fn claims(record: &InstanceRecord) -> Vec<Op> {
    let owner = record.id.to_string();
    let claim = |space, value: String| Op::Claim { space, value, owner: owner.clone() };
    let wish = &record.wish;
    let mut ops = vec![
        claim("instance-name", format!("{}/{}", record.project, record.name)),
        claim("ids", wish.ids.base.to_string()),
    ];
    for grant in wish.nics.values() {
        ops.push(claim("mac", grant.mac.to_string()));
        ops.extend(addresses(grant).map(|address| claim("address", format!("{}/{address}", grant.network))));
    }
    ops
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocator() -> Allocator {
        Allocator::new(vec![IdMap { base: 1_000_000, count: 6_000_000 }])
    }

    fn network() -> NetworkRecord {
        NetworkRecord { spec: testkit::network(), description: String::new(), config: Default::default() }
    }

    fn choice() -> NicChoice {
        NicChoice {
            device: "eth0".parse().expect("name"),
            guest_name: "eth0".into(),
            network: "br0".parse().expect("name"),
            mac: None,
            ipv4: None,
            ipv6: None,
            mtu: None,
            filtering: true,
            limits: model::NicLimits::default(),
        }
    }

    #[test]
    fn id_ranges_are_aligned_lie_inside_and_never_overlap() {
        let mut allocator = allocator();
        let mut given: Vec<IdMap> = Vec::new();
        for n in 0.. {
            let count = if n % 5 == 4 { IdMap::NESTING } else { IdMap::ORDINARY };
            let Ok(map) = allocator.ids(count) else { break };
            assert_eq!(map.base % count, 0);
            assert!(map.base >= 1_000_000 && map.end() <= 7_000_000);
            assert!(given.iter().all(|other| !other.overlaps(map)), "{map:?} in {given:?}");
            given.push(map);
        }
        assert!(given.len() > 10, "{given:?}");
        // What is given back is given out again.
        let back = given[3];
        allocator.ids.remove(&(back.base, back.count));
        assert_eq!(allocator.ids(back.count).expect("free again"), back);
    }

    #[test]
    fn addresses_are_given_once_until_the_network_is_full() {
        let (mut allocator, network) = (allocator(), network());
        let id = |n| InstanceId(uuid::Uuid::from_u128(n));
        let mut seen = HashSet::new();
        // A /29 has six addresses, one of them is the gateway's.
        for n in 0..5 {
            let grant = allocator.nic(&choice(), &network, id(n)).expect("free");
            assert_eq!(&grant.mac.0[..3], Mac::PREFIX);
            assert!(seen.insert(IpAddr::from(grant.ipv4.expect("v4"))) && seen.insert(grant.ipv6.expect("v6").into()));
        }
        assert!(!seen.contains(&"10.9.0.1".parse().expect("address")));
        let full = allocator.nic(&choice(), &network, id(9)).expect_err("full").to_string();
        assert!(full.contains("no free address"), "{full}");
    }

    #[test]
    fn wanted_addresses_must_be_free_and_inside() {
        let (mut allocator, network) = (allocator(), network());
        let id = InstanceId(uuid::Uuid::from_u128(1));
        let want = |address: &str| NicChoice { ipv4: Some(address.parse().expect("address")), ..choice() };
        assert_eq!(
            allocator.nic(&want("10.9.0.5"), &network, id).expect("free").ipv4,
            Some("10.9.0.5".parse().expect("address"))
        );
        for (address, word) in [("10.9.0.5", "in use"), ("10.9.0.1", "not a guest's"), ("10.8.0.5", "not a guest's")] {
            let error = allocator.nic(&want(address), &network, id).expect_err(address).to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
