//! Being told by the kernel what a group needs, and taking from it what it does not.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

use super::{Error, failed};

/// A descriptor by which the kernel speaks.
#[derive(Debug)]
pub enum Notice {
    /// It can be read when there is something to tell.
    Readable(OwnedFd),
    /// It has urgent data (`POLLPRI`) when there is.
    Urgent(OwnedFd),
}

/// A tenth of two seconds: whoever may not raise resource limits is only granted windows of whole multiples of two seconds.
const TRIGGER: &[u8] = b"some 200000 2000000";

/// Has the kernel tell when processes of a group waited too long, at most once in each window.
pub(super) fn pressure(file: &Path) -> Result<Notice, Error> {
    let flags = OFlags::NONBLOCK.bits() as i32;
    let mut trigger =
        OpenOptions::new().read(true).write(true).custom_flags(flags).open(file).map_err(failed("open", file))?;
    trigger.write_all(TRIGGER).map_err(failed("write", file))?;
    Ok(Notice::Urgent(File::into(trigger)))
}
