//! Packets of SFTP version 3 (draft-ietf-secsh-filexfer-02): what is sent, and how answers are read.

use super::Attributes;

pub(super) const INIT: u8 = 1;
pub(super) const VERSION: u8 = 2;
pub(super) const OPEN: u8 = 3;
pub(super) const CLOSE: u8 = 4;
pub(super) const READ: u8 = 5;
pub(super) const WRITE: u8 = 6;
pub(super) const LSTAT: u8 = 7;
pub(super) const SETSTAT: u8 = 9;
pub(super) const OPENDIR: u8 = 11;
pub(super) const READDIR: u8 = 12;
pub(super) const REMOVE: u8 = 13;
pub(super) const MKDIR: u8 = 14;
pub(super) const RMDIR: u8 = 15;
pub(super) const STAT: u8 = 17;
pub(super) const READLINK: u8 = 19;
pub(super) const SYMLINK: u8 = 20;
pub(super) const STATUS: u8 = 101;
pub(super) const HANDLE: u8 = 102;
pub(super) const DATA: u8 = 103;
pub(super) const NAME: u8 = 104;
pub(super) const ATTRS: u8 = 105;

/// Flags of OPEN: read.
pub(super) const FOR_READING: u32 = 0x01;
/// Flags of OPEN: write, create, truncate.
pub(super) const FOR_WRITING: u32 = 0x02 | 0x08 | 0x10;

const HAS_SIZE: u32 = 0x01;
const HAS_IDS: u32 = 0x02;
const HAS_MODE: u32 = 0x04;
const HAS_TIMES: u32 = 0x08;
const HAS_MORE: u32 = 0x8000_0000;

/// A packet that is being written. Its length is filled in at the end.
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn new(kind: u8, id: u32) -> Writer {
        Writer(vec![0, 0, 0, 0, kind]).u32(id)
    }

    pub(super) fn u32(mut self, value: u32) -> Writer {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn u64(mut self, value: u64) -> Writer {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Strings are at most some 32 KiB here: their lengths fit.
    pub(super) fn string(mut self, bytes: &[u8]) -> Writer {
        self = self.u32(bytes.len() as u32);
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn attributes(self, attributes: &Attributes) -> Writer {
        let flags = if attributes.size.is_some() { HAS_SIZE } else { 0 }
            | if attributes.ids.is_some() { HAS_IDS } else { 0 }
            | if attributes.mode.is_some() { HAS_MODE } else { 0 }
            | if attributes.times.is_some() { HAS_TIMES } else { 0 };
        let mut writer = self.u32(flags);
        if let Some(size) = attributes.size {
            writer = writer.u64(size);
        }
        if let Some((uid, gid)) = attributes.ids {
            writer = writer.u32(uid).u32(gid);
        }
        if let Some(mode) = attributes.mode {
            writer = writer.u32(mode);
        }
        if let Some((accessed, modified)) = attributes.times {
            writer = writer.u32(accessed).u32(modified);
        }
        writer
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        let length = (self.0.len() - 4) as u32;
        self.0[..4].copy_from_slice(&length.to_be_bytes());
        self.0
    }
}

/// An answer that is being read. `None` is an answer that ends too early.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(length)?;
        self.0 = tail;
        Some(head)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_be_bytes)
    }

    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        self.take(usize::try_from(length).ok()?)
    }

    pub(super) fn attributes(&mut self) -> Option<Attributes> {
        let flags = self.u32()?;
        let mut attributes = Attributes::default();
        if flags & HAS_SIZE != 0 {
            attributes.size = Some(self.u64()?);
        }
        if flags & HAS_IDS != 0 {
            attributes.ids = Some((self.u32()?, self.u32()?));
        }
        if flags & HAS_MODE != 0 {
            attributes.mode = Some(self.u32()?);
        }
        if flags & HAS_TIMES != 0 {
            attributes.times = Some((self.u32()?, self.u32()?));
        }
        if flags & HAS_MORE != 0 {
            for _ in 0..self.u32()? {
                self.string()?;
                self.string()?;
            }
        }
        Some(attributes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_survive_the_way_there_and_back() {
        let attributes =
            Attributes { size: Some(1 << 40), ids: Some((1000, 7)), mode: Some(0o100_644), times: Some((1, 2)) };
        let packet = Writer::new(SETSTAT, 9).string(b"/x").attributes(&attributes).finish();
        assert_eq!(packet[..9], [0, 0, 0, 43, SETSTAT, 0, 0, 0, 9]);
        let mut fields = Fields(&packet[9..]);
        assert_eq!(fields.string(), Some(&b"/x"[..]));
        assert_eq!(fields.attributes(), Some(attributes));
        assert!(fields.0.is_empty());
    }

    #[test]
    fn answers_that_end_too_early_are_refused_at_every_length() {
        let packet =
            Writer::new(NAME, 1).string(b"name").attributes(&Attributes { mode: Some(1), ..Default::default() });
        let packet = packet.finish();
        let body = &packet[9..];
        for cut in 0..body.len() {
            let mut fields = Fields(&body[..cut]);
            assert!(fields.string().and_then(|_| fields.attributes()).is_none(), "{cut}");
        }
        assert!(Fields(&[0xff, 0xff, 0xff, 0xff, 1]).string().is_none());
    }
}
