//! Checksums of rows: 64 bits of SHA-256 over everything that a row says.
//!
//! They are there to notice what a disk or a stranger did, not to keep an attacker out: whoever can write the file can compute
//! them. One flipped bit goes unnoticed with a probability of 2^-64.

use sha2::{Digest, Sha256};

/// All rows' checksums in one number, and which revision that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    /// The last revision that was given out.
    pub(crate) revision: u64,
    /// Checksums of all rows, exclusive-ored: order does not matter, and a row is taken out as it was put in.
    pub(crate) digest: u64,
    /// The same of the documents that are mirrored.
    pub(crate) mirrored: u64,
    /// How many those are.
    pub(crate) count: u64,
}

/// Of a row of `document`.
pub(crate) fn document(kind: &[u8], key: &[u8], revision: u64, body: &[u8]) -> u64 {
    sum(b"document", &[kind, key, &revision.to_le_bytes(), body])
}

/// Of the number of a row of `document`.
pub(crate) fn entry(kind: &[u8], key: &[u8], number: i64) -> u64 {
    sum(b"entry", &[kind, key, &number.to_le_bytes()])
}

/// Of a row of `claim`.
pub(crate) fn claim(space: &[u8], value: &[u8], owner: &[u8]) -> u64 {
    sum(b"claim", &[space, value, owner])
}

/// Of a row of `event`.
pub(crate) fn event(sequence: i64, at_ms: i64, body: &[u8]) -> u64 {
    sum(b"event", &[&sequence.to_le_bytes(), &at_ms.to_le_bytes(), body])
}

/// Of the row of `revision`.
pub(crate) fn revision(value: u64, digest: u64) -> u64 {
    sum(b"revision", &[&value.to_le_bytes(), &digest.to_le_bytes()])
}

/// Of the head of the mirror.
pub(crate) fn head(version: u32, tally: &Tally) -> u64 {
    let Tally { revision, digest, mirrored, count } = tally;
    let numbers = [u64::from(version), *revision, *digest, *mirrored, *count].map(u64::to_le_bytes);
    sum(b"head", &[numbers.as_flattened()])
}

/// What a document is called in the mirror, beside its kind.
pub(crate) fn name(kind: &str, key: &str) -> u64 {
    sum(b"name", &[kind.as_bytes(), key.as_bytes()])
}

/// Each part with its length before it, so that no two rows are the same bytes.
fn sum(table: &[u8], parts: &[&[u8]]) -> u64 {
    let mut hash = Sha256::new();
    for part in std::iter::once(&table).chain(parts) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let digest = hash.finalize();
    digest.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_on_disks_does_not_change_between_releases() {
        // Computed once; a change of these numbers needs a migration.
        assert_eq!(document(b"instance", b"a", 7, b"{}"), 0xea38_3e30_9d69_f704);
        assert_eq!(revision(7, 9), 0x645a_f65b_f194_7fa8);
    }

    #[test]
    fn parts_do_not_run_into_one_another() {
        assert_ne!(claim(b"ab", b"c", b"d"), claim(b"a", b"bc", b"d"));
        assert_ne!(claim(b"a", b"b", b""), claim(b"a", b"", b"b"));
    }
}
