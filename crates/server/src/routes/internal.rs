//! What the stock `admin` commands call.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;

use crate::App;
use crate::reply;

/// The socket is only served once everything is up.
pub(crate) async fn ready() -> Response {
    reply::done()
}

/// Stops all instances, then the daemon. The answer comes once it has begun.
pub(crate) async fn shutdown(State(app): State<Arc<App>>) -> Response {
    app.shutdown.notify_one();
    reply::done()
}
