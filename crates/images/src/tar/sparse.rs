//! Maps of sparse files: which regions the data behind an entry fills.

use super::header::{self, Header, parse_number};
use super::{BLOCK, Extent};
use crate::error::HeaderProblem;

/// Checks a map against the file's length and the number of bytes that the archive holds for it; drops empty regions
/// (GNU tar ends a map with one to tell where the file ends).
pub(super) fn checked(map: Vec<Extent>, real_size: u64, stored: u64) -> Result<Vec<Extent>, HeaderProblem> {
    let (mut end, mut sum) = (0u64, 0u64);
    for extent in &map {
        let next = extent.offset.checked_add(extent.length).ok_or(HeaderProblem::Sparse)?;
        if extent.offset < end || next > real_size {
            return Err(HeaderProblem::Sparse);
        }
        end = next;
        sum += extent.length; // at most `end`, which is at most `real_size`
    }
    if sum != stored {
        return Err(HeaderProblem::Sparse);
    }
    Ok(map.into_iter().filter(|extent| extent.length > 0).collect())
}

/// Up to four regions in the header of an old GNU sparse file; whether an extension block follows; the file's length.
pub(super) fn old_gnu(header: &Header, map: &mut Vec<Extent>) -> Result<(bool, u64), HeaderProblem> {
    push_pairs(header.raw(header::GNU_SPARSE), map)?;
    Ok((header.0[header::GNU_EXTENDED] != 0, header.natural(header::GNU_REAL_SIZE)?))
}

/// Up to 21 regions in an extension block; whether another follows.
pub(super) fn old_gnu_extension(block: &[u8; BLOCK], map: &mut Vec<Extent>) -> Result<bool, HeaderProblem> {
    push_pairs(&block[..21 * 24], map)?;
    Ok(block[21 * 24] != 0)
}

fn push_pairs(raw: &[u8], map: &mut Vec<Extent>) -> Result<(), HeaderProblem> {
    for pair in raw.chunks_exact(24) {
        // An empty place ends the list.
        if pair[0] == 0 && pair[12] == 0 {
            break;
        }
        let number = |raw| parse_number(raw).and_then(|value| u64::try_from(value).ok()).ok_or(HeaderProblem::Sparse);
        map.push(Extent { offset: number(&pair[..12])?, length: number(&pair[12..])? });
    }
    Ok(())
}

/// The map of version 1.0 as it stands in front of the data: a count and pairs, one decimal number a line, padded to
/// whole blocks.
pub(super) fn version_1_text(map: &[Extent], real_size: u64) -> Vec<u8> {
    let mut text = format!("{}\n", map.len() + 1);
    for extent in map {
        text.push_str(&format!("{}\n{}\n", extent.offset, extent.length));
    }
    text.push_str(&format!("{real_size}\n0\n"));
    let mut bytes = text.into_bytes();
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(u64, u64)]) -> Vec<Extent> {
        pairs.iter().map(|&(offset, length)| Extent { offset, length }).collect()
    }

    #[test]
    fn a_map_that_lies_is_refused() {
        assert_eq!(checked(map(&[(0, 5), (10, 5), (20, 0)]), 20, 10), Ok(map(&[(0, 5), (10, 5)])));
        for (pairs, real_size, stored) in [
            (&[(0, 5), (4, 5)][..], 20, 10),
            (&[(10, 5), (0, 5)], 20, 10),
            (&[(0, 25)], 20, 25),
            (&[(0, 5)], 20, 6),
            (&[(u64::MAX, 2)], u64::MAX, 2),
            (&[(1, u64::MAX)], u64::MAX, 0),
        ] {
            assert_eq!(checked(map(pairs), real_size, stored), Err(HeaderProblem::Sparse), "{pairs:?}");
        }
    }
}
