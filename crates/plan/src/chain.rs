//! Where each end of a chain's links leads.
//!
//! A chain is nothing but links: that of its end and two for each function have their other end on the host, beside an
//! uplink into the network, and what comes in by one of these ends leaves by another. Which one is decided here. To change
//! a chain is to change that in one act.

use model::{ChainSpec, Hop, NicId, OnFailure};

/// An end of a link on the host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChainPort {
    /// That of the network.
    Uplink,
    /// That of a NIC.
    Nic(NicId),
}

/// By which end leaves what comes in by which. `is_there`: whether a NIC has its link.
///
/// What a function sends goes on though it is passed by itself: nothing is lost that was in it when it was taken out.
pub fn patches(chain: &ChainSpec, is_there: impl Fn(&NicId) -> bool) -> Vec<(ChainPort, ChainPort)> {
    let on_path =
        |hop: &&Hop| !hop.bypassed && (chain.on_failure == OnFailure::Block || hop.nics().iter().all(&is_there));
    // The NICs that look at somebody between two functions, from his right and from his left.
    let next = |after: usize| {
        let hop = chain.hops.iter().skip(after).find(on_path);
        ChainPort::Nic(hop.map_or_else(|| chain.to.clone(), |hop| hop.nics()[0].clone()))
    };
    let previous = |before: usize| {
        let hop = chain.hops.iter().take(before).rev().find(on_path);
        hop.map_or(ChainPort::Uplink, |hop| ChainPort::Nic(hop.nics()[1].clone()))
    };
    let mut patches =
        vec![(ChainPort::Uplink, next(0)), (ChainPort::Nic(chain.to.clone()), previous(chain.hops.len()))];
    for (n, hop) in chain.hops.iter().enumerate() {
        let [inward, outward] = hop.nics().map(ChainPort::Nic);
        patches.push((inward, previous(n)));
        patches.push((outward, next(n + 1)));
    }
    let exists = |port: &ChainPort| match port {
        ChainPort::Uplink => true,
        ChainPort::Nic(nic) => is_there(nic),
    };
    patches.retain(|(from, to)| exists(from) && exists(to));
    patches
}

/// What a chain is while it changes: who comes has no part yet, and who goes is passed by. Links are made before and removed
/// after it, so that no packet meets one that is not there.
pub fn between(old: &ChainSpec, new: &ChainSpec) -> ChainSpec {
    let stays = |hop: &Hop| new.hops.iter().find(|other| other.nics() == hop.nics());
    let hops = old.hops.iter().map(|hop| stays(hop).cloned().unwrap_or_else(|| Hop { bypassed: true, ..hop.clone() }));
    ChainSpec { hops: hops.collect(), ..new.clone() }
}

#[cfg(test)]
mod tests {
    use model::InstanceId;
    use uuid::Uuid;

    use super::*;

    fn nic(id: u128, device: &str) -> NicId {
        NicId { id: InstanceId(Uuid::from_u128(id)), device: device.parse().expect("name") }
    }

    fn chain(functions: &[(u128, bool)], on_failure: OnFailure) -> ChainSpec {
        let hop = |&(id, bypassed): &(u128, bool)| {
            let [inward, outward] = ["in", "out"].map(|device| device.parse().expect("name"));
            Hop { function: InstanceId(Uuid::from_u128(id)), inward, outward, bypassed }
        };
        let hops = functions.iter().map(hop).collect();
        ChainSpec { from: "br0".parse().expect("name"), to: nic(9, "eth0"), hops, on_failure }
    }

    /// The way from the network to the end and back, as numbers of instances; 0 is the network.
    fn ways(chain: &ChainSpec, missing: &[u128]) -> (Vec<u128>, Vec<u128>) {
        let number = |nic: &NicId| nic.id.0.as_u128();
        let patches = patches(chain, |nic| !missing.contains(&number(nic)));
        let follow = |start: ChainPort| {
            let (mut way, mut port) = (Vec::new(), start);
            while let Some((_, to)) = patches.iter().find(|(from, _)| *from == port) {
                let ChainPort::Nic(nic) = to else {
                    way.push(0);
                    break;
                };
                way.push(number(nic));
                // Through the function: in by one NIC, out by the other.
                let Some(hop) = chain.hops.iter().find(|hop| hop.function == nic.id) else { break };
                let [inward, outward] = hop.nics();
                port = ChainPort::Nic(if *nic == inward { outward } else { inward });
            }
            way
        };
        (follow(ChainPort::Uplink), follow(ChainPort::Nic(chain.to.clone())))
    }

    #[test]
    fn packets_pass_all_functions_in_their_order_and_back() {
        let block = |functions: &[(u128, bool)]| chain(functions, OnFailure::Block);
        assert_eq!(ways(&block(&[]), &[]), (vec![9], vec![0]));
        assert_eq!(ways(&block(&[(1, false), (2, false)]), &[]), (vec![1, 2, 9], vec![2, 1, 0]));
        assert_eq!(ways(&block(&[(1, true), (2, false), (3, true)]), &[]), (vec![2, 9], vec![2, 0]));
        assert_eq!(ways(&block(&[(1, true)]), &[]), (vec![9], vec![0]));
    }

    #[test]
    fn nothing_passes_a_function_that_is_down_unless_that_is_wished() {
        let both = [(1, false), (2, false)];
        assert_eq!(ways(&chain(&both, OnFailure::Block), &[2]), (vec![1], vec![]));
        assert_eq!(ways(&chain(&both, OnFailure::Bypass), &[2]), (vec![1, 9], vec![1, 0]));
        assert_eq!(ways(&chain(&both, OnFailure::Bypass), &[9]), (vec![1, 2], vec![]));
    }

    #[test]
    fn what_a_function_sends_goes_on_when_it_is_passed_by() {
        let chain = chain(&[(1, false), (2, true), (3, false)], OnFailure::Block);
        let patches = patches(&chain, |_| true);
        assert!(patches.contains(&(ChainPort::Nic(nic(2, "out")), ChainPort::Nic(nic(3, "in")))));
        assert!(patches.contains(&(ChainPort::Nic(nic(2, "in")), ChainPort::Nic(nic(1, "out")))));
        assert!(!patches.iter().any(|(_, to)| matches!(to, ChainPort::Nic(nic) if nic.id.0.as_u128() == 2)));
    }

    #[test]
    fn who_comes_has_no_part_yet_and_who_goes_is_passed_by() {
        let old = chain(&[(1, false), (2, false)], OnFailure::Block);
        let new = chain(&[(3, false), (2, true)], OnFailure::Bypass);
        assert_eq!(between(&old, &new), chain(&[(1, true), (2, true)], OnFailure::Bypass));
    }
}
