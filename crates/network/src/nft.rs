//! The firewall: one table for routed packets (`inet`) and one for bridged frames (`bridge`), both under one name.
//!
//! Chains and rules are made once and never changed. What changes are the elements of named sets, which the rules look
//! up by hash: a network is a handful of elements, a NIC at most five, so adding or removing one is one transaction of
//! constant cost however many others there are. `rules.rs` has the rules, `elements.rs` what stands for what.
//!
//! What we cannot do: a verdict of *accept* ends only our own chain. Where another table drops forwarded packets
//! (Docker's `FORWARD` policy, a firewall of the host's owner), guests have no way out until its owner lets them.
//! DHCP, RA and DNS over UDP are answered from a packet socket, before any chain, and so work regardless.

mod elements;
mod encode;
mod list;
mod patch;
mod rules;

pub use elements::{NetworkRules, NicRules};
pub(crate) use list::told;
pub use list::{Contents, contents, tables};
pub use patch::{Patch, patch, remove_patches, unpatch, unpatched};

#[cfg(test)]
pub(crate) use list::offer;

use std::fmt;
use std::str::FromStr;

use kernel::Errno;

use crate::netlink::Socket;
use crate::{Error, Result};
use elements::Element;

/// The name of the daemon's tables: a letter, then letters, digits, `-`, `_`, at most 64.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TableName(String);

impl TableName {
    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TableName {
    type Err = Error;

    fn from_str(text: &str) -> Result<TableName> {
        let bytes = text.as_bytes();
        let fine = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        if (1..=64).contains(&bytes.len()) && bytes[0].is_ascii_alphabetic() && bytes.iter().all(fine) {
            Ok(TableName(text.to_owned()))
        } else {
            let rule = "a letter, then letters, digits, hyphens and underscores, at most 64";
            Err(Error::InvalidName { kind: "table", text: text.chars().take(80).collect(), rule })
        }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Finds out whether this kernel can hold our tables, and leaves nothing behind.
///
/// Offers the kernel all chains and rules in a transaction that ends with a request that must fail, so it is refused as
/// a whole; [`Error::NoFirewall`] when anything before that was refused.
pub fn probe(socket: &mut Socket) -> Result<()> {
    const END: &str = "end the probe of";
    let table = TableName("sysctl-probe".to_owned());
    let absent = TableName("sysctl-probe-absent".to_owned());
    let mut batch = encode::begin(&table);
    encode::make(&mut batch, &table);
    encode::delete_table(&mut batch, END, encode::Family::Inet, &absent);
    encode::end(&mut batch);
    match socket.commit(batch) {
        Err(Error::Refused { act: END, errno: Errno::NOENT, .. }) => Ok(()),
        Err(Error::Refused { act, reason, errno, .. }) => Err(Error::NoFirewall { act, reason, errno }),
        // The sender is told at once when nobody listens for netfilter requests.
        Err(Error::Asking { act, errno, .. }) => Err(Error::NoFirewall { act, reason: String::new(), errno }),
        Err(other) => Err(other),
        Ok(()) => Err(Error::NoAnswer { act: END, object: table.0 }),
    }
}

/// Makes both tables with exactly these networks and NICs, whatever was there before, in one transaction: no packet
/// sees half of it. For the daemon's start, and for when somebody emptied the tables.
pub fn replace(socket: &mut Socket, table: &TableName, networks: &[NetworkRules], nics: &[NicRules]) -> Result<()> {
    let mut batch = encode::begin(table);
    encode::unmake(&mut batch, table);
    encode::make(&mut batch, table);
    let elements = networks.iter().flat_map(NetworkRules::elements).chain(nics.iter().flat_map(NicRules::elements));
    encode::add_all(&mut batch, table, elements.collect());
    encode::end(&mut batch);
    socket.commit(batch)
}

/// Removes both tables; done when there are none.
pub fn remove_table(socket: &mut Socket, table: &TableName) -> Result<()> {
    let mut batch = encode::begin(table);
    encode::unmake(&mut batch, table);
    encode::end(&mut batch);
    socket.commit(batch)
}

/// Makes a network known under these rules; switches that are off in them are off. To change its addresses, use
/// [`change_network`].
pub fn ensure_network(socket: &mut Socket, table: &TableName, network: &NetworkRules) -> Result<()> {
    change(socket, table, &network.foreign(), network.elements())
}

/// Changes the rules of a network, with no moment in between.
pub fn change_network(socket: &mut Socket, table: &TableName, old: &NetworkRules, new: &NetworkRules) -> Result<()> {
    change(socket, table, &old.all(), new.elements())
}

/// Forgets a network's bridge; done when it is not known.
pub fn remove_network(socket: &mut Socket, table: &TableName, network: &NetworkRules) -> Result<()> {
    change(socket, table, &network.all(), Vec::new())
}

/// Makes a NIC's port known: from now on only frames that the NIC may send get through. Call it before the link is
/// made, so that no frame is ever unguarded; frames of ports that are not known pass. To change it, use [`change_nic`].
pub fn allow_nic(socket: &mut Socket, table: &TableName, nic: &NicRules) -> Result<()> {
    change(socket, table, &[], nic.elements())
}

/// Changes what a NIC may send, with no moment in between.
pub fn change_nic(socket: &mut Socket, table: &TableName, old: &NicRules, new: &NicRules) -> Result<()> {
    change(socket, table, &old.all(), new.elements())
}

/// Forgets a NIC; done when it is not known. `nic` says under what it was made known.
pub fn forget_nic(socket: &mut Socket, table: &TableName, nic: &NicRules) -> Result<()> {
    change(socket, table, &nic.all(), Vec::new())
}

/// Removes and adds elements in one transaction. [`Error::NoTable`] when the tables are not there: then
/// [`replace`] is needed.
fn change(socket: &mut Socket, table: &TableName, gone: &[Element], there: Vec<Element>) -> Result<()> {
    let mut batch = encode::begin(table);
    for element in gone {
        // Deleting what is not there would fail, and adding what is there does not.
        encode::element(&mut batch, encode::Change::Add, table, element);
        encode::element(&mut batch, encode::Change::Remove, table, element);
    }
    encode::add_all(&mut batch, table, there);
    encode::end(&mut batch);
    match socket.commit(batch) {
        Err(Error::Refused { errno: Errno::NOENT, .. }) => Err(Error::NoTable { table: table.0.clone() }),
        other => other,
    }
}
