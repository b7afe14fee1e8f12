//! A blocking client that both daemons are measured by, so that nothing but the daemons differs: one connection that is
//! kept, JSON, operations.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::{Result, act};

/// Longest wait for an answer; a launch on a directory pool takes ten seconds.
const PATIENCE: Duration = Duration::from_secs(120);

/// A connection to a daemon.
#[derive(Debug)]
pub(crate) struct Http {
    socket: PathBuf,
    stream: Option<BufReader<UnixStream>>,
}

impl Http {
    /// One that connects when it is first used.
    pub(crate) fn new(socket: &Path) -> Http {
        Http { socket: socket.to_owned(), stream: None }
    }

    /// Sends a request and reads the whole answer: status and body.
    pub(crate) fn raw(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> Result<(u16, Vec<u8>)> {
        let answer = self.exchange(method, path, headers, body).map_err(act(&format!("{method} {path}")));
        if answer.is_err() {
            self.stream = None;
        }
        answer
    }

    fn exchange(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> std::io::Result<(u16, Vec<u8>)> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let stream = UnixStream::connect(&self.socket)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                self.stream.insert(BufReader::with_capacity(1 << 16, stream))
            }
        };
        let mut request =
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {}\r\n\r\n", body.len())
                .into_bytes();
        request.extend(body);
        stream.get_mut().write_all(&request)?;
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| std::io::Error::other("the connection was closed"))?;
        let (mut length, mut chunked, mut close) = (0, false, false);
        loop {
            line.clear();
            stream.read_line(&mut line)?;
            let text = line.trim_end().to_ascii_lowercase();
            match text.split_once(':').map(|(name, value)| (name, value.trim())) {
                None => break,
                Some(("content-length", value)) => length = value.parse().unwrap_or(0),
                Some(("transfer-encoding", value)) => chunked = value == "chunked",
                Some(("connection", value)) => close = value == "close",
                Some(_) => {}
            }
        }
        let mut answer = Vec::new();
        if chunked {
            loop {
                line.clear();
                stream.read_line(&mut line)?;
                let size = u64::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
                stream.by_ref().take(size).read_to_end(&mut answer)?;
                line.clear();
                stream.read_line(&mut line)?;
                if size == 0 {
                    break;
                }
            }
        } else {
            answer.resize(length, 0);
            stream.read_exact(&mut answer)?;
        }
        if close {
            self.stream = None;
        }
        Ok((status, answer))
    }

    /// The metadata of an answer; an error of the daemon's is one of ours.
    pub(crate) fn ask(&mut self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let (status, answer) = self.raw(method, path, "Content-Type: application/json\r\n", &body)?;
        read(method, path, status, &answer)
    }

    /// The same for what is answered with an operation, which is waited for.
    pub(crate) fn finish(&mut self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let operation = self.ask(method, path, body)?;
        self.ended(&operation)
    }

    /// Waits for an operation.
    pub(crate) fn ended(&mut self, operation: &Value) -> Result<Value> {
        let done = |operation: &Value| operation["status_code"].as_u64().is_none_or(|code| code >= 200);
        let ended = if done(operation) {
            operation.clone()
        } else {
            let id = operation["id"].as_str().unwrap_or_default();
            self.ask("GET", &format!("/1.0/operations/{id}/wait"), &Value::Null)?
        };
        match (ended["status_code"].as_u64(), ended["err"].as_str()) {
            (Some(200) | None, _) => Ok(ended),
            (_, error) => Err(format!("{}: {}", ended["description"], error.unwrap_or("failed"))),
        }
    }

    /// Starts or stops an instance.
    pub(crate) fn state(&mut self, name: &str, action: &str) -> Result<()> {
        let body = json!({"action": action, "timeout": 30, "force": action == "stop"});
        self.finish("PUT", &format!("/1.0/instances/{name}/state"), &body).map(drop)
    }

    /// Makes an instance; of nothing where there is no image.
    pub(crate) fn create(&mut self, name: &str, image: &str, nic: bool) -> Result<()> {
        self.make(name, image, "default", nic, false, &json!({}))
    }

    /// The same with everything said; `start` lets it run at once.
    pub(crate) fn make(
        &mut self,
        name: &str,
        image: &str,
        pool: &str,
        nic: bool,
        start: bool,
        config: &Value,
    ) -> Result<()> {
        let source = if image.is_empty() { json!({"type": "none"}) } else { json!({"type": "image", "alias": image}) };
        let mut devices = json!({"root": {"type": "disk", "path": "/", "pool": pool}});
        if !nic {
            devices["eth0"] = json!({"type": "none"});
        }
        let body = json!({"name": name, "type": "container", "source": source, "profiles": ["default"], "start": start,
            "devices": devices, "config": config});
        self.finish("POST", "/1.0/instances", &body).map(drop)
    }

    /// Removes an instance that is stopped.
    pub(crate) fn delete(&mut self, name: &str) -> Result<()> {
        self.finish("DELETE", &format!("/1.0/instances/{name}"), &Value::Null).map(drop)
    }

    /// The pid of an instance's init.
    pub(crate) fn pid(&mut self, name: &str) -> Result<u32> {
        let state = self.ask("GET", &format!("/1.0/instances/{name}/state"), &Value::Null)?;
        state["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0).ok_or("no pid".into())
    }
}

fn read(method: &str, path: &str, status: u16, answer: &[u8]) -> Result<Value> {
    let value: Value = serde_json::from_slice(answer).map_err(act(&format!("{method} {path}: {status}")))?;
    match value["error"].as_str() {
        Some(error) if !error.is_empty() => Err(format!("{method} {path}: {error}")),
        _ => Ok(value["metadata"].clone()),
    }
}
