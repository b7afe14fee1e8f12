//! What is on the host without being remembered: begun by a daemon that died before its first commit, and never promised to
//! anybody; or left by a deletion. It is removed when the daemon starts. So is an image whose building was not written down:
//! nobody can tell it from one that was to be deleted.

use std::collections::BTreeSet;
use std::sync::Arc;

use model::{
    IdMap, InstanceId, InstanceSpec, Limits, MountMode, Namespaces, PoolName, Power, RootGen, RootSource, SandboxSpec,
    Seccomp, Step, StopKind, Wish,
};

use crate::error::{Error, Result};
use crate::host::Survey;
use crate::record::Record;
use crate::shared::Shared;

/// Removes what is not remembered. Failures are told and left for the next start or `doctor`.
///
/// What is remembered is asked after the survey: whatever is made meanwhile is remembered before it is on the host.
pub(crate) async fn run(shared: &Arc<Shared>, images_under_way: &(dyn Fn() -> bool + Sync)) -> Result<()> {
    if shared.store.read_only().is_some() {
        return Ok(());
    }
    let survey = shared.host.survey().await?;
    let incomplete = crate::rebuild::is_incomplete(&shared.store);
    if incomplete {
        let seen = survey.instances.iter().map(|(id, _)| *id).collect();
        crate::rebuild::end_incompleteness(shared, &seen).await?;
    }
    for (id, pool) in survey.instances.iter().filter(|(id, _)| !shared.knows(*id)) {
        if incomplete {
            tracing::warn!(%id, "of an unknown instance there is something; it is kept, as its record may be lost");
            continue;
        }
        tracing::warn!(%id, "removing what is left of an instance that was never promised");
        if let Err(error) = remove_instance(shared, *id, pool).await {
            tracing::error!(%id, %error, "not removed");
        }
    }
    if !incomplete {
        crate::namespaces::sweep(shared).await;
        crate::chains::sweep(shared, &survey).await;
    }
    if images_under_way() { Ok(()) } else { sweep_images(shared, &survey).await }
}

async fn remove_instance(shared: &Arc<Shared>, id: InstanceId, pool: &PoolName) -> Result<()> {
    let wish = nothing(id, pool);
    for _ in 0..4 {
        let observed = shared.host.observe(id, pool).await?;
        let steps = plan::diff(&wish, &observed, shared.host.facts());
        if steps.is_empty() {
            return Ok(());
        }
        for step in &steps {
            shared.host.apply(step, &|_| {}).await?;
        }
    }
    Err(Error::Internal("it comes back".into()))
}

/// The wish that an instance is not.
fn nothing(id: InstanceId, pool: &PoolName) -> Wish {
    Wish {
        id,
        exists: false,
        power: Power::Off,
        stop: StopKind::Force,
        root: RootGen(0),
        source: RootSource::Empty,
        spec: InstanceSpec {
            name: "unknown".parse().unwrap_or_else(|_| unreachable!("a valid name")),
            pool: pool.clone(),
            sandbox: SandboxSpec {
                ids: IdMap { base: 0, count: 0 },
                namespaces: Namespaces::default(),
                mounts: MountMode::Lean,
                sys_writable: false,
                capabilities: BTreeSet::new(),
                seccomp: Seccomp::Base,
                devices: Vec::new(),
                rlimits: Vec::new(),
                keyring: true,
                max_user_namespaces: 0,
            },
            limits: Limits::default(),
            nics: Vec::new(),
            first_boot: Vec::new(),
            environment: Vec::new(),
            init: String::new(),
        },
    }
}

async fn sweep_images(shared: &Arc<Shared>, survey: &Survey) -> Result<()> {
    for facts in &survey.images {
        let fingerprint = facts.fingerprint;
        if shared.catalog().images.contains_key(&fingerprint) {
            continue;
        }
        drop(shared.host.apply(&Step::RemoveImage { fingerprint }, &|_| {}).await?);
    }
    for (fingerprint, pool) in &survey.layers {
        let known = shared.catalog().images.get(fingerprint).map(|image| image.pools.contains(pool));
        match known {
            Some(true) => {}
            // Unpacked, but the daemon died before it could write that down.
            Some(false) => {
                let mut catalog = shared.catalog_mut();
                if let Some(image) = catalog.images.get_mut(fingerprint) {
                    image.pools.push(pool.clone());
                    drop(shared.submit(store::Class::Settled, vec![image.put()]));
                }
            }
            None if shared.is_layer_used(*fingerprint, pool) => {}
            None => {
                let step = Step::RemoveLayer { fingerprint: *fingerprint, pool: pool.clone() };
                drop(shared.host.apply(&step, &|_| {}).await?);
            }
        }
    }
    Ok(())
}
