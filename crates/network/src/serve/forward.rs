//! Asking the host's name servers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rustix::rand::{GetRandomFlags, getrandom};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::dns::Pending;

/// How long one server gets for an answer, and again for its longer form. Three servers that say nothing take 6 s, and
/// resolvers commonly ask twice within 10 s.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longer answers by UDP are asked for again by TCP.
const LONGEST_DATAGRAM: usize = 4096;

/// Asks one server after the other until one knows; the answer as the guest gets it.
pub(super) async fn resolve(pending: &Pending, servers: &[SocketAddr]) -> Vec<u8> {
    let mut failed = None;
    for server in servers {
        let Ok(Ok(reply)) = timeout(PATIENCE, by_datagram(pending, *server)).await else { continue };
        let reply = if Pending::is_truncated(&reply) {
            // Without the rest, the cut answer is still an answer: the guest may try by TCP itself.
            timeout(PATIENCE, by_stream(pending, *server)).await.ok().and_then(Result::ok).unwrap_or(reply)
        } else {
            reply
        };
        if !Pending::is_failure(&reply) {
            return pending.deliver(reply);
        }
        failed = Some(reply);
    }
    failed.map_or_else(|| pending.failure(), |reply| pending.deliver(reply))
}

/// A socket of its own for each question: the kernel picks a random port, and lets in nothing from other addresses.
async fn by_datagram(pending: &Pending, server: SocketAddr) -> io::Result<Vec<u8>> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(server).await?;
    let id = random_id()?;
    socket.send(&pending.with_id(id)).await?;
    let mut reply = vec![0; LONGEST_DATAGRAM];
    loop {
        let length = socket.recv(&mut reply).await?;
        // Somebody may guess; only the right answer ends the waiting.
        if pending.is_answered_by(id, &reply[..length]) {
            reply.truncate(length);
            if length == LONGEST_DATAGRAM {
                Pending::mark_truncated(&mut reply);
            }
            return Ok(reply);
        }
    }
}

async fn by_stream(pending: &Pending, server: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let id = random_id()?;
    stream.write_all(&with_length(&pending.with_id(id))?).await?;
    let length = stream.read_u16().await?;
    let mut reply = vec![0; usize::from(length)];
    stream.read_exact(&mut reply).await?;
    if pending.is_answered_by(id, &reply) { Ok(reply) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// A message as it goes over a connection: behind its length (RFC 1035, 4.2.2).
pub(super) fn with_length(message: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok([&length.to_be_bytes(), message].concat())
}

fn random_id() -> io::Result<u16> {
    let mut bytes = [0; 2];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(u16::from_ne_bytes(bytes))
}
