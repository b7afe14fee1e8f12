//! Running programs in instances.

use hyper::Method;
use serde_json::Value;
use sysctl_api::{ExecPost, Operation};

use crate::client::Client;
use crate::error::{Error, Result};
use crate::stream::{Directions, Reach, carry};
use crate::uri::Uri;
use crate::websocket::{Control, Input, Output, Socket};

const INPUT: &str = "input of the program";

/// A program that runs, with its streams.
///
/// All streams are to be read at the same time: the program stands still while nobody takes its output. They outlive the
/// daemon: where the next one can go on, they go on, and not a byte is lost. Dropping everything hangs up; the server then
/// ends the program after a moment.
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
        self.connect_streams(operation, post.interactive).await
    }

    /// Connects to a program that was begun by another client which is gone; see `resume` in the operation's metadata. Its
    /// output goes on after what that client was given.
    pub async fn attach_exec(&self, operation: &str) -> Result<Exec> {
        let operation = self.get_operation(operation).await?;
        if operation.is_final() {
            let (id, description) = (operation.id, operation.description);
            let message = "the program has ended: nothing is left to attach to".to_owned();
            return Err(Error::Operation { id, description, status_code: operation.status_code, message });
        }
        let told =
            |key: &str| operation.metadata.as_ref().and_then(|metadata| metadata.get(key)).and_then(Value::as_bool);
        let (Some(interactive), Some(true)) = (told("interactive"), told("resume")) else {
            return Err(Error::protocol(&operation.description, "it is no program that can be attached to"));
        };
        self.connect_streams(operation, interactive).await
    }

    async fn connect_streams(&self, operation: Operation, interactive: bool) -> Result<Exec> {
        let reach = Reach::new(self, &operation, None);
        // All at once: a handshake each is all that stands between the request and the first byte.
        let stream = |fd: &'static str| reach.open(fd, None);
        if interactive {
            let (control, terminal) = tokio::join!(stream("control"), stream("0"));
            let control = Control::new(&reach, self.unless_over(&operation, control).await?);
            let (stdin, stdout) = match terminal {
                Ok(terminal) => carry(&reach, "0", "terminal of the program", Directions::Both, terminal),
                Err(error) => return Err(self.why_refused(&operation, error).await),
            };
            return Ok(Exec { operation, stdin, stdout, stderr: None, control });
        }
        let (control, stdin, stdout, stderr) = tokio::join!(stream("control"), stream("0"), stream("1"), stream("2"));
        let (stdout, stderr) = match (stdout, stderr) {
            (Ok(stdout), Ok(stderr)) => (stdout, stderr),
            (Err(error), _) | (_, Err(error)) => return Err(self.why_refused(&operation, error).await),
        };
        let control = Control::new(&reach, self.unless_over(&operation, control).await?);
        let stdin = match self.unless_over(&operation, stdin).await? {
            Some(stdin) => carry(&reach, "0", INPUT, Directions::Input, stdin).0,
            None => Input::new(INPUT, None),
        };
        let (_, stdout) = carry(&reach, "1", "output of the program", Directions::Output, stdout);
        let (_, stderr) = carry(&reach, "2", "error output of the program", Directions::Output, stderr);
        Ok(Exec { operation, stdin, stdout, stderr: Some(stderr), control })
    }

    /// A stream to a program, unless it has ended before that could be connected: a short one does.
    async fn unless_over(&self, operation: &Operation, stream: Result<Socket>) -> Result<Option<Socket>> {
        match stream {
            Ok(socket) => Ok(Some(socket)),
            Err(error) if error.status() == Some(404) => match self.why_refused(operation, error).await {
                Error::Api { status: 404, .. } => Ok(None),
                why => Err(why),
            },
            Err(error) => Err(error),
        }
    }

    /// Of an operation that has failed, the streams are not found: its own error says more.
    pub(crate) async fn why_refused(&self, operation: &Operation, refused: Error) -> Error {
        if refused.status() != Some(404) {
            return refused;
        }
        match self.get_operation(&operation.id).await {
            Ok(found) if found.is_final() => self.finish(&found).await.err().unwrap_or(refused),
            _ => refused,
        }
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
}
