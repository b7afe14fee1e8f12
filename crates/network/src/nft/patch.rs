//! Patches: what comes in by one link leaves by another, before anything of the host sees it.
//!
//! A table of family `netdev` has a chain for each link that is patched, with one rule. All rules of all links change in one
//! transaction, so that every packet goes the old way or the new one and none is lost between. What has nowhere to go is
//! dropped. The kernel itself removes the chain of a link that goes.

use std::collections::BTreeMap;

use kernel::Errno;
use model::Mac;

use super::TableName;
use super::encode::{self, Base, CHAIN_NAME, CHAIN_TABLE, Family, RULE_CHAIN, RULE_TABLE, header, kind};
use super::list;
use super::rules::{self, Hook, Rule};
use crate::link::LinkName;
use crate::netlink::{Batch, Socket};
use crate::{Error, Result};

const DELETE_CHAIN: u16 = 5;
const DELETE_RULE: u16 = 8;
/// Frames as they come in by a link, before all else.
const INGRESS: Hook = Hook { kind: "filter", number: 0, priority: 0 };

/// A link that is patched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch {
    /// Its name.
    pub link: LinkName,
    /// Frames with another source address than this are dropped, where one is given.
    pub only_from: Option<Mac>,
    /// Index of the link that its frames leave by; they are dropped where there is none.
    pub to: Option<u32>,
}

impl Patch {
    fn rules(&self) -> Vec<Rule> {
        let guard = self.only_from.map(rules::unless_from);
        guard.into_iter().chain(self.to.map(rules::forward)).collect()
    }
}

/// Gives these links their patches, all at once; others keep theirs.
pub fn patch(socket: &mut Socket, table: &TableName, patches: &[Patch]) -> Result<()> {
    if patches.is_empty() {
        return Ok(());
    }
    let mut batch = encode::begin(table);
    encode::new_table(&mut batch, Family::Netdev, table);
    for patch in patches {
        let name = chain(&patch.link);
        new_chain(&mut batch, table, &patch.link, &name);
        flush(&mut batch, table, &name);
        for rule in patch.rules() {
            encode::new_rule(&mut batch, Family::Netdev, table, &name, &rule);
        }
    }
    encode::end(&mut batch);
    socket.commit(batch)
}

/// Takes the patch of a link away, which is there: from now on its frames go where they went before.
pub fn unpatch(socket: &mut Socket, table: &TableName, link: &LinkName) -> Result<()> {
    let name = chain(link);
    let mut batch = encode::begin(table);
    encode::new_table(&mut batch, Family::Netdev, table);
    // Deleting what is not there would fail, and adding what is there does not.
    new_chain(&mut batch, table, link, &name);
    flush(&mut batch, table, &name);
    batch
        .request("remove a chain of table", kind(DELETE_CHAIN), 0, &header(Family::Netdev as u8))
        .text(CHAIN_TABLE, table.as_str())
        .text(CHAIN_NAME, &name);
    encode::end(&mut batch);
    socket.commit(batch)
}

/// Removes all patches; done when there are none.
pub fn remove_patches(socket: &mut Socket, table: &TableName) -> Result<()> {
    let mut batch = encode::begin(table);
    encode::new_table(&mut batch, Family::Netdev, table);
    encode::delete_table(&mut batch, "delete table", Family::Netdev, table);
    encode::end(&mut batch);
    match socket.commit(batch) {
        // A kernel without such tables has none of ours.
        Err(Error::Refused { errno: Errno::AFNOSUPPORT | Errno::OPNOTSUPP, .. }) => Ok(()),
        other => other,
    }
}

/// Links that do not have the rules of their patch.
pub fn unpatched<'a>(socket: &mut Socket, table: &TableName, patches: &'a [Patch]) -> Result<Vec<&'a Patch>> {
    let counts: BTreeMap<String, usize> = list::rules(socket, Family::Netdev, table)?;
    let found = |patch: &Patch| counts.get(&chain(&patch.link)).copied().unwrap_or_default();
    Ok(patches.iter().filter(|patch| found(patch) != patch.rules().len()).collect())
}

fn chain(link: &LinkName) -> String {
    format!("from-{link}")
}

fn new_chain(batch: &mut Batch, table: &TableName, link: &LinkName, name: &str) {
    let base = Base { hook: INGRESS, link: Some(link), policy: encode::DROP };
    encode::new_chain(batch, Family::Netdev, table, name, Some(base));
}

fn flush(batch: &mut Batch, table: &TableName, name: &str) {
    batch
        .request("empty a chain of table", kind(DELETE_RULE), 0, &header(Family::Netdev as u8))
        .text(RULE_TABLE, table.as_str())
        .text(RULE_CHAIN, name);
}
