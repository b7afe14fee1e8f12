//! The gateway of one network: the loops that carry questions to the pure parts and answers back.
//!
//! ```text
//!   guest ── veth ── bridge ──┬── packet socket ── DHCP, RA, DNS over UDP ──┐
//!                             │                                             ├── directory, host's name servers
//!                             └── INPUT chain ──── DNS over TCP ────────────┘
//! ```
//!
//! The packet socket sees frames before any firewall does. The kernel sees the same frames and would answer questions a
//! second time, with "port unreachable": our own `guests` chain drops them, after the packet socket has its copy (see
//! `nft/rules.rs`). Binding sockets instead would fail wherever the host runs a name server, or take its port from it.
//!
//! This is the only module with an event loop. Everything here is bounded: tasks and descriptors by `slots`,
//! questions per guest by [`crate::rate`], messages by their buffers.

mod forward;
mod packets;
mod respond;
mod slots;
mod state;
mod stream;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use kernel::packet;
use model::{Cidr, Mac};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::{AbortHandle, JoinSet};

use crate::directory::{Directory, Domain};
use crate::link::LinkName;
use crate::{Error, Result, filter};
use state::Shared;

pub use state::Counters;

/// What the gateway of a network is and does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayConfig {
    /// Name of the bridge.
    pub bridge: LinkName,
    /// Hardware address of the bridge.
    pub mac: Mac,
    /// Largest packet on it, in bytes.
    pub mtu: u32,
    /// The host's IPv4 address on it, with the network's prefix length.
    pub ipv4: Option<Cidr>,
    /// The host's IPv6 address on it, with the network's prefix length.
    pub ipv6: Option<Cidr>,
    /// Domain of the guests.
    pub domain: Domain,
    /// Answer DHCP; needs `ipv4`.
    pub dhcp: bool,
    /// Advertise the IPv6 route; needs `ipv6`.
    pub advertise: bool,
    /// Guests may make themselves an address in the IPv6 prefix; see [`crate::ra`].
    pub autonomous: bool,
    /// Answer DNS, and tell guests so.
    pub dns: bool,
    /// How long a DHCP answer may be relied on, in seconds.
    pub lease_s: u32,
    /// Name servers for names that are not ours, in the order in which to ask; see [`crate::resolv`].
    pub upstreams: Vec<SocketAddr>,
}

impl GatewayConfig {
    /// The addresses at which DNS is served.
    fn served(&self) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
        let address = |cidr: Option<Cidr>| cidr.filter(|_| self.dns).map(|cidr| cidr.address);
        let ipv4 = address(self.ipv4).and_then(|address| if let IpAddr::V4(v4) = address { Some(v4) } else { None });
        let ipv6 = address(self.ipv6).and_then(|address| if let IpAddr::V6(v6) = address { Some(v6) } else { None });
        (ipv4, ipv6)
    }
}

/// A running gateway. Dropping it ends all its loops, connections and questions under way.
#[derive(Debug)]
pub struct Gateway {
    shared: Arc<Shared>,
    packets: AbortHandle,
    degraded: Vec<Error>,
    // Ends its tasks when dropped.
    _tasks: JoinSet<()>,
}

impl Gateway {
    /// Starts the gateway on the bridge with that index, in the calling thread's network namespace. Must be called
    /// inside a tokio runtime.
    ///
    /// That DNS over TCP cannot be served (something else has the port) is no failure but told by
    /// [`Gateway::degraded`].
    pub fn start(bridge: u32, config: GatewayConfig, directory: Arc<Directory>) -> Result<Gateway> {
        let (ipv4, ipv6) = config.served();
        let socket = packet::open(bridge, packet::EVERY_TYPE, packet::Side::In, &filter::program(ipv4, ipv6))
            .map_err(|errno| Error::Socket { what: "packet", errno })?;
        // Room for some 1,300 questions that come at once; the memory is only used while they wait. A smaller one will
        // do.
        let _ = set_socket_recv_buffer_size_force(&socket, 1 << 20);
        let socket = watch(socket).map_err(|source| Error::Serving {
            act: "watch the packet socket of",
            object: config.bridge.to_string(),
            source,
        })?;

        let mut degraded = Vec::new();
        let mut listeners = Vec::new();
        for address in ipv4.map(IpAddr::V4).into_iter().chain(ipv6.map(IpAddr::V6)) {
            match stream::listen(&config.bridge, address) {
                Ok(listener) => listeners.push(listener),
                Err(error) => degraded.push(error),
            }
        }
        let shared = Arc::new(Shared::new(config, directory));
        let mut tasks = JoinSet::new();
        let packets = tasks.spawn(packets::run(socket, bridge, Arc::clone(&shared)));
        for listener in listeners {
            tasks.spawn(stream::run(listener, Arc::clone(&shared)));
        }
        Ok(Gateway { shared, packets, degraded, _tasks: tasks })
    }

    /// Changes the name servers for names that are not ours, from the next question on.
    pub fn set_upstreams(&self, upstreams: &[SocketAddr]) {
        self.shared.set_upstreams(upstreams);
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        self.shared.counters()
    }

    /// What could not be offered, and why.
    pub fn degraded(&self) -> &[Error] {
        &self.degraded
    }

    /// Whether questions are still answered; not so after the bridge is gone.
    pub fn is_running(&self) -> bool {
        !self.packets.is_finished()
    }
}

/// What the packet loop waits for: frames, and the end of the bridge, which is told as an error.
const EVENTS: Interest = Interest::READABLE.add(Interest::ERROR);

/// Lets the event loop tell when there is something to read.
#[allow(
    deprecated,
    reason = "the successor is unsafe because of types that may close their descriptor; OwnedFd does not"
)]
fn watch(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(socket, EVENTS)
}

/// Sends a frame.
fn send(socket: &AsyncFd<OwnedFd>, bridge: u32, frame: &[u8]) -> io::Result<()> {
    packet::send(socket.get_ref().as_fd(), bridge, frame).map_err(io::Error::from)
}
