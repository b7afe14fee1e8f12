//! What a change would lead to, without making it: its steps, and what it means for others.
//!
//! What would be refused is refused here, in the same words.

use std::collections::BTreeSet;

use config::{JoinPolicy, Map};
use model::{ChainSpec, Hop, InstanceId, NetworkName, NicId, NicSpec, OnFailure, ProjectName, Step, Wish};

use crate::chains::NewNetwork;
use crate::engine::Engine;
use crate::error::Result;
use crate::record::InstanceRecord;
use crate::shared::Shared;
use crate::verbs::Verb;
use crate::view::InstanceView;

/// What a change would do.
#[derive(Debug, Clone, PartialEq)]
pub struct Foreseen {
    /// Its own steps, in their order.
    pub steps: Vec<Step>,
    /// What it means for others.
    pub others: Vec<Consequence>,
}

/// What becomes of somebody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consequence {
    /// Path of it.
    pub object: String,
    /// What becomes of it, in words.
    pub text: String,
}

impl Engine {
    /// What a verb would do.
    pub fn foresee(&self, project: &ProjectName, name: &str, verb: &Verb) -> Result<Foreseen> {
        let view = self.instance(project, name)?;
        let wish = self.wish_after(&view, verb)?;
        let runs = view.record.wish.power.boot().is_some();
        let mut others = if runs { self.shared.consequences(&view.record, verb) } else { Vec::new() };
        others.extend(self.shared.far_ends(&view, &wish));
        Ok(Foreseen { steps: plan::diff(&wish, &view.observed, self.facts()), others })
    }

    /// What [`Engine::create_network`] would do.
    pub fn foresee_new_network(&self, new: NewNetwork) -> Result<Foreseen> {
        let record = self.new_chain(new)?;
        let others = self.shared.of_chain(None, record.chain());
        Ok(Foreseen { steps: vec![Step::EnsureNetwork { network: record.spec }], others })
    }

    /// What [`Engine::change_network`] would do.
    pub fn foresee_network(
        &self,
        name: &NetworkName,
        description: Option<String>,
        config: Map,
        expect: Option<String>,
    ) -> Result<Foreseen> {
        let (before, after) = self.changed_chain(name, description, config, expect)?;
        let others = self.shared.of_chain(before.chain(), after.chain());
        let steps =
            if before.spec == after.spec { Vec::new() } else { vec![Step::EnsureNetwork { network: after.spec }] };
        Ok(Foreseen { steps, others })
    }

    /// What [`Engine::delete_network`] would do.
    pub fn foresee_no_network(&self, name: &NetworkName) -> Result<Foreseen> {
        let record = self.chain_record(name)?;
        let others = self.shared.of_chain(record.chain(), None);
        Ok(Foreseen { steps: vec![Step::RemoveNetwork { name: name.clone() }], others })
    }
}

impl Shared {
    /// What becomes of those who live with an instance that runs.
    fn consequences(&self, record: &InstanceRecord, verb: &Verb) -> Vec<Consequence> {
        let mut found = Vec::new();
        if matches!(verb, Verb::Stop(_) | Verb::Restart(_)) {
            for (name, policy) in self.living_with(record) {
                let text = match (policy, verb) {
                    (JoinPolicy::StopWith, Verb::Stop(_)) => {
                        "is stopped first, as its namespaces.join.policy is stop-with"
                    }
                    (JoinPolicy::StopWith, _) => "is restarted afterwards, as its namespaces.join.policy is stop-with",
                    (JoinPolicy::Detach, _) => {
                        "goes on in these namespaces, which live as long as it does: its namespaces.join.policy is detach"
                    }
                    // Who requires it has it refused.
                    (JoinPolicy::Require, _) => continue,
                };
                found.push(about("instances", name.as_str(), text));
            }
        }
        if matches!(verb, Verb::Stop(_) | Verb::Restart(_) | Verb::Freeze) {
            for (name, on_failure) in self.catalog().passing(record.id) {
                let text = match on_failure {
                    OnFailure::Block => format!("lets nothing pass until {} runs again", record.name),
                    OnFailure::Bypass => format!("has packets pass {} by until it runs again", record.name),
                };
                // Who is held still is there: its links are up, and nothing comes out of them.
                let text = if matches!(verb, Verb::Freeze) {
                    format!("lets nothing pass until {} goes on", record.name)
                } else {
                    text
                };
                found.push(about("networks", name.as_str(), &text));
            }
        }
        found
    }

