//! What the values of a recipe may be. They reach the command line of a builder, so each has its alphabet.

use super::{Build, Recipe};
use crate::ArchivePath;

type Checked = Result<(), String>;

/// Checks all values of a recipe.
pub(super) fn check(recipe: &Recipe) -> Checked {
    recipe.names().try_for_each(|name| words("name", name, "/.-_"))?;
    for (key, value) in &recipe.properties {
        words("properties", key, ".-_")?;
        text("properties", value)?;
    }
    match &recipe.build {
        Build::Mmdebstrap(build) => {
            source(&build.suite, &build.sources, &build.keyring)?;
            if !["essential", "apt", "minbase", "standard"].contains(&build.variant.as_str()) {
                return Err(format!("variant: {:?} is none of essential, apt, minbase, standard", build.variant));
            }
            packages(&build.include)?;
            for pattern in build.path_exclude.iter().chain(&build.path_include) {
                words("path pattern", pattern, "/.-_*?+")?;
            }
            // A blank parts words; everything that a shell could take for more is absent.
            build.run.iter().try_for_each(|line| words("run", line, "/.-_=:@ "))?;
        }
        Build::DebianPackage(build) => {
            source(&build.suite, &build.sources, &build.keyring)?;
            if build.packages.is_empty() || build.keep.is_empty() {
                return Err("a package and a path to keep are needed".to_owned());
            }
            packages(&build.packages)?;
            build.keep.iter().try_for_each(|path| absolute(path))?;
        }
    }
    recipe.leave_out.iter().try_for_each(|path| absolute(path))?;
    check_additions(recipe)
}

fn check_additions(recipe: &Recipe) -> Checked {
    for rule in &recipe.directories {
        absolute(&rule.path)?;
        mode(rule.mode)?;
    }
    for rule in &recipe.files {
        absolute(&rule.path)?;
        mode(rule.mode)?;
    }
    for rule in &recipe.applets {
        rule.names.iter().try_for_each(|name| words("applets", name, "[.-_"))?;
    }
    for link in recipe.all_links() {
        absolute(&link.path)?;
        if link.target.is_empty() {
            return Err(format!("links: {}: the target is empty", link.path));
        }
        text("links", &link.target)?;
    }
    Ok(())
}

fn source(suite: &str, sources: &[String], keyring: &str) -> Checked {
    words("suite", suite, "-.")?;
    if sources.is_empty() {
        return Err("sources: at least one line is needed".to_owned());
    }
    for line in sources {
        if !(line.starts_with("deb http://") || line.starts_with("deb https://")) {
            return Err(format!("sources: {line:?} does not begin with \"deb http\""));
        }
        words("sources", line, ":/.-_+ ")?;
    }
    absolute(keyring)
}

fn packages(names: &[String]) -> Checked {
    for name in names {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+.-".contains(&byte);
        if name.len() < 2 || !name.as_bytes()[0].is_ascii_alphanumeric() || !name.bytes().all(plain) {
            return Err(format!("{name:?} is not the name of a package"));
        }
    }
    Ok(())
}

/// Letters, digits and some more, not beginning with a dash (which would be an option).
fn words(place: &str, value: &str, more: &str) -> Checked {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || more.contains(letter);
    if value.is_empty() || value.starts_with('-') || !value.chars().all(plain) {
        return Err(format!("{place}: {value:?} may hold letters, digits and {more:?}, and not begin with a dash"));
    }
    Ok(())
}

fn text(place: &str, value: &str) -> Checked {
    if value.chars().any(char::is_control) {
        return Err(format!("{place}: {value:?} holds a control character"));
    }
    Ok(())
}

fn absolute(path: &str) -> Checked {
    let parsed = ArchivePath::parse(path.as_bytes()).map_err(|problem| format!("{path:?} {problem}"))?;
    text("path", path)?;
    if !path.starts_with('/') || parsed.is_root() {
        return Err(format!("{path:?} is not the absolute path of something in the image"));
    }
    Ok(())
}

fn mode(mode: u32) -> Checked {
    if mode > 0o7777 { Err(format!("mode {mode:#o} is not one; write it as 0o644")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_reaches_a_command_line_can_be_taken_for_more() {
        assert!(packages(&["libc6".to_owned(), "g++-12".to_owned()]).is_ok());
        for name in ["-o", "a b", "a;b", "a,b", "A", "?essential", "~x", "", "a\nb"] {
            assert!(packages(&[name.to_owned()]).is_err(), "{name:?}");
        }
        for line in ["sh -c $(id)", "a;b", "a|b", "a`b`", "a\"b", "a'b", "a\nb", "-x", "a>b", "a&b", "a\\b"] {
            assert!(words("run", line, "/.-_=:@ ").is_err(), "{line:?}");
        }
        for line in ["deb file:///etc x y", "deb-src http://a b c", "deb [trusted=yes] http://a b c", "http://a"] {
            assert!(source("trixie", &[line.to_owned()], "/k").is_err(), "{line:?}");
        }
        for path in ["etc/x", "/", "/../x", "/a\nb", ""] {
            assert!(absolute(path).is_err(), "{path:?}");
        }
    }
}
