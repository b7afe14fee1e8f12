//! Image files on this host, and the image child that unpacks and builds them.
//!
//! ```text
//! <state>/images/<fingerprint>/facts.json             what is known of it; it exists when this does
//! <state>/images/<fingerprint>/image                  one file, or
//! <state>/images/<fingerprint>/metadata, rootfs       two
//! <state>/images/.partial-<name>/…                    one that is not whole yet
//! <state>/uploads/<name>/…                            what clients are sending
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use engine::{ImageFacts, Progress, StepError};
use images::recipe::{Architecture, Recipe};
use images::report::{Outcome, Report};
use kernel::Errno;
use model::Fingerprint;
use rustix::fs::OFlags;
use storage::OverlayPool;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::channel::watch;
use super::spawn::Spawn;
use super::words;

/// The images.
#[derive(Debug)]
pub(crate) struct Images {
    directory: PathBuf,
    uploads: PathBuf,
    spawn: Arc<Spawn>,
    /// Host id of root in the image child.
    base: u32,
    recipes: BTreeMap<Fingerprint, (PathBuf, Recipe)>,
    /// Uploads that somebody sends or unpacks.
    sending: Mutex<BTreeSet<String>>,
}

/// How often what a former daemon left is removed, and the pause in between.
const REMOVALS: u32 = 50;
const BETWEEN_REMOVALS: Duration = Duration::from_millis(20);

/// Removes what a former daemon left. The child that worked on it for that one ends soon after it, and may make files until then.
fn remove_left(path: &Path) {
    for _ in 0..REMOVALS {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => std::thread::sleep(BETWEEN_REMOVALS),
            // Doctor finds what could not be removed.
            Ok(()) | Err(_) => return,
        }
    }
}

impl Images {
    pub(crate) fn new(
        state_dir: &Path,
        spawn: Arc<Spawn>,
        base: u32,
        recipes: BTreeMap<Fingerprint, (PathBuf, Recipe)>,
    ) -> Result<Images, StepError> {
        let (directory, uploads) = (state_dir.join("images"), state_dir.join("uploads"));
        let images = Images { directory, uploads, spawn, base, recipes, sending: Mutex::default() };
        for directory in [&images.directory, &images.uploads] {
            fs::create_dir_all(directory).map_err(|e| words::because("images", &e))?;
        }
        images.sweep();
        Ok(images)
    }

