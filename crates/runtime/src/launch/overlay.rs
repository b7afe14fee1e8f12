//! The guest's root file system: an overlay of idmapped layers, as a detached mount.
//!
//! Ids on the disk are the guest's own (0 is root): the layers are shown with the host ids of the guest's range by
//! idmapped mounts, so nothing is ever chowned and a layer serves any number of ranges.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kernel::Errno;
use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags, ResolveFlags, StatVfsMountFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create, fsconfig_set_fd,
    fsconfig_set_string, fsmount, fsopen, move_mount,
};

use crate::protocol::{Failure, RootSpec};

const STAGE: &str = "root";

/// Longest value that the kernel takes from `fsconfig` as a string.
const MAX_STRING: usize = 255;

fn failed(call: &'static str, target: &str) -> impl Fn(Errno) -> Failure {
    let target = target.to_owned();
    move |errno| Failure::new(STAGE, call, target.clone(), errno)
}

/// A file of the volume that is there to be given up, like that of the database. The kernel makes overlay's work directory
/// anew at each mount, without the room that is reserved for root: where the pool is full, and more so as root's own writes
/// take from that room, only what is given up here is enough for it.
const BALLAST: &str = "ballast";

/// Its bytes: a few blocks, for what root and the file system itself took beyond what is full for others.
const BALLAST_BYTES: u64 = 64 << 10;

/// Mounts the root file system described by `spec` for the ids of the user namespace `userns`.
///
/// The caller's file-system ids must be the base of the range, else the kernel can't make its work directory and mounts
/// silently read-only; that the result is writable is checked.
pub(super) fn mount(spec: &RootSpec, scratch: &str, userns: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    let pool = rustix::fs::open(&*spec.pool, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed("open", &spec.pool))?;
    let (mut root, volume) = try_mount(spec, scratch, pool.as_fd(), userns)?;
    if is_read_only(&root)? && spend(&volume) {
        (root, _) = try_mount(spec, scratch, pool.as_fd(), userns)?;
    }
    if is_read_only(&root)? {
        return Err(Failure::new(STAGE, "overlay came up read-only", &spec.volume, Errno::ROFS));
    }
    refill(&volume);
    Ok(root)
}

/// An overlay, which may have come up read-only, and its volume.
fn try_mount(
    spec: &RootSpec,
    scratch: &str,
    pool: BorrowedFd<'_>,
    userns: BorrowedFd<'_>,
) -> Result<(OwnedFd, OwnedFd), Failure> {
    let layers = spec.layers.iter().map(|layer| idmapped(pool, layer, userns)).collect::<Result<Vec<_>, _>>()?;
    // Upper and work must lie on one mount: their parent is cloned once.
    let volume = idmapped(pool, &spec.volume, userns)?;
    let root = match spec.way {
        0 => by_descriptors(spec, &layers, &volume)?,
        1 => attached(spec, &layers, &volume, scratch, append_each)?,
        _ => attached(spec, &layers, &volume, scratch, one_string)?,
    };
    Ok((root, volume))
}

fn is_read_only(root: &OwnedFd) -> Result<bool, Failure> {
    let state = rustix::fs::fstatvfs(root).map_err(failed("fstatvfs", "overlay"))?;
    Ok(state.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// Gives it up; whether there was one. Its room is free once that is on the disk.
fn spend(volume: &OwnedFd) -> bool {
    let given = rustix::fs::unlinkat(volume, BALLAST, AtFlags::empty()).is_ok();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    given && rustix::fs::openat(volume, ".", flags, Mode::empty()).and_then(rustix::fs::syncfs).is_ok()
}

/// Makes one for a later mount, where there is none and much more room than it takes. Without it the mount is as good.
fn refill(volume: &OwnedFd) {
    let has_room = || rustix::fs::fstatvfs(volume).is_ok_and(|disk| disk.f_bavail * disk.f_frsize > 16 * BALLAST_BYTES);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if rustix::fs::statat(volume, BALLAST, AtFlags::SYMLINK_NOFOLLOW).is_ok() || !has_room() {
        return;
    }
    let Ok(ballast) = rustix::fs::openat(volume, BALLAST, flags, Mode::RUSR | Mode::WUSR) else { return };
    let _ = rustix::fs::fallocate(ballast, FallocateFlags::empty(), 0, BALLAST_BYTES);
}

/// A detached mount of `path` below the pool that shows the ids of `userns`.
fn idmapped(pool: BorrowedFd<'_>, path: &str, userns: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let directory = rustix::fs::openat2(pool, path, flags, Mode::empty(), resolve).map_err(failed("openat2", path))?;
    let tree = kernel::mount::clone_tree(directory.as_fd(), "").map_err(failed("open_tree", path))?;
    kernel::mount::idmap(tree.as_fd(), userns).map_err(failed("mount_setattr(idmap)", path))?;
    Ok(tree)
}

fn subdirectory(volume: &OwnedFd, name: &str) -> Result<OwnedFd, Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(volume, name, flags, Mode::empty()).map_err(failed("openat", name))
}

/// Options of every overlay: renames and mode changes of large trees stay cheap; no index, which would tie an upper to
/// its exact layers.
fn options(fs: &OwnedFd) -> Result<(), Failure> {
    for (key, value) in [("source", "overlay"), ("redirect_dir", "on"), ("metacopy", "on"), ("index", "off")] {
        fsconfig_set_string(fs, key, value).map_err(failed("fsconfig", key))?;
    }
    Ok(())
}

fn create(fs: &OwnedFd) -> Result<OwnedFd, Failure> {
    fsconfig_create(fs).map_err(|errno| {
        let log = kernel::mount::context_log(fs.as_fd());
        Failure::new(STAGE, "fsconfig(create)", format!("overlay {}", log.trim()), errno)
    })?;
    // Device nodes of a layer are inert: nodev is locked with everything else.
    fsmount(fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV).map_err(failed("fsmount", "overlay"))
}

/// Linux 6.13 and newer: everything by descriptor, no path is ever looked up or shown in the guest's mount table.
fn by_descriptors(spec: &RootSpec, layers: &[OwnedFd], volume: &OwnedFd) -> Result<OwnedFd, Failure> {
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed("fsopen", "overlay"))?;
    options(&fs)?;
    for (layer, name) in layers.iter().zip(&spec.layers) {
        fsconfig_set_fd(&fs, "lowerdir+", layer).map_err(failed("fsconfig(lowerdir+)", name))?;
    }
    let upper = subdirectory(volume, &spec.upper)?;
    let work = subdirectory(volume, &spec.work)?;
    fsconfig_set_fd(&fs, "upperdir", upper).map_err(failed("fsconfig(upperdir)", &spec.upper))?;
    fsconfig_set_fd(&fs, "workdir", work).map_err(failed("fsconfig(workdir)", &spec.work))?;
    create(&fs)
}

