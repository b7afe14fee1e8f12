//! Answers in their envelope.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use engine::OperationView;
use serde::Serialize;
use sysctl_api::code;

use crate::error::ApiError;
use crate::render;

/// What a route returns.
pub(crate) type Answer = Result<Response, ApiError>;

/// The envelope, over content that is written straight into it.
#[derive(Serialize)]
struct Sync<'a, T: ?Sized> {
    #[serde(rename = "type")]
    kind: &'static str,
    status: &'static str,
    status_code: u16,
    operation: &'a str,
    error_code: u16,
    error: &'static str,
    metadata: &'a T,
}

fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let mut text = serde_json::to_vec(body).unwrap_or_default();
    text.push(b'\n');
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// Content.
pub(crate) fn sync<T: Serialize + ?Sized>(metadata: &T) -> Response {
    let (kind, status, status_code) = ("sync", "Success", code::SUCCESS);
    json(StatusCode::OK, &Sync { kind, status, status_code, operation: "", error_code: 0, error: "", metadata })
}

/// Content that was written as JSON before.
pub(crate) fn sync_text(metadata: &str) -> Response {
    let text = [
        r#"{"type":"sync","status":"Success","status_code":200,"operation":"","error_code":0,"error":"","metadata":"#,
        metadata,
        "}\n",
    ]
    .concat();
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// Content with its entity tag.
pub(crate) fn tagged<T: Serialize + ?Sized>(metadata: &T, tag: &str) -> Response {
    let mut response = sync(metadata);
    if let Ok(value) = HeaderValue::from_str(&format!("\"{tag}\"")) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response
}

/// Done, with nothing to say.
pub(crate) fn done() -> Response {
    sync(&serde_json::Map::new())
}

/// Made, and where it is.
pub(crate) fn created(location: &str) -> Response {
    let (kind, status, status_code) = ("sync", "Success", code::SUCCESS);
    let body = Sync { kind, status, status_code, operation: "", error_code: 0, error: "", metadata: &None::<()> };
    with_location(json(StatusCode::CREATED, &body), location)
}

/// An operation that does the rest.
pub(crate) fn operation(view: &OperationView) -> Response {
    let path = format!("/1.0/operations/{}", view.id);
    let metadata = &render::operation(view);
    let (kind, status, status_code) = ("async", "Operation created", code::CREATED);
    let body = Sync { kind, status, status_code, operation: &path, error_code: 0, error: "", metadata };
    with_location(json(StatusCode::ACCEPTED, &body), &path)
}

fn with_location(mut response: Response, location: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    response
}
