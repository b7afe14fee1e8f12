//! Chains: an uplink into the network for each, and where the links of its functions and its end lead.

use std::collections::BTreeMap;

use model::{ChainSpec, Mac, NetworkName, NetworkSpec, NicId};
use network::link::{self, LinkName, UplinkSpec};
use network::nft::{self, NicRules, Patch};
use network::{Error, Result};
use plan::{ChainPort, patches};
use sha2::{Digest, Sha256};

use super::{AttachedNic, MTU, Networks, State};

/// A chain that is there.
#[derive(Debug, Clone)]
pub(super) struct RunningChain {
    pub(super) spec: NetworkSpec,
    chain: ChainSpec,
    /// The end of the uplink that is patched; the other is a port of the bridge and has the chain's name.
    inner: LinkName,
}

impl Networks {
    /// Makes a chain, or brings the one that is there to what it should be, by one change of all its patches.
    pub(super) fn ensure_chain(&self, state: &mut State, spec: &NetworkSpec, chain: &ChainSpec) -> Result<()> {
        let name: LinkName = spec.name.as_str().parse()?;
        let no_network = || Error::NoLink { name: chain.from.to_string() };
        let (bridge, mtu) = {
            let network = state.running.get(&chain.from).ok_or_else(no_network)?;
            (network.index, network.spec.mtu.unwrap_or(MTU))
        };
        let inner = inner_name(&self.mark, &spec.name)?;
        let alias = format!("{}{}", self.mark, spec.name).parse()?;
        let uplink = UplinkSpec { name: name.clone(), alias, inner: inner.clone(), bridge, mtu };
        link::ensure_uplink(&mut state.route, &uplink)?;
        // Functions send as others, whose packets they pass on. Nothing comes by the uplink before it is patched.
        let rules = NicRules { port: name.clone(), mac: Mac([0; 6]), ipv4: None, ipv6: None, spoofing: true };
        state.nics.retain(|known| known.port != name);
        state.nics.push(rules.clone());
        self.guard(state, |socket| nft::allow_nic(socket, &self.table, &rules))?;
        let running = RunningChain { spec: spec.clone(), chain: chain.clone(), inner };
        let before = state.chains.insert(spec.name.clone(), running);
        let patched = self.repatch(state);
        if patched.is_err()
            && let Some(before) = before
        {
            state.chains.insert(spec.name.clone(), before);
        }
        patched
    }

    /// Removes a chain; false when there is none of that name.
    pub(super) fn remove_chain(&self, state: &mut State, name: &NetworkName) -> Result<bool> {
        let link: LinkName = name.as_str().parse()?;
        let alias = format!("{}{name}", self.mark);
        let is_ours =
            |link: &link::Link| link.kind.as_deref() == Some("veth") && link.alias.as_deref() == Some(alias.as_str());
        let is_there = link::find(&mut state.route, &link)?.is_some_and(|link| is_ours(&link));
        if state.chains.remove(name).is_none() && !is_there {
            return Ok(false);
        }
        self.repatch(state)?;
        if is_there {
            link::remove(&mut state.route, &link, &alias.parse()?)?;
        }
        let rules = state.nics.iter().find(|nic| nic.port == link).cloned();
        state.nics.retain(|nic| nic.port != link);
        if let Some(rules) = rules {
            self.guard(state, |socket| nft::forget_nic(socket, &self.table, &rules))?;
        }
        Ok(true)
    }

    /// Has all frames go where they should, as far as there are links.
    pub(super) fn repatch(&self, state: &mut State) -> Result<()> {
        if state.chains.is_empty() {
            return Ok(());
        }
        let patches = wanted(state)?;
        let Some(socket) = &mut state.firewall else {
            return Err(Error::NoFirewall {
                act: "patch the links of",
                reason: ": chains need it".into(),
                errno: kernel::Errno::OPNOTSUPP,
            });
        };
        nft::patch(socket, &self.table, &patches)
    }

    /// Puts a link that was patched back to where its frames go without.
    pub(super) fn unpatch(&self, state: &mut State, link: &LinkName) -> Result<()> {
        match &mut state.firewall {
            Some(socket) => nft::unpatch(socket, &self.table, link),
            None => Ok(()),
        }
    }

    /// What is wrong with the patches.
    pub(super) fn damage_of_patches(&self, state: &mut State) -> Result<Option<&'static str>> {
        if state.chains.is_empty() {
            return Ok(None);
        }
        let patches = wanted(state)?;
        let Some(socket) = &mut state.firewall else { return Ok(None) };
        let wrong = nft::unpatched(socket, &self.table, &patches)?;
        Ok((!wrong.is_empty()).then_some("its patches are not ours"))
    }
}

impl RunningChain {
    /// Whether a link is the end of its uplink that is patched.
    pub(super) fn is_inner(&self, link: &str) -> bool {
        self.inner.as_str() == link
    }
}

/// The link of each NIC that has a part in a chain, by its newest boot: name, index, hardware address.
fn present(state: &mut State) -> Result<BTreeMap<NicId, (LinkName, u32, Mac)>> {
    let mut found = BTreeMap::new();
    let wanted: Vec<NicId> = state.chains.values().flat_map(|chain| chain.chain.nics()).collect();
    // Boots are in their order, so that the newest one's link is the last.
    let mut links: Vec<(NicId, AttachedNic)> = Vec::new();
    let mut attached: Vec<_> = state.attached.values().filter(|(_, nic)| nic.chained).collect();
    attached.sort_by_key(|(boot, _)| *boot);
    for (boot, nic) in attached {
        let id = NicId { id: boot.id, device: nic.device.clone() };
        if wanted.contains(&id) {
            links.push((id, nic.clone()));
        }
    }
    for (id, nic) in links {
        if let Some(link) = link::find(&mut state.route, &nic.host_name)? {
            found.insert(id, (nic.host_name, link.index, nic.rules.mac));
        }
    }
    Ok(found)
}

/// Every link that has a part in a chain, and where its frames go.
fn wanted(state: &mut State) -> Result<Vec<Patch>> {
    let links = present(state)?;
    let mut all = Vec::new();
    let chains: Vec<RunningChain> = state.chains.values().cloned().collect();
    for RunningChain { chain, inner, .. } in chains {
        let Some(uplink) = link::find(&mut state.route, &inner)? else { continue };
        let ways: BTreeMap<ChainPort, ChainPort> = patches(&chain, |nic| links.contains_key(nic)).into_iter().collect();
        let index = |port: &ChainPort| match port {
            ChainPort::Uplink => Some(uplink.index),
            ChainPort::Nic(nic) => links.get(nic).map(|(_, index, _)| *index),
        };
        let to = |from: ChainPort| ways.get(&from).and_then(index);
        all.push(Patch { link: inner.clone(), only_from: None, to: to(ChainPort::Uplink) });
        for nic in chain.nics() {
            let Some((link, _, mac)) = links.get(&nic) else { continue };
            // Who is at the end sends as itself alone; functions pass on what others sent.
            let only_from = (nic == chain.to).then_some(*mac);
            all.push(Patch { link: link.clone(), only_from, to: to(ChainPort::Nic(nic)) });
        }
    }
    Ok(all)
}

fn inner_name(mark: &str, chain: &NetworkName) -> Result<LinkName> {
    let digest = Sha256::digest(format!("{mark}{chain}"));
    let hex: String = digest[..6].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sp{hex}").parse()
}
