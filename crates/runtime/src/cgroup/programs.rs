//! Programs that a group asks instead of having a file, and what they were made of.
//!
//! A program cannot be read back without rights that the daemon does without. So what it does is written beside it, as an
//! attribute of the group that begins with the program's number. Numbers are never given out again: an attribute of another
//! number is not about the program that is attached.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use kernel::Errno;
use kernel::bpf::{self, Question};
use rustix::fs::XattrFlags;

use super::{Error, failed};

/// Room for a note: a range of devices is 20 bytes at most, and a guest has a dozen, of which rules may make 32 more.
const NOTE_BYTES: usize = 4096;

/// What a group asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// Nothing.
    Nothing,
    /// A program of ours, made of this.
    Ours(String),
    /// One that is not ours, or that we died before we noted.
    Unknown,
}

/// Where it is written what a group's program is made of.
fn note(question: Question) -> &'static str {
    match question {
        Question::Device => "user.sysctl.devices",
        Question::PacketIn => "user.sysctl.network-ingress",
        Question::PacketOut => "user.sysctl.network-egress",
        // Of links, not of groups: there the kernel keeps the note.
        Question::Link => "user.sysctl.link",
    }
}

fn failure(act: &'static str, path: &Path) -> impl Fn(Errno) -> Error {
    move |errno| failed(act, path)(io::Error::from(errno))
}

/// Whether groups like this one can be given such a program by us.
pub(super) fn are_possible(group: &Path, question: Question, load: impl FnOnce() -> kernel::Result<OwnedFd>) -> bool {
    let Ok(directory) = File::open(group) else { return false };
    bpf::attached(directory.as_fd(), question).is_ok() && load().is_ok()
}

/// Has a group ask a program, made of `text`. It takes the place of another without a moment between.
pub(super) fn put(group: &Path, question: Question, text: &str, program: kernel::Result<OwnedFd>) -> Result<(), Error> {
    let directory = File::open(group).map_err(failed("open", group))?;
    let program = program.map_err(failure("load a program for", group))?;
    let id = bpf::program_id(program.as_fd()).map_err(failure("look at the program of", group))?;
    bpf::attach(directory.as_fd(), question, program.as_fd()).map_err(failure("attach a program to", group))?;
    let value = format!("{id} {text}");
    rustix::fs::fsetxattr(&directory, note(question), value.as_bytes(), XattrFlags::empty())
        .map_err(failure("note the program of", group))
}

/// Has a group ask nothing.
pub(super) fn take(group: &Path, question: Question) -> Result<(), Error> {
    let directory = File::open(group).map_err(failed("open", group))?;
    match bpf::detach(directory.as_fd(), question) {
        // There was none.
        Err(Errno::NOENT) => {}
        other => other.map_err(failure("detach the program of", group))?,
    }
    match rustix::fs::fremovexattr(&directory, note(question)) {
        Err(Errno::NODATA) => Ok(()),
        other => other.map_err(failure("forget the program of", group)),
    }
}

/// What a group asks.
pub(super) fn asked(group: &Path, question: Question) -> Result<Asked, Error> {
    let directory = File::open(group).map_err(failed("open", group))?;
    let attached = bpf::attached(directory.as_fd(), question).map_err(failure("ask for the program of", group))?;
    let Some(attached) = attached else { return Ok(Asked::Nothing) };
    let mut value = [0u8; NOTE_BYTES];
    let length = rustix::fs::fgetxattr(&directory, note(question), &mut value).unwrap_or(0);
    let noted = std::str::from_utf8(&value[..length]).ok().and_then(|value| value.split_once(' '));
    let ours = noted.filter(|(id, _)| id.parse() == Ok(attached));
    Ok(ours.map_or(Asked::Unknown, |(_, text)| Asked::Ours(text.to_owned())))
}
