//! The instances, by id and by name, and what is to be known of all of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use model::{Fingerprint, InstanceId, InstanceName, ProjectName, RootSource};

use crate::actor::Instance;
use crate::record::{InstanceRecord, WishState};
use crate::shared::Shared;
use crate::view::InstanceView;

/// All instances.
#[derive(Default)]
pub(crate) struct Instances {
    pub(crate) by_id: BTreeMap<InstanceId, Arc<Instance>>,
    pub(crate) by_name: BTreeMap<(ProjectName, InstanceName), InstanceId>,
    /// Some definition had a wire since the start.
    pub(crate) has_wires: AtomicBool,
}

impl Instances {
    /// One, by its project and name.
    pub(crate) fn named(&self, project: &ProjectName, name: &InstanceName) -> Option<Arc<InstanceView>> {
        let id = self.by_name.get(&(project.clone(), name.clone()))?;
        self.by_id.get(id).map(|instance| instance.view())
    }
}

impl Shared {
    /// One instance as it is now.
    pub(crate) fn view_of(&self, id: InstanceId) -> Option<Arc<InstanceView>> {
        self.instances().by_id.get(&id).map(|instance| instance.view())
    }

    /// Whether there is such an instance, or one is being made.
    pub(crate) fn knows(&self, id: InstanceId) -> bool {
        self.instances().by_id.contains_key(&id)
    }

    /// Does something with every instance.
    pub(crate) fn for_all(&self, act: impl FnMut(&Arc<Instance>)) {
        self.instances().by_id.values().for_each(act);
    }

    /// An instance is gone.
    pub(crate) fn forget(&self, had: &[WishState], record: &InstanceRecord) {
        let mut instances = self.instances_mut();
        instances.by_id.remove(&record.id);
        let name = (record.project.clone(), record.name.clone());
        // Somebody else may have been faster with the name.
        if instances.by_name.get(&name) == Some(&record.id) {
            instances.by_name.remove(&name);
        }
        drop(instances);
        let mut catalog = self.catalog_mut();
        had.iter().for_each(|wish| catalog.allocator.forget_wish(wish));
        catalog.allocator.forget(record);
    }

    /// Whether an instance's root file system is based on a layer.
    pub(crate) fn is_layer_used(&self, fingerprint: Fingerprint, pool: &model::PoolName) -> bool {
        self.instances().by_id.values().any(|instance| {
            let view = instance.view();
            let wishes = [Some(&view.record.wish), view.record.previous.as_deref()];
            view.record.pool == *pool
                && wishes.into_iter().flatten().any(|wish| wish.source == RootSource::Image(fingerprint))
        })
    }

    /// Names and addresses changed: whoever answers for them is told.
    pub(crate) fn publish_names(&self) {
        self.host.names(&self.names());
    }

    /// Names and addresses of all instances, by network.
    fn names(&self) -> Vec<crate::host::NameEntry> {
        let mut names = Vec::new();
        for instance in self.instances().by_id.values() {
            let view = instance.view();
            for grant in view.record.wish.nics.values() {
                names.push(crate::host::NameEntry {
                    network: grant.network.clone(),
                    name: view.record.name.clone(),
                    mac: grant.mac,
                    ipv4: grant.ipv4,
                    ipv6: grant.ipv6,
                });
            }
        }
        names
    }
}
