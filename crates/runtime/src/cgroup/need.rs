//! Being told by the kernel what a group needs, and taking from it what it does not.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use model::scale::Trigger;
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

/// Has the kernel tell when processes of a group waited too long, at most once in each window.
pub(super) fn pressure(file: &Path, when: Trigger) -> Result<Notice, Error> {
    let flags = OFlags::NONBLOCK.bits() as i32;
    let mut trigger =
        OpenOptions::new().read(true).write(true).custom_flags(flags).open(file).map_err(failed("open", file))?;
    let text = format!("some {} {}", when.stall_us(), when.window_ms * 1000);
    trigger.write_all(text.as_bytes()).map_err(failed("write", file))?;
    Ok(Notice::Urgent(File::into(trigger)))
}
