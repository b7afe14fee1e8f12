//! PAX extended headers: records of `length key=value\n`, told apart by their length, so that values may hold anything.

use super::{Extent, Timestamp, Xattr, set_xattr};
use crate::error::HeaderProblem;
use crate::limits::Limit;
use crate::{Error, Limits};

/// Most attributes of one entry: file systems hold far fewer, and each is compared with those before it.
const MOST_XATTRS: usize = 512;

/// What an extended header says about the entry behind it (or, if global, about all).
#[derive(Debug, Clone, Default)]
pub(super) struct Overrides {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Timestamp>,
    pub(super) xattrs: Vec<Xattr>,
    pub(super) acl_access: Option<Vec<u8>>,
    pub(super) acl_default: Option<Vec<u8>>,
    pub(super) sparse: SparseKeys,
}

/// The `GNU.sparse.*` keys of all three versions.
#[derive(Debug, Clone, Default)]
pub(super) struct SparseKeys {
    /// Whether there was any.
    pub(super) present: bool,
    pub(super) major: u64,
    pub(super) minor: u64,
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    /// The map of versions 0.0 and 0.1.
    pub(super) map: Vec<Extent>,
    /// Version 0.0: an offset whose length has not come yet.
    offset: Option<u64>,
}

/// Why a record could not be taken: malformed, or over a limit.
#[derive(Debug)]
pub(super) enum Problem {
    Header(HeaderProblem),
    Other(Error),
}

impl From<HeaderProblem> for Problem {
    fn from(problem: HeaderProblem) -> Problem {
        Problem::Header(problem)
    }
}

impl Overrides {
    /// Adds the records of one extended header; later ones win.
    pub(super) fn parse(&mut self, mut rest: &[u8], limits: &Limits) -> Result<(), Problem> {
        while !rest.is_empty() {
            let (key, value, behind) = record(rest).ok_or(HeaderProblem::PaxRecord)?;
            self.set(key, value, limits)?;
            rest = behind;
        }
        Ok(())
    }

    /// Refuses what makes no sense for all entries at once.
    pub(super) fn check_global(&self) -> Result<(), HeaderProblem> {
        let named = [
            (self.path.is_some(), "path"),
            (self.link.is_some(), "linkpath"),
            (self.size.is_some(), "size"),
            (self.sparse.present, "GNU.sparse"),
            (!self.xattrs.is_empty(), "extended attributes"),
            (self.acl_access.is_some() || self.acl_default.is_some(), "SCHILY.acl"),
        ];
        match named.iter().find(|(set, _)| *set) {
            Some((_, key)) => Err(HeaderProblem::PaxGlobal(key)),
            None => Ok(()),
        }
    }

    /// An empty value takes back what a global header said.
    fn set(&mut self, key: &[u8], value: &[u8], limits: &Limits) -> Result<(), Problem> {
        let text = (!value.is_empty()).then(|| value.to_vec());
        let wrong = HeaderProblem::PaxValue;
        match key {
            b"path" => self.path = text,
            b"linkpath" => self.link = text,
            b"size" => self.size = optional(value, natural).ok_or(wrong("size"))?,
            b"uid" => self.uid = optional(value, natural).ok_or(wrong("uid"))?,
            b"gid" => self.gid = optional(value, natural).ok_or(wrong("gid"))?,
            b"mtime" => self.mtime = optional(value, timestamp).ok_or(wrong("mtime"))?,
            b"SCHILY.acl.access" => self.acl_access = text,
            b"SCHILY.acl.default" => self.acl_default = text,
            _ => {
                if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    return self.sparse.set(key, value, limits);
                }
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    return self.xattr(percent_decoded(name), value.to_vec());
                }
                if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    let value = base64_decoded(value).ok_or(wrong("LIBARCHIVE.xattr"))?;
                    return self.xattr(percent_decoded(name), value);
                }
                // The rest (names of owners, access times, comments, …) is not kept in a file system.
            }
        }
        Ok(())
    }

    fn xattr(&mut self, name: Vec<u8>, value: Vec<u8>) -> Result<(), Problem> {
        if name.is_empty() || name.len() > 255 || name.contains(&0) || self.xattrs.len() >= MOST_XATTRS {
            return Err(HeaderProblem::Xattr.into());
        }
        set_xattr(&mut self.xattrs, name, value);
        Ok(())
    }
}

