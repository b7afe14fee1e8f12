//! The server itself, and what its administrator asks of it.

use hyper::Method;
use serde_json::json;
use sysctl_api::Server;

use crate::client::{Client, Nothing, Tagged};
use crate::error::Result;
use crate::uri::Uri;

impl Client {
    /// What the server is and can do.
    pub async fn get_server(&self) -> Result<Tagged<Server>> {
        self.get_tagged(Uri::new("/1.0")).await
    }

    /// Succeeds once the daemon serves requests.
    pub async fn get_ready(&self) -> Result<()> {
        self.get::<Nothing>(Uri::new("/internal/ready")).await.map(drop)
    }

    /// Stops all instances, then the daemon. Returns when that has begun; [`Client::get_events`] ends when it is over.
    pub async fn shutdown(&self) -> Result<()> {
        self.send::<Nothing>(Method::PUT, Uri::new("/internal/shutdown"), &json!({}), None).await.map(drop)
    }
}
