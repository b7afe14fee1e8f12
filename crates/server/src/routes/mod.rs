//! Every path and what it leads to.

mod autoscale;
mod console;
mod doctor;
mod events;
mod exec;
mod explain;
mod files;
mod images;
mod instances;
mod internal;
mod limits;
mod metrics;
mod namespace_objects;
mod namespaces;
mod networks;
mod operations;
mod profiles;
mod projects;
mod root;
mod state;
mod storage;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};

use crate::App;
use crate::error::ApiError;

pub(crate) use events::Texts;

/// Largest JSON body. The largest that a client has reason to send is a definition with cloud-init data, some 100 KB.
const MAX_BODY: usize = 1 << 20;

/// Most bytes of a larger one that are taken, and how long that may take.
const THROWN_AWAY: usize = 8 << 20;
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

pub(crate) fn router(app: Arc<App>) -> Router {
    let router = if app.info.panic_at.is_empty() {
        Router::new()
    } else {
        Router::new().route(&app.info.panic_at, get(panic_on_purpose))
    };
    router
        .merge(server_routes())
        .merge(operation_routes(&app))
        .merge(instance_routes())
        .merge(image_routes())
        .merge(other_routes())
        .fallback(unknown)
        .method_not_allowed_fallback(not_implemented)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(axum::middleware::from_fn(too_large))
        .with_state(app)
}

#[allow(clippy::panic, reason = "this is what it is for; there is no way to it unless the daemon was started for that")]
async fn panic_on_purpose() -> ApiError {
    panic!("on purpose")
}

async fn unknown() -> ApiError {
    ApiError::not_found("not found")
}

async fn not_implemented() -> ApiError {
    ApiError::new(StatusCode::NOT_IMPLEMENTED, "not implemented")
}

/// A body that is too large is told like every other error.
///
/// Of one that says so ahead a part is taken and thrown away, because many clients read no answer before they have sent
/// all of theirs.
async fn too_large(request: Request, next: Next) -> Response {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let is_image = request.uri().path() == "/1.0/images";
    let response = if length.is_some_and(|length: usize| length > MAX_BODY) && !is_image {
        let _ = tokio::time::timeout(PATIENCE, axum::body::to_bytes(request.into_body(), THROWN_AWAY)).await;
        StatusCode::PAYLOAD_TOO_LARGE.into_response()
    } else {
        next.run(request).await
    };
    if response.status() == StatusCode::PAYLOAD_TOO_LARGE {
        let text = format!("the body is larger than {MAX_BODY} bytes");
        return ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, text).into_response();
    }
    response
}

fn server_routes() -> Router<Arc<App>> {
    Router::new()
        .route("/", get(root::versions))
        .route("/1.0", get(root::get).put(root::put).patch(root::put))
        .route("/1.0/", get(root::get))
        .route("/1.0/events", get(events::listen))
        .route("/1.0/load", get(limits::load))
        .route("/1.0/metrics", get(metrics::get))
        .route("/1.0/doctor", get(doctor::get).post(doctor::repair))
        .route("/internal/ready", get(internal::ready))
        .route("/internal/shutdown", put(internal::shutdown))
}

fn operation_routes(app: &Arc<App>) -> Router<Arc<App>> {
    Router::new()
        .route("/1.0/operations", get(operations::list))
        .route("/1.0/operations/{id}", get(operations::get).delete(operations::cancel))
        .route("/1.0/operations/{id}/wait", get(operations::wait))
        .route("/1.0/operations/{id}/websocket", get(operations::websocket))
        .route_layer(axum::middleware::from_fn_with_state(app.clone(), once_taken_up))
}

/// An operation of a former daemon is not missing: it may be one of a program that is being taken up.
async fn once_taken_up(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    app.sessions_taken_up().await;
    next.run(request).await
}

fn instance_routes() -> Router<Arc<App>> {
    Router::new()
        .route("/1.0/instances", get(instances::list).post(instances::create).put(state::put_all))
        .route("/1.0/containers", get(instances::list))
        .route(
            "/1.0/instances/{name}",
            get(instances::get).put(instances::put).patch(instances::patch).delete(instances::delete),
        )
        .route("/1.0/instances/{name}/state", get(state::get).put(state::put))
        .route("/1.0/instances/{name}/limits", get(limits::get).patch(limits::patch))
        .route("/1.0/instances/{name}/limits/hits", get(limits::hits))
        .route("/1.0/instances/{name}/autoscale", get(autoscale::get))
        .route("/1.0/instances/{name}/pressure", get(limits::pressure))
        .route("/1.0/instances/{name}/exec", post(exec::post))
        .route("/1.0/instances/{name}/console", get(console::log).post(console::post).delete(console::clear))
        .route("/1.0/instances/{name}/explain", get(explain::get))
        .route("/1.0/instances/{name}/namespaces", get(namespaces::of_instance))
        .route("/1.0/instances/{name}/sftp", get(files::sftp))
        .route("/1.0/instances/{name}/files", get(files::get).head(files::head).post(files::post).delete(files::delete))
}

fn image_routes() -> Router<Arc<App>> {
    Router::new()
        .route("/1.0/images", get(images::list).post(images::post).layer(DefaultBodyLimit::disable()))
        .route("/1.0/images/aliases", get(images::aliases).post(images::create_alias))
        .route(
            "/1.0/images/aliases/{*name}",
            get(images::alias).delete(images::delete_alias).put(images::put_alias).patch(images::put_alias),
        )
        .route("/1.0/images/{fingerprint}", get(images::get).put(images::put).delete(images::delete))
        .route("/1.0/images/{fingerprint}/export", get(images::export))
}

fn other_routes() -> Router<Arc<App>> {
    Router::new()
        .route("/1.0/networks", get(networks::list))
        .route("/1.0/networks/{name}", get(networks::get))
        .route("/1.0/networks/{name}/state", get(networks::state))
        .route("/1.0/networks/{name}/leases", get(networks::leases))
        .route("/1.0/storage-pools", get(storage::list))
        .route("/1.0/storage-pools/{name}", get(storage::get))
        .route("/1.0/storage-pools/{name}/resources", get(storage::resources))
        .route("/1.0/profiles", get(profiles::list).post(profiles::create))
        .route(
            "/1.0/profiles/{name}",
            get(profiles::get).put(profiles::put).patch(profiles::patch).delete(profiles::delete),
        )
        .route("/1.0/namespaces", get(namespaces::list).post(namespace_objects::create))
        .route("/1.0/namespaces/graph", get(namespaces::draw))
        .route("/1.0/namespaces/gc", post(namespace_objects::gc))
        .route(
            "/1.0/namespaces/{kind}/{name}",
            get(namespaces::get).patch(namespace_objects::patch).delete(namespace_objects::delete),
        )
        .route("/1.0/projects", get(projects::list))
        .route("/1.0/projects/{name}", get(projects::get))
        .route("/1.0/warnings", get(root::empty_list))
        .route("/1.0/certificates", get(root::empty_list))
        .route("/1.0/cluster", get(root::cluster))
}
