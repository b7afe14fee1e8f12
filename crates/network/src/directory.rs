//! Who is on a network: the one source of what DHCP and DNS answer. The caller keeps it up to date.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use model::{InstanceName, Mac};

use crate::Error;

/// A DNS domain in small letters, without a dot at the end: labels of letters, digits and hyphens, at most 200
/// characters in all, so that every host's name fits into the 253 that DNS allows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Domain(String);

impl Domain {
    /// The domain's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The labels, as DNS messages carry them: each after its length, an empty one at the end (RFC 1035, 3.1).
    pub(crate) fn wire(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.0.len() + 2);
        for label in self.0.split('.') {
            // At most 63, as the constructor checked.
            bytes.push(label.len() as u8);
            bytes.extend_from_slice(label.as_bytes());
        }
        bytes.push(0);
        bytes
    }
}

impl FromStr for Domain {
    type Err = Error;

    fn from_str(text: &str) -> Result<Domain, Error> {
        let label_is_fine = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if text.len() <= 200 && text.split('.').all(label_is_fine) {
            Ok(Domain(text.to_ascii_lowercase()))
        } else {
            let rule = "labels of letters, digits and hyphens with dots between, at most 200 characters";
            Err(Error::InvalidName { kind: "domain", text: text.chars().take(80).collect(), rule })
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One NIC on the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Name of the instance; several NICs may have the same.
    pub name: InstanceName,
    /// Hardware address.
    pub mac: Mac,
    /// IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
}

/// All NICs of one network. Changes count from the next question on; none costs more for there being many.
#[derive(Debug, Default)]
pub struct Directory {
    tables: RwLock<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    hosts: HashMap<Mac, Host>,
    /// Names in small letters.
    names: HashMap<String, BTreeSet<Mac>>,
    addresses: HashMap<IpAddr, Mac>,
}

impl Directory {
    /// A directory with these hosts.
    pub fn new(hosts: impl IntoIterator<Item = Host>) -> Directory {
        let directory = Directory::default();
        hosts.into_iter().for_each(|host| directory.insert(host));
        directory
    }

    /// Makes a host known, instead of the one that had its hardware address.
    pub fn insert(&self, host: Host) {
        let mut tables = self.write();
        tables.remove(host.mac);
        tables.names.entry(host.name.as_str().to_ascii_lowercase()).or_default().insert(host.mac);
        for address in host.addresses() {
            tables.addresses.insert(address, host.mac);
        }
        tables.hosts.insert(host.mac, host);
    }

    /// Forgets the host with that hardware address, if it is known.
    pub fn remove(&self, mac: Mac) {
        self.write().remove(mac);
    }

    /// The host with that hardware address.
    pub fn by_mac(&self, mac: Mac) -> Option<Host> {
        self.read().hosts.get(&mac).cloned()
    }

    /// The addresses of all hosts of that name, or `None` when there is no such host.
    pub fn by_name(&self, name: &str) -> Option<Vec<IpAddr>> {
        let tables = self.read();
        let macs = tables.names.get(&name.to_ascii_lowercase())?;
        Some(macs.iter().filter_map(|mac| tables.hosts.get(mac)).flat_map(Host::addresses).collect())
    }

    /// The name of the host with that address, in small letters.
    pub fn by_address(&self, address: IpAddr) -> Option<String> {
        let tables = self.read();
        let host = tables.hosts.get(tables.addresses.get(&address)?)?;
        Some(host.name.as_str().to_ascii_lowercase())
    }

    // Every change leaves the tables whole before the next can panic, so a poisoned lock guards sound values.
    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host {
    fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.ipv4.map(IpAddr::V4).into_iter().chain(self.ipv6.map(IpAddr::V6))
    }
}

impl Tables {
    fn remove(&mut self, mac: Mac) {
        let Some(host) = self.hosts.remove(&mac) else { return };
        let name = host.name.as_str().to_ascii_lowercase();
        if let Some(macs) = self.names.get_mut(&name) {
            macs.remove(&mac);
            if macs.is_empty() {
                self.names.remove(&name);
            }
        }
        for address in host.addresses() {
            if self.addresses.get(&address) == Some(&mac) {
                self.addresses.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, mac: u8, ip: u8) -> Host {
        Host {
            name: name.parse().expect(name),
            mac: Mac([2, 0, 0, 0, 0, mac]),
            ipv4: Some(Ipv4Addr::new(10, 0, 0, ip)),
            ipv6: None,
        }
    }

    #[test]
    fn a_host_that_changed_leaves_nothing_of_what_it_was() {
        let directory = Directory::new([host("web1", 1, 1), host("Web1", 2, 2)]);
        assert_eq!(directory.by_name("WEB1").map(|all| all.len()), Some(2));
        directory.insert(host("db1", 1, 9));
        directory.remove(Mac([2, 0, 0, 0, 0, 2]));
        assert_eq!(directory.by_name("web1"), None);
        assert_eq!(directory.by_address(Ipv4Addr::new(10, 0, 0, 1).into()), None);
        assert_eq!(directory.by_address(Ipv4Addr::new(10, 0, 0, 9).into()).as_deref(), Some("db1"));
    }

    #[test]
    fn an_address_that_moved_to_another_host_stays_there_when_the_first_goes() {
        let directory = Directory::new([host("old", 1, 1), host("new", 2, 1)]);
        directory.remove(Mac([2, 0, 0, 0, 0, 1]));
        assert_eq!(directory.by_address(Ipv4Addr::new(10, 0, 0, 1).into()).as_deref(), Some("new"));
    }

    #[test]
    fn domains_are_written_label_by_label() {
        assert_eq!("Lab.Test".parse::<Domain>().expect("valid").wire(), b"\x03lab\x04test\0");
        for bad in ["", ".", "a..b", "a.", "-a", "a b", "ä", &"a".repeat(64), &"a.".repeat(101)] {
            assert!(bad.parse::<Domain>().is_err(), "{bad:?}");
        }
    }
}
