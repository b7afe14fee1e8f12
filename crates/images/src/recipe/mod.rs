//! Recipes: how to make an image from a distribution's own signed mirror.
//!
//! A recipe is a TOML file, `images/NAME.toml` at the root of the repository. Its fingerprint stands for the image until
//! one is built, so an image can be listed and launched by name before it exists. See [`Recipe`] for the keys.

mod check;
mod mmdebstrap;

use std::collections::BTreeMap;
use std::path::Path;

use model::Fingerprint;
use serde::{Deserialize, Serialize};

use crate::hash::Fingerprinter;
use crate::metadata::ImageMetadata;
use crate::{ArchivePath, Error, Result};

/// Changes when the same recipe begins to give another image, so that fingerprints change too.
const FORMAT: u32 = 1;
/// Longest recipe, in bytes.
const LONGEST: u64 = 256 << 10;

/// How to make one image. Unknown keys are errors.
///
/// What is serialised is what the fingerprint hashes: keys that are not used are left out of it, so that a new key changes
/// no fingerprint of a recipe without it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What the image is called, as `debian/13`.
    pub name: String,
    /// Other names; no part of the fingerprint, so that `debian` can move on without a build.
    #[serde(default, skip_serializing)]
    pub aliases: Vec<String>,
    /// `os`, `release`, `description`, … of the image.
    pub properties: BTreeMap<String, String>,
    /// Where the tree comes from.
    pub build: Build,
    /// Paths that do not get into the image; `/*` at the end means all below.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leave_out: Vec<String>,
    /// Directories to make.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub directories: Vec<DirectoryRule>,
    /// Files to make or replace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileRule>,
    /// Symbolic links to make or replace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<LinkRule>,
    /// Many links to one program that goes by its name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub applets: Vec<AppletRule>,
}

/// Where the tree comes from. Both kinds are done by `mmdebstrap`, which lets apt check the signatures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Build {
    /// A Debian system with its packages configured.
    Mmdebstrap(Mmdebstrap),
    /// Files out of some packages, which are not configured.
    DebianPackage(DebianPackage),
}

/// Where packages come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mmdebstrap {
    /// The release, as `trixie`.
    pub suite: String,
    /// Lines of `sources.list`; the first is the main archive.
    pub sources: Vec<String>,
    /// The file on the host with the keys that sign them.
    pub keyring: String,
    /// mmdebstrap's name for the set of packages to begin with: `essential`, `apt`, `minbase`, `standard`.
    pub variant: String,
    /// Whether `/bin`, `/lib`, `/sbin` are to be links into `/usr` from the start.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub merged_usr: bool,
    /// More packages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<String>,
    /// Path patterns that dpkg does not unpack (`path-exclude`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub path_exclude: Vec<String>,
    /// Exceptions to it (`path-include`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub path_include: Vec<String>,
    /// Commands to run in the finished tree, in plain words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub run: Vec<String>,
}

/// Which files of which packages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DebianPackage {
    /// The release, as `trixie`.
    pub suite: String,
    /// Lines of `sources.list`.
    pub sources: Vec<String>,
    /// The file on the host with the keys that sign them.
    pub keyring: String,
    /// The packages.
    pub packages: Vec<String>,
    /// The paths that get into the image; `/*` at the end means all below.
    pub keep: Vec<String>,
}

/// A directory to make, owned by root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectoryRule {
    /// Absolute path in the image.
    pub path: String,
    /// Permissions.
    #[serde(default = "directory_mode")]
    pub mode: u32,
}

/// A file to make, owned by root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRule {
    /// Absolute path in the image, without symbolic links on the way.
    pub path: String,
    /// Permissions.
    #[serde(default = "file_mode")]
    pub mode: u32,
    /// Content.
    pub content: String,
}

/// A symbolic link to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkRule {
    /// Absolute path in the image.
    pub path: String,
    /// Where it leads: any text.
    pub target: String,
}

/// Links of several names to one program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppletRule {
    /// Absolute path of the directory for the links.
    pub directory: String,
    /// Where each of them leads.
    pub target: String,
    /// Their names.
    pub names: Vec<String>,
}

fn directory_mode() -> u32 {
    0o755
}

fn file_mode() -> u32 {
    0o644
}

/// Processor architectures that recipes can be built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// 64-bit PC.
    X86_64,
    /// 64-bit ARM.
    Aarch64,
    /// 64-bit RISC-V.
    Riscv64,
    /// Little-endian POWER.
    Ppc64le,
    /// IBM Z.
    S390x,
}

