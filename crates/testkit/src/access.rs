//! What the fake host shows to `doctor`: everything in its world. It has no files, streams or figures.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use engine::{
    Access, BoxFuture, Cure, ImageFacts, Inventory, LinkUsage, Object, PoolUsage, RootFiles, StepError, step_error,
};
use model::{Boot, IdMap, InstanceId, NamespaceKind, PinId, PoolName, RootGen, RootSource};

use crate::fake::FakeHost;

fn none<T>(what: &str) -> Result<T, StepError> {
    Err(step_error(what, "the fake host has none"))
}

impl FakeHost {
    fn objects(&self) -> Vec<Object> {
        let world = self.world();
        let mut objects = Vec::new();
        for (boot, fake) in &world.boots {
            objects.extend(fake.group.as_ref().map(|_| Object::Group(*boot)));
            objects.extend(fake.keeper.then_some(Object::Keeper(*boot)));
            objects
                .extend(fake.nics.iter().map(|(name, nic)| Object::Link(*boot, name.clone(), nic.host_name.clone())));
        }
        objects.extend(world.roots.keys().map(|(id, root)| Object::Root(*id, *root)));
        objects.extend(world.layers.iter().map(|(fingerprint, pool)| Object::Layer(*fingerprint, pool.clone())));
        objects.extend(world.images.keys().map(|fingerprint| Object::Image(*fingerprint)));
        objects.extend(world.pins.keys().copied().map(Object::Pin));
        objects.extend(world.networks.keys().map(|name| Object::Bridge(name.to_string())));
        objects
    }
}

impl Access for FakeHost {
    fn upload(&self, _name: &str) -> Result<PathBuf, StepError> {
        none("upload")
    }

    fn drop_upload(&self, _name: &str) {}

    fn image_files(&self, _facts: &ImageFacts) -> Vec<PathBuf> {
        Vec::new()
    }

    fn console_log(&self, _id: InstanceId) -> BoxFuture<'_, Vec<u8>> {
        Box::pin(async { Vec::new() })
    }

    fn clear_console_log(&self, _id: InstanceId) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    fn pool_usage(&self, _pool: &PoolName) -> Result<PoolUsage, StepError> {
        Ok(PoolUsage::default())
    }

    fn pool_source(&self, _pool: &PoolName) -> Option<PathBuf> {
        None
    }

    fn root_files(&self, _pool: &PoolName, _root: (InstanceId, RootGen, RootSource)) -> Result<RootFiles, StepError> {
        none("files")
    }

    fn namespaces(&self, _pid: u32) -> Result<BTreeMap<NamespaceKind, u64>, StepError> {
        none("namespaces")
    }

    fn namespaces_of(&self, _boot: Boot) -> Result<BTreeMap<NamespaceKind, u64>, StepError> {
        none("namespaces")
    }

    fn pin_file(&self, pin: PinId) -> PathBuf {
        PathBuf::from(format!("/nowhere/{pin}"))
    }

    fn links(&self) -> Result<Vec<LinkUsage>, StepError> {
        Ok(Vec::new())
    }

    fn files<'a>(
        &'a self,
        _boot: Option<Boot>,
        _root: (InstanceId, RootGen, RootSource),
        _pool: &'a PoolName,
        _ids: IdMap,
    ) -> BoxFuture<'a, Result<OwnedFd, StepError>> {
        Box::pin(async { none("files") })
    }

    fn inventory(&self) -> BoxFuture<'_, Result<Inventory, StepError>> {
        Box::pin(async { Ok(Inventory { objects: self.objects(), ..Inventory::default() }) })
    }

    fn search<'a>(&'a self, _boots: &'a BTreeSet<Boot>) -> BoxFuture<'a, Result<(), StepError>> {
        Box::pin(async { Ok(()) })
    }

    fn cure<'a>(&'a self, _cure: &'a Cure) -> BoxFuture<'a, Result<(), StepError>> {
        Box::pin(async { none("cure") })
    }

    fn discard<'a>(&'a self, _object: &'a Object) -> BoxFuture<'a, Result<(), StepError>> {
        Box::pin(async { none("discard") })
    }

    fn state_dir(&self) -> &Path {
        Path::new("/nowhere")
    }
}
