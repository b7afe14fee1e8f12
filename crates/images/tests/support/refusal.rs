//! Unpacking what must not be unpacked.

use std::io::Read;

use images::unpack::{Options, Unpacked, unpack_unified};
use images::{Error, Limits, Result};

use crate::support::{Archive, Guarded};

pub fn unpack_within(guarded: &Guarded, bytes: impl Read, limits: Limits) -> Result<Unpacked> {
    let options = Options { limits, expected: None };
    let result = unpack_unified(bytes, guarded.fd(), &options, &mut |_| ());
    guarded.check();
    result
}

pub fn unpack(name: &str, archive: &[u8]) -> (Guarded, Result<Unpacked>) {
    let guarded = Guarded::new(name);
    let result = unpack_within(&guarded, archive, Limits::default());
    (guarded, result)
}

/// The error that an archive meets. It is printed too: a message must not hold control characters.
pub fn refused(name: &str, archive: Archive) -> Error {
    let (_, result) = unpack(name, &archive.end());
    let error = result.map(|unpacked| unpacked.left_out).expect_err(name);
    let text = error.to_string();
    assert!(!text.chars().any(char::is_control), "{text:?}");
    error
}

#[macro_export]
macro_rules! assert_refused {
    ($archive:expr, $pattern:pat $(if $guard:expr)?) => {
        match $crate::support::refusal::refused(concat!("line", line!()), $archive) {
            $pattern $(if $guard)? => {}
            other => panic!("another error: {other:?}"),
        }
    };
}
