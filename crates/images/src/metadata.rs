//! `metadata.yaml`, the description inside an image, in the form that LXD gave it.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::limits::Limit;
use crate::{ArchivePath, Error, Limits, Result};

/// What an image says about itself. Keys that we do not know are left out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ImageMetadata {
    /// Kernel name of the architecture, as `x86_64`; Debian's names occur too.
    pub architecture: String,
    /// When it was made, in seconds since 1970.
    pub creation_date: i64,
    /// When it should no longer be used, in seconds since 1970; 0 is never.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub expiry_date: i64,
    /// `os`, `release`, `variant`, `description`, … without control characters.
    #[serde(default, deserialize_with = "texts")]
    pub properties: BTreeMap<String, String>,
    /// Files to be made from templates when an instance is created, copied or started, by absolute path in the guest.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub templates: BTreeMap<String, TemplateRule>,
}

/// When and from what a file of the guest is made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TemplateRule {
    /// `create`, `copy`, `start`, `rename`.
    #[serde(default, deserialize_with = "nullable")]
    pub when: Vec<String>,
    /// Only where there is no such file.
    #[serde(default)]
    pub create_only: bool,
    /// Name of the template: one plain file name.
    pub template: String,
    /// Values that only this template sees.
    #[serde(default, deserialize_with = "texts", skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
}

fn is_zero(value: &i64) -> bool {
    *value == 0
}

/// `key:` with nothing behind it means the empty value, as for Go's parser.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let texts: BTreeMap<String, Option<String>> = nullable(deserializer)?;
    // A block scalar ends in a line break that nobody meant.
    Ok(texts.into_iter().map(|(key, text)| (key, text.unwrap_or_default().trim_end().to_owned())).collect())
}

impl ImageMetadata {
    /// Reads the file. Aliases, anchors, tags of programming languages, several documents and keys that occur twice are
    /// refused: no image needs them.
    pub fn parse(bytes: &[u8], limits: &Limits) -> Result<ImageMetadata> {
        Limit::MetadataBytes.check(bytes.len() as u64, limits.metadata_bytes)?;
        let wrong = |problem: String| Error::Metadata { problem };
        let text = std::str::from_utf8(bytes).map_err(|error| wrong(error.to_string()))?;
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! {
                max_depth: 8,
                max_nodes: 20_000,
                max_events: 50_000,
                max_aliases: 0,
                max_anchors: 0,
                max_documents: 1,
                max_merge_keys: 0,
                max_total_scalar_bytes: limits.metadata_bytes as usize,
            },
            duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::Error,
            reject_unsupported_tags: true,
            with_snippet: false,
        };
        let parsed = serde_saphyr::from_str_with_options::<ImageMetadata>(text, options);
        let metadata = parsed.map_err(|error| wrong(printable(&error.to_string())))?;
        metadata.check().map_err(wrong)?;
        Ok(metadata)
    }

    /// The file. It is written as JSON, which is YAML.
    pub fn to_yaml(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("maps with text as keys are valid JSON");
        text.push('\n');
        text
    }

    /// Names of the templates that the rules refer to.
    pub fn template_names(&self) -> impl Iterator<Item = &str> {
        self.templates.values().map(|rule| rule.template.as_str())
    }

    fn check(&self) -> Result<(), String> {
        let name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if !(1..=32).contains(&self.architecture.len()) || !self.architecture.bytes().all(name) {
            return Err("architecture must be a name such as x86_64".to_owned());
        }
        check_texts("properties", &self.properties)?;
        for (target, rule) in &self.templates {
            let path = ArchivePath::parse(target.as_bytes());
            if !target.starts_with('/') || path.is_ok_and(|path| path.is_root()) || has_control(target) {
                return Err(format!("templates: {:?} is not the absolute path of a file", printable(target)));
            }
            ArchivePath::parse(target.as_bytes())
                .map_err(|problem| format!("templates: {:?} {problem}", printable(target)))?;
            if !is_template_name(rule.template.as_bytes()) {
                return Err(format!("templates: {:?} is not a plain file name", printable(&rule.template)));
            }
            if let Some(when) = rule.when.iter().find(|when| has_control(when)) {
                return Err(format!("templates: when: {:?} holds a control character", printable(when)));
            }
            check_texts("templates: properties", &rule.properties)?;
        }
        Ok(())
    }
}

fn check_texts(place: &str, texts: &BTreeMap<String, String>) -> Result<(), String> {
    match texts.iter().find(|(key, value)| key.is_empty() || has_control(key) || has_control(value)) {
        Some((key, _)) => Err(format!("{place}: {:?} is empty or holds a control character", printable(key))),
        None => Ok(()),
    }
}

fn has_control(text: &str) -> bool {
    text.chars().any(char::is_control)
}

/// Whether a template may be called so: 1 to 128 letters, digits, `.`, `_`, `-`, not beginning with a dot.
pub(crate) fn is_template_name(name: &[u8]) -> bool {
    let plain = |&byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=128).contains(&name.len()) && name[0] != b'.' && name.iter().all(plain)
}

