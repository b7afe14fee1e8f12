//! What comes with a request: who asks, in which project, what for.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use model::ProjectName;
use serde::de::DeserializeOwned;

use crate::App;
use crate::error::ApiError;

/// Who is at the other end of the socket, as the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) uid: u32,
    pub(crate) pid: i32,
}

impl Peer {
    /// Name for events and the log.
    pub(crate) fn name(self) -> String {
        if self.uid == 0 { "root".into() } else { self.uid.to_string() }
    }
}

/// The query of a request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query {
    values: HashMap<String, String>,
}

impl Query {
    /// A query that was read.
    pub(crate) fn of(values: HashMap<String, String>) -> Query {
        Query { values }
    }

    /// A value; an empty one counts as absent.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Whether a switch is on.
    pub(crate) fn is_on(&self, key: &str) -> bool {
        matches!(self.get(key), Some("1" | "true"))
    }

    /// Depth of a listing.
    pub(crate) fn recursion(&self) -> u8 {
        self.get("recursion").and_then(|r| r.split(';').next()?.parse().ok()).unwrap_or(0)
    }

    /// The project; `default` where none is said.
    pub(crate) fn project(&self) -> Result<ProjectName, ApiError> {
        match self.get("project") {
            None => Ok(ProjectName::default()),
            Some(name) => name.parse().map_err(|_| ApiError::not_found(format!("Project {name:?} not found"))),
        }
    }
}

/// Everything about the caller and the query.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) peer: Peer,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
}

impl Caller {
    pub(crate) fn project(&self) -> Result<ProjectName, ApiError> {
        self.query.project()
    }

    pub(crate) fn requestor(&self) -> Option<String> {
        Some(self.peer.name())
    }

    /// The entity tag that the caller expects.
    pub(crate) fn expect(&self) -> Option<String> {
        let tag = self.headers.get(header::IF_MATCH)?.to_str().ok()?.trim();
        (!tag.is_empty() && tag != "*").then(|| tag.to_owned())
    }

    /// A header in either of the two families that clients know (`X-Incus-…`, `X-LXD-…`).
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let value = |family: &str| self.headers.get(format!("x-{family}-{name}"))?.to_str().ok();
        value("incus").or_else(|| value("lxd")).filter(|value| !value.is_empty())
    }
}

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let peer = parts.extensions.get::<Peer>().copied().ok_or_else(|| ApiError::bad("who asks is not known"))?;
        let query = parts.uri.query().unwrap_or_default();
        let values = parse_query(query).ok_or_else(|| ApiError::bad("the query can't be read"))?;
        let caller = Caller { peer, query: Query { values }, headers: parts.headers.clone() };
        let project = caller.project()?;
        if !app.engine.has_project(&project) {
            return Err(ApiError::not_found(format!("Project {:?} not found", project.as_str())));
        }
        Ok(caller)
    }
}

/// Most parameters of one query.
const MAX_PARAMETERS: usize = 64;

pub(crate) fn parse_query(text: &str) -> Option<HashMap<String, String>> {
    let mut values = HashMap::new();
    for part in text.split('&').filter(|part| !part.is_empty()).take(MAX_PARAMETERS) {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        values.insert(decode(key)?, decode(value)?);
    }
    Some(values)
}

/// Percent-decoding (RFC 3986), with `+` for a space as forms have it.
pub(crate) fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match first {
            b'%' => {
                let (digits, tail) = rest.split_at_checked(2)?;
                bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
                rest = tail;
            }
            b'+' => bytes.push(b' '),
            other => bytes.push(*other),
        }
    }
    String::from_utf8(bytes).ok()
}

/// A JSON body, whatever content type it claims.
pub(crate) fn body<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, ApiError> {
    if bytes.is_empty() {
        return Err(ApiError::bad("the request has no body; a JSON object is expected"));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    // Lists would be taken for objects whose fields have no names.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(ApiError::bad("the body is no JSON object"));
    }
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let (path, cause) = (error.path().to_string(), error.inner());
        ApiError::bad(if matches!(&*path, "." | "?") {
            format!("the body is no JSON of this kind: {cause}")
        } else {
            format!("{path}: {cause}")
        })
    })?;
    json.end().map_err(|error| ApiError::bad(format!("the body is no JSON of this kind: {error}")))?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded_and_broken_ones_refused() {
        let query = parse_query("project=a%2Fb&filter=status+eq+running&x").expect("valid");
        assert_eq!(query["project"], "a/b");
        assert_eq!(query["filter"], "status eq running");
        assert_eq!(query["x"], "");
        for broken in ["a=%", "a=%2", "a=%zz", "a=%ff"] {
            assert!(parse_query(broken).is_none(), "{broken}");
        }
    }
}