impl Architecture {
    /// The one that this program was built for; `None` where no recipe can be built.
    pub fn host() -> Option<Architecture> {
        Some(match std::env::consts::ARCH {
            "x86_64" => Architecture::X86_64,
            "aarch64" => Architecture::Aarch64,
            "riscv64" => Architecture::Riscv64,
            "powerpc64" if cfg!(target_endian = "little") => Architecture::Ppc64le,
            "s390x" => Architecture::S390x,
            _ => return None,
        })
    }

    /// As `uname -m` and the API have it.
    pub fn kernel_name(self) -> &'static str {
        match self {
            Architecture::X86_64 => "x86_64",
            Architecture::Aarch64 => "aarch64",
            Architecture::Riscv64 => "riscv64",
            Architecture::Ppc64le => "ppc64le",
            Architecture::S390x => "s390x",
        }
    }

    /// As Debian has it.
    pub fn debian_name(self) -> &'static str {
        match self {
            Architecture::X86_64 => "amd64",
            Architecture::Aarch64 => "arm64",
            Architecture::Riscv64 => "riscv64",
            Architecture::Ppc64le => "ppc64el",
            Architecture::S390x => "s390x",
        }
    }
}

/// The recipes that this program was built with: file name and text.
pub const BUILT_IN: [(&str, &str); 3] = [
    ("busybox.toml", include_str!("../../../../images/busybox.toml")),
    ("debian-12.toml", include_str!("../../../../images/debian-12.toml")),
    ("debian-13.toml", include_str!("../../../../images/debian-13.toml")),
];

impl Recipe {
    /// Reads a recipe; `file` is what messages call it.
    pub fn parse(file: &str, text: &str) -> Result<Recipe> {
        let wrong = |problem: String| Error::Recipe { name: file.to_owned(), problem };
        let recipe: Recipe = toml::from_str(text).map_err(|error| wrong(error.to_string().replace('\n', " ")))?;
        check::check(&recipe).map_err(wrong)?;
        Ok(recipe)
    }

    /// The recipes that this program was built with.
    pub fn built_in() -> Result<Vec<Recipe>> {
        unambiguous(BUILT_IN.into_iter().map(|(file, text)| Recipe::parse(file, text)).collect::<Result<_>>()?)
    }

    /// The recipes (`*.toml`) in a directory of the host, in the order of file names.
    pub fn load_directory(directory: &Path) -> Result<Vec<Recipe>> {
        let wrong = |path: &Path, problem: String| Error::Recipe { name: path.display().to_string(), problem };
        let list = |error: std::io::Error| wrong(directory, error.to_string());
        let mut paths = Vec::new();
        for found in std::fs::read_dir(directory).map_err(list)? {
            let path = found.map_err(list)?.path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                paths.push(path);
            }
        }
        paths.sort();
        let load = |path: &Path| {
            let length = std::fs::metadata(path).map_err(|error| wrong(path, error.to_string()))?.len();
            if length > LONGEST {
                return Err(wrong(path, format!("is longer than {LONGEST} bytes")));
            }
            let text = std::fs::read_to_string(path).map_err(|error| wrong(path, error.to_string()))?;
            Recipe::parse(&path.display().to_string(), &text)
        };
        unambiguous(paths.iter().map(|path| load(path)).collect::<Result<_>>()?)
    }

    /// The file on the host with the keys that packages are checked against.
    pub fn keyring(&self) -> &str {
        match &self.build {
            Build::Mmdebstrap(build) => &build.keyring,
            Build::DebianPackage(build) => &build.keyring,
        }
    }

    /// The name and all aliases.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str()).chain(self.aliases.iter().map(String::as_str))
    }

    /// What stands for the image before it is built: a hash of what the image depends on. Comments, the order of keys and
    /// aliases do not matter.
    pub fn fingerprint(&self, architecture: Architecture) -> Fingerprint {
        let mut hash = Fingerprinter::default();
        hash.update(format!("sysctl recipe {FORMAT} {}\n", architecture.kernel_name()).as_bytes());
        hash.update(&serde_json::to_vec(self).expect("maps with text as keys are valid JSON"));
        hash.finish()
    }

    /// The metadata of an image built from it at `now` (seconds since 1970).
    pub fn metadata(&self, architecture: Architecture, now: i64) -> ImageMetadata {
        let mut properties = self.properties.clone();
        properties.insert("architecture".to_owned(), architecture.debian_name().to_owned());
        ImageMetadata {
            architecture: architecture.kernel_name().to_owned(),
            creation_date: now,
            properties,
            ..ImageMetadata::default()
        }
    }

    /// Whether an entry of the builder's archive gets into the image.
    pub fn takes(&self, path: &ArchivePath) -> bool {
        let among = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, path.as_bytes()));
        let kept = match &self.build {
            Build::Mmdebstrap(_) => true,
            Build::DebianPackage(package) => path.is_root() || among(&package.keep),
        };
        kept && !among(&self.leave_out)
    }

    /// All links: the single ones and those of the applets.
    pub fn all_links(&self) -> impl Iterator<Item = LinkRule> {
        let applets = self.applets.iter().flat_map(|rule| {
            let link =
                |name: &String| LinkRule { path: format!("{}/{name}", rule.directory), target: rule.target.clone() };
            rule.names.iter().map(link)
        });
        applets.chain(self.links.iter().cloned())
    }
}

