//! Wires between guests: how they are made and what is written on them.

use std::os::fd::AsFd;

use model::{Boot, DeviceName, InstanceId, NicId, NicSpec, WireSeen};
use network::link::{self, Alias, Link, LinkName, WireSide};
use network::{Error, Result};
use sha2::{Digest, Sha256};

use super::{MTU, Networks};
use crate::host::keeper::GuestNetwork;

/// What the alias of each end has behind our mark.
const WIRE: &str = "wire:";

impl Networks {
    /// Joins two guests: the NIC of the one with that at its far end.
    pub(crate) fn join(
        &self,
        boot: Boot,
        nic: &NicSpec,
        near: &mut GuestNetwork,
        far: &mut GuestNetwork,
    ) -> Result<()> {
        let far_nic = nic.mirrored(boot.id, boot.generation).ok_or_else(|| no_wire(nic))?;
        let sides = self.sides(boot, (nic, near), (&far_nic, far))?;
        let own = NicId { id: boot.id, device: nic.device.clone() };
        let temporary = temporary_name(&own, &nic.wire().ok_or_else(|| no_wire(nic))?.to)?;
        link::join_guests(&mut self.state().route, &temporary, nic.mtu.unwrap_or(MTU), sides)
    }

    /// Takes the end away that a guest has of a wire to where the other was before its boot. `is_new`: whether near and far
    /// guest live in networks in which there was no wire yet.
    pub(crate) fn remove_stale(
        &self,
        boot: Boot,
        nic: &NicSpec,
        near: &mut GuestNetwork,
        far: &mut GuestNetwork,
        is_new: [bool; 2],
    ) -> Result<()> {
        let far_nic = nic.mirrored(boot.id, boot.generation).ok_or_else(|| no_wire(nic))?;
        let sides = self.sides(boot, (nic, near), (&far_nic, far))?;
        let stale = sides.into_iter().zip(is_new.into_iter().rev()).filter(|(_, other_is_new)| *other_is_new);
        stale.into_iter().try_for_each(|(mut side, _)| link::remove_stale(&mut side))
    }

    fn sides<'a>(
        &self,
        boot: Boot,
        (nic, near): (&'a NicSpec, &'a mut GuestNetwork),
        (far_nic, far): (&'a NicSpec, &'a mut GuestNetwork),
    ) -> Result<[WireSide<'a>; 2]> {
        let to = &nic.wire().ok_or_else(|| no_wire(nic))?.to;
        let made = nic.wire_seen(boot.id).ok_or_else(|| no_wire(nic))?.made;
        let own = NicId { id: boot.id, device: nic.device.clone() };
        let (alias, far_alias) = (self.alias(&own, to, made)?, self.alias(to, &own, made)?);
        Ok([
            WireSide { netns: near.namespace.as_fd(), socket: &mut near.socket, alias, nic },
            WireSide { netns: far.namespace.as_fd(), socket: &mut far.socket, alias: far_alias, nic: far_nic },
        ])
    }

    /// The ends of wires of ours in a guest.
    pub(crate) fn wires(&self, guest: &mut GuestNetwork) -> Result<Vec<Link>> {
        link::marked(&mut guest.socket, &format!("{}{WIRE}", self.mark))
    }

    /// Whose end this is, whose the other, and how it was made:
    /// `sysctl:<mark>:wire:<instance>:<device>:<instance>:<device>:<made>`.
    fn alias(&self, own: &NicId, far: &NicId, made: u64) -> Result<Alias> {
        format!("{}{WIRE}{}:{}:{}:{}:{made:016x}", self.mark, own.id, own.device, far.id, far.device).parse()
    }
}

fn no_wire(nic: &NicSpec) -> Error {
    Error::NoLink { name: nic.device.to_string() }
}

/// Reads an alias: the device of an instance whose end this is, and which wire it is.
pub(crate) fn wire_of(alias: &str, id: InstanceId) -> Option<(DeviceName, WireSeen)> {
    let (_, rest) = alias.split_once(WIRE)?;
    let mut parts = rest.split(':');
    let mut part = || parts.next();
    let (own, device) = (part()?.parse::<InstanceId>().ok()?, part()?.parse().ok()?);
    let to = NicId { id: part()?.parse().ok()?, device: part()?.parse().ok()? };
    let made = u64::from_str_radix(part()?, 16).ok()?;
    (own == id && part().is_none()).then_some((device, WireSeen { to, made }))
}

/// What both ends are called until they have their names; the same from either end.
fn temporary_name(one: &NicId, other: &NicId) -> Result<LinkName> {
    let (first, second) = if one < other { (one, other) } else { (other, one) };
    let digest = Sha256::digest(format!("{}:{}={}:{}", first.id, first.device, second.id, second.device));
    let hex: String = digest[..6].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sw{hex}").parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_on_an_end_reads_back_for_its_owner_alone() {
        let id = |n| InstanceId(uuid::Uuid::from_u128(n));
        let to = |n, device: &str| NicId { id: id(n), device: device.parse().expect("name") };
        let alias = format!("sysctl:0a1b2c:wire:{}:eth1:{}:wan:{:016x}", id(1), id(2), 7);
        let seen = WireSeen { to: to(2, "wan"), made: 7 };
        assert_eq!(wire_of(&alias, id(1)), Some(("eth1".parse().expect("name"), seen)));
        assert_eq!(wire_of(&alias, id(2)), None);
        assert_eq!(wire_of(&format!("{alias}:more"), id(1)), None);
        let (near, far, other) = (to(1, "eth1"), to(2, "wan"), to(2, "lan"));
        let name = |a, b| temporary_name(a, b).expect("a name");
        assert_eq!(name(&near, &far), name(&far, &near));
        assert_ne!(name(&near, &far), name(&near, &other));
    }
}
