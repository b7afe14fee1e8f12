//! Rust source with everything blanked that is no code: comments, strings, characters. Lines stay where they are.

/// Blanks comments and literals.
pub(crate) fn only(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let rest = &chars[at..];
        let length = match rest {
            ['/', '/', ..] => until_line_ends(rest),
            ['/', '*', ..] => block_comment(rest),
            ['"', ..] => string(rest, 1),
            ['r', '"' | '#', ..] | ['b', 'r', '"' | '#', ..] if !continues_a_word(&chars, at) => raw_string(rest),
            ['\'', ..] => character(rest),
            _ => 0,
        };
        if length == 0 {
            out.push(rest[0]);
            at += 1;
        } else {
            out.extend(rest[..length].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at += length;
        }
    }
    out
}

fn continues_a_word(chars: &[char], at: usize) -> bool {
    at > 0 && is_word(chars[at - 1])
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn until_line_ends(rest: &[char]) -> usize {
    rest.iter().position(|c| *c == '\n').unwrap_or(rest.len())
}

/// They nest.
fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string(rest: &[char], from: usize) -> usize {
    let mut at = from;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// `r"…"`, `r##"…"##`; 0 for a raw identifier as `r#type`.
fn raw_string(rest: &[char]) -> usize {
    let start = rest.iter().take_while(|c| matches!(c, 'b' | 'r')).count();
    let hashes = rest[start..].iter().take_while(|c| **c == '#').count();
    if rest.get(start + hashes) != Some(&'"') {
        return 0;
    }
    let mut at = start + hashes + 1;
    while at < rest.len() {
        let closes = rest[at] == '"' && rest[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes;
        at += 1;
        if closes {
            return at + hashes;
        }
    }
    rest.len()
}

/// `'x'`, `'\n'`, `'\u{1f}'`; 0 for a lifetime.
fn character(rest: &[char]) -> usize {
    match rest {
        ['\'', '\\', ..] => rest.iter().skip(3).position(|c| *c == '\'').map_or(0, |length| length + 4),
        ['\'', _, '\'', ..] => 3,
        _ => 0,
    }
}

/// Lines, from 1, in which `word` stands as a word of its own.
pub(crate) fn lines_with(code: &str, word: &str) -> Vec<usize> {
    let has = |line: &str| line.match_indices(word).any(|(at, _)| stands_alone(line, at, word.len()));
    code.lines().enumerate().filter(|(_, line)| has(line)).map(|(number, _)| number + 1).collect()
}

fn stands_alone(line: &str, at: usize, length: usize) -> bool {
    let before = line[..at].chars().next_back();
    let after = line[at + length..].chars().next();
    let first = line[at..].chars().next();
    let last = line[..at + length].chars().next_back();
    let open = |own: Option<char>, next: Option<char>| !(own.is_some_and(is_word) && next.is_some_and(is_word));
    open(first, before) && open(last, after)
}

/// The line, from 1, where the tests inside of a source file begin.
pub(crate) fn tests_begin(code: &str) -> Option<usize> {
    code.lines().position(|line| line.trim() == "#[cfg(test)]").map(|line| line + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked() {
        let blank = |source: &str| only(source).split_whitespace().collect::<Vec<_>>().join(" ");
        for (source, code) in [
            ("a // unsafe\nb", "a b"),
            ("a /* x /* y */ z */ b", "a b"),
            (r#"f("un\"safe", 1)"#, "f( , 1)"),
            (r###"f(r#"un"safe"#, b"x", br"y")"###, "f( , b , )"),
            ("let r#type = 'x'; let c = '\\''; let d = '\"'; e", "let r#type = ; let c = ; let d = ; e"),
            ("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}"),
            ("'\\u{1f}' x", "x"),
            ("number\"text\"", "number"),
            ("\"not closed", ""),
        ] {
            assert_eq!(blank(source), code, "{source}");
        }
    }

    #[test]
    fn lines_stay_where_they_are() {
        let code = only("/* one\ntwo */\nunsafe {}\n\"a\nb\" unsafe_code\n");
        assert_eq!(lines_with(&code, "unsafe"), [3]);
    }

    #[test]
    fn words_stand_alone() {
        assert_eq!(lines_with("sleep(1)\noversleep(1)\nthread::sleep(2)", "sleep("), [1, 3]);
        assert_eq!(lines_with("Command::new\nMyCommand::new", "Command::new"), [1]);
        assert_eq!(tests_begin("a\n#[cfg(test)]\nmod tests {"), Some(2));
        assert_eq!(tests_begin("a"), None);
    }
}
