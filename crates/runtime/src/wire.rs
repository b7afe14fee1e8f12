//! The encoding of the keeper protocol: records of tagged fields.
//!
//! A field is `tag: u8, length: u32 (little endian), payload`. A reader skips tags that it does not know and takes the
//! default for those that are missing, so records only ever grow: an older keeper and a newer daemon understand each
//! other, and the other way round. Tags are never used again for something else.

/// A value that can stand in a field.
pub trait Field: Sized {
    /// Appends the value's payload.
    fn put(&self, out: &mut Vec<u8>);
    /// Reads a payload; `None` when it is no such value.
    fn take(payload: &[u8]) -> Option<Self>;
}

macro_rules! integer {
    ($($kind:ty),*) => {$(
        impl Field for $kind {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn take(payload: &[u8]) -> Option<Self> {
                Some(<$kind>::from_le_bytes(payload.try_into().ok()?))
            }
        }
    )*};
}
integer!(u16, u32, u64, i32, i64);

impl Field for u8 {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(*self);
    }
    fn take(payload: &[u8]) -> Option<Self> {
        match payload {
            [byte] => Some(*byte),
            _ => None,
        }
    }
}

impl Field for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn take(payload: &[u8]) -> Option<Self> {
        match payload {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }
}

impl Field for String {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }
    fn take(payload: &[u8]) -> Option<Self> {
        std::str::from_utf8(payload).ok().map(str::to_owned)
    }
}

/// Bytes that are not text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Blob(pub Vec<u8>);

impl Field for Blob {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
    fn take(payload: &[u8]) -> Option<Self> {
        Some(Blob(payload.to_vec()))
    }
}

impl<T: Field> Field for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        for item in self {
            put_field(0, item, out);
        }
    }
    fn take(payload: &[u8]) -> Option<Self> {
        let mut items = Vec::new();
        each_field(payload, |_, item| {
            items.push(T::take(item)?);
            Some(())
        })?;
        Some(items)
    }
}

impl<T: Field> Field for Option<T> {
    // One item or none, like a list.
    fn put(&self, out: &mut Vec<u8>) {
        if let Some(item) = self {
            put_field(0, item, out);
        }
    }
    fn take(payload: &[u8]) -> Option<Self> {
        let mut items = Vec::<T>::take(payload)?;
        match items.len() {
            0 => Some(None),
            1 => Some(items.pop()),
            _ => None,
        }
    }
}

/// Appends one field.
pub fn put_field<T: Field>(tag: u8, value: &T, out: &mut Vec<u8>) {
    out.push(tag);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    value.put(out);
    // Datagrams are far below 4 GiB (see `protocol::MAX_MESSAGE`).
    let length = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&length.to_le_bytes());
}

/// Calls `visit` for every field of a record; `None` when the record is cut off or `visit` returns `None`.
pub fn each_field(mut record: &[u8], mut visit: impl FnMut(u8, &[u8]) -> Option<()>) -> Option<()> {
    while let [tag, rest @ ..] = record {
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length) as usize;
        let payload = rest.get(..length)?;
        visit(*tag, payload)?;
        record = &rest[length..];
    }
    Some(())
}

/// Defines a struct that is a record: `tag => name: type`.
#[macro_export]
macro_rules! record {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($(#[$fmeta:meta])* $tag:literal => $field:ident: $kind:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        $vis struct $name {
            $($(#[$fmeta])* $vis $field: $kind,)*
        }

        impl $crate::wire::Field for $name {
            #[allow(unused_variables)]
            fn put(&self, out: &mut Vec<u8>) {
                $(
                    if self.$field != <$kind>::default() {
                        $crate::wire::put_field($tag, &self.$field, out);
                    }
                )*
            }
            #[allow(unused_mut, unused_variables)]
            fn take(payload: &[u8]) -> Option<Self> {
                let mut value = $name::default();
                $crate::wire::each_field(payload, |tag, payload| {
                    match tag {
                        $($tag => value.$field = <$kind as $crate::wire::Field>::take(payload)?,)*
                        _ => {}
                    }
                    Some(())
                })?;
                Some(value)
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    record! {
        /// As an old release knew it.
        struct Old {
            /// A name.
            1 => name: String,
        }
    }
    record! {
        /// As a new release knows it.
        struct New {
            /// A name.
            1 => name: String,
            /// Sizes.
            2 => sizes: Vec<u32>,
            /// A nested record.
            3 => inner: Option<Old>,
        }
    }

    fn bytes<T: Field>(value: &T) -> Vec<u8> {
        let mut out = Vec::new();
        value.put(&mut out);
        out
    }

    #[test]
    fn old_and_new_releases_read_each_other() {
        let old = Old { name: "web".into() };
        let new = New { name: "web".into(), sizes: vec![1, 2], inner: Some(old.clone()) };
        assert_eq!(New::take(&bytes(&new)), Some(new.clone()));
        assert_eq!(Old::take(&bytes(&new)), Some(old.clone()));
        assert_eq!(New::take(&bytes(&old)), Some(New { name: "web".into(), ..New::default() }));
    }

    #[test]
    fn a_record_cut_off_anywhere_is_refused_or_shorter_but_never_panics() {
        let whole = bytes(&New { name: "web".into(), sizes: vec![1, 2], inner: Some(Old { name: "x".into() }) });
        for end in 0..whole.len() {
            let read = New::take(&whole[..end]);
            assert!(read.is_none_or(|v| v.inner.is_none()), "{end}");
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] = damaged[at].wrapping_add(255);
            let _ = New::take(&damaged);
        }
    }
}
