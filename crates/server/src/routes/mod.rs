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
mod table;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::App;
use crate::error::ApiError;

pub(crate) use events::Texts;
pub use table::Change;
use table::{Table, on};

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
    let [server, instances, images, others, operations, holding] = tables().map(|table| table.router);
    let taken_up = axum::middleware::from_fn_with_state(app.clone(), once_taken_up);
    let looked = axum::middleware::from_fn_with_state(app.clone(), once_looked);
    router
        .merge(server)
        .merge(operations.route_layer(taken_up))
        .merge(holding.route_layer(looked))
        .merge(instances)
        .merge(images)
        .merge(others)
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

/// Every request that changes something.
pub(crate) fn changes() -> Vec<Change> {
    tables().into_iter().flat_map(|table| table.changes).collect()
}

fn tables() -> [Table; 6] {
    [server_routes(), instance_routes(), image_routes(), other_routes(), operation_routes(), routes_of_what_holds()]
}

fn server_routes() -> Table {
    const NOTHING: &str = "the server has no keys of its own";
    Table::default()
        .at("/", on().get(root::versions))
        .at(
            "/1.0",
            on().get(root::get).untold(Method::PUT, NOTHING, root::put).untold(Method::PATCH, NOTHING, root::put),
        )
        .at("/1.0/", on().get(root::get))
        .at("/1.0/events", on().get(events::listen))
        .at(
            "/1.0/doctor",
            on().get(doctor::get).untold(Method::POST, "GET tells what is not as it should be", doctor::repair),
        )
        .at("/internal/ready", on().get(internal::ready))
        .at(
            "/internal/shutdown",
            on().untold(Method::PUT, "PUT /1.0/instances tells it of a stop of all", internal::shutdown),
        )
}

fn operation_routes() -> Table {
    Table::default()
        .at("/1.0/operations", on().get(operations::list))
        .at(
            "/1.0/operations/{id}",
            on().get(operations::get).untold(Method::DELETE, "how far it is by then nobody knows", operations::cancel),
        )
        .at("/1.0/operations/{id}/wait", on().get(operations::wait))
        .at("/1.0/operations/{id}/websocket", on().get(operations::websocket))
}

/// An operation of a former daemon is not missing: it may be one of a program that is being taken up.
async fn once_taken_up(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    app.sessions_taken_up().await;
    next.run(request).await
}

/// Only who runs it knows what a program does.
const PROGRAMS: &str = "only the program knows what it does";
const FILES: &str = "files are the guest's, which changes them at any time";
const CONSOLE: &str = "what the console has is the guest's";

fn instance_routes() -> Table {
    Table::default()
        .at(
            "/1.0/instances",
            on().get(instances::list).told(Method::POST, instances::create).told(Method::PUT, state::put_all),
        )
        .at("/1.0/containers", on().get(instances::list))
        .at(
            "/1.0/instances/{name}",
            on().get(instances::get)
                .told(Method::PUT, instances::put)
                .told(Method::PATCH, instances::patch)
                .told(Method::DELETE, instances::delete),
        )
        .at("/1.0/instances/{name}/state", on().get(state::get).told(Method::PUT, state::put))
        .at("/1.0/instances/{name}/limits/hits", on().get(limits::hits))
        .at("/1.0/instances/{name}/autoscale", on().get(autoscale::get))
        .at("/1.0/instances/{name}/pressure", on().get(limits::pressure))
        .at("/1.0/instances/{name}/exec", on().untold(Method::POST, PROGRAMS, exec::post))
        .at(
            "/1.0/instances/{name}/console",
            on().get(console::log).untold(Method::POST, CONSOLE, console::post).untold(
                Method::DELETE,
                CONSOLE,
                console::clear,
            ),
        )
        .at("/1.0/instances/{name}/namespaces", on().get(namespaces::of_instance))
        .at("/1.0/instances/{name}/sftp", on().get(files::sftp))
        .at(
            "/1.0/instances/{name}/files",
            on().get(files::get).head(files::head).untold(Method::POST, FILES, files::post).untold(
                Method::DELETE,
                FILES,
                files::delete,
            ),
        )
}

/// What is told of limits as they hold.
fn routes_of_what_holds() -> Table {
    Table::default()
        .at("/1.0/load", on().get(limits::load))
        .at("/1.0/metrics", on().get(metrics::get))
        .at("/1.0/instances/{name}/limits", on().get(limits::get).told(Method::PATCH, limits::patch))
        .at("/1.0/instances/{name}/explain", on().get(explain::get))
}

/// A daemon that has just begun knows what runs before it knows how each is limited.
async fn once_looked(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    app.engine.looked().await;
    next.run(request).await
}

fn image_routes() -> Table {
    const IMAGES: &str = "what an image holds is known once it is read";
    const NAMES: &str = "it is a name and nothing else, which has no steps";
    Table::default()
        .at("/1.0/images", on().get(images::list).untold(Method::POST, IMAGES, images::post).of_any_size())
        .at("/1.0/images/aliases", on().get(images::aliases).untold(Method::POST, NAMES, images::create_alias))
        .at(
            "/1.0/images/aliases/{*name}",
            on().get(images::alias)
                .untold(Method::DELETE, NAMES, images::delete_alias)
                .untold(Method::PUT, NAMES, images::put_alias)
                .untold(Method::PATCH, NAMES, images::put_alias),
        )
        .at(
            "/1.0/images/{fingerprint}",
            on().get(images::get)
                .untold(Method::PUT, "it is words about an image, which has no steps", images::put)
                .untold(Method::DELETE, "which layers go is seen when nobody needs them any more", images::delete),
        )
        .at("/1.0/images/{fingerprint}/export", on().get(images::export))
}

fn other_routes() -> Table {
    Table::default()
        .at("/1.0/networks", on().get(networks::list).told(Method::POST, networks::create))
        .at(
            "/1.0/networks/{name}",
            on().get(networks::get)
                .told(Method::PUT, networks::put)
                .told(Method::PATCH, networks::patch)
                .told(Method::DELETE, networks::delete),
        )
        .at("/1.0/networks/{name}/state", on().get(networks::state))
        .at("/1.0/networks/{name}/leases", on().get(networks::leases))
        .at("/1.0/storage-pools", on().get(storage::list))
        .at("/1.0/storage-pools/{name}", on().get(storage::get))
        .at("/1.0/storage-pools/{name}/resources", on().get(storage::resources))
        .at("/1.0/profiles", on().get(profiles::list).told(Method::POST, profiles::create))
        .at(
            "/1.0/profiles/{name}",
            on().get(profiles::get)
                .told(Method::PUT, profiles::put)
                .told(Method::PATCH, profiles::patch)
                .told(Method::DELETE, profiles::delete),
        )
        .at("/1.0/namespaces", on().get(namespaces::list).told(Method::POST, namespace_objects::create))
        .at("/1.0/namespaces/graph", on().get(namespaces::draw))
        .at("/1.0/namespaces/gc", on().told(Method::POST, namespace_objects::gc))
        .at(
            "/1.0/namespaces/{kind}/{name}",
            on().get(namespaces::get)
                .told(Method::PATCH, namespace_objects::patch)
                .told(Method::DELETE, namespace_objects::delete),
        )
        .at("/1.0/projects", on().get(projects::list))
        .at("/1.0/projects/{name}", on().get(projects::get))
        .at("/1.0/warnings", on().get(root::empty_list))
        .at("/1.0/certificates", on().get(root::empty_list))
        .at("/1.0/cluster", on().get(root::cluster))
}
