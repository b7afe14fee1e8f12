//! What a client has open.

use std::os::fd::OwnedFd;

use rustix::fs::Dir;

use super::path::Refusal;

/// Most handles at a time. Clients hold one per file under way, and copy some dozens of files at once.
pub(super) const MAX_HANDLES: usize = 256;

/// An open file or directory.
pub(super) enum Open {
    File { file: OwnedFd, append: bool },
    Directory { directory: OwnedFd, entries: Box<Dir> },
}

/// The handles: slots, each with the number that its present holder was given, so that a stale one is told.
#[derive(Default)]
pub(super) struct Handles {
    slots: Vec<(u32, Option<Open>)>,
    serial: u32,
}

impl Handles {
    /// Room for one more, asked before anything is opened.
    pub(super) fn room(&self) -> Result<(), Refusal> {
        let open = self.slots.iter().filter(|slot| slot.1.is_some()).count();
        if open < MAX_HANDLES { Ok(()) } else { Err(Refusal::failure("too many open files: close some first")) }
    }

    /// Gives out a handle.
    pub(super) fn add(&mut self, open: Open) -> [u8; 8] {
        let slot = match self.slots.iter().position(|slot| slot.1.is_none()) {
            Some(slot) => slot,
            None => {
                self.slots.push((0, None));
                self.slots.len() - 1
            }
        };
        self.serial = self.serial.wrapping_add(1);
        self.slots[slot] = (self.serial, Some(open));
        let mut handle = [0; 8];
        handle[..4].copy_from_slice(&(slot as u32).to_be_bytes());
        handle[4..].copy_from_slice(&self.serial.to_be_bytes());
        handle
    }

    fn slot(&mut self, handle: &[u8]) -> Result<&mut Option<Open>, Refusal> {
        let find = || -> Option<(usize, u32)> {
            let handle: [u8; 8] = handle.try_into().ok()?;
            let number = u64::from_be_bytes(handle);
            Some(((number >> 32) as usize, number as u32))
        };
        match find().and_then(|(slot, serial)| Some((self.slots.get_mut(slot)?, serial))) {
            Some((slot, serial)) if slot.0 == serial && slot.1.is_some() => Ok(&mut slot.1),
            _ => Err(Refusal::failure("no such handle")),
        }
    }

    /// What a handle stands for.
    pub(super) fn get(&mut self, handle: &[u8]) -> Result<&mut Open, Refusal> {
        self.slot(handle)?.as_mut().ok_or_else(|| Refusal::failure("no such handle"))
    }

    /// The same, where only a file will do.
    pub(super) fn file(&mut self, handle: &[u8]) -> Result<(&OwnedFd, bool), Refusal> {
        match self.get(handle)? {
            Open::File { file, append } => Ok((file, *append)),
            Open::Directory { .. } => Err(Refusal::failure("the handle is one of a directory")),
        }
    }

    /// Closes a handle.
    pub(super) fn close(&mut self, handle: &[u8]) -> Result<(), Refusal> {
        *self.slot(handle)? = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> Open {
        let file = rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd");
        Open::File { file, append: false }
    }

    #[test]
    fn handles_are_bounded_and_stale_ones_are_told() {
        let mut handles = Handles::default();
        let first = handles.add(open());
        assert!(handles.file(&first).is_ok());
        handles.close(&first).expect("open");
        let second = handles.add(open());
        assert_ne!(first, second, "the same slot, another number");
        assert!(handles.file(&first).is_err() && handles.close(&first).is_err());
        for made_up in [&b""[..], b"1", &[0; 8], &[255; 8], &[0; 9]] {
            assert!(handles.get(made_up).is_err());
        }
        while handles.room().is_ok() {
            handles.add(open());
        }
        assert_eq!(handles.slots.len(), MAX_HANDLES);
        handles.close(&second).expect("open");
        assert!(handles.room().is_ok());
    }
}
