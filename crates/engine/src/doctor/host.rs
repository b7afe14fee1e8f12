//! Nothing on the host without a row.

use std::collections::BTreeSet;

use model::{Boot, DeviceName, InstanceId, PinId};

use super::{Diagnosis, Rows};
use crate::access::{Cure, Object};
use crate::engine::Engine;

pub(super) const IMAGE_FILE: &str = "image file";
pub(super) const POOL_FILE: &str = "file in the pool";

impl Engine {
    pub(super) fn check_host(&self, rows: &Rows, objects: &[Object], diagnosis: &mut Diagnosis) {
        let ids: BTreeSet<InstanceId> = rows.instances.iter().map(|view| view.record.id).collect();
        let boots: BTreeSet<Boot> = rows.instances.iter().filter_map(|view| view.boot()).collect();
        let links: BTreeSet<&str> = objects
            .iter()
            .filter_map(|o| if let Object::Link(.., name) = o { Some(name.as_str()) } else { None })
            .collect();
        let has_nic = |boot: &Boot, device: &DeviceName| {
            let view = rows.instances.iter().find(|view| view.record.id == boot.id);
            // By a definition elsewhere: a wire, or a part in a chain.
            let is_wished = |record| {
                let wish = self.shared.wish(record);
                wish.is_ok_and(|wish| wish.spec.nics.iter().any(|nic| nic.device == *device))
            };
            view.is_some_and(|view| view.record.wish.nics.contains_key(device) || is_wished(&view.record))
        };
        let incomplete = crate::rebuild::is_incomplete(&self.shared.store);
        for object in objects {
            let orphan = match object {
                Object::Group(boot) | Object::Keeper(boot) => !boots.contains(boot) && rows.is_at_rest(boot.id),
                Object::Link(boot, device, _) => {
                    rows.is_at_rest(boot.id) && !(boots.contains(boot) && has_nic(boot, device))
                }
                // The firewall knows a link before it is there.
                Object::Guarded(port) => {
                    let is_uplink = rows.networks.iter().any(|network| network.spec.name.as_str() == port);
                    rows.under_way.is_empty() && !links.contains(port.as_str()) && !is_uplink
                }
                Object::Root(id, root) => {
                    let is_other =
                        |v: &&std::sync::Arc<crate::InstanceView>| v.record.id == *id && v.record.wish.root != *root;
                    rows.is_at_rest(*id) && (!ids.contains(id) || rows.instances.iter().any(|v| is_other(&v)))
                }
                Object::Logs(id) => rows.is_at_rest(*id) && !ids.contains(id),
                Object::Layer(fingerprint, pool) => {
                    let of = |i: &crate::ImageRecord| i.facts.fingerprint == *fingerprint && i.pools.contains(pool);
                    !rows.images_under_way
                        && !rows.images.iter().any(of)
                        && !self.shared.is_layer_used(*fingerprint, pool)
                }
                Object::Image(fingerprint) => {
                    !rows.images_under_way && !rows.images.iter().any(|i| i.facts.fingerprint == *fingerprint)
                }
                Object::Bridge(name) => !rows.networks.iter().any(|network| network.spec.name.as_str() == name),
                Object::Pin(pin) => self.is_surplus(*pin, rows),
                Object::Stray { .. } => true,
            };
            let may_be_wanted = |object: &Object| match object {
                Object::Root(id, _) | Object::Logs(id) => incomplete && !ids.contains(id),
                _ => incomplete,
            };
            match object {
                Object::Root(..) | Object::Logs(_) | Object::Pin(_) if orphan && may_be_wanted(object) => {
                    let text = "is on the host and belongs to nothing that is remembered";
                    let fix = "its record may have been lost with the database: it is kept until you remove it by hand";
                    diagnosis.wrong(kind(object), name(object), text, Cure::People(fix.into()));
                }
                object if orphan => diagnosis.orphan(object),
                _ => {}
            }
        }
    }
}

impl Engine {
    /// Whether a pin is neither an object's nor one that an instance's network persists by.
    fn is_surplus(&self, pin: PinId, rows: &Rows) -> bool {
        if rows.namespaces_under_way || rows.namespaces.iter().any(|object| object.pin() == pin) {
            return false;
        }
        let Some(view) = rows.instances.iter().find(|view| view.record.id.0 == pin.of) else { return true };
        let is_wanted = |wish: model::Wish| plan::own_pins(&wish).any(|own| own == pin);
        rows.is_at_rest(view.record.id) && !self.shared.wish(&view.record).is_ok_and(is_wanted)
    }
}

pub(super) fn kind(object: &Object) -> &str {
    match object {
        Object::Group(_) => "control group",
        Object::Keeper(_) => "keeper",
        Object::Link(..) => "link",
        Object::Guarded(_) => "guarded link",
        Object::Root(..) => "root file system",
        Object::Layer(..) => "layer",
        Object::Image(_) => "image",
        Object::Bridge(_) => "bridge",
        Object::Pin(_) => "pin",
        Object::Logs(_) => "log",
        Object::Stray { kind, .. } => kind,
    }
}

pub(super) fn name(object: &Object) -> String {
    match object {
        Object::Group(boot) | Object::Keeper(boot) => boot.to_string(),
        Object::Link(.., name) | Object::Guarded(name) | Object::Bridge(name) => name.clone(),
        Object::Root(id, root) => format!("{id} ({root})"),
        Object::Logs(id) => id.to_string(),
        Object::Pin(pin) => pin.to_string(),
        Object::Layer(fingerprint, pool) => format!("{fingerprint} in {pool}"),
        Object::Image(fingerprint) => fingerprint.to_string(),
        Object::Stray { name, .. } => name.clone(),
    }
}
