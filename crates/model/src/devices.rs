//! Devices that a guest's processes may open.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Nodes that guests can have by name: major and minor number, no minor for a whole family (Linux allocated devices,
/// `Documentation/admin-guide/devices.txt`).
pub const NODES: [(&str, u32, Option<u32>); 10] = [
    ("full", 1, Some(7)),
    ("fuse", 10, Some(229)),
    ("net/tun", 10, Some(200)),
    ("null", 1, Some(3)),
    ("ptmx", 5, Some(2)),
    ("pts", 136, None),
    ("random", 1, Some(8)),
    ("tty", 5, Some(0)),
    ("urandom", 1, Some(9)),
    ("zero", 1, Some(5)),
];

/// How a device may be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Access {
    /// To read.
    pub read: bool,
    /// To write.
    pub write: bool,
}

impl Access {
    /// In every way.
    pub const FULL: Access = Access { read: true, write: true };

    /// What either of them is.
    pub fn with(self, other: Access) -> Access {
        Access { read: self.read || other.read, write: self.write || other.write }
    }

    /// What is left of it; `None` for nothing.
    pub fn without(self, other: Access) -> Option<Access> {
        let left = Access { read: self.read && !other.read, write: self.write && !other.write };
        (left.read || left.write).then_some(left)
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.read, self.write) {
            (true, true) => "rw",
            (true, false) => "r",
            (false, true) => "w",
            (false, false) => "",
        })
    }
}

/// Character devices, and how they may be opened. There are no others that a guest has a node of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeviceRange {
    /// Which driver.
    pub major: u32,
    /// Which of its devices; `None` for all of them.
    pub minor: Option<u32>,
    /// How.
    pub access: Access,
}

impl DeviceRange {
    /// The devices of a node by its name below `/dev`, to be opened in every way.
    pub fn named(name: &str) -> Option<DeviceRange> {
        let (_, major, minor) = NODES.iter().find(|(known, ..)| *known == name)?;
        Some(DeviceRange { major: *major, minor: *minor, access: Access::FULL })
    }

    /// Whether both are about the same devices.
    pub fn is_of(&self, other: &DeviceRange) -> bool {
        (self.major, self.minor) == (other.major, other.minor)
    }
}

impl fmt::Display for DeviceRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.minor {
            Some(minor) => write!(f, "c {}:{minor} {}", self.major, self.access),
            None => write!(f, "c {}:* {}", self.major, self.access),
        }
    }
}

/// A text that is no such range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a range of devices: c MAJOR:MINOR and r, w or rw")]
pub struct ParseDeviceError;

impl FromStr for DeviceRange {
    type Err = ParseDeviceError;
    fn from_str(text: &str) -> Result<Self, ParseDeviceError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let ["c", numbers, access] = words.as_slice() else { return Err(ParseDeviceError) };
        let (major, minor) = numbers.split_once(':').ok_or(ParseDeviceError)?;
        let number = |text: &str| text.parse().map_err(|_| ParseDeviceError);
        let access = match *access {
            "rw" => Access::FULL,
            "r" => Access { read: true, write: false },
            "w" => Access { read: false, write: true },
            _ => return Err(ParseDeviceError),
        };
        let minor = if minor == "*" { None } else { Some(number(minor)?) };
        Ok(DeviceRange { major: number(major)?, minor, access })
    }
}

/// Devices that may be used when no rule says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DevicePolicy {
    /// Those that its `/dev` has nodes of.
    #[default]
    Default,
    /// Only what every program needs: terminals, and those without a device behind them.
    Deny,
    /// Whatever somebody makes a node of in it.
    Allow,
}

/// A change to what may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    /// It may; otherwise it may not.
    pub allow: bool,
    /// What.
    pub range: DeviceRange,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        for (name, text) in [("fuse", "c 10:229 rw"), ("pts", "c 136:* rw")] {
            let range = DeviceRange::named(name).expect(name);
            assert_eq!((range.to_string().as_str(), text.parse()), (text, Ok(range)));
        }
        let read =
            DeviceRange { access: Access { read: true, write: false }, ..DeviceRange::named("tty").expect("tty") };
        assert_eq!(read.to_string().parse(), Ok(read));
        for wrong in ["", "c", "c 1:3", "c 1:3 ", "c 1:3 m", "b 8:0 rw", "c x:3 r", "c 1:3 r w", "a *:* rwm"] {
            assert_eq!(wrong.parse::<DeviceRange>(), Err(ParseDeviceError), "{wrong}");
        }
        assert!(DeviceRange::named("sda").is_none());
    }

    #[test]
    fn ways_to_open_are_added_and_taken() {
        let read = Access { read: true, write: false };
        let write = Access { read: false, write: true };
        assert_eq!(read.with(write), Access::FULL);
        assert_eq!((Access::FULL.without(write), read.without(Access::FULL)), (Some(read), None));
    }
}
