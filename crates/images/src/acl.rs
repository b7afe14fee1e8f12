//! POSIX access control lists: the text that archives hold and the binary value of `system.posix_acl_*`.

use std::fmt::Write as _;

/// The extended attribute of a file's own list.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// The extended attribute of the list that new files in a directory inherit.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

/// Version number in front of the binary form (`linux/posix_acl_xattr.h`).
const VERSION: u32 = 2;
/// The id of entries that name nobody.
const NO_ID: u32 = u32::MAX;
/// Most entries of a list: a 64 KiB attribute holds no more.
const MOST_ENTRIES: usize = 8191;

/// Whom an entry is for. The numbers are the kernel's, and their order is the one it insists on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
enum Tag {
    Owner = 0x01,
    User = 0x02,
    Group = 0x04,
    NamedGroup = 0x08,
    Mask = 0x10,
    Other = 0x20,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct AclEntry {
    tag: Tag,
    id: u32,
    permissions: u16,
}

/// An access control list in the kernel's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acl(Vec<AclEntry>);

impl Acl {
    /// Reads `user::rwx,user:1000:r-x,group::r-x,mask::rwx,other::---`, split by commas or newlines. The id may also
    /// stand in a fourth field behind a name (star, libarchive). Entries for names without a number cannot be kept: they
    /// are left out, which only narrows who may do what, and counted.
    pub fn from_text(text: &[u8]) -> Option<(Acl, u32)> {
        let text = std::str::from_utf8(text).ok()?;
        let (mut entries, mut nameless) = (Vec::new(), 0);
        for line in text.split([',', '\n']) {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            match parse_entry(line)? {
                Some(entry) => entries.push(entry),
                None => nameless += 1,
            }
        }
        Acl::checked(entries).map(|acl| (acl, nameless))
    }

    /// Reads the value of the extended attribute.
    pub fn from_xattr(value: &[u8]) -> Option<Acl> {
        let (version, rest) = value.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*version) != VERSION || rest.len() % 8 != 0 || rest.len() / 8 > MOST_ENTRIES {
            return None;
        }
        let entries = rest.chunks_exact(8).map(|raw| {
            let tag = match u16::from_le_bytes([raw[0], raw[1]]) {
                0x01 => Tag::Owner,
                0x02 => Tag::User,
                0x04 => Tag::Group,
                0x08 => Tag::NamedGroup,
                0x10 => Tag::Mask,
                0x20 => Tag::Other,
                _ => return None,
            };
            let permissions = u16::from_le_bytes([raw[2], raw[3]]);
            Some(AclEntry { tag, id: u32::from_le_bytes([raw[4], raw[5], raw[6], raw[7]]), permissions })
        });
        Acl::checked(entries.collect::<Option<Vec<_>>>()?)
    }

    /// The value of the extended attribute.
    pub fn to_xattr(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(4 + 8 * self.0.len());
        value.extend_from_slice(&VERSION.to_le_bytes());
        for entry in &self.0 {
            value.extend_from_slice(&(entry.tag as u16).to_le_bytes());
            value.extend_from_slice(&entry.permissions.to_le_bytes());
            value.extend_from_slice(&entry.id.to_le_bytes());
        }
        value
    }

    /// The text, ids as numbers, a comma between entries.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for entry in &self.0 {
            let tag = match entry.tag {
                Tag::Owner | Tag::User => "user",
                Tag::Group | Tag::NamedGroup => "group",
                Tag::Mask => "mask",
                Tag::Other => "other",
            };
            let id = if entry.id == NO_ID { String::new() } else { entry.id.to_string() };
            let bit = |mask: u16, letter: char| if entry.permissions & mask != 0 { letter } else { '-' };
            let comma = if text.is_empty() { "" } else { "," };
            // Writing to a String cannot fail.
            let _ = write!(text, "{comma}{tag}:{id}:{}{}{}", bit(4, 'r'), bit(2, 'w'), bit(1, 'x'));
        }
        text
    }

    /// The largest user or group id that is named.
    pub fn largest_id(&self) -> Option<u32> {
        self.0.iter().map(|entry| entry.id).filter(|&id| id != NO_ID).max()
    }

    /// Puts entries into the kernel's order, adds a mask where one is needed, refuses what the kernel would.
    fn checked(mut entries: Vec<AclEntry>) -> Option<Acl> {
        let named = |tag: Tag| matches!(tag, Tag::User | Tag::NamedGroup);
        for entry in &mut entries {
            if entry.permissions > 7 || (named(entry.tag) && entry.id == NO_ID) {
                return None;
            }
            if !named(entry.tag) {
                entry.id = NO_ID;
            }
        }
        let count = |tag: Tag| entries.iter().filter(|entry| entry.tag == tag).count();
        if entries.len() > MOST_ENTRIES || count(Tag::Mask) > 1 {
            return None;
        }
        if [Tag::Owner, Tag::Group, Tag::Other].iter().any(|&tag| count(tag) != 1) {
            return None;
        }
        if count(Tag::Mask) == 0 && entries.iter().any(|entry| named(entry.tag)) {
            let grouped = entries.iter().filter(|entry| named(entry.tag) || entry.tag == Tag::Group);
            let permissions = grouped.fold(0, |mask, entry| mask | entry.permissions);
            entries.push(AclEntry { tag: Tag::Mask, id: NO_ID, permissions });
        }
        entries.sort_unstable();
        let twice = entries.windows(2).any(|pair| (pair[0].tag, pair[0].id) == (pair[1].tag, pair[1].id));
        (!twice).then_some(Acl(entries))
    }
}

