//! Every outside crate says what it is for, in one place; the lock file knows only the public registry.

use super::File;

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// `root` is the text of the workspace's manifest.
pub(crate) fn check(root: &str, members: &[&File]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut section = "";
    for line in root.lines() {
        if line.starts_with('[') {
            section = line.trim();
        }
        if section != "[workspace.dependencies]" || line.starts_with(['[', '#']) || line.trim().is_empty() {
            continue;
        }
        let Some((name, value)) = line.split_once('=') else { continue };
        let purpose = line.rsplit_once(" # ").map_or("", |(_, purpose)| purpose.trim());
        if !value.contains("path =") && purpose.len() < 4 {
            wrong.push(format!(
                "Cargo.toml: {} does not say what it is for (`{} = … # purpose`)",
                name.trim(),
                name.trim()
            ));
        }
    }
    for file in members {
        wrong.extend(own_versions(&file.text).into_iter().map(|name| {
            format!(
                "{}: {name} has a version of its own: `{name}.workspace = true`, and a line in the root manifest",
                file.path
            )
        }));
    }
    wrong
}

/// Dependencies of a member that do not come from the workspace.
fn own_versions(manifest: &str) -> Vec<&str> {
    let mut section = "";
    let mut found = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        } else if section.trim_end_matches(']').ends_with("dependencies") && !line.is_empty() && !line.starts_with('#')
        {
            let name = line.split(['.', '=', ' ']).next().unwrap_or(line);
            if !line.contains("workspace = true") {
                found.push(name);
            }
        }
    }
    found
}

/// Sources of packages in the lock file.
pub(crate) fn check_lock(lock: &str) -> Vec<String> {
    let sources = lock.lines().filter_map(|line| line.strip_prefix("source = \"")?.strip_suffix('"'));
    let mut other: Vec<&str> = sources.filter(|source| *source != REGISTRY).collect();
    other.sort_unstable();
    other.dedup();
    other.into_iter().map(|source| format!("Cargo.lock names {source}: only the public registry is used")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::file;

    #[test]
    fn crates_without_a_purpose_are_found() {
        let root = "[workspace.dependencies]\n# ours\nmodel = { path = \"crates/model\" }\nserde = \"1\" # documents\n\
                    bytes = \"1\"\ntokio = { version = \"1\" } #\n[workspace.lints.rust]\nx = \"warn\"\n";
        let wrong = check(root, &[]);
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert!(wrong[0].contains("bytes") && wrong[1].contains("tokio"));
    }

    #[test]
    fn versions_stand_in_one_place() {
        let member = file(
            "crates/a/Cargo.toml",
            "[dependencies]\nserde.workspace = true\ntokio = { workspace = true, features = [] }\n\
                          bytes = \"1\"\n[dev-dependencies]\nproptest = { version = \"1\" }\n[lints]\nworkspace = true\n",
        );
        let wrong = check("", &[&member]);
        assert_eq!(wrong.len(), 2, "{wrong:?}");
    }

    #[test]
    fn other_registries_are_found() {
        assert_eq!(check_lock(&format!("source = \"{REGISTRY}\"\n")), [""; 0]);
        assert_eq!(check_lock("source = \"git+https://elsewhere\"\nsource = \"git+https://elsewhere\"\n").len(), 1);
    }
}
