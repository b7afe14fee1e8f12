//! How much the sockets of a group send or receive, whichever links they use: a program that counts bytes.
//!
//! What the guest sends by packet sockets passes no socket of the network layer, and is not counted.

use std::path::Path;

use kernel::bpf::Question;
use kernel::meter;
use model::Setting;

use super::Error;
use super::programs::{self, Asked};

/// Whether groups like this one can be given such a program by us.
pub(super) fn is_possible(group: &Path) -> bool {
    [Question::PacketIn, Question::PacketOut]
        .into_iter()
        .all(|question| programs::are_possible(group, question, || meter::load(question, Some(1), None)))
}

/// Has a group ask a program, or none.
pub(super) fn put(group: &Path, question: Question, setting: &Setting) -> Result<(), Error> {
    match setting {
        Setting::Number(rate) => {
            programs::put(group, question, &rate.to_string(), meter::load(question, Some(*rate), None))
        }
        _ => programs::take(group, question),
    }
}

/// What a group's program lets pass.
pub(super) fn rate(group: &Path, question: Question) -> Result<Setting, Error> {
    Ok(match programs::asked(group, question)? {
        Asked::Nothing => Setting::Unlimited,
        // Nobody wishes for a guest that sends nothing, so what is not known is replaced.
        Asked::Unknown => Setting::Number(0),
        Asked::Ours(text) => Setting::Number(text.parse().unwrap_or(0)),
    })
}
