//! The messages of nf_tables (`linux/netfilter/nf_tables.h`). All integers are in network byte order.

use super::TableName;
use super::elements::{Element, Part, Set};
use super::rules::{self, Chain, Hook, Load, Match, Rule, Verdict};
use crate::link::LinkName;
use crate::netlink::{APPEND, Batch, CREATE, Writer};

/// Netfilter requests are split among subsystems; this is the number of nf_tables.
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
pub(super) const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;
const DELETE_ELEMENT: u16 = 14;

const TABLE_NAME: u16 = 1;
pub(super) const TABLE_USER_DATA: u16 = 6;
pub(super) const CHAIN_TABLE: u16 = 1;
pub(super) const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const HOOK_DEVICE: u16 = 3;
pub(super) const RULE_TABLE: u16 = 1;
pub(super) const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LENGTH: u16 = 5;
const SET_DESCRIPTION: u16 = 9;
const SET_ID: u16 = 10;
const SET_TIMEOUT_MS: u16 = 11;
const DESCRIPTION_SIZE: u16 = 1;
const FLAG_TIMEOUT: u32 = 0x10;
const FLAG_EVALUATED: u32 = 0x20;
const ELEMENTS_TABLE: u16 = 1;
const ELEMENTS_SET: u16 = 2;
pub(super) const ELEMENTS: u16 = 3;
pub(super) const LIST_ITEM: u16 = 1;
pub(super) const ELEMENT_KEY: u16 = 1;
pub(super) const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;

/// The first general register; the kernel has 16 of four bytes each.
const REGISTER: u32 = 8;
const VERDICT_REGISTER: u32 = 0;
/// What becomes of packets that reach the end of a chain.
const ACCEPT: u32 = 1;
pub(super) const DROP: u32 = 0;

/// So many elements go into one message: an attribute holds 64 KiB, an element takes 48 bytes at most.
const ELEMENTS_PER_MESSAGE: usize = 1000;

/// A set that the kernel keeps has an element for each port that sends, for a minute after it last did.
const MOST_KEPT: u32 = 65_535;
const KEPT_MS: u64 = 60_000;

/// Which packets a table sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Family {
    /// Routed IPv4 and IPv6.
    Inet = 1,
    /// Frames as they come in by a link.
    Netdev = 5,
    /// Frames on bridges.
    Bridge = 7,
}

impl Family {
    /// Those with fixed chains.
    pub(super) const ALL: [Family; 2] = [Family::Inet, Family::Bridge];

    pub(super) fn chains(self) -> Vec<Chain> {
        match self {
            Family::Inet => rules::routed(),
            Family::Bridge => rules::bridged(),
            // A chain for each link that is patched: `patch.rs`.
            Family::Netdev => Vec::new(),
        }
    }

    fn sets(self) -> impl Iterator<Item = Set> {
        Set::ALL.into_iter().filter(move |set| set.family() == self)
    }
}

/// The number of a message of nf_tables.
pub(super) const fn kind(number: u16) -> u16 {
    SUBSYSTEM << 8 | number
}

/// `struct nfgenmsg`
pub(super) fn header(family: u8) -> [u8; 4] {
    [family, 0, 0, 0]
}

/// Starts a transaction.
pub(super) fn begin(table: &TableName) -> Batch {
    let mut batch = Batch::about(table.as_str());
    batch.request("begin to change table", BATCH_BEGIN, 0, &[0, 0, 0, SUBSYSTEM as u8]);
    batch
}

/// Ends a transaction.
pub(super) fn end(batch: &mut Batch) {
    batch.request("end changing table", BATCH_END, 0, &[0, 0, 0, SUBSYSTEM as u8]);
}

/// Deletes both tables, there or not.
pub(super) fn unmake(batch: &mut Batch, table: &TableName) {
    for family in Family::ALL {
        // Deleting what is not there would fail, and adding what is there does not.
        new_table(batch, family, table);
        delete_table(batch, "delete table", family, table);
    }
}

pub(super) fn delete_table(batch: &mut Batch, act: &'static str, family: Family, table: &TableName) {
    batch.request(act, kind(DELETE_TABLE), 0, &header(family as u8)).text(TABLE_NAME, table.as_str());
}

pub(super) fn new_table<'b>(batch: &'b mut Batch, family: Family, table: &TableName) -> Writer<'b> {
    let mut writer = batch.request("create table", kind(NEW_TABLE), CREATE, &header(family as u8));
    writer.text(TABLE_NAME, table.as_str());
    writer
}