/// `/a/b` is that path; `/a/*` is all below `/a`, but not `/a` itself.
fn matches(pattern: &str, path: &[u8]) -> bool {
    let pattern = pattern.trim_start_matches('/').as_bytes();
    match pattern.strip_suffix(b"/*") {
        Some(directory) => {
            path.strip_prefix(directory).is_some_and(|rest| rest.first() == Some(&b'/') && rest.len() > 1)
        }
        None => path == pattern,
    }
}

/// Refuses two recipes with the same name.
fn unambiguous(recipes: Vec<Recipe>) -> Result<Vec<Recipe>> {
    let mut seen = BTreeMap::new();
    for recipe in &recipes {
        for name in recipe.names() {
            if let Some(other) = seen.insert(name, &recipe.name) {
                let problem = format!("the name {name} is also one of {other}");
                return Err(Error::Recipe { name: recipe.name.clone(), problem });
            }
        }
    }
    Ok(recipes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
        name = "small"
        aliases = ["tiny"]
        leave_out = ["/etc/hostname", "/dev/*"]
        [properties]
        os = "Debian"
        [build]
        kind = "mmdebstrap"
        suite = "trixie"
        sources = ["deb http://deb.debian.org/debian trixie main"]
        keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
        variant = "minbase"
        include = ["systemd-sysv"]
        run = ["systemctl enable systemd-networkd.service"]
        [[files]]
        path = "/etc/hosts"
        content = "127.0.0.1 localhost\n"
    "#;

    #[test]
    fn the_recipes_that_launch_knows_are_well_formed() {
        let recipes = Recipe::built_in().expect("they are ours");
        let names: Vec<&str> = recipes.iter().flat_map(Recipe::names).collect();
        for name in ["debian", "debian/12", "debian/13", "busybox"] {
            assert!(names.contains(&name), "{name} is missing in {names:?}");
        }
        for recipe in &recipes {
            assert!(recipe.metadata(Architecture::X86_64, 0).properties.contains_key("description"));
        }
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../images");
        assert_eq!(Recipe::load_directory(&directory).expect("the same files"), recipes);
    }

    #[test]
    fn the_fingerprint_depends_on_the_content_and_the_architecture_but_not_on_aliases_and_comments() {
        let fingerprint = |text: &str| Recipe::parse("t", text).expect("fine").fingerprint(Architecture::X86_64);
        let one = fingerprint(SMALL);
        assert_eq!(one, fingerprint(&format!("# a comment\n{}", SMALL.replace("\"tiny\"", "\"tiny\", \"wee\""))));
        assert_ne!(one, fingerprint(&SMALL.replace("localhost", "localhost2")));
        let recipe = Recipe::parse("t", SMALL).expect("fine");
        assert_ne!(one, recipe.fingerprint(Architecture::Aarch64));
        // A change here makes every host build its images again: raise FORMAT and say so in the commit.
        assert_eq!(one.to_string(), "c023cd61f1a3ffae6e503743917d06919216b3efd6c1f90be84e466b4a3db202");
    }

    #[test]
    fn unknown_keys_and_kinds_are_errors_that_name_the_place() {
        for (from, to) in [
            ("suite =", "sweet ="),
            ("[properties]", "colour = \"red\"\n[properties]"),
            ("\"mmdebstrap\"", "\"magic\""),
            ("content =", "contents ="),
            ("variant = \"minbase\"", ""),
        ] {
            let error = Recipe::parse("file.toml", &SMALL.replace(from, to)).expect_err(to);
            assert!(error.to_string().starts_with("recipe file.toml: "), "{error}");
        }
    }

    #[test]
    fn only_what_the_recipe_takes_gets_into_the_image() {
        let recipe = Recipe::parse("t", SMALL).expect("fine");
        let takes = |path: &str| recipe.takes(&ArchivePath::parse(path.as_bytes()).expect("fine"));
        assert!(takes("dev") && takes("etc/hosts") && takes("device/x") && takes("."));
        assert!(!takes("dev/null") && !takes("dev/pts/0") && !takes("./etc/hostname"));
    }
}
