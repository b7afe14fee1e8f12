//! A file holds one idea.

use super::{File, Found};

/// Lines that a file of code may have at most.
const MOST: usize = 700;
/// From here on somebody should think about it.
const MANY: usize = 500;

pub(crate) fn check(files: &[File]) -> Found {
    let mut found = Found::default();
    for file in files.iter().filter(|file| file.is_rust()) {
        match file.text.lines().count() {
            lines if lines > MOST => {
                found.wrong.push(format!("{} has {lines} lines, more than {MOST}: split it by idea", file.path))
            }
            lines if lines > MANY => found.warned.push(format!("{} has {lines} lines of {MOST}", file.path)),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::file;

    #[test]
    fn long_files_are_found() {
        let lines = |count: usize| "x\n".repeat(count);
        let files = [
            file("a.rs", &lines(700)),
            file("b.rs", &lines(701)),
            file("c.rs", &lines(500)),
            file("d.md", &lines(900)),
        ];
        let found = check(&files);
        assert_eq!((found.wrong.len(), found.warned.len()), (1, 1), "{found:?}");
    }
}
