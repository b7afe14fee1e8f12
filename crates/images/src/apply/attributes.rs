//! Owner, permissions, extended attributes and time: what is taken over from an archive, and in which order it is set.

use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;

use crate::acl::{ACCESS, Acl, DEFAULT};
use crate::tar::{Entry, Kind, Timestamp, Xattr};
use crate::{ArchivePath, Error, Result};

/// File capabilities.
pub(crate) const CAPABILITY: &[u8] = b"security.capability";

/// What to set on a file, checked.
#[derive(Debug, Clone, Default)]
pub(super) struct Attributes {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
    pub(super) mtime: Option<Timestamp>,
    pub(super) xattrs: Vec<Xattr>,
}

impl Attributes {
    /// Of a file that a recipe makes.
    pub(super) fn plain(mode: u32, mtime: Timestamp) -> Attributes {
        Attributes { mode, mtime: Some(mtime), ..Attributes::default() }
    }

    /// Memory behind pointers.
    pub(super) fn heap_bytes(&self) -> usize {
        self.xattrs.iter().map(|xattr| size_of::<Xattr>() + xattr.name.len() + xattr.value.len()).sum()
    }

    /// Takes over what an image may have; tells how many extended attributes it may not have.
    pub(super) fn of(entry: &Entry, ids: u32) -> Result<(Attributes, u64)> {
        let checked = |id: u64| {
            let small = u32::try_from(id).ok().filter(|&id| id < ids);
            small.ok_or_else(|| Error::Owner { path: entry.path.to_string(), id, limit: ids })
        };
        let mut attributes = Attributes {
            uid: checked(entry.uid)?,
            gid: checked(entry.gid)?,
            mode: entry.mode,
            mtime: Some(entry.mtime),
            xattrs: Vec::new(),
        };
        let mut dropped = 0;
        for xattr in &entry.xattrs {
            if xattr.name.starts_with(b"trusted.overlay.") {
                // Someone packed a layer instead of a tree; like a whiteout, it would hide or show the wrong files.
                return Err(Error::Whiteout { path: entry.path.to_string() });
            }
            match kept(xattr, &entry.kind) {
                Some(value) => {
                    let named = Acl::from_xattr(&value).filter(|_| xattr.name != CAPABILITY && is_acl(&xattr.name));
                    if let Some(id) = named.and_then(|acl| acl.largest_id()) {
                        checked(u64::from(id))?;
                    }
                    attributes.xattrs.push(Xattr { name: xattr.name.clone(), value });
                }
                None => dropped += 1,
            }
        }
        Ok((attributes, dropped))
    }
}

fn is_acl(name: &[u8]) -> bool {
    name == ACCESS || name == DEFAULT
}

/// The value to set, or `None` for an attribute that an image may not have. Everything else in `security.*` would speak to
/// the host's security modules, `trusted.*` to its file systems.
fn kept(xattr: &Xattr, kind: &Kind) -> Option<Vec<u8>> {
    let user = xattr.name.starts_with(b"user.") && xattr.name.len() > 5;
    match kind {
        Kind::File | Kind::Directory if user => Some(xattr.value.clone()),
        Kind::File if xattr.name == CAPABILITY => plain_capability(&xattr.value),
        Kind::Directory if xattr.name == DEFAULT => Acl::from_xattr(&xattr.value).map(|acl| acl.to_xattr()),
        Kind::File | Kind::Directory | Kind::Fifo if xattr.name == ACCESS => {
            Acl::from_xattr(&xattr.value).map(|acl| acl.to_xattr())
        }
        _ => None,
    }
}

/// Version 2 as it is, version 3 of the root user turned into version 2; `linux/capability.h`. Version 3 of another user
/// belongs to somebody's user namespace and means nothing here.
fn plain_capability(value: &[u8]) -> Option<Vec<u8>> {
    const VERSION_2: u32 = 0x0200_0000;
    const VERSION_3: u32 = 0x0300_0000;
    let (magic, rest) = value.split_first_chunk::<4>()?;
    let magic = u32::from_le_bytes(*magic);
    match (magic & 0xff00_0000, rest.len()) {
        (VERSION_2, 16) => Some(value.to_vec()),
        (VERSION_3, 20) if rest[16..] == [0; 4] => {
            let magic = (magic & 0x00ff_ffff) | VERSION_2;
            Some([&magic.to_le_bytes()[..], &rest[..16]].concat())
        }
        _ => None,
    }
}

/// Sets everything on an open file or directory that was just made and belongs to `own`.
pub(super) fn set_on_fd(
    fd: BorrowedFd<'_>,
    own: (u32, u32),
    attributes: &Attributes,
    path: &ArchivePath,
) -> Result<()> {
    // First the owner: a change of it clears set-user-id bits and capabilities.
    if (attributes.uid, attributes.gid) != own {
        let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
        rustix::fs::fchown(fd, Some(uid), Some(gid)).map_err(|errno| Error::act("set the owner of", path, errno))?;
    }
    rustix::fs::fchmod(fd, Mode::from_raw_mode(attributes.mode))
        .map_err(|errno| Error::act("set the permissions of", path, errno))?;
    for Xattr { name, value } in &attributes.xattrs {
        match rustix::fs::fsetxattr(fd, name.as_slice(), value, XattrFlags::empty()) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP) => return Err(Error::act("keep extended attributes of", path, Errno::OPNOTSUPP)),
            Err(errno) => return Err(Error::act("set an extended attribute of", path, errno)),
        }
    }
    match attributes.mtime {
        Some(mtime) => rustix::fs::futimens(fd, &times(mtime)),
        None => Ok(()),
    }
    .map_err(|errno| Error::act("set the time of", path, errno))
}

/// Sets what a symbolic link has: owner and time.
pub(super) fn set_on_symlink(
    parent: BorrowedFd<'_>,
    name: &[u8],
    own: (u32, u32),
    attributes: &Attributes,
    path: &ArchivePath,
) -> Result<()> {
    if (attributes.uid, attributes.gid) != own {
        let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
        rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| Error::act("set the owner of", path, errno))?;
    }
    match attributes.mtime {
        Some(mtime) => rustix::fs::utimensat(parent, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW),
        None => Ok(()),
    }
    .map_err(|errno| Error::act("set the time of", path, errno))
}

fn times(mtime: Timestamp) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: i64::from(mtime.nanoseconds) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_of_the_root_user_become_version_2_and_others_are_dropped() {
        let body = [1u8; 16];
        let two = [&0x0200_0001u32.to_le_bytes()[..], &body].concat();
        let three = |root: u32| [&0x0300_0001u32.to_le_bytes()[..], &body, &root.to_le_bytes()].concat();
        assert_eq!(plain_capability(&two), Some(two.clone()));
        assert_eq!(plain_capability(&three(0)), Some(two.clone()));
        assert_eq!(plain_capability(&three(100_000)), None);
        assert_eq!(plain_capability(&two[..12]), None);
        assert_eq!(plain_capability(b""), None);
    }
}
