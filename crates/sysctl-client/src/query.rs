//! Requests of any kind.

use hyper::{Method, header};

use crate::client::{Client, act, error_of, read};
use crate::connection::whole;
use crate::error::{Error, Result};
use crate::uri::Uri;

/// An answer as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawAnswer {
    /// HTTP status.
    pub status: u16,
    /// `Content-Type`, or empty.
    pub content_type: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Client {
    /// Sends a request to any path, with its query if it has one. There is no deadline: it may be a wait.
    pub async fn query(&self, method: &str, path: &str, body: Option<&[u8]>) -> Result<RawAnswer> {
        let uri = Uri::new(path);
        let method: Method =
            method.parse().map_err(|_| Error::protocol(path, format!("{method:?} is no method of HTTP")))?;
        let act = act(&method, &uri);
        let headers: &[_] = if body.is_some() { &[("content-type", "application/json")] } else { &[] };
        let body = whole(body.unwrap_or_default().to_vec());
        let response = self.request_any(&act, method, uri, headers, body, None).await?;
        let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let content_type = content_type.unwrap_or_default().to_owned();
        let status = response.status().as_u16();
        Ok(RawAnswer { status, content_type, body: read(&act, response).await? })
    }
}

impl RawAnswer {
    /// The answer, or the error that it is.
    pub fn success(self, act: &str) -> Result<RawAnswer> {
        match hyper::StatusCode::from_u16(self.status) {
            Ok(status) if status.is_success() => Ok(self),
            Ok(status) => Err(error_of(act, status, &self.body)),
            Err(_) => Err(Error::protocol(act, format!("{} is no status of HTTP", self.status))),
        }
    }
}
