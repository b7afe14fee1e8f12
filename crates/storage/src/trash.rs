//! Throwing trees away: a rename, which is all that anybody waits for, and the removal behind it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Result, failed};

/// Moves a tree into the trash under a name of its own. A tree that is gone already is fine.
pub(crate) fn throw(trash: &Path, path: &Path) -> Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    loop {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let target = trash.join(format!("{name}.{}.{number}", std::process::id()));
        match fs::rename(path, &target) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            // Left by a daemon that had the same pid.
            Err(e) if matches!(e.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty) => {}
            Err(e) => return Err(failed("move to the trash", path)(e)),
        }
    }
}

/// Removes everything in the trash. What cannot be removed is tried again the next time; the first failure is told.
pub(crate) fn empty(trash: &Path) -> Result<()> {
    let entries: Vec<PathBuf> = match fs::read_dir(trash) {
        Ok(entries) => entries.filter_map(|entry| entry.ok().map(|e| e.path())).collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed("list", trash)(e)),
    };
    let mut first = Ok(());
    for entry in entries {
        // std removes by descriptors and follows no link.
        let removed = match fs::remove_dir_all(&entry) {
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => fs::remove_file(&entry),
            other => other,
        };
        match removed {
            Err(e) if e.kind() != io::ErrorKind::NotFound && first.is_ok() => {
                first = Err(failed("remove", &entry)(e));
            }
            _ => {}
        }
    }
    first
}
