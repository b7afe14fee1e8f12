//! `sysctl-keeper help KIND …`: short-lived helpers, one process each. Descriptor 3 is the socket to whoever asked.

mod files;
mod image;
mod pin;

use std::process::ExitCode;

use kernel::process::SingleThread;

/// Bytes that came as an argument, two hexadecimal digits each.
fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| char::from(c).to_digit(16).map(|d| d as u8);
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

/// Runs the helper that the words ask for.
pub(crate) fn run(proof: SingleThread, words: &[&str]) -> ExitCode {
    match words {
        ["files", rest @ ..] => files::run(proof, rest),
        ["image", rest @ ..] => image::run(proof, rest),
        ["pin", rest @ ..] => pin::run(proof, rest),
        _ => crate::fail("help", "files | image | pin"),
    }
}
