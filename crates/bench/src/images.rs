//! The images that are measured: those of the built-in recipes, built once and kept, and busybox with an init that tells
//! when it began.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::daemons::{Daemon, run};
use crate::{Result, act, programs};

/// The archive of a recipe; built by `daemon` where it is not kept in `cache` yet.
pub(crate) fn built(daemon: &Daemon, recipe: &str, cache: &Path) -> Result<PathBuf> {
    let kept = cache.join(format!("{}.tar.zst", recipe.split('/').next().unwrap_or(recipe)));
    if kept.exists() {
        return Ok(kept);
    }
    fs::create_dir_all(cache).map_err(act("mkdir"))?;
    let source = json!({"source": {"type": "recipe", "alias": recipe}});
    let done = daemon.http().finish("POST", "/1.0/images", &source)?;
    let fingerprint = done["metadata"]["fingerprint"].as_str().ok_or("an image without a fingerprint")?;
    let image = daemon.state().join("images").join(fingerprint).join("image");
    let new = kept.with_extension("new");
    fs::copy(image, &new).and_then(|_| fs::rename(&new, &kept)).map_err(act("keep the image"))?;
    daemon.http().finish("DELETE", &format!("/1.0/images/{fingerprint}"), &Value::Null)?;
    Ok(kept)
}

/// Busybox with our init.
pub(crate) fn stamped(busybox: &Path, scratch: &Path) -> Result<PathBuf> {
    let tree = scratch.join("bb");
    let archive = scratch.join("bb.tar.zst");
    fs::create_dir_all(&tree).map_err(act("mkdir"))?;
    run(Command::new("tar").args(["--zstd", "-xf"]).arg(busybox).arg("-C").arg(&tree))?;
    let init = tree.join("rootfs/usr/sbin/init");
    let _ = fs::remove_file(&init);
    fs::copy(programs("bench-init")?, &init).map_err(act("put the init into the image"))?;
    run(Command::new("tar")
        .args(["--zstd", "--numeric-owner", "-cf"])
        .arg(&archive)
        .arg("-C")
        .arg(&tree)
        .args(["metadata.yaml", "rootfs"]))?;
    fs::remove_dir_all(&tree).map_err(act("remove"))?;
    Ok(archive)
}
