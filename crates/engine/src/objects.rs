//! Images, aliases, profiles, and the lists of everything that is no instance.

use std::collections::BTreeMap;
use std::sync::Arc;

use config::Written;
use model::{Fingerprint, ProfileName, ProjectName, Step};
use store::Class;

use crate::catalog::ImageChoice;
use crate::engine::{Engine, RecipeFacts};
use crate::error::{Error, Result};
use crate::host::Effect;
use crate::images;
use crate::operations::{Class as OperationClass, NewOperation, Operation, OperationView};
use crate::record::{Alias, ImageRecord, NetworkRecord, PoolRecord, ProfileRecord, ProjectRecord, Record};
use crate::{clock, operations};

/// What the building of an image is called.
pub(crate) const BUILDING: &str = "Building image";

/// What the deletion of an image is called.
pub(crate) const DELETING: &str = "Deleting image";

/// What a client says about an image that it sends.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ImageWish {
    /// Properties beyond those of its metadata.
    pub properties: BTreeMap<String, String>,
    /// Everybody may have it.
    pub public: bool,
    /// Names that it gets.
    pub aliases: Vec<(String, String)>,
    /// What its fingerprint must be.
    pub expected: Option<Fingerprint>,
}

impl Engine {
    /// Every image whose files are here.
    pub fn images(&self) -> Vec<ImageRecord> {
        self.shared.catalog().images.values().cloned().collect()
    }

    /// Recipes that no image here was built from.
    pub fn unbuilt_recipes(&self) -> Vec<RecipeFacts> {
        let catalog = self.shared.catalog();
        let built = |recipe: &RecipeFacts| catalog.images.values().any(|i| i.facts.recipe == Some(recipe.fingerprint));
        catalog.recipes.iter().filter(|recipe| !built(recipe)).cloned().collect()
    }

    /// Every alias: those that were given, and those of recipes.
    pub fn aliases(&self) -> Vec<Alias> {
        let catalog = self.shared.catalog();
        let mut all: BTreeMap<String, Alias> = BTreeMap::new();
        for recipe in &catalog.recipes {
            let Ok(image) = catalog.image_by_fingerprint(recipe.fingerprint) else { continue };
            for name in &recipe.aliases {
                let description = recipe.properties.get("description").cloned().unwrap_or_default();
                all.insert(name.clone(), Alias { name: name.clone(), description, target: image.fingerprint() });
            }
        }
        all.extend(catalog.aliases.iter().map(|(name, alias)| (name.clone(), alias.clone())));
        all.into_values().collect()
    }

    /// One alias.
    pub fn alias(&self, name: &str) -> Result<Alias> {
        let found = self.aliases().into_iter().find(|alias| alias.name == name);
        found.ok_or_else(|| Error::NotFound(format!("Image alias {name:?} not found")))
    }

