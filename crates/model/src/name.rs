//! Names that users give. They are checked once, when made, and stay valid.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text cannot be a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} name {text:?} is not valid: {rule}")]
pub struct InvalidName {
    /// What was to be named.
    pub kind: &'static str,
    /// The text that was given.
    pub text: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

macro_rules! name {
    ($(#[$meta:meta])* $name:ident, $kind:literal, $check:expr) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text of the name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                let check: fn(&str) -> Result<(), &'static str> = $check;
                match check(text) {
                    Ok(()) => Ok($name(text.to_owned())),
                    Err(rule) => Err(InvalidName { kind: $kind, text: text.chars().take(80).collect(), rule }),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

name! {
    /// The name of an instance: a DNS label that starts with a letter, as the guest's host name is made of it.
    InstanceName, "instance", host_label
}
name! {
    /// The name of a project.
    ProjectName, "project", plain
}
name! {
    /// The name of a profile.
    ProfileName, "profile", plain
}
name! {
    /// The name of a storage pool.
    PoolName, "storage pool", plain
}
name! {
    /// The name of a network; for a bridge also the name of its link, hence at most 15 characters.
    NetworkName, "network", |text| {
        plain(text)?;
        if text.len() > 15 { Err("at most 15 characters, as it names a network link") } else { Ok(()) }
    }
}
name! {
    /// The name of a namespace object among those of its kind.
    NamespaceName, "namespace", plain
}
name! {
    /// The name of a device of an instance or profile.
    DeviceName, "device", plain
}

impl Default for ProjectName {
    fn default() -> Self {
        ProjectName("default".to_owned())
    }
}

fn host_label(text: &str) -> Result<(), &'static str> {
    let bytes = text.as_bytes();
    match bytes {
        [] => Err("it is empty"),
        [_, ..] if bytes.len() > 63 => Err("at most 63 characters"),
        [first, ..] if !first.is_ascii_alphabetic() => Err("the first character is a letter"),
        [.., b'-'] => Err("the last character is not a hyphen"),
        _ if bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-') => Ok(()),
        _ => Err("only letters, digits and hyphens"),
    }
}

fn plain(text: &str) -> Result<(), &'static str> {
    let bytes = text.as_bytes();
    match bytes {
        [] => Err("it is empty"),
        [_, ..] if bytes.len() > 64 => Err("at most 64 characters"),
        [b'-' | b'.', ..] => Err("the first character is not a hyphen or a dot"),
        _ if bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) => Ok(()),
        _ => Err("only letters, digits, hyphens, underscores and dots"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instance_names_are_host_names() {
        for good in ["a", "web1", "Web-1", &"a".repeat(63)] {
            assert!(good.parse::<InstanceName>().is_ok(), "{good}");
        }
        for bad in ["", "1web", "-a", "a-", "a.b", "a_b", "a/b", "a b", "ä", "a\n", &"a".repeat(64)] {
            assert!(bad.parse::<InstanceName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn other_names_never_lead_out_of_a_directory() {
        for bad in ["", ".", "..", "a/b", "a\0", ".hidden", "a b", &"n".repeat(65)] {
            assert!(bad.parse::<PoolName>().is_err(), "{bad:?}");
        }
        assert!("sysctlbr0".parse::<NetworkName>().is_ok());
        assert!("a-link-too-long0".parse::<NetworkName>().is_err());
    }
}