fn printable(text: &str) -> String {
    crate::archive_path::escaped(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ImageMetadata> {
        ImageMetadata::parse(text.as_bytes(), &Limits::default())
    }

    #[test]
    fn the_metadata_of_published_images_is_understood() {
        let metadata = parse(
            "architecture: x86_64\ncreation_date: 1763856000\nexpiry_date: 1766448000\nproperties:\n  \
             architecture: amd64\n  description: Debian bookworm amd64 (20251123_05:24)\n  os: Debian\n  \
             release: 12\n  serial: \"20251123_05:24\"\n  secureboot: false\n  empty:\ntemplates:\n  \
             /etc/hostname:\n    when:\n    - create\n    - copy\n    create_only: false\n    \
             template: hostname.tpl\n    properties: {}\n  /etc/hosts:\n    when: [create]\n    \
             template: hosts.tpl\nsomething_new: 1\n",
        )
        .expect("an ordinary file");
        assert_eq!(metadata.properties["release"], "12");
        assert_eq!(metadata.properties["secureboot"], "false");
        assert_eq!(metadata.properties["empty"], "");
        assert_eq!(metadata.templates["/etc/hostname"].when, ["create", "copy"]);
        assert_eq!(metadata.template_names().collect::<Vec<_>>(), ["hostname.tpl", "hosts.tpl"]);
        assert_eq!(parse(&metadata.to_yaml()).expect("own output"), metadata);
    }

    #[test]
    fn alias_bombs_and_anchors_are_refused() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
        for n in 1..10 {
            bomb.push_str(&format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 9].join(",")));
        }
        let ordinary = "architecture: x86_64\ncreation_date: 1\n";
        let twice = "properties: &p\n  a: b\ntemplates: *p\n";
        let merge = "properties:\n  <<: {a: b}\n";
        for hostile in [bomb.as_str(), twice, merge] {
            let text = format!("{ordinary}{hostile}");
            assert!(matches!(parse(&text), Err(Error::Metadata { .. })), "{text}");
        }
    }

    #[test]
    fn keys_that_occur_twice_tags_and_depth_are_refused() {
        let ordinary = "architecture: x86_64\ncreation_date: 1\n";
        for hostile in [
            "creation_date: 2\n".to_owned(),
            "properties:\n  os: a\n  os: b\n".to_owned(),
            "properties: !!python/object/apply:os.system [id]\n".to_owned(),
            "properties:\n  os: !exec id\n".to_owned(),
            format!("other: {}{}\n", "[".repeat(10_000), "]".repeat(10_000)),
            "---\narchitecture: x86_64\n".to_owned(),
        ] {
            let text = format!("{ordinary}{hostile}");
            assert!(matches!(parse(&text), Err(Error::Metadata { .. })), "{}", &text[..text.len().min(120)]);
        }
    }

    #[test]
    fn control_characters_are_refused_wherever_they_stand() {
        for hostile in [
            "properties: {os: \"a\\nb\"}",
            "properties: {os: \"\\e[31m\"}",
            "properties: {\"a\\0\": b}",
            "properties: {os: \"\\x7f\"}",
            "templates: {\"/etc/a\\nb\": {template: x}}",
            "templates: {/etc/a: {template: x, when: [\"a\\nb\"]}}",
            "templates: {/etc/a: {template: x, properties: {a: \"b\\rc\"}}}",
        ] {
            let text = format!("architecture: x86_64\ncreation_date: 1\n{hostile}\n");
            assert!(matches!(parse(&text), Err(Error::Metadata { .. })), "{text}");
        }
    }

    #[test]
    fn templates_name_one_plain_file_and_an_absolute_target_below_the_root() {
        for hostile in [
            "templates: {/etc/a: {template: ../x}}",
            "templates: {/etc/a: {template: /etc/shadow}}",
            "templates: {/etc/a: {template: .hidden}}",
            "templates: {/etc/a: {template: \"\"}}",
            "templates: {/../a: {template: x}}",
            "templates: {etc/a: {template: x}}",
            "templates: {/: {template: x}}",
        ] {
            let text = format!("architecture: x86_64\ncreation_date: 1\n{hostile}\n");
            assert!(matches!(parse(&text), Err(Error::Metadata { .. })), "{text}");
        }
    }

    #[test]
    fn two_hundred_megabytes_are_refused_unread_and_one_is_read_within_bounds() {
        let huge = vec![b'a'; 200 << 20];
        let error = ImageMetadata::parse(&huge, &Limits::default()).expect_err("too long");
        assert!(matches!(error, Error::Limit { limit: Limit::MetadataBytes, .. }));
        let many = (0..40_000).map(|n| format!("  key{n}: value\n")).collect::<String>();
        assert!(parse(&format!("architecture: x86_64\ncreation_date: 1\nproperties:\n{many}")).is_err());
        for not_yaml in [&b"\xff\xfe"[..], b"\0", b"", b"[", b"architecture: \"", b"a: b: c"] {
            let result = ImageMetadata::parse(not_yaml, &Limits::default());
            assert!(matches!(result, Err(Error::Metadata { .. })), "{not_yaml:?}");
        }
    }
}
