//! Names and aliases of links, checked once, when made.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// The name of a link: 1 to 15 printable characters that have no meaning in a path or as a pattern.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkName(String);

impl LinkName {
    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as the kernel compares it: 16 bytes, zeros at the end.
    pub(crate) fn padded(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..self.0.len()].copy_from_slice(self.0.as_bytes());
        bytes
    }

    /// Reads the kernel's form back.
    pub(crate) fn from_padded(bytes: &[u8]) -> Option<LinkName> {
        crate::netlink::read::text(bytes).parse().ok()
    }
}

impl FromStr for LinkName {
    type Err = Error;

    fn from_str(text: &str) -> Result<LinkName, Error> {
        let rule = match text {
            "" => "it is empty",
            "." | ".." | "all" | "default" => "it means something else in /proc/sys/net",
            _ if text.len() > 15 => "at most 15 characters",
            // The kernel takes a name with % as a pattern, with : as the name of an address.
            _ if !text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b'%' | b':' | b'"')) => {
                "only printable characters without / % : \""
            }
            _ => return Ok(LinkName(text.to_owned())),
        };
        Err(Error::InvalidName { kind: "link", text: text.chars().take(80).collect(), rule })
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What we write on a link to know it again: 1 to 255 bytes without control characters.
///
/// The caller puts the id of the link's owner and of the daemon into it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Alias(String);

impl Alias {
    /// The alias's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Alias {
    type Err = Error;

    fn from_str(text: &str) -> Result<Alias, Error> {
        let rule = match text {
            "" => "it is empty",
            _ if text.len() > 255 => "at most 255 bytes",
            _ if text.chars().any(char::is_control) => "no control characters",
            _ => return Ok(Alias(text.to_owned())),
        };
        Err(Error::InvalidName { kind: "link's alias", text: text.chars().take(80).collect(), rule })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_be_patterns_or_paths_are_refused() {
        for good in ["a", "sysctlbr0", "v0a1b2c3d4e5f60", "eth0.1", "web-1"] {
            assert!(good.parse::<LinkName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "all", "default", "a/b", "veth%d", "a:1", "a b", "a\n", "ä", "0123456789abcdef"] {
            assert!(bad.parse::<LinkName>().is_err(), "{bad:?}");
        }
        assert!("a\u{7}".parse::<Alias>().is_err());
        assert!("x".repeat(256).parse::<Alias>().is_err());
    }

    #[test]
    fn the_padded_form_reads_back() {
        let name: LinkName = "sysctlbr0".parse().expect("valid");
        assert_eq!(LinkName::from_padded(&name.padded()), Some(name));
    }
}
