//! Network namespaces for tests: each lives in a thread of its own and ends with it. Nothing of the host is touched.
//!
//! Needs root and fails without it, on purpose: a network test that does not run proves nothing.

#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part of it")]

pub mod served;

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc;
use std::time::Duration;

use kernel::packet;
use kernel::seccomp::Instruction;
use model::{Cidr, Mac, NicSpec};
use network::link::{self, BridgeSpec, VethSpec};
use network::netlink::Socket;

/// What a test may wait for at most. Only a failure lasts that long.
pub const PATIENCE: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace, empty but for a loopback link that is down.
pub struct Space {
    jobs: mpsc::Sender<Job>,
    netns: OwnedFd,
}

impl Space {
    pub fn new() -> Space {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            kernel::netns::enter_new().expect("a new network namespace: these tests need root");
            tell.send(kernel::netns::current().expect("the namespace's descriptor")).expect("the maker waits");
            for job in queue {
                job();
            }
        });
        Space { jobs, netns: told.recv().expect("the namespace's thread") }
    }

    /// Runs `job` in the namespace.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        let job = move || drop(tell.send(std::panic::catch_unwind(std::panic::AssertUnwindSafe(job))));
        self.jobs.send(Box::new(job)).expect("the namespace's thread");
        match told.recv().expect("the namespace's thread") {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    pub fn netns(&self) -> BorrowedFd<'_> {
        self.netns.as_fd()
    }

    /// A routing socket that speaks for the namespace, wherever it is used.
    pub fn route(&self) -> Socket {
        self.run(|| Socket::route().expect("a routing socket"))
    }

    /// A firewall socket that speaks for the namespace, wherever it is used.
    pub fn netfilter(&self) -> Socket {
        self.run(|| Socket::netfilter().expect("a netfilter socket"))
    }

    /// Runs an installed program in the namespace and returns what it prints.
    pub fn program(&self, argv: &[&str]) -> String {
        let argv: Vec<String> = argv.iter().map(|word| (*word).to_owned()).collect();
        self.run(move || {
            // The child inherits the namespace of the thread that makes it.
            let output = std::process::Command::new(&argv[0]).args(&argv[1..]).output().expect("the program");
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{argv:?}: {error}");
            String::from_utf8_lossy(&output.stdout).into_owned()
        })
    }

    pub fn setting(&self, key: &str) -> String {
        let path = format!("/proc/sys/{key}");
        self.run(move || std::fs::read_to_string(&path).expect(&path).trim().to_owned())
    }

    /// Whether a TCP connection to `to` comes about within the time.
    pub fn connects(&self, to: SocketAddr, within: Duration) -> bool {
        self.run(move || TcpStream::connect_timeout(&to, within).is_ok())
    }

    pub fn listen(&self, on: SocketAddr) -> TcpListener {
        self.run(move || TcpListener::bind(on).expect("a listener"))
    }

    pub fn udp(&self, on: &str) -> UdpSocket {
        let on: SocketAddr = on.parse().expect("an address");
        let socket = self.run(move || UdpSocket::bind(on).expect("a socket"));
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket
    }
}

/// A host with one bridge.
pub struct Host {
    pub space: Space,
    pub socket: Socket,
    pub bridge: u32,
    pub spec: BridgeSpec,
}

pub const BRIDGE_MAC: Mac = Mac([0x0a, 0x5c, 0x71, 0, 0, 1]);

pub fn cidr(text: &str) -> Cidr {
    text.parse().expect(text)
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect(text)
}

pub fn name(text: &str) -> link::LinkName {
    text.parse().expect(text)
}

pub fn bridge_spec() -> BridgeSpec {
    BridgeSpec {
        name: name("tstbr0"),
        alias: "test network".parse().expect("alias"),
        mac: BRIDGE_MAC,
        addresses: vec![cidr("10.9.1.1/24"), cidr("fd00:9:1::1/64")],
        mtu: 1500,
    }
}

