//! The one parser of names in archives.

use std::fmt;

/// A path below the root of an archive: components joined by `/`, none of them empty, `.` or `..`. Empty means the root.
///
/// Bytes, not text: names on Linux need not be UTF-8.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ArchivePath(Vec<u8>);

/// Longest path, in bytes, before and after parsing (`PATH_MAX`).
pub const LONGEST_PATH: usize = 4096;
/// Longest component, in bytes (`NAME_MAX`).
pub const LONGEST_NAME: usize = 255;
/// Most components.
pub const DEEPEST: usize = 256;

/// Why a name was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathProblem {
    /// A component `..`.
    #[error("climbs out of the archive with \"..\"")]
    Climbs,
    /// A NUL byte.
    #[error("holds a NUL byte")]
    Nul,
    /// More than [`LONGEST_PATH`] or [`LONGEST_NAME`] bytes.
    #[error("is longer than 4096 bytes, or a part of it longer than 255")]
    TooLong,
    /// More than [`DEEPEST`] components.
    #[error("is more than 256 directories deep")]
    TooDeep,
    /// Nothing at all.
    #[error("is empty")]
    Empty,
}

impl ArchivePath {
    /// Reads a name as archives have it. `/` and `./` in front and doubled slashes mean nothing and are left out, so an
    /// absolute name is one below the root; everything that could lead elsewhere is refused.
    pub fn parse(name: &[u8]) -> Result<ArchivePath, PathProblem> {
        if name.is_empty() {
            return Err(PathProblem::Empty);
        }
        if name.len() > LONGEST_PATH {
            return Err(PathProblem::TooLong);
        }
        if name.contains(&0) {
            return Err(PathProblem::Nul);
        }
        let mut path = Vec::with_capacity(name.len());
        let mut depth = 0;
        for component in name.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".") {
            if component == b".." {
                return Err(PathProblem::Climbs);
            }
            if component.len() > LONGEST_NAME {
                return Err(PathProblem::TooLong);
            }
            depth += 1;
            if depth > DEEPEST {
                return Err(PathProblem::TooDeep);
            }
            if depth > 1 {
                path.push(b'/');
            }
            path.extend_from_slice(component);
        }
        Ok(ArchivePath(path))
    }

    /// The root.
    pub fn root() -> ArchivePath {
        ArchivePath(Vec::new())
    }

    /// Whether this is the root itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes: no slash at either end, empty for the root.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The components from the top down; none for the root.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|&byte| byte == b'/').filter(|part| !part.is_empty())
    }

    /// Parent (empty for the root itself) and last component; `None` for the root.
    pub fn split_last(&self) -> Option<(&[u8], &[u8])> {
        if self.is_root() {
            return None;
        }
        match self.0.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => Some((&self.0[..slash], &self.0[slash + 1..])),
            None => Some((b"", &self.0)),
        }
    }

    /// First component and the rest; `None` for the root.
    pub fn split_first(&self) -> Option<(&[u8], ArchivePath)> {
        if self.is_root() {
            return None;
        }
        match self.0.iter().position(|&byte| byte == b'/') {
            Some(slash) => Some((&self.0[..slash], ArchivePath(self.0[slash + 1..].to_vec()))),
            None => Some((&self.0, ArchivePath::root())),
        }
    }

    /// This path with one more component, which the caller got from the kernel or wrote down itself.
    pub(crate) fn child(&self, name: &[u8]) -> ArchivePath {
        let mut path = Vec::with_capacity(self.0.len() + 1 + name.len());
        path.extend_from_slice(&self.0);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        ArchivePath(path)
    }
}

/// Escaped, so that a stranger's name can stand in a log line; `/` for the root.
impl fmt::Display for ArchivePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() { f.write_str("/") } else { f.write_str(&escaped(&self.0)) }
    }
}

impl fmt::Debug for ArchivePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A stranger's bytes made fit for a message: printable UTF-8 stays, the rest is escaped, long ones are cut.
pub(crate) fn escaped(bytes: &[u8]) -> String {
    const LONGEST_SHOWN: usize = 256;
    let shown = &bytes[..bytes.len().min(LONGEST_SHOWN)];
    let mut text = String::with_capacity(shown.len());
    for chunk in shown.utf8_chunks() {
        for letter in chunk.valid().chars() {
            if letter.is_control() { text.extend(letter.escape_default()) } else { text.push(letter) }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    if bytes.len() > LONGEST_SHOWN {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(name: &[u8]) -> String {
        ArchivePath::parse(name).expect("a good name").to_string()
    }

    #[test]
    fn slashes_and_dots_that_mean_nothing_are_left_out() {
        for name in [&b"a/b"[..], b"/a/b", b"./a/b", b"//a///b/", b"././a/./b/."] {
            assert_eq!(parsed(name), "a/b");
        }
        for root in [&b"."[..], b"./", b"/", b"///", b"./."] {
            assert!(ArchivePath::parse(root).expect("the root").is_root());
        }
    }

    #[test]
    fn names_that_could_lead_elsewhere_are_refused() {
        for name in [&b".."[..], b"../a", b"a/..", b"./../a", b"a/../../b", b"/.."] {
            assert_eq!(ArchivePath::parse(name), Err(PathProblem::Climbs));
        }
        assert_eq!(ArchivePath::parse(b"a\0b"), Err(PathProblem::Nul));
        assert_eq!(ArchivePath::parse(b""), Err(PathProblem::Empty));
        assert_eq!(parsed(b"...") + &parsed(b"a..b"), "...a..b");
    }

    #[test]
    fn long_and_deep_names_are_refused_just_beyond_the_bound() {
        assert!(ArchivePath::parse(&[b'a'; 255]).is_ok());
        assert_eq!(ArchivePath::parse(&[b'a'; 256]), Err(PathProblem::TooLong));
        assert!(ArchivePath::parse(&b"a/".repeat(256)).is_ok());
        assert_eq!(ArchivePath::parse(&b"a/".repeat(257)), Err(PathProblem::TooDeep));
        assert_eq!(ArchivePath::parse(&b"/".repeat(4097)), Err(PathProblem::TooLong));
    }

    #[test]
    fn a_strangers_name_cannot_forge_a_log_line() {
        assert_eq!(parsed(b"a\nb\x1b[31m"), "a\\nb\\u{1b}[31m");
        assert_eq!(parsed(b"b\xe9b\xc3\xa9"), "b\\xe9b\u{e9}");
    }

    #[test]
    fn paths_come_apart_at_either_end() {
        let path = ArchivePath::parse(b"a/b/c").expect("good");
        assert_eq!(path.split_last(), Some((&b"a/b"[..], &b"c"[..])));
        let (first, rest) = path.split_first().expect("not the root");
        assert_eq!((first, rest.to_string().as_str()), (&b"a"[..], "b/c"));
        assert_eq!(ArchivePath::root().split_last(), None);
        assert_eq!(rest.child(b"d").to_string(), "b/c/d");
    }
}
