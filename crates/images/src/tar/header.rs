//! The 512-byte header in its v7, ustar and GNU forms.

use super::BLOCK;
use crate::error::HeaderProblem;

/// Where a field stands in the block and how long it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    pub(super) start: usize,
    pub(super) length: usize,
    pub(super) name: &'static str,
}

const fn field(name: &'static str, start: usize, length: usize) -> Field {
    Field { start, length, name }
}

pub(super) const NAME: Field = field("name", 0, 100);
pub(super) const MODE: Field = field("mode", 100, 8);
pub(super) const UID: Field = field("uid", 108, 8);
pub(super) const GID: Field = field("gid", 116, 8);
pub(super) const SIZE: Field = field("size", 124, 12);
pub(super) const MTIME: Field = field("mtime", 136, 12);
pub(super) const CHECKSUM: Field = field("checksum", 148, 8);
pub(super) const TYPE: usize = 156;
pub(super) const LINK: Field = field("linkname", 157, 100);
pub(super) const MAGIC: Field = field("magic", 257, 8);
pub(super) const MAJOR: Field = field("devmajor", 329, 8);
pub(super) const MINOR: Field = field("devminor", 337, 8);
pub(super) const PREFIX: Field = field("prefix", 345, 155);
/// Old GNU sparse files: four pairs of offset and length, then a flag, then the file's length.
pub(super) const GNU_SPARSE: Field = field("sparse", 386, 4 * 24);
pub(super) const GNU_EXTENDED: usize = 482;
pub(super) const GNU_REAL_SIZE: Field = field("realsize", 483, 12);

/// POSIX's magic and version.
pub(super) const USTAR: &[u8; 8] = b"ustar\x0000";
/// GNU tar's, from before POSIX.
const GNU: &[u8; 8] = b"ustar  \0";

/// A header whose checksum is right.
#[derive(Debug, Clone)]
pub(super) struct Header(pub(super) [u8; BLOCK]);

impl Header {
    /// Checks the sum; some old programs summed the bytes as signed ones.
    pub(super) fn checked(block: [u8; BLOCK]) -> Result<Header, HeaderProblem> {
        let header = Header(block);
        let stated = header.number(CHECKSUM).map_err(|_| HeaderProblem::Checksum)?;
        let inside = CHECKSUM.start..CHECKSUM.start + CHECKSUM.length;
        let (mut unsigned, mut signed) = (0i64, 0i64);
        for (place, &byte) in header.0.iter().enumerate() {
            let byte = if inside.contains(&place) { b' ' } else { byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        if stated == unsigned || stated == signed { Ok(header) } else { Err(HeaderProblem::Checksum) }
    }

    pub(super) fn raw(&self, field: Field) -> &[u8] {
        &self.0[field.start..field.start + field.length]
    }

    /// A text field: up to the first NUL or to its end.
    pub(super) fn text(&self, field: Field) -> &[u8] {
        let raw = self.raw(field);
        let end = raw.iter().position(|&byte| byte == 0).unwrap_or(raw.len());
        &raw[..end]
    }

    /// A numeric field; an empty one is 0.
    pub(super) fn number(&self, field: Field) -> Result<i64, HeaderProblem> {
        parse_number(self.raw(field)).ok_or(HeaderProblem::Number(field.name))
    }

    /// A numeric field that cannot be negative.
    pub(super) fn natural(&self, field: Field) -> Result<u64, HeaderProblem> {
        u64::try_from(self.number(field)?).map_err(|_| HeaderProblem::Number(field.name))
    }

    /// The type of entry; v7's NUL, ustar's contiguous files and v7's directories (a file with a slash at the end of
    /// its name) are put right.
    pub(super) fn kind(&self) -> u8 {
        match self.0[TYPE] {
            0 if self.text(NAME).ends_with(b"/") => b'5',
            0 | b'7' => b'0',
            kind => kind,
        }
    }

    /// Name with the ustar prefix; in GNU headers that place holds other things.
    pub(super) fn name(&self) -> Vec<u8> {
        let prefix = if self.raw(MAGIC) == GNU || self.0[257..262] != *b"ustar" { b"" } else { self.text(PREFIX) };
        if prefix.is_empty() {
            return self.text(NAME).to_vec();
        }
        [prefix, b"/", self.text(NAME)].concat()
    }
}

/// Octal digits between blanks, or GNU's base 256: first byte 0x80 (or 0xff when negative), big endian.
pub(super) fn parse_number(raw: &[u8]) -> Option<i64> {
    let (&first, rest) = raw.split_first()?;
    if first & 0x80 != 0 {
        // 0x80 and 0xff: the other seven bits are the number's top; anything else does not fit 64 bits anyway.
        let negative = first & 0x40 != 0;
        let mut value: i64 = i64::from(first.cast_signed() << 1 >> 1);
        for &byte in rest {
            value = value.checked_mul(256)?.checked_add(i64::from(byte))?;
        }
        return (negative == (value < 0)).then_some(value);
    }
    let digits = raw.split(|&byte| byte == 0).next().unwrap_or_default().trim_ascii();
    digits.iter().try_fold(0i64, |value, &digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        for (raw, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"77777777777", Some(0o77777777777)),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX)),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"12x\0", None),
            (b"-12\0", None),
            (b"0000008\0", None),
        ] {
            assert_eq!(parse_number(raw), value, "{raw:?}");
        }
    }
}
