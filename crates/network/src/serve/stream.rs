//! DNS over TCP, for answers that do not fit into a datagram.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::respond::names_limit;
use super::state::{Shared, count};
use super::{forward, slots::Slot};
use crate::dns::{self, Decision, Transport};
use crate::link::LinkName;
use crate::rate::Limiter;
use crate::{Error, Result};

/// How long a connection may be quiet, or take to send a question or to take an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Questions are short; what is longer is none.
const LONGEST_QUESTION: u16 = 1024;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 64;

/// Listens on the gateway's address, for connections that come in by the bridge only: whoever routes packets to that
/// address from elsewhere finds nobody.
pub(super) fn listen(bridge: &LinkName, address: IpAddr) -> Result<TcpListener> {
    let object = SocketAddr::new(address, dns::PORT);
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind_device(Some(bridge.as_str().as_bytes()))?;
        socket.bind(object)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|source| Error::Serving { act: "serve DNS over TCP at", object: object.to_string(), source })
}

/// Accepts connections until the gateway ends.
pub(super) async fn run(listener: TcpListener, shared: Arc<Shared>) {
    let limiter = Arc::new(Mutex::new(names_limit()));
    // Bounded by the slots for connections.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => match shared.connections.take(from.ip()) {
                    Some(slot) => {
                        let (shared, limiter) = (Arc::clone(&shared), Arc::clone(&limiter));
                        connections.spawn(serve(stream, from.ip(), shared, limiter, slot));
                    }
                    None => count(&shared.counts.limited),
                },
                // The client is gone already, or no descriptors are left, which takes a moment to get better.
                Err(_) => sleep(Duration::from_millis(100)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Answers the questions of one connection, one after the other.
async fn serve(
    mut stream: TcpStream,
    from: IpAddr,
    shared: Arc<Shared>,
    limiter: Arc<Mutex<Limiter<IpAddr>>>,
    _slot: Slot,
) {
    while let Ok(Some(question)) = timeout(PATIENCE, read(&mut stream)).await {
        let allowed = limiter.lock().unwrap_or_else(PoisonError::into_inner).allow(from, Instant::now());
        if !allowed {
            count(&shared.counts.limited);
            return;
        }
        let Some(answer) = answer(&question, from, &shared).await else { return };
        let Ok(message) = forward::with_length(&answer) else { return };
        if !matches!(timeout(PATIENCE, stream.write_all(&message)).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// The next question; `None` at the end of the connection or when what comes is no question.
async fn read(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let length = stream.read_u16().await.ok().filter(|length| *length <= LONGEST_QUESTION)?;
    let mut question = vec![0; usize::from(length)];
    stream.read_exact(&mut question).await.ok()?;
    Some(question)
}

async fn answer(question: &[u8], from: IpAddr, shared: &Shared) -> Option<Vec<u8>> {
    match dns::decide(question, &shared.zone(), Transport::Tcp) {
        Decision::Reply(answer) => {
            count(&shared.counts.answered);
            Some(answer)
        }
        Decision::Forward(pending) => {
            let Some(_slot) = shared.questions.take(from) else {
                count(&shared.counts.limited);
                return Some(pending.failure());
            };
            count(&shared.counts.forwarded);
            Some(forward::resolve(&pending, &shared.upstreams()).await)
        }
        Decision::Ignore => None,
    }
}