    /// Whether it may be a name of an image, and is none yet.
    fn check_new_alias(&self, alias: &Alias) -> Result<()> {
        if alias.name.is_empty() || alias.name.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(Error::Invalid(format!("{:?} is no name for an image", alias.name)));
        }
        if self.shared.catalog().aliases.contains_key(&alias.name) {
            return Err(Error::Conflict(format!("Alias {:?} already exists", alias.name)));
        }
        Ok(())
    }

    /// Gives an image another name.
    pub async fn create_alias(&self, alias: Alias) -> Result<()> {
        self.check_new_alias(&alias)?;
        {
            let mut catalog = self.shared.catalog_mut();
            catalog.image_by_fingerprint(alias.target)?;
            if catalog.aliases.contains_key(&alias.name) {
                return Err(Error::Conflict(format!("Alias {:?} already exists", alias.name)));
            }
            catalog.aliases.insert(alias.name.clone(), alias.clone());
        }
        let stored = self.shared.submit_and_wait(Class::Wish, vec![alias.put()]).await;
        if stored.is_err() {
            self.shared.catalog_mut().aliases.remove(&alias.name);
        }
        stored
    }

    /// Points an alias elsewhere or describes it anew.
    pub async fn change_alias(
        &self,
        name: &str,
        target: Option<Fingerprint>,
        description: Option<String>,
    ) -> Result<()> {
        let mut alias = self.alias(name)?;
        if let Some(target) = target {
            self.shared.catalog().image_by_fingerprint(target)?;
            alias.target = target;
        }
        alias.description = description.unwrap_or(alias.description);
        self.shared.submit_and_wait(Class::Wish, vec![alias.put()]).await?;
        self.shared.catalog_mut().aliases.insert(name.to_owned(), alias);
        Ok(())
    }

    /// Takes a name of an image away. Those of recipes stay.
    pub async fn delete_alias(&self, name: &str) -> Result<()> {
        let gone = self.shared.catalog().aliases.get(name).cloned();
        let gone = gone.ok_or_else(|| Error::NotFound(format!("Image alias {name:?} not found")))?;
        self.shared.submit_and_wait(Class::Frees, vec![gone.delete()]).await?;
        self.shared.catalog_mut().aliases.remove(name);
        Ok(())
    }

    /// Takes a finished upload as an image. Returns at once; the operation tells the rest.
    pub async fn import_image(&self, upload: String, wish: ImageWish) -> Result<OperationView> {
        let engine = self.clone();
        self.image_task(Class::Wish, "Downloading image", Default::default(), |operation| async move {
            let step = Step::AdoptImage { upload };
            let tell = |text: &str| operation.progress("create_image_from_upload", text);
            let Effect::Image(facts) = engine.shared.host.apply(&step, &tell).await? else {
                return Err(Error::Internal("an upload without an image".into()));
            };
            let fingerprint = facts.fingerprint;
            if let Some(expected) = wish.expected.filter(|expected| *expected != fingerprint) {
                let step = Step::RemoveImage { fingerprint };
                if engine.image(&fingerprint.to_string()).is_err() {
                    engine.shared.host.apply(&step, &|_| {}).await?;
                }
                return Err(Error::Invalid(format!("the image that arrived is {fingerprint}, not {expected}")));
            }
            if engine.shared.catalog().images.contains_key(&fingerprint) {
                return Err(Error::Conflict(format!("Image {fingerprint} already exists")));
            }
            operation.set_metadata("fingerprint", fingerprint.to_string().into());
            operation.set_metadata("size", facts.size.to_string().into());
            let added = engine.add_upload(*facts, wish, &operation).await;
            if added.is_err() && engine.here(&fingerprint.to_string()).is_err() {
                // Nobody may have it, and it is in the way of nobody.
                engine.discard(&Step::RemoveImage { fingerprint }).await;
            }
            added?;
            engine.note_layers(fingerprint).await;
            Ok(())
        })
        .await
    }

    /// The image, its names and the end of the operation are remembered in one commit, or none of them.
    async fn add_upload(&self, facts: crate::host::ImageFacts, wish: ImageWish, operation: &Operation) -> Result<()> {
        let target = facts.fingerprint;
        let aliases = wish.aliases.into_iter().map(|(name, description)| Alias { name, description, target });
        let aliases: Vec<Alias> = aliases.collect();
        aliases.iter().try_for_each(|alias| self.check_new_alias(alias))?;
        let ops = vec![operations::document(&operation.as_ended(Ok(())))];
        let new = images::New { properties: wish.properties, public: wish.public, aliases, ops };
        images::add(&self.shared, facts, new).await
    }

    /// What was decided to go is tried a few times; what still stays is removed when the daemon starts the next time, or by
    /// `doctor --repair`.
    async fn discard(&self, step: &Step) {
        for attempt in 1..=crate::pace::TRIES {
            match self.shared.host.apply(step, &|_| {}).await {
                Ok(_) => return,
                Err(error) => tracing::error!(%error, step = step.name(), attempt, "not removed yet"),
            }
            tokio::time::sleep(crate::pace::pause(attempt)).await;
        }
    }

    /// Builds an image from a recipe, unless it is here. Returns at once; the operation tells the rest.
    pub async fn build_image(&self, word: &str, wish: ImageWish) -> Result<OperationView> {
        let choice = self.image(word)?;
        // Minutes before they would be given.
        let is_taken = |name: &String| self.alias(name).is_ok_and(|alias| alias.target != choice.fingerprint());
        if let Some((name, _)) = wish.aliases.iter().find(|(name, _)| is_taken(name)) {
            return Err(Error::Conflict(format!("Alias {name:?} already exists")));
        }
        let engine = self.clone();
        let resources = [("images".to_owned(), vec![format!("/1.0/images/{}", choice.fingerprint())])].into();
        self.image_task(Class::Wish, BUILDING, resources, |operation| async move {
            let pool = engine.shared.catalog().pools.keys().next().cloned();
            let pool = pool.ok_or_else(|| Error::NotFound("There is no storage pool".into()))?;
            let images = &engine.shared.images;
            let fingerprint = images.ensure(&engine.shared, choice.fingerprint(), &pool, Some(&operation)).await?;
            engine.name_image(fingerprint, &wish.aliases).await?;
            operation.set_metadata("fingerprint", fingerprint.to_string().into());
            Ok(())
        })
        .await
    }

    /// The image child unpacked it in a pool already: that is noted.
    async fn note_layers(&self, fingerprint: Fingerprint) {
        let pools: Vec<_> = self.shared.catalog().pools.keys().cloned().collect();
        if let Some(pool) = pools.first()
            && let Err(error) = self.shared.images.ensure(&self.shared, fingerprint, pool, None).await
        {
            tracing::warn!(%fingerprint, %error, "not unpacked");
        }
    }

    /// Names that it has already are left: an earlier try may have come so far.
    async fn name_image(&self, target: Fingerprint, aliases: &[(String, String)]) -> Result<()> {
        for (name, description) in aliases {
            if self.alias(name).is_ok_and(|alias| alias.target == target) {
                continue;
            }
            let named = self.create_alias(Alias { name: name.clone(), description: description.clone(), target }).await;
            named.map_err(|why| Error::Unnamed { fingerprint: target, name: name.clone(), why: Box::new(why) })?;
        }
        Ok(())
    }

    /// Runs work on images as an operation that is kept.
    async fn image_task<F>(
        &self,
        class: Class,
        description: &'static str,
        resources: BTreeMap<String, Vec<String>>,
        work: impl FnOnce(Arc<Operation>) -> F,
    ) -> Result<OperationView>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let operation = Arc::new(self.shared.operations.start(NewOperation {
            project: ProjectName::default().to_string(),
            class: OperationClass::Task,
            description,
            resources,
            metadata: BTreeMap::new(),
            may_cancel: false,
        }));
        let begun = self.shared.submit_and_wait(class, vec![operations::document(&operation.view())]).await;
        if let Err(error) = begun {
            // Nobody was promised anything, and nobody waits for it.
            operation.finish_unkept(&self.shared.operations, Err(error.to_string()));
            return Err(error);
        }
        let view = operation.view();
        let shared = self.shared.clone();
        let work = work(operation.clone());
        tokio::spawn(async move {
            let result = work.await.map_err(|error| error.to_string());
            let view = operation.as_ended(result);
            // No loop takes it up after a crash, so its end is on the disk before anybody is told.
            if let Err(error) = shared.submit_and_wait(Class::Settled, vec![operations::document(&view)]).await {
                tracing::error!(operation = %view.id, %error, "its end could not be written down");
            }
            operation.tell_ended(&view);
            let old = shared.operations.retire(&view);
            if !old.is_empty() {
                drop(shared.submit(Class::Settled, old));
            }
            operation.end(view);
        });
        Ok(view)
    }

    /// Changes what people say about an image.
    pub async fn change_image(&self, word: &str, properties: BTreeMap<String, String>, public: bool) -> Result<()> {
        let fingerprint = self.here(word)?.facts.fingerprint;
        let change = |record: &mut ImageRecord| {
            record.properties.clone_from(&properties);
            record.public = public;
        };
        let mut record = self.here(word)?;
        change(&mut record);
        self.shared.submit_and_wait(Class::Wish, vec![record.put()]).await?;
        if let Some(record) = self.shared.catalog_mut().images.get_mut(&fingerprint) {
            change(record);
        }
        Ok(())
    }

    /// An image whose files are here.
    pub fn here(&self, word: &str) -> Result<ImageRecord> {
        match self.image(word)? {
            ImageChoice::Here(record) => Ok(*record),
            ImageChoice::Recipe(_) => Err(Error::NotFound("Image not found: it has not been built yet".into())),
        }
    }

    /// Removes an image; instances that are based on it keep its layer. Returns at once; the operation tells the rest.
    pub async fn delete_image(&self, word: &str) -> Result<OperationView> {
        let record = self.here(word)?;
        let engine = self.clone();
        let fingerprint = record.facts.fingerprint;
        let resources = [("images".to_owned(), vec![format!("/1.0/images/{fingerprint}")])].into();
        self.image_task(Class::Frees, DELETING, resources, |_| async move {
            let shared = &engine.shared;
            let of = |alias: &Alias| alias.target == fingerprint;
            // The wish first: what is left on the disk without it is swept.
            let mut ops = vec![record.delete()];
            ops.extend(shared.catalog().aliases.values().filter(|alias| of(alias)).map(Record::delete));
            shared.submit_and_wait(Class::Frees, ops).await?;
            {
                let mut catalog = shared.catalog_mut();
                catalog.images.remove(&fingerprint);
                catalog.aliases.retain(|_, alias| !of(alias));
            }
            images::tell(shared, "image-deleted", fingerprint);
            engine.discard(&Step::RemoveImage { fingerprint }).await;
            for pool in record.pools.iter().filter(|pool| !shared.is_layer_used(fingerprint, pool)) {
                engine.discard(&Step::RemoveLayer { fingerprint, pool: pool.clone() }).await;
            }
            Ok(())
        })
        .await
    }

    /// Counts the changes of profiles, for whoever keeps something made from them.
    pub fn profiles_version(&self) -> u64 {
        self.shared.profiles_version.load(std::sync::atomic::Ordering::Acquire)
    }

    /// Every profile of a project.
    pub fn profiles(&self, project: &ProjectName) -> Vec<ProfileRecord> {
        self.shared.catalog().profiles.values().filter(|p| p.project == *project).cloned().collect()
    }

    /// One profile.
    pub fn profile(&self, project: &ProjectName, name: &str) -> Result<ProfileRecord> {
        let found = self.profiles(project).into_iter().find(|profile| profile.name.as_str() == name);
        found.ok_or_else(|| Error::NotFound(format!("Profile {name:?} not found")))
    }

    /// Makes a profile.
    pub async fn create_profile(&self, profile: ProfileRecord) -> Result<()> {
        let _turn = self.shared.profiles.lock().await;
        self.check_new_profile(&profile)?;
        self.shared.submit_and_wait(Class::Wish, vec![profile.put()]).await?;
        self.shared.catalog_mut().profiles.insert((profile.project.clone(), profile.name.clone()), profile);
        Ok(())
    }

    /// Changes a profile to what `change` makes of it; instances that use it are looked at again. `expect` is the entity tag that
    /// the caller saw.
    pub async fn change_profile(
        &self,
        project: &ProjectName,
        name: &str,
        expect: Option<String>,
        change: impl FnOnce(ProfileRecord) -> ProfileRecord,
    ) -> Result<()> {
        let _turn = self.shared.profiles.lock().await;
        let profile = change(self.profile(project, name)?);
        self.check_changed_profile(&profile, expect)?;
        self.shared.submit_and_wait(Class::Wish, vec![profile.put()]).await?;
        let key = (profile.project.clone(), profile.name.clone());
        self.shared.catalog_mut().profiles.insert(key, profile.clone());
        self.shared.profiles_version.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
        self.look_at_users(&profile);
        Ok(())
    }

    /// Removes a profile that nobody uses.
    pub async fn delete_profile(&self, project: &ProjectName, name: &str) -> Result<()> {
        let _turn = self.shared.profiles.lock().await;
        let profile = self.unused_profile(project, name)?;
        self.shared.submit_and_wait(Class::Frees, vec![profile.delete()]).await?;
        self.shared.catalog_mut().profiles.remove(&(profile.project.clone(), profile.name.clone()));
        Ok(())
    }

    /// Names of instances that use a profile.
    pub fn users_of_profile(&self, project: &ProjectName, name: &ProfileName) -> Vec<String> {
        let uses = |view: &&Arc<crate::InstanceView>| {
            view.record.project == *project && view.record.wish.profiles.contains(name)
        };
        self.instances().iter().filter(uses).map(|view| view.record.name.to_string()).collect()
    }

    /// Every network.
    pub fn networks(&self) -> Vec<NetworkRecord> {
        self.shared.catalog().networks.values().cloned().collect()
    }

    /// Every pool.
    pub fn pools(&self) -> Vec<PoolRecord> {
        self.shared.catalog().pools.values().cloned().collect()
    }

    /// Whether there is such a project.
    pub fn has_project(&self, name: &ProjectName) -> bool {
        self.shared.catalog().projects.contains_key(name)
    }

    /// Every project.
    pub fn projects(&self) -> Vec<ProjectRecord> {
        self.shared.catalog().projects.values().cloned().collect()
    }

    /// Refuses a new profile that makes no sense, or whose name is taken.
    pub(crate) fn check_new_profile(&self, profile: &ProfileRecord) -> Result<()> {
        self.check_profile(&profile.written)?;
        match self.profile(&profile.project, profile.name.as_str()) {
            Ok(_) => Err(Error::Conflict(format!("Profile {:?} already exists", profile.name.as_str()))),
            Err(_) => Ok(()),
        }
    }

    /// Refuses a changed profile that makes no sense, or of which the caller saw another one.
    pub(crate) fn check_changed_profile(&self, profile: &ProfileRecord, expect: Option<String>) -> Result<()> {
        self.check_profile(&profile.written)?;
        let before = self.profile(&profile.project, profile.name.as_str())?;
        expect_tag(expect, crate::etag::of(&(&before.written, &before.description)))
    }

    /// A profile that can be deleted.
    pub(crate) fn unused_profile(&self, project: &ProjectName, name: &str) -> Result<ProfileRecord> {
        let profile = self.profile(project, name)?;
        if profile.name == crate::create::default_profile() {
            return Err(Error::Invalid("The \"default\" profile can't be deleted".into()));
        }
        if !self.users_of_profile(project, &profile.name).is_empty() {
            return Err(Error::Invalid("Profile is currently in use".into()));
        }
        Ok(profile)
    }

    /// The keys of a profile must make sense by themselves, on this host; a root disk may come from elsewhere.
    fn check_profile(&self, written: &Written) -> Result<()> {
        for nic in config::check_profile(written)? {
            plan::refuse_nic_limits(&nic.device, nic.limits, self.facts())?;
        }
        let limits = config::limits(&written.config);
        plan::refuse_limits(&limits, self.facts())?;
        plan::refuse_told(config::told(&written.config), self.facts())?;
        Ok(plan::refuse_autoscale(&config::autoscale(&written.config), &limits, self.facts())?)
    }

    /// Seconds since 1970, for whoever needs the same clock.
    pub fn now_s(&self) -> i64 {
        clock::now_ms() / 1000
    }
}

/// Whether the caller saw what is there now.
pub(crate) fn expect_tag(expect: Option<String>, found: String) -> Result<()> {
    match expect.as_deref().map(|tag| tag.trim_matches('"')) {
        Some(wanted) if wanted != found => Err(Error::Stale { wanted: wanted.to_owned(), found }),
        _ => Ok(()),
    }
}
