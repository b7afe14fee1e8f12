//! The table of everything that can be asked for. Whoever adds a change says there whether it can be told ahead.
//!
//! Whoever asks by `?plan=1` what a change would do must not have it done: a handler that cannot tell is not even called.

use axum::Router;
use axum::extract::Request;
use axum::handler::Handler;
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter};
use std::sync::Arc;

use crate::App;
use crate::error::ApiError;
use crate::request::{Query, parse_query};

/// A request that changes something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its method.
    pub method: Method,
    /// Its path, with `{words}` for what it is about.
    pub path: &'static str,
    /// Why nobody can tell ahead what it does; `None` where its handler does.
    pub untold: Option<&'static str>,
}

/// What can be asked of one path.
pub(super) struct On {
    methods: MethodRouter<Arc<App>>,
    changes: Vec<(Method, Option<&'static str>)>,
}

/// Nothing yet.
pub(super) fn on() -> On {
    On { methods: MethodRouter::new(), changes: Vec::new() }
}

fn filter(method: &Method) -> MethodFilter {
    MethodFilter::try_from(method.clone()).unwrap_or_else(|_| unreachable!("a method that HTTP itself has"))
}

impl On {
    /// Reads.
    pub(super) fn get<H: Handler<T, Arc<App>>, T: 'static>(self, handler: H) -> On {
        On { methods: self.methods.get(handler), ..self }
    }

    /// Reads without a body.
    pub(super) fn head<H: Handler<T, Arc<App>>, T: 'static>(self, handler: H) -> On {
        On { methods: self.methods.head(handler), ..self }
    }

    /// Changes something; the handler answers `?plan=1` by telling what.
    pub(super) fn told<H: Handler<T, Arc<App>>, T: 'static>(mut self, method: Method, handler: H) -> On {
        let methods = self.methods.on(filter(&method), handler);
        self.changes.push((method, None));
        On { methods, ..self }
    }

    /// Changes something, and nobody can tell ahead what: `why`.
    pub(super) fn untold<H: Handler<T, Arc<App>>, T: 'static>(
        mut self,
        method: Method,
        why: &'static str,
        handler: H,
    ) -> On {
        let refuse = move |request: Request, next: Next| refuse_plan(request, next, why);
        let guarded = axum::routing::on(filter(&method), handler).route_layer(axum::middleware::from_fn(refuse));
        let methods = self.methods.merge(guarded);
        self.changes.push((method, Some(why)));
        On { methods, ..self }
    }

    /// With a body of any size.
    pub(super) fn of_any_size(self) -> On {
        On { methods: self.methods.layer(axum::extract::DefaultBodyLimit::disable()), ..self }
    }
}

async fn refuse_plan(request: Request, next: Next, why: &'static str) -> Response {
    // Read as handlers read it: one that is written in another way asks the same.
    let asks = match parse_query(request.uri().query().unwrap_or_default()) {
        Some(values) => Query::of(values).is_on("plan"),
        None => return ApiError::bad("the query can't be read").into_response(),
    };
    if asks {
        let text = format!("what {} {} would do cannot be told ahead: {why}", request.method(), request.uri().path());
        return ApiError::new(StatusCode::NOT_IMPLEMENTED, text).into_response();
    }
    next.run(request).await
}

/// Paths, and what can be asked of each.
#[derive(Default)]
pub(super) struct Table {
    pub(super) router: Router<Arc<App>>,
    pub(super) changes: Vec<Change>,
}

impl Table {
    pub(super) fn at(mut self, path: &'static str, on: On) -> Table {
        let change = |(method, untold)| Change { method, path, untold };
        self.changes.extend(on.changes.into_iter().map(change));
        Table { router: self.router.route(path, on.methods), ..self }
    }
}
