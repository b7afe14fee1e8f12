//! Paths and queries of requests.

/// A path with its query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Uri {
    text: String,
    has_query: bool,
}

impl Uri {
    /// A path of fixed text.
    pub(crate) fn new(path: &str) -> Uri {
        Uri { text: path.to_owned(), has_query: path.contains('?') }
    }

    /// One more part of the path, encoded: a name cannot leave its place.
    pub(crate) fn part(mut self, part: &str) -> Uri {
        self.text.push('/');
        encode_into(&mut self.text, part, false);
        self
    }

    /// Several more parts: slashes stay what they are, as in names of aliases (`debian/12`).
    pub(crate) fn parts(mut self, parts: &str) -> Uri {
        self.text.push('/');
        encode_into(&mut self.text, parts, true);
        self
    }

    /// A parameter.
    pub(crate) fn query(mut self, key: &str, value: &str) -> Uri {
        self.text.push(if self.has_query { '&' } else { '?' });
        self.has_query = true;
        encode_into(&mut self.text, key, false);
        self.text.push('=');
        encode_into(&mut self.text, value, false);
        self
    }

    /// A parameter, where there is a value.
    pub(crate) fn query_some(self, key: &str, value: Option<&str>) -> Uri {
        match value {
            Some(value) => self.query(key, value),
            None => self,
        }
    }

    /// Whether the query has a parameter.
    pub(crate) fn has(&self, key: &str) -> bool {
        let query = self.text.split_once('?').map_or("", |(_, query)| query);
        query.split('&').any(|part| part.split('=').next() == Some(key))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// The path alone, for words to people.
    pub(crate) fn path(&self) -> &str {
        self.text.split('?').next().unwrap_or_default()
    }
}

/// Percent-encodes all but the unreserved characters of RFC 3986.
pub(crate) fn encode_into(target: &mut String, text: &str, keep_slash: bool) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => target.push(char::from(byte)),
            b'/' if keep_slash => target.push('/'),
            _ => {
                target.push('%');
                target.push(char::from(HEX[usize::from(byte >> 4)]));
                target.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
    }
}

/// Pairs as a form has them.
pub(crate) fn form<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::new();
    for (key, value) in pairs {
        if !text.is_empty() {
            text.push('&');
        }
        encode_into(&mut text, key, false);
        text.push('=');
        encode_into(&mut text, value, false);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_place() {
        let uri = Uri::new("/1.0/instances").part("../a?b#c d").part("state");
        assert_eq!(uri.as_str(), "/1.0/instances/..%2Fa%3Fb%23c%20d/state");
        assert_eq!(
            Uri::new("/1.0/images/aliases").parts("debian/12 é").as_str(),
            "/1.0/images/aliases/debian/12%20%C3%A9"
        );
    }

    #[test]
    fn parameters_are_joined_and_found() {
        let uri = Uri::new("/1.0/x").query("project", "a&b").query("recursion", "1").query_some("target", None);
        assert_eq!(uri.as_str(), "/1.0/x?project=a%26b&recursion=1");
        assert!(uri.has("project") && uri.has("recursion") && !uri.has("proj"));
        assert_eq!(uri.path(), "/1.0/x");
        assert_eq!(form([("os", "Debian 12"), ("a=b", "c")]), "os=Debian%2012&a%3Db=c");
    }
}
