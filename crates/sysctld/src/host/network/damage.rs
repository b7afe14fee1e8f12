//! What somebody else did to our links, bridges and tables.

use std::collections::BTreeMap;

use engine::{Cure, Damage, Guard, Inventory, Object};
use model::{Boot, DeviceName};
use network::link::{self, Link, LinkName};
use network::netlink::Socket;
use network::nft::{self, Contents, NetworkRules, NicRules};
use network::{Error, Result, tunable};

use super::{AttachedNic, Networks, State};

impl Networks {
    /// Adds everything of ours that is about networks. The kernel is asked through sockets of its own.
    pub(crate) fn inspect(
        &self,
        attached: Vec<(Boot, DeviceName, AttachedNic)>,
        inventory: &mut Inventory,
    ) -> Result<()> {
        let mut route = Socket::route()?;
        let links = link::list(&mut route)?;
        let addresses = link::addresses(&mut route, None)?;
        let mut state = self.state();
        let patches = self.damage_of_patches(&mut state)?;
        let ours = links.iter().filter(|link| !state.leaving.contains(&link.name));
        for (link, rest) in ours.filter_map(|link| Some((link, link.alias.as_deref()?.strip_prefix(&self.mark)?))) {
            let name = link.name.clone();
            inventory.objects.push(match rest.split_once(':').map(|(boot, device)| (boot.parse(), device.parse())) {
                Some((Ok(boot), Ok(device))) => Object::Link(boot, device, name),
                Some(_) => Object::Stray { kind: "link", name },
                None => Object::Bridge(name),
            });
        }
        let bridges: Vec<u32> = state.running.values().map(|running| running.index).collect();
        for (boot, device, nic) in attached {
            let found = links.iter().find(|link| link.name == nic.host_name.as_str());
            let text = match found {
                None => Some("is gone"),
                Some(link) => of_link(link, &bridges, nic.chained),
            };
            let object = format!("{} ({device} of {boot})", nic.host_name);
            let damage =
                |text: &str| Damage { kind: "link", object, text: text.into(), of: Some(boot.id), cure: Cure::Loop };
            inventory.damage.extend(text.map(damage));
            // Whoever writes on a link may have taken it over: only people can say that it is still ours.
            if let Some(link) = found.filter(|link| link.alias.as_deref() != Some(nic.alias.as_str())) {
                let text = "does not carry our mark".to_owned();
                let fix = format!("ip link set {} alias {}", link.name, nic.alias.as_str());
                let (object, of) = (link.name.clone(), Some(boot.id));
                inventory.damage.push(Damage { kind: "link", object, text, of, cure: Cure::People(fix) });
            }
        }
        inventory.damage.extend(patches.map(|text| Damage {
            kind: "firewall",
            object: self.table.to_string(),
            text: text.into(),
            of: None,
            cure: Cure::Loop,
        }));
        inventory.damage.extend(of_bridges(&state, &links, &addresses));
        inventory.damage.extend(of_settings(&state));
        let (has_firewall, rules, nics) = (state.firewall.is_some(), state.rules(), state.nics.clone());
        drop(state);
        if has_firewall {
            self.inspect_firewall(&rules, &nics, inventory)
        } else {
            inventory.notes.push((
                "this kernel has no nf_tables".into(),
                "guests are not guarded against one another and there is no NAT; use a kernel with CONFIG_NF_TABLES"
                    .into(),
            ));
            Ok(())
        }
    }

