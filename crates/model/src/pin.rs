//! Namespaces that live on without a process: what keeps them is a file that they are bound to.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::id::{IdMap, InstanceId};
use crate::sandbox::NamespaceKind;

/// A pinned namespace: what its file is named after. `of` is a namespace object, or an instance whose network persists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PinId {
    /// Whose it is.
    pub of: Uuid,
    /// Its kind.
    pub kind: NamespaceKind,
}

impl fmt::Display for PinId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.of.hyphenated(), self.kind.as_str())
    }
}

impl FromStr for PinId {
    type Err = ParsePinError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (of, kind) = text.rsplit_once('.').ok_or(ParsePinError)?;
        let kind = NamespaceKind::named(kind).ok_or(ParsePinError)?;
        let of = Uuid::parse_str(of).map_err(|_| ParsePinError)?;
        let pin = PinId { of, kind };
        // One way to write each: a file named otherwise is none of ours.
        if pin.to_string() == text { Ok(pin) } else { Err(ParsePinError) }
    }
}

/// A name that is not `<id>.<kind>`.
#[derive(Debug, thiserror::Error)]
#[error("not the name of a pin")]
pub struct ParsePinError;

/// Where a namespace that is to be pinned comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PinSource {
    /// A new user namespace with these ids.
    Users(IdMap),
    /// A new one of another kind, made in the user namespace behind this pin, whose root has rights over it; else the host's.
    New(Option<PinId>),
    /// That which the guest of an instance lives in.
    Instance(InstanceId),
    /// That which is at this path of the host.
    Path(String),
}

/// A namespace that is to be pinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinSpec {
    /// Its pin.
    pub pin: PinId,
    /// Where it comes from when there is no pin yet.
    pub source: PinSource,
    /// A network namespace is at `/run/netns` by this name, too, as ip-netns(8) has it.
    pub netns: Option<String>,
}

/// A pin as it is on the host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PinSeen {
    /// Number of the namespace; `None` for a file that no namespace is bound to.
    pub inode: Option<u64>,
    /// Its name at `/run/netns`, as far as the same namespace is there.
    pub netns: Option<String>,
}

impl PinSeen {
    /// Whether it is all that it should be.
    pub fn is_whole(&self, netns: Option<&str>) -> bool {
        self.inode.is_some() && self.netns.as_deref() == netns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_survives_being_written_and_read_and_nothing_else_is_one() {
        let pin = PinId { of: Uuid::from_u128(7), kind: NamespaceKind::Net };
        assert_eq!(pin.to_string().parse::<PinId>().expect("own output"), pin);
        let simple = format!("{}.net", Uuid::from_u128(7).simple());
        for wrong in ["web1.net", &simple, &pin.of.to_string(), &format!("{}.nets", pin.of), &format!("{pin}.netns")] {
            assert!(wrong.parse::<PinId>().is_err(), "{wrong}");
        }
    }
}
