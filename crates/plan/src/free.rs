//! Choosing what is free on a host: ranges of ids, subnets, names of bridges.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use model::{Cidr, IdMap};

/// Ids of one daemon: 4,096 ordinary ranges.
const BANK: u32 = 1 << 28;

/// Where banks begin, the best first. systemd keeps 0x00080000 to 0x6fffffff for nspawn and stops using ids at 0x7fff0000;
/// Debian gives users ranges from 100,000 up and Incus takes 1,000,000 to 1,001,000,000. What lies above 2³¹ comes last: some
/// programs take such ids for negative numbers. (systemd's `UIDS-GIDS.md`)
const BANKS: [u32; 14] = [
    0x7000_0000,
    0x6000_0000,
    0x5000_0000,
    0x4000_0000,
    0x3000_0000,
    0x2000_0000,
    0x1000_0000,
    0x8000_0000,
    0x9000_0000,
    0xa000_0000,
    0xb000_0000,
    0xc000_0000,
    0xd000_0000,
    0xe000_0000,
];

/// The first id that systemd and the kernel want left alone below 2³¹.
const UNSAFE: u32 = 0x7ffe_0000;

/// A bank of ids that overlaps nothing that is taken.
pub fn free_ids(taken: &[IdMap]) -> Option<IdMap> {
    BANKS.into_iter().find_map(|base| {
        let end = u64::from(base) + u64::from(BANK);
        let count = if end > u64::from(UNSAFE) && base < UNSAFE { UNSAFE - base } else { BANK };
        let bank = IdMap { base, count };
        taken.iter().all(|range| !range.overlaps(bank)).then_some(bank)
    })
}

/// Ranges of `/etc/subuid` or `/etc/subgid` (subuid(5): `name:first:count`). Lines that are none are skipped, as
/// newuidmap(1) does.
pub fn subordinate_ids(text: &str) -> Vec<IdMap> {
    let range = |line: &str| {
        let mut fields = line.trim().split(':').skip(1);
        let (base, count) = (fields.next()?.parse().ok()?, fields.next()?.parse::<u64>().ok()?);
        Some(IdMap { base, count: u32::try_from(count).unwrap_or(u32::MAX) })
    };
    text.lines().filter_map(range).collect()
}

/// The gateway's address in a free IPv4 /24 of 10.0.0.0/8. `seed` makes hosts differ, so that two of them that meet in one
/// network seldom have the same.
pub fn free_ipv4(taken: &[Cidr], seed: u16) -> Option<Cidr> {
    (0..=u16::MAX).find_map(|step| {
        let [high, low] = seed.wrapping_add(step).to_be_bytes();
        let subnet = Cidr { address: Ipv4Addr::new(10, high, low, 1).into(), prefix: 24 };
        // 10.0 and 10.1 are what everybody else takes.
        (high > 1 && taken.iter().all(|other| !other.overlaps(subnet))).then_some(subnet)
    })
}

/// The gateway's address in a unique local IPv6 /64 (RFC 4193) made of 56 random bits.
pub fn local_ipv6(random: [u8; 7]) -> Cidr {
    let [a, b, c, d, e, f, g] = random;
    let pair = u16::from_be_bytes;
    let address = Ipv6Addr::new(pair([0xfd, a]), pair([b, c]), pair([d, e]), pair([f, g]), 0, 0, 0, 1);
    Cidr { address: address.into(), prefix: 64 }
}

/// The first name `sysctlbr<n>` that no link has.
pub fn free_bridge(links: &BTreeSet<String>) -> String {
    (0..).map(|n: u32| format!("sysctlbr{n}")).find(|name| !links.contains(name)).unwrap_or_default()
}

/// Destinations of `/proc/net/route` (proc_net(5)): hexadecimal words in the host's byte order. The default route is left out.
pub fn routes(text: &str) -> Vec<Cidr> {
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let word = |index: usize| u32::from_str_radix(fields.get(index)?, 16).ok().map(u32::from_be);
        let (destination, mask) = (word(1)?, word(7)?);
        (mask != 0).then(|| Cidr { address: Ipv4Addr::from(destination).into(), prefix: mask.leading_ones() as u8 })
    };
    text.lines().skip(1).filter_map(route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect(text)
    }

    #[test]
    fn a_bank_is_clear_of_everybody_else() {
        let first = free_ids(&[]).expect("an empty host");
        assert_eq!((first.base, first.count), (0x7000_0000, 0x0ffe_0000));
        let incus = IdMap { base: 1_000_000, count: 1_000_000_000 };
        let mut taken = vec![incus];
        while let Some(bank) = free_ids(&taken) {
            assert!(taken.iter().all(|other| !other.overlaps(bank)), "{bank:?}");
            assert!(bank.end() <= 0xf000_0000);
            taken.push(bank);
        }
        assert_eq!(taken.len(), 12, "eleven daemons beside Incus");
    }

    #[test]
    fn subordinate_ids_are_read_line_by_line() {
        let found = subordinate_ids("root:1000000:1000000000\n# note\nme:100000:65536\nbroken:1\nbig:5:99999999999\n");
        let expected = [(1_000_000, 1_000_000_000), (100_000, 65_536), (5, u32::MAX)];
        assert_eq!(found, expected.map(|(base, count)| IdMap { base, count }));
    }

    #[test]
    fn subnets_avoid_routes_and_the_popular_ones() {
        assert_eq!(free_ipv4(&[], 0x2a07), Some(cidr("10.42.7.1/24")));
        assert_eq!(free_ipv4(&[cidr("10.42.0.0/16")], 0x2a07), Some(cidr("10.43.0.1/24")));
        assert_eq!(free_ipv4(&[], 0), Some(cidr("10.2.0.1/24")));
        assert_eq!(free_ipv4(&[cidr("10.0.0.0/8")], 7), None);
    }

    #[test]
    fn local_addresses_follow_the_rfc() {
        assert_eq!(local_ipv6([1, 2, 3, 4, 5, 6, 7]), cidr("fd01:203:405:607::1/64"));
    }

    #[test]
    fn bridges_count_up() {
        assert_eq!(free_bridge(&BTreeSet::new()), "sysctlbr0");
        assert_eq!(free_bridge(&["sysctlbr0".to_owned(), "sysctlbr1".to_owned()].into()), "sysctlbr2");
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn routes_are_read_in_the_hosts_order() {
        let text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t010AA8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            br0\t0007020A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(routes(text), [cidr("10.2.7.0/24")]);
    }
}
