//! The rows about answers: latency and lists, memory with many instances.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread::JoinHandle;

use crate::daemons::run;
use crate::figures::Figures;
use crate::http::Http;
use crate::memory::Memory;
use crate::rows::Field;
use crate::{Options, Result, act, now_ms, tell};

/// Instances that are made for the rows; Incus takes 40 ms for each.
const MANY: usize = 1000;
const MANY_QUICK: usize = 200;

/// Rows 4a, 4b, 4c, 4d, 5b.
pub(crate) fn all(field: &mut Field, options: &Options, scratch: &Path, figures: &mut Figures) -> Result<()> {
    let count = if field.quick { MANY_QUICK } else { MANY };
    tell(&format!("4, 5b: {count} stopped instances"));
    figures.notes.push(format!("4b, 4c, 4d, 5b: with {count} stopped instances"));
    if options.wants(&["4a"]) {
        latency(field, "4a", "/1.0", scratch, figures)?;
    }
    for daemon in &field.daemons {
        let mut http = daemon.http();
        for number in 0..count {
            // Without a NIC: ours keeps an address for each, and a network of 256 addresses has not that many.
            http.create(&format!("l{number}"), "", false)?;
        }
    }
    for (row, path) in [("4b", "/1.0/instances?recursion=1"), ("4c", "/1.0/instances?recursion=2")] {
        if options.wants(&[row]) {
            latency(field, row, path, scratch, figures)?;
        }
    }
    if options.wants(&["4d"]) {
        for _ in 0..if field.quick { 3 } else { 7 } {
            for daemon in &field.daemons {
                let begun = now_ms();
                let done = run(&mut daemon.client(&["list"])?);
                figures.take("4d", daemon.name, done.map(|_| now_ms() - begun));
            }
        }
    }
    if options.wants(&["5b"]) {
        for daemon in &field.daemons {
            figures.put("5b", daemon.name, Memory::of(daemon.pid())?.pss as f64 / 1024.0);
        }
    }
    for daemon in &field.daemons {
        let mut http = daemon.http();
        for number in 0..count {
            http.delete(&format!("l{number}"))?;
        }
    }
    Ok(())
}

fn latency(field: &Field, row: &str, path: &str, scratch: &Path, figures: &mut Figures) -> Result<()> {
    let (_, body) = field.daemons[0].http().raw("GET", path, "", &[])?;
    let replay = Replay::new(&scratch.join("replay"), body)?;
    let mut clients: Vec<(&str, Http)> = vec![("replay", Http::new(&scratch.join("replay")))];
    clients.extend(field.daemons.iter().map(|daemon| (daemon.name, daemon.http())));
    for _ in 0..if field.quick { 3 } else { 10 } {
        for (who, http) in &mut clients {
            // At most a hundred in a row, or half a second of them.
            let until = now_ms() + 500.0;
            for _ in 0..100 {
                let begun = now_ms();
                http.raw("GET", path, "", &[])?;
                figures.put(row, who, now_ms() - begun);
                if now_ms() > until {
                    break;
                }
            }
        }
    }
    drop(clients);
    replay.end()
}

/// Answers every request on one connection with the same bytes: what a Unix socket takes.
struct Replay(JoinHandle<()>);

impl Replay {
    fn new(path: &Path, body: Vec<u8>) -> Result<Replay> {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).map_err(act("bind"))?;
        let mut answer =
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len())
                .into_bytes();
        answer.extend(body);
        Ok(Replay(std::thread::spawn(move || {
            let Ok((mut stream, _)) = listener.accept() else { return };
            let mut request = [0u8; 4096];
            while stream.read(&mut request).is_ok_and(|length| length > 0) && stream.write_all(&answer).is_ok() {}
        })))
    }

    fn end(self) -> Result<()> {
        self.0.join().map_err(|_| "the replay server failed".to_owned())
    }
}