/// Makes both tables with sets, chains and rules, all sets empty.
pub(super) fn make(batch: &mut Batch, table: &TableName) {
    for family in Family::ALL {
        new_table(batch, family, table).bytes(TABLE_USER_DATA, &revision(family));
        for set in family.sets() {
            new_set(batch, table, set);
        }
        let chains = family.chains();
        for chain in &chains {
            let base = chain.hook.map(|hook| Base { hook, link: None, policy: ACCEPT });
            new_chain(batch, family, table, chain.name, base);
        }
        for chain in &chains {
            for rule in &chain.rules {
                new_rule(batch, family, table, chain.name, rule);
            }
        }
    }
}

/// Tells the rules of this program from those of another version of it; kept with the table. FNV-1a over the rules as
/// they print, which changes when they do.
pub(super) fn revision(family: Family) -> [u8; 8] {
    let printed = format!("{:?}", family.chains());
    let hash = printed
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    hash.to_be_bytes()
}

fn new_set(batch: &mut Batch, table: &TableName, set: Set) {
    let length: usize = set.key().iter().map(|part| part.length()).sum();
    // nft(8) reads a concatenation as six bits for each part.
    let type_number = set.key().iter().fold(0, |number, part: &Part| number << 6 | part.type_number());
    let mut writer = batch.request("create a set of table", kind(NEW_SET), CREATE, &header(set.family() as u8));
    writer
        .text(SET_TABLE, table.as_str())
        .text(SET_NAME, set.name())
        .be32(SET_FLAGS, if set.is_kept_by_kernel() { FLAG_TIMEOUT | FLAG_EVALUATED } else { 0 })
        .be32(SET_KEY_TYPE, type_number)
        .be32(SET_KEY_LENGTH, length as u32)
        .be32(SET_ID, set as u32 + 1);
    if set.is_kept_by_kernel() {
        writer.be64(SET_TIMEOUT_MS, KEPT_MS).nest(SET_DESCRIPTION, |inner| _ = inner.be32(DESCRIPTION_SIZE, MOST_KEPT));
    }
}

/// Where a chain hangs, and what becomes of packets that reach its end.
pub(super) struct Base<'a> {
    pub(super) hook: Hook,
    /// The one link whose packets come along it, where there is one.
    pub(super) link: Option<&'a LinkName>,
    pub(super) policy: u32,
}

pub(super) fn new_chain(batch: &mut Batch, family: Family, table: &TableName, name: &str, base: Option<Base<'_>>) {
    let mut writer = batch.request("create a chain of table", kind(NEW_CHAIN), CREATE, &header(family as u8));
    writer.text(CHAIN_TABLE, table.as_str()).text(CHAIN_NAME, name);
    if let Some(Base { hook, link, policy }) = base {
        writer
            .nest(CHAIN_HOOK, |inner| {
                inner.be32(HOOK_NUMBER, hook.number).be32(HOOK_PRIORITY, hook.priority as u32);
                if let Some(link) = link {
                    inner.text(HOOK_DEVICE, link.as_str());
                }
            })
            .be32(CHAIN_POLICY, policy)
            .text(CHAIN_TYPE, hook.kind);
    }
}

pub(super) fn new_rule(batch: &mut Batch, family: Family, table: &TableName, chain: &str, rule: &Rule) {
    batch
        .request("create a rule of table", kind(NEW_RULE), CREATE | APPEND, &header(family as u8))
        .text(RULE_TABLE, table.as_str())
        .text(RULE_CHAIN, chain)
        .nest(RULE_EXPRESSIONS, |list| {
            for condition in &rule.matches {
                matching(list, condition);
            }
            verdict(list, rule.verdict);
        });
}

/// Whether elements come or go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// They come.
    Add,
    /// They go.
    Remove,
}

/// Adds or removes one element.
pub(super) fn element(batch: &mut Batch, change: Change, table: &TableName, element: &Element) {
    elements(batch, change, table, element.set, std::slice::from_ref(element));
}

/// Adds many elements with few messages.
pub(super) fn add_all(batch: &mut Batch, table: &TableName, mut all: Vec<Element>) {
    all.sort();
    for of_one_set in all.chunk_by(|a, b| a.set == b.set) {
        for chunk in of_one_set.chunks(ELEMENTS_PER_MESSAGE) {
            elements(batch, Change::Add, table, chunk[0].set, chunk);
        }
    }
}

fn elements(batch: &mut Batch, change: Change, table: &TableName, set: Set, elements: &[Element]) {
    let (act, number, flags) = match change {
        Change::Add => ("add an element to table", NEW_ELEMENT, CREATE),
        Change::Remove => ("remove an element from table", DELETE_ELEMENT, 0),
    };
    let mut writer = batch.request(act, kind(number), flags, &header(set.family() as u8));
    name_elements(&mut writer, table, set);
    writer.nest(ELEMENTS, |list| {
        for element in elements {
            list.nest(LIST_ITEM, |item| {
                item.nest(ELEMENT_KEY, |key| {
                    key.bytes(DATA_VALUE, &element.key);
                });
            });
        }
    });
}

