//! Words that have no business in the product: paths of the machine where somebody happened to work.

use super::File;

/// Put together here, so that this file does not hold them.
fn words() -> [String; 3] {
    [["/wo", "rk/"].concat(), ["/ho", "me/"].concat(), ["/Us", "ers/"].concat()]
}

/// A home directory may be spoken of where a guest's or anybody's is meant.
const MEANT: [&str; 3] = ["/home/user", "/home/me", "/home/you"];

pub(crate) fn check(files: &[File]) -> Vec<String> {
    let mut wrong = Vec::new();
    for file in files {
        for (number, line) in file.text.lines().enumerate() {
            let line = MEANT.iter().fold(line.to_owned(), |line, meant| line.replace(meant, ""));
            for word in words().iter().filter(|word| is_path(&line, word)) {
                wrong.push(format!("{}:{}: {word} is a path of somebody's machine", file.path, number + 1));
            }
        }
    }
    wrong
}

/// Whether a path begins with the word somewhere in the line.
fn is_path(line: &str, word: &str) -> bool {
    let begins = |before: &str| {
        !before.ends_with(|c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '}' | '>' | '*'))
    };
    line.match_indices(word).any(|(at, _)| begins(&line[..at]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::file;

    #[test]
    fn paths_of_machines_are_found() {
        let [first, ..] = words();
        let bad = file("a.md", &format!("see {first}main\n"));
        assert_eq!(check(&[bad]).len(), 1);
        let good = file("a.rs", &format!("upperdir{{x}}{first}, ./{}, /home/user/x", &first[1..]));
        assert_eq!(check(&[good]), [""; 0]);
    }
}
