//! `sysctl-keeper help KIND …`: short-lived helpers, one process each. Descriptor 3 is the socket to whoever asked.

mod files;
mod image;

use std::process::ExitCode;

use kernel::process::SingleThread;

/// Runs the helper that the words ask for.
pub(crate) fn run(proof: SingleThread, words: &[&str]) -> ExitCode {
    match words {
        ["files", rest @ ..] => files::run(proof, rest),
        ["image", rest @ ..] => image::run(proof, rest),
        _ => crate::fail("help", "files | image"),
    }
}
