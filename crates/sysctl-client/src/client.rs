//! The client, and what all its calls share: envelopes, projects, deadlines.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sysctl_api::{ErrorBody, Operation};

use crate::connection::{self, Body, whole};
use crate::error::{Error, Result};
use crate::uri::Uri;

/// Where the daemon listens when nobody says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/sysctl/unix.socket";

/// How long an answer may take that needs no waiting at the server's side.
const DEADLINE: Duration = Duration::from_secs(60);

/// Largest answer that is read into memory: 50,000 instances with all about them, at 4 KB each.
const MAX_ANSWER: usize = 200 << 20;

/// A client of one daemon, in one project. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    project: Option<String>,
    deadline: Duration,
}

/// An object with its entity tag, to be sent back with a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tagged<T> {
    /// The object.
    pub value: T,
    /// Its entity tag as it was sent; empty when there was none.
    pub etag: String,
}

/// An answer of type `async`, `sync`.
#[derive(serde::Deserialize)]
struct Answer<T> {
    metadata: T,
}

impl Client {
    /// A client of the daemon at a socket. Nothing is connected yet.
    pub fn new(socket: impl Into<PathBuf>) -> Client {
        Client { socket: socket.into(), project: None, deadline: DEADLINE }
    }

    /// The same in another project.
    #[must_use]
    pub fn with_project(mut self, project: Option<String>) -> Client {
        self.project = project;
        self
    }

    /// The same with another deadline for answers. Waits for operations and streams have none.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Client {
        self.deadline = deadline;
        self
    }

    /// Path of the socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Project, where one was said.
    pub fn project(&self) -> Option<&str> {
        self.project.as_deref()
    }

    /// How long an answer may take.
    pub(crate) fn deadline(&self) -> Duration {
        self.deadline
    }

    /// The query of every request names the project.
    pub(crate) fn in_project(&self, uri: Uri) -> Uri {
        match &self.project {
            Some(project) if !uri.has("project") && !uri.has("all-projects") => uri.query("project", project),
            _ => uri,
        }
    }

    /// Sends a request, and waits for the head of the answer for as long as `deadline` says. Errors are read and returned.
    pub(crate) async fn request(
        &self,
        method: Method,
        uri: Uri,
        headers: &[(&str, &str)],
        body: Body,
        deadline: Option<Duration>,
    ) -> Result<Response<Incoming>> {
        let act = act(&method, &uri);
        let response = self.request_any(&act, method, uri, headers, body, deadline).await?;
        if response.status().is_success() || response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        Err(refused(&act, response).await)
    }

    /// The same, with errors as the answers that they are.
    pub(crate) async fn request_any(
        &self,
        act: &str,
        method: Method,
        uri: Uri,
        headers: &[(&str, &str)],
        body: Body,
        deadline: Option<Duration>,
    ) -> Result<Response<Incoming>> {
        let uri = self.in_project(uri);
        let mut builder = Request::builder().method(method).uri(uri.as_str());
        for (name, value) in headers {
            let invalid = |e: header::InvalidHeaderValue| Error::protocol(act, format!("header {name}: {e}"));
            builder = builder.header(*name, HeaderValue::from_str(value).map_err(invalid)?);
        }
        let request = builder.body(body).map_err(|error| Error::protocol(act, error.to_string()))?;
        let sent = connection::send(&self.socket, act, request);
        match deadline {
            None => sent.await,
            Some(deadline) => tokio::time::timeout(deadline, sent)
                .await
                .map_err(|_| Error::Deadline { act: act.to_owned(), deadline })?,
        }
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        uri: Uri,
        etag: Option<&str>,
        body: Option<Vec<u8>>,
    ) -> Result<Tagged<T>> {
        let act = act(&method, &uri);
        let mut headers = Vec::new();
        if body.is_some() {
            headers.push(("content-type", "application/json"));
        }
        headers.extend(etag.map(|etag| ("if-match", etag)));
        let body = whole(body.unwrap_or_default());
        let response = self.request(method, uri, &headers, body, Some(self.deadline)).await?;
        let etag =
            response.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok()).unwrap_or_default().to_owned();
        let whole = tokio::time::timeout(self.deadline, read(&act, response));
        let bytes = whole.await.map_err(|_| Error::Deadline { act: act.clone(), deadline: self.deadline })??;
        Ok(Tagged { value: metadata(&act, &bytes)?, etag })
    }

    /// Content at a path.
    pub(crate) async fn get<T: DeserializeOwned>(&self, uri: Uri) -> Result<T> {
        Ok(self.call(Method::GET, uri, None, None).await?.value)
    }

    /// Content with its entity tag.
    pub(crate) async fn get_tagged<T: DeserializeOwned>(&self, uri: Uri) -> Result<Tagged<T>> {
        self.call(Method::GET, uri, None, None).await
    }

    /// Sends an object; what comes back depends on the endpoint.
    pub(crate) async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        uri: Uri,
        body: &impl Serialize,
        etag: Option<&str>,
    ) -> Result<T> {
        let act = act(&method, &uri);
        let body = serde_json::to_vec(body).map_err(|error| Error::protocol(&act, error.to_string()))?;
        Ok(self.call(method, uri, etag, Some(body)).await?.value)
    }

    /// Deletes what is at a path.
    pub(crate) async fn delete<T: DeserializeOwned>(&self, uri: Uri) -> Result<T> {
        Ok(self.call(Method::DELETE, uri, None, None).await?.value)
    }

    /// An answer that takes as long as it takes.
    pub(crate) async fn get_patiently<T: DeserializeOwned>(&self, uri: Uri, deadline: Option<Duration>) -> Result<T> {
        let act = act(&Method::GET, &uri);
        let response = self.request(Method::GET, uri, &[], whole(""), deadline).await?;
        metadata(&act, &read(&act, response).await?)
    }

    /// Bytes of an answer that is no JSON.
    pub(crate) async fn get_bytes(&self, uri: Uri) -> Result<Vec<u8>> {
        let act = act(&Method::GET, &uri);
        let response = self.request(Method::GET, uri, &[], whole(""), Some(self.deadline)).await?;
        read(&act, response).await
    }

    /// An operation that an upload leads to.
    pub(crate) async fn upload(&self, uri: Uri, headers: &[(&str, &str)], body: Body) -> Result<Operation> {
        let act = act(&Method::POST, &uri);
        let response = self.request(Method::POST, uri, headers, body, None).await?;
        metadata(&act, &read(&act, response).await?)
    }
}

