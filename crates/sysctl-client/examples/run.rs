//! Runs a program in an instance and copies its output: `cargo run -p sysctl-client --example run -- SOCKET NAME PROGRAM …`

use std::io::Write;
use std::process::ExitCode;

use sysctl_api::ExecPost;
use sysctl_client::{Client, Error, Output};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let (Some(socket), Some(name)) = (words.next(), words.next()) else {
        eprintln!("usage: run SOCKET NAME PROGRAM [ARGUMENT…]");
        return ExitCode::from(2);
    };
    match run(&Client::new(socket), &name, words.collect()).await {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(client: &Client, name: &str, command: Vec<String>) -> Result<i32, Error> {
    let post = ExecPost { command, ..ExecPost::default() };
    let exec = client.exec_instance(name, &post).await?;
    exec.stdin.close().await?;
    let errors = async {
        match exec.stderr {
            Some(stderr) => copy(stderr, std::io::stderr()).await,
            None => Ok(()),
        }
    };
    let (out, err, code) =
        tokio::join!(copy(exec.stdout, std::io::stdout()), errors, client.exec_result(&exec.operation.id));
    out?;
    err?;
    code
}

async fn copy(mut from: Output, mut to: impl Write) -> Result<(), Error> {
    while let Some(bytes) = from.read().await? {
        let local = |source| Error::Local { act: "writing output".into(), source };
        to.write_all(&bytes).map_err(local)?;
        to.flush().map_err(local)?;
    }
    Ok(())
}
