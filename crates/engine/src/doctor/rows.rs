//! Nothing in a row that is not on the host, and as the row says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use model::{NicSpec, RootSource, Step};

use super::{Diagnosis, Rows};
use crate::access::{Cure, Guard, Inventory, Object, VolumeSeen};
use crate::engine::Engine;
use crate::view::InstanceView;

const LOST: &str = "restore its files from a backup, or delete the instance; nothing puts an empty one in its place";

impl Engine {
    pub(super) fn check_rows(&self, rows: &Rows, inventory: &Inventory, diagnosis: &mut Diagnosis) {
        let there: BTreeSet<&Object> = inventory.objects.iter().collect();
        let volumes: BTreeMap<_, &VolumeSeen> = inventory.volumes.iter().map(|v| ((v.id, &v.pool), v)).collect();
        for view in rows.at_rest() {
            let (record, name) = (&view.record, &view.record.name);
            if let Some(error) = &record.error {
                let text = format!("could not be brought to its wish: {error}");
                diagnosis.wrong("instance", name, text, Cure::Loop);
            }
            if record.operation.is_some() || record.previous.is_some() {
                diagnosis.wrong("instance", name, "has an operation that does not end", Cure::Loop);
            }
            if !there.contains(&Object::Root(record.id, record.wish.root)) {
                diagnosis.wrong("instance", name, "has lost its root file system", Cure::People(LOST.into()));
            } else if let Some(volume) = volumes.get(&(record.id, &record.pool)) {
                check_volume(view, volume, diagnosis);
            }
            let Some(boot) = view.boot() else { continue };
            for (object, what) in [(Object::Group(boot), "control group"), (Object::Keeper(boot), "keeper")] {
                if !there.contains(&object) {
                    diagnosis.wrong("instance", name, format!("should run and has no {what}"), Cure::Loop);
                }
            }
            if let Ok(wish) = self.shared.wish(record)
                && let Some(pin) = plan::own_pins(&wish).find(|pin| !there.contains(&Object::Pin(*pin)))
            {
                let text = format!("its {} namespace should outlive it and has no pin", pin.kind.as_str());
                diagnosis.wrong("instance", name, text, Cure::Loop);
            }
            // The links of a guest that ended went with it.
            if view.pid().is_some() {
                self.check_nics(view, inventory, diagnosis);
            }
        }
        for image in rows.images.iter().filter(|_| !rows.images_under_way) {
            if !there.contains(&Object::Image(image.facts.fingerprint)) {
                let fix = "delete it, and import or build it again".to_owned();
                diagnosis.wrong("image", image.facts.fingerprint, "has lost its files", Cure::People(fix));
            }
        }
        let pins = self.pins();
        for object in rows.namespaces.iter().filter(|_| !rows.namespaces_under_way) {
            let (seen, netns) = (pins.get(&object.pin()), object.netns.then(|| object.name.as_str()));
            if seen.is_none_or(|seen| seen.inode.is_none()) {
                diagnosis.wrong("namespace", object.label(), "has no namespace", Cure::Loop);
            } else if !seen.is_some_and(|seen| seen.is_whole(netns)) {
                let wrong = if object.netns { "is not at" } else { "should not be at" };
                let text = format!("{wrong} /run/netns/{}", object.name);
                diagnosis.wrong("namespace", object.label(), text, Cure::Loop);
            }
        }
        for network in &rows.networks {
            if !there.contains(&Object::Bridge(network.spec.name.to_string())) {
                let what = if network.chain().is_some() { "has no uplink" } else { "has no bridge" };
                diagnosis.wrong("network", &network.spec.name, what, Cure::Loop);
            }
        }
    }

    /// Each NIC has its link, and the firewall lets exactly its addresses through.
    fn check_nics(&self, view: &InstanceView, inventory: &Inventory, diagnosis: &mut Diagnosis) {
        let (record, Some(boot)) = (&view.record, view.boot()) else { return };
        let Ok(wish) = self.shared.wish(record) else { return };
        let port = |nic: &NicSpec| {
            inventory.objects.iter().find_map(|object| match object {
                Object::Link(of, device, name) if *of == boot && *device == nic.device => Some(name.clone()),
                _ => None,
            })
        };
        for nic in &wish.spec.nics {
            let Some(port) = port(nic) else {
                let text = format!("has no link for its device {}", nic.device);
                diagnosis.wrong("instance", &record.name, text, Cure::Loop);
                continue;
            };
            // What comes over a wire passes no firewall of the host.
            let Some(guards) = inventory.guards.as_ref().filter(|_| nic.wire().is_none()) else { continue };
            let (wanted, found) = (guard(&port, nic), guards.iter().find(|guard| guard.port == port));
            if found != Some(&wanted) {
                let text = match found {
                    None => "is not guarded by the firewall".to_owned(),
                    Some(found) => format!("may send as {} instead of {}", addresses(found), addresses(&wanted)),
                };
                diagnosis.wrong("link", port, text, Cure::Remake(Step::AttachNic { boot, nic: nic.clone() }));
            }
        }
    }
}

/// What the firewall should let a NIC send as.
fn guard(port: &str, nic: &NicSpec) -> Guard {
    if nic.spoofing {
        return Guard { port: port.to_owned(), mac: None, ipv4: None, ipv6: None };
    }
    let of = |cidr: Option<model::Cidr>| cidr.map(|cidr| cidr.address);
    let ipv4 = of(nic.ipv4).and_then(|a| if let IpAddr::V4(a) = a { Some(a) } else { None });
    let ipv6 = of(nic.ipv6).and_then(|a| if let IpAddr::V6(a) = a { Some(a) } else { None });
    Guard { port: port.to_owned(), mac: Some(nic.mac), ipv4, ipv6 }
}

fn addresses(guard: &Guard) -> String {
    let parts =
        [guard.mac.map(|a| a.to_string()), guard.ipv4.map(|a| a.to_string()), guard.ipv6.map(|a| a.to_string())];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "anybody".to_owned() } else { parts.join(", ") }
}

/// What lies beside the root file system fits it.
fn check_volume(view: &InstanceView, volume: &VolumeSeen, diagnosis: &mut Diagnosis) {
    let record = &view.record;
    let (id, root, pool, source) = (record.id, record.wish.root, record.pool.clone(), record.wish.source);
    let again = || Cure::Remake(Step::CreateRoot { id, root, pool: pool.clone(), source });
    if volume.workless.contains(&root) {
        diagnosis.wrong("volume", id, "has lost the work directory of its root file system", again());
    }
    for stale in volume.rootless.iter().filter(|generation| **generation != root) {
        let text = format!("keeps the work directory of a root file system that is gone ({stale})");
        let step = Step::DiscardRoot { id, root: *stale, pool: pool.clone() };
        diagnosis.wrong("volume", id, text, Cure::Remake(step));
    }
    let layer = match source {
        RootSource::Empty => String::new(),
        RootSource::Image(fingerprint) => fingerprint.to_string(),
    };
    if volume.layer != layer {
        let text = format!("notes the layer {:?} below it instead of {layer:?}", volume.layer);
        diagnosis.wrong("volume", id, text, again());
    }
}