/// Names the set whose elements a message is about.
pub(super) fn name_elements(writer: &mut Writer<'_>, table: &TableName, set: Set) {
    writer.text(ELEMENTS_TABLE, table.as_str()).text(ELEMENTS_SET, set.name());
}

/// Names the table that a message about rules or tables is about; all have the same number.
pub(super) fn name_table(writer: &mut Writer<'_>, table: &TableName) {
    const { assert!(TABLE_NAME == RULE_TABLE) };
    writer.text(TABLE_NAME, table.as_str());
}

fn expression(list: &mut Writer<'_>, name: &str, data: impl FnOnce(&mut Writer<'_>)) {
    list.nest(LIST_ITEM, |item| {
        item.text(EXPRESSION_NAME, name).nest(EXPRESSION_DATA, data);
    });
}

fn matching(list: &mut Writer<'_>, condition: &Match) {
    match condition {
        Match::Is { load, value, negated } => {
            loading(list, *load, REGISTER);
            comparing(list, value, *negated);
        }
        Match::Bits { load, mask, value, negated } => {
            loading(list, *load, REGISTER);
            expression(list, "bitwise", |data| {
                data.be32(1, REGISTER).be32(2, REGISTER).be32(3, mask.len() as u32);
                data.nest(4, |value| _ = value.bytes(DATA_VALUE, mask));
                data.nest(5, |value| _ = value.bytes(DATA_VALUE, &vec![0; mask.len()]));
            });
            comparing(list, value, *negated);
        }
        Match::Over { load, set, per_second } => limiting(list, *load, *set, *per_second),
        Match::In { loads, set, negated } => {
            let mut register = REGISTER;
            for load in loads {
                loading(list, *load, register);
                register += load.length().div_ceil(4) as u32;
            }
            expression(list, "lookup", |data| {
                data.text(1, set.name()).be32(2, REGISTER).be32(4, *set as u32 + 1).be32(5, u32::from(*negated));
            });
        }
    }
}

/// A rule that goes on only when `load` came oftener than so many times in a second.
fn limiting(list: &mut Writer<'_>, load: Load, set: Set, per_second: u32) {
    loading(list, load, REGISTER);
    expression(list, "dynset", |data| {
        data.text(1, set.name()).be32(2, set as u32 + 1).be32(3, 1 /* update */).be32(4, REGISTER);
        data.nest(7, |limit| {
            limit.text(EXPRESSION_NAME, "limit").nest(EXPRESSION_DATA, |data| {
                // Rate, unit in seconds, burst, kind (packets), flags (go on when over).
                data.be64(1, per_second.into()).be64(2, 1).be32(3, per_second).be32(4, 0).be32(5, 1);
            });
        });
    });
}

fn loading(list: &mut Writer<'_>, load: Load, register: u32) {
    match load {
        Load::Meta { key, .. } => expression(list, "meta", |data| _ = data.be32(1, register).be32(2, key)),
        Load::Payload { base, offset, length } => expression(list, "payload", |data| {
            data.be32(1, register).be32(2, base).be32(3, offset).be32(4, length as u32);
        }),
        Load::ConnectionState => expression(list, "ct", |data| _ = data.be32(1, register).be32(2, 0)),
    }
}

fn comparing(list: &mut Writer<'_>, value: &[u8], negated: bool) {
    expression(list, "cmp", |data| {
        data.be32(1, REGISTER).be32(2, u32::from(negated)).nest(3, |inner| _ = inner.bytes(DATA_VALUE, value));
    });
}

fn verdict(list: &mut Writer<'_>, verdict: Verdict) {
    // From linux/netfilter.h and linux/netfilter/nf_tables.h: the kernel's own are negative.
    let (code, chain) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(chain) => (-3_i32 as u32, Some(chain)),
        Verdict::Goto(chain) => (-4_i32 as u32, Some(chain)),
        Verdict::Masquerade => return expression(list, "masq", |_| {}),
        Verdict::Forward(link) => {
            expression(list, "immediate", |data| {
                data.be32(1, REGISTER).nest(2, |inner| _ = inner.bytes(DATA_VALUE, &link.to_ne_bytes()));
            });
            return expression(list, "fwd", |data| _ = data.be32(1, REGISTER));
        }
    };
    expression(list, "immediate", |data| {
        data.be32(1, VERDICT_REGISTER).nest(2, |inner| {
            inner.nest(DATA_VERDICT, |inner| {
                inner.be32(1, code);
                if let Some(chain) = chain {
                    inner.text(2, chain);
                }
            });
        });
    });
}
