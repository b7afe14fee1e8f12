//! Attributes of files.

use crate::wire::{Fields, put_u32, put_u64};

const SIZE: u32 = 1;
const OWNER: u32 = 2;
const PERMISSIONS: u32 = 4;
const TIMES: u32 = 8;
const EXTENDED: u32 = 0x8000_0000;

/// Most extended attributes that are skipped over; nobody is known to send one.
const MAX_EXTENDED: u32 = 32;

/// Attributes; what is `None` was not said or shall stay as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Bytes.
    pub size: Option<u64>,
    /// User and group.
    pub owner: Option<(u32, u32)>,
    /// Type and permissions, as `st_mode`.
    pub mode: Option<u32>,
    /// Access and modification, in seconds since 1970.
    pub times: Option<(u32, u32)>,
}

impl Attributes {
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        put_u32(
            out,
            flag(self.size.is_some(), SIZE)
                | flag(self.owner.is_some(), OWNER)
                | flag(self.mode.is_some(), PERMISSIONS)
                | flag(self.times.is_some(), TIMES),
        );
        if let Some(size) = self.size {
            put_u64(out, size);
        }
        if let Some((user, group)) = self.owner {
            put_u32(out, user);
            put_u32(out, group);
        }
        if let Some(mode) = self.mode {
            put_u32(out, mode);
        }
        if let Some((access, modification)) = self.times {
            put_u32(out, access);
            put_u32(out, modification);
        }
    }

    pub(crate) fn take(fields: &mut Fields<'_>) -> Option<Attributes> {
        let flags = fields.u32()?;
        if flags & !(SIZE | OWNER | PERMISSIONS | TIMES | EXTENDED) != 0 {
            return None;
        }
        let has = |flag: u32| flags & flag != 0;
        let mut attributes = Attributes::default();
        if has(SIZE) {
            attributes.size = Some(fields.u64()?);
        }
        if has(OWNER) {
            attributes.owner = Some((fields.u32()?, fields.u32()?));
        }
        if has(PERMISSIONS) {
            attributes.mode = Some(fields.u32()?);
        }
        if has(TIMES) {
            attributes.times = Some((fields.u32()?, fields.u32()?));
        }
        if has(EXTENDED) {
            let count = fields.u32()?;
            if count > MAX_EXTENDED {
                return None;
            }
            for _ in 0..2 * count {
                fields.string(crate::MAX_PATH)?;
            }
        }
        Some(attributes)
    }
}
