//! Running programs in instances.

use hyper::Method;
use serde_json::Value;
use sysctl_api::{ExecPost, Operation};

use crate::client::Client;
use crate::error::{Error, Result};
use crate::uri::Uri;
use crate::websocket::{Control, Input, Output, directions};

/// A program that runs, with its streams.
///
/// All streams are to be read at the same time: the program stands still while nobody takes its output. Dropping
/// everything hangs up; the server then ends the program after a moment.
#[derive(Debug)]
pub struct Exec {
    /// Its operation; see [`Client::exec_result`].
    pub operation: Operation,
    /// To its standard input; or the keys of its terminal.
    pub stdin: Input,
    /// From its standard output; or what its terminal shows.
    pub stdout: Output,
    /// From its standard error; `None` on a terminal.
    pub stderr: Option<Output>,
    /// Signals and sizes.
    pub control: Control,
}

impl Client {
    /// Runs a program with its streams connected to this side. What `post` says about streams is filled in here.
    pub async fn exec_instance(&self, name: &str, post: &ExecPost) -> Result<Exec> {
        let post = ExecPost { wait_for_websocket: true, record_output: false, ..post.clone() };
        let uri = Uri::new("/1.0/instances").part(name).part("exec");
        let operation: Operation = self.send(Method::POST, uri, &post, None).await?;
        // All at once: a handshake each is all that stands between the request and the first byte.
        let stream = |fd: &'static str| self.operation_stream(&operation, fd);
        if post.interactive {
            let (control, terminal) = tokio::try_join!(stream("control"), stream("0"))?;
            let (stdin, stdout) = directions("terminal of the program", terminal);
            return Ok(Exec { operation, stdin, stdout, stderr: None, control: Control::new(control) });
        }
        let (control, stdin, stdout, stderr) =
            tokio::try_join!(stream("control"), stream("0"), stream("1"), stream("2"))?;
        let (stdin, _) = directions("input of the program", stdin);
        let (_, stdout) = directions("output of the program", stdout);
        let (_, stderr) = directions("error output of the program", stderr);
        Ok(Exec { operation, stdin, stdout, stderr: Some(stderr), control: Control::new(control) })
    }

    /// Runs a program with its streams going nowhere, and returns its exit code.
    pub async fn exec_instance_silently(&self, name: &str, post: &ExecPost) -> Result<i32> {
        let post = ExecPost { wait_for_websocket: false, record_output: false, interactive: false, ..post.clone() };
        let uri = Uri::new("/1.0/instances").part(name).part("exec");
        let operation: Operation = self.send(Method::POST, uri, &post, None).await?;
        self.exec_result(&operation.id).await
    }

    /// The exit code of a program, once it has ended: its own, or 128 and the number of the signal that ended it.
    pub async fn exec_result(&self, operation: &str) -> Result<i32> {
        let running = Operation { id: operation.to_owned(), ..Operation::default() };
        let ended = self.finish(&running).await?;
        let code = ended.metadata.as_ref().and_then(|metadata| metadata.get("return")).and_then(Value::as_i64);
        code.and_then(|code| i32::try_from(code).ok())
            .ok_or_else(|| Error::protocol("end of the program", "the operation has no \"return\""))
    }

    /// One stream of an operation, by the secret that its metadata has for it.
    pub(crate) async fn operation_stream(&self, operation: &Operation, fd: &str) -> Result<crate::websocket::Socket> {
        let uri = Uri::new("/1.0/operations").part(&operation.id).part("websocket");
        let fds = operation.metadata.as_ref().and_then(|metadata| metadata.get("fds"));
        let secret = fds.and_then(|fds| fds.get(fd)).and_then(Value::as_str);
        let secret = secret.ok_or_else(|| Error::protocol(uri.as_str(), format!("there is no stream {fd:?}")))?;
        self.websocket(uri.query("secret", secret)).await
    }
}