impl SparseKeys {
    fn set(&mut self, key: &[u8], value: &[u8], limits: &Limits) -> Result<(), Problem> {
        const WRONG: HeaderProblem = HeaderProblem::PaxValue("GNU.sparse");
        self.present = true;
        match key {
            b"name" => self.name = Some(value.to_vec()),
            b"major" => self.major = natural(value).ok_or(WRONG)?,
            b"minor" => self.minor = natural(value).ok_or(WRONG)?,
            b"size" | b"realsize" => self.real_size = Some(natural(value).ok_or(WRONG)?),
            b"offset" => self.offset = Some(natural(value).ok_or(WRONG)?),
            b"numbytes" => {
                let offset = self.offset.take().ok_or(WRONG)?;
                self.map.push(Extent { offset, length: natural(value).ok_or(WRONG)? });
            }
            b"map" => {
                let mut numbers = value.split(|&byte| byte == b',').map(natural);
                while let Some(offset) = numbers.next() {
                    let (offset, length) = (offset.ok_or(WRONG)?, numbers.next().flatten().ok_or(WRONG)?);
                    self.map.push(Extent { offset, length });
                }
            }
            // "numblocks" only repeats how many pairs there are.
            _ => {}
        }
        Limit::Extents.check(self.map.len() as u64, limits.extents).map_err(Problem::Other)
    }
}

/// Cuts off the first record: key, value and what is behind it.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    // A length of 20 digits would not fit 64 bits.
    let blank = bytes.iter().take(20).position(|&byte| byte == b' ')?;
    let length = usize::try_from(natural(&bytes[..blank])?).ok()?;
    let (record, behind) = bytes.split_at_checked(length)?;
    let body = record.get(blank + 1..)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|&byte| byte == b'=')?;
    (equals > 0).then_some((&body[..equals], &body[equals + 1..], behind))
}

/// Writes one record. Its length counts its own digits.
pub(super) fn push_record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let fixed = 1 + key.len() + 1 + value.len() + 1;
    let mut length = fixed + 1;
    while fixed + length.to_string().len() != length {
        length = fixed + length.to_string().len();
    }
    out.extend_from_slice(length.to_string().as_bytes());
    for part in [b" ", key, b"=", value, b"\n"] {
        out.extend_from_slice(part);
    }
}

/// `Some(None)` for an empty value.
fn optional<T>(value: &[u8], parse: impl Fn(&[u8]) -> Option<T>) -> Option<Option<T>> {
    if value.is_empty() { Some(None) } else { parse(value).map(Some) }
}

/// Decimal digits and nothing else, at most `i64::MAX`: offsets in files are signed.
pub(super) fn natural(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits
        .iter()
        .try_fold(0u64, |value, &digit| match digit {
            b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
            _ => None,
        })
        .filter(|&value| i64::try_from(value).is_ok())
}