impl Host {
    pub fn new() -> Host {
        let space = Space::new();
        let socket = space.route();
        let spec = bridge_spec();
        let bridge = space.run({
            let spec = spec.clone();
            move || link::ensure_bridge(&mut Socket::route().expect("socket"), &spec).expect("a bridge")
        });
        space.program(&["ip", "link", "set", "lo", "up"]);
        Host { space, socket, bridge, spec }
    }

    /// Makes guest number `n` (from 2 on): addresses 10.9.1.n and fd00:9:1::n, hardware address ending in n.
    pub fn guest(&mut self, n: u8) -> Guest {
        let space = Space::new();
        let nic = nic(n);
        let spec = veth_spec(n, self.bridge, space.netns());
        let index = link::attach_veth(&mut self.socket, &spec).expect("a veth");
        link::configure_guest(&mut space.route(), &nic).expect("addresses");
        link::settle(&mut self.socket, &host_name(n)).expect("a look");
        Guest { space, nic, host_name: host_name(n), index }
    }
}

pub struct Guest {
    pub space: Space,
    pub nic: NicSpec,
    pub host_name: link::LinkName,
    pub index: u32,
}

/// Sends from and receives on a guest's `eth0`.
pub struct Wire {
    socket: OwnedFd,
    index: u32,
}

impl Wire {
    pub fn new(guest: &Guest) -> Wire {
        let index = link::find(&mut guest.space.route(), &name("eth0")).expect("a look").expect("eth0").index;
        let everything = [Instruction { code: 0x06, jump_true: 0, jump_false: 0, value: 0xffff }];
        let socket = guest
            .space
            .run(move || packet::open(index, packet::EVERY_TYPE, packet::Side::In, &everything).expect("a socket"));
        Wire { socket, index }
    }

    pub fn send(&self, frame: &[u8]) {
        packet::send(self.socket.as_fd(), self.index, frame).expect("sent");
    }

    /// The next frame; waits for it, but not for ever.
    pub fn receive(&self) -> Vec<u8> {
        self.receive_within(PATIENCE).expect("a frame in time")
    }

    /// The next frame that comes within the time.
    pub fn receive_within(&self, time: Duration) -> Option<Vec<u8>> {
        let mut ready = [rustix::event::PollFd::new(&self.socket, rustix::event::PollFlags::IN)];
        let time = rustix::event::Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
        if rustix::event::poll(&mut ready, Some(&time)) != Ok(1) {
            return None;
        }
        let mut buffer = vec![0; 2048];
        let (_, length) =
            rustix::net::recv(&self.socket, buffer.as_mut_slice(), rustix::net::RecvFlags::empty()).expect("a frame");
        buffer.truncate(length);
        Some(buffer)
    }

    /// The first of the frames to come that `pick` makes something of.
    pub fn wait_for<T>(&self, pick: impl Fn(&[u8]) -> Option<T>) -> T {
        loop {
            if let Some(picked) = pick(&self.receive()) {
                return picked;
            }
        }
    }
}

pub fn host_name(n: u8) -> link::LinkName {
    name(&format!("tst{n}"))
}

pub fn mac(n: u8) -> Mac {
    Mac([0x0a, 0x5c, 0x71, 0, 1, n])
}

pub fn nic(n: u8) -> NicSpec {
    NicSpec {
        device: "eth0".parse().expect("name"),
        guest_name: "eth0".to_owned(),
        plug: model::Plug::Network("tstbr0".parse().expect("name")),
        mac: mac(n),
        mtu: None,
        ipv4: Some(cidr(&format!("10.9.1.{n}/24"))),
        ipv6: Some(cidr(&format!("fd00:9:1::{n}/64"))),
        gateway4: Some("10.9.1.1".parse().expect("address")),
        gateway6: Some("fd00:9:1::1".parse().expect("address")),
        spoofing: false,
        limits: model::NicLimits::default(),
    }
}

pub fn veth_spec(n: u8, bridge: u32, netns: BorrowedFd<'_>) -> VethSpec<'_> {
    VethSpec {
        host_name: host_name(n),
        alias: format!("test guest {n}").parse().expect("alias"),
        bridge: Some(bridge),
        guest_netns: netns,
        guest_name: name("eth0"),
        mac: mac(n),
        mtu: 1500,
        learns: false,
        isolated: false,
    }
}