/// One entry; the outer `None` is a malformed one, the inner one for a name that has no number.
fn parse_entry(line: &str) -> Option<Option<AclEntry>> {
    let mut fields = line.split(':');
    let (kind, who) = (fields.next()?, fields.next()?.trim());
    // `mask:rwx` and `other:rwx` without an empty middle field are an old way to write them.
    let permissions = match fields.next() {
        Some(permissions) => permissions,
        None if matches!(kind, "m" | "mask" | "o" | "other") => who,
        None => return None,
    };
    let numbered = fields.next();
    let tag = match (kind, who.is_empty()) {
        ("u" | "user", true) => Tag::Owner,
        ("u" | "user", false) => Tag::User,
        ("g" | "group", true) => Tag::Group,
        ("g" | "group", false) => Tag::NamedGroup,
        ("m" | "mask", _) => Tag::Mask,
        ("o" | "other", _) => Tag::Other,
        _ => return None,
    };
    let mut bits = 0;
    for letter in permissions.trim().chars() {
        bits |= match letter {
            'r' => 4,
            'w' => 2,
            'x' => 1,
            '-' => 0,
            _ => return None,
        };
    }
    if !matches!(tag, Tag::User | Tag::NamedGroup) {
        return Some(Some(AclEntry { tag, id: NO_ID, permissions: bits }));
    }
    let id = who.parse().ok().or_else(|| numbered.and_then(|id| id.trim().parse().ok()));
    Some(id.map(|id| AclEntry { tag, id, permissions: bits }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_binary_are_two_forms_of_one_list() {
        let text = "user::rwx,user:1000:r-x,group::r-x,group:7:-wx,mask::rwx,other::---";
        let (acl, nameless) = Acl::from_text(text.as_bytes()).expect("well formed");
        assert_eq!((acl.to_text().as_str(), nameless), (text, 0));
        assert_eq!(Acl::from_xattr(&acl.to_xattr()), Some(acl.clone()));
        assert_eq!(acl.largest_id(), Some(1000));
    }

    #[test]
    fn other_ways_to_write_the_same_are_understood() {
        let gnu = b"user::rw-\nuser:lisa:r--:1000\t#effective:r--\ngroup::r--\nmask::r--\nother:r--\n";
        let (acl, _) = Acl::from_text(gnu).expect("well formed");
        assert_eq!(acl.to_text(), "user::rw-,user:1000:r--,group::r--,mask::r--,other::r--");
        let unordered = b"other::r--,group:5:rwx,group::r--,user::rw-";
        let (acl, _) = Acl::from_text(unordered).expect("well formed");
        assert_eq!(acl.to_text(), "user::rw-,group::r--,group:5:rwx,mask::rwx,other::r--");
    }

    #[test]
    fn a_name_without_a_number_is_left_out_and_counted() {
        let (acl, nameless) = Acl::from_text(b"user::rw-,group::r--,group:adm:r-x,mask::r-x,other::r--").expect("fine");
        assert_eq!((acl.to_text().as_str(), nameless), ("user::rw-,group::r--,mask::r-x,other::r--", 1));
    }

    #[test]
    fn lists_that_the_kernel_would_refuse_are_refused() {
        for text in
            ["", "user::rwx", "user::rwx,user::rwx,group::r--,other::r--", "what::rwx", "user::rwq,group::,other::"]
        {
            assert_eq!(Acl::from_text(text.as_bytes()), None, "{text}");
        }
        assert_eq!(Acl::from_text(b"user::rwx,user:1:r--,user:1:rwx,group::r--,other::r--"), None);
        for value in [&b""[..], b"\x02\0\0\0", b"\x01\0\0\0\x01\0\x07\0\xff\xff\xff\xff", b"\x02\0\0\0\x01\0"] {
            assert_eq!(Acl::from_xattr(value), None);
        }
    }
}
