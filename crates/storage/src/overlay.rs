//! The driver `overlay`: an image is unpacked once, as a layer that nothing ever writes to; an instance is a directory for
//! its own changes on top. Works on any file system that can be idmapped (ext4, xfs, btrfs).
//!
//! ```text
//! <pool>/layers/<fingerprint>            a root file system, ids as in the guest
//! <pool>/layers/.partial-<fingerprint>   one that is being unpacked
//! <pool>/volumes/<id>/fs/upper.<n>       changes of root generation n; it exists when this does
//! <pool>/volumes/<id>/fs/work.<n>        overlay's own
//! <pool>/volumes/<id>/fs/lock            locked by whoever has it mounted
//! <pool>/volumes/<id>/fs/ballast         given up where a full disk has no room for a mount
//! <pool>/volumes/<id>/layer              fingerprint of the layer below, or empty
//! <pool>/trash                           what is being removed
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use model::{Fingerprint, InstanceId, RootGen, RootSource};

use crate::{Result, failed, trash};

/// A pool.
#[derive(Debug, Clone)]
pub struct OverlayPool {
    directory: PathBuf,
}

/// What is to be mounted for a root file system. Paths are below the pool's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootLayout {
    /// The pool's directory.
    pub pool: PathBuf,
    /// Layers, topmost first.
    pub layers: Vec<String>,
    /// Directory that holds upper and work.
    pub volume: String,
    /// Name of the writable layer.
    pub upper: String,
    /// Name of overlay's work directory.
    pub work: String,
}

/// What lies in an instance's volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeSeen {
    /// Root file systems.
    pub roots: BTreeSet<RootGen>,
    /// Overlay's work directories.
    pub works: BTreeSet<RootGen>,
    /// The note of the layer below; empty when it is missing.
    pub layer: String,
}

/// Space of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes in use on its disk.
    pub used_bytes: u64,
    /// Bytes of its disk.
    pub total_bytes: u64,
    /// Inodes in use.
    pub used_inodes: u64,
    /// Inodes that there can be.
    pub total_inodes: u64,
}

/// The layer of instances that are made from nothing: an overlay needs at least one below.
const EMPTY: &str = "empty";

