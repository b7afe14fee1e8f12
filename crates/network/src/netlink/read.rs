//! Reading what the kernel answers: every access is checked, so a short or odd answer is data that is missing.

/// The attributes in a piece of a message: kind (without flags) and value.
#[derive(Debug, Clone)]
pub struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// Reads `bytes` as a list of attributes; ends at the first that is not well-formed.
    pub fn new(bytes: &'a [u8]) -> Self {
        Attributes(bytes)
    }

    /// The value of the first attribute of `kind`.
    pub fn find(bytes: &'a [u8], kind: u16) -> Option<&'a [u8]> {
        Attributes(bytes).find_map(|(k, value)| (k == kind).then_some(value))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & 0x3fff;
        let value = self.0.get(4..length)?;
        // The last attribute need not be padded.
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// One message of an answer.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    /// What it is.
    pub kind: u16,
    /// Flags of the header.
    pub flags: u16,
    /// The request that it answers.
    pub sequence: u32,
    /// The socket that asked for it, or for what it tells of; 0 for the kernel itself.
    pub port: u32,
    /// Everything after the header.
    pub body: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Splits the first message off a datagram.
    pub fn split(datagram: &'a [u8]) -> Option<(Reader<'a>, &'a [u8])> {
        let length = u32_at(datagram, 0)? as usize;
        let reader = Reader {
            kind: u16_at(datagram, 4)?,
            flags: u16_at(datagram, 6)?,
            sequence: u32_at(datagram, 8)?,
            port: u32_at(datagram, 12)?,
            body: datagram.get(super::HEADER..length)?,
        };
        Some((reader, datagram.get(length.next_multiple_of(4)..).unwrap_or_default()))
    }

    /// The attributes after a fixed part of `fixed` bytes.
    pub fn attributes(&self, fixed: usize) -> Attributes<'a> {
        Attributes(self.body.get(fixed..).unwrap_or_default())
    }
}

/// The byte at `at`.
pub(crate) fn u8_at(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

/// The 16-bit integer at `at` in the machine's byte order.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// The 32-bit integer at `at` in the machine's byte order.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// The 64-bit integer at `at` in the machine's byte order.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// The text up to the first zero byte; bytes that are not UTF-8 are replaced.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_can_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut rest = bytes.as_slice();
            while let Some((message, after)) = Reader::split(rest) {
                message.attributes(16).for_each(|(_, value)| drop(text(value)));
                prop_assert!(after.len() < rest.len());
                rest = after;
            }
        }
    }
}
