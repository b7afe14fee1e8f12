//! Calls that are streams: exec, events, files.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod fake;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fake::{Fake, error, operation, switch, sync, websocket};
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use sysctl_api::{ExecPost, Operation};
use sysctl_client::{Attributes, Error, EventFilter, FileKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Mutex, mpsc};
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn exec_connects_every_stream_and_returns_the_code() {
    let (heard, mut hears) = mpsc::unbounded_channel::<String>();
    let fake = Fake::start(move |seen, request| {
        let heard = heard.clone();
        async move {
            let Some(request) = request else {
                return match seen.line.as_str() {
                    "POST /1.0/instances/web1/exec" => {
                        operation(json!({"id": "x", "class": "websocket", "status_code": 103,
                        "metadata": {"fds": {"0": "s0", "1": "s1", "2": "s2", "control": "sc"}}}))
                    }
                    "GET /1.0/operations/x/wait" => {
                        sync(json!({"id": "x", "status_code": 200, "metadata": {"return": 42}}))
                    }
                    other => error(404, other),
                };
            };
            let secret = seen.line.rsplit('=').next().expect("a secret").to_owned();
            websocket(request, move |mut socket| async move {
                if let "s1" | "s2" = secret.as_str() {
                    socket.send(Message::Ping("keepalive".into())).await.expect("a ping");
                    socket.send(Message::binary(format!("out of {secret}"))).await.expect("output");
                    socket.send(Message::text("")).await.expect("the end");
                }
                while let Some(Ok(message)) = socket.next().await {
                    if !matches!(message, Message::Pong(_)) {
                        let _ = heard.send(format!("{secret} {message:?}"));
                    }
                }
            })
        }
    });
    let post = ExecPost { command: vec!["cat".into()], ..ExecPost::default() };
    let mut exec = fake.client.exec_instance("web1", &post).await.expect("streams");
    assert_eq!(fake.seen()[0].json()["wait-for-websocket"], true);
    exec.control.signal(15).await.expect("a signal");
    exec.control.resize(120, 50).await.expect("a size");
    exec.stdin.write("in".into()).await.expect("input");
    exec.stdin.close().await.expect("the end");
    assert_eq!(exec.stdout.read().await.expect("output").as_deref(), Some(&b"out of s1"[..]));
    assert_eq!(exec.stdout.read().await.expect("the end"), None);
    let mut stderr = exec.stderr.expect("a stream of its own");
    assert_eq!(stderr.read().await.expect("output").as_deref(), Some(&b"out of s2"[..]));
    assert_eq!(fake.client.exec_result(&exec.operation.id).await.expect("a code"), 42);

    let mut messages = Vec::new();
    while messages.len() < 5 {
        messages.push(hears.recv().await.expect("a message"));
    }
    let of = |stream: &str| messages.iter().filter(|m| m.starts_with(stream)).cloned().collect::<Vec<_>>();
    let control = of("sc").join("\n");
    assert!(control.contains(r#""command":"signal""#) || control.contains(r#"\"command\":\"signal\""#), "{control}");
    assert!(control.contains("window-resize") && control.contains("120"), "{control}");
    let input = of("s0");
    assert!(input[0].contains("Binary") && input[1].contains("Text") && input[2].contains("Close"), "{input:?}");
}

/// A server whose program is over once its outputs are connected, with this outcome.
fn over_at_once(outcome: serde_json::Value) -> Fake {
    Fake::start(move |seen, request| {
        let outcome = outcome.clone();
        async move {
            let fds = json!({"fds": {"0": "s0", "1": "s1", "2": "s2", "control": "sc"}});
            match request {
                None if seen.line.starts_with("POST") => {
                    operation(json!({"id": "x", "status_code": 103, "metadata": fds}))
                }
                None => sync(outcome),
                Some(request) if outcome["status_code"] == 200 && seen.line.ends_with(['1', '2']) => {
                    websocket(request, |mut socket| async move {
                        socket.send(Message::text("")).await.expect("the end");
                        while let Some(Ok(_)) = socket.next().await {}
                    })
                }
                Some(_) => error(404, "Operation not found"),
            }
        }
    })
}

#[tokio::test]
async fn a_program_that_is_over_before_its_input_is_connected_has_run() {
    let fake = over_at_once(json!({"id": "x", "status_code": 200, "metadata": {"return": 0}}));
    let mut exec = fake.client.exec_instance("web1", &ExecPost::default()).await.expect("streams");
    assert_eq!(exec.stdout.read().await.expect("the end"), None);
    assert!(exec.stdin.write("x".into()).await.is_err());
    exec.control.signal(15).await.expect("nobody to tell");
    exec.stdin.close().await.expect("closed");
    assert_eq!(fake.client.exec_result("x").await.expect("a code"), 0);
}

#[tokio::test]
async fn why_a_program_could_not_begin_is_told_instead_of_missing_streams() {
    let fake = over_at_once(json!({"id": "x", "status_code": 400, "err": "the instance does not run"}));
    let failed = fake.client.exec_instance("web1", &ExecPost::default()).await.expect_err("a failure");
    assert_eq!(failed.to_string(), "the instance does not run");
}

#[tokio::test]
async fn why_a_program_ended_amid_its_streams_is_told_instead_of_missing_ones() {
    let connected = Arc::new(std::sync::Mutex::new(std::collections::BTreeSet::new()));
    let fake = Fake::start(move |seen, request| {
        let connected = connected.clone();
        async move {
            let metadata = json!({"resume": true, "fds": {"0": "s0", "1": "s1", "2": "s2", "control": "sc"}});
            let is_first = connected.lock().expect("no panic").insert(seen.line.clone());
            match request {
                None if seen.line.starts_with("POST") => {
                    operation(json!({"id": "x", "status_code": 103, "metadata": metadata}))
                }
                None => sync(json!({"id": "x", "status_code": 400, "err": "its stage died early"})),
                // Connected, and then gone without an end.
                Some(request) if is_first => websocket(request, |_| async {}),
                Some(_) => error(404, "Operation not found"),
            }
        }
    });
    let mut exec = fake.client.exec_instance("web1", &ExecPost::default()).await.expect("streams");
    let failed = exec.stdout.read().await.expect_err("a failure");
    assert_eq!(failed.to_string(), "its stage died early");
}

#[tokio::test]
async fn output_that_is_cut_off_is_no_end() {
    let fake = Fake::start(move |_, request| async move {
        let fds = json!({"fds": {"0": "s0", "1": "s1", "2": "s2", "control": "sc"}});
        match request {
            None => operation(json!({"id": "x", "status_code": 103, "metadata": fds})),
            Some(request) => websocket(request, |mut socket| async move {
                socket.send(Message::binary("half")).await.expect("output");
            }),
        }
    });
    let mut exec = fake.client.exec_instance("web1", &ExecPost::default()).await.expect("streams");
    assert_eq!(exec.stdout.read().await.expect("output").as_deref(), Some(&b"half"[..]));
    let cut = exec.stdout.read().await.expect_err("an error");
    assert!(cut.is_disconnect(), "{cut:?}");
}

#[tokio::test]
async fn a_refused_websocket_tells_the_servers_reason() {
    let fake = Fake::start(|_, _| async { error(403, "Invalid websocket secret") });
    let failed = fake.client.get_events(&EventFilter::default()).await.expect_err("refused");
    assert_eq!((failed.status(), failed.to_string().as_str()), (Some(403), "Invalid websocket secret"));
}

#[tokio::test]
async fn events_arrive_in_order_and_end_with_the_daemon() {
    let fake = Fake::start(|_, request| async move {
        websocket(request.expect("an upgrade"), |mut socket| async move {
            for sequence in 1..=2 {
                let event = json!({"type": "lifecycle", "timestamp": "", "metadata": {}, "sequence": sequence});
                socket.send(Message::text(event.to_string())).await.expect("an event");
            }
        })
    });
    let filter = EventFilter { types: vec!["lifecycle".into()], all_projects: true, since: Some(7) };
    let mut events = fake.client.get_events(&filter).await.expect("events");
    assert_eq!(fake.lines(), ["GET /1.0/events?type=lifecycle&all-projects=true&since=7"]);
    for sequence in 1..=2 {
        assert_eq!(events.next().await.expect("an event").expect("one more").sequence, sequence);
    }
    assert!(events.next().await.expect("the end").is_none());
}

#[tokio::test]
async fn progress_of_a_long_operation_is_told_before_its_end() {
    let (end, ended) = mpsc::channel::<()>(1);
    let ended = Arc::new(Mutex::new(ended));
    let fake = Fake::start(move |seen, request| {
        let ended = ended.clone();
        async move {
            if let Some(request) = request {
                return websocket(request, |mut socket| async move {
                    for (id, text) in [("other", "no"), ("x", "Unpacking: 50%")] {
                        let operation = json!({"id": id, "metadata": {"unpack_progress": text}});
                        let event = json!({"type": "operation", "timestamp": "", "metadata": operation});
                        socket.send(Message::text(event.to_string())).await.expect("an event");
                    }
                    while let Some(Ok(_)) = socket.next().await {}
                });
            }
            if seen.line.ends_with("/wait") {
                ended.lock().await.recv().await;
            }
            sync(json!({"id": "x", "status_code": if seen.line.ends_with("/wait") { 200 } else { 103 }}))
        }
    });
    let mut told = Vec::new();
    let running = Operation { id: "x".into(), ..Operation::default() };
    let done = fake.client.follow(&running, Duration::ZERO, |operation| {
        let text = operation.metadata.as_ref().and_then(|m| m.get("unpack_progress")).cloned();
        if text.is_some() {
            let _ = end.try_send(());
        }
        told.push(text);
    });
    assert_eq!(done.await.expect("success").status_code, 200);
    assert_eq!(told, [None, Some(json!("Unpacking: 50%"))]);
}

/// A server of SFTP with one file, which answers reads with at most 10,000 bytes and in reverse where it can.
async fn serve_files(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, file: Arc<Mutex<Vec<u8>>>) {
    let packet = |kind: u8, id: u32, body: &[u8]| {
        let mut packet = (body.len() as u32 + 5).to_be_bytes().to_vec();
        packet.push(kind);
        packet.extend_from_slice(&id.to_be_bytes());
        packet.extend_from_slice(body);
        packet
    };
    while let Ok(length) = stream.read_u32().await {
        let mut request = vec![0; length as usize];
        stream.read_exact(&mut request).await.expect("a packet");
        let word = |at: usize| u32::from_be_bytes(request[at..at + 4].try_into().expect("four bytes"));
        let id = word(1);
        let status = |code: u32| [&code.to_be_bytes()[..], &[0; 8]].concat();
        let answer = match request[0] {
            1 => packet(2, 3, &[]),
            3 if request[9..].starts_with(b"/file") => packet(102, id, b"\0\0\0\x01h"),
            3 => packet(101, id, &[&2_u32.to_be_bytes()[..], b"\0\0\0\x09not there\0\0\0\0"].concat()),
            5 => {
                let offset = u64::from_be_bytes(request[10..18].try_into().expect("eight bytes")) as usize;
                let wanted = (word(18) as usize).min(10_000);
                let file = file.lock().await;
                match file.get(offset..file.len().min(offset + wanted)) {
                    Some(bytes) if !bytes.is_empty() => {
                        packet(103, id, &[&(bytes.len() as u32).to_be_bytes()[..], bytes].concat())
                    }
                    _ => packet(101, id, &status(1)),
                }
            }
            6 => {
                let offset = u64::from_be_bytes(request[10..18].try_into().expect("eight bytes")) as usize;
                let mut file = file.lock().await;
                assert_eq!(offset, file.len(), "writes in order");
                file.extend_from_slice(&request[22..]);
                packet(101, id, &status(0))
            }
            11 => packet(102, id, b"\0\0\0\x01d"),
            12 => {
                let mut file = file.lock().await;
                if file.is_empty() {
                    packet(101, id, &status(1))
                } else {
                    file.clear();
                    let entry = |name: &[u8], mode: u32| {
                        let name = [&(name.len() as u32).to_be_bytes()[..], name, &[0; 4]].concat();
                        [&name[..], &4_u32.to_be_bytes(), &mode.to_be_bytes()].concat()
                    };
                    let entries = [entry(b".", 0o40755), entry(b"z", 0o120777), entry(b"a", 0o40700)].concat();
                    packet(104, id, &[&3_u32.to_be_bytes()[..], &entries].concat())
                }
            }
            _ => packet(101, id, &status(0)),
        };
        stream.write_all(&answer).await.expect("an answer");
    }
}

fn with_files(file: Arc<Mutex<Vec<u8>>>) -> Fake {
    Fake::start(move |_, request| {
        let file = file.clone();
        async move { switch(request.expect("an upgrade"), "sftp", |stream| serve_files(stream, file)) }
    })
}

#[tokio::test]
async fn a_file_comes_whole_from_a_server_that_answers_in_short_pieces() {
    for length in [0, 1, 32 * 1024, 1_000_003] {
        let bytes: Vec<u8> = (0..length as u32).map(|n| (n % 251) as u8).collect();
        let fake = with_files(Arc::new(Mutex::new(bytes.clone())));
        let mut sftp = fake.client.get_instance_sftp("web1").await.expect("a session");
        let mut copy = Vec::new();
        let copied = sftp.read_file(Path::new("/file"), &mut copy).await.expect("the file");
        assert_eq!(copied, length as u64);
        assert!(copy == bytes, "changed on the way, of {length} bytes");
        // The session is where it was: the next call finds its own answer.
        sftp.remove(Path::new("/file")).await.expect("removed");
    }
}

#[tokio::test]
async fn a_file_goes_there_whole_and_a_missing_one_is_told() {
    let file = Arc::new(Mutex::new(Vec::new()));
    let fake = with_files(file.clone());
    let mut sftp = fake.client.get_instance_sftp("web1").await.expect("a session");
    let bytes: Vec<u8> = (0..2_000_001_u32).map(|n| (n % 249) as u8).collect();
    let attributes = Attributes { mode: Some(0o644), ..Attributes::default() };
    let written = sftp.write_file(Path::new("/file"), &mut bytes.as_slice(), &attributes).await.expect("written");
    assert_eq!(written, bytes.len() as u64);
    assert!(*file.lock().await == bytes, "changed on the way");
    let failed = sftp.read_file(Path::new("/none"), &mut Vec::new()).await.expect_err("no such file");
    assert_eq!((failed.status(), failed.to_string().as_str()), (Some(404), "/none: not there"));
    assert!(matches!(failed, Error::File { code: 2, .. }));
}

#[tokio::test]
async fn a_directory_is_listed_sorted_and_without_itself() {
    let fake = with_files(Arc::new(Mutex::new(vec![1])));
    let mut sftp = fake.client.get_instance_sftp("web1").await.expect("a session");
    let entries = sftp.readdir(Path::new("/")).await.expect("entries");
    let seen: Vec<_> = entries.iter().map(|e| (e.name.to_str().expect("a name"), e.attributes.kind())).collect();
    assert_eq!(seen, [("a", FileKind::Directory), ("z", FileKind::Symlink)]);
}
