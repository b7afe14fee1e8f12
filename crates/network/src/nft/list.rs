//! What stands in the kernel's tables, to compare with what should.

use std::collections::BTreeMap;

use kernel::Errno;

use super::TableName;
use super::elements::{Element, NetworkRules, NicRules, Set, group};
use super::encode::{self, Family, header, kind};
use crate::netlink::{Attributes, Batch, Reader, Socket, read};
use crate::{Error, Result};

const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
const NEW_ELEMENT: u16 = 12;
const GET_ELEMENT: u16 = 13;
/// Length of `struct nfgenmsg`.
const HEADER: usize = 4;
/// A host with more tables or rules than that is listed in part.
const MOST: usize = 1 << 16;

/// What our tables hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// Both tables are there, made by this version of the program, with all their rules. Otherwise
    /// [`super::replace`] is needed.
    pub intact: bool,
    /// The networks.
    pub networks: Vec<NetworkRules>,
    /// The NICs. One with `spoofing` has no addresses here, as the firewall does not know them.
    pub nics: Vec<NicRules>,
    /// Number of elements that belong to none of these, or that one of these lacks.
    pub faults: usize,
}

/// Names of all tables of the families that ours are of, each once; ours and others'.
pub fn tables(socket: &mut Socket) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for family in Family::ALL {
        let request = || {
            let mut batch = Batch::about("tables");
            batch.request("list the", kind(GET_TABLE), 0, &header(family as u8));
            batch
        };
        names.extend(socket.dump(MOST, request, |message| {
            let name = message.attributes(HEADER).find(|(kind, _)| *kind == 1)?.1;
            (message.kind == kind(NEW_TABLE)).then(|| read::text(name))
        })?);
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// The name of the table that a message tells of: that it, or something in it, came or went.
pub(crate) fn told(message: Reader<'_>) -> Option<String> {
    // Each transaction also ends with a message about its number.
    const GENERATION: u16 = 15;
    const SUBSYSTEM: u16 = 10 << 8;
    if message.kind & 0xff00 != SUBSYSTEM || message.kind == kind(GENERATION) {
        return None;
    }
    // The name comes first in each of them.
    message.attributes(HEADER).find(|(kind, _)| *kind == 1).map(|(_, name)| read::text(name))
}

/// Reads our tables back.
pub fn contents(socket: &mut Socket, table: &TableName) -> Result<Contents> {
    let mut intact = true;
    let mut elements = Vec::new();
    for family in Family::ALL {
        if !has_revision(socket, family, table)? {
            intact = false;
            continue;
        }
        let expected: BTreeMap<String, usize> =
            family.chains().into_iter().map(|chain| (chain.name.to_owned(), chain.rules.len())).collect();
        intact &= rules(socket, family, table)? == expected;
        for set in Set::ALL.into_iter().filter(|set| set.family() == family && !set.is_kept_by_kernel()) {
            elements.extend(dump_set(socket, table, set)?);
        }
    }
    let (networks, nics, faults) = group(&elements);
    Ok(Contents { intact, networks, nics, faults })
}

/// Whether the table is there and was made by this version of the program.
fn has_revision(socket: &mut Socket, family: Family, table: &TableName) -> Result<bool> {
    let mut batch = Batch::about(table.as_str());
    let mut writer = batch.request("look for table", kind(GET_TABLE), 0, &header(family as u8));
    encode::name_table(writer.tolerating(&[Errno::NOENT]), table);
    let mut fits = false;
    socket.ask(batch, |message| {
        let mark = message.attributes(HEADER).find(|(kind, _)| *kind == encode::TABLE_USER_DATA);
        fits = mark.is_some_and(|(_, mark)| mark == encode::revision(family));
    })?;
    Ok(fits)
}

/// How many rules each chain has.
pub(super) fn rules(socket: &mut Socket, family: Family, table: &TableName) -> Result<BTreeMap<String, usize>> {
    let request = || {
        let mut batch = Batch::about(table.as_str());
        let mut writer = batch.request("list the rules of table", kind(GET_RULE), 0, &header(family as u8));
        encode::name_table(&mut writer, table);
        batch
    };
    let chains = socket.dump(MOST, request, |message| {
        let chain = message.attributes(HEADER).find(|(kind, _)| *kind == 2)?.1;
        (message.kind == kind(NEW_RULE)).then(|| read::text(chain))
    })?;
    let mut counts = BTreeMap::new();
    for chain in chains {
        *counts.entry(chain).or_default() += 1;
    }
    Ok(counts)
}

fn dump_set(socket: &mut Socket, table: &TableName, set: Set) -> Result<Vec<Element>> {
    let request = || {
        let mut batch = Batch::about(table.as_str());
        let mut writer = batch.request("list the elements of table", kind(GET_ELEMENT), 0, &header(set.family() as u8));
        encode::name_elements(&mut writer, table, set);
        batch
    };
    let found = socket.dump(MOST, request, |message| {
        let list = message.attributes(HEADER).find(|(kind, _)| *kind == encode::ELEMENTS)?.1;
        (message.kind == kind(NEW_ELEMENT)).then(|| Attributes::new(list).filter_map(|(_, item)| key(item)).collect())
    });
    match found {
        Ok(lists) => {
            Ok(lists.into_iter().flat_map(|keys: Vec<Vec<u8>>| keys).map(|key| Element { set, key }).collect())
        }
        // Somebody deleted the set: nothing is in it.
        Err(Error::Refused { errno: Errno::NOENT, .. }) => Ok(Vec::new()),
        Err(other) => Err(other),
    }
}

/// What [`contents`] makes of elements, whatever they are.
#[cfg(test)]
pub(crate) fn offer(list: &[u8]) {
    let keys = || Attributes::new(list).filter_map(|(_, item)| key(item));
    let elements = |set| keys().map(move |key| Element { set, key });
    let all: Vec<Element> = Set::ALL.into_iter().flat_map(elements).collect();
    let _ = group(&all);
}

/// The key of an element.
fn key(item: &[u8]) -> Option<Vec<u8>> {
    let key = Attributes::find(item, encode::ELEMENT_KEY)?;
    Attributes::find(key, encode::DATA_VALUE).map(<[u8]>::to_vec)
}