    /// What a former daemon did not finish is of no use.
    fn sweep(&self) {
        for (directory, all) in [(&self.directory, false), (&self.uploads, true)] {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                // An image exists when its facts do: one without them was being removed.
                let is_whole = entry.path().join("facts.json").exists();
                if all || !is_whole || entry.file_name().to_string_lossy().starts_with('.') {
                    remove_left(&entry.path());
                }
            }
        }
    }

    fn of(&self, fingerprint: Fingerprint) -> PathBuf {
        self.directory.join(fingerprint.to_string())
    }

    fn sending(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.sending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A directory for what a client sends.
    pub(crate) fn begin_upload(&self, name: &str) -> io::Result<PathBuf> {
        let directory = self.uploads.join(name);
        self.sending().insert(name.to_owned());
        fs::create_dir(&directory)?;
        Ok(directory)
    }

    /// Removes what is left of it.
    pub(crate) fn end_upload(&self, name: &str) {
        let _ = fs::remove_dir_all(self.uploads.join(name));
        self.sending().remove(name);
    }

    /// The files of an image: one, or metadata and root file system.
    pub(crate) fn files(&self, facts: &ImageFacts) -> Vec<PathBuf> {
        let directory = self.of(facts.fingerprint);
        let names: &[&str] = if facts.split { &["metadata", "rootfs"] } else { &["image"] };
        names.iter().map(|name| directory.join(name)).collect()
    }

    /// The images that are whole.
    pub(crate) fn list(&self) -> Vec<ImageFacts> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.file_name().to_string_lossy().parse::<Fingerprint>().is_ok())
            .filter_map(|entry| serde_json::from_slice(&fs::read(entry.path().join("facts.json")).ok()?).ok())
            .collect()
    }

    /// What is no image, and no upload that somebody sends.
    pub(crate) fn leftovers(&self) -> Vec<PathBuf> {
        let entries = |directory: &Path| -> Vec<PathBuf> {
            fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
        };
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut left = entries(&self.directory);
        left.retain(|path| name(path).parse::<Fingerprint>().is_err() || !path.join("facts.json").exists());
        let uploads = entries(&self.uploads);
        let sending = self.sending();
        left.extend(uploads.into_iter().filter(|path| !sending.contains(&name(path))));
        left
    }

    /// Takes a finished upload: unpacks it in `pool`, which checks it through and through, and keeps its files.
    pub(crate) async fn adopt(
        &self,
        upload: &str,
        pool: &OverlayPool,
        progress: Progress<'_>,
    ) -> Result<ImageFacts, StepError> {
        let adopted = self.take(upload, pool, progress).await;
        self.end_upload(upload);
        adopted
    }

    async fn take(&self, upload: &str, pool: &OverlayPool, progress: Progress<'_>) -> Result<ImageFacts, StepError> {
        const STEP: &str = "adopt_image";
        let from = self.uploads.join(upload);
        let split = from.join("rootfs").exists();
        let name = fs::read_to_string(from.join("filename")).unwrap_or_default();
        // Under a name of its own until the content says what it is.
        let unknown = Fingerprint(hash_of(upload));
        let begun = pool.begin_layer(unknown).map_err(|e| words::because(STEP, &e));
        let stage = begun.inspect_err(|_| drop(pool.remove_partial(unknown)))?;
        let text = |path: PathBuf| path.display().to_string();
        let mut argv = self.arguments("unpack", &stage);
        if split {
            argv.extend([
                "--metadata".into(),
                text(from.join("metadata")),
                "--rootfs".into(),
                text(from.join("rootfs")),
            ]);
        } else {
            argv.extend(["--unified".into(), text(from.join("image"))]);
        }
        let result = self.child(STEP, argv, progress).await;
        let result = result.and_then(|outcome| {
            let facts = facts(&outcome, None, split, name);
            self.publish_both(STEP, &from, &facts, pool, unknown).map(|()| facts)
        });
        if result.is_err() {
            let _ = pool.remove_partial(unknown);
        }
        result
    }

    /// Publishes an image and its layer: both, or neither.
    fn publish_both(
        &self,
        step: &str,
        from: &Path,
        facts: &ImageFacts,
        pool: &OverlayPool,
        begun: Fingerprint,
    ) -> Result<(), StepError> {
        let was_there = self.of(facts.fingerprint).join("facts.json").exists();
        let published = self
            .publish(from, facts)
            .map_err(|e| words::because(step, &e))
            .and_then(|()| pool.publish_layer_as(begun, facts.fingerprint).map_err(|e| words::because(step, &e)));
        if published.is_err() && !was_there {
            let _ = self.remove(facts.fingerprint);
        }
        published
    }

    /// Builds an image from a recipe, unpacked in `pool` already.
    pub(crate) async fn build(
        &self,
        recipe: Fingerprint,
        pool: &OverlayPool,
        progress: Progress<'_>,
    ) -> Result<ImageFacts, StepError> {
        const STEP: &str = "build_image";
        let failed = |e: io::Error| words::because(STEP, &e);
        let (file, _) =
            self.recipes.get(&recipe).ok_or_else(|| engine::step_error(STEP, "there is no such recipe any more"))?;
        let partial = self.directory.join(format!(".partial-{recipe}"));
        let _ = fs::remove_dir_all(&partial);
        let scratch = partial.join("scratch");
        let begun = fs::create_dir_all(&scratch).map_err(failed);
        let begun = begun.and_then(|()| pool.begin_layer(recipe).map_err(|e| words::because(STEP, &e)));
        let stage = begun.inspect_err(|_| drop((pool.remove_partial(recipe), fs::remove_dir_all(&partial))))?;
        let text = |path: &Path| path.display().to_string();
        let mut argv = self.arguments("build", &stage);
        let (scratch_text, out) = (text(&scratch), text(&partial.join("image")));
        argv.extend(["--recipe".into(), text(file), "--scratch".into(), scratch_text, "--out".into(), out]);
        let result = self.child(STEP, argv, progress).await;
        let _ = fs::remove_dir_all(&scratch);
        let result = result.and_then(|outcome| {
            let facts = facts(&outcome, Some(recipe), false, String::new());
            self.publish_both(STEP, &partial, &facts, pool, recipe).map(|()| facts)
        });
        if result.is_err() {
            let _ = fs::remove_dir_all(&partial);
            let _ = pool.remove_partial(recipe);
        }
        result
    }

    /// Unpacks an image in a pool that has not got its layer.
    pub(crate) async fn unpack(
        &self,
        fingerprint: Fingerprint,
        pool: &OverlayPool,
        progress: Progress<'_>,
    ) -> Result<(), StepError> {
        const STEP: &str = "unpack_layer";
        if pool.has_layer(fingerprint) {
            return Ok(());
        }
        let directory = self.of(fingerprint);
        let stage = pool.begin_layer(fingerprint).map_err(|e| words::because(STEP, &e))?;
        let text = |name: &str| directory.join(name).display().to_string();
        let mut argv = self.arguments("unpack", &stage);
        if directory.join("rootfs").exists() {
            argv.extend(["--metadata".into(), text("metadata"), "--rootfs".into(), text("rootfs")]);
        } else {
            argv.extend(["--unified".into(), text("image")]);
        }
        let outcome = self.child(STEP, argv, progress).await;
        let outcome = outcome.inspect_err(|_| drop(pool.remove_partial(fingerprint)))?;
        if outcome.fingerprint != fingerprint {
            let _ = pool.remove_partial(fingerprint);
            return Err(StepError {
                hint: Some("delete the image and import or build it again".into()),
                ..engine::step_error(
                    STEP,
                    format!("the files of image {fingerprint} were changed: they are {} now", outcome.fingerprint),
                )
            });
        }
        let published = pool.publish_layer(fingerprint).map_err(|e| words::because(STEP, &e));
        published.inspect_err(|_| drop(pool.remove_partial(fingerprint)))
    }

    /// Removes an image's files; its layers are the pools'.
    pub(crate) fn remove(&self, fingerprint: Fingerprint) -> Result<(), StepError> {
        let directory = self.of(fingerprint);
        // First that it exists, then what it was.
        for act in [fs::remove_file(directory.join("facts.json")), fs::remove_dir_all(&directory)] {
            match act {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(words::because("remove_image", &e)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Moves files to where the image lives; it exists once its facts do.
    fn publish(&self, from: &Path, facts: &ImageFacts) -> io::Result<()> {
        let target = self.of(facts.fingerprint);
        if target.join("facts.json").exists() {
            return fs::remove_dir_all(from);
        }
        let _ = fs::remove_dir_all(&target);
        let _ = fs::remove_file(from.join("filename"));
        let text = serde_json::to_vec_pretty(facts)?;
        let handle = fs::File::create(from.join("facts.json"))?;
        io::Write::write_all(&mut &handle, &text)?;
        rustix::fs::syncfs(&handle)?;
        fs::rename(from, &target)?;
        fs::File::open(&self.directory)?.sync_all()
    }

    fn arguments(&self, act: &str, stage: &Path) -> Vec<String> {
        let words = ["image", act, "--base", &self.base.to_string(), "--stage", &stage.display().to_string()];
        words.map(str::to_owned).to_vec()
    }

    /// Runs the image child and hears it out.
    async fn child(&self, step: &str, argv: Vec<String>, progress: Progress<'_>) -> Result<Outcome, StepError> {
        let failed = |call: &str, errno| words::failed(step, call, "the image child", errno);
        let ours = self.spawn.help(argv, kernel::scm::pair).await?;
        rustix::fs::fcntl_setfl(&ours, OFlags::NONBLOCK).map_err(|e| failed("watch", e))?;
        let socket = watch(ours, Interest::READABLE).map_err(|e| failed("watch", e))?;
        loop {
            match next(&socket).await {
                Ok(Some(Report::Progress(text))) => progress(&text),
                Ok(Some(Report::Done(outcome))) => return Ok(*outcome),
                Ok(Some(Report::Failed { message })) => {
                    let full = message.contains("No space left");
                    let hint = full.then(|| "the disk is full: free some space or use another pool".to_owned());
                    return Err(StepError { hint, ..engine::step_error(step, message) });
                }
                Ok(None) => {
                    return Err(engine::step_error(
                        step,
                        "the image child died without a word; the log of the daemon may have its last",
                    ));
                }
                Err(errno) => return Err(failed("hear", errno)),
            }
        }
    }
}

/// The next report; `None` when the child is gone.
async fn next(socket: &AsyncFd<OwnedFd>) -> kernel::Result<Option<Report>> {
    let mut buffer = vec![0u8; 64 * 1024];
    loop {
        let Ok(mut guard) = socket.readable().await else { return Err(Errno::IO) };
        match kernel::scm::receive(socket.get_ref().as_fd(), &mut buffer, false) {
            Ok((0, _)) | Err(Errno::CONNRESET) => return Ok(None),
            Ok((length, _)) => return serde_json::from_slice(&buffer[..length]).map(Some).map_err(|_| Errno::PROTO),
            Err(Errno::AGAIN) => guard.clear_ready(),
            Err(errno) => return Err(errno),
        }
    }
}

fn facts(outcome: &Outcome, recipe: Option<Fingerprint>, split: bool, filename: String) -> ImageFacts {
    ImageFacts {
        fingerprint: outcome.fingerprint,
        recipe,
        architecture: outcome.architecture.clone(),
        properties: outcome.properties.clone(),
        created_at: outcome.created_at,
        expires_at: outcome.expires_at,
        size: outcome.size,
        split,
        filename,
    }
}

fn hash_of(text: &str) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(text).into()
}

/// The recipes in a directory, or those that the program carries, written to `fallback` where the image child can read them.
pub(crate) fn load_recipes(
    directory: Option<&Path>,
    fallback: &Path,
) -> Result<BTreeMap<Fingerprint, (PathBuf, Recipe)>, StepError> {
    let failed = |e: &(dyn std::error::Error + 'static)| words::because("recipes", e);
    let Some(architecture) = Architecture::host() else { return Ok(BTreeMap::new()) };
    let directory = match directory {
        Some(directory) => directory.to_owned(),
        None => {
            fs::create_dir_all(fallback).map_err(|e| failed(&e))?;
            for (name, text) in images::recipe::BUILT_IN {
                let path = fallback.join(name);
                // Overwriting them each time is 10 ms of every start.
                if fs::read_to_string(&path).ok().as_deref() != Some(text) {
                    fs::write(path, text).map_err(|e| failed(&e))?;
                }
            }
            fallback.to_owned()
        }
    };
    let mut recipes = BTreeMap::new();
    for entry in fs::read_dir(&directory).map_err(|e| failed(&e))?.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let text = fs::read_to_string(&path).map_err(|e| failed(&e))?;
            let recipe = Recipe::parse(&path.display().to_string(), &text).map_err(|e| failed(&e))?;
            recipes.insert(recipe.fingerprint(architecture), (path, recipe));
        }
    }
    Ok(recipes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_goes_although_somebody_makes_files_in_it_for_a_while() {
        let scratch = testkit::Scratch::new("left");
        let left = scratch.join(".partial-1");
        fs::create_dir(&left).expect("mkdir");
        let inside = left.clone();
        let maker = std::thread::spawn(move || (0..3000).all(|n| fs::File::create(inside.join(n.to_string())).is_ok()));
        testkit::eventually("the first file", || left.join("0").exists().then_some(()));
        remove_left(&left);
        maker.join().expect("the maker");
        assert!(!left.exists());
    }
}
