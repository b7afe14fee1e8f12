//! `sysctl-keeper help KIND …`: short-lived helpers, one process each. Descriptor 3 is the socket to whoever asked.

mod files;
mod image;
mod lxcfs;
mod pin;
mod renew;

use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use kernel::process::SingleThread;
use runtime::order::Done;
use runtime::protocol::Failure;
use runtime::wire::Field;

/// Bytes that came as an argument, two hexadecimal digits each.
fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| char::from(c).to_digit(16).map(|d| d as u8);
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

/// The socket to whoever asked, and the order that is the only word.
fn order<T: Field>(name: &str, words: &[&str]) -> Result<(OwnedFd, T), ExitCode> {
    let fail = |text| crate::fail(&format!("help {name}"), text);
    let socket = kernel::process::inherit(3).map_err(|_| fail("no socket at 3"))?;
    let order = match words {
        [record] => from_hex(record).and_then(|bytes| T::take(&bytes)),
        _ => None,
    };
    Ok((socket, order.ok_or_else(|| fail("an order in hexadecimal digits"))?))
}

/// Does what is ordered and tells what came of it.
fn obey<T: Field>(name: &str, words: &[&str], act: impl FnOnce(&T) -> Result<(), Failure>) -> ExitCode {
    let (socket, order) = match order(name, words) {
        Ok(begun) => begun,
        Err(code) => return code,
    };
    let done = act(&order);
    let sent = kernel::scm::send(socket.as_fd(), &told(&done), &[], true);
    if done.is_ok() && sent.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What came of an order, as a record.
fn told(done: &Result<(), Failure>) -> Vec<u8> {
    let mut record = Vec::new();
    Done::of(done.clone()).put(&mut record);
    record
}

/// Runs the helper that the words ask for.
pub(crate) fn run(proof: SingleThread, words: &[&str]) -> ExitCode {
    match words {
        ["files", rest @ ..] => files::run(proof, rest),
        ["image", rest @ ..] => image::run(proof, rest),
        ["lxcfs", rest @ ..] => lxcfs::run(proof, rest),
        ["pin", rest @ ..] => pin::run(proof, rest),
        ["renew", rest @ ..] => renew::run(proof, rest),
        _ => crate::fail("help", "files | image | lxcfs | pin | renew"),
    }
}