    /// What becomes of those at the far ends of its wires, which are there while both run.
    fn far_ends(&self, view: &InstanceView, wish: &Wish) -> Vec<Consequence> {
        let seen = view.seen().into_iter().flat_map(|seen| seen.nics.values());
        let had: BTreeSet<NicId> = seen.filter_map(|nic| Some(nic.wire.as_ref()?.to.clone())).collect();
        let runs = wish.exists && wish.power.boot().is_some();
        let wires = wish.spec.nics.iter().filter_map(NicSpec::wire).map(|end| end.to.clone());
        let will: BTreeSet<NicId> = wires.filter(|_| runs).collect();
        let is_anew = view.record.wish.power.boot() != wish.power.boot();
        let own = &view.record.name;
        let ends = had.union(&will).filter_map(|end| {
            let text = match (had.contains(end), will.contains(end)) {
                (true, false) if runs => format!("loses its {}, a wire to {own}", end.device),
                (true, false) => format!("loses its {}, a wire to {own}, until that runs again", end.device),
                (false, _) => format!("gets its {}, a wire to {own}", end.device),
                (true, true) if is_anew => format!("has its {}, a wire to {own}, made anew", end.device),
                (true, true) => return None,
            };
            Some(about("instances", self.name_of(end.id)?.as_str(), &text))
        });
        ends.collect()
    }

    /// What becomes of the members of a chain that changes.
    fn of_chain(&self, before: Option<&ChainSpec>, after: Option<&ChainSpec>) -> Vec<Consequence> {
        let name = |id: InstanceId| self.name_of(id).map_or_else(|| id.to_string(), |name| name.to_string());
        let hops = |chain: Option<&'_ ChainSpec>| chain.map(|chain| chain.hops.clone()).unwrap_or_default();
        let (old, new) = (hops(before), hops(after));
        let same = |hop: &Hop, others: &[Hop]| others.iter().find(|other| other.nics() == hop.nics()).cloned();
        let mut found = Vec::new();
        for hop in &old {
            if same(hop, &new).is_none() {
                let text = format!("loses its links {} and {}", hop.inward, hop.outward);
                found.push(about("instances", &name(hop.function), &text));
            }
        }
        for hop in &new {
            let text = match same(hop, &old) {
                None if hop.bypassed => {
                    format!("gets links {} and {}, and packets pass it by", hop.inward, hop.outward)
                }
                None => format!("gets links {} and {}, and packets go through it", hop.inward, hop.outward),
                Some(was) if was.bypassed && !hop.bypassed => "has packets go through it".to_owned(),
                Some(was) if !was.bypassed && hop.bypassed => "has packets pass it by".to_owned(),
                Some(_) => continue,
            };
            found.push(about("instances", &name(hop.function), &text));
        }
        match (before, after) {
            (None, Some(chain)) => {
                let text =
                    format!("has its {} taken off {} and put at the end of the chain", chain.to.device, chain.from);
                found.push(about("instances", &name(chain.to.id), &text));
            }
            (Some(chain), None) => {
                let text = format!("has its {} on {} again", chain.to.device, chain.from);
                found.push(about("instances", &name(chain.to.id), &text));
            }
            _ => {}
        }
        found
    }
}

pub(crate) fn about(kind: &str, name: &str, text: &str) -> Consequence {
    Consequence { object: format!("/1.0/{kind}/{name}"), text: format!("{name} {text}") }
}