    fn inspect_firewall(&self, rules: &[NetworkRules], nics: &[NicRules], inventory: &mut Inventory) -> Result<()> {
        let (found, text) = match nft::contents(&mut Socket::netfilter()?, &self.table) {
            Err(Error::NoTable { .. }) => (Vec::new(), Some("its tables are gone")),
            Err(error) => return Err(error),
            Ok(found) => {
                let text = of_firewall(&found, rules, nics);
                (found.nics, text)
            }
        };
        inventory.objects.extend(found.iter().map(|nic| Object::Guarded(nic.port.to_string())));
        let guard = |nic: NicRules| Guard {
            port: nic.port.to_string(),
            mac: (!nic.spoofing).then_some(nic.mac),
            ipv4: nic.ipv4,
            ipv6: nic.ipv6,
        };
        inventory.guards = Some(found.into_iter().map(guard).collect());
        if let Some(text) = text.filter(|_| !rules.is_empty()) {
            let object = self.table.to_string();
            inventory.damage.push(Damage { kind: "firewall", object, text: text.into(), of: None, cure: Cure::Loop });
        }
        Ok(())
    }
}

/// What is wrong with the host's end of a guest's link.
pub(super) fn of_link(link: &Link, bridges: &[u32], chained: bool) -> Option<&'static str> {
    if !link.up {
        Some("is down")
    } else if chained {
        link.master.map(|_| "is a bridge's port, and not its chain's")
    } else if !bridges.is_empty() && !link.master.is_some_and(|master| bridges.contains(&master)) {
        Some("is not connected to its bridge")
    } else {
        None
    }
}

/// What is wrong with our part of the firewall.
pub(super) fn of_firewall(found: &Contents, rules: &[NetworkRules], nics: &[NicRules]) -> Option<&'static str> {
    let networks = |rules: &[NetworkRules]| -> BTreeMap<LinkName, NetworkRules> {
        rules.iter().map(|rules| (rules.bridge.clone(), rules.clone())).collect()
    };
    // The firewall knows no addresses of a link that may send from any.
    let plain = |nic: &NicRules| match nic.spoofing {
        true => NicRules { mac: model::Mac([0; 6]), ipv4: None, ipv6: None, ..nic.clone() },
        false => nic.clone(),
    };
    let links = |nics: &[NicRules]| -> BTreeMap<LinkName, NicRules> {
        nics.iter().map(|nic| (nic.port.clone(), plain(nic))).collect()
    };
    if !found.intact {
        Some("its rules are not ours")
    } else if networks(&found.networks) != networks(rules) {
        Some("its networks are not ours")
    } else if links(&found.nics) != links(nics) || found.faults > 0 {
        Some("its links are not ours")
    } else {
        None
    }
}

fn of_bridges(state: &State, links: &[Link], addresses: &[link::Address]) -> Vec<Damage> {
    let mut found = Vec::new();
    for running in state.running.values() {
        let name = running.spec.name.as_str();
        // That there is none is seen from the network.
        let Some(link) = links.iter().find(|link| link.name == name) else { continue };
        let mut wrong = |text: String| {
            found.push(Damage { kind: "bridge", object: name.to_owned(), text, of: None, cure: Cure::Loop });
        };
        if !link.up {
            wrong("is down".into());
        }
        if link.index != running.index || !running.is_whole() {
            wrong("is another one than its DHCP and DNS are answered at".into());
        }
        let wanted = running.spec.ipv4.into_iter().chain(running.spec.ipv6);
        for lost in wanted.filter(|cidr| !addresses.iter().any(|a| a.index == link.index && a.cidr == *cidr)) {
            wrong(format!("has lost its address {lost}"));
        }
    }
    found
}

/// Whether the host must forward, by family.
pub(super) fn forwarding(state: &State) -> (bool, bool) {
    let has = |family: fn(&model::NetworkSpec) -> bool| {
        state.running.values().any(|running| running.spec.nat && family(&running.spec))
    };
    (has(|spec| spec.ipv4.is_some()), has(|spec| spec.ipv6.is_some()))
}

/// Forwarding, without which nothing of a guest leaves the host.
fn of_settings(state: &State) -> Vec<Damage> {
    let (ipv4, ipv6) = forwarding(state);
    let damage = |key: String| Damage {
        kind: "setting",
        object: key,
        text: "is 0: guests reach nothing beyond this host".into(),
        of: None,
        cure: Cure::Loop,
    };
    tunable::lost_forwarding(ipv4, ipv6).into_iter().map(damage).collect()
}
