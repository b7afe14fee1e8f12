//! Errors of all kinds, and the one place where they get a status.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use engine::Error;
use sysctl_api::ErrorBody;

/// An error as it is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    status: StatusCode,
    text: String,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, text: impl Into<String>) -> ApiError {
        ApiError { status, text: text.into() }
    }

    /// What was sent makes no sense.
    pub(crate) fn bad(text: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, text)
    }

    /// Not as long as something else is as it is.
    pub(crate) fn conflict(text: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::CONFLICT, text)
    }

    /// There is no such thing.
    pub(crate) fn not_found(text: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, text)
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> ApiError {
        let status = match &error {
            Error::NotFound(_) => StatusCode::NOT_FOUND,
            Error::Conflict(_) => StatusCode::CONFLICT,
            Error::Invalid(_) => StatusCode::BAD_REQUEST,
            Error::Stale { .. } => StatusCode::PRECONDITION_FAILED,
            Error::Store(store) if store.is_full() => StatusCode::INSUFFICIENT_STORAGE,
            Error::Store(store) if store.is_for_later() => StatusCode::SERVICE_UNAVAILABLE,
            Error::Cancelled(_) => StatusCode::SERVICE_UNAVAILABLE,
            Error::Step(_)
            | Error::Store(_)
            | Error::Unwritten { .. }
            | Error::Unrecorded { .. }
            | Error::Unnamed { .. }
            | Error::Unfinished(_)
            | Error::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        ApiError::new(status, error.to_string())
    }
}

impl From<engine::StepError> for ApiError {
    fn from(error: engine::StepError) -> ApiError {
        ApiError::from(Error::Step(error))
    }
}

impl From<std::io::Error> for ApiError {
    fn from(error: std::io::Error) -> ApiError {
        let status = match error.kind() {
            std::io::ErrorKind::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        ApiError::new(status, error.to_string())
    }
}

impl From<crate::sftp::Error> for ApiError {
    fn from(error: crate::sftp::Error) -> ApiError {
        use crate::sftp::Error;
        match error {
            Error::Refused(::sftp::Code::NoSuchFile, text) => ApiError::not_found(text),
            Error::Refused(::sftp::Code::PermissionDenied, text) => ApiError::new(StatusCode::FORBIDDEN, text),
            Error::Refused(::sftp::Code::Failure, text) if text.contains("No space left") => {
                ApiError::new(StatusCode::INSUFFICIENT_STORAGE, text)
            }
            Error::Refused(_, text) => ApiError::bad(text),
            Error::Gone(error) => {
                let text = format!("the instance's files went away ({error}): it was started or stopped; try again");
                ApiError::new(StatusCode::SERVICE_UNAVAILABLE, text)
            }
            Error::Nonsense => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the files helper makes no sense"),
            Error::TooMany => ApiError::bad("the directory has too many entries for one answer; use SFTP"),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorBody {
            kind: "error".into(),
            status: String::new(),
            status_code: 0,
            operation: String::new(),
            error_code: self.status.as_u16(),
            error: self.text,
            metadata: None,
        };
        let mut text = serde_json::to_vec(&body).unwrap_or_default();
        text.push(b'\n');
        let headers = [("content-type", "application/json"), ("x-content-type-options", "nosniff")];
        (self.status, headers, text).into_response()
    }
}
