//! Ids and generation numbers: the only things that names on the host are made of.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// An instance, for its whole life, whatever it is called.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceId(pub Uuid);

impl InstanceId {
    /// The first eight hex digits: enough to tell instances apart in names that the kernel keeps short.
    pub fn short(self) -> String {
        let mut text = self.0.simple().to_string();
        text.truncate(8);
        text
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.hyphenated(), f)
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for InstanceId {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::parse_str(text).map(InstanceId)
    }
}

macro_rules! generation {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default)]
        #[serde(transparent)]
        pub struct $name(pub u32);

        impl $name {
            /// The generation after this one.
            #[must_use]
            pub fn next(self) -> Self {
                $name(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

generation! {
    /// Counts the boots of an instance: start, restart and the guest's own reboot each take the next one.
    BootGen
}
generation! {
    /// Counts the root file systems of an instance: restore and rebuild each take the next one.
    RootGen
}

/// One boot of one instance: what cgroups, links and keepers are named after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Boot {
    /// Whose boot.
    pub id: InstanceId,
    /// Which boot.
    pub generation: BootGen,
}

impl fmt::Display for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.id, self.generation)
    }
}

impl FromStr for Boot {
    type Err = ParseBootError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (id, generation) = text.rsplit_once('.').ok_or(ParseBootError)?;
        Ok(Boot {
            id: id.parse().map_err(|_| ParseBootError)?,
            generation: BootGen(generation.parse().map_err(|_| ParseBootError)?),
        })
    }
}

/// A name that is not `<instance id>.<generation>`.
#[derive(Debug, thiserror::Error)]
#[error("not the name of a boot")]
pub struct ParseBootError;

/// SHA-256 of an image's content (or of the recipe it would be built from).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = ParseFingerprintError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.as_bytes();
        if digits.len() != 64 || !digits.iter().all(|d| matches!(d, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ParseFingerprintError);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let hex = |digit: u8| if digit <= b'9' { digit - b'0' } else { digit - b'a' + 10 };
            *byte = hex(pair[0]) << 4 | hex(pair[1]);
        }
        Ok(Fingerprint(bytes))
    }
}

/// A fingerprint that is not 64 lower-case hex digits.
#[derive(Debug, thiserror::Error)]
#[error("a fingerprint has 64 lower-case hexadecimal digits")]
pub struct ParseFingerprintError;

impl Serialize for Fingerprint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The ids of a user namespace: guest ids `0..count` are host ids `base..base+count`, for users and groups alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IdMap {
    /// Host id of the guest's root.
    pub base: u32,
    /// How many ids.
    pub count: u32,
}

impl IdMap {
    /// How many ids an instance gets.
    pub const ORDINARY: u32 = 65_536;
    /// How many ids an instance gets that runs containers with ranges of their own.
    pub const NESTING: u32 = 1_048_576;

    /// The first host id after the range.
    pub fn end(self) -> u64 {
        u64::from(self.base) + u64::from(self.count)
    }

    /// Whether the two ranges have an id in common.
    pub fn overlaps(self, other: IdMap) -> bool {
        u64::from(self.base) < other.end() && u64::from(other.base) < self.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_survives_being_written_and_read() {
        let boot = Boot { id: InstanceId(Uuid::from_u128(7)), generation: BootGen(42) };
        assert_eq!(boot.to_string().parse::<Boot>().expect("own output"), boot);
        assert!("web1.3".parse::<Boot>().is_err());
        assert!(boot.id.to_string().parse::<Boot>().is_err());
    }

    #[test]
    fn a_fingerprint_is_64_lower_case_digits_and_nothing_else() {
        let text = "00ff".repeat(16);
        assert_eq!(text.parse::<Fingerprint>().expect("valid").to_string(), text);
        for wrong in ["", "00FF", &"00FF".repeat(16), &"zz".repeat(32), &text[1..], &"%".repeat(64)] {
            assert!(wrong.parse::<Fingerprint>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn ranges_overlap_only_when_they_share_an_id() {
        let map = |base, count| IdMap { base, count };
        assert!(map(10, 5).overlaps(map(14, 1)));
        assert!(!map(10, 5).overlaps(map(15, 1)));
        assert!(!map(u32::MAX, 1).overlaps(map(0, 10)));
    }
}
