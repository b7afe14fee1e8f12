//! Text of others on a terminal: whatever could command it becomes visible instead.

use std::borrow::Cow;
use std::fmt::Write;

/// It moves the cursor, changes colours, turns the reading direction, or worse.
fn is_dangerous(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn replace(text: &str, allowed: &[char]) -> Option<String> {
    let dangerous = |c: char| is_dangerous(c) && !allowed.contains(&c);
    text.contains(dangerous).then(|| {
        let mut safe = String::with_capacity(text.len() + 16);
        for c in text.chars() {
            if dangerous(c) { safe.extend(c.escape_default()) } else { safe.push(c) }
        }
        safe
    })
}

/// A piece of one line.
pub(crate) fn inline(text: &str) -> Cow<'_, str> {
    replace(text, &[]).map_or(Cow::Borrowed(text), Cow::Owned)
}

/// Several lines.
pub(crate) fn lines(text: &str) -> Cow<'_, str> {
    replace(text, &['\n', '\t']).map_or(Cow::Borrowed(text), Cow::Owned)
}

/// JSON: such characters stand in strings only, where they can be written as numbers.
pub(crate) fn json(text: &str) -> Cow<'_, str> {
    let dangerous = |c: char| is_dangerous(c) && c != '\n';
    if !text.contains(dangerous) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        // All of them are in the first plane.
        let written = if dangerous(c) { write!(safe, "\\u{:04x}", u32::from(c)) } else { safe.write_char(c) };
        debug_assert!(written.is_ok(), "strings take everything");
    }
    Cow::Owned(safe)
}

/// A log that came from a terminal: colours stay, everything else becomes visible.
pub(crate) fn log(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(colour) = colour(rest) {
            safe.push_str(colour);
            rest = &rest[colour.len()..];
            continue;
        }
        rest = &rest[c.len_utf8()..];
        match c {
            '\n' | '\t' => safe.push(c),
            '\r' => {}
            c if is_dangerous(c) => safe.extend(c.escape_default()),
            c => safe.push(c),
        }
    }
    safe
}

/// `ESC [ numbers m` at the beginning.
fn colour(text: &str) -> Option<&str> {
    let parameters = text.strip_prefix("\u{1b}[")?;
    let length = parameters.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    parameters[length..].starts_with('m').then(|| &text[..length + 3])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_command_a_terminal_becomes_visible() {
        assert_eq!(inline("web1 ü 漢"), "web1 ü 漢");
        assert_eq!(inline("a\u{1b}[2Jb\nc\u{9b}d\u{202e}e"), "a\\u{1b}[2Jb\\nc\\u{9b}d\\u{202e}e");
        assert_eq!(lines("a\n\tb\r\u{7}"), "a\n\tb\\r\\u{7}");
    }

    #[test]
    fn logs_keep_their_colours_and_nothing_else() {
        assert_eq!(log("[\u{1b}[0;32m  OK  \u{1b}[0m] up\r\n"), "[\u{1b}[0;32m  OK  \u{1b}[0m] up\n");
        assert_eq!(log("\u{1b}]0;title\u{7}\u{1b}[6n\u{1b}["), "\\u{1b}]0;title\\u{7}\\u{1b}[6n\\u{1b}[");
    }
}
