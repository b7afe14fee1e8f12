//! Images: one job at a time for each, and whoever needs its outcome waits for the same one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use model::{Fingerprint, PoolName, Step};
use store::Op;
use tokio::sync::watch;

use crate::catalog::ImageChoice;
use crate::clock;
use crate::error::{Error, Result};
use crate::events::{Happening, Lifecycle};
use crate::host::{Effect, ImageFacts};
use crate::operations::Operation;
use crate::record::{Alias, ImageRecord, Record};
use crate::shared::Shared;
use crate::unwind::guarded;

/// How far a job is.
#[derive(Debug, Clone)]
struct State {
    text: String,
    outcome: Option<Result<Fingerprint>>,
}

/// Jobs under way, by image and pool.
#[derive(Debug, Default)]
pub(crate) struct Images {
    jobs: Mutex<HashMap<(Fingerprint, PoolName), watch::Receiver<State>>>,
}

impl Images {
    /// Whether one is being built or unpacked.
    pub(crate) fn is_busy(&self) -> bool {
        !self.jobs.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Has an image unpacked in a pool, built from its recipe first where it is not here yet; its fingerprint.
    pub(crate) async fn ensure(
        &self,
        shared: &Arc<Shared>,
        fingerprint: Fingerprint,
        pool: &PoolName,
        operation: Option<&Operation>,
    ) -> Result<Fingerprint> {
        let choice = shared.catalog().image_by_fingerprint(fingerprint)?;
        if let ImageChoice::Here(record) = &choice
            && record.pools.contains(pool)
        {
            return Ok(record.facts.fingerprint);
        }
        let mut job = self.join(shared, choice, pool);
        loop {
            let state = job.borrow_and_update().clone();
            if let Some(outcome) = state.outcome {
                return outcome;
            }
            if let (Some(operation), false) = (operation, state.text.is_empty()) {
                operation.progress("create_instance_from_image_unpack", &state.text);
            }
            if job.changed().await.is_err() {
                return Err(Error::Internal("the image's job vanished".into()));
            }
        }
    }

    /// The job that does it: the one under way, or a new one.
    fn join(&self, shared: &Arc<Shared>, choice: ImageChoice, pool: &PoolName) -> watch::Receiver<State> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (choice.fingerprint(), pool.clone());
        if let Some(job) = jobs.get(&key) {
            return job.clone();
        }
        let (state, job) = watch::channel(State { text: String::new(), outcome: None });
        jobs.insert(key.clone(), job.clone());
        let shared = shared.clone();
        // A task of its own: it goes on when whoever asked first goes away.
        tokio::spawn(async move {
            let (state, job) = (Arc::new(state), shared.clone());
            let (told, pool) = (state.clone(), key.1.clone());
            // A panic in it fails it, and must not leave its place taken for ever.
            let outcome = guarded(async move {
                let tell = |text: &str| told.send_modify(|s| s.text = text.to_owned());
                work(&job, choice, &pool, &tell).await
            });
            let outcome = outcome.await.unwrap_or_else(|why| {
                Err(Error::Internal(format!("a defect of the daemon ended this ({why}); please report it")))
            });
            // Out of the table before its outcome is told, so that the next one who asks sees the catalogue.
            shared.images.jobs.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            state.send_modify(|s| s.outcome = Some(outcome));
        });
        job
    }
}

async fn work(
    shared: &Arc<Shared>,
    choice: ImageChoice,
    pool: &PoolName,
    tell: &(dyn Fn(&str) + Send + Sync),
) -> Result<Fingerprint> {
    let fingerprint = match choice {
        ImageChoice::Here(record) => record.facts.fingerprint,
        ImageChoice::Recipe(recipe) => {
            let facts = apply(shared, &Step::BuildImage { recipe: recipe.fingerprint }, tell).await?;
            let facts = facts.ok_or_else(|| Error::Internal("a build without an image".into()))?;
            let fingerprint = facts.fingerprint;
            let new = New { properties: recipe.properties.clone(), ..New::default() };
            if let Err(error) = add(shared, facts, new).await {
                // Files without a row are nobody's.
                apply(shared, &Step::RemoveImage { fingerprint }, tell).await?;
                return Err(error);
            }
            fingerprint
        }
    };
    apply(shared, &Step::UnpackLayer { fingerprint, pool: pool.clone() }, tell).await?;
    let record = {
        let mut catalog = shared.catalog_mut();
        let Some(record) = catalog.images.get_mut(&fingerprint) else {
            return Err(Error::NotFound("Image not found: it was deleted meanwhile".into()));
        };
        if !record.pools.contains(pool) {
            record.pools.push(pool.clone());
        }
        record.last_used_ms = clock::now_ms();
        record.clone()
    };
    // Not awaited: should it be lost, the next need for the layer finds it and says so again.
    drop(shared.submit(store::Class::Settled, vec![record.put()]));
    Ok(fingerprint)
}

async fn apply(shared: &Arc<Shared>, step: &Step, tell: &(dyn Fn(&str) + Send + Sync)) -> Result<Option<ImageFacts>> {
    match shared.host.apply(step, tell).await? {
        Effect::Done | Effect::Turned(_) => Ok(None),
        Effect::Image(facts) => Ok(Some(*facts)),
    }
}

/// What is remembered of a new image beside its facts.
#[derive(Default)]
pub(crate) struct New {
    pub(crate) properties: std::collections::BTreeMap<String, String>,
    pub(crate) public: bool,
    pub(crate) aliases: Vec<Alias>,
    /// What else is true with it: the end of the operation.
    pub(crate) ops: Vec<Op>,
}

/// Remembers an image whose files are in place, all that is new of it in one commit.
pub(crate) async fn add(shared: &Arc<Shared>, facts: ImageFacts, new: New) -> Result<()> {
    let mut all = facts.properties.clone();
    all.extend(new.properties);
    let fingerprint = facts.fingerprint;
    let record = ImageRecord {
        facts,
        properties: all,
        public: new.public,
        uploaded_ms: clock::now_ms(),
        last_used_ms: 0,
        pools: Vec::new(),
    };
    let mut ops = vec![record.put()];
    ops.extend(new.aliases.iter().map(Record::put));
    ops.extend(new.ops);
    shared.submit_and_wait(store::Class::Wish, ops).await?;
    let mut catalog = shared.catalog_mut();
    catalog.images.insert(fingerprint, record);
    catalog.aliases.extend(new.aliases.into_iter().map(|alias| (alias.name.clone(), alias)));
    drop(catalog);
    tell(shared, "image-created", fingerprint);
    Ok(())
}

/// Tells a step in an image's life.
pub(crate) fn tell(shared: &Shared, action: &str, fingerprint: Fingerprint) {
    let lifecycle = Lifecycle {
        action: action.to_owned(),
        source: format!("/1.0/images/{fingerprint}"),
        context: Default::default(),
        requestor: None,
        name: fingerprint.to_string(),
    };
    shared.events.tell("default", Happening::Lifecycle(lifecycle));
}
