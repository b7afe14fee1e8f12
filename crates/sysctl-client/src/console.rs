//! Consoles of instances.

use hyper::Method;
use sysctl_api::{ConsolePost, Operation};

use crate::client::{Client, Nothing};
use crate::error::Result;
use crate::stream::{Directions, Reach, carry};
use crate::uri::Uri;
use crate::websocket::{Control, Input, Output};

/// A console that is looked at. It outlives the daemon: what is kept of what was shown meanwhile follows. Dropping it lets it
/// go.
#[derive(Debug)]
pub struct Console {
    /// Its operation.
    pub operation: Operation,
    /// Keys.
    pub input: Input,
    /// What it shows from now on.
    pub output: Output,
    /// Sizes.
    pub control: Control,
}

fn console(name: &str) -> Uri {
    Uri::new("/1.0/instances").part(name).part("console")
}

impl Client {
    /// Connects to the console of a running instance.
    pub async fn console_instance(&self, name: &str, post: &ConsolePost) -> Result<Console> {
        let operation: Operation = self.send(Method::POST, console(name), post, None).await?;
        let reach = Reach::new(self, &operation, Some((name.to_owned(), post.clone())));
        let (control, terminal) = tokio::try_join!(reach.open("control", None), reach.open("0", None))?;
        let (input, output) = carry(&reach, "0", "console", Directions::Both, terminal);
        Ok(Console { operation, input, output, control: Control::new(&reach, Some(control)) })
    }

    /// What a console has shown so far.
    pub async fn get_instance_console_log(&self, name: &str) -> Result<Vec<u8>> {
        self.get_bytes(console(name)).await
    }

    /// Forgets what a console has shown.
    pub async fn delete_instance_console_log(&self, name: &str) -> Result<()> {
        self.delete::<Nothing>(console(name)).await.map(drop)
    }
}
