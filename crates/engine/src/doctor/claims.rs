//! What instances were given against what is claimed for them in the database; nobody has what another has.

use std::collections::BTreeSet;

use model::IdMap;
use store::Op;

use super::{Diagnosis, Rows};
use crate::access::Cure;
use crate::allocate;

/// What can be claimed.
pub(super) const SPACES: [&str; 5] = ["instance-name", "ids", "mac", "address", "namespace-name"];

/// A claim: what kind of thing, which one, whose.
type Claim = (&'static str, String, String);

pub(super) fn check(rows: &Rows, found: &BTreeSet<Claim>, diagnosis: &mut Diagnosis) {
    let of_instances = rows.instances.iter().flat_map(|view| allocate::claims(&view.record));
    let all = of_instances.chain(rows.namespaces.iter().flat_map(crate::NamespaceRecord::claims));
    let wanted: BTreeSet<Claim> = all.filter_map(claim).collect();
    let left_out: BTreeSet<String> = rows.under_way.iter().map(ToString::to_string).collect();
    let at_rest = |claim: &&Claim| !left_out.contains(&claim.2);
    for (space, value, owner) in found.difference(&wanted).filter(at_rest) {
        let text = format!("{value} is claimed for {owner}, which does not have it");
        let release = Op::Release { space, value: value.clone() };
        diagnosis.wrong("claim", format!("{space} {value}"), text, Cure::Claims(vec![release]));
    }
    for (space, value, owner) in wanted.difference(found).filter(at_rest) {
        let text = format!("{value} is not claimed for {owner}, which has it");
        let claim = Op::Claim { space, value: value.clone(), owner: owner.clone() };
        // Should somebody else have it, that one's claim was told and goes first.
        diagnosis.wrong("claim", format!("{space} {value} of {owner}"), text, Cure::Claims(vec![claim]));
    }
    let mut ids: Vec<(IdMap, String)> =
        rows.at_rest().map(|view| (view.record.wish.ids, view.record.name.to_string())).collect();
    ids.extend(rows.namespaces.iter().filter_map(|object| Some((object.ids?, object.label()))));
    ids.sort_by_key(|(map, _)| map.base);
    for pair in ids.windows(2) {
        let [(first, one), (second, other)] = pair else { continue };
        if first.overlaps(*second) {
            let text = format!("has ids {}:{}, some of which {other} has, too", first.base, first.count);
            let fix = format!(
                "copy the files of one of them to a new instance and delete it: {one} and {other} reach each other's files"
            );
            diagnosis.wrong("instance", one, text, Cure::People(fix));
        }
    }
}

fn claim(op: Op) -> Option<Claim> {
    if let Op::Claim { space, value, owner } = op { Some((space, value, owner)) } else { None }
}
