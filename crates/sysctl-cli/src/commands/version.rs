//! `version`.

use serde::Serialize;

use crate::context::Context;
use crate::failure::Result;

#[derive(Serialize)]
struct Versions {
    client: &'static str,
    server: String,
}

/// The client's version is told even when there is no daemon.
pub(crate) async fn run(cx: &Context) -> Result {
    let server = match cx.client.get_server().await {
        Ok(server) => {
            let environment = server.value.environment;
            format!("{} {}", environment.server, environment.server_version)
        }
        Err(_) => "unreachable".to_owned(),
    };
    cx.object(&Versions { client: env!("CARGO_PKG_VERSION"), server })
}
