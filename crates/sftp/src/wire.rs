//! Integers and strings.

/// What is left of a packet.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    fn chunk<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (chunk, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*chunk)
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        self.chunk::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.chunk().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.chunk().map(u64::from_be_bytes)
    }

    /// A string of at most `max` bytes.
    pub(crate) fn string(&mut self, max: usize) -> Option<&'a [u8]> {
        let length = self.u32()? as usize;
        if length > max {
            return None;
        }
        let (string, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(string)
    }

    /// A path: bounded, and without the byte that would end it early for the kernel.
    pub(crate) fn path(&mut self) -> Option<&'a [u8]> {
        self.string(crate::MAX_PATH).filter(|path| !path.contains(&0))
    }
}

pub(crate) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(crate) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(crate) fn put_string(out: &mut Vec<u8>, value: &[u8]) {
    // Everything that is sent is far below 4 GiB (MAX_PACKET).
    put_u32(out, value.len() as u32);
    out.extend_from_slice(value);
}

/// Appends a packet whose content `fill` writes, and then its length before it.
pub(crate) fn packet(out: &mut Vec<u8>, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, kind]);
    fill(out);
    finish(out, at);
}

/// Writes the length of the packet that begins at `at`.
pub(crate) fn finish(out: &mut [u8], at: usize) {
    let length = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}