/// `-12.25`: seconds with a fraction; digits beyond nanoseconds are cut towards the past.
fn timestamp(text: &[u8]) -> Option<Timestamp> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match text.iter().position(|&byte| byte == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    let seconds = i64::try_from(natural(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |place: usize| fraction.get(place).map_or(0, |digit| u32::from(digit - b'0'));
    let nanoseconds = (0..9).fold(0, |value, place| value * 10 + digit(place));
    Some(match (negative, nanoseconds) {
        (false, _) => Timestamp { seconds, nanoseconds },
        (true, 0) => Timestamp { seconds: -seconds, nanoseconds },
        // -1.25 is three quarters of a second after -2.
        (true, _) => Timestamp { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

/// The text form of a time for a record.
pub(super) fn timestamp_text(time: Timestamp) -> String {
    let Timestamp { seconds, nanoseconds } = time;
    if nanoseconds == 0 {
        return seconds.to_string();
    }
    let (sign, seconds, nanoseconds) = if seconds < 0 {
        ("-", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanoseconds)
    } else {
        ("", seconds.unsigned_abs(), nanoseconds)
    };
    format!("{sign}{seconds}.{nanoseconds:09}").trim_end_matches('0').to_owned()
}

/// Undoes `%XX`; GNU tar writes `%` and `=` in names of attributes so, libarchive everything unusual.
fn percent_decoded(name: &[u8]) -> Vec<u8> {
    let hex = |digit: Option<&u8>| digit.and_then(|&digit| char::from(digit).to_digit(16));
    let mut out = Vec::with_capacity(name.len());
    let mut at = 0;
    while let Some(&byte) = name.get(at) {
        match (byte, hex(name.get(at + 1)), hex(name.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

/// The name of an attribute as GNU tar writes it in a key.
pub(super) fn percent_encoded(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    for &byte in name {
        match byte {
            b'%' => out.extend_from_slice(b"%25"),
            b'=' => out.extend_from_slice(b"%3D"),
            _ => out.push(byte),
        }
    }
    out
}

/// Standard base 64, with or without padding.
fn base64_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 3);
    let (mut bits, mut held) = (0u32, 0);
    for &letter in text.trim_ascii_end() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => break,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_told_apart_by_their_length_so_values_may_hold_anything() {
        let mut bytes = Vec::new();
        push_record(&mut bytes, b"SCHILY.xattr.user.x", b"a\n12 b=c\n\0\xff=");
        push_record(&mut bytes, b"path", b"one");
        push_record(&mut bytes, b"path", b"two");
        let mut overrides = Overrides::default();
        overrides.parse(&bytes, &Limits::default()).expect("well formed");
        assert_eq!(overrides.xattrs[0].value, b"a\n12 b=c\n\0\xff=");
        assert_eq!(overrides.path.as_deref(), Some(&b"two"[..]));
    }

    #[test]
    fn a_record_counts_the_digits_of_its_own_length() {
        for length in 0..1200 {
            let mut bytes = Vec::new();
            push_record(&mut bytes, b"key", &vec![b'v'; length]);
            let (key, value, rest) = record(&bytes).expect("own output");
            assert_eq!((key, value.len(), rest.len()), (&b"key"[..], length, 0));
        }
    }

    #[test]
    fn records_that_do_not_add_up_are_refused() {
        for bytes in [
            &b"5 a=b\n"[..],
            b"7 a=b\n",
            b"6 a=b ",
            b"6 abc\n",
            b"5 =b\n",
            b"0 a=b\n",
            b"1 a=b\n",
            b"99999999999999999999999 a=b\n",
            b"18446744073709551615 a=b\n",
            b"-6 a=b\n",
            b"a=b\n",
            b"2 \n",
            b"6",
        ] {
            assert!(Overrides::default().parse(bytes, &Limits::default()).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn times_survive_both_ways_before_and_after_1970() {
        for (text, seconds, nanoseconds) in [
            ("0", 0, 0),
            ("1.5", 1, 500_000_000),
            ("1700000000.123456789", 1_700_000_000, 123_456_789),
            ("-1", -1, 0),
            ("-1.25", -2, 750_000_000),
            ("-0.000000001", -1, 999_999_999),
        ] {
            let time = Timestamp { seconds, nanoseconds };
            assert_eq!(timestamp(text.as_bytes()), Some(time), "{text}");
            assert_eq!(timestamp_text(time), text);
        }
        for wrong in ["", ".", "-", "1.x", "1e9", "0x10", "--1", "9223372036854775808"] {
            assert_eq!(timestamp(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn names_and_values_of_attributes_are_decoded() {
        assert_eq!(percent_decoded(b"user.a%3Db%25%zz%4"), b"user.a=b%%zz%4");
        assert_eq!(percent_decoded(&percent_encoded(b"user.a=b%c")), b"user.a=b%c");
        assert_eq!(base64_decoded(b"AP8Kdg").as_deref(), Some(&b"\0\xff\nv"[..]));
        assert_eq!(base64_decoded(b"AP8Kdg==").as_deref(), Some(&b"\0\xff\nv"[..]));
        assert_eq!(base64_decoded(b"A*"), None);
    }
}
