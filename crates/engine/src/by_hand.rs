//! A start as a script, for people.

use std::collections::BTreeMap;

use model::{CgroupLayout, InstanceId, Plug, Share};
use plan::Whereabouts;

use crate::access::Access;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::view::InstanceView;

impl Engine {
    /// The script for a shell that starts an instance as the daemon would.
    pub fn script(&self, view: &InstanceView, access: &dyn Access) -> Result<String> {
        let wish = self.shared.wish_of(&view.record)?;
        let root = access.root_files(&wish.spec.pool, (wish.id, wish.root, wish.source)).map_err(Error::Step)?;
        let namespaces = &wish.spec.sandbox.namespaces;
        let pins = namespaces.shares.iter().filter_map(|(kind, share)| match share {
            Share::Pin(pin) => Some((*kind, access.pin_file(*pin).display().to_string())),
            Share::Private | Share::Host | Share::Instance(_) | Share::Path(_) => None,
        });
        let far = wish.spec.nics.iter().filter_map(|nic| match &nic.plug {
            Plug::Wire(end) => Some(end.to.id),
            Plug::Network(_) | Plug::Chain(_) => None,
        });
        let at = Whereabouts {
            id: wish.id,
            layers: root.layers.iter().map(|path| path.display().to_string()).collect(),
            lock: root.lock.display().to_string(),
            pins: pins.collect(),
            others: self.inits(namespaces.owners().into_iter().chain(far)),
            v1: match &self.facts().cgroups {
                CgroupLayout::Hybrid { v1, .. } => v1.clone(),
                CgroupLayout::Unified { .. } => Vec::new(),
            },
            settings: plan::settings(&wish.spec.limits, wish.id, self.facts()),
        };
        Ok(plan::shell(&wish.spec, &at))
    }

    /// Names of instances, and the pids of those that run.
    fn inits(&self, ids: impl Iterator<Item = InstanceId>) -> BTreeMap<InstanceId, (String, Option<u32>)> {
        let views = self.instances();
        let of = |id| {
            let view = views.iter().find(|view| view.record.id == id)?;
            Some((id, (view.record.name.to_string(), view.pid())))
        };
        ids.filter_map(of).collect()
    }
}
