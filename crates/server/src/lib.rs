//! Routes: decode, one engine call, encode. It decides nothing but status codes, and those in one file.

mod error;
mod execs;
mod filter;
mod listen;
mod pace;
mod pumps;
mod render;
mod reply;
mod request;
mod routes;
mod sftp;
mod told;

#[cfg(test)]
mod fuzz;

use std::sync::Arc;
use std::time::Instant;

use engine::{Access, Engine};
use tokio::sync::{Notify, watch};

pub use listen::serve;
pub use routes::Change;

/// Every request that changes something, and whether what it would do is told ahead by `?plan=1`.
pub fn changes() -> Vec<Change> {
    routes::changes()
}

/// What a server is made with.
#[derive(Debug, Clone, Default)]
pub struct ServerInfo {
    /// Version of the daemon.
    pub version: String,
    /// Host name.
    pub host_name: String,
    /// Distribution and its version.
    pub os: (String, String),
    /// Path of the socket, for people.
    pub socket: String,
    /// A path whose requests panic, for tests of what happens then; empty for none.
    pub panic_at: String,
}

/// What every route has at hand.
pub struct App {
    engine: Engine,
    access: Arc<dyn Access>,
    info: ServerInfo,
    execs: execs::Execs,
    told: told::Told,
    texts: routes::Texts,
    /// The programs of a former daemon are taken up.
    is_taken_up: watch::Sender<bool>,
    /// Somebody asked the daemon to end, after stopping its instances.
    shutdown: Arc<Notify>,
    started: Instant,
}

impl App {
    /// The application.
    pub fn new(engine: Engine, access: Arc<dyn Access>, info: ServerInfo, shutdown: Arc<Notify>) -> Arc<App> {
        let (execs, told, texts, is_taken_up) = Default::default();
        Arc::new(App { engine, access, info, execs, told, texts, is_taken_up, shutdown, started: Instant::now() })
    }

    /// Goes on with the programs that a former daemon began. To be called once; requests about operations wait for it.
    pub async fn take_up_sessions(self: &Arc<App>) {
        execs::take_up(self).await;
        self.is_taken_up.send_replace(true);
    }

    /// Returns once every program of a former daemon has its operation again.
    async fn sessions_taken_up(&self) {
        // The sender is ours: it does not go away.
        let _ = self.is_taken_up.subscribe().wait_for(|is| *is).await;
    }
}
