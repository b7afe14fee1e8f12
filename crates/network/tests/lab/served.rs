//! A gateway under test, what guests ask it, and name servers behind it.

#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part of it")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::{Arc, mpsc};

use model::Mac;
use network::directory::{self, Directory};
use network::frame::Datagram;
use network::nft::{self, NetworkRules, NicRules};
use network::serve::{Counters, Gateway, GatewayConfig};

use super::{BRIDGE_MAC, Host, PATIENCE, Space, cidr, mac, name};

type Act = Box<dyn FnOnce(&mut Option<Gateway>) + Send>;

/// A gateway in a thread of its own, as it would be in the daemon.
pub struct Served {
    acts: tokio::sync::mpsc::UnboundedSender<Act>,
    pub directory: Arc<Directory>,
}

impl Served {
    pub fn new(host: &Host, upstreams: &[SocketAddr]) -> Served {
        let config = GatewayConfig {
            bridge: name("tstbr0"),
            mac: BRIDGE_MAC,
            mtu: 1500,
            ipv4: Some(cidr("10.9.1.1/24")),
            ipv6: Some(cidr("fd00:9:1::1/64")),
            domain: "lab.test".parse().expect("valid"),
            dhcp: true,
            advertise: true,
            autonomous: false,
            dns: true,
            lease_s: 3600,
            upstreams: upstreams.to_vec(),
        };
        let directory = Arc::new(Directory::new((2..=4).map(|n| directory::Host {
            name: format!("web{n}").parse().expect("valid"),
            mac: mac(n),
            ipv4: Some(Ipv4Addr::new(10, 9, 1, n)),
            ipv6: Some(Ipv6Addr::new(0xfd00, 9, 1, 0, 0, 0, 0, n.into())),
        })));
        let (acts, mut queue) = tokio::sync::mpsc::unbounded_channel::<Act>();
        let (bridge, known) = (host.bridge, Arc::clone(&directory));
        host.space.run(move || {
            // The thread is born in the host's namespace.
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(async move {
                    let mut gateway = Some(Gateway::start(bridge, config, known).expect("a gateway"));
                    while let Some(act) = queue.recv().await {
                        act(&mut gateway);
                    }
                });
            });
        });
        let served = Served { acts, directory };
        served.gateway(|_| ()); // from now on it runs
        served
    }

    pub fn act<T: Send + 'static>(&self, act: impl FnOnce(&mut Option<Gateway>) -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        self.acts.send(Box::new(move |gateway| drop(tell.send(act(gateway))))).expect("the gateway's thread");
        told.recv().expect("the gateway's thread")
    }

    pub fn gateway<T: Send + 'static>(&self, act: impl FnOnce(&Gateway) -> T + Send + 'static) -> T {
        self.act(|gateway| act(gateway.as_ref().expect("running")))
    }

    pub fn counters(&self) -> Counters {
        self.gateway(Gateway::counters)
    }
}

/// Loads our own rules.
pub fn guard(host: &Host) {
    guard_with(host, &[]);
}

pub fn guard_with(host: &Host, nics: &[NicRules]) {
    let network = NetworkRules {
        bridge: name("tstbr0"),
        gateway4: Some(Ipv4Addr::new(10, 9, 1, 1)),
        gateway6: Some("fd00:9:1::1".parse().expect("address")),
        nat4: true,
        nat6: true,
        host_open: false,
        isolated: false,
    };
    let table = "sysctl-test".parse().expect("valid");
    nft::replace(&mut host.space.netfilter(), &table, &[network], nics).expect("made");
}

/// Beside them, a firewall of the host's owner that drops whatever comes in, but for what every such firewall lets in:
/// its own loopback and neighbour discovery, without which there is no IPv6 (RFC 4890).
pub fn close(host: &Host) {
    guard(host);
    host.space.program(&["nft", "add table inet owner"]);
    host.space.program(&["nft", "add chain inet owner in { type filter hook input priority 0; policy drop; }"]);
    host.space.program(&["nft", "add rule inet owner in iif lo accept"]);
    let neighbours = "add rule inet owner in icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept";
    host.space.program(&["nft", neighbours]);
}

pub fn discover(from: Mac, options: &[u8]) -> Vec<u8> {
    let mut payload = vec![1, 1, 6, 0, 1, 2, 3, 4];
    payload.resize(28, 0);
    payload.extend(from.0);
    payload.resize(236, 0);
    payload.extend([0x63, 0x82, 0x53, 0x63]);
    payload.extend(options);
    payload.push(255);
    let datagram = Datagram {
        to_mac: Mac([0xff; 6]),
        from_mac: from,
        to: "255.255.255.255:67".parse().expect("address"),
        from: "0.0.0.0:68".parse().expect("address"),
        payload: &payload,
    };
    datagram.write().expect("short enough")
}

/// The address and the kind of a DHCP answer.
pub fn lease(frame: &[u8]) -> Option<(Ipv4Addr, u8)> {
    let datagram = Datagram::parse(frame).filter(|datagram| datagram.from.port() == 67)?;
    let address: [u8; 4] = datagram.payload.get(16..20)?.try_into().ok()?;
    Some((address.into(), *datagram.payload.get(242)?))
}

/// A question of number 0x0102.
pub fn question(name: &str, kind: u8) -> Vec<u8> {
    let mut bytes = vec![1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, kind, 0, 1]);
    bytes
}

/// An answer's code and last four bytes, which of an address record are the address.
pub fn told(answer: &[u8]) -> (u8, Ipv4Addr) {
    assert_eq!(answer[..2], [1, 2]);
    let last: [u8; 4] = answer[answer.len() - 4..].try_into().expect("four bytes");
    (answer[3] & 15, last.into())
}

pub fn ask(guest: &Space, server: &str, question: &[u8]) -> Vec<u8> {
    let any = if server.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = guest.udp(any);
    socket.connect(server.parse::<SocketAddr>().expect("address")).expect("a route");
    socket.send(question).expect("sent");
    let mut buffer = vec![0; 4096];
    let length = socket.recv(&mut buffer).expect("an answer");
    buffer.truncate(length);
    buffer
}

/// A name server on the host: `answer` makes the reply from the question; an empty one is not sent.
pub fn upstream(host: &Host, answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) -> SocketAddr {
    let socket = host.space.udp("127.0.0.53:0");
    socket.set_read_timeout(None).expect("no timeout");
    let address = socket.local_addr().expect("an address");
    std::thread::spawn(move || serve_datagrams(&socket, answer));
    address
}

pub fn serve_datagrams(socket: &UdpSocket, answer: impl Fn(&[u8]) -> Vec<u8>) {
    let mut buffer = [0; 4096];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        let reply = answer(&buffer[..length]);
        if !reply.is_empty() {
            socket.send_to(&reply, from).expect("sent");
        }
    }
}

/// A reply with one address.
pub fn reply_with(question: &[u8], address: [u8; 4]) -> Vec<u8> {
    let mut reply = question.to_vec();
    reply[2] |= 0x80;
    reply[7] = 1;
    reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    reply.extend(address);
    reply
}

/// Sends a question over a connection and reads the answer.
pub fn ask_by_stream(stream: &mut TcpStream, question: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[&(question.len() as u16).to_be_bytes(), question].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}