impl OverlayPool {
    /// The pool at a directory.
    pub fn new(directory: impl Into<PathBuf>) -> OverlayPool {
        OverlayPool { directory: directory.into() }
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes its directories where they are missing. Done twice it changes nothing.
    pub fn prepare(&self) -> Result<()> {
        make_dir(&self.directory, 0o700)?;
        for name in ["layers", "volumes", "trash"] {
            make_dir(&self.directory.join(name), 0o700)?;
        }
        // A root file system of its own must look like one.
        let empty = self.directory.join("layers").join(EMPTY);
        make_dir(&empty, 0o755)
    }

    fn layer(&self, fingerprint: Fingerprint) -> PathBuf {
        self.directory.join("layers").join(fingerprint.to_string())
    }

    fn partial(&self, fingerprint: Fingerprint) -> PathBuf {
        self.directory.join("layers").join(format!(".partial-{fingerprint}"))
    }

    fn volume(&self, id: InstanceId) -> PathBuf {
        self.directory.join("volumes").join(id.to_string())
    }

    /// The layers that are whole.
    pub fn layers(&self) -> Result<BTreeSet<Fingerprint>> {
        Ok(names(&self.directory.join("layers"))?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// An empty directory to unpack a layer into; what an earlier try left there goes to the trash.
    pub fn begin_layer(&self, fingerprint: Fingerprint) -> Result<PathBuf> {
        let partial = self.partial(fingerprint);
        trash::throw(&self.directory.join("trash"), &partial)?;
        make_dir(&partial, 0o755)?;
        Ok(partial)
    }

    /// Throws an unfinished layer away.
    pub fn remove_partial(&self, fingerprint: Fingerprint) -> Result<()> {
        trash::throw(&self.directory.join("trash"), &self.partial(fingerprint))
    }

    /// Throws all of them away, and volumes without a root: when nobody works on any, as after the death of whoever did.
    pub fn remove_partials(&self) -> Result<()> {
        for id in self.volumes()? {
            if self.roots(id)?.is_empty() {
                trash::throw(&self.directory.join("trash"), &self.directory.join("volumes").join(id.to_string()))?;
            }
        }
        let layers = self.directory.join("layers");
        for name in names(&layers)? {
            if name != EMPTY && name.parse::<Fingerprint>().is_err() {
                trash::throw(&self.directory.join("trash"), &layers.join(name))?;
            }
        }
        Ok(())
    }

    /// Makes an unpacked layer the layer, once its content is on the disk.
    pub fn publish_layer(&self, fingerprint: Fingerprint) -> Result<()> {
        self.publish_layer_as(fingerprint, fingerprint)
    }

    /// The same for a layer whose fingerprint was found out while it was unpacked under another name.
    pub fn publish_layer_as(&self, begun: Fingerprint, fingerprint: Fingerprint) -> Result<()> {
        let (partial, layer) = (self.partial(begun), self.layer(fingerprint));
        if layer.exists() {
            return trash::throw(&self.directory.join("trash"), &partial);
        }
        let handle = fs::File::open(&partial).map_err(failed("open", &partial))?;
        rustix::fs::syncfs(&handle).map_err(|e| failed("sync", &partial)(e.into()))?;
        fs::rename(&partial, &layer).map_err(failed("rename to its fingerprint", &partial))?;
        sync_directory(&self.directory.join("layers"))
    }

    /// Whether a layer is there.
    pub fn has_layer(&self, fingerprint: Fingerprint) -> bool {
        self.layer(fingerprint).exists()
    }

    /// Throws a layer away.
    pub fn remove_layer(&self, fingerprint: Fingerprint) -> Result<()> {
        trash::throw(&self.directory.join("trash"), &self.layer(fingerprint))
    }

    /// Everything of which there is a volume.
    pub fn volumes(&self) -> Result<BTreeSet<InstanceId>> {
        Ok(names(&self.directory.join("volumes"))?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// The root file systems of an instance.
    pub fn roots(&self, id: InstanceId) -> Result<BTreeSet<RootGen>> {
        let names = names(&self.volume(id).join("fs"))?;
        Ok(names.iter().filter_map(|name| name.strip_prefix("upper.")?.parse().ok().map(RootGen)).collect())
    }

    /// All that lies in an instance's volume.
    pub fn volume_seen(&self, id: InstanceId) -> Result<VolumeSeen> {
        let volume = self.volume(id);
        let names = names(&volume.join("fs"))?;
        let of =
            |prefix| names.iter().filter_map(|name| name.strip_prefix(prefix)?.parse().ok().map(RootGen)).collect();
        let layer = fs::read_to_string(volume.join("layer")).unwrap_or_default();
        Ok(VolumeSeen { roots: of("upper."), works: of("work."), layer })
    }

    /// Makes a root file system: two directories. Done twice it changes nothing; what fails half way is thrown away.
    pub fn create_root(&self, id: InstanceId, root: RootGen, source: RootSource) -> Result<()> {
        self.make_root(id, root, source).inspect_err(|_| {
            // On a full disk some of it may be made, which nobody would look for: the root is not there without its last part.
            if self.roots(id).is_ok_and(|roots| !roots.contains(&root)) {
                drop(self.discard_root(id, root));
            }
        })
    }

    fn make_root(&self, id: InstanceId, root: RootGen, source: RootSource) -> Result<()> {
        let volume = self.volume(id);
        let files = volume.join("fs");
        make_dir(&volume, 0o700)?;
        make_dir(&files, 0o700)?;
        let layer = match source {
            RootSource::Empty => String::new(),
            RootSource::Image(fingerprint) => fingerprint.to_string(),
        };
        fs::write(volume.join("layer"), layer).map_err(failed("write", &volume.join("layer")))?;
        make_dir(&files.join(format!("work.{root}")), 0o700)?;
        // Last: the root exists from here on. Mode and owner are those of the guest's `/`.
        make_dir(&files.join(format!("upper.{root}")), 0o755)
    }

    /// Throws a root file system away, and the volume with the last one.
    pub fn discard_root(&self, id: InstanceId, root: RootGen) -> Result<()> {
        let (volume, trash) = (self.volume(id), self.directory.join("trash"));
        let files = volume.join("fs");
        // The last one goes with its volume, in one act.
        if self.roots(id)?.iter().all(|other| *other == root) {
            return trash::throw(&trash, &volume);
        }
        // Last what says that the root exists, so that a failure before is seen and tried again.
        trash::throw(&trash, &files.join(format!("work.{root}")))?;
        trash::throw(&trash, &files.join(format!("upper.{root}")))
    }

    /// What is to be mounted for a root file system.
    pub fn layout(&self, id: InstanceId, root: RootGen, source: RootSource) -> RootLayout {
        let layer = match source {
            RootSource::Empty => EMPTY.to_owned(),
            RootSource::Image(fingerprint) => fingerprint.to_string(),
        };
        RootLayout {
            pool: self.directory.clone(),
            layers: vec![format!("layers/{layer}")],
            volume: format!("volumes/{id}/fs"),
            upper: format!("upper.{root}"),
            work: format!("work.{root}"),
        }
    }

    /// Removes what was thrown away. Takes as long as that takes.
    pub fn empty_trash(&self) -> Result<()> {
        trash::empty(&self.directory.join("trash"))
    }

    /// What was thrown away and is not removed yet.
    pub fn trash(&self) -> Result<Vec<String>> {
        Ok(names(&self.directory.join("trash"))?.into_iter().map(|name| format!("trash/{name}")).collect())
    }

    /// Names in the pool that belong to nothing: unfinished layers, strangers.
    pub fn leftovers(&self) -> Result<Vec<String>> {
        let mut left = Vec::new();
        for (directory, known) in [("layers", true), ("volumes", false)] {
            for name in names(&self.directory.join(directory))? {
                let ours = if known {
                    name == EMPTY || name.parse::<Fingerprint>().is_ok()
                } else {
                    name.parse::<InstanceId>().is_ok()
                };
                if !ours {
                    left.push(format!("{directory}/{name}"));
                }
            }
        }
        Ok(left)
    }

    /// Space of the disk that the pool is on.
    pub fn usage(&self) -> Result<Usage> {
        let state = rustix::fs::statvfs(&self.directory).map_err(|e| failed("statvfs", &self.directory)(e.into()))?;
        Ok(Usage {
            used_bytes: (state.f_blocks - state.f_bfree) * state.f_frsize,
            total_bytes: state.f_blocks * state.f_frsize,
            used_inodes: state.f_files - state.f_ffree,
            total_inodes: state.f_files,
        })
    }
}

fn make_dir(path: &Path, mode: u32) -> Result<()> {
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        // Parents of a pool's own directory.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(failed("mkdir", path))
        }
        other => other.map_err(failed("mkdir", path)),
    }
}

fn sync_directory(path: &Path) -> Result<()> {
    fs::File::open(path).and_then(|directory| directory.sync_all()).map_err(failed("sync", path))
}

/// Names in a directory; none when it is missing.
fn names(path: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed("list", path))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed("list", path))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use testkit::Scratch;
    use uuid::Uuid;

    use super::*;

    fn pool(scratch: &Scratch) -> OverlayPool {
        let pool = OverlayPool::new(scratch.join("pool"));
        pool.prepare().expect("prepare");
        pool.prepare().expect("twice");
        pool
    }

    const ID: InstanceId = InstanceId(Uuid::from_u128(7));
    const IMAGE: Fingerprint = Fingerprint([5; 32]);

    #[test]
    fn a_layer_is_there_only_when_it_is_whole() {
        let scratch = Scratch::new("pool");
        let pool = pool(&scratch);
        let partial = pool.begin_layer(IMAGE).expect("begin");
        fs::write(partial.join("half"), "x").expect("write");
        assert!(pool.layers().expect("layers").is_empty() && !pool.has_layer(IMAGE));
        assert_eq!(pool.leftovers().expect("left").len(), 1);
        let again = pool.begin_layer(IMAGE).expect("again");
        assert!(!again.join("half").exists());
        fs::write(again.join("whole"), "x").expect("write");
        pool.publish_layer(IMAGE).expect("publish");
        assert_eq!(pool.layers().expect("layers"), [IMAGE].into());
        pool.remove_layer(IMAGE).expect("remove");
        pool.remove_layer(IMAGE).expect("twice");
        pool.empty_trash().expect("empty");
        assert_eq!(pool.leftovers().expect("left"), [""; 0]);
    }

    #[test]
    fn roots_come_and_go_and_take_their_volume_along() {
        let scratch = Scratch::new("pool");
        let pool = pool(&scratch);
        for root in [RootGen(1), RootGen(2), RootGen(1)] {
            pool.create_root(ID, root, RootSource::Image(IMAGE)).expect("create");
        }
        assert_eq!(pool.roots(ID).expect("roots"), [RootGen(1), RootGen(2)].into());
        let layout = pool.layout(ID, RootGen(2), RootSource::Image(IMAGE));
        assert!(layout.pool.join(&layout.volume).join(&layout.upper).is_dir());
        assert_eq!(layout.layers, [format!("layers/{IMAGE}")]);
        pool.discard_root(ID, RootGen(1)).expect("discard");
        assert_eq!(pool.roots(ID).expect("roots"), [RootGen(2)].into());
        for _ in 0..2 {
            pool.discard_root(ID, RootGen(2)).expect("discard");
        }
        assert!(pool.volumes().expect("volumes").is_empty());
        pool.empty_trash().expect("empty");
        assert_eq!(pool.leftovers().expect("left"), [""; 0]);
    }

    #[test]
    fn an_empty_instance_has_an_empty_layer_below() {
        let scratch = Scratch::new("pool");
        let pool = pool(&scratch);
        let layout = pool.layout(ID, RootGen(1), RootSource::Empty);
        assert!(layout.pool.join(&layout.layers[0]).is_dir());
    }
}