/// A request in words.
pub(crate) fn act(method: &Method, uri: &Uri) -> String {
    format!("{method} {}", uri.path())
}

/// Reads the whole of an answer.
pub(crate) async fn read(act: &str, response: Response<Incoming>) -> Result<Vec<u8>> {
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    match body {
        Ok(collected) => Ok(collected.to_bytes().into()),
        Err(error) if error.is::<LengthLimitError>() => Err(Error::protocol(act, "it is larger than 200 MiB")),
        Err(error) => match error.downcast::<hyper::Error>() {
            Ok(source) => Err(Error::Transport { act: act.to_owned(), source: *source }),
            Err(other) => Err(Error::protocol(act, other.to_string())),
        },
    }
}

/// What an envelope is about.
fn metadata<T: DeserializeOwned>(act: &str, bytes: &[u8]) -> Result<T> {
    let answer: Answer<T> = serde_json::from_slice(bytes).map_err(|error| Error::protocol(act, error.to_string()))?;
    Ok(answer.metadata)
}

/// The error that an answer is.
async fn refused(act: &str, response: Response<Incoming>) -> Error {
    let status = response.status();
    let bytes = match read(act, response).await {
        Ok(bytes) => bytes,
        Err(error) => return error,
    };
    error_of(act, status, &bytes)
}

/// The same from its parts. An answer that is no envelope is told as it came, cut.
pub(crate) fn error_of(act: &str, status: StatusCode, bytes: &[u8]) -> Error {
    const SHOWN: usize = 400;
    let message = match serde_json::from_slice::<ErrorBody>(bytes) {
        Ok(body) if !body.error.is_empty() => body.error,
        _ => match String::from_utf8_lossy(bytes).trim() {
            "" => status.to_string(),
            text => text.chars().take(SHOWN).collect(),
        },
    };
    Error::Api { act: act.to_owned(), status: status.as_u16(), message }
}

/// Content of no interest.
pub(crate) type Nothing = Option<Value>;

#[cfg(test)]
mod tests {
    use super::*;

    fn told(status: u16, body: &str) -> (Option<u16>, String) {
        let error = error_of("GET /1.0", StatusCode::from_u16(status).expect("a status"), body.as_bytes());
        (error.status(), error.to_string())
    }

    #[test]
    fn errors_carry_the_servers_words_and_status() {
        let body = r#"{"type":"error","status":"","status_code":0,"operation":"","error_code":404,"error":"Instance not found","metadata":null}"#;
        assert_eq!(told(404, body), (Some(404), "Instance not found".into()));
        assert_eq!(told(502, "no JSON"), (Some(502), "no JSON".into()));
        assert_eq!(told(500, ""), (Some(500), "500 Internal Server Error".into()));
    }

    #[test]
    fn the_project_is_named_unless_the_call_says_otherwise() {
        let client = Client::new("/nowhere").with_project(Some("p".into()));
        assert_eq!(client.in_project(Uri::new("/1.0/x")).as_str(), "/1.0/x?project=p");
        assert_eq!(client.in_project(Uri::new("/1.0/x?all-projects=true")).as_str(), "/1.0/x?all-projects=true");
        assert_eq!(Client::new("/nowhere").in_project(Uri::new("/1.0/x")).as_str(), "/1.0/x");
    }
}