type Lower = fn(&OwnedFd, &[String]) -> Result<(), Failure>;

/// Older kernels want layers that are attached somewhere. They are, under short names in a tmpfs that only this mount
/// namespace sees, and paths are relative to it, so that the guest's mount table shows `lowerdir=0:1` and no path of ours.
fn attached(
    spec: &RootSpec,
    layers: &[OwnedFd],
    volume: &OwnedFd,
    scratch: &str,
    lower: Lower,
) -> Result<OwnedFd, Failure> {
    super::tree::mount_tmpfs_at(scratch).map_err(failed("mount(tmpfs)", scratch))?;
    rustix::process::chdir(scratch).map_err(failed("chdir", scratch))?;
    let names: Vec<String> = (0..layers.len()).map(short_name).collect();
    for (layer, name) in layers.iter().zip(&names) {
        attach_here(layer, name)?;
    }
    attach_here(volume, "v")?;
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed("fsopen", "overlay"))?;
    options(&fs)?;
    lower(&fs, &names)?;
    let upper = format!("v/{}", spec.upper);
    let work = format!("v/{}", spec.work);
    fsconfig_set_string(&fs, "upperdir", &*upper).map_err(failed("fsconfig(upperdir)", &upper))?;
    fsconfig_set_string(&fs, "workdir", &*work).map_err(failed("fsconfig(workdir)", &work))?;
    let root = create(&fs)?;
    // The overlay holds its layers itself; the names have done their duty.
    rustix::process::chdir("/").map_err(failed("chdir", "/"))?;
    rustix::mount::unmount(scratch, UnmountFlags::DETACH).map_err(failed("umount2", scratch))?;
    Ok(root)
}

fn attach_here(mount: &OwnedFd, name: &str) -> Result<(), Failure> {
    rustix::fs::mkdirat(CWD, name, Mode::from_raw_mode(0o711)).map_err(failed("mkdir", name))?;
    move_mount(mount, "", CWD, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(failed("move_mount", name))
}

fn append_each(fs: &OwnedFd, names: &[String]) -> Result<(), Failure> {
    names.iter().try_for_each(|name| {
        fsconfig_set_string(fs, "lowerdir+", name.as_str()).map_err(failed("fsconfig(lowerdir+)", name))
    })
}

fn one_string(fs: &OwnedFd, names: &[String]) -> Result<(), Failure> {
    let all = names.join(":");
    if all.len() > MAX_STRING {
        return Err(Failure::new(
            STAGE,
            "too many layers for one string",
            format!("{} layers", names.len()),
            Errno::TOOBIG,
        ));
    }
    fsconfig_set_string(fs, "lowerdir", &*all).map_err(failed("fsconfig(lowerdir)", &all))
}

/// The n-th of 62 one-character and then 3844 two-character names: 85 layers fit into one string.
fn short_name(n: usize) -> String {
    const DIGITS: &[u8; 62] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let digit = |n: usize| char::from(DIGITS[n % 62]);
    // `v` is the volume's name, so single characters stop at the digits.
    if n < 10 { digit(n).to_string() } else { [digit((n - 10) / 62), digit((n - 10) % 62)].iter().collect() }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::short_name;

    #[test]
    fn layer_names_are_short_and_never_the_same() {
        let names: Vec<String> = (0..500).map(short_name).collect();
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), 500);
        assert!(names.iter().all(|n| n.len() <= 2 && n != "v"));
        assert!(names[..85].join(":").len() <= super::MAX_STRING);
    }
}
